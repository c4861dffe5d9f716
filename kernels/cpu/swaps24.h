// y += Δ x for one token and some rows: the swaps of a patch (patch24.h) against activations picked by column.
#pragma once

#include "dot24.h"
#include "patch24.h"

namespace maskserve {
namespace {

MS_INLINE float SwapSum(const float* x, const Swaps24& swaps) {
  float in = 0, out = 0;
  for (int64_t i = 0; i < swaps.count; ++i) {
    const SwapColumns24 at = ColumnsOf24(swaps, i);
    uint16_t pair[2];
    memcpy(pair, swaps.pairs + 4 * i, 4);
    in += FloatOfBf16(pair[0]) * x[at.in];
    out += FloatOfBf16(pair[1]) * x[at.out];
  }
  return in + out;
}

#if defined(__AVX512BF16__)

// The activations of the group that is named at `groups`, a possibly odd address.
MS_INLINE const uint16_t* GroupOf(const uint16_t* x, const uint8_t* groups) {
  uint16_t group;
  memcpy(&group, groups, 2);
  return x + 4 * group;
}
MS_INLINE __m128i TwoGroups(const uint16_t* x, const uint8_t* groups) {
  const __m128i first = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(GroupOf(x, groups)));
  return _mm_castpd_si128(
      _mm_loadh_pd(_mm_castsi128_pd(first), reinterpret_cast<const double*>(GroupOf(x, groups + 2))));
}
MS_INLINE __m512i EightGroups(const uint16_t* x, const uint8_t* groups) {
  const __m256i low =
      _mm256_inserti128_si256(_mm256_castsi128_si256(TwoGroups(x, groups)), TwoGroups(x, groups + 4), 1);
  const __m256i high =
      _mm256_inserti128_si256(_mm256_castsi128_si256(TwoGroups(x, groups + 8)), TwoGroups(x, groups + 12), 1);
  return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}

// Pairs of activations for 16 swaps: the words that the nibbles name, in and out, of each swap's group.
MS_INLINE __m512i PairIndex24(uint64_t nibbles) {
  const __m512i word = _mm512_set_epi16(31, 30, 29, 28, 27, 26, 25, 24, 23, 22, 21, 20, 19, 18, 17, 16, 15, 14, 13, 12,
                                        11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  const __m512i shift = _mm512_slli_epi16(word, 1);
  const __m512i base = _mm512_slli_epi16(_mm512_srli_epi16(word, 1), 2);
  const __m512i field = _mm512_multishift_epi64_epi8(shift, _mm512_set1_epi64(static_cast<int64_t>(nibbles)));
  return _mm512_ternarylogic_epi32(base, field, _mm512_set1_epi16(3), kAndOr);
}

// Loading by hand is several times as fast as a gather: in and out lie in one group, eight bytes.
MS_INLINE float SwapSum(const uint16_t* x, const Swaps24& swaps) {
  VF acc = Zero();
  int64_t i = 0;
  for (; i + 16 <= swaps.count; i += 16) {
    const uint8_t* groups = swaps.groups + 2 * i;
    const __m512i index = PairIndex24(LoadMeta(swaps.nibbles + i / 2));
    const __m512i picked = PickWords24(EightGroups(x, groups), EightGroups(x, groups + 16), index);
    acc = _mm512_dpbf16_ps(acc, (__m512bh)_mm512_loadu_si512(swaps.pairs + 4 * i), (__m512bh)picked);
  }
  // The rest eight at a time. Lanes beyond it hold group 0, and must not multiply: it may not be finite.
  for (; i < swaps.count; i += 8) {
    const int64_t rest = Min(8, swaps.count - i);
    const __mmask16 lanes = FirstLanes(rest);
    alignas(16) uint8_t groups[16];
    _mm_store_si128(reinterpret_cast<__m128i*>(groups),
                    _mm_maskz_loadu_epi16(static_cast<__mmask8>(lanes), swaps.groups + 2 * i));
    uint32_t nibbles;
    memcpy(&nibbles, swaps.nibbles + i / 2, 4);
    const __mmask32 words = static_cast<__mmask32>((1ull << (2 * rest)) - 1u);
    const __m512i picked = _mm512_maskz_permutexvar_epi16(words, PairIndex24(nibbles), EightGroups(x, groups));
    acc = _mm512_dpbf16_ps(acc, (__m512bh)_mm512_maskz_loadu_epi32(lanes, swaps.pairs + 4 * i), (__m512bh)picked);
  }
  return Sum(acc);
}

#endif

// Asks for the swaps of rows [begin, end): a short run in each token's patch, too short for the hardware to follow.
MS_INLINE void PrefetchSwaps24(const uint8_t* patch, int64_t begin, int64_t end, int64_t n, int64_t k) {
  const int64_t per_row = Sections24(k), sections = n * per_row;
  const uint8_t* from = SectionSwaps24(patch, sections, begin * per_row).pairs;
  const uint8_t* to = end < n ? SectionSwaps24(patch, sections, end * per_row).pairs : from + (end - begin) * k / 256;
  for (; from < to; from += 64) __builtin_prefetch(from, 0, 2);
}

// y (N), x (K) of one token; rows [begin, end).
template <typename Dot>
void AddSwaps24(float* y, const typename Dot::X* x, const uint8_t* patch, int64_t begin, int64_t end, int64_t n,
                int64_t k) {
  const int64_t per_row = Sections24(k), sections = n * per_row;
  for (int64_t r = begin; r < end; ++r) {
    for (int64_t s = 0; s < per_row; ++s) {
      const Swaps24 swaps = SectionSwaps24(patch, sections, r * per_row + s);
      if (swaps.count > 0) y[r] += SwapSum(x + s * kSectionColumns24, swaps);
    }
  }
}

}  // namespace
}  // namespace maskserve
