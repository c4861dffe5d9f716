// Decoding: one token of each sequence against its own cache, the positions cut into splits of 256 keys that blocks of
// their own attend to (flash-decoding), and joined by a second kernel.
//
// A key is read by 8 to 32 lanes in 16-byte loads, straight into registers, four keys at a time, for up to four query
// heads of its kv-head. Bound by DRAM: 4·hd bytes a position and kv-head (bf16 caches; fp32: 8·hd), 4 or 5 shuffles and
// 2·hd/16 or 2·hd/32 FMAs a lane and head. A row's result does not depend on the other rows.

#include "cache.cuh"
#include "reduce.cuh"

namespace maskserve {
namespace cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kUnroll = 4;  // keys

struct Decode {
  float *out, *q, *k, *partial;
  const float *v, *cos, *sin;
  const ms_cache_row* caches;
  int64_t heads, kv_heads, head_dim, window, splits;
  float scale;
};

// A thread a pair of a head of q or k: rotates it, and writes k and v to the row's caches.
template <typename T>
__global__ void __launch_bounds__(256) RotateAndStore(Decode p) {
  const int64_t half = p.head_dim / 2, i = GlobalIndex(), row = blockIdx.y;
  const int64_t head = i / half, element = i % half;
  if (head >= p.heads + p.kv_heads) return;
  const ms_cache_row cache = p.caches[row];
  const float c = p.cos[cache.position * half + element], s = p.sin[cache.position * half + element];
  const bool of_q = head < p.heads;
  const int64_t kv = head - p.heads;
  float* x = of_q ? p.q + (row * p.heads + head) * p.head_dim : p.k + (row * p.kv_heads + kv) * p.head_dim;
  const float2 rotated = RotatePair(x[element], x[half + element], c, s);
  x[element] = rotated.x;
  x[half + element] = rotated.y;
  if (of_q) return;
  const int64_t to = (kv * cache.capacity + cache.position) * p.head_dim + element;
  const float* v = p.v + (row * p.kv_heads + kv) * p.head_dim + element;
  T *keys = static_cast<T*>(cache.keys), *values = static_cast<T*>(cache.values);
  Store(keys + to, rotated.x);
  Store(keys + to + half, rotated.y);
  Store(values + to, v[0]);
  Store(values + to + half, v[half]);
}

MS_DEVICE float4 Zero4() {
  return make_float4(0.0f, 0.0f, 0.0f, 0.0f);
}
MS_DEVICE float Dot4(const float4& a, const float4& b, float sum) {
  return fmaf(a.x, b.x, fmaf(a.y, b.y, fmaf(a.z, b.z, fmaf(a.w, b.w, sum))));
}
MS_DEVICE float4 Fma4(float w, const float4& v, const float4& sum) {
  return make_float4(fmaf(w, v.x, sum.x), fmaf(w, v.y, sum.y), fmaf(w, v.z, sum.z), fmaf(w, v.w, sum.w));
}
MS_DEVICE float4 Scale4(const float4& v, float by) {
  return make_float4(v.x * by, v.y * by, v.z * by, v.w * by);
}

// One head's running softmax in the lanes of a key: Σ exp(s − largest) v, Σ exp(s − largest).
template <int kVectors>
struct Running {
  float largest, total;
  float4 sum[kVectors];
};

// What a block leaves of a head and split: hd sums, then the largest score and the total.
MS_DEVICE float* PartialOf(const Decode& p, int64_t row, int64_t head, int64_t split) {
  return p.partial + ((row * p.heads + head) * p.splits + split) * (p.head_dim + 2);
}

// A lane's columns of a row, kVectors · 4 from `first` on, as they lie in memory; zeros where there is no row.
template <typename T, int kVectors>
MS_DEVICE void LoadColumns(typename CacheFour<T>::Type (&to)[kVectors], const T* row, int64_t first, int64_t head_dim) {
  typedef typename CacheFour<T>::Type Four;
  if constexpr (sizeof(T) == 2 && kVectors == 2) {
    if (head_dim % 8 == 0) {
      const bool there = row != nullptr && first < head_dim;
      const uint4 both = there ? *reinterpret_cast<const uint4*>(row + first) : uint4{};
      to[0] = {both.x, both.y};
      to[1] = {both.z, both.w};
      return;
    }
  }
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    const bool there = row != nullptr && first + 4 * i < head_dim;
    to[i] = there ? *reinterpret_cast<const Four*>(row + first + 4 * i) : Four{};
  }
}

// kLanes lanes a key of T, kVectors · 4 columns a lane; kHeads query heads of the kv-head.
template <typename T, int kLanes, int kVectors, int kHeads>
struct SplitAttention {
  static constexpr int kKeys = kThreads / kLanes;  // at once
  typedef Running<kVectors> State;
  typedef typename CacheFour<T>::Type Four;

  // Four keys join each head's softmax; keys that are not attended to have no row.
  MS_METHOD void Join(State (&states)[kHeads], const float4 (&q)[kHeads][kVectors], const Four (&k)[kUnroll][kVectors],
                      const Four (&v)[kUnroll][kVectors], const bool (&there)[kUnroll], float scale) {
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      float score[kUnroll], most = states[h].largest;
#pragma unroll
      for (int j = 0; j < kUnroll; ++j) {
        float sum = 0;
#pragma unroll
        for (int i = 0; i < kVectors; ++i) sum = Dot4(q[h][i], Widened(k[j][i]), sum);
        sum = WarpSum<kLanes>(sum);
        score[j] = there[j] ? sum * scale : -INFINITY;
        most = fmaxf(most, score[j]);
      }
      const float base = most == -INFINITY ? 0.0f : most, shrink = expf(states[h].largest - base);
      states[h].largest = most;
      states[h].total *= shrink;
#pragma unroll
      for (int i = 0; i < kVectors; ++i) states[h].sum[i] = Scale4(states[h].sum[i], shrink);
#pragma unroll
      for (int j = 0; j < kUnroll; ++j) {
        const float e = expf(score[j] - base);
        states[h].total += e;
#pragma unroll
        for (int i = 0; i < kVectors; ++i) states[h].sum[i] = Fma4(e, Widened(v[j][i]), states[h].sum[i]);
      }
    }
  }
};

// Grid: splits, kv-heads · chunks of kHeads query heads, rows.
template <typename T, int kLanes, int kVectors, int kHeads>
__global__ void __launch_bounds__(kThreads) AttendSplit(Decode p) {
  typedef SplitAttention<T, kLanes, kVectors, kHeads> Split;
  constexpr int kKeys = Split::kKeys, kColumns = 4 * kLanes * kVectors;
  // Stored by four: what is only declared as floats may begin at any multiple of 4 bytes.
  alignas(16) __shared__ float sums[kKeys][kHeads][kColumns];
  __shared__ float largest[kKeys][kHeads], totals[kKeys][kHeads];
  const int64_t split = blockIdx.x, row = blockIdx.z, group = p.heads / p.kv_heads;
  const int64_t chunks = CeilDiv<int64_t>(group, kHeads), kv = blockIdx.y / chunks;
  const int64_t first_head = kv * group + blockIdx.y % chunks * kHeads;
  const int64_t heads = Min<int64_t>(kHeads, (kv + 1) * group - first_head);
  const ms_cache_row cache = p.caches[row];
  const int64_t lowest = p.window > 0 ? Max<int64_t>(0, cache.position - p.window + 1) : 0;
  const int64_t begin = Max(lowest, split * kAttendSplit), end = Min(cache.position + 1, (split + 1) * kAttendSplit);
  const int lane = static_cast<int>(threadIdx.x) % kLanes, mine = static_cast<int>(threadIdx.x) / kLanes;
  const int first = 4 * kVectors * lane;

  float4 q[kHeads][kVectors];
  Running<kVectors> states[kHeads];
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
    const int64_t head = first_head + Min<int64_t>(h, heads - 1);
    LoadColumns(q[h], p.q + (row * p.heads + head) * p.head_dim, first, p.head_dim);
    states[h].largest = -INFINITY;
    states[h].total = 0;
#pragma unroll
    for (int i = 0; i < kVectors; ++i) states[h].sum[i] = Zero4();
  }
  const T *keys = static_cast<const T*>(cache.keys) + kv * cache.capacity * p.head_dim,
          *values = static_cast<const T*>(cache.values) + kv * cache.capacity * p.head_dim;
  for (int64_t at = begin; at < end; at += kKeys * kUnroll) {
    typename Split::Four k[kUnroll][kVectors], v[kUnroll][kVectors];
    bool there[kUnroll];
#pragma unroll
    for (int j = 0; j < kUnroll; ++j) {
      const int64_t key = at + mine + kKeys * j;
      there[j] = key < end;
      LoadColumns(k[j], there[j] ? keys + key * p.head_dim : nullptr, first, p.head_dim);
      LoadColumns(v[j], there[j] ? values + key * p.head_dim : nullptr, first, p.head_dim);
    }
    Split::Join(states, q, k, v, there, p.scale);
  }
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      *reinterpret_cast<float4*>(&sums[mine][h][first + 4 * i]) = states[h].sum[i];
    }
    if (lane == 0) {
      largest[mine][h] = states[h].largest;
      totals[mine][h] = states[h].total;
    }
  }
  __syncthreads();
  for (int64_t i = threadIdx.x; i < heads * p.head_dim; i += kThreads) {
    const int h = static_cast<int>(i / p.head_dim), d = static_cast<int>(i % p.head_dim);
    float most = -INFINITY, sum = 0, total = 0;
    for (int key = 0; key < kKeys; ++key) most = fmaxf(most, largest[key][h]);
    const float base = most == -INFINITY ? 0.0f : most;
    for (int key = 0; key < kKeys; ++key) {
      const float shrink = expf(largest[key][h] - base);
      sum = fmaf(shrink, sums[key][h][d], sum);
      total = fmaf(shrink, totals[key][h], total);
    }
    float* partial = PartialOf(p, row, first_head + h, split);
    partial[d] = sum;
    if (d == 0) {
      partial[p.head_dim] = most;
      partial[p.head_dim + 1] = total;
    }
  }
}

// A block a head of a row.
__global__ void __launch_bounds__(kThreads) JoinSplits(Decode p) {
  const int64_t head = blockIdx.x, row = blockIdx.y, step = p.head_dim + 2;
  const float* partial = PartialOf(p, row, head, 0);
  float most = -INFINITY;
  for (int64_t s = 0; s < p.splits; ++s) most = fmaxf(most, partial[s * step + p.head_dim]);
  for (int64_t d = threadIdx.x; d < p.head_dim; d += kThreads) {
    float sum = 0, total = 0;
    for (int64_t s = 0; s < p.splits; ++s) {
      const float shrink = expf(partial[s * step + p.head_dim] - most);
      sum = fmaf(shrink, partial[s * step + d], sum);
      total = fmaf(shrink, partial[s * step + p.head_dim + 1], total);
    }
    p.out[(row * p.heads + head) * p.head_dim + d] = sum / total;
  }
}

template <typename T, int kLanes, int kVectors, int kHeads>
void LaunchSplits(const Decode& p, int64_t rows, cudaStream_t stream) {
  const int64_t chunks = CeilDiv<int64_t>(p.heads / p.kv_heads, kHeads);
  const dim3 grid(static_cast<unsigned>(p.splits), static_cast<unsigned>(p.kv_heads * chunks),
                  static_cast<unsigned>(rows));
  Launch(AttendSplit<T, kLanes, kVectors, kHeads>, grid, kThreads, 0, stream, p);
}

template <typename T, int kLanes, int kVectors>
void LaunchHeads(const Decode& p, int64_t rows, cudaStream_t stream) {
  if (p.heads == p.kv_heads)
    LaunchSplits<T, kLanes, kVectors, 1>(p, rows, stream);
  else
    LaunchSplits<T, kLanes, kVectors, 4>(p, rows, stream);
}

// A lane has 16 bytes of a key; 32 of fp32 beyond hd 128.
template <typename T>
void LaunchLanes(const Decode& p, int64_t rows, cudaStream_t stream) {
  constexpr int kVectors = 4 / sizeof(T);
  if (p.head_dim <= 32 * kVectors)
    LaunchHeads<T, 8, kVectors>(p, rows, stream);
  else if (p.head_dim <= 64 * kVectors)
    LaunchHeads<T, 16, kVectors>(p, rows, stream);
  else if (p.head_dim <= 128 * kVectors)
    LaunchHeads<T, 32, kVectors>(p, rows, stream);
  else
    LaunchHeads<T, 32, 2>(p, rows, stream);
}

int64_t SplitsOf(int64_t max_position) {
  return CeilDiv(max_position + 1, kAttendSplit);
}

}  // namespace

size_t attend_rows_workspace(int64_t rows, int64_t heads, int64_t head_dim, int64_t max_position) {
  return static_cast<size_t>(rows * heads * SplitsOf(max_position) * (head_dim + 2)) * sizeof(float);
}

void attend_rows(float* out, float* q, float* k, const float* v, const float* cos, const float* sin,
                 const ms_cache_row* caches, ms_value_type type, int64_t rows, int64_t heads, int64_t kv_heads,
                 int64_t head_dim, double scale, int64_t window, int64_t max_position, void* workspace,
                 cudaStream_t stream) {
  const Decode p = {out,
                    q,
                    k,
                    static_cast<float*>(workspace),
                    v,
                    cos,
                    sin,
                    caches,
                    heads,
                    kv_heads,
                    head_dim,
                    window,
                    SplitsOf(max_position),
                    static_cast<float>(scale)};
  const unsigned all = static_cast<unsigned>(rows);
  WithCacheType(type, [&](auto element) {
    typedef decltype(element) T;
    Launch(RotateAndStore<T>, dim3(Blocks((heads + kv_heads) * head_dim / 2, 256), all), 256, 0, stream, p);
    LaunchLanes<T>(p, rows, stream);
  });
  Launch(JoinSplits, dim3(static_cast<unsigned>(heads), all), kThreads, 0, stream, p);
}

}  // namespace cuda
}  // namespace maskserve
