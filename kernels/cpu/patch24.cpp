// Patches (patch24.h) and codes of 2:4 matrices, made from metadata when a task is loaded.

#include "patch24.h"

#include "packed24.h"
#include "pick24.h"
#include "rows24.h"

namespace maskserve {
namespace {

typedef GroupRows24<const uint8_t, const uint16_t> Rows24;

constexpr int64_t kTaskColumns = 1 << 18;

int64_t RowsOfTask24(int64_t k) {
  return Max(1, kTaskColumns / (k * kGroupRows24)) * kGroupRows24;
}

MS_INLINE unsigned Kept24(unsigned nibble) {
  return 1u << (nibble & 3) | 1u << (nibble >> 2);
}

// fn(byte index of the row's metadata, parent's byte, child's byte) wherever the two rows differ.
template <typename Fn>
MS_INLINE void EachChange24(const Rows24& parent, const uint8_t* child, int64_t k, Fn& fn) {
  for (int64_t i = 0; i < k; i += kBlock24) {
    const uint8_t* meta = Rows24::Any(parent, 0, i).meta;
    const int64_t bytes = Min(kBlock24, k - i) / 8;
    if (bytes == 8 && LoadMeta(meta) == LoadMeta(child + i / 8)) continue;
    for (int64_t b = 0; b < bytes; ++b) {
      if (meta[b] != child[i / 8 + b]) fn(i / 8 + b, meta[b], child[i / 8 + b]);
    }
  }
}

// A parent's nibble that names no pattern, which compress24 never writes, may keep less than two.
MS_INLINE int64_t SwapsOfNibble24(unsigned parent, unsigned child) {
  const unsigned in = Kept24(child) & ~Kept24(parent), out = Kept24(parent) & ~Kept24(child);
  return Min(__builtin_popcount(in), __builtin_popcount(out));
}

// sizes[s] ← bytes of section s of a row.
void SizeSections24(uint32_t* sizes, const Rows24& parent, const uint8_t* child, int64_t k) {
  const int64_t sections = Sections24(k);
  for (int64_t s = 0; s < sections; ++s) sizes[s] = 0;
  auto count = [&](int64_t byte, unsigned from, unsigned to) {
    sizes[byte * 8 / kSectionColumns24] +=
        static_cast<uint32_t>(SwapsOfNibble24(from & 15, to & 15) + SwapsOfNibble24(from >> 4, to >> 4));
  };
  EachChange24(parent, child, k, count);
  for (int64_t s = 0; s < sections; ++s) sizes[s] = static_cast<uint32_t>(SectionBytes24(sizes[s]));
}

// A section being written.
struct SwapWriter24 {
  Swaps24 swaps;
  int64_t i;
  bool finite;

  void Swap(const uint16_t* group, int64_t at, unsigned in, unsigned out) {
    const uint16_t place = static_cast<uint16_t>(at);
    const uint16_t weights[2] = {group[in], static_cast<uint16_t>(group[out] ^ 0x8000u)};
    memcpy(const_cast<uint8_t*>(swaps.pairs) + 4 * i, weights, 4);
    memcpy(const_cast<uint8_t*>(swaps.groups) + 2 * i, &place, 2);
    uint8_t& nibbles = const_cast<uint8_t*>(swaps.nibbles)[i >> 1];
    const unsigned nibble = in | out << 2;
    nibbles = static_cast<uint8_t>((i & 1) == 0 ? nibble : nibbles | nibble << 4);
    ++i;
    finite &= (weights[1] & 0x7f80u) != 0x7f80u;
  }
  void Group(const uint16_t* group, int64_t at, unsigned parent, unsigned child) {
    unsigned in = Kept24(child) & ~Kept24(parent), out = Kept24(parent) & ~Kept24(child);
    for (; in != 0 && out != 0; in &= in - 1, out &= out - 1) {
      Swap(group, at, static_cast<unsigned>(__builtin_ctz(in)), static_cast<unsigned>(__builtin_ctz(out)));
    }
  }
};

// False when a weight that goes out is infinite or not a number: nothing that is added later takes it out of a sum.
bool WriteRow24(const uint8_t* patch, int64_t sections, int64_t first, const Rows24& parent, const uint8_t* child,
                const uint16_t* w, int64_t k) {
  SwapWriter24 writer = {{0, NULL, NULL, NULL}, 0, true};
  int64_t section = -1;
  auto write = [&](int64_t byte, unsigned from, unsigned to) {
    const int64_t column = byte * 8;
    if (column / kSectionColumns24 != section) {
      section = column / kSectionColumns24;
      writer.swaps = SectionSwaps24(patch, sections, first + section);
      writer.i = 0;
    }
    const int64_t at = column % kSectionColumns24 / 4;
    writer.Group(w + column, at, from & 15, to & 15);
    writer.Group(w + column + 4, at + 1, from >> 4, to >> 4);
  };
  EachChange24(parent, child, k, write);
  return writer.finite;
}

}  // namespace

namespace ISA {

ms_status PatchBytes24(ms_context* ctx, ms_weights packed, const uint8_t* meta, int64_t n, int64_t k, int64_t* bytes) {
  if (packed.type != MS_BF16) return FailType(ctx, "packed", packed.type);
  const Packed24 parent = {static_cast<const uint8_t*>(packed.values), n, k};
  int64_t area = 0;
  auto row = [&](int64_t r) {
    int64_t found = 0, section = -1, swaps = 0;
    auto count = [&](int64_t byte, unsigned from, unsigned to) {
      if (byte * 8 / kSectionColumns24 != section) {
        found += SectionBytes24(swaps);
        section = byte * 8 / kSectionColumns24;
        swaps = 0;
      }
      swaps += SwapsOfNibble24(from & 15, to & 15) + SwapsOfNibble24(from >> 4, to >> 4);
    };
    EachChange24(parent.From(r), meta + r * (k / 8), k, count);
    found += SectionBytes24(swaps);
    if (found != 0) __atomic_fetch_add(&area, found, __ATOMIC_RELAXED);
  };
  const ms_status status = EachRow24(ctx, meta, n, k, RowsOfTask24(k), row);
  if (status != MS_OK) return status;
  *bytes = PatchSize24(n, k, area);
  if (area <= static_cast<int64_t>(UINT32_MAX)) return MS_OK;
  return Fail(
      ctx, MS_BAD_DATA,
      "expected a patch of less than 4 GiB for one matrix but received changes of %lld bytes; compact this mask "
      "instead",
      static_cast<long long>(area));
}

ms_status BuildPatch24(ms_context* ctx, void* patch, int64_t bytes, ms_weights packed, ms_weights w,
                       const uint8_t* meta, int64_t n, int64_t k) {
  if (packed.type != MS_BF16) return FailType(ctx, "packed", packed.type);
  if (w.type != MS_BF16) return FailType(ctx, "w", w.type);
  int64_t needed;
  const ms_status status = PatchBytes24(ctx, packed, meta, n, k, &needed);
  if (status != MS_OK) return status;
  if (needed != bytes) {
    return Fail(ctx, MS_BAD_DATA, "expected patch of exactly patchBytes24 = %lld bytes but received %lld",
                static_cast<long long>(needed), static_cast<long long>(bytes));
  }
  const Packed24 parent = {static_cast<const uint8_t*>(packed.values), n, k};
  const int64_t per_row = Sections24(k), sections = n * per_row;
  uint8_t* out = static_cast<uint8_t*>(patch);
  uint32_t* offsets = reinterpret_cast<uint32_t*>(out + sizeof(PatchHeader24));
  auto size = [&](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; ++r) {
      SizeSections24(offsets + 1 + r * per_row, parent.From(r), meta + r * (k / 8), k);
    }
  };
  ParallelRanges(ctx, n, RowsOfTask24(k), size);
  offsets[0] = 0;
  for (int64_t s = 0; s < sections; ++s) offsets[s + 1] += offsets[s];
  int64_t bad = -1;
  auto write = [&](int64_t begin, int64_t end, int) {
    const uint16_t* weights = static_cast<const uint16_t*>(w.values);
    for (int64_t r = begin; r < end; ++r) {
      if (!WriteRow24(out, sections, r * per_row, parent.From(r), meta + r * (k / 8), weights + r * k, k)) {
        __atomic_store_n(&bad, r, __ATOMIC_RELAXED);
      }
    }
  };
  ParallelRanges(ctx, n, RowsOfTask24(k), write);
  // Last, so that a patch that failed names no matrix.
  const PatchHeader24 header = {bad < 0 ? kPatchMagic24 : 0, n, k, offsets[sections]};
  memcpy(out, &header, sizeof(header));
  if (bad < 0) return MS_OK;
  return Fail(ctx, MS_BAD_DATA,
              "expected finite weights where the patch takes some out but received another in row %lld; compact this "
              "mask instead",
              static_cast<long long>(bad));
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
