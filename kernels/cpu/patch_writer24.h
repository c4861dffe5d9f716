// Writing a patch (patch24.h) from its rows' swaps, whoever knows them.
//
// Changes is where they come from: EachSwap(changes, row, fn) calls fn(group, in, out) for each swap of a row, groups
// ascending, in and out positions in the group. It is called on several threads, and several times.
#pragma once

#include "patch24.h"

namespace maskserve {
namespace {

// Steps that a lane needs: its swaps and their fillers.
struct LaneCounter24 {
  uint32_t steps;
  int64_t group;

  void operator()(int64_t at, unsigned, unsigned) {
    steps += static_cast<uint32_t>(1 + (at - group) / kMaxGap24);
    group = at;
  }
};

// A window before it is written: the rows in the order of their lanes, and the steps of its slices.
struct WindowPlan24 {
  int64_t slices, bytes;
  uint8_t rows[kWindowRows24];
  uint32_t steps[kWindowSlices24];
};

// rows ← 0 … count − 1, those with most steps first; equal ones stay in order. Byte by byte from the lowest.
MS_INLINE void SortLongestFirst24(uint8_t* rows, const uint32_t* steps, int64_t count) {
  uint32_t longest = 0;
  for (int64_t r = 0; r < count; ++r) {
    rows[r] = static_cast<uint8_t>(r);
    longest |= steps[r];
  }
  for (int shift = 0; shift < 32 && longest >> shift != 0; shift += 8) {
    uint16_t places[257] = {0};
    uint8_t before[kWindowRows24];
    memcpy(before, rows, static_cast<size_t>(count));
    for (int64_t r = 0; r < count; ++r) ++places[256 - (steps[r] >> shift & 255)];
    for (int digit = 1; digit <= 256; ++digit) places[digit] = static_cast<uint16_t>(places[digit] + places[digit - 1]);
    for (int64_t i = 0; i < count; ++i) rows[places[255 - (steps[before[i]] >> shift & 255)]++] = before[i];
  }
}

template <typename Changes>
void PlanWindow24(WindowPlan24* plan, const Changes& changes, int64_t n, int64_t window) {
  const int64_t count = WindowRows24(n, window);
  uint32_t steps[kWindowRows24];
  for (int64_t r = 0; r < count; ++r) {
    LaneCounter24 counter = {0, 0};
    Changes::EachSwap(changes, window * kWindowRows24 + r, counter);
    steps[r] = counter.steps;
  }
  memset(plan, 0, sizeof(*plan));
  SortLongestFirst24(plan->rows, steps, count);
  plan->slices = CeilDiv(count, kSliceRows24);
  plan->bytes = WindowHeadBytes24(plan->slices);
  for (int64_t s = 0; s < plan->slices; ++s) {
    plan->steps[s] = steps[plan->rows[s * kSliceRows24]];
    plan->bytes += plan->steps[s] * kStepBytes24;
  }
}

// Fills one lane of a slice of zeros.
struct LaneWriter24 {
  uint8_t* step;
  int64_t lane, group;
  const uint16_t* row;  // of the dense weights
  bool finite;

  void Put(unsigned code) {
    const uint16_t word = static_cast<uint16_t>(code);
    memcpy(step + 4 * kSliceRows24 + 2 * lane, &word, 2);
  }
  void operator()(int64_t at, unsigned in, unsigned out) {
    for (; at - group >= kMaxGap24; group += kMaxGap24, step += kStepBytes24) Put(kMaxGap24 << 4);
    const uint16_t weights[2] = {row[4 * at + in], static_cast<uint16_t>(row[4 * at + out] ^ 0x8000u)};
    memcpy(step + 4 * lane, weights, 4);
    Put(static_cast<unsigned>(at - group) << 4 | out << 2 | in);
    group = at;
    step += kStepBytes24;
    finite &= (weights[1] & 0x7f80u) != 0x7f80u;
  }
};

// -1, or a row of which a weight that goes out is infinite or not a number: nothing that is added later takes it out of
// a sum.
template <typename Changes>
int64_t WriteWindow24(uint8_t* out, const WindowPlan24& plan, const Changes& changes, const uint16_t* w, int64_t n,
                      int64_t k, int64_t window) {
  memset(out, 0, static_cast<size_t>(plan.bytes));
  memcpy(out, plan.steps, static_cast<size_t>(plan.slices) * 4);
  memcpy(out + plan.slices * 4, plan.rows, static_cast<size_t>(plan.slices * kSliceRows24));
  uint8_t* steps = out + WindowHeadBytes24(plan.slices);
  int64_t bad = -1;
  for (int64_t at = 0; at < WindowRows24(n, window); ++at) {
    const int64_t slice = at / kSliceRows24, lane = at % kSliceRows24, row = window * kWindowRows24 + plan.rows[at];
    LaneWriter24 writer = {steps, lane, 0, w + row * k, true};
    Changes::EachSwap(changes, row, writer);
    if (!writer.finite) bad = row;
    if (lane == kSliceRows24 - 1) steps += plan.steps[slice] * kStepBytes24;
  }
  return bad;
}

constexpr int64_t kPlanColumns24 = 1 << 20;  // elements of the matrix a task

// bytes ← of the whole patch. `table` (windows + 1), unless NULL, gets where each window begins.
template <typename Changes>
ms_status SizePatch24(ms_context* ctx, const Changes& changes, int64_t n, int64_t k, uint32_t* table, int64_t* bytes) {
  const int64_t windows = Windows24(n);
  int64_t units = 0;
  auto size = [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      WindowPlan24 plan;
      PlanWindow24(&plan, changes, n, i);
      __atomic_fetch_add(&units, PatchUnits24(plan.bytes), __ATOMIC_RELAXED);
      if (table != NULL) table[i + 1] = static_cast<uint32_t>(PatchUnits24(plan.bytes));
    }
  };
  ParallelRanges(ctx, windows, Max(1, kPlanColumns24 / (k * kWindowRows24)), size);
  *bytes = PatchTableBytes24(n) + units * kPatchUnit24;
  if (units > static_cast<int64_t>(UINT32_MAX)) {
    return Fail(ctx, MS_BAD_DATA,
                "expected a patch of less than 128 GiB for one matrix but received changes of %lld bytes; compact this "
                "mask instead",
                static_cast<long long>(*bytes));
  }
  if (table == NULL) return MS_OK;
  table[0] = 0;
  for (int64_t i = 0; i < windows; ++i) table[i + 1] += table[i];
  return MS_OK;
}

// Fills a patch of exactly the bytes that SizePatch24 gave. `patch` begins at a multiple of 4.
template <typename Changes>
ms_status WritePatch24(ms_context* ctx, void* patch, int64_t bytes, const Changes& changes, const uint16_t* w,
                       int64_t n, int64_t k) {
  uint8_t* out = static_cast<uint8_t*>(patch);
  const int64_t windows = Windows24(n), table_bytes = PatchTableBytes24(n);
  // Room for the table comes first: a patch too short for it can't be of the right size either.
  int64_t needed = table_bytes;
  uint32_t* table = bytes < table_bytes ? NULL : reinterpret_cast<uint32_t*>(out + sizeof(PatchHeader24));
  const ms_status status = SizePatch24(ctx, changes, n, k, table, &needed);
  if (status != MS_OK) return status;
  if (needed != bytes) {
    return Fail(ctx, MS_BAD_DATA, "expected patch of exactly patchBytes24 = %lld bytes but received %lld",
                static_cast<long long>(needed), static_cast<long long>(bytes));
  }
  const int64_t table_end = static_cast<int64_t>(sizeof(PatchHeader24)) + (windows + 1) * 4;
  memset(out + table_end, 0, static_cast<size_t>(table_bytes - table_end));
  int64_t bad = -1;
  auto write = [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      WindowPlan24 plan;
      PlanWindow24(&plan, changes, n, i);
      uint8_t* to = out + table_bytes + table[i] * kPatchUnit24;
      const int64_t row = WriteWindow24(to, plan, changes, w, n, k, i);
      if (row >= 0) __atomic_store_n(&bad, row, __ATOMIC_RELAXED);
    }
  };
  ParallelRanges(ctx, windows, Max(1, kPlanColumns24 / (k * kWindowRows24)), write);
  // Last, so that a patch that failed names no matrix.
  const PatchHeader24 header = {bad < 0 ? kPatchMagic24 : 0, n, k, bytes};
  memcpy(out, &header, sizeof(header));
  if (bad < 0) return MS_OK;
  return Fail(ctx, MS_BAD_DATA,
              "expected finite weights where the patch takes some out but received another in row %lld; compact this "
              "mask instead",
              static_cast<long long>(bad));
}

}  // namespace
}  // namespace maskserve
