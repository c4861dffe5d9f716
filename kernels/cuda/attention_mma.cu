// Causal attention of many queries on tensor cores (FlashAttention-2, arXiv 2307.08691): q, k, v and the probabilities
// rounded to bf16, scores, softmax and sums in fp32. For prefill and training; hd a multiple of 16, at most 128.
//
// A block takes 128 queries of one head, 32 a warp (64, 16 a warp, where that would leave multiprocessors idle), and
// goes over the keys 64 at a time. Keys come by cp.async while the tile before is weighted, values while scores are
// computed; two blocks a multiprocessor wait for each other's. Per warp and tile of hd 128: 256 mma of 4,096 FLOPs, 80
// ldmatrix of 512 bytes, and some 450 fp32 instructions of softmax, of which only tiles on the diagonal or at the
// window's edge compare positions. Bound by the tensor cores' rate for mma.sync (some 600 TFLOP/s of an H100); shared
// memory is at four fifths of its own, the issue of instructions at half.

#include "mma_tiles.cuh"

namespace maskserve {
namespace cuda {
namespace {

constexpr int kKeys = kTileRows;
// Fewer blocks than this, the multiprocessors of an H100, are made twice as many.
constexpr int64_t kFewBlocks = 132;

// T: of keys and values.
template <typename T>
struct Problem {
  float *out, *lse;  // lse may be NULL
  const float* q;
  const T *k, *v;
  int64_t start, tokens, heads, kv_heads, head_dim;
  int64_t kv_token, kv_head, kv_batch;  // strides of k and v
  int64_t window;                       // 0, or less than start + tokens
  float scale;                          // · log₂ e
};

// A warp's running softmax, in rows g and g + 8 of each 16: a lane has its own columns' part of the totals.
template <int kM, int kDims>
struct Softmax {
  float sums[kM][kDims / 8][4], largest[kM][2], totals[kM][2];
};

// −∞ where row r of the warp does not attend to key `offset` + r of the tile: 32-bit, for the tiles that need it.
template <int kM>
MS_DEVICE void Mask(float (&scores)[kM][kKeys / 8][4], int offset, int window) {
  const int g = Lane() / 4, t = Lane() % 4;
#pragma unroll
  for (int m = 0; m < kM; ++m) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      // Keys 8n + i % 2 of the tile from `lowest` on, up to `last`.
      const int last = offset + 16 * m + g + 8 * (i / 2) - 2 * t, lowest = window > 0 ? last - window + 1 : INT32_MIN;
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) {
        const int key = 8 * n + i % 2;
        if (key > last || key < lowest) scores[m][n][i] = -INFINITY;
      }
    }
  }
}

// Scores become probabilities, as a of mma for 16 keys each.
template <int kM, int kDims>
MS_DEVICE void Weigh(Softmax<kM, kDims>& state, Weights<kM>& probabilities, const float (&scores)[kM][kKeys / 8][4],
                     float scale) {
#pragma unroll
  for (int m = 0; m < kM; ++m) {
    float base[2], shrink[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float most = state.largest[m][r];
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) most = fmaxf(most, fmaxf(scores[m][n][2 * r], scores[m][n][2 * r + 1]));
      most = WarpMax<4>(most);
      // Each product rounded by itself: where nothing is larger, what is summed stays.
      base[r] = most == -INFINITY ? 0.0f : -__fmul_rn(most, scale);
      shrink[r] = Exp2(__fadd_rn(base[r], __fmul_rn(state.largest[m][r], scale)));
      state.largest[m][r] = most;
      state.totals[m][r] *= shrink[r];
    }
#pragma unroll
    for (int n = 0; n < kKeys / 8; ++n) {
      float e[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        e[i] = Exp2(fmaf(scores[m][n][i], scale, base[i / 2]));
        state.totals[m][i / 2] += e[i];
      }
      SetWeights<kM>(probabilities, m, n, e);
    }
#pragma unroll
    for (int n = 0; n < kDims / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) state.sums[m][n][i] *= shrink[i / 2];
    }
  }
}

// The warp's queries from token `first` on, of which `left` are there.
template <int kM, int kDims, typename T>
MS_DEVICE void StoreQueries(const Problem<T>& p, const Softmax<kM, kDims>& state, int64_t first, int left) {
  const int g = Lane() / 4, t = Lane() % 4;
  const int64_t head = blockIdx.x, batch = blockIdx.z;
#pragma unroll
  for (int m = 0; m < kM; ++m) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float total = WarpSum<4>(state.totals[m][r]), share = 1.0f / total;
      const int row = 16 * m + g + 8 * r;
      if (row >= left) continue;
      const int64_t token = batch * p.tokens + first + row;
      float* to = p.out + (token * p.heads + head) * p.head_dim + 2 * t;
#pragma unroll
      for (int n = 0; n < kDims / 8; ++n) {
        const float* sums = state.sums[m][n] + 2 * r;
        if (8 * n < p.head_dim) *reinterpret_cast<float2*>(to + 8 * n) = make_float2(sums[0] * share, sums[1] * share);
      }
      if (p.lse == nullptr || t != 0) continue;
      p.lse[(batch * p.heads + head) * p.tokens + first + row] = state.largest[m][r] * (p.scale / kLog2e) + logf(total);
    }
  }
}

// Grid: heads, blocks of queries, the longest first, sequences. kM: 16 queries a warp each.
template <int kDims, int kM, typename T>
__global__ void __launch_bounds__(kMmaThreads, 2) AttendTensor(Problem<T> p) {
  typedef MmaTile<kDims> Tile;
  constexpr int kWarpQueries = 16 * kM, kQueries = kMmaWarps * kWarpQueries;
  uint16_t* queries = static_cast<uint16_t*>(SharedMemory());
  uint16_t* keys = queries + Tile::Elements(kQueries);
  uint16_t* values = keys + Tile::Elements(kKeys);
  const int64_t block = static_cast<int64_t>(gridDim.y - 1 - blockIdx.y) * kQueries;
  const int64_t q_token = p.heads * p.head_dim, head = blockIdx.x, batch = blockIdx.z;
  // The same tiles whatever the block, so that a query's result does not depend on the others of its call.
  const int64_t lowest = p.window > 0 ? Max<int64_t>(0, p.start + block - p.window + 1) / kKeys * kKeys : 0;
  const int64_t kv = batch * p.kv_batch + head / (p.heads / p.kv_heads) * p.kv_head + lowest * p.kv_token;
  MmaRows<T> k = {p.k + kv, p.kv_token}, v = {p.v + kv, p.kv_token};
  const int dims = static_cast<int>(p.head_dim), window = static_cast<int>(p.window);
  int queries_left = static_cast<int>(Min<int64_t>(p.tokens - block, kQueries));
  int left = static_cast<int>(p.start + block - lowest) + queries_left;  // keys
  LoadRows<kDims, kKeys>(keys, k, left, dims);
  LoadRows<kDims, kQueries>(queries,
                            MmaRows<float>{p.q + (batch * p.tokens + block) * q_token + head * p.head_dim, q_token},
                            queries_left, dims);
  // Of the warp's queries, and where the first one is, as the tile's keys are counted.
  int offset = left - queries_left + kWarpQueries * WarpOfBlock();
  queries += Tile::Elements(kWarpQueries) * WarpOfBlock();
  queries_left -= kWarpQueries * WarpOfBlock();

  Softmax<kM, kDims> state = {};
#pragma unroll
  for (int m = 0; m < kM; ++m) state.largest[m][0] = state.largest[m][1] = -INFINITY;
  for (; left > 0; left -= kKeys, offset -= kKeys) {
    const bool any = queries_left > 0 && offset > -kWarpQueries && (window == 0 || offset - window < kKeys - 1);
    const bool all = offset >= kKeys - 1 && (window == 0 || offset + kWarpQueries <= window);
    float scores[kM][kKeys / 8][4] = {};
    WaitForCopies<0>();
    __syncthreads();
    LoadRows<kDims, kKeys>(values, v, left, dims);
    if (any) MultiplyRows<kM, kDims>(scores, queries, keys);
    WaitForCopies<0>();
    __syncthreads();
    k.data += kKeys * k.stride;
    v.data += kKeys * v.stride;
    if (left > kKeys) LoadRows<kDims, kKeys>(keys, k, left - kKeys, dims);
    if (!any) continue;
    Weights<kM> probabilities;
    if (!all) Mask(scores, offset, window);
    Weigh(state, probabilities, scores, p.scale);
    Combine(state.sums, probabilities, values);
  }
  StoreQueries(p, state, block + kWarpQueries * WarpOfBlock(), queries_left);
}

template <int kDims, int kM, typename T>
void LaunchQueries(const Problem<T>& p, int64_t batch, cudaStream_t stream) {
  constexpr int kQueries = 16 * kM * kMmaWarps;
  const dim3 grid(static_cast<unsigned>(p.heads), Blocks(p.tokens, kQueries), static_cast<unsigned>(batch));
  Launch(AttendTensor<kDims, kM, T>, grid, kMmaThreads,
         MmaTile<kDims>::Elements(kQueries + 2 * kKeys) * sizeof(uint16_t), stream, p);
}

template <int kDims, typename T>
void LaunchDims(const Problem<T>& p, int64_t batch, cudaStream_t stream) {
  // Rounding fp32 on its way takes the registers of half the queries.
  if (sizeof(T) == 4 || CeilDiv<int64_t>(p.tokens, 32 * kMmaWarps) * p.heads * batch < kFewBlocks)
    LaunchQueries<kDims, 1>(p, batch, stream);
  else if constexpr (sizeof(T) == 2)
    LaunchQueries<kDims, 2>(p, batch, stream);
}

template <typename T>
void LaunchAttention(Problem<T> p, int64_t batch, double scale, cudaStream_t stream) {
  p.scale = static_cast<float>(scale) * kLog2e;
  if (p.window >= p.start + p.tokens) p.window = 0;
  if (p.head_dim <= 64)
    LaunchDims<64>(p, batch, stream);
  else if (p.head_dim <= 96)
    LaunchDims<96>(p, batch, stream);
  else
    LaunchDims<128>(p, batch, stream);
}

}  // namespace

void attention_forward_mma(float* out, float* lse, const float* q, const float* k, const float* v, ms_attention_shape s,
                           cudaStream_t stream) {
  const int64_t kv_token = s.kv_heads * s.head_dim;
  const Problem<float> p = {
      out,      lse, q, k, v, 0, s.tokens, s.heads, s.kv_heads, s.head_dim, kv_token, s.head_dim, s.tokens * kv_token,
      s.window, 0};
  LaunchAttention(p, s.batch, s.scale, stream);
}

void attention_mma(float* out, const float* q, const void* k_cache, const void* v_cache, ms_value_type type,
                   int64_t start, int64_t tokens, int64_t heads, int64_t kv_heads, int64_t head_dim, int64_t capacity,
                   double scale, int64_t window, cudaStream_t stream) {
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
                          head_dim,
                          capacity * head_dim,
                          0,
                          window,
                          0};
    LaunchAttention(p, 1, scale, stream);
  });
}

}  // namespace cuda
}  // namespace maskserve
