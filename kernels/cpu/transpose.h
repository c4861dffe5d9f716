// A square of W × W lanes turned over in registers: lane j of row i and lane i of row j change places.
#pragma once

#include "simd.h"

namespace maskserve {
namespace {

#if defined(__AVX512BF16__)

MS_INLINE VF LowPairs(VF a, VF b) {
  return _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
}
MS_INLINE VF HighPairs(VF a, VF b) {
  return _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
}

MS_INLINE void Transpose(VF (&v)[W]) {
  constexpr int kEven = 0x88, kOdd = 0xdd;  // quarters 0 and 2, or 1 and 3, of both
  VF two[W], four[W];
#pragma GCC unroll 8
  for (int i = 0; i < W; i += 2) {
    two[i] = _mm512_unpacklo_ps(v[i], v[i + 1]);
    two[i + 1] = _mm512_unpackhi_ps(v[i], v[i + 1]);
  }
  // Quarter q of four[4 · i + j]: lane 4 · q + j of rows 4 · i …
#pragma GCC unroll 4
  for (int i = 0; i < W; i += 4) {
    four[i] = LowPairs(two[i], two[i + 2]);
    four[i + 1] = HighPairs(two[i], two[i + 2]);
    four[i + 2] = LowPairs(two[i + 1], two[i + 3]);
    four[i + 3] = HighPairs(two[i + 1], two[i + 3]);
  }
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    const VF even = _mm512_shuffle_f32x4(four[j], four[4 + j], kEven);
    const VF odd = _mm512_shuffle_f32x4(four[j], four[4 + j], kOdd);
    const VF even_below = _mm512_shuffle_f32x4(four[8 + j], four[12 + j], kEven);
    const VF odd_below = _mm512_shuffle_f32x4(four[8 + j], four[12 + j], kOdd);
    v[j] = _mm512_shuffle_f32x4(even, even_below, kEven);
    v[4 + j] = _mm512_shuffle_f32x4(odd, odd_below, kEven);
    v[8 + j] = _mm512_shuffle_f32x4(even, even_below, kOdd);
    v[12 + j] = _mm512_shuffle_f32x4(odd, odd_below, kOdd);
  }
}

#elif defined(__AVX2__)

MS_INLINE void Transpose(VF (&v)[W]) {
  constexpr int kLow = 0x44, kHigh = 0xee, kLowHalves = 0x20, kHighHalves = 0x31;
  VF two[W], four[W];
  for (int i = 0; i < W; i += 2) {
    two[i] = _mm256_unpacklo_ps(v[i], v[i + 1]);
    two[i + 1] = _mm256_unpackhi_ps(v[i], v[i + 1]);
  }
  // Half h of four[4 · i + j]: lane 4 · h + j of rows 4 · i …
  for (int i = 0; i < W; i += 4) {
    four[i] = _mm256_shuffle_ps(two[i], two[i + 2], kLow);
    four[i + 1] = _mm256_shuffle_ps(two[i], two[i + 2], kHigh);
    four[i + 2] = _mm256_shuffle_ps(two[i + 1], two[i + 3], kLow);
    four[i + 3] = _mm256_shuffle_ps(two[i + 1], two[i + 3], kHigh);
  }
  for (int j = 0; j < 4; ++j) {
    v[j] = _mm256_permute2f128_ps(four[j], four[4 + j], kLowHalves);
    v[4 + j] = _mm256_permute2f128_ps(four[j], four[4 + j], kHighHalves);
  }
}

#else

MS_INLINE void Transpose(VF (&v)[W]) {
  const VF a = v[0], b = v[1], c = v[2], d = v[3];
  for (int j = 0; j < W; ++j) v[j] = VF{a[j], b[j], c[j], d[j]};
}

#endif

}  // namespace
}  // namespace maskserve
