// A patch: what turns the product with one compacted 2:4 matrix (the parent) into the product with another (the child).
// Δ = W ⊙ M_child − W ⊙ M_parent, as swaps: one weight of a group comes in, one goes out; a group whose two weights
// both change has two swaps.
//
// Rows go in windows of 256, and the rows of a window, those with most swaps first, in slices of 16: one row to each
// lane of a vector, so that sums need not be taken across lanes (sliced ELLPACK, Kreutzer et al., arXiv 1307.6209). A
// slice is as many steps as its longest row needs; step i holds swap i of each of the 16 rows: 16 pairs of bf16 (the
// weight that comes in, and minus the one that goes out), then 16 uint16 codes, position in | position out << 2 |
// gap << 4, where gap counts the groups from the row's swap before (from group 0). A row's swaps ascend. A gap of
// kMaxGap24 or more is bridged by fillers. Fillers, and what is left of a lane, name one position twice and have
// weights of zero: they change no finite sum.
//
// Behind the header, (windows + 1) uint32 say where a window begins, in units of 32 bytes behind this table, which is
// itself padded to 32. A window is its slices' numbers of steps (uint32 each), for each lane its row in the window (one
// byte), padding to 32, and the slices. Some 6.6 bytes a swap, and 1.4 a row.
#pragma once

#include "ops.h"

namespace maskserve {
namespace {

constexpr int64_t kWindowRows24 = 256;
constexpr int64_t kSliceRows24 = 16;
constexpr int64_t kWindowSlices24 = kWindowRows24 / kSliceRows24;
constexpr int64_t kStepBytes24 = kSliceRows24 * 6;
constexpr int64_t kMaxGap24 = 4095;
constexpr int64_t kPatchUnit24 = 32;
constexpr uint64_t kPatchMagic24 = 0x34322d6863746170ull;  // "patch-24"

struct PatchHeader24 {
  uint64_t magic;
  int64_t n, k, bytes;  // of the whole patch
};

MS_INLINE int64_t Windows24(int64_t n) {
  return CeilDiv(n, kWindowRows24);
}
MS_INLINE int64_t WindowRows24(int64_t n, int64_t window) {
  return Min(kWindowRows24, n - window * kWindowRows24);
}
MS_INLINE int64_t PatchUnits24(int64_t bytes) {
  return CeilDiv(bytes, kPatchUnit24);
}
// Of the header and the table.
MS_INLINE int64_t PatchTableBytes24(int64_t n) {
  return PatchUnits24(static_cast<int64_t>(sizeof(PatchHeader24)) + (Windows24(n) + 1) * 4) * kPatchUnit24;
}
// What stands before a window's slices.
MS_INLINE int64_t WindowHeadBytes24(int64_t slices) {
  return PatchUnits24(slices * (4 + kSliceRows24)) * kPatchUnit24;
}

// The window of a patch whose header has been checked.
struct Window24 {
  const uint8_t* data;
  int64_t rows, slices;

  MS_INLINE Window24 Of(const uint8_t* patch, int64_t n, int64_t window) {
    uint32_t unit;
    memcpy(&unit, patch + sizeof(PatchHeader24) + window * 4, 4);
    const int64_t rows = WindowRows24(n, window);
    return {patch + PatchTableBytes24(n) + unit * kPatchUnit24, rows, CeilDiv(rows, kSliceRows24)};
  }
  uint32_t StepsOf(int64_t slice) const {
    uint32_t steps;
    memcpy(&steps, data + 4 * slice, 4);
    return steps;
  }
  const uint8_t* RowsOf(int64_t slice) const { return data + 4 * slices + kSliceRows24 * slice; }
  const uint8_t* Steps() const { return data + WindowHeadBytes24(slices); }
};

// One swap by itself. Of a filler, in = out.
struct Swap24 {
  uint16_t in_weight, minus_out_weight;
  int64_t in, out;  // columns
};

// The swaps and fillers of one lane, in order.
struct Lane24 {
  const uint8_t* step;
  int64_t lane, left, group;

  bool Next(Swap24* swap) {
    if (left == 0) return false;
    uint16_t code;
    memcpy(&code, step + 4 * kSliceRows24 + 2 * lane, 2);
    memcpy(swap, step + 4 * lane, 4);
    group += code >> 4;
    swap->in = 4 * group + (code & 3);
    swap->out = 4 * group + (code >> 2 & 3);
    step += kStepBytes24;
    --left;
    return true;
  }
};

// Where row r's swaps are. Slow: it looks for the row.
MS_INLINE Lane24 LaneOfRow24(const uint8_t* patch, int64_t n, int64_t r) {
  const Window24 window = Window24::Of(patch, n, r / kWindowRows24);
  const uint8_t* steps = window.Steps();
  for (int64_t at = 0; at < window.rows; ++at) {
    const int64_t slice = at / kSliceRows24, lane = at % kSliceRows24;
    if (window.RowsOf(slice)[lane] == r % kWindowRows24) return {steps, lane, window.StepsOf(slice), 0};
    if (lane == kSliceRows24 - 1) steps += window.StepsOf(slice) * kStepBytes24;
  }
  return {steps, 0, 0, 0};
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
