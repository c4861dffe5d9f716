// Picking the kept two of every four elements by their 2-bit indices: a permutation of the dense operand, so that it
// lines up with the values of a packed block (packed24.h). Bits 2i and 2i + 1 of a block's metadata are the index of
// value i in its group.
#pragma once

#include "simd.h"

namespace maskserve {
namespace {

// 8 bytes of metadata as one little-endian word.
MS_INLINE uint64_t LoadMeta(const uint8_t* meta) {
  uint64_t bits;
  memcpy(&bits, meta, sizeof(bits));
  return bits;
}

#if defined(__AVX512BF16__)

constexpr int kAndOr = 0xf8;  // ternary logic: a | (b & c)

// 64 words → 32, in the order of the block's value words: `vpmultishiftqb` brings each value's field of the broadcast
// metadata to its word, and `vpternlogd` puts it on the group's base. Only the low 6 bits of a word index count.
MS_INLINE __m512i WordIndex24(uint64_t meta) {
  const __m512i lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  // Lane j holds the values i = (j & 8) · 2 + (j & 7) and i + 8: fields at bit 2i, bases 4 · ⌊i / 2⌋.
  const __m512i low = _mm512_add_epi32(lane, _mm512_and_si512(lane, _mm512_set1_epi32(8)));
  const __m512i value = _mm512_or_si512(low, _mm512_slli_epi32(_mm512_add_epi32(low, _mm512_set1_epi32(8)), 16));
  const __m512i shift = _mm512_slli_epi16(value, 1);
  const __m512i base = _mm512_slli_epi16(_mm512_srli_epi16(value, 1), 2);
  const __m512i field = _mm512_multishift_epi64_epi8(shift, _mm512_set1_epi64(static_cast<int64_t>(meta)));
  return _mm512_ternarylogic_epi32(base, field, _mm512_set1_epi16(3), kAndOr);
}

MS_INLINE __m512i PickWords24(__m512i low, __m512i high, __m512i index) {
  return _mm512_permutex2var_epi16(low, index, high);
}

#endif

// A block of activations in fp32 (64 columns) picked for the two halves of what LoadPairs gives: `Picks` are what the
// Even and the Odd elements of each register of value words multiply. kRegisters of them make a block.
constexpr int kRegisters24 = 64 / (4 * W);

#if defined(__AVX512BF16__)

struct Index24 {
  __m512i even[kRegisters24], odd[kRegisters24];
};
MS_INLINE __m512i LaneIndex24(__m512i bits, int first) {
  const __m512i lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  const __m512i value =
      _mm512_add_epi32(_mm512_add_epi32(lane, _mm512_and_si512(lane, _mm512_set1_epi32(8))), _mm512_set1_epi32(first));
  const __m512i base = _mm512_slli_epi32(_mm512_srli_epi32(lane, 1), 2);
  const __m512i field = _mm512_multishift_epi64_epi8(_mm512_slli_epi32(value, 1), bits);
  return _mm512_ternarylogic_epi32(base, field, _mm512_set1_epi32(3), kAndOr);
}
MS_INLINE Index24 MakeIndex24(uint64_t meta) {
  const __m512i bits = _mm512_set1_epi64(static_cast<int64_t>(meta));
  return {{LaneIndex24(bits, 0)}, {LaneIndex24(bits, 8)}};
}
// Even lanes' values come from columns 0–15 and 32–47, the odd ones' from the rest.
MS_INLINE VF PickEven24(const float* x, const Index24& index, int) {
  return _mm512_permutex2var_ps(Load(x), index.even[0], Load(x + 32));
}
MS_INLINE VF PickOdd24(const float* x, const Index24& index, int) {
  return _mm512_permutex2var_ps(Load(x + 16), index.odd[0], Load(x + 48));
}
MS_INLINE void PackForPick24(float* out, const float* in) {
  memcpy(out, in, 64 * sizeof(float));
}

#elif defined(__AVX2__)

// `vpermilps` picks within 128-bit lanes, and a lane is a group. Of the groups A B C D one register holds A C, the
// other B D: the same index vector picks from both, and the blend leaves A A B B C C D D.
struct Index24 {
  __m256i even[kRegisters24], odd[kRegisters24];
};
MS_INLINE Index24 MakeIndex24(uint64_t meta) {
  const __m256i low = _mm256_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14);
  const __m256i high = _mm256_setr_epi32(16, 18, 20, 22, 24, 26, 28, 30);
  const __m256i first = _mm256_set1_epi32(static_cast<int>(meta)),
                second = _mm256_set1_epi32(static_cast<int>(meta >> 32));
  return {{_mm256_srlv_epi32(first, low), _mm256_srlv_epi32(second, low)},
          {_mm256_srlv_epi32(first, high), _mm256_srlv_epi32(second, high)}};
}
MS_INLINE VF PickGroups24(const float* x, __m256i index) {
  constexpr int kFromSecond = 0xcc;
  return _mm256_blend_ps(_mm256_permutevar_ps(Load(x), index), _mm256_permutevar_ps(Load(x + W), index), kFromSecond);
}
MS_INLINE VF PickEven24(const float* x, const Index24& index, int part) {
  return PickGroups24(x + 32 * part, index.even[part]);
}
MS_INLINE VF PickOdd24(const float* x, const Index24& index, int part) {
  return PickGroups24(x + 32 * part + 16, index.odd[part]);
}
MS_INLINE void PackForPick24(float* out, const float* in) {
  for (int i = 0; i < 64; i += 16) {
    memcpy(out + i, in + i, 16);
    memcpy(out + i + 4, in + i + 8, 16);
    memcpy(out + i + 8, in + i + 4, 16);
    memcpy(out + i + 12, in + i + 12, 16);
  }
}

#else

struct Index24 {
  uint64_t meta;
};
MS_INLINE Index24 MakeIndex24(uint64_t meta) {
  return {meta};
}
// Four values, two groups, from column i.
MS_INLINE VF PickGroups24(const float* x, uint64_t meta, int i) {
  const unsigned m = static_cast<unsigned>(meta >> i);
  return VF{x[i + (m & 3)], x[i + (m >> 2 & 3)], x[i + 4 + (m >> 4 & 3)], x[i + 4 + (m >> 6 & 3)]};
}
MS_INLINE VF PickEven24(const float* x, const Index24& index, int part) {
  return PickGroups24(x, index.meta, (part >> 1) * 32 + (part & 1) * 8);
}
MS_INLINE VF PickOdd24(const float* x, const Index24& index, int part) {
  return PickGroups24(x, index.meta, (part >> 1) * 32 + (part & 1) * 8 + 16);
}
MS_INLINE void PackForPick24(float* out, const float* in) {
  memcpy(out, in, 64 * sizeof(float));
}

#endif

}  // namespace
}  // namespace maskserve
