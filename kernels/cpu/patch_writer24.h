// Writing a patch (patch24.h) from its rows' swaps, whoever knows them.
//
// Changes is where they come from: EachSwap(changes, row, first, end, fn) calls fn(group, in, out) for each swap of a
// row's groups [first, end), ascending; in and out are positions in the group. It is called on several threads, and
// several times.
#pragma once

#include "patch24.h"

namespace maskserve {
namespace {

MS_INLINE unsigned Kept24(unsigned nibble) {
  return 1u << (nibble & 3) | 1u << (nibble >> 2);
}

// fn(group, in, out) for each swap between two nibbles. A parent's that names no pattern, which compress24 never
// writes, may keep less than two.
template <typename Fn>
MS_INLINE void SwapsOfGroup24(int64_t group, unsigned parent, unsigned child, Fn& fn) {
  unsigned in = Kept24(child) & ~Kept24(parent), out = Kept24(parent) & ~Kept24(child);
  for (; in != 0 && out != 0; in &= in - 1, out &= out - 1) {
    fn(group, static_cast<unsigned>(__builtin_ctz(in)), static_cast<unsigned>(__builtin_ctz(out)));
  }
}

struct LaneCounter24 {
  uint32_t steps;

  void operator()(int64_t, unsigned, unsigned) { ++steps; }
};

// A window before it is written: the rows in the order of their lanes, and the steps of its slices.
struct WindowPlan24 {
  int64_t all_steps;
  uint8_t rows[kWindowRows24];
  uint16_t steps[kWindowSlices24];
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
void PlanWindow24(WindowPlan24* plan, const Changes& changes, const WindowPlace24& place) {
  uint32_t steps[kWindowRows24];
  for (int64_t r = 0; r < place.rows; ++r) {
    LaneCounter24 counter = {0};
    Changes::EachSwap(changes, place.row + r, place.group, place.group + kWindowGroups24, counter);
    steps[r] = counter.steps;
  }
  memset(plan, 0, sizeof(*plan));
  SortLongestFirst24(plan->rows, steps, place.rows);
  for (int64_t s = 0; s * kSliceRows24 < place.rows; ++s) {
    plan->steps[s] = static_cast<uint16_t>(steps[plan->rows[s * kSliceRows24]]);
    plan->all_steps += plan->steps[s];
  }
}

// Fills one lane of a slice of zeros.
struct LaneWriter24 {
  uint8_t* step;
  int64_t lane, first_group;
  const uint16_t* row;  // of the dense weights
  bool finite;

  void operator()(int64_t group, unsigned in, unsigned out) {
    const uint16_t pair[2] = {row[4 * group + in], static_cast<uint16_t>(row[4 * group + out] ^ 0x8000u)};
    const uint16_t code = static_cast<uint16_t>((group - first_group) << 4 | out << 2 | in);
    memcpy(step + 4 * lane, pair, 4);
    memcpy(step + kStepCodes24 + 2 * lane, &code, 2);
    step += kStepBytes24;
    finite &= (pair[1] & 0x7f80u) != 0x7f80u;
  }
};

// -1, or a row of which a weight that goes out is infinite or not a number: nothing that is added later takes it out of
// a sum.
template <typename Changes>
int64_t WriteWindow24(uint8_t* head, uint8_t* steps, const WindowPlan24& plan, const Changes& changes,
                      const uint16_t* w, int64_t k, const WindowPlace24& place) {
  const int64_t slices = place.Slices();
  memset(head, 0, static_cast<size_t>(slices * kSliceHeadBytes24));
  memset(steps, 0, static_cast<size_t>(plan.all_steps * kStepBytes24));
  memcpy(head, plan.steps, static_cast<size_t>(slices) * 2);
  int64_t bad = -1;
  for (int64_t at = 0; at < place.rows; ++at) {
    const int64_t slice = at / kSliceRows24, lane = at % kSliceRows24, row = place.row + plan.rows[at];
    head[2 * slices + plan.rows[at]] = static_cast<uint8_t>(at);
    LaneWriter24 writer = {steps, lane, place.group, w + row * k, true};
    Changes::EachSwap(changes, row, place.group, place.group + kWindowGroups24, writer);
    if (!writer.finite) bad = row;
    if (lane == kSliceRows24 - 1) steps += plan.steps[slice] * kStepBytes24;
  }
  return bad;
}

// body(window) for each, in tasks of some elements of the matrix.
template <typename Body>
MS_INLINE void EachWindow24(ms_context* ctx, int64_t n, int64_t k, Body& body) {
  constexpr int64_t kElements = 1 << 20;
  auto piece = [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) body(i);
  };
  ParallelRanges(ctx, Windows24(n, k), Max(1, kElements / (kWindowRows24 * Min(k, kWindowColumns24))), piece);
}

// bytes ← of the whole patch. `table` (windows + 1), unless NULL, gets where each window's steps begin.
template <typename Changes>
ms_status SizePatch24(ms_context* ctx, const Changes& changes, int64_t n, int64_t k, uint32_t* table, int64_t* bytes) {
  const int64_t windows = Windows24(n, k);
  int64_t steps = 0;
  auto size = [&](int64_t i) {
    WindowPlan24 plan;
    PlanWindow24(&plan, changes, WindowPlace24::Of(i, n, k));
    __atomic_fetch_add(&steps, plan.all_steps, __ATOMIC_RELAXED);
    if (table != NULL) table[i + 1] = static_cast<uint32_t>(plan.all_steps);
  };
  EachWindow24(ctx, n, k, size);
  *bytes = PatchLayout24::Of(n, k).steps + steps * kStepBytes24;
  if (steps > static_cast<int64_t>(UINT32_MAX)) {
    return Fail(ctx, MS_BAD_DATA,
                "expected a patch of less than 384 GiB for one matrix but received changes of %lld bytes; compact this "
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
  const PatchLayout24 layout = PatchLayout24::Of(n, k);
  // Room for the table comes first: a patch too short for it can't be of the right size either.
  int64_t needed = layout.steps;
  uint32_t* table = bytes < layout.steps ? NULL : reinterpret_cast<uint32_t*>(out + layout.table);
  const ms_status status = SizePatch24(ctx, changes, n, k, table, &needed);
  if (status != MS_OK) return status;
  if (needed != bytes) {
    return Fail(ctx, MS_BAD_DATA, "expected patch of exactly the %lld bytes that its changes take but received %lld",
                static_cast<long long>(needed), static_cast<long long>(bytes));
  }
  // What lies between the arrays.
  const int64_t table_end = layout.table + (Windows24(n, k) + 1) * 4;
  memset(out + table_end, 0, static_cast<size_t>(layout.heads - table_end));
  const int64_t tail = Min(32, layout.steps - layout.heads);
  memset(out + layout.steps - tail, 0, static_cast<size_t>(tail));
  int64_t bad = -1;
  auto write = [&](int64_t i) {
    const WindowPlace24 place = WindowPlace24::Of(i, n, k);
    WindowPlan24 plan;
    PlanWindow24(&plan, changes, place);
    uint8_t* head = out + layout.heads + PatchLayout24::Head(i, n, k);
    const int64_t row = WriteWindow24(head, out + layout.steps + table[i] * kStepBytes24, plan, changes, w, k, place);
    if (row >= 0) __atomic_store_n(&bad, row, __ATOMIC_RELAXED);
  };
  EachWindow24(ctx, n, k, write);
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
