// What both gradients of attention begin with (FlashAttention-2, arXiv 2307.08691, Algorithm 2): each row's dout · out.
#pragma once

#include "reduce.cuh"

namespace maskserve {
namespace cuda {
namespace {

struct Gradient {
  float *dq, *dk, *dv;
  const float *dout, *out, *lse, *q, *k, *v;
  float* deltas;  // (B, H, T): dout · out
  ms_attention_shape s;
};

constexpr int kDeltaThreads = 128;

// A warp a token and head.
__global__ void __launch_bounds__(kDeltaThreads) Deltas(Gradient g, int64_t count) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * (kDeltaThreads / kWarp) + WarpOfBlock();
  if (i >= count) return;
  const int64_t hd = g.s.head_dim;
  float sum = 0;
  for (int64_t d = Lane(); d < hd; d += kWarp) sum = fmaf(g.dout[i * hd + d], g.out[i * hd + d], sum);
  sum = WarpSum(sum);
  const int64_t head = i % g.s.heads, t = i / g.s.heads % g.s.tokens, batch = i / g.s.heads / g.s.tokens;
  if (Lane() == 0) g.deltas[(batch * g.s.heads + head) * g.s.tokens + t] = sum;
}

inline void LaunchDeltas(const Gradient& g, cudaStream_t stream) {
  const int64_t count = g.s.batch * g.s.heads * g.s.tokens;
  Launch(Deltas, Blocks(count, kDeltaThreads / kWarp), kDeltaThreads, 0, stream, g, count);
}

}  // namespace
}  // namespace cuda
}  // namespace maskserve
