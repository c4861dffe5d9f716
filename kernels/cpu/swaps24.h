// y += Δ x for one token and a window: the swaps of a patch (patch24.h) against activations picked by
// column. A vector holds a swap of each of 16 rows, so a slice's sums stay in their lanes to its end.
#pragma once

#include "patch24.h"
#include "pick24.h"

namespace maskserve {
namespace {

#if defined(__AVX512BF16__)

// The activations of the groups that eight codes name. In and out of a swap lie in one group, eight bytes: loading
// those one by one is faster than a gather, and codes are cheapest taken out of two words.
MS_INLINE __m512i EightGroups(const uint16_t* x, const uint8_t* codes) {
  uint64_t four[2];
  memcpy(four, codes, sizeof(four));
  const auto group = [&](int i) { return x + 4 * (four[i >> 2] >> (16 * (i & 3) + 4) & (kWindowGroups24 - 1)); };
  const auto pair = [&](int i) {
    const __m128i first = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(group(i)));
    return _mm_castpd_si128(_mm_loadh_pd(_mm_castsi128_pd(first), reinterpret_cast<const double*>(group(i + 1))));
  };
  const __m256i low = _mm256_inserti128_si256(_mm256_castsi128_si256(pair(0)), pair(2), 1);
  const __m256i high = _mm256_inserti128_si256(_mm256_castsi128_si256(pair(4)), pair(6), 1);
  return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}

// A slice is too short for the hardware to follow its stream through the loads between. Two lines cover a step.
MS_INLINE void AskAhead24(const uint8_t* step) {
  const uintptr_t at = reinterpret_cast<uintptr_t>(step) + 4096;
  __builtin_prefetch(reinterpret_cast<const void*>(at), 0, 3);
  __builtin_prefetch(reinterpret_cast<const void*>(at + 64), 0, 3);
}

// sums ← of the 16 rows of a slice.
MS_INLINE void SliceSums24(float* sums, const uint16_t* x, const uint8_t* step, int64_t steps) {
  // Words of lane i: its group is the i-th of two registers of eight.
  const __m512i lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  const __m512i base = _mm512_or_si512(_mm512_slli_epi32(lane, 2), _mm512_slli_epi32(lane, 18));
  const __m512i position = _mm512_set1_epi32(0x30003);
  VF acc = Zero();
  for (; steps > 0; --steps, step += kStepBytes24) {
    AskAhead24(step);
    const uint8_t* codes = step + 4 * kSliceRows24;
    const __m512i code = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes)));
    const __m512i positions = _mm512_and_si512(_mm512_or_si512(code, _mm512_slli_epi32(code, 14)), position);
    const __m512i picked =
        PickWords24(EightGroups(x, codes), EightGroups(x, codes + 16), _mm512_or_si512(base, positions));
    acc = _mm512_dpbf16_ps(acc, (__m512bh)_mm512_loadu_si512(step), (__m512bh)picked);
  }
  Store(sums, acc);
}

#endif

MS_INLINE void SliceSums24(float* sums, const float* x, const uint8_t* step, int64_t steps) {
  for (int i = 0; i < kSliceRows24; ++i) sums[i] = 0;
  for (; steps > 0; --steps, step += kStepBytes24) {
#pragma GCC unroll 16
    for (int i = 0; i < kSliceRows24; ++i) {
      const Swap24 swap = SwapOf24(step, i);
      sums[i] += FloatOfBf16(swap.in_weight) * x[swap.in] + FloatOfBf16(swap.minus_out_weight) * x[swap.out];
    }
  }
}

MS_INLINE float FloatOf(float x) {
  return x;
}
MS_INLINE float FloatOf(uint16_t x) {
  return FloatOfBf16(x);
}

// The same where activations may be infinite or not a number, which what is left of a lane must not multiply.
template <typename X>
void CarefulSliceSums24(float* sums, const X* x, const uint8_t* step, int64_t steps) {
  for (int64_t i = 0; i < kSliceRows24; ++i) sums[i] = 0;
  for (; steps > 0; --steps, step += kStepBytes24) {
    for (int64_t i = 0; i < kSliceRows24; ++i) {
      const Swap24 swap = SwapOf24(step, i);
      if (swap.in == swap.out) continue;
      sums[i] += FloatOfBf16(swap.in_weight) * FloatOf(x[swap.in]);
      sums[i] += FloatOfBf16(swap.minus_out_weight) * FloatOf(x[swap.out]);
    }
  }
}

// y (N), x (K) of one token. `finite`: all of x is.
template <typename X>
void AddWindow24(float* y, const X* x, const Window24& window, bool finite) {
  float* rows = y + window.place.row;
  const X* columns = x + 4 * window.place.group;
  const uint8_t* step = window.Steps();
  for (int64_t slice = 0; slice < window.place.Slices(); ++slice) {
    const int64_t steps = window.StepsOf(slice);
    if (steps == 0) break;  // nor do later ones have any
    alignas(64) float sums[kSliceRows24];
    if (finite) {
      SliceSums24(sums, columns, step, steps);
    } else {
      CarefulSliceSums24(sums, columns, step, steps);
    }
    const uint8_t* row = window.RowsOf(slice);
    const int64_t lanes = Min(kSliceRows24, window.place.rows - slice * kSliceRows24);
    if (lanes == kSliceRows24) {
#pragma GCC unroll 16
      for (int64_t lane = 0; lane < kSliceRows24; ++lane) rows[row[lane]] += sums[lane];
    } else {
      for (int64_t lane = 0; lane < lanes; ++lane) rows[row[lane]] += sums[lane];
    }
    step += steps * kStepBytes24;
  }
}

}  // namespace
}  // namespace maskserve
