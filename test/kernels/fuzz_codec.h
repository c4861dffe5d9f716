// What the targets of the native codec's fuzzer share: random tensors, tables that fit them, and damage.
#pragma once

#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "../../kernels/cpu/cpu_backend.h"

using Bytes = std::vector<uint8_t>;

struct Random {
  uint64_t state;
  uint32_t Next() {
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    uint64_t z = state ^ state >> 33;
    z *= 0xff51afd7ed558ccdull;
    return static_cast<uint32_t>(z >> 32);
  }
  // In [0, n).
  int64_t Below(int64_t n) {
    return static_cast<int64_t>(static_cast<uint64_t>(Next()) * static_cast<uint64_t>(n) >> 32);
  }
  bool OneIn(int64_t n) { return Below(n) == 0; }
};

// A tensor and its inputs, each exactly as large as it must be, so that a read beyond one is found.
struct Tensor {
  ms_mask_tensor view{};
  std::vector<uint16_t> starts, weights;
  std::vector<int16_t> scales;
  Bytes parent, mask;
  std::vector<uint32_t> positions;
  Bytes codes;
};

// Tensors of one coder that chunks are made of.
struct Entry {
  std::vector<std::unique_ptr<Tensor>> tensors;
  std::vector<uint16_t> gaps;  // patches
  int64_t chunk_steps = 0;     // of all tensors

  std::vector<ms_mask_tensor> Views() const;
};

struct EntryForm {
  int64_t least_steps;  // from 128 on, chunks have 32 lanes
  int64_t row_groups;   // rows are multiples of so many groups
};

// A small random set for a coder, of odd tails, one tensor or many. Its masks are random, and for parents near them;
// starts are left empty.
Entry RandomEntry(Random& random, uint32_t coder, EntryForm form);
// The same with rows of any length, and 32 lanes one time in four.
Entry RandomEntry(Random& random, uint32_t coder);

// Boundaries of `symbols` slots for counts, every symbol that occurs at 1 or more, in tables of `stride`.
std::vector<uint16_t> FittedStarts(const uint32_t* counts, int symbols, int stride);

// One to three of: a bit, a byte, a word, a cut, an addition, a repeated part, zeros, ones.
Bytes Damaged(Random& random, const Bytes& bytes);

constexpr uint8_t kNibbles[] = {4, 8, 12, 9, 13, 14};

inline unsigned NibbleAt(const uint8_t* nibbles, int64_t group) {
  return nibbles[group / 2] >> 4 * (group % 2) & 15;
}
inline unsigned NibbleAt(const Bytes& nibbles, int64_t group) {
  return NibbleAt(nibbles.data(), group);
}
inline void SetNibble(uint8_t* nibbles, int64_t group, unsigned nibble) {
  const int shift = static_cast<int>(4 * (group % 2));
  nibbles[group / 2] = static_cast<uint8_t>((nibbles[group / 2] & ~(15 << shift)) | nibble << shift);
}
inline void SetNibble(Bytes& nibbles, int64_t group, unsigned nibble) {
  SetNibble(nibbles.data(), group, nibble);
}
