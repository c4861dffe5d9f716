// Causal attention of many queries with online softmax (FlashAttention-2, arXiv 2307.08691): against the caches in
// prefill, and over whole sequences in training, where each row's log-sum-exp is kept.
//
// A block takes 32 queries of one head (16 above hd 128) and goes over the keys in tiles as large. Bound by fp32 FMAs
// and shared memory: 4·hd FMAs a query and key pair, one 16-byte shared load for 4 of them at hd 128; keys and values
// are read once for 32 queries.

#include "attention_tiles.cuh"

namespace maskserve {
namespace cuda {
namespace {

// T: of keys and values.
template <typename T>
struct Problem {
  float *out, *lse;  // lse may be NULL
  const float* q;
  const T *k, *v;
  int64_t start, tokens, heads, kv_heads, head_dim, window;
  int64_t kv_token, kv_head, kv_batch;  // strides of k and v
  float scale;
};

template <int kDims, typename Element>
__global__ void __launch_bounds__(Tiles<kDims>::kThreads) Attend(Problem<Element> p) {
  typedef Tiles<kDims> T;
  float* queries = static_cast<float*>(SharedMemory());
  float* keys = queries + T::Floats(p.head_dim);
  float* weights = keys + T::Floats(p.head_dim);
  const int row = static_cast<int>(threadIdx.x) / 4, part = static_cast<int>(threadIdx.x) % 4;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * T::kRows, head = blockIdx.y, batch = blockIdx.z;
  const int64_t q_token = p.heads * p.head_dim, q_base = batch * p.tokens * q_token + head * p.head_dim;
  const int64_t kv_base = batch * p.kv_batch + head / (p.heads / p.kv_heads) * p.kv_head;
  const HeadRows<const Element> k = {p.k + kv_base, p.kv_token}, v = {p.v + kv_base, p.kv_token};
  LoadTile<kDims>(queries, HeadRows<const float>{p.q + q_base, q_token}, first, p.tokens, p.head_dim);

  // This row attends to [lowest, position].
  const int64_t position = p.start + first + row;
  const int64_t lowest = p.window > 0 ? Max<int64_t>(0, position - p.window + 1) : 0;
  const int64_t from = p.window > 0 ? Max<int64_t>(0, p.start + first - p.window + 1) : 0;
  const int64_t end = p.start + Min(p.tokens, first + T::kRows);
  RowSums<kDims> sums;
  Clear(sums);
  float largest = -INFINITY, total = 0;
  for (int64_t key = from; key < end; key += T::kRows) {
    __syncthreads();
    LoadTile<kDims>(keys, k, key, end, p.head_dim);
    __syncthreads();
    float scores[T::kScores];
    Scores<kDims>(scores, queries, keys, row, part, p.head_dim);
    float most = largest;
#pragma unroll
    for (int j = 0; j < T::kScores; ++j) {
      const int64_t at = key + part + 4 * j;
      scores[j] = at >= lowest && at <= position && at < end ? scores[j] * p.scale : -INFINITY;
      most = fmaxf(most, scores[j]);
    }
    most = WarpMax<4>(most);
    const float base = most == -INFINITY ? 0.0f : most;
    const float shrink = expf(largest - base);
    float sum = 0;
#pragma unroll
    for (int j = 0; j < T::kScores; ++j) {
      const float e = expf(scores[j] - base);
      weights[row * T::kWeightStride + part + 4 * j] = e;
      sum += e;
    }
    total = total * shrink + WarpSum<4>(sum);
    largest = most;
    ScaleSums(sums, shrink);
    __syncthreads();
    LoadTile<kDims>(keys, v, key, end, p.head_dim);
    __syncthreads();
    Accumulate(sums, weights + row * T::kWeightStride, keys, part, p.head_dim);
  }
  const int64_t t = first + row;
  if (t >= p.tokens) return;
  ScaleSums(sums, 1.0f / total);
  StoreRow(p.out + q_base + t * q_token, sums, part, p.head_dim);
  if (p.lse != nullptr && part == 0) p.lse[(batch * p.heads + head) * p.tokens + t] = largest + logf(total);
}

template <typename Element>
struct AttendLaunch {
  Problem<Element> p;
  int64_t batch;
  cudaStream_t stream;
  template <int kDims>
  void Run() const {
    typedef Tiles<kDims> T;
    const dim3 grid(Blocks(p.tokens, T::kRows), static_cast<unsigned>(p.heads), static_cast<unsigned>(batch));
    const size_t floats = 2 * T::Floats(p.head_dim) + T::kWeightFloats;
    Launch(Attend<kDims, Element>, grid, T::kThreads, floats * sizeof(float), stream, p);
  }
};

}  // namespace

void attention(float* out, const float* q, const void* k_cache, const void* v_cache, ms_value_type type, int64_t start,
               int64_t tokens, int64_t heads, int64_t kv_heads, int64_t head_dim, int64_t capacity, double scale,
               int64_t window, cudaStream_t stream) {
  WithCacheType(type, [&](auto element) {
    typedef decltype(element) T;
    const Problem<T> p = {out,
                          nullptr,
                          q,
                          static_cast<const T*>(k_cache),
                          static_cast<const T*>(v_cache),
                          start,
                          tokens,
                          heads,
                          kv_heads,
                          head_dim,
                          window,
                          head_dim,
                          capacity * head_dim,
                          0,
                          static_cast<float>(scale)};
    WithDims(head_dim, AttendLaunch<T>{p, 1, stream});
  });
}

void attention_forward(float* out, float* lse, const float* q, const float* k, const float* v, ms_attention_shape s,
                       cudaStream_t stream) {
  const int64_t kv_token = s.kv_heads * s.head_dim;
  const Problem<float> p = {out,
                            lse,
                            q,
                            k,
                            v,
                            0,
                            s.tokens,
                            s.heads,
                            s.kv_heads,
                            s.head_dim,
                            s.window,
                            kv_token,
                            s.head_dim,
                            s.tokens * kv_token,
                            static_cast<float>(s.scale)};
  WithDims(s.head_dim, AttendLaunch<float>{p, s.batch, stream});
}

}  // namespace cuda
}  // namespace maskserve
