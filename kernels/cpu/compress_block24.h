// One row's part of a block, dense weights and metadata to packed form (packed24.h).
#pragma once

#include "packed24.h"
#include "pick24.h"

namespace maskserve {
namespace {

// The column, counted from the block's first, of value `v` of a block row with this metadata.
MS_INLINE int64_t KeptColumn24(const uint8_t* meta, int64_t v) {
  return v / 2 * 4 + (meta[v / 4] >> (2 * (v & 3)) & 3);
}

// A whole block: 64 weights, 8 bytes of metadata that name patterns.
MS_INLINE void CompressBlock24(const BlockRow24<uint8_t, uint16_t>& block, const uint16_t* w, const uint8_t* meta) {
  memcpy(block.meta, meta, 8);
#if defined(__AVX512BF16__)
  const __m512i index = WordIndex24(LoadMeta(meta));
  const __m512i kept = PickWords24(_mm512_loadu_si512(w), _mm512_loadu_si512(w + 32), index);
  // Past the caches, whole lines at a time: a copy is larger than they are, and a line that is written is not read
  // first.
  if ((reinterpret_cast<uintptr_t>(block.values) & 63) == 0) {
    _mm512_stream_si512(reinterpret_cast<__m512i*>(block.values), kept);
  } else {
    _mm512_storeu_si512(block.values, kept);
  }
#else
  for (int64_t v = 0; v < kBlock24 / 2; ++v) block.values[ValueWord24(v)] = w[KeptColumn24(meta, v)];
#endif
}

// What this thread has compressed is there for others from here on.
MS_INLINE void EndStreams24() {
#if defined(__AVX512BF16__)
  _mm_sfence();
#endif
}

}  // namespace
}  // namespace maskserve
