// Patches (patch24.h) and codes of 2:4 matrices, made from metadata when a task is loaded.

#include "packed24.h"
#include "patch_writer24.h"
#include "pick24.h"
#include "rows24.h"

namespace maskserve {
namespace {

typedef GroupRows24<const uint8_t, const uint16_t> Rows24;

constexpr int64_t kTaskColumns = 1 << 18;

int64_t RowsOfTask24(int64_t k) {
  return Max(1, kTaskColumns / (k * kGroupRows24)) * kGroupRows24;
}

// Where a child's metadata (N, K/8) differs from what its compacted parent holds.
struct MetaChanges24 {
  Packed24 parent;
  const uint8_t* child;

  template <typename Fn>
  MS_INLINE void EachSwap(const MetaChanges24& changes, int64_t r, int64_t first, int64_t end, Fn& fn) {
    const int64_t k = changes.parent.k, last = Min(k, 4 * end);
    const Rows24 row = changes.parent.From(r);
    const uint8_t* child = changes.child + r * (k / 8);
    for (int64_t i = 4 * first; i < last; i += kBlock24) {
      const uint8_t* meta = Rows24::Any(row, 0, i).meta;
      const int64_t bytes = Min(kBlock24, k - i) / 8;
      if (bytes == 8 && LoadMeta(meta) == LoadMeta(child + i / 8)) continue;
      for (int64_t b = 0; b < bytes; ++b) {
        const unsigned from = meta[b], to = child[i / 8 + b];
        if (from == to) continue;
        SwapsOfGroup24(i / 4 + 2 * b, from & 15, to & 15, fn);
        SwapsOfGroup24(i / 4 + 2 * b + 1, from >> 4, to >> 4, fn);
      }
    }
  }
};

// Refuses metadata that names no patterns.
ms_status CheckMeta24(ms_context* ctx, const uint8_t* meta, int64_t n, int64_t k) {
  auto nothing = [](int64_t) {};
  return EachRow24(ctx, meta, n, k, RowsOfTask24(k), nothing);
}

}  // namespace

namespace ISA {

ms_status PatchBytes24(ms_context* ctx, ms_weights packed, const uint8_t* meta, int64_t n, int64_t k, int64_t* bytes) {
  if (packed.type != MS_BF16) return FailType(ctx, "packed", packed.type);
  const ms_status status = CheckMeta24(ctx, meta, n, k);
  if (status != MS_OK) return status;
  const MetaChanges24 changes = {{static_cast<const uint8_t*>(packed.values), n, k}, meta};
  return SizePatch24(ctx, changes, n, k, NULL, bytes);
}

ms_status BuildPatch24(ms_context* ctx, void* patch, int64_t bytes, ms_weights packed, ms_weights w,
                       const uint8_t* meta, int64_t n, int64_t k) {
  if (packed.type != MS_BF16) return FailType(ctx, "packed", packed.type);
  if (w.type != MS_BF16) return FailType(ctx, "w", w.type);
  const ms_status status = CheckMeta24(ctx, meta, n, k);
  if (status != MS_OK) return status;
  const MetaChanges24 changes = {{static_cast<const uint8_t*>(packed.values), n, k}, meta};
  return WritePatch24(ctx, patch, bytes, changes, static_cast<const uint16_t*>(w.values), n, k);
}

ms_status Nibbles24(ms_context* ctx, uint8_t* meta, ms_weights packed, int64_t n, int64_t k) {
  if (packed.type != MS_BF16) return FailType(ctx, "packed", packed.type);
  const Packed24 matrix = {static_cast<const uint8_t*>(packed.values), n, k};
  auto body = [&](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; ++r) {
      const Rows24 row = matrix.From(r);
      for (int64_t i = 0; i < k; i += kBlock24) {
        memcpy(meta + (r * k + i) / 8, Rows24::Any(row, 0, i).meta, static_cast<size_t>(Min(kBlock24, k - i) / 8));
      }
    }
  };
  ParallelRanges(ctx, n, RowsOfTask24(k), body);
  return MS_OK;
}

}  // namespace ISA
}  // namespace maskserve
