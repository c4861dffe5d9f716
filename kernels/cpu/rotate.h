// Rotary position embedding of one head (rope.cpp), and rows of a key/value cache.
#pragma once

#include "ops.h"

namespace maskserve {
namespace {

// x (hd) rotated in place: element i with element i + hd/2.
MS_INLINE void RotateHead(float* x, const float* cos, const float* sin, int64_t half) {
  for (int64_t i = 0; i < half; i += W) {
    const int64_t n = Min(W, half - i);
    const VF c = LoadPart(cos + i, n), s = LoadPart(sin + i, n);
    const VF a = LoadPart(x + i, n), b = LoadPart(x + half + i, n);
    StorePart(x + i, Sub(Mul(a, c), Mul(b, s)), n);
    StorePart(x + half + i, Add(Mul(b, c), Mul(a, s)), n);
  }
}

MS_INLINE void StoreRow(float* to, const float* from, int64_t n) {
  memcpy(to, from, static_cast<size_t>(n) * sizeof(float));
}
MS_INLINE void StoreRow(uint16_t* to, const float* from, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = Bf16OfFloat(from[i]);
}

// Position `position` of cache (KV, capacity, hd) = x (KV, hd).
template <typename T>
MS_INLINE void StorePosition(T* cache, const float* x, int64_t position, int64_t kv_heads, int64_t head_dim,
                             int64_t capacity) {
  for (int64_t h = 0; h < kv_heads; ++h) {
    StoreRow(cache + (h * capacity + position) * head_dim, x + h * head_dim, head_dim);
  }
}

}  // namespace
}  // namespace maskserve
