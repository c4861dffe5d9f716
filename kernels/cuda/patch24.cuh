// A patch on the device: what turns the product with one packed 2:4 matrix (the parent) into the product with another
// (the child). Δ = W ⊙ M_child − W ⊙ M_parent, as swaps: one weight of a group comes in, one goes out; a group whose
// two weights both change has two swaps.
//
// A row is cut into sections of 2¹⁸ columns, so that a swap's group fits 16 bits. Behind the header (magic, N, K, bytes
// of the swaps: 8 bytes each), (N·S + 1) uint32 byte offsets say where section s of row r is: [offset[r·S + s],
// offset[r·S + s + 1]) of what follows them. A section of c swaps is c pairs of bf16 (the weight that comes in, and
// minus the one that goes out), c groups (uint16, counted from the section's first) and c nibbles (position in |
// position out << 2, low nibble first): 6½ bytes a swap, so eight lanes a row find theirs without a search. Four bytes
// that mean nothing end it, so that it can be read by the word. (The CPU's patches, cpu/patch24.h, are laid out for its
// vectors: a patch belongs to the backend that made it.)
#pragma once

#include "group24.cuh"

namespace maskserve {
namespace cuda {
namespace {

constexpr int64_t kSectionColumns = 1 << 18;
constexpr int64_t kPatchHeader = 32;  // bytes
constexpr uint64_t kPatchMagic = 0x34322d6863746170ull;

inline __host__ __device__ int64_t SectionsOf(int64_t k) {
  return CeilDiv<int64_t>(k, kSectionColumns);
}
MS_DEVICE int64_t SectionBytes(int64_t swaps) {
  return 6 * swaps + (swaps + 1) / 2;
}

// The swaps of one section of a row; the arrays may begin at odd addresses.
struct Swaps {
  int64_t count;
  const uint8_t *pairs, *groups, *nibbles;
};

// offsets (sections + 1), of swaps that begin at `bytes`.
MS_DEVICE Swaps SwapsAt(const uint32_t* offsets, const uint8_t* bytes, int64_t section) {
  const uint32_t begin = offsets[section], end = offsets[section + 1];
  const int64_t count = static_cast<int64_t>(end - begin) * 2 / 13;
  const uint8_t* pairs = bytes + begin;
  return {count, pairs, pairs + 4 * count, pairs + 6 * count};
}
// Of a whole patch; `section` counts all rows' sections.
MS_DEVICE Swaps SwapsOf(const void* patch, int64_t sections, int64_t section) {
  const uint8_t* after = static_cast<const uint8_t*>(patch) + kPatchHeader;
  return SwapsAt(reinterpret_cast<const uint32_t*>(after), after + 4 * (sections + 1), section);
}

// One swap: the weights that come in and (negative) go out, and their columns, counted from the section's first.
struct Swap {
  float in, out;
  int64_t in_column, out_column;
};
MS_DEVICE Swap SwapAt(const Swaps& swaps, int64_t i) {
  const uint32_t pair = LoadWordAnywhere(swaps.pairs + 4 * i);
  const int64_t column = 4 * static_cast<int64_t>(LoadWordAnywhere(swaps.groups + 2 * i) & 0xffffu);
  const uint32_t nibble = swaps.nibbles[i / 2] >> 4 * (i % 2) & 15;
  return {LowOfPair(pair), HighOfPair(pair), column + (nibble & 3), column + (nibble >> 2)};
}

// Whether the child of a patch (NULL: the parent itself) keeps column c of a row with these nibbles.
__device__ inline bool KeepsColumn(const uint8_t* meta, const void* patch, int64_t sections, int64_t section,
                                   int64_t c) {
  const uint32_t nibble = meta[c / 8] >> (c & 4) & 15;
  bool kept = (KeptBits(nibble) >> (c & 3) & 1) != 0;
  if (patch == nullptr) return kept;
  const Swaps swaps = SwapsOf(patch, sections, section + c / kSectionColumns);
  for (int64_t i = 0; i < swaps.count; ++i) {
    const Swap swap = SwapAt(swaps, i);
    if (swap.in_column == c % kSectionColumns) kept = true;
    if (swap.out_column == c % kSectionColumns) kept = false;
  }
  return kept;
}

// Whether the row prunes a column of this thread's (threadIdx.x and every blockDim.x on) whose activation is not
// finite: 0 · ∞ is NaN in a dense product, and must be in one that skips the place.
__device__ inline bool SpreadsRow(const uint8_t* meta, const void* patch, int64_t sections, int64_t section,
                                  const float* x, int64_t k) {
  for (int64_t c = threadIdx.x; c < k; c += blockDim.x) {
    if (!Finite(x[c]) && !KeepsColumn(meta, patch, sections, section, c)) return true;
  }
  return false;
}

}  // namespace
}  // namespace cuda
}  // namespace maskserve
