// Activations of a matmul, packed for the tiles: x (T, K) f32 becomes panels of TT tokens, each a sequence of K-blocks,
// each block TT runs of kStep elements, zero beyond K. A tile then reads one contiguous stream, whatever the stride of
// x, and the last block needs no mask.
#pragma once

#include "ops.h"

namespace maskserve {
namespace {

// T tokens in ⌈T / widest⌉ panels of nearly equal width: 7 tokens are 4 + 3, not 6 + 1.
struct Panels {
  int64_t tokens, count;

  MS_INLINE Panels Of(int64_t tokens, int64_t widest) { return {tokens, CeilDiv(tokens, widest)}; }
  int64_t First(int64_t panel) const { return tokens * panel / count; }
  int Width(int64_t panel) const { return static_cast<int>(First(panel + 1) - First(panel)); }
};

// Elements of the padded row.
MS_INLINE int64_t PaddedK(int64_t k, int64_t step) {
  return CeilDiv(k, step) * step;
}

// Layout::X* Layout::PackBlock(out, in, n): n ≤ kStep floats to kStep elements, the rest zero.
template <typename Layout>
MS_INLINE void PackPanel(typename Layout::X* out, const float* x, int width, int64_t k) {
  const int64_t step = Layout::kStep;
  for (int t = 0; t < width; ++t) {
    const float* in = x + t * k;
    typename Layout::X* to = out + t * step;
    int64_t i = 0;
    for (; i + step <= k; i += step, to += width * step) Layout::PackBlock(to, in + i);
    if (i < k) {
      float whole[64] = {0};
      memcpy(whole, in + i, static_cast<size_t>(k - i) * sizeof(float));
      Layout::PackBlock(to, whole);
    }
  }
}

// All panels, shared among the threads when there is enough to do. NULL when memory is short.
template <typename Layout>
MS_INLINE typename Layout::X* PackTokens(ms_context* ctx, const float* x, const Panels& panels, int64_t k,
                                         size_t* bytes) {
  typedef typename Layout::X X;
  const int64_t padded = PaddedK(k, Layout::kStep);
  *bytes = static_cast<size_t>(panels.tokens * padded) * sizeof(X);
  X* packed = static_cast<X*>(Scratch(ctx, *bytes));
  if (packed == NULL) return NULL;
  auto body = [&](int64_t begin, int64_t end, int) {
    for (int64_t p = begin; p < end; ++p) {
      const int64_t first = panels.First(p);
      PackPanel<Layout>(packed + first * padded, x + first * k, panels.Width(p), k);
    }
  };
  constexpr int64_t kGrain = 32768;  // floats a task
  ParallelRanges(ctx, panels.count, Max(1, kGrain * panels.count / (panels.tokens * k)), body);
  return packed;
}

}  // namespace
}  // namespace maskserve
