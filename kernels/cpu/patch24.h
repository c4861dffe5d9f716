// A patch: what turns the product with one compacted 2:4 matrix (the parent) into the product with another (the child).
// Δ = W ⊙ M_child − W ⊙ M_parent, as swaps: one weight of a group comes in, one goes out; a group whose two weights
// both change has two swaps.
//
// The matrix is cut into windows of 256 rows × 16,384 columns, and the rows of a window, those with most swaps first,
// into slices of 16: one row to each lane of a vector, so that sums need not be taken across lanes (sliced ELLPACK,
// Kreutzer et al., arXiv 1307.6209). A slice is as many steps as its longest row needs; step i holds swap i of each of
// the 16 rows: 16 pairs of bf16 (the weight that comes in, and minus the one that goes out), and 16 uint16 codes,
// position in | position out << 2 | group << 4, the group counted from the window's first. A row's swaps ascend. What
// is left of a lane is zero: it names one position twice, and changes no finite sum.
//
// Behind the header stand three arrays. The table: (windows + 1) uint32, where the steps of a window begin, counted
// over all windows; the windows of the same rows follow each other. The heads, from a multiple of 32 bytes on: for each
// window, its slices' numbers of steps (uint16), and each row's place among the slices' lanes (one byte). The steps,
// from a multiple of 32 bytes on, 96 bytes each. Six bytes a swap and a lane that has ended, and 1.125 a row.
#pragma once

#include "ops.h"

namespace maskserve {
namespace {

constexpr int64_t kWindowRows24 = 256;
constexpr int64_t kWindowGroups24 = 4096;
constexpr int64_t kWindowColumns24 = kWindowGroups24 * 4;
constexpr int64_t kSliceRows24 = 16;
constexpr int64_t kWindowSlices24 = kWindowRows24 / kSliceRows24;
constexpr int64_t kSliceHeadBytes24 = 2 + kSliceRows24;
constexpr int64_t kStepBytes24 = kSliceRows24 * 6, kStepCodes24 = kSliceRows24 * 4;  // of a step; before its codes
constexpr uint64_t kPatchMagic24 = 0x34322d6863746170ull;                            // "patch-24"

struct PatchHeader24 {
  uint64_t magic;
  int64_t n, k, bytes;  // of the whole patch
};

// Windows side by side, and in all.
MS_INLINE int64_t WindowsAcross24(int64_t k) {
  return CeilDiv(k, kWindowColumns24);
}
MS_INLINE int64_t Windows24(int64_t n, int64_t k) {
  return CeilDiv(n, kWindowRows24) * WindowsAcross24(k);
}
// Which part of the matrix a window is.
struct WindowPlace24 {
  int64_t row, rows, group;  // its first row, its rows, its first group

  MS_INLINE WindowPlace24 Of(int64_t window, int64_t n, int64_t k) {
    const int64_t across = WindowsAcross24(k), row = window / across * kWindowRows24;
    return {row, Min(kWindowRows24, n - row), window % across * kWindowGroups24};
  }
  int64_t Slices() const { return CeilDiv(rows, kSliceRows24); }
};

// Where the arrays of a patch begin, in bytes, and the heads of its windows in theirs.
struct PatchLayout24 {
  int64_t table, heads, steps;

  MS_INLINE PatchLayout24 Of(int64_t n, int64_t k) {
    const int64_t table = static_cast<int64_t>(sizeof(PatchHeader24));
    const int64_t heads = CeilDiv(table + (Windows24(n, k) + 1) * 4, 32) * 32;
    const int64_t all = WindowsAcross24(k) * CeilDiv(n, kSliceRows24) * kSliceHeadBytes24;
    return {table, heads, heads + CeilDiv(all, 32) * 32};
  }
  MS_INLINE int64_t Head(int64_t window, int64_t n, int64_t k) {
    const int64_t across = WindowsAcross24(k), before = window / across * across * kWindowSlices24;
    return (before + window % across * WindowPlace24::Of(window, n, k).Slices()) * kSliceHeadBytes24;
  }
};

// One swap by itself; in = out where a lane has ended.
struct Swap24 {
  uint16_t in_weight, minus_out_weight;
  int64_t in, out;  // columns, from the window's first
};

MS_INLINE Swap24 SwapOf24(const uint8_t* step, int64_t lane) {
  Swap24 swap;
  uint16_t code;
  memcpy(&code, step + kStepCodes24 + 2 * lane, 2);
  memcpy(&swap, step + 4 * lane, 4);
  const int64_t column = code >> 4 << 2;
  swap.in = column + (code & 3);
  swap.out = column + (code >> 2 & 3);
  return swap;
}

struct Window24 {
  WindowPlace24 place;
  const uint8_t *head, *steps;

  int64_t StepsOf(int64_t slice) const {
    uint16_t steps_of_slice;
    memcpy(&steps_of_slice, head + 2 * slice, 2);
    return steps_of_slice;
  }
  const uint8_t* Places() const { return head + 2 * place.Slices(); }
};

// A patch whose header has been checked.
struct Patch24 {
  const uint8_t* data;
  int64_t n, k;

  MS_INLINE int64_t FirstStep(const Patch24& patch, int64_t window) {
    uint32_t step;
    memcpy(&step, patch.data + PatchLayout24::Of(patch.n, patch.k).table + window * 4, 4);
    return step;
  }
  MS_INLINE const uint8_t* Step(const Patch24& patch, int64_t step) {
    return patch.data + PatchLayout24::Of(patch.n, patch.k).steps + step * kStepBytes24;
  }
  MS_INLINE Window24 Window(const Patch24& patch, int64_t window) {
    const uint8_t* heads = patch.data + PatchLayout24::Of(patch.n, patch.k).heads;
    return {WindowPlace24::Of(window, patch.n, patch.k), heads + PatchLayout24::Head(window, patch.n, patch.k),
            Step(patch, FirstStep(patch, window))};
  }
};

// fn(swap) for each of one row's in a window; the row counts from the window's first.
template <typename Fn>
MS_INLINE void EachSwapOfRow24(const Window24& window, int64_t row, Fn& fn) {
  const int64_t place = window.Places()[row], slice = place / kSliceRows24;
  int64_t first = 0;
  for (int64_t s = 0; s < slice; ++s) first += window.StepsOf(s);
  for (int64_t i = 0; i < window.StepsOf(slice); ++i) {
    const Swap24 swap = SwapOf24(window.steps + (first + i) * kStepBytes24, place % kSliceRows24);
    if (swap.in != swap.out) fn(swap);
  }
}

// Refuses what build_patch24 has not written for a matrix of this shape.
MS_INLINE ms_status CheckPatch24(ms_context* ctx, const ms_patch24& patch, int64_t n, int64_t k) {
  PatchHeader24 header = {0, 0, 0, 0};
  if (patch.bytes >= static_cast<int64_t>(sizeof(header))) memcpy(&header, patch.data, sizeof(header));
  if (header.magic == kPatchMagic24 && header.n == n && header.k == k && header.bytes >= 0 &&
      patch.bytes >= header.bytes) {
    return MS_OK;
  }
  return Fail(ctx, MS_BAD_DATA,
              "expected patches that buildPatch24 made for a matrix of %lld x %lld but received another",
              static_cast<long long>(n), static_cast<long long>(k));
}

}  // namespace
}  // namespace maskserve
