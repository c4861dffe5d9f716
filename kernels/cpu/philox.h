// Philox4x32-10 (Salmon et al. 2011, "Parallel Random Numbers: As Easy as 1, 2, 3"), a generator without state: four
// words from a counter of four and a key of two. In integer arithmetic alone, so its words are the same on every
// instruction set; the loops over lanes are what the compiler makes vectors of.
#pragma once

#include "simd.h"

namespace maskserve {
namespace {

constexpr int kPhiloxLanes = 64;

// word[i][lane]: counters in, random words out.
struct PhiloxBlock {
  alignas(64) uint32_t word[4][kPhiloxLanes];
};

MS_INLINE void Philox(PhiloxBlock* block, uint64_t key) {
  uint32_t low = static_cast<uint32_t>(key), high = static_cast<uint32_t>(key >> 32);
  uint32_t(*w)[kPhiloxLanes] = block->word;
  for (int round = 0; round < 10; ++round, low += 0x9e3779b9u, high += 0xbb67ae85u) {
    for (int i = 0; i < kPhiloxLanes; ++i) {
      const uint64_t a = static_cast<uint64_t>(0xd2511f53u) * w[0][i], b = static_cast<uint64_t>(0xcd9e8d57u) * w[2][i];
      w[0][i] = static_cast<uint32_t>(b >> 32) ^ w[1][i] ^ low;
      w[1][i] = static_cast<uint32_t>(b);
      w[2][i] = static_cast<uint32_t>(a >> 32) ^ w[3][i] ^ high;
      w[3][i] = static_cast<uint32_t>(a);
    }
  }
}

}  // namespace
}  // namespace maskserve
