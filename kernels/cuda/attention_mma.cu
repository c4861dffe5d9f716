// Causal attention of many queries on tensor cores (FlashAttention-2, arXiv 2307.08691): q, k, v and the probabilities
// rounded to bf16, scores, softmax and sums in fp32. For prefill; hd a multiple of 16, at most 128.
//
// A block takes 64 queries of one head, 16 a warp, and goes over the keys 32 at a time: keys as pairs along the head
// dimension, values as pairs along the keys, in shared memory; queries, probabilities and sums never leave registers.
// Per warp and 32 keys hd / 2 instructions of 4,096 FLOPs each read 2 words a lane from shared memory; that, the
// rounding of each tile (read once for 64 queries) and 16 exponentials a lane bound it, not the tensor cores: they
// wait.

#include "cache.cuh"
#include "reduce.cuh"

namespace maskserve {
namespace cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * kWarp;
constexpr int kQueries = 16 * kWarps;
constexpr int kKeys = 32;
constexpr int kValueStride = kKeys / 2 + 4;  // words: rows of a fragment lie in different banks

// T: of keys and values.
template <typename T>
struct Problem {
  float* out;
  const float* q;
  const T *k, *v;
  int64_t start, tokens, heads, kv_heads, head_dim, capacity, window;
  float scale;
};

template <int kDims>
struct Room {
  uint32_t keys[kKeys][kDims / 2 + 4];
  uint32_t values[kDims][kValueStride];
};

// Keys [first, first + kKeys) of one head as pairs of columns, their values as pairs of keys; zeros from `end` on.
template <int kDims, typename T>
MS_DEVICE void LoadKeys(Room<kDims>& room, const T* k, const T* v, int64_t first, int64_t end, int64_t head_dim) {
  for (int i = static_cast<int>(threadIdx.x); i < kKeys * (kDims / 2); i += kThreads) {
    const int key = i / (kDims / 2), pair = i % (kDims / 2);
    const bool there = first + key < end && 2 * pair < head_dim;
    room.keys[key][pair] = there ? PairAt(k + (first + key) * head_dim + 2 * pair) : 0;
  }
  for (int i = static_cast<int>(threadIdx.x); i < kKeys / 2 * kDims; i += kThreads) {
    const int pair = i / kDims, d = i % kDims;
    const int64_t key = first + 2 * pair;
    const T low = key < end && d < head_dim ? v[key * head_dim + d] : T{};
    const T high = key + 1 < end && d < head_dim ? v[(key + 1) * head_dim + d] : T{};
    room.values[d][pair] = PairOf(low, high);
  }
}

// Queries of rows g and g + 8 of the warp's 16, as a's of kDims / 16 instructions.
template <int kDims, typename T>
MS_DEVICE void LoadQueries(uint32_t (&a)[kDims / 16][4], const Problem<T>& p, const float* q, int64_t first, int g,
                           int t) {
#pragma unroll
  for (int c = 0; c < kDims / 16; ++c) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int64_t token = first + g + 8 * (i % 2);
      const int d = 16 * c + 2 * t + 8 * (i / 2);
      const bool there = token < p.tokens && d < p.head_dim;
      a[c][i] = there ? PairAt(q + token * p.heads * p.head_dim + d) : 0;
    }
  }
}

template <int kDims, typename T>
__global__ void __launch_bounds__(kThreads) AttendTensor(Problem<T> p) {
  __shared__ Room<kDims> room;
  const int g = Lane() / 4, t = Lane() % 4;
  const int64_t block = static_cast<int64_t>(blockIdx.x) * kQueries, first = block + 16 * WarpOfBlock();
  const int64_t head = blockIdx.y, kv = head / (p.heads / p.kv_heads);
  const T *k = p.k + kv * p.capacity * p.head_dim, *v = p.v + kv * p.capacity * p.head_dim;
  uint32_t queries[kDims / 16][4];
  LoadQueries<kDims>(queries, p, p.q + head * p.head_dim, first, g, t);

  float sums[kDims / 8][4] = {}, largest[2] = {-INFINITY, -INFINITY}, totals[2] = {0, 0};
  const int64_t from = p.window > 0 ? Max<int64_t>(0, p.start + block - p.window + 1) : 0;
  const int64_t end = p.start + Min(p.tokens, block + kQueries);
  for (int64_t key = from; key < end; key += kKeys) {
    __syncthreads();
    LoadKeys(room, k, v, key, end, p.head_dim);
    __syncthreads();
    float scores[kKeys / 8][4] = {};
#pragma unroll
    for (int c = 0; c < kDims / 16; ++c) {
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) {
        const uint32_t b[2] = {room.keys[8 * n + g][8 * c + t], room.keys[8 * n + g][8 * c + t + 4]};
        Mma16816(scores[n], queries[c], b);
      }
    }
    // Row r of two: element (g + 8r, 2t + i % 2) of each tile.
    float most[2] = {largest[0], largest[1]};
#pragma unroll
    for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int64_t at = key + 8 * n + 2 * t + i % 2, position = p.start + first + g + 8 * (i / 2);
        const bool there = at <= position && at < end && (p.window == 0 || at > position - p.window);
        scores[n][i] = there ? scores[n][i] * p.scale : -INFINITY;
        most[i / 2] = fmaxf(most[i / 2], scores[n][i]);
      }
    }
    float base[2], shrink[2], sum[2] = {0, 0};
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      most[r] = WarpMax<4>(most[r]);
      base[r] = most[r] == -INFINITY ? 0.0f : most[r];
      shrink[r] = expf(largest[r] - base[r]);
      largest[r] = most[r];
    }
    uint32_t probabilities[kKeys / 16][4];
#pragma unroll
    for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        scores[n][i] = expf(scores[n][i] - base[i / 2]);
        sum[i / 2] += scores[n][i];
      }
      // A tile of 8 keys is half of an instruction's a.
      probabilities[n / 2][n % 2 * 2] = PairOfFloats(scores[n][0], scores[n][1]);
      probabilities[n / 2][n % 2 * 2 + 1] = PairOfFloats(scores[n][2], scores[n][3]);
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) totals[r] = totals[r] * shrink[r] + WarpSum<4>(sum[r]);
#pragma unroll
    for (int n = 0; n < kDims / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) sums[n][i] *= shrink[i / 2];
#pragma unroll
      for (int c = 0; c < kKeys / 16; ++c) {
        const uint32_t b[2] = {room.values[8 * n + g][8 * c + t], room.values[8 * n + g][8 * c + t + 4]};
        Mma16816(sums[n], probabilities[c], b);
      }
    }
  }
#pragma unroll
  for (int n = 0; n < kDims / 8; ++n) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int64_t token = first + g + 8 * r, d = 8 * n + 2 * t;
      if (token >= p.tokens || d >= p.head_dim) continue;
      const float share = 1.0f / totals[r];
      float* to = p.out + (token * p.heads + head) * p.head_dim + d;
      *reinterpret_cast<float2*>(to) = make_float2(sums[n][2 * r] * share, sums[n][2 * r + 1] * share);
    }
  }
}

}  // namespace

void attention_mma(float* out, const float* q, const void* k_cache, const void* v_cache, ms_value_type type,
                   int64_t start, int64_t tokens, int64_t heads, int64_t kv_heads, int64_t head_dim, int64_t capacity,
                   double scale, int64_t window, cudaStream_t stream) {
  WithCacheType(type, [&](auto element) {
    typedef decltype(element) T;
    const Problem<T> p = {out,
                          q,
                          static_cast<const T*>(k_cache),
                          static_cast<const T*>(v_cache),
                          start,
                          tokens,
                          heads,
                          kv_heads,
                          head_dim,
                          capacity,
                          window,
                          static_cast<float>(scale)};
    const dim3 grid(Blocks(tokens, kQueries), static_cast<unsigned>(heads));
    if (head_dim <= 64)
      Launch(AttendTensor<64, T>, grid, kThreads, 0, stream, p);
    else
      Launch(AttendTensor<128, T>, grid, kThreads, 0, stream, p);
  });
}

}  // namespace cuda
}  // namespace maskserve
