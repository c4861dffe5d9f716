// Picking the kept two of every four elements by their 2-bit indices: a permutation of the dense operand, so that it
// lines up with compact values. meta bit 2i is the low bit of compact value i's index in its group.
#pragma once

#include "simd.h"

namespace maskserve {
namespace {

// Up to 8 bytes of metadata as one little-endian word.
MS_INLINE uint64_t LoadMeta(const uint8_t* meta, int64_t bytes) {
  uint64_t bits = 0;
  memcpy(&bits, meta, static_cast<size_t>(bytes));
  return bits;
}

#if defined(__AVX512BF16__)

// 64 words → 32: `vpmultishiftqb` brings field i of the broadcast metadata to word i, and `vpternlogd` puts it on the
// group's base, 4·⌊i/2⌋. Only the low 6 bits of a word index count.
MS_INLINE __m512i WordIndex24(uint64_t meta) {
  const __m512i word = _mm512_set_epi16(31, 30, 29, 28, 27, 26, 25, 24, 23, 22, 21, 20, 19, 18, 17, 16, 15, 14, 13, 12,
                                        11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  const __m512i shift = _mm512_slli_epi16(word, 1);
  const __m512i base = _mm512_slli_epi16(_mm512_srli_epi16(word, 1), 2);
  const __m512i field = _mm512_multishift_epi64_epi8(shift, _mm512_set1_epi64(static_cast<int64_t>(meta)));
  constexpr int kAndOr = 0xf8 & 0xff;  // a | (b & c)
  return _mm512_ternarylogic_epi32(base, field, _mm512_set1_epi16(3), kAndOr);
}

MS_INLINE __m512i PickWords24(__m512i low, __m512i high, __m512i index) {
  return _mm512_permutex2var_epi16(low, index, high);
}

// 32 floats → 16.
typedef __m512i Index24;
MS_INLINE Index24 MakeIndex24(uint64_t meta) {
  const __m512i lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  const __m512i shift = _mm512_slli_epi32(lane, 1);
  const __m512i base = _mm512_slli_epi32(_mm512_srli_epi32(lane, 1), 2);
  const __m512i field = _mm512_srlv_epi32(_mm512_set1_epi32(static_cast<int>(static_cast<uint32_t>(meta))), shift);
  return _mm512_ternarylogic_epi32(base, field, _mm512_set1_epi32(3), 0xf8);
}
MS_INLINE VF Pick24(const float* x, Index24 index) {
  return _mm512_permutex2var_ps(Load(x), index, Load(x + W));
}
MS_INLINE void PackForPick24(float* out, const float* in) {
  Store(out, Load(in));
  Store(out + W, Load(in + W));
}

#elif defined(__AVX2__)

// `vpermilps` picks within 128-bit lanes, and a lane is a group. Of the groups A B C D one register holds A C, the
// other B D: the same index vector picks from both, and the blend leaves A A B B C C D D.
typedef __m256i Index24;
MS_INLINE Index24 MakeIndex24(uint64_t meta) {
  return _mm256_srlv_epi32(_mm256_set1_epi32(static_cast<int>(meta)), _mm256_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14));
}
MS_INLINE VF Pick24(const float* x, Index24 index) {
  constexpr int kFromSecond = 0xcc;
  return _mm256_blend_ps(_mm256_permutevar_ps(Load(x), index), _mm256_permutevar_ps(Load(x + W), index), kFromSecond);
}
MS_INLINE void PackForPick24(float* out, const float* in) {
  memcpy(out, in, 16);
  memcpy(out + 4, in + 8, 16);
  memcpy(out + 8, in + 4, 16);
  memcpy(out + 12, in + 12, 16);
}

#else

struct Index24 {
  uint8_t at[4];
};
MS_INLINE Index24 MakeIndex24(uint64_t meta) {
  return {{static_cast<uint8_t>(meta & 3), static_cast<uint8_t>(meta >> 2 & 3),
           static_cast<uint8_t>(4 + (meta >> 4 & 3)), static_cast<uint8_t>(4 + (meta >> 6 & 3))}};
}
MS_INLINE VF Pick24(const float* x, Index24 index) {
  return VF{x[index.at[0]], x[index.at[1]], x[index.at[2]], x[index.at[3]]};
}
MS_INLINE void PackForPick24(float* out, const float* in) {
  memcpy(out, in, 32);
}

#endif

}  // namespace
}  // namespace maskserve
