// Rotary position embedding (Su et al. 2021, arXiv 2104.09864) in Hugging Face's half-split order: element i is rotated
// with element i + hd/2. The tables hold cos and sin of position · frequency, with any scaling (llama3, yarn …) already
// in them.

#include "ops.h"

namespace maskserve {
namespace {

void RotateHead(float* x, const float* cos, const float* sin, int64_t half) {
  for (int64_t i = 0; i < half; i += W) {
    const int64_t n = Min(W, half - i);
    const VF c = LoadPart(cos + i, n), s = LoadPart(sin + i, n);
    const VF a = LoadPart(x + i, n), b = LoadPart(x + half + i, n);
    StorePart(x + i, Sub(Mul(a, c), Mul(b, s)), n);
    StorePart(x + half + i, Add(Mul(b, c), Mul(a, s)), n);
  }
}

constexpr int64_t kGrain = 65536;  // floats a task

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

ms_status KvWrite(ms_context*, float* cache, const float* x, int64_t start, int64_t tokens, int64_t kv_heads,
                  int64_t head_dim, int64_t capacity) {
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t h = 0; h < kv_heads; ++h) {
      memcpy(cache + (h * capacity + start + t) * head_dim, x + (t * kv_heads + h) * head_dim,
             static_cast<size_t>(head_dim) * sizeof(float));
    }
  }
  return MS_OK;
}

}  // namespace ISA
}  // namespace maskserve
