// The gradient of causal attention on tensor cores (FlashAttention-2, arXiv 2307.08691, Algorithm 2), as
// attention_training.cu has it on CUDA cores: probabilities recomputed from each row's log-sum-exp, one kernel that
// owns queries and writes dq, one that owns keys and writes dk and dv, so that no sum depends on the order of blocks.
// q, k, v, dout, probabilities and the gradients of scores are rounded to bf16, sums are fp32. hd a multiple of 16, at
// most 128.
//
// A block owns 64 rows, 16 a warp, and goes over the others 64 at a time; what it reads is rounded on its way to shared
// memory. 14·hd FLOPs a query and key pair in 7 products of mma (5 but for the scores that both kernels compute). Bound
// by shared memory, which each warp reads for 16 rows alone, and by loads that only the multiprocessor's other block
// hides.

#include "attention_deltas.cuh"
#include "mma_tiles.cuh"

namespace maskserve {
namespace cuda {
namespace {

constexpr int kRows = kTileRows;
constexpr int kWarpRows = kRows / kMmaWarps;

// Rows of a head in (B, T, heads, hd), from row `first` on.
MS_DEVICE MmaRows<float> RowsOf(const float* data, const ms_attention_shape& s, int64_t batch, int64_t head,
                                int64_t heads, int64_t first) {
  return {data + ((batch * s.tokens + first) * heads + head) * s.head_dim, heads * s.head_dim};
}

// The warp's 16 rows of sums, of which `left` are there.
template <int kDims>
MS_DEVICE void StoreRows(float* to, int64_t stride, const float (&sums)[1][kDims / 8][4], int left, int head_dim) {
  const int g = Lane() / 4, t = Lane() % 4;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    if (g + 8 * r >= left) continue;
    float* row = to + (g + 8 * r) * stride + 2 * t;
#pragma unroll
    for (int n = 0; n < kDims / 8; ++n) {
      if (8 * n < head_dim)
        *reinterpret_cast<float2*>(row + 8 * n) = make_float2(sums[0][n][2 * r], sums[0][n][2 * r + 1]);
    }
  }
}

// A pair whose query is `ahead` of its key, and how far a query reaches back.
MS_DEVICE bool Attends(int ahead, int window) {
  return ahead >= 0 && (window == 0 || ahead < window);
}

// Grid: heads, blocks of queries, the longest first, sequences; dq.
template <int kDims>
__global__ void __launch_bounds__(kMmaThreads, 2) QueryGradients(Gradient g) {
  constexpr int kTile = MmaTile<kDims>::Elements(kRows), kOwn = MmaTile<kDims>::Elements(kWarpRows);
  uint16_t* queries = static_cast<uint16_t*>(SharedMemory());
  uint16_t *douts = queries + kTile, *keys = douts + kTile, *values = keys + kTile;
  const int64_t block = static_cast<int64_t>(gridDim.y - 1 - blockIdx.y) * kRows, head = blockIdx.x, batch = blockIdx.z;
  const int64_t kv = head / (g.s.heads / g.s.kv_heads), first = block + kWarpRows * WarpOfBlock();
  const int dims = static_cast<int>(g.s.head_dim), window = static_cast<int>(g.s.window), gr = Lane() / 4,
            t = Lane() % 4;
  const int block_left = static_cast<int>(Min<int64_t>(g.s.tokens - block, kRows));
  const int left = block_left - kWarpRows * WarpOfBlock();
  LoadRows<kDims, kRows>(queries, RowsOf(g.q, g.s, batch, head, g.s.heads, block), block_left, dims);
  LoadRows<kDims, kRows>(douts, RowsOf(g.dout, g.s, batch, head, g.s.heads, block), block_left, dims);
  queries += kOwn * WarpOfBlock();
  douts += kOwn * WarpOfBlock();
  float lse[2] = {}, delta[2] = {};
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    if (gr + 8 * r >= left) continue;
    const int64_t at = (batch * g.s.heads + head) * g.s.tokens + first + gr + 8 * r;
    lse[r] = -g.lse[at] * kLog2e;
    delta[r] = g.deltas[at];
  }
  const float scale = static_cast<float>(g.s.scale);
  float sums[1][kDims / 8][4] = {};
  const int64_t from = window > 0 ? Max<int64_t>(0, block - window + 1) / kRows * kRows : 0;
  for (int64_t key = from; key < block + block_left; key += kRows) {
    const int ahead = static_cast<int>(first - key), count = static_cast<int>(Min<int64_t>(g.s.tokens - key, kRows));
    __syncthreads();
    LoadRows<kDims, kRows>(keys, RowsOf(g.k, g.s, batch, kv, g.s.kv_heads, key), count, dims);
    LoadRows<kDims, kRows>(values, RowsOf(g.v, g.s, batch, kv, g.s.kv_heads, key), count, dims);
    __syncthreads();
    if (left <= 0 || ahead <= -kWarpRows || (window > 0 && ahead - (kRows - 1) >= window)) continue;
    const bool all = ahead >= kRows - 1 && (window == 0 || ahead + kWarpRows - 1 < window);
    float scores[1][kRows / 8][4] = {}, dp[1][kRows / 8][4] = {};
    MultiplyRows<1, kDims>(scores, queries, keys);
    MultiplyRows<1, kDims>(dp, douts, values);
    Weights<1> weights;
#pragma unroll
    for (int n = 0; n < kRows / 8; ++n) {
      float ds[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const bool there = all || Attends(ahead + gr + 8 * (i / 2) - (8 * n + 2 * t + i % 2), window);
        const float p = Exp2(fmaf(scores[0][n][i], scale * kLog2e, lse[i / 2]));
        ds[i] = there ? p * (dp[0][n][i] - delta[i / 2]) * scale : 0.0f;
      }
      SetWeights<1>(weights, 0, n, ds);
    }
    Combine(sums, weights, keys);
  }
  const MmaRows<float> to = RowsOf(g.dq, g.s, batch, head, g.s.heads, first);
  StoreRows<kDims>(const_cast<float*>(to.data), to.stride, sums, left, dims);
}

// Grid: kv-heads, blocks of keys, sequences; dk and dv, over the query heads that read them.
template <int kDims>
__global__ void __launch_bounds__(kMmaThreads, 2) KeyGradients(Gradient g) {
  constexpr int kTile = MmaTile<kDims>::Elements(kRows), kOwn = MmaTile<kDims>::Elements(kWarpRows);
  uint16_t* keys = static_cast<uint16_t*>(SharedMemory());
  uint16_t *values = keys + kTile, *queries = values + kTile, *douts = queries + kTile;
  alignas(8) __shared__ float lse[kRows], deltas[kRows];
  const int64_t block = static_cast<int64_t>(blockIdx.y) * kRows, kv = blockIdx.x, batch = blockIdx.z;
  const int64_t group = g.s.heads / g.s.kv_heads, first = block + kWarpRows * WarpOfBlock();
  const int dims = static_cast<int>(g.s.head_dim), window = static_cast<int>(g.s.window), gr = Lane() / 4,
            t = Lane() % 4;
  const int block_left = static_cast<int>(Min<int64_t>(g.s.tokens - block, kRows));
  const int left = block_left - kWarpRows * WarpOfBlock();
  LoadRows<kDims, kRows>(keys, RowsOf(g.k, g.s, batch, kv, g.s.kv_heads, block), block_left, dims);
  LoadRows<kDims, kRows>(values, RowsOf(g.v, g.s, batch, kv, g.s.kv_heads, block), block_left, dims);
  keys += kOwn * WarpOfBlock();
  values += kOwn * WarpOfBlock();
  const float scale = static_cast<float>(g.s.scale);
  float key_sums[1][kDims / 8][4] = {}, value_sums[1][kDims / 8][4] = {};
  const int64_t end = window > 0 ? Min(g.s.tokens, block + kRows - 1 + window) : g.s.tokens;
  for (int64_t head = kv * group; head < (kv + 1) * group; ++head) {
    for (int64_t query = block; query < end; query += kRows) {
      const int count = static_cast<int>(Min<int64_t>(g.s.tokens - query, kRows)), at = static_cast<int>(threadIdx.x);
      const int ahead = static_cast<int>(query - first);
      __syncthreads();
      LoadRows<kDims, kRows>(queries, RowsOf(g.q, g.s, batch, head, g.s.heads, query), count, dims);
      LoadRows<kDims, kRows>(douts, RowsOf(g.dout, g.s, batch, head, g.s.heads, query), count, dims);
      if (at < kRows) {
        const int64_t of = (batch * g.s.heads + head) * g.s.tokens + query + at;
        // Beyond the sequence all probabilities are 2^−∞.
        lse[at] = at < count ? -g.lse[of] * kLog2e : -INFINITY;
        deltas[at] = at < count ? g.deltas[of] : 0.0f;
      }
      __syncthreads();
      if (left <= 0 || ahead <= -kRows || (window > 0 && ahead - (kWarpRows - 1) >= window)) continue;
      const bool all = ahead >= kWarpRows - 1 && (window == 0 || ahead + kRows - 1 < window);
      float scores[1][kRows / 8][4] = {}, dp[1][kRows / 8][4] = {};
      MultiplyRows<1, kDims>(scores, keys, queries);
      MultiplyRows<1, kDims>(dp, values, douts);
      Weights<1> probabilities, weights;
#pragma unroll
      for (int n = 0; n < kRows / 8; ++n) {
        float p[4], ds[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int column = 8 * n + 2 * t + i % 2;
          const bool there = all || Attends(ahead + column - (gr + 8 * (i / 2)), window);
          p[i] = there ? Exp2(fmaf(scores[0][n][i], scale * kLog2e, lse[column])) : 0.0f;
          ds[i] = p[i] * (dp[0][n][i] - deltas[column]) * scale;
        }
        SetWeights<1>(probabilities, 0, n, p);
        SetWeights<1>(weights, 0, n, ds);
      }
      Combine(value_sums, probabilities, douts);
      Combine(key_sums, weights, queries);
    }
  }
  const MmaRows<float> dk = RowsOf(g.dk, g.s, batch, kv, g.s.kv_heads, first),
                       dv = RowsOf(g.dv, g.s, batch, kv, g.s.kv_heads, first);
  StoreRows<kDims>(const_cast<float*>(dk.data), dk.stride, key_sums, left, dims);
  StoreRows<kDims>(const_cast<float*>(dv.data), dv.stride, value_sums, left, dims);
}

template <int kDims>
void LaunchGradients(const Gradient& g, cudaStream_t stream) {
  const unsigned tiles = Blocks(g.s.tokens, kRows), batch = static_cast<unsigned>(g.s.batch);
  const size_t bytes = MmaTile<kDims>::Elements(4 * kRows) * sizeof(uint16_t);
  Launch(QueryGradients<kDims>, dim3(static_cast<unsigned>(g.s.heads), tiles, batch), kMmaThreads, bytes, stream, g);
  Launch(KeyGradients<kDims>, dim3(static_cast<unsigned>(g.s.kv_heads), tiles, batch), kMmaThreads, bytes, stream, g);
}

}  // namespace

void attention_backward_mma(float* dq, float* dk, float* dv, const float* dout, const float* out, const float* lse,
                            const float* q, const float* k, const float* v, ms_attention_shape s, void* workspace,
                            cudaStream_t stream) {
  if (s.window >= s.tokens) s.window = 0;
  const Gradient g = {dq, dk, dv, dout, out, lse, q, k, v, static_cast<float*>(workspace), s};
  LaunchDeltas(g, stream);
  if (s.head_dim <= 64)
    LaunchGradients<64>(g, stream);
  else if (s.head_dim <= 96)
    LaunchGradients<96>(g, stream);
  else
    LaunchGradients<128>(g, stream);
}

}  // namespace cuda
}  // namespace maskserve
