// Patches (patch24.h) from a list of changed groups: of the parent's metadata and of the weights only they are read, so
// that a task switch costs its changes and not its parameters.

#include "packed24.h"
#include "patch_writer24.h"

namespace maskserve {
namespace {

// How many changes ahead their cache lines are fetched.
constexpr int64_t kFetchAhead24 = 16;

MS_INLINE bool IsPattern24(unsigned nibble) {
  return nibble < 16 && (nibble & 3) < (nibble >> 2);
}

// A checked copy of a list of changes, by row, with the parent's nibbles: the caller's memory may change meanwhile.
struct ListedChanges24 {
  int64_t row_groups;
  uint32_t* first;   // (N + 1): the row's first change
  uint32_t* groups;  // (changes): in their rows
  uint8_t* nibbles;  // (changes): the parent's and, shifted by 4, the child's

  static size_t Bytes(int64_t n, int64_t count) { return static_cast<size_t>(4 * (n + 1) + 5 * count); }

  ListedChanges24(void* memory, int64_t n, int64_t k, int64_t count) {
    row_groups = k / 4;
    first = static_cast<uint32_t*>(memory);
    groups = first + n + 1;
    nibbles = reinterpret_cast<uint8_t*>(groups + count);
  }

  template <typename Fn>
  MS_INLINE void EachSwap(const ListedChanges24& changes, int64_t r, int64_t first, int64_t end, Fn& fn) {
    for (uint32_t i = changes.first[r]; i < changes.first[r + 1]; ++i) {
      if (changes.groups[i] < first || changes.groups[i] >= end) continue;
      SwapsOfGroup24(changes.groups[i], changes.nibbles[i] & 15, changes.nibbles[i] >> 4, fn);
    }
  }
};

ms_status FillChanges24(ms_context* ctx, ListedChanges24& out, const Packed24& parent, const ms_changes24& list) {
  const int64_t groups = parent.n * out.row_groups;
  int64_t last = -1, row = -1;
  for (int64_t i = 0; i < list.count; ++i) {
    if (i + kFetchAhead24 < list.count) {
      __builtin_prefetch(GroupByte24(parent, Min(list.groups[i + kFetchAhead24], groups - 1)));
    }
    const int64_t group = list.groups[i];
    const unsigned code = list.codes[i];
    if (group <= last || group >= groups) {
      return Fail(ctx, MS_BAD_DATA, "expected changed groups to ascend below %lld but received %lld after %lld",
                  static_cast<long long>(groups), static_cast<long long>(group), static_cast<long long>(last));
    }
    if (!IsPattern24(code)) {
      return Fail(ctx, MS_BAD_DATA, "expected codes idx0 | idx1 << 2 with idx0 < idx1 but received %u for group %lld",
                  code, static_cast<long long>(group));
    }
    last = group;
    const int64_t r = group / out.row_groups;
    while (row < r) out.first[++row] = static_cast<uint32_t>(i);
    out.groups[i] = static_cast<uint32_t>(group - r * out.row_groups);
    out.nibbles[i] = static_cast<uint8_t>(GroupNibble24(parent, group) | code << 4);
  }
  while (row < parent.n) out.first[++row] = static_cast<uint32_t>(list.count);
  return MS_OK;
}

// use(changes) with the list read and checked.
template <typename Use>
ms_status WithChanges24(ms_context* ctx, ms_weights packed, const ms_changes24& list, int64_t n, int64_t k, Use& use) {
  if (packed.type != MS_BF16) return FailType(ctx, "packed", packed.type);
  const size_t bytes = ListedChanges24::Bytes(n, list.count);
  void* memory = Scratch(ctx, bytes);
  if (memory == NULL) return FailMemory(ctx, bytes);
  ListedChanges24 changes(memory, n, k, list.count);
  const ms_status status = FillChanges24(ctx, changes, {static_cast<const uint8_t*>(packed.values), n, k}, list);
  return status == MS_OK ? use(changes) : status;
}

}  // namespace

namespace ISA {

ms_status ChangesBytes24(ms_context* ctx, ms_weights packed, ms_changes24 list, int64_t n, int64_t k, int64_t* bytes) {
  auto size = [&](const ListedChanges24& changes) { return SizePatch24(ctx, changes, n, k, NULL, bytes); };
  return WithChanges24(ctx, packed, list, n, k, size);
}

ms_status BuildChanges24(ms_context* ctx, void* patch, int64_t bytes, ms_weights packed, ms_weights w,
                         ms_changes24 list, int64_t n, int64_t k) {
  if (w.type != MS_BF16) return FailType(ctx, "w", w.type);
  auto write = [&](const ListedChanges24& changes) {
    return WritePatch24(ctx, patch, bytes, changes, static_cast<const uint16_t*>(w.values), n, k);
  };
  return WithChanges24(ctx, packed, list, n, k, write);
}

}  // namespace ISA
}  // namespace maskserve
