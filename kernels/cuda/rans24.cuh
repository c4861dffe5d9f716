// The mask coders of codec/FORMAT.md §7 and §8 for one group and one state: what a lane does in a step. The tables are
// numbers in registers: nibbles of symbols, orders of four magnitudes.
#pragma once

#include "device.cuh"

namespace maskserve {
namespace cuda {
namespace {

constexpr int kProbabilityBits = 14;
constexpr uint32_t kSlots = 1u << kProbabilityBits;
constexpr uint32_t kLeastState = 1u << 16;
constexpr int kStep = 32;  // groups

MS_DEVICE uint32_t NibbleOfSymbol(uint32_t symbol) {
  return 0xed9c84u >> 4 * symbol & 15;
}
// What is no pattern counts as symbol 0.
MS_DEVICE uint32_t SymbolOfNibble(uint32_t nibble) {
  return nibble < 8 ? 0 : 0x05420031u >> 4 * (nibble - 8) & 15;
}

constexpr __host__ __device__ bool ReadsParent(uint32_t coder) {
  return coder == MS_CODER_PARENT || coder == MS_CODER_PARENT_WEIGHTS;
}
constexpr __host__ __device__ bool ReadsWeights(uint32_t coder) {
  return coder == MS_CODER_WEIGHTS || coder == MS_CODER_SCALED_WEIGHTS || coder == MS_CODER_PARENT_WEIGHTS ||
         coder == MS_CODER_MAGNITUDE;
}

// The magnitudes of a group in order, largest first, of equals the earlier position: `rank` has the rank of position p
// at bit 2p, `position` the position of rank r at bit 2r.
struct GroupOrder {
  int sorted[4];
  uint32_t rank, position;
};

MS_DEVICE GroupOrder OrderOf(const int (&v)[4]) {
  uint32_t ranks[4] = {0, 0, 0, 0};
#pragma unroll
  for (int p = 0; p < 4; ++p) {
#pragma unroll
    for (int q = p + 1; q < 4; ++q) {
      const bool later = v[q] > v[p];
      ranks[p] += later ? 1 : 0;
      ranks[q] += later ? 0 : 1;
    }
  }
  GroupOrder o;
  o.rank = ranks[0] | ranks[1] << 2 | ranks[2] << 4 | ranks[3] << 6;
  o.position = 1u << 2 * ranks[1] | 2u << 2 * ranks[2] | 3u << 2 * ranks[3];
  const int high0 = Max(v[0], v[1]), low0 = Min(v[0], v[1]), high1 = Max(v[2], v[3]), low1 = Min(v[2], v[3]);
  const int inner0 = Min(high0, high1), inner1 = Max(low0, low1);
  o.sorted[0] = Max(high0, high1);
  o.sorted[1] = Max(inner0, inner1);
  o.sorted[2] = Min(inner0, inner1);
  o.sorted[3] = Min(low0, low1);
  return o;
}

// The nibble of the two positions (or ranks) that `map` gives for those of a nibble.
MS_DEVICE uint32_t MapNibble(uint32_t nibble, uint32_t map) {
  const uint32_t a = map >> 2 * (nibble & 3) & 3, b = map >> 2 * (nibble >> 2) & 3;
  return Min(a, b) | Max(a, b) << 2;
}

MS_DEVICE uint32_t Reached(int distance, int t0, int t1, int t2) {
  return (distance >= t0) + (distance >= t1) + (distance >= t2);
}

// 16 · q(D) + 4 · q(A) + q(B).
MS_DEVICE uint32_t RootContext(const GroupOrder& o) {
  const int* v = o.sorted;
  return 16 * Reached(v[1] - v[2], 20, 60, 140) + 4 * Reached(v[0] - v[1], 20, 60, 140) +
         Reached(v[2] - v[3], 20, 60, 140);
}
// 10 · K + 2 · q(D) + q(min(A, B)).
MS_DEVICE uint32_t ChildContext(const GroupOrder& o, uint32_t parent_rank_symbol) {
  const int *v = o.sorted, d = v[1] - v[2];
  return 10 * parent_rank_symbol + 2 * (Reached(d, 8, 20, 40) + (d >= 80)) + (Min(v[0] - v[1], v[2] - v[3]) >= 24);
}

// What is known of a group before its mask.
struct KnownGroup {
  uint32_t context;
  GroupOrder order;
};

// `group` is one of the tensor's.
template <uint32_t kCoder>
MS_DEVICE KnownGroup LookAt(const ms_mask_tensor& tensor, int64_t group) {
  KnownGroup known;
  known.context = 0;
  if (ReadsWeights(kCoder)) {
    const uint2 words = *reinterpret_cast<const uint2*>(tensor.weights + 4 * group);
    int v[4] = {static_cast<int>(words.x & 0x7fff), static_cast<int>(words.x >> 16 & 0x7fff),
                static_cast<int>(words.y & 0x7fff), static_cast<int>(words.y >> 16 & 0x7fff)};
    if (kCoder == MS_CODER_SCALED_WEIGHTS) {
      // Of 32 bits: a division of 64 takes longer than the rest of a step. No tensor has 2³² groups.
      const uint32_t of_row = static_cast<uint32_t>(group) % static_cast<uint32_t>(tensor.cols / 4);
      const int16_t* scales = tensor.scales + 4 * static_cast<int64_t>(of_row);
#pragma unroll
      for (int i = 0; i < 4; ++i) v[i] = Max(0, Min(32767, v[i] + scales[i]));
    }
    known.order = OrderOf(v);
  }
  if (kCoder == MS_CODER_WEIGHTS || kCoder == MS_CODER_SCALED_WEIGHTS) known.context = RootContext(known.order);
  if (ReadsParent(kCoder)) {
    const uint32_t nibble = tensor.parent[group / 2] >> 4 * (group % 2) & 15;
    const uint32_t clean = NibbleOfSymbol(SymbolOfNibble(nibble));
    known.context = kCoder == MS_CODER_PARENT
                        ? SymbolOfNibble(clean)
                        : ChildContext(known.order, SymbolOfNibble(MapNibble(clean, known.order.rank)));
  }
  return known;
}

template <uint32_t kCoder>
MS_DEVICE uint32_t NibbleOfCoded(uint32_t symbol, const KnownGroup& known) {
  const uint32_t nibble = NibbleOfSymbol(symbol);
  return ReadsWeights(kCoder) ? MapNibble(nibble, known.order.position) : nibble;
}

// Where the slots of six symbols start, for one context: 7 of 8 numbers of 16 bits.
struct SymbolTable {
  uint4 words;
};
MS_DEVICE SymbolTable TableOf(const uint16_t* starts, uint32_t context) {
  return {*reinterpret_cast<const uint4*>(starts + 8 * context)};
}

// The state after a symbol, before words are due.
MS_DEVICE uint32_t DecodeSymbol(uint32_t& state, const SymbolTable& table) {
  const uint32_t slot = state & (kSlots - 1);
  const uint32_t bound[5] = {table.words.x >> 16, table.words.y & 0xffff, table.words.y >> 16, table.words.z & 0xffff,
                             table.words.z >> 16};
  uint32_t symbol = 0, start = 0, end = kSlots;
#pragma unroll
  for (int s = 4; s >= 0; --s) end = slot < bound[s] ? bound[s] : end;
#pragma unroll
  for (int s = 0; s < 5; ++s) {
    const bool above = slot >= bound[s];
    symbol += above ? 1 : 0;
    start = above ? bound[s] : start;
  }
  state = (end - start) * (state >> kProbabilityBits) + slot - start;
  return symbol;
}

// The words of a chunk, whatever its bytes: beyond the end there are zeros, and the chunk is known to overrun.
struct ChunkWords {
  const uint8_t *at, *end;
};
MS_DEVICE uint32_t WordAt(const ChunkWords& words, int ahead) {
  const uint8_t* p = words.at + 2 * ahead;
  if (p + 2 <= words.end) return *reinterpret_cast<const uint16_t*>(p);
  return p < words.end ? *p : 0;
}
MS_DEVICE uint32_t StateAt(const uint8_t* bytes, int lane) {
  return reinterpret_cast<const uint32_t*>(bytes)[lane];
}

}  // namespace
}  // namespace cuda
}  // namespace maskserve
