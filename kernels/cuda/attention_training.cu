// The gradient of causal attention (FlashAttention-2, arXiv 2307.08691, Algorithm 2): probabilities are recomputed from
// each row's log-sum-exp. One kernel owns queries and writes dq, one owns keys and writes dk and dv, so that nothing is
// added by two blocks and no sum depends on their order; scores are computed in both.
//
// Bound by fp32 FMAs and shared memory as the forward pass: 14·hd FMAs a query and key pair.

#include "attention_deltas.cuh"
#include "attention_tiles.cuh"

namespace maskserve {
namespace cuda {
namespace {

// Rows of a head in (B, T, heads, hd).
template <typename T>
MS_DEVICE HeadRows<T> RowsOf(T* data, const ms_attention_shape& s, int64_t batch, int64_t head, int64_t heads) {
  return {data + (batch * s.tokens * heads + head) * s.head_dim, heads * s.head_dim};
}

MS_DEVICE bool Attends(const ms_attention_shape& s, int64_t query, int64_t key) {
  return key <= query && query < s.tokens && (s.window == 0 || key > query - s.window);
}

// The probability of a pair, and the gradient of its score.
struct PairGradient {
  float probability, score;
};
MS_DEVICE PairGradient GradientOf(const Gradient& g, int64_t lse_at, int64_t query, int64_t key, float score,
                                  float dp) {
  if (!Attends(g.s, query, key)) return {0.0f, 0.0f};
  const float scale = static_cast<float>(g.s.scale);
  const float probability = expf(score * scale - g.lse[lse_at + query]);
  return {probability, probability * (dp - g.deltas[lse_at + query]) * scale};
}

// A block: kRows queries of one head; dq.
template <int kDims>
__global__ void __launch_bounds__(Tiles<kDims>::kThreads) QueryGradients(Gradient g) {
  typedef Tiles<kDims> T;
  const int64_t hd = g.s.head_dim;
  float* queries = static_cast<float*>(SharedMemory());
  float* douts = queries + T::Floats(hd);
  float* keys = douts + T::Floats(hd);
  float* values = keys + T::Floats(hd);
  float* weights = values + T::Floats(hd);
  const int row = static_cast<int>(threadIdx.x) / 4, part = static_cast<int>(threadIdx.x) % 4;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * T::kRows, head = blockIdx.y, batch = blockIdx.z;
  const int64_t kv = head / (g.s.heads / g.s.kv_heads), lse_at = (batch * g.s.heads + head) * g.s.tokens;
  LoadTile<kDims>(queries, RowsOf(g.q, g.s, batch, head, g.s.heads), first, g.s.tokens, hd);
  LoadTile<kDims>(douts, RowsOf(g.dout, g.s, batch, head, g.s.heads), first, g.s.tokens, hd);
  const int64_t from = g.s.window > 0 ? Max<int64_t>(0, first - g.s.window + 1) : 0;
  const int64_t end = Min(g.s.tokens, first + T::kRows);
  RowSums<kDims> sums;
  Clear(sums);
  for (int64_t key = from; key < end; key += T::kRows) {
    __syncthreads();
    LoadTile<kDims>(keys, RowsOf(g.k, g.s, batch, kv, g.s.kv_heads), key, end, hd);
    LoadTile<kDims>(values, RowsOf(g.v, g.s, batch, kv, g.s.kv_heads), key, end, hd);
    __syncthreads();
    float scores[T::kScores], dp[T::kScores];
    Scores<kDims>(scores, queries, keys, row, part, hd);
    Scores<kDims>(dp, douts, values, row, part, hd);
#pragma unroll
    for (int j = 0; j < T::kScores; ++j) {
      const int at = part + 4 * j;
      weights[row * T::kWeightStride + at] = GradientOf(g, lse_at, first + row, key + at, scores[j], dp[j]).score;
    }
    __syncwarp();
    Accumulate(sums, weights + row * T::kWeightStride, keys, part, hd);
  }
  const HeadRows<float> dq = RowsOf(g.dq, g.s, batch, head, g.s.heads);
  if (first + row < g.s.tokens) StoreRow(dq.data + (first + row) * dq.stride, sums, part, hd);
}

// A block: kRows keys of one kv-head, over the query heads that read it; dk and dv.
template <int kDims>
__global__ void __launch_bounds__(Tiles<kDims>::kThreads) KeyGradients(Gradient g) {
  typedef Tiles<kDims> T;
  const int64_t hd = g.s.head_dim;
  float* keys = static_cast<float*>(SharedMemory());
  float* values = keys + T::Floats(hd);
  float* queries = values + T::Floats(hd);
  float* douts = queries + T::Floats(hd);
  float* probabilities = douts + T::Floats(hd);
  float* weights = probabilities + T::kWeightFloats;
  const int row = static_cast<int>(threadIdx.x) / 4, part = static_cast<int>(threadIdx.x) % 4;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * T::kRows, kv = blockIdx.y, batch = blockIdx.z;
  const int64_t group = g.s.heads / g.s.kv_heads;
  LoadTile<kDims>(keys, RowsOf(g.k, g.s, batch, kv, g.s.kv_heads), first, g.s.tokens, hd);
  LoadTile<kDims>(values, RowsOf(g.v, g.s, batch, kv, g.s.kv_heads), first, g.s.tokens, hd);
  const int64_t last = first + T::kRows - 1;
  const int64_t end = g.s.window > 0 ? Min(g.s.tokens, last + g.s.window) : g.s.tokens;
  RowSums<kDims> key_sums, value_sums;
  Clear(key_sums);
  Clear(value_sums);
  for (int64_t head = kv * group; head < (kv + 1) * group; ++head) {
    const int64_t lse_at = (batch * g.s.heads + head) * g.s.tokens;
    for (int64_t query = first; query < end; query += T::kRows) {
      __syncthreads();
      LoadTile<kDims>(queries, RowsOf(g.q, g.s, batch, head, g.s.heads), query, end, hd);
      LoadTile<kDims>(douts, RowsOf(g.dout, g.s, batch, head, g.s.heads), query, end, hd);
      __syncthreads();
      float scores[T::kScores], dp[T::kScores];
      Scores<kDims>(scores, keys, queries, row, part, hd);
      Scores<kDims>(dp, values, douts, row, part, hd);
#pragma unroll
      for (int j = 0; j < T::kScores; ++j) {
        const int at = part + 4 * j;
        const PairGradient pair = GradientOf(g, lse_at, query + at, first + row, scores[j], dp[j]);
        probabilities[row * T::kWeightStride + at] = pair.probability;
        weights[row * T::kWeightStride + at] = pair.score;
      }
      __syncwarp();
      Accumulate(value_sums, probabilities + row * T::kWeightStride, douts, part, hd);
      Accumulate(key_sums, weights + row * T::kWeightStride, queries, part, hd);
    }
  }
  if (first + row >= g.s.tokens) return;
  const HeadRows<float> dk = RowsOf(g.dk, g.s, batch, kv, g.s.kv_heads),
                        dv = RowsOf(g.dv, g.s, batch, kv, g.s.kv_heads);
  StoreRow(dk.data + (first + row) * dk.stride, key_sums, part, hd);
  StoreRow(dv.data + (first + row) * dv.stride, value_sums, part, hd);
}

struct GradientLaunch {
  Gradient g;
  cudaStream_t stream;
  template <int kDims>
  void Run() const {
    typedef Tiles<kDims> T;
    const unsigned tiles = Blocks(g.s.tokens, T::kRows), batch = static_cast<unsigned>(g.s.batch);
    const size_t bytes = (4 * T::Floats(g.s.head_dim) + 2 * T::kWeightFloats) * sizeof(float);
    Launch(QueryGradients<kDims>, dim3(tiles, static_cast<unsigned>(g.s.heads), batch), T::kThreads, bytes, stream, g);
    Launch(KeyGradients<kDims>, dim3(tiles, static_cast<unsigned>(g.s.kv_heads), batch), T::kThreads, bytes, stream, g);
  }
};

}  // namespace

size_t attention_backward_workspace(ms_attention_shape s) {
  return static_cast<size_t>(s.batch * s.heads * s.tokens) * sizeof(float);
}

void attention_backward(float* dq, float* dk, float* dv, const float* dout, const float* out, const float* lse,
                        const float* q, const float* k, const float* v, ms_attention_shape s, void* workspace,
                        cudaStream_t stream) {
  const Gradient g = {dq, dk, dv, dout, out, lse, q, k, v, static_cast<float*>(workspace), s};
  LaunchDeltas(g, stream);
  WithDims(s.head_dim, GradientLaunch{g, stream});
}

}  // namespace cuda
}  // namespace maskserve
