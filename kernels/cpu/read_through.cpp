// Reading memory and nothing else: brings a mapped file in, and is the speed that a product over weights can reach.

#include "ops.h"

namespace maskserve {
namespace {

typedef uint64_t Words __attribute__((vector_size(sizeof(VF))));

// xor of the 64-bit words of [0, bytes).
uint64_t XorOf(const uint8_t* data, int64_t bytes) {
  Words sums[4] = {};
  int64_t i = 0;
  for (; i + 4 * static_cast<int64_t>(sizeof(Words)) <= bytes; i += 4 * static_cast<int64_t>(sizeof(Words))) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      Words words;
      memcpy(&words, data + i + j * static_cast<int64_t>(sizeof(Words)), sizeof(words));
      sums[j] ^= words;
    }
  }
  const Words all = (sums[0] ^ sums[1]) ^ (sums[2] ^ sums[3]);
  uint64_t result = 0;
  for (size_t lane = 0; lane < sizeof(Words) / 8; ++lane) result ^= all[lane];
  for (; i + 8 <= bytes; i += 8) {
    uint64_t word;
    memcpy(&word, data + i, 8);
    result ^= word;
  }
  return result;
}

}  // namespace

namespace ISA {

ms_status ReadThrough(ms_context* ctx, const void* data, int64_t bytes, uint64_t* result) {
  constexpr int64_t kGrain = 1 << 20;
  uint64_t sum = 0;
  auto body = [&](int64_t begin, int64_t end, int) {
    __atomic_fetch_xor(&sum, XorOf(static_cast<const uint8_t*>(data) + begin, end - begin), __ATOMIC_RELAXED);
  };
  ParallelRanges(ctx, bytes, kGrain, body);
  *result = sum;
  return MS_OK;
}

}  // namespace ISA
}  // namespace maskserve
