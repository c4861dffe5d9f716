// y += Δ x for one token and some windows of rows: the swaps of a patch (patch24.h) against activations picked by
// column. A vector holds a swap of each of 16 rows, so a slice's sums stay in their lanes to its end.
#pragma once

#include "patch24.h"
#include "pick24.h"

namespace maskserve {
namespace {

#if defined(__AVX512BF16__)

// The activations of eight groups, numbered at[0] … at[7]: in and out of a swap lie in one group, eight bytes, and
// loading those one by one into their places takes half the time of a gather.
MS_INLINE __m512i EightGroups(const uint16_t* x, const uint32_t* at) {
  const auto load = [&](int i) {
    return _mm_loadl_epi64(reinterpret_cast<const __m128i*>(x + 4 * static_cast<int64_t>(at[i])));
  };
  __m512i groups = _mm512_castsi128_si512(load(0));
#pragma GCC unroll 8
  for (int i = 1; i < 8; ++i) {
    groups = _mm512_mask_broadcastq_epi64(groups, static_cast<__mmask8>(1 << i), load(i));
  }
  return groups;
}

// sums ← of the 16 rows of a slice.
MS_INLINE void SliceSums24(float* sums, const uint16_t* x, const uint8_t* step, int64_t steps) {
  // Words of lane i: its group is the i-th of two registers of eight.
  const __m512i lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  const __m512i base = _mm512_or_si512(_mm512_slli_epi32(lane, 2), _mm512_slli_epi32(lane, 18));
  const __m512i position = _mm512_set1_epi32(0x30003);
  VF acc = Zero();
  __m512i group = _mm512_setzero_si512();
  for (; steps > 0; --steps, step += kStepBytes24) {
    const __m512i code = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(step + 64)));
    group = _mm512_add_epi32(group, _mm512_srli_epi32(code, 4));
    alignas(64) uint32_t at[kSliceRows24];
    _mm512_store_si512(at, group);
    const __m512i positions = _mm512_and_si512(_mm512_or_si512(code, _mm512_slli_epi32(code, 14)), position);
    const __m512i picked = PickWords24(EightGroups(x, at), EightGroups(x, at + 8), _mm512_or_si512(base, positions));
    acc = _mm512_dpbf16_ps(acc, (__m512bh)_mm512_loadu_si512(step), (__m512bh)picked);
  }
  Store(sums, acc);
}

#endif

MS_INLINE void SliceSums24(float* sums, const float* x, const uint8_t* step, int64_t steps) {
  uint32_t group[kSliceRows24] = {0};
  for (int i = 0; i < kSliceRows24; ++i) sums[i] = 0;
  for (; steps > 0; --steps, step += kStepBytes24) {
#pragma GCC unroll 16
    for (int i = 0; i < kSliceRows24; ++i) {
      uint16_t code, weights[2];
      memcpy(&code, step + 4 * kSliceRows24 + 2 * i, 2);
      memcpy(weights, step + 4 * i, 4);
      group[i] += code >> 4;
      const float* at = x + 4 * static_cast<int64_t>(group[i]);
      sums[i] += FloatOfBf16(weights[0]) * at[code & 3] + FloatOfBf16(weights[1]) * at[code >> 2 & 3];
    }
  }
}

MS_INLINE float FloatOf(float x) {
  return x;
}
MS_INLINE float FloatOf(uint16_t x) {
  return FloatOfBf16(x);
}

// The same where activations may be infinite or not a number, which fillers must not multiply.
template <typename X>
void CarefulSliceSums24(float* sums, const X* x, const uint8_t* step, int64_t steps) {
  for (int64_t i = 0; i < kSliceRows24; ++i) {
    sums[i] = 0;
    Lane24 lane = {step, i, steps, 0};
    for (Swap24 swap; lane.Next(&swap);) {
      if (swap.in == swap.out) continue;
      sums[i] += FloatOfBf16(swap.in_weight) * FloatOf(x[swap.in]);
      sums[i] += FloatOfBf16(swap.minus_out_weight) * FloatOf(x[swap.out]);
    }
  }
}

// y (N), x (K) of one token; windows [begin, end). `finite`: all of x is.
template <typename X>
void AddSwaps24(float* y, const X* x, const uint8_t* patch, int64_t begin, int64_t end, int64_t n, bool finite) {
  for (int64_t i = begin; i < end; ++i) {
    const Window24 window = Window24::Of(patch, n, i);
    float* rows = y + i * kWindowRows24;
    const uint8_t* step = window.Steps();
    for (int64_t slice = 0; slice < window.slices; ++slice) {
      const int64_t steps = window.StepsOf(slice);
      if (steps == 0) break;  // nor do later ones have any
      alignas(64) float sums[kSliceRows24];
      if (finite) {
        SliceSums24(sums, x, step, steps);
      } else {
        CarefulSliceSums24(sums, x, step, steps);
      }
      const uint8_t* row = window.RowsOf(slice);
      const int64_t lanes = Min(kSliceRows24, window.rows - slice * kSliceRows24);
      if (lanes == kSliceRows24) {
#pragma GCC unroll 16
        for (int64_t lane = 0; lane < kSliceRows24; ++lane) rows[row[lane]] += sums[lane];
      } else {
        for (int64_t lane = 0; lane < lanes; ++lane) rows[row[lane]] += sums[lane];
      }
      step += steps * kStepBytes24;
    }
  }
}

}  // namespace
}  // namespace maskserve
