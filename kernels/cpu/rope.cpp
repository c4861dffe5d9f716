// Rotary position embedding (Su et al. 2021, arXiv 2104.09864) in Hugging Face's half-split order: element i is rotated
// with element i + hd/2. The tables hold cos and sin of position · frequency, with any scaling (llama3, yarn …) already
// in them.

#include "rotate.h"

namespace maskserve {
namespace {

constexpr int64_t kGrain = 65536;  // floats a task

template <typename T>
ms_status WriteChunk(ms_context* ctx, T* cache, const float* x, int64_t start, int64_t tokens, int64_t kv_heads,
                     int64_t head_dim, int64_t capacity) {
  const int64_t row = kv_heads * head_dim;
  auto body = [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      StorePosition(cache, x + t * row, start + t, kv_heads, head_dim, capacity);
    }
  };
  ParallelRanges(ctx, tokens, Max(1, kGrain / row), body);
  return MS_OK;
}

}  // namespace

namespace ISA {

ms_status Rope(ms_context* ctx, float* x, const float* cos, const float* sin, int64_t start, int64_t tokens,
               int64_t heads, int64_t head_dim) {
  const int64_t half = head_dim / 2;
  auto body = [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      for (int64_t h = 0; h < heads; ++h) {
        RotateHead(x + (t * heads + h) * head_dim, cos + (start + t) * half, sin + (start + t) * half, half);
      }
    }
  };
  ParallelRanges(ctx, tokens, Max(1, kGrain / (heads * head_dim)), body);
  return MS_OK;
}

ms_status KvWrite(ms_context* ctx, void* cache, ms_value_type type, const float* x, int64_t start, int64_t tokens,
                  int64_t kv_heads, int64_t head_dim, int64_t capacity) {
  switch (type) {
    case MS_F32:
      return WriteChunk(ctx, static_cast<float*>(cache), x, start, tokens, kv_heads, head_dim, capacity);
    case MS_BF16:
      return WriteChunk(ctx, static_cast<uint16_t*>(cache), x, start, tokens, kv_heads, head_dim, capacity);
    default:
      return FailType(ctx, "a cache", type);
  }
}

}  // namespace ISA
}  // namespace maskserve
