// The encoder's side of the range coder (FORMAT.md §8.1): backwards, from the last symbol to the first and from the end
// of the chunk to its start, so that the words come to lie in the order in which they are read.
#pragma once

#include "rans24.h"

namespace maskserve {
namespace {

// `frequency` is not 0. `at` moves towards the front; two bytes before it can always be written.
MS_INLINE void PutSymbol(uint32_t& x, uint32_t start, uint32_t frequency, uint8_t*& at) {
  const uint16_t word = static_cast<uint16_t>(x);
  memcpy(at - 2, &word, 2);
  // Arithmetic instead of a branch that nobody could predict.
  const uint32_t due = x >> (32 - kProbabilityBits) >= frequency;
  at -= 2 * due;
  x >>= 16 * due;
  const uint32_t quotient = x / frequency;
  x = (quotient << kProbabilityBits) + start + (x - quotient * frequency);
}

// bits ≤ 14.
MS_INLINE void PutBits(uint32_t& x, uint32_t value, int bits, uint8_t*& at) {
  const uint16_t word = static_cast<uint16_t>(x);
  memcpy(at - 2, &word, 2);
  const uint32_t due = x >= 1ull << (32 - bits);
  at -= 2 * due;
  x >>= 16 * due;
  x = x << bits | value;
}

// A table for each context of up to 64, by 8 · context + symbol: start | frequency << 16, 0 where a symbol does not
// occur.
struct SlotTable {
  uint32_t of[8 * kMaxContexts];

  MS_METHOD void Load(const Starts* tables, int contexts) {
    for (int c = 0; c < contexts; ++c) {
      for (int s = 0; s < kSymbols; ++s) {
        const uint32_t start = tables[c].start[s], frequency = tables[c].start[s + 1] - start;
        of[8 * c + s] = frequency == 0 ? 0 : start | frequency << 16;
      }
    }
  }
};

#if defined(__AVX512BF16__)

// What Advance of rans24.h undoes, for 16 lanes. False where a symbol has no frequency.
MS_INLINE bool PutLanes(__m512i& x, __m512i index, __mmask16 active, const SlotTable& table, uint8_t*& at) {
  const __m512i slots = _mm512_i32gather_epi32(index, table.of, 4);
  const __m512i start = _mm512_and_si512(slots, _mm512_set1_epi32(0xffff)), frequency = _mm512_srli_epi32(slots, 16);
  if (_mm512_mask_testn_epi32_mask(active, frequency, frequency) != 0) return false;
  // x ≥ f · 2^18
  const __m512i high = _mm512_srli_epi32(x, 32 - kProbabilityBits);
  const __mmask16 due = _mm512_mask_cmpge_epu32_mask(active, high, frequency);
  const int words = __builtin_popcount(due);
  at -= 2 * words;
  _mm256_mask_storeu_epi16(at, FirstLanes(words), _mm512_cvtepi32_epi16(_mm512_maskz_compress_epi32(due, x)));
  const __m512i y = _mm512_mask_srli_epi32(x, due, x, 16);
  // The quotient is below 2^18, so that of the floats is wrong by one at most.
  __m512i quotient = _mm512_cvttps_epi32(_mm512_div_ps(_mm512_cvtepu32_ps(y), _mm512_cvtepi32_ps(frequency)));
  __m512i rest = _mm512_sub_epi32(y, _mm512_mullo_epi32(quotient, frequency));
  const __mmask16 above = _mm512_cmplt_epi32_mask(rest, _mm512_setzero_si512());
  quotient = _mm512_mask_sub_epi32(quotient, above, quotient, _mm512_set1_epi32(1));
  rest = _mm512_mask_add_epi32(rest, above, rest, frequency);
  const __mmask16 below = _mm512_cmpge_epi32_mask(rest, frequency);
  quotient = _mm512_mask_add_epi32(quotient, below, quotient, _mm512_set1_epi32(1));
  rest = _mm512_mask_sub_epi32(rest, below, rest, frequency);
  const __m512i slot = _mm512_add_epi32(start, rest);
  x = _mm512_mask_add_epi32(x, active, _mm512_slli_epi32(quotient, kProbabilityBits), slot);
  return true;
}

MS_INLINE bool PutStep(States& states, Lanes index, Active active, const SlotTable& table, uint8_t*& at) {
  if (!PutLanes(states.odd, _mm512_srli_epi32(index, 16), active.odd, table, at)) return false;
  return PutLanes(states.even, _mm512_and_si512(index, _mm512_set1_epi32(0xffff)), active.even, table, at);
}

MS_INLINE States FirstStates() {
  return {_mm512_set1_epi32(kLeastState), _mm512_set1_epi32(kLeastState)};
}
MS_INLINE void StoreStates(uint8_t* bytes, const States& states) {
  _mm512_storeu_si512(bytes, states.even);
  _mm512_storeu_si512(bytes + 64, states.odd);
}

#else

MS_INLINE bool PutStep(States& states, const Lanes& index, Active active, const SlotTable& table, uint8_t*& at) {
  for (int i = kStep - 1; i >= 0; --i) {
    const int group = GroupOfState(i);
    if (group >= active.groups) continue;
    const uint32_t slots = table.of[index.at[group]];
    if (slots == 0) return false;
    PutSymbol(states.x[i], slots & 0xffff, slots >> 16, at);
  }
  return true;
}

MS_INLINE States FirstStates() {
  States states;
  for (int i = 0; i < kStep; ++i) states.x[i] = kLeastState;
  return states;
}
MS_INLINE void StoreStates(uint8_t* bytes, const States& states) {
  memcpy(bytes, states.x, sizeof(states.x));
}

#endif

}  // namespace
}  // namespace maskserve
