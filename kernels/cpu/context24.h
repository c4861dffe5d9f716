// What the frozen weights say about their groups' masks (FORMAT.md §7): the order of the four magnitudes, and contexts
// from the distances between neighbours in that order. bf16 bits without the sign are integers that grow with the
// magnitude, 128 to a factor of two, so a distance is the logarithm of a ratio and everything here is integer.
#pragma once

#include "lanes24.h"

namespace maskserve {
namespace {

constexpr int kStepWeights = 4 * kStep;

// The magnitudes of 32 groups: `at[p]` of position p.
struct Magnitudes {
  Lanes at[4];
};

// Their order. `sorted[r]` is the r-th largest; of equals the earlier position comes first. Two bits each: `rank` has
// the rank of position p at bit 2p, `position` the position of rank r at bit 2r.
struct Order {
  Lanes sorted[4], rank, position;
};

// A distance beyond the last threshold is one more than their number.
constexpr int kRootThresholds[3] = {20, 60, 140};
constexpr int kChildThresholds[4] = {8, 20, 40, 80};
constexpr int kChildMargin = 24;

// The pairs of positions, in the order of the bits of a comparison word and of the symbols.
constexpr int kPairs[6][2] = {{0, 1}, {0, 2}, {0, 3}, {1, 2}, {1, 3}, {2, 3}};

// For each word of six comparisons ("the later of the pair is larger"): ranks and positions as in Order. Words that no
// order gives are never looked up.
struct OrderTable {
  uint16_t rank[64], position[64];
};
constexpr OrderTable MakeOrderTable() {
  OrderTable t = {};
  for (int word = 0; word < 64; ++word) {
    int rank[4] = {};
    for (int q = 0; q < 6; ++q) ++rank[kPairs[q][1 - (word >> q & 1)]];
    for (int p = 0; p < 4; ++p) {
      t.rank[word] = static_cast<uint16_t>(t.rank[word] | (rank[p] & 3) << 2 * p);
      t.position[word] = static_cast<uint16_t>(t.position[word] | p << 2 * (rank[p] & 3));
    }
  }
  return t;
}
constexpr OrderTable kOrderTable = MakeOrderTable();

// Symbol of two different positions or ranks a | b << 2, in either order.
constexpr uint16_t kSymbolOfPair[16] = {0, 0, 1, 2, 0, 0, 3, 4, 1, 3, 0, 5, 2, 4, 5, 0};
// 10 · symbol: the contexts that share a pattern of the parent.
constexpr uint16_t kTenfold[8] = {0, 10, 20, 30, 40, 50, 0, 0};
// Shifts 2·a | 2·b << 8 of the pair of each symbol.
constexpr uint16_t kShiftsOfSymbol[8] = {0x200, 0x400, 0x600, 0x402, 0x602, 0x604, 0, 0};

#if defined(__AVX512BF16__)

MS_INLINE __m512i EveryOther(int first) {
  const __m512i even = _mm512_set_epi16(62, 60, 58, 56, 54, 52, 50, 48, 46, 44, 42, 40, 38, 36, 34, 32, 30, 28, 26, 24,
                                        22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
  return _mm512_add_epi16(even, _mm512_set1_epi16(static_cast<int16_t>(first)));
}

MS_INLINE __m512i Magnitude(const uint16_t* w, const int16_t* scale) {
  const __m512i bits = _mm512_and_si512(_mm512_loadu_si512(w), _mm512_set1_epi16(0x7fff));
  if (scale == nullptr) return bits;
  return _mm512_max_epi16(_mm512_adds_epi16(bits, _mm512_loadu_si512(scale)), _mm512_setzero_si512());
}

// 128 weights, and as many scales or none.
MS_INLINE Magnitudes LoadMagnitudes(const uint16_t* w, const int16_t* scale) {
  __m512i v[4];
  for (int i = 0; i < 4; ++i) v[i] = Magnitude(w + 32 * i, scale == nullptr ? nullptr : scale + 32 * i);
  const __m512i even = EveryOther(0), odd = EveryOther(1);
  const __m512i even0 = _mm512_permutex2var_epi16(v[0], even, v[1]), odd0 = _mm512_permutex2var_epi16(v[0], odd, v[1]);
  const __m512i even1 = _mm512_permutex2var_epi16(v[2], even, v[3]), odd1 = _mm512_permutex2var_epi16(v[2], odd, v[3]);
  return {{_mm512_permutex2var_epi16(even0, even, even1), _mm512_permutex2var_epi16(odd0, even, odd1),
           _mm512_permutex2var_epi16(even0, odd, even1), _mm512_permutex2var_epi16(odd0, odd, odd1)}};
}

MS_INLINE Order Sort(const Magnitudes& m) {
  __m512i word = _mm512_setzero_si512();
  for (int q = 0; q < 6; ++q) {
    const __mmask32 later = _mm512_cmpgt_epi16_mask(m.at[kPairs[q][1]], m.at[kPairs[q][0]]);
    word = _mm512_mask_add_epi16(word, later, word, SetLanes(1 << q));
  }
  Order o;
  const __m512i high0 = _mm512_max_epi16(m.at[0], m.at[1]), low0 = _mm512_min_epi16(m.at[0], m.at[1]);
  const __m512i high1 = _mm512_max_epi16(m.at[2], m.at[3]), low1 = _mm512_min_epi16(m.at[2], m.at[3]);
  const __m512i inner0 = _mm512_min_epi16(high0, high1), inner1 = _mm512_max_epi16(low0, low1);
  o.sorted[0] = _mm512_max_epi16(high0, high1);
  o.sorted[1] = _mm512_max_epi16(inner0, inner1);
  o.sorted[2] = _mm512_min_epi16(inner0, inner1);
  o.sorted[3] = _mm512_min_epi16(low0, low1);
  o.rank = _mm512_permutex2var_epi16(LoadLanes(kOrderTable.rank), word, LoadLanes(kOrderTable.rank + kStep));
  o.position =
      _mm512_permutex2var_epi16(LoadLanes(kOrderTable.position), word, LoadLanes(kOrderTable.position + kStep));
  return o;
}

template <int N>
MS_INLINE Lanes CountReached(Lanes distance, const int (&thresholds)[N], Lanes unit, Lanes onto) {
  for (int i = 0; i < N; ++i) {
    onto = _mm512_mask_add_epi16(onto, _mm512_cmpge_epi16_mask(distance, SetLanes(thresholds[i])), onto, unit);
  }
  return onto;
}

MS_INLINE Lanes RootContext(const Order& o) {
  const Lanes d = _mm512_sub_epi16(o.sorted[1], o.sorted[2]), a = _mm512_sub_epi16(o.sorted[0], o.sorted[1]),
              b = _mm512_sub_epi16(o.sorted[2], o.sorted[3]);
  Lanes context = CountReached(d, kRootThresholds, SetLanes(16), SetLanes(0));
  context = CountReached(a, kRootThresholds, SetLanes(4), context);
  return CountReached(b, kRootThresholds, SetLanes(1), context);
}

MS_INLINE Lanes ChildContext(const Order& o, Lanes parent_rank_symbol) {
  const Lanes d = _mm512_sub_epi16(o.sorted[1], o.sorted[2]), a = _mm512_sub_epi16(o.sorted[0], o.sorted[1]),
              b = _mm512_sub_epi16(o.sorted[2], o.sorted[3]);
  const Lanes of_parent = Table8(kTenfold);
  Lanes context =
      CountReached(d, kChildThresholds, SetLanes(2), _mm512_permutexvar_epi16(parent_rank_symbol, of_parent));
  const int margin[1] = {kChildMargin};
  return CountReached(_mm512_min_epi16(a, b), margin, SetLanes(1), context);
}

// Through `map` (Order::rank or ::position) both members of each pattern: a symbol of positions becomes one of ranks or
// back.
MS_INLINE Lanes MapSymbols(Lanes symbols, Lanes map) {
  const Lanes three = SetLanes(3), shifts = _mm512_permutexvar_epi16(symbols, Table8(kShiftsOfSymbol));
  const Lanes a = _mm512_and_si512(_mm512_srlv_epi16(map, _mm512_and_si512(shifts, SetLanes(255))), three);
  const Lanes b = _mm512_and_si512(_mm512_srlv_epi16(map, _mm512_srli_epi16(shifts, 8)), three);
  return _mm512_permutexvar_epi16(_mm512_or_si512(a, _mm512_slli_epi16(b, 2)), Table16(kSymbolOfPair));
}

#else

MS_INLINE Magnitudes LoadMagnitudes(const uint16_t* w, const int16_t* scale) {
  Magnitudes m;
  for (int i = 0; i < kStep; ++i) {
    for (int p = 0; p < 4; ++p) {
      const int v = (w[4 * i + p] & 0x7fff) + (scale == nullptr ? 0 : scale[4 * i + p]);
      m.at[p].at[i] = static_cast<uint16_t>(v < 0 ? 0 : v > 0x7fff ? 0x7fff : v);
    }
  }
  return m;
}

MS_INLINE Order Sort(const Magnitudes& m) {
  Order o;
  for (int i = 0; i < kStep; ++i) {
    int word = 0;
    for (int q = 0; q < 6; ++q) word |= (m.at[kPairs[q][1]].at[i] > m.at[kPairs[q][0]].at[i]) << q;
    o.rank.at[i] = kOrderTable.rank[word];
    o.position.at[i] = kOrderTable.position[word];
    for (int r = 0; r < 4; ++r) o.sorted[r].at[i] = m.at[o.position.at[i] >> 2 * r & 3].at[i];
  }
  return o;
}

template <int N>
MS_INLINE int CountReached(int distance, const int (&thresholds)[N]) {
  int reached = 0;
  for (int i = 0; i < N; ++i) reached += distance >= thresholds[i];
  return reached;
}

MS_INLINE Lanes RootContext(const Order& o) {
  Lanes context;
  for (int i = 0; i < kStep; ++i) {
    const int v0 = o.sorted[0].at[i], v1 = o.sorted[1].at[i], v2 = o.sorted[2].at[i], v3 = o.sorted[3].at[i];
    context.at[i] =
        static_cast<uint16_t>(16 * CountReached(v1 - v2, kRootThresholds) + 4 * CountReached(v0 - v1, kRootThresholds) +
                              CountReached(v2 - v3, kRootThresholds));
  }
  return context;
}

MS_INLINE Lanes ChildContext(const Order& o, const Lanes& parent_rank_symbol) {
  Lanes context;
  for (int i = 0; i < kStep; ++i) {
    const int v0 = o.sorted[0].at[i], v1 = o.sorted[1].at[i], v2 = o.sorted[2].at[i], v3 = o.sorted[3].at[i];
    const int margin = v0 - v1 < v2 - v3 ? v0 - v1 : v2 - v3;
    context.at[i] = static_cast<uint16_t>(10 * parent_rank_symbol.at[i] + 2 * CountReached(v1 - v2, kChildThresholds) +
                                          (margin >= kChildMargin));
  }
  return context;
}

MS_INLINE Lanes MapSymbols(const Lanes& symbols, const Lanes& map) {
  Lanes mapped;
  for (int i = 0; i < kStep; ++i) {
    const int shifts = kShiftsOfSymbol[symbols.at[i] & 7];
    mapped.at[i] = kSymbolOfPair[(map.at[i] >> (shifts & 255) & 3) | (map.at[i] >> (shifts >> 8) & 3) << 2];
  }
  return mapped;
}

#endif

}  // namespace
}  // namespace maskserve
