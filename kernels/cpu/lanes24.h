// 32 groups of a mask in 16-bit lanes, group i in lane i: the step of the mask coders (FORMAT.md §7). On AVX-512 a
// register, elsewhere an array whose loops the compiler vectorises as it can.
//
// The 32 coder states of a step are 32-bit. States 0–15 belong to even groups and states 16–31 to odd ones, so that
// state j and state 16 + j are the low and the high half of the same 32 bits of a `Lanes`, and of the same byte of
// nibbles.
#pragma once

#include "simd.h"

namespace maskserve {
namespace {

constexpr int kStep = 32;  // groups

// Canonical nibble idx0 | idx1 << 2 of each 2:4 symbol, and back; what is no pattern counts as symbol 0.
constexpr uint16_t kNibbleOfSymbol[8] = {4, 8, 12, 9, 13, 14, 0, 0};
constexpr uint16_t kSymbolOfNibble[16] = {0, 0, 0, 0, 0, 0, 0, 0, 1, 3, 0, 0, 2, 4, 5, 0};

#if defined(__AVX512BF16__)

typedef __m512i Lanes;

MS_INLINE Lanes SetLanes(int value) {
  return _mm512_set1_epi16(static_cast<int16_t>(value));
}
MS_INLINE Lanes LoadLanes(const uint16_t* p) {
  return _mm512_loadu_si512(p);
}
MS_INLINE void StoreLanes(uint16_t* p, Lanes v) {
  _mm512_storeu_si512(p, v);
}
// A byte a group.
MS_INLINE Lanes LoadLaneBytes(const uint8_t* p) {
  return _mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
MS_INLINE void StoreLaneBytes(uint8_t* p, Lanes v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi16_epi8(v));
}
// Half a byte a group: 16 bytes.
MS_INLINE Lanes LoadLaneNibbles(const uint8_t* p) {
  const __m512i bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  const __m512i spread = _mm512_or_si512(bytes, _mm512_slli_epi32(bytes, 12));
  return _mm512_and_si512(spread, _mm512_set1_epi16(15));
}
MS_INLINE void StoreLaneNibbles(uint8_t* p, Lanes v) {
  const __m512i pairs = _mm512_or_si512(v, _mm512_srli_epi32(v, 12));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(pairs));
}
MS_INLINE __m512i Table8(const uint16_t* table) {
  return _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table)));
}
MS_INLINE __m512i Table16(const uint16_t* table) {
  return _mm512_broadcast_i64x4(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(table)));
}
MS_INLINE Lanes NibblesOfSymbols(Lanes symbols) {
  return _mm512_permutexvar_epi16(symbols, Table8(kNibbleOfSymbol));
}
MS_INLINE Lanes SymbolsOfNibbles(Lanes nibbles) {
  return _mm512_permutexvar_epi16(nibbles, Table16(kSymbolOfNibble));
}

#else

struct Lanes {
  uint16_t at[kStep];
};

MS_INLINE Lanes SetLanes(int value) {
  Lanes v;
  for (int i = 0; i < kStep; ++i) v.at[i] = static_cast<uint16_t>(value);
  return v;
}
MS_INLINE Lanes LoadLanes(const uint16_t* p) {
  Lanes v;
  memcpy(v.at, p, sizeof(v.at));
  return v;
}
MS_INLINE void StoreLanes(uint16_t* p, const Lanes& v) {
  memcpy(p, v.at, sizeof(v.at));
}
MS_INLINE Lanes LoadLaneBytes(const uint8_t* p) {
  Lanes v;
  for (int i = 0; i < kStep; ++i) v.at[i] = p[i];
  return v;
}
MS_INLINE void StoreLaneBytes(uint8_t* p, const Lanes& v) {
  for (int i = 0; i < kStep; ++i) p[i] = static_cast<uint8_t>(v.at[i]);
}
MS_INLINE Lanes LoadLaneNibbles(const uint8_t* p) {
  Lanes v;
  for (int i = 0; i < kStep; ++i) v.at[i] = p[i / 2] >> 4 * (i % 2) & 15;
  return v;
}
MS_INLINE void StoreLaneNibbles(uint8_t* p, const Lanes& v) {
  for (int i = 0; i < kStep / 2; ++i) p[i] = static_cast<uint8_t>(v.at[2 * i] | v.at[2 * i + 1] << 4);
}
MS_INLINE Lanes NibblesOfSymbols(const Lanes& symbols) {
  Lanes v;
  for (int i = 0; i < kStep; ++i) v.at[i] = kNibbleOfSymbol[symbols.at[i] & 7];
  return v;
}
MS_INLINE Lanes SymbolsOfNibbles(const Lanes& nibbles) {
  Lanes v;
  for (int i = 0; i < kStep; ++i) v.at[i] = kSymbolOfNibble[nibbles.at[i] & 15];
  return v;
}

#endif

}  // namespace
}  // namespace maskserve
