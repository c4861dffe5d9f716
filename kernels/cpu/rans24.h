// One step of the interleaved range coder (rANS: arXiv 1311.2540) over 32 groups of six symbols: FORMAT.md §7.
//
// A state x is in [2^16, 2^32). With a slot of 14 bits, x mod 2^14, a symbol of frequency f that starts at c owns the
// slots [c, c + f); decoding it leaves f · (x >> 14) + slot − c, and a state below 2^16 takes the next 16-bit word.
#pragma once

#include "lanes24.h"

namespace maskserve {
namespace {

constexpr int kProbabilityBits = 14;
constexpr uint32_t kLeastState = 1u << 16;
constexpr int kSymbols = 6;
constexpr int kMaxContexts = 64;
// What one step may read: a word a state.
constexpr int kStepBytes = 2 * kStep;

// Where each symbol's slots start, for one context; start[6] is 2^14 and the last entry is unused.
struct Starts {
  uint16_t start[8];
};

// The same for one state and one group.
MS_INLINE int DecodeOne(uint32_t& x, const Starts& table, const uint8_t*& at) {
  const uint32_t slot = x & ((1u << kProbabilityBits) - 1);
  int symbol = 0;
  for (int s = 1; s < kSymbols; ++s) symbol += slot >= table.start[s];
  const uint32_t start = table.start[symbol], frequency = table.start[symbol + 1] - start;
  x = frequency * (x >> kProbabilityBits) + slot - start;
  uint16_t word;
  memcpy(&word, at, 2);
  const bool due = x < kLeastState;
  x = due ? x << 16 | word : x;
  at += due ? 2 : 0;
  return symbol;
}

#if defined(__AVX512BF16__)

// Of even and odd groups: see lanes24.h.
struct States {
  __m512i even, odd;
};

// The groups of a step that exist, as lanes of `even` and `odd`.
struct Active {
  __mmask16 even, odd;
};
MS_INLINE Active FirstGroups(int64_t groups) {
  return {FirstLanes((groups + 1) / 2), FirstLanes(groups / 2)};
}

MS_INLINE States LoadStates(const uint8_t* bytes) {
  return {_mm512_loadu_si512(bytes), _mm512_loadu_si512(bytes + 64)};
}
MS_INLINE bool BelowLeast(States x) {
  const __m512i least = _mm512_set1_epi32(kLeastState);
  return (_mm512_cmplt_epu32_mask(x.even, least) | _mm512_cmplt_epu32_mask(x.odd, least)) != 0;
}
MS_INLINE bool AllLeast(States x) {
  const __m512i least = _mm512_set1_epi32(kLeastState);
  return (_mm512_cmpneq_epu32_mask(x.even, least) | _mm512_cmpneq_epu32_mask(x.odd, least)) == 0;
}

MS_INLINE Lanes Slots(States x) {
  const __m512i words = _mm512_mask_blend_epi16(0xaaaaaaaau, x.even, _mm512_slli_epi32(x.odd, 16));
  return _mm512_and_si512(words, _mm512_set1_epi16((1 << kProbabilityBits) - 1));
}

MS_INLINE __m512i TakeWords(__m512i x, __mmask16 active, const uint8_t*& at) {
  const __mmask16 low = _mm512_mask_cmplt_epu32_mask(active, x, _mm512_set1_epi32(kLeastState));
  const __m512i words = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)));
  at += 2 * __builtin_popcount(low);
  return _mm512_mask_or_epi32(x, low, _mm512_slli_epi32(x, 16), _mm512_maskz_expand_epi32(low, words));
}

// x ← f · (x >> 14) + offset, and the words that are due. Reads kStepBytes at `at`.
MS_INLINE void Advance(States& x, Lanes frequency, Lanes offset, Active active, const uint8_t*& at) {
  const __m512i half = _mm512_set1_epi32(0xffff);
  const __m512i even =
      _mm512_mullo_epi32(_mm512_srli_epi32(x.even, kProbabilityBits), _mm512_and_si512(frequency, half));
  const __m512i odd = _mm512_mullo_epi32(_mm512_srli_epi32(x.odd, kProbabilityBits), _mm512_srli_epi32(frequency, 16));
  x.even = _mm512_mask_add_epi32(x.even, active.even, even, _mm512_and_si512(offset, half));
  x.odd = _mm512_mask_add_epi32(x.odd, active.odd, odd, _mm512_srli_epi32(offset, 16));
  x.even = TakeWords(x.even, active.even, at);
  x.odd = TakeWords(x.odd, active.odd, at);
}

// One table for all groups.
struct OneTable {
  __m512i bound[kSymbols - 1], start, frequency;

  MS_METHOD explicit OneTable(const Starts* tables) {
    uint16_t frequencies[8] = {};
    for (int s = 0; s < kSymbols; ++s) {
      frequencies[s] = static_cast<uint16_t>(tables->start[s + 1] - tables->start[s]);
    }
    for (int s = 0; s < kSymbols - 1; ++s) bound[s] = SetLanes(tables->start[s + 1]);
    start = Table8(tables->start);
    frequency = Table8(frequencies);
  }
  MS_METHOD Lanes Decode(States& x, Lanes, Active active, const uint8_t*& at) const {
    const Lanes slot = Slots(x), one = SetLanes(1);
    Lanes symbol = SetLanes(0);
    for (int s = 0; s < kSymbols - 1; ++s) {
      symbol = _mm512_mask_add_epi16(symbol, _mm512_cmpge_epu16_mask(slot, bound[s]), symbol, one);
    }
    const Lanes offset = _mm512_sub_epi16(slot, _mm512_permutexvar_epi16(symbol, start));
    Advance(x, _mm512_permutexvar_epi16(symbol, frequency), offset, active, at);
    return symbol;
  }
};

// A table for each of up to 64 contexts: two registers hold one bound of them all.
struct TableOfContext {
  __m512i low[kSymbols - 1], high[kSymbols - 1];

  MS_METHOD TableOfContext(const Starts* tables, int contexts) {
    for (int s = 0; s < kSymbols - 1; ++s) {
      uint16_t column[kMaxContexts] = {};
      for (int c = 0; c < contexts; ++c) column[c] = tables[c].start[s + 1];
      low[s] = LoadLanes(column);
      high[s] = LoadLanes(column + kStep);
    }
  }
  MS_METHOD Lanes Decode(States& x, Lanes context, Active active, const uint8_t*& at) const {
    const Lanes slot = Slots(x), one = SetLanes(1);
    Lanes symbol = SetLanes(0), start = symbol, end = SetLanes(1 << kProbabilityBits);
    __mmask32 above = ~0u;  // slots at or above the last bound
    for (int s = 0; s < kSymbols - 1; ++s) {
      const Lanes bound = _mm512_permutex2var_epi16(low[s], context, high[s]);
      end = _mm512_mask_mov_epi16(end, above, bound);
      above = _mm512_cmpge_epu16_mask(slot, bound);
      start = _mm512_mask_mov_epi16(start, above, bound);
      symbol = _mm512_mask_add_epi16(symbol, above, symbol, one);
    }
    end = _mm512_mask_mov_epi16(end, above, SetLanes(1 << kProbabilityBits));
    Advance(x, _mm512_sub_epi16(end, start), _mm512_sub_epi16(slot, start), active, at);
    return symbol;
  }
};

#else

struct States {
  uint32_t x[kStep];  // in the order of the file: even groups first
};
struct Active {
  int64_t groups;
};
MS_INLINE Active FirstGroups(int64_t groups) {
  return {groups};
}
MS_INLINE int GroupOfState(int state) {
  return 2 * (state % 16) + state / 16;
}

MS_INLINE States LoadStates(const uint8_t* bytes) {
  States s;
  memcpy(s.x, bytes, sizeof(s.x));
  return s;
}
MS_INLINE bool BelowLeast(const States& s) {
  bool below = false;
  for (int i = 0; i < kStep; ++i) below |= s.x[i] < kLeastState;
  return below;
}
MS_INLINE bool AllLeast(const States& s) {
  bool all = true;
  for (int i = 0; i < kStep; ++i) all &= s.x[i] == kLeastState;
  return all;
}

struct TableOfContext {
  const Starts* tables;

  MS_METHOD TableOfContext(const Starts* starts, int) : tables(starts) {}
  MS_METHOD Lanes Decode(States& s, const Lanes& context, Active active, const uint8_t*& at) const {
    Lanes symbols = {};
    for (int i = 0; i < kStep; ++i) {
      const int group = GroupOfState(i);
      if (group >= active.groups) continue;
      symbols.at[group] = static_cast<uint16_t>(DecodeOne(s.x[i], tables[context.at[group]], at));
    }
    return symbols;
  }
};

struct OneTable {
  const Starts* table;

  MS_METHOD explicit OneTable(const Starts* starts) : table(starts) {}
  MS_METHOD Lanes Decode(States& s, const Lanes&, Active active, const uint8_t*& at) const {
    Lanes symbols = {};
    for (int i = 0; i < kStep; ++i) {
      const int group = GroupOfState(i);
      if (group < active.groups) symbols.at[group] = static_cast<uint16_t>(DecodeOne(s.x[i], *table, at));
    }
    return symbols;
  }
};

#endif

}  // namespace
}  // namespace maskserve
