// A patch: what turns the product with one compacted 2:4 matrix (the parent) into the product with another (the child).
// Δ = W ⊙ M_child − W ⊙ M_parent, as swaps: one weight of a group comes in, one goes out; a group whose two weights
// both change has two swaps.
//
// The matrix is cut into windows of 256 rows × 16,384 columns, and the rows of a window, those with most swaps first,
// into slices of 16: one row to each lane of a vector, so that sums need not be taken across lanes (sliced ELLPACK,
// Kreutzer et al., arXiv 1307.6209). A slice is as many steps as its longest row needs; step i holds swap i of each of
// the 16 rows: 16 pairs of bf16 (the weight that comes in, and minus the one that goes out), then 16 uint16 codes,
// position in | position out << 2 | group << 4, the group counted from the window's first. A row's swaps ascend. What
// is left of a lane is zero: it names one position twice, and changes no finite sum.
//
// Behind the header, (windows + 1) uint32 say where a window begins, in units of 32 bytes behind this table, which is
// itself padded to 32; the windows of the same rows follow each other. A window is its slices' numbers of steps (uint32
// each), for each lane its row in the window (one byte), padding to 32, and the slices. Some 6.6 bytes a swap, and 1.4
// a row.
#pragma once

#include "ops.h"

namespace maskserve {
namespace {

constexpr int64_t kWindowRows24 = 256;
constexpr int64_t kWindowGroups24 = 4096;
constexpr int64_t kWindowColumns24 = kWindowGroups24 * 4;
constexpr int64_t kSliceRows24 = 16;
constexpr int64_t kWindowSlices24 = kWindowRows24 / kSliceRows24;
constexpr int64_t kStepBytes24 = kSliceRows24 * 6;
constexpr int64_t kPatchUnit24 = 32;
constexpr uint64_t kPatchMagic24 = 0x34322d6863746170ull;  // "patch-24"

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
MS_INLINE int64_t PatchUnits24(int64_t bytes) {
  return CeilDiv(bytes, kPatchUnit24);
}
// Of the header and the table.
MS_INLINE int64_t PatchTableBytes24(int64_t n, int64_t k) {
  return PatchUnits24(static_cast<int64_t>(sizeof(PatchHeader24)) + (Windows24(n, k) + 1) * 4) * kPatchUnit24;
}
// What stands before a window's slices.
MS_INLINE int64_t WindowHeadBytes24(int64_t slices) {
  return PatchUnits24(slices * (4 + kSliceRows24)) * kPatchUnit24;
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

// A window of a patch whose header has been checked.
struct Window24 {
  WindowPlace24 place;
  const uint8_t* data;

  MS_INLINE Window24 Of(const uint8_t* patch, int64_t window, int64_t n, int64_t k) {
    uint32_t unit;
    memcpy(&unit, patch + sizeof(PatchHeader24) + window * 4, 4);
    return {WindowPlace24::Of(window, n, k), patch + PatchTableBytes24(n, k) + unit * kPatchUnit24};
  }
  uint32_t StepsOf(int64_t slice) const {
    uint32_t steps;
    memcpy(&steps, data + 4 * slice, 4);
    return steps;
  }
  const uint8_t* RowsOf(int64_t slice) const { return data + 4 * place.Slices() + kSliceRows24 * slice; }
  const uint8_t* Steps() const { return data + WindowHeadBytes24(place.Slices()); }
};

// One swap by itself; in = out where a lane has ended.
struct Swap24 {
  uint16_t in_weight, minus_out_weight;
  int64_t in, out;  // columns, from the window's first
};

MS_INLINE Swap24 SwapOf24(const uint8_t* step, int64_t lane) {
  Swap24 swap;
  uint16_t code;
  memcpy(&code, step + 4 * kSliceRows24 + 2 * lane, 2);
  memcpy(&swap, step + 4 * lane, 4);
  const int64_t column = code >> 4 << 2;
  swap.in = column + (code & 3);
  swap.out = column + (code >> 2 & 3);
  return swap;
}

// fn(swap) for each of one row's in a window. Slow: it looks for the row.
template <typename Fn>
MS_INLINE void EachSwapOfRow24(const Window24& window, int64_t row, Fn& fn) {
  const uint8_t* step = window.Steps();
  for (int64_t at = 0; at < window.place.rows; ++at) {
    const int64_t slice = at / kSliceRows24, lane = at % kSliceRows24, steps = window.StepsOf(slice);
    if (window.place.row + window.RowsOf(slice)[lane] == row) {
      for (int64_t i = 0; i < steps; ++i) {
        const Swap24 swap = SwapOf24(step + i * kStepBytes24, lane);
        if (swap.in != swap.out) fn(swap);
      }
      return;
    }
    if (lane == kSliceRows24 - 1) step += steps * kStepBytes24;
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
