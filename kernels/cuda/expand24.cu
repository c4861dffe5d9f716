// A packed 2:4 matrix as a dense one again: what cuSPARSELt compresses its own form from, and what a dense product
// takes where that is the faster one.

#include "device.cuh"
#include "expand24.h"

namespace maskserve {
namespace cuda {
namespace {

constexpr int kThreads = 256;

constexpr uint32_t kOne = 0x3f80;

MS_DEVICE uint32_t Marked(uint32_t value, bool marked) {
  return marked && (value & 0x7fffu) == 0 ? kOne : value;
}

// A thread eight columns: a byte of metadata, four values. Selected, not multiplied: a kept −0 stays one.
__global__ void __launch_bounds__(kThreads)
    Expand(uint16_t* out, const uint16_t* values, const uint8_t* meta, int64_t bytes, bool marked) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= bytes) return;
  const uint32_t nibbles = meta[i];
  uint16_t dense[8] = {0, 0, 0, 0, 0, 0, 0, 0};
#pragma unroll
  for (int v = 0; v < 4; ++v) {
    const uint16_t value = static_cast<uint16_t>(Marked(values[4 * i + v], marked));
    const int at = 4 * (v / 2) + static_cast<int>(nibbles >> (2 * v) & 3);
#pragma unroll
    for (int c = 0; c < 8; ++c) dense[c] = c == at ? value : dense[c];
  }
#pragma unroll
  for (int c = 0; c < 8; ++c) out[8 * i + c] = dense[c];
}

// The same of aligned matrices, by whole words.
__global__ void __launch_bounds__(kThreads)
    ExpandWords(uint4* out, const uint2* values, const uint8_t* meta, int64_t bytes, bool marked) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= bytes) return;
  const uint32_t nibbles = meta[i];
  const uint2 pair = values[i];
  const uint32_t low[2] = {Marked(pair.x & 0xffffu, marked), Marked(pair.y & 0xffffu, marked)};
  const uint32_t high[2] = {Marked(pair.x >> 16, marked), Marked(pair.y >> 16, marked)};
  uint32_t words[4] = {0, 0, 0, 0};
#pragma unroll
  for (int g = 0; g < 2; ++g) {
    const uint32_t first = nibbles >> (4 * g) & 3, second = nibbles >> (4 * g + 2) & 3;
#pragma unroll
    for (uint32_t c = 0; c < 4; ++c) {
      const uint32_t value = c == first ? low[g] : c == second ? high[g] : 0;
      words[2 * g + c / 2] |= value << (16 * (c & 1));
    }
  }
  out[i] = make_uint4(words[0], words[1], words[2], words[3]);
}

}  // namespace

void expand24(uint16_t* out, const void* packed, int64_t n, int64_t k, bool marked, cudaStream_t stream) {
  const int64_t bytes = n * (k / 8);
  const uint8_t* meta = packed24_meta(packed, n, k);
  const bool aligned = ((reinterpret_cast<uintptr_t>(out) & 15) | (reinterpret_cast<uintptr_t>(packed) & 7)) == 0;
  if (aligned) {
    Launch(ExpandWords, Blocks(bytes, kThreads), kThreads, 0, stream, reinterpret_cast<uint4*>(out),
           static_cast<const uint2*>(packed), meta, bytes, marked);
  } else {
    Launch(Expand, Blocks(bytes, kThreads), kThreads, 0, stream, out, static_cast<const uint16_t*>(packed), meta, bytes,
           marked);
  }
}

}  // namespace cuda
}  // namespace maskserve
