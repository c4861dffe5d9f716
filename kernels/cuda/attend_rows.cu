// Decoding: one token of each sequence against its own cache, the positions cut into splits that blocks of their own
// attend to (flash-decoding), and joined by a second kernel. A split is 256 keys, or 128 or 64 where a row would have
// too few blocks otherwise; it depends on the number of rows, the heads and the row's own position, so that a row's
// result does not depend on the other rows, nor on the position that a graph was captured for.
//
// A key is read by 8 to 32 lanes in 16-byte loads, straight into registers, four keys at a time, the next four before
// these are used, for up to four query heads of its kv-head. Bound by DRAM: 4·hd bytes a position and kv-head (bf16
// caches; fp32: 8·hd), 4 or 5 shuffles and 2·hd/16 or 2·hd/32 FMAs a lane and head; a block of 128 threads has 16 KiB
// of keys and values under way while it computes.

#include "attend_split.cuh"

namespace maskserve {
namespace cuda {
namespace {

constexpr int kJoinWarps = 8;
constexpr int kJoinUnroll = 4;  // splits
// Blocks that a step is to have: two for each multiprocessor of an H100.
constexpr int64_t kWantedBlocks = 264;
constexpr int64_t kMostSplit = 256, kLeastSplit = 64;  // keys

struct Decode {
  float *out, *q, *k, *partial;
  const float *v, *cos, *sin;
  const ms_cache_row* caches;
  int64_t heads, kv_heads, head_dim, window;
  int64_t splits;  // most of a row
  int64_t wanted;  // of a row
  float scale;     // · log₂ e
};

// Keys of a split of a row that attends to `keys`: the most that leave `wanted` splits.
inline __host__ __device__ int64_t SplitOf(int64_t keys, int64_t wanted) {
  int64_t split = kMostSplit;
  while (split > kLeastSplit && CeilDiv(keys, split) < wanted) split /= 2;
  return split;
}
// At least the splits of a row that attends to `keys` or fewer. Splits of less than kMostSplit are for rows that twice
// as large ones would leave fewer than `wanted`.
int64_t MostSplits(int64_t keys, int64_t wanted) {
  return Max(CeilDiv(keys, kMostSplit), Min(CeilDiv(keys, kLeastSplit), 2 * (wanted - 1)));
}

// What a row attends to.
struct Span {
  int64_t lowest, keys, split;
};
MS_DEVICE Span SpanOf(const Decode& p, int64_t position) {
  const int64_t lowest = p.window > 0 ? Max<int64_t>(0, position - p.window + 1) : 0, keys = position + 1 - lowest;
  return {lowest, keys, SplitOf(keys, p.wanted)};
}

// A thread a pair of a head of q or k: rotates it, and writes k and v to the row's caches.
template <typename T>
__global__ void __launch_bounds__(256) RotateAndStore(Decode p) {
  const int64_t half = p.head_dim / 2, i = GlobalIndex(), row = blockIdx.y;
  const int64_t head = i / half, element = i % half;
  LetNextBegin();
  AwaitFront();
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

// What a block leaves of a head and split: hd sums, then the largest score and the total, by four.
inline __host__ __device__ int64_t PartialFloats(int64_t head_dim) {
  return head_dim + 4;
}
MS_DEVICE float* PartialOf(const Decode& p, int64_t row, int64_t head, int64_t split) {
  return p.partial + ((row * p.heads + head) * p.splits + split) * PartialFloats(p.head_dim);
}

// Grid: splits, kv-heads · chunks of kHeads query heads, rows.
template <typename T, int kLanes, int kVectors, int kHeads, bool kWide>
__global__ void __launch_bounds__(kAttendThreads) AttendSplit(Decode p) {
  typedef SplitAttention<T, kLanes, kVectors, kHeads, kWide> Split;
  constexpr int kKeys = Split::kKeys, kStep = kKeys * kUnroll, kColumns = 4 * kLanes * kVectors;
  // Stored by four: what is only declared as floats may begin at any multiple of 4 bytes.
  alignas(16) __shared__ float sums[kKeys][kHeads][kColumns];
  __shared__ float largest[kKeys][kHeads], totals[kKeys][kHeads];
  const int64_t split = blockIdx.x, row = blockIdx.z, group = p.heads / p.kv_heads;
  const int64_t chunks = CeilDiv<int64_t>(group, kHeads), kv = blockIdx.y / chunks;
  const int64_t first_head = kv * group + blockIdx.y % chunks * kHeads;
  const int64_t heads = Min<int64_t>(kHeads, (kv + 1) * group - first_head);
  LetNextBegin();
  AwaitFront();
  const ms_cache_row cache = p.caches[row];
  const Span span = SpanOf(p, cache.position);
  const int64_t begin = split * span.split;
  if (begin >= span.keys) return;
  const int lane = static_cast<int>(threadIdx.x) % kLanes, mine = static_cast<int>(threadIdx.x) / kLanes;
  const int first = 4 * kVectors * lane;

  float4 q[kHeads][kVectors];
  Running<kVectors> states[kHeads];
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
    const int64_t head = first_head + Min<int64_t>(h, heads - 1);
    const float* of_head = p.q + (row * p.heads + head) * p.head_dim;
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      const int d = first + 4 * i;
      q[h][i] = d < p.head_dim ? *reinterpret_cast<const float4*>(of_head + d) : Zero4();
    }
    Clear(states[h]);
  }
  // A lane that has no columns reads others, which count for nothing: its queries are zeros, nobody reads its sums.
  const int64_t at = (kv * cache.capacity + span.lowest + begin) * p.head_dim + (first < p.head_dim ? first : 0);
  typename Split::Rows keys = {static_cast<const T*>(cache.keys) + at, static_cast<int>(p.head_dim),
                               first + 4 < p.head_dim ? 4 : 0, mine,
                               static_cast<int>(Min(span.split, span.keys - begin))};
  typename Split::Rows values = keys;
  values.data = static_cast<const T*>(cache.values) + at;
  typename Split::Columns k, v;
  Split::Load(k, keys, 0);
  Split::Load(v, values, 0);
  // All lanes of a warp go as often, for their shuffles. The next keys are on their way while values are summed, the
  // next values while keys are scored.
  for (int done = 0; done < keys.count;) {
    float scores[kHeads][kUnroll];
    Split::Score(scores, q, k, keys.count - mine - done, p.scale);
    done += kStep;
    if (done < keys.count) Split::Load(k, keys, done);
    Split::Join(states, scores, v);
    if (done < keys.count) Split::Load(v, values, done);
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
  for (int64_t i = threadIdx.x; i < heads * p.head_dim; i += kAttendThreads) {
    const int h = static_cast<int>(i / p.head_dim), d = static_cast<int>(i % p.head_dim);
    float most = -INFINITY, sum = 0, total = 0;
    for (int key = 0; key < kKeys; ++key) most = fmaxf(most, largest[key][h]);
    const float base = BaseOf(most);
    for (int key = 0; key < kKeys; ++key) {
      const float shrink = Exp2(largest[key][h] - base);
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

// A block a head of a row; a warp every eighth split, a lane every 32nd vector of four columns.
__global__ void __launch_bounds__(kJoinWarps* kWarp) JoinSplits(Decode p) {
  constexpr int kVectors = kMaxHeadDim / 4 / kWarp;
  alignas(16) __shared__ float sums[kJoinWarps][kMaxHeadDim];
  __shared__ float largest[kJoinWarps], totals[kJoinWarps];
  const int64_t head = blockIdx.x, row = blockIdx.y;
  LetNextBegin();
  AwaitFront();
  const Span span = SpanOf(p, p.caches[row].position);
  const int splits = static_cast<int>(CeilDiv(span.keys, span.split)), dims = static_cast<int>(p.head_dim);
  const int warp = WarpOfBlock();
  Running<kVectors> state;
  Clear(state);
  for (int first = warp; first < splits; first += kJoinWarps * kJoinUnroll) {
    Running<kVectors> parts[kJoinUnroll];
    float most = state.largest;
#pragma unroll
    for (int j = 0; j < kJoinUnroll; ++j) {
      const int split = first + kJoinWarps * j;
      Clear(parts[j]);
      if (split >= splits) continue;
      const float* partial = PartialOf(p, row, head, split);
      parts[j].largest = partial[dims];
      parts[j].total = partial[dims + 1];
#pragma unroll
      for (int i = 0; i < kVectors; ++i) {
        const int d = 4 * (Lane() + kWarp * i);
        if (d < dims) parts[j].sum[i] = *reinterpret_cast<const float4*>(partial + d);
      }
    }
#pragma unroll
    for (int j = 0; j < kJoinUnroll; ++j) most = fmaxf(most, parts[j].largest);
    Rescale(state, most);
#pragma unroll
    for (int j = 0; j < kJoinUnroll; ++j) Add(state, parts[j]);
  }
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    *reinterpret_cast<float4*>(&sums[warp][4 * (Lane() + kWarp * i)]) = state.sum[i];
  }
  if (Lane() == 0) {
    largest[warp] = state.largest;
    totals[warp] = state.total;
  }
  __syncthreads();
  const int d = static_cast<int>(threadIdx.x);
  if (d >= dims) return;
  float most = -INFINITY, sum = 0, total = 0;
  for (int w = 0; w < kJoinWarps; ++w) most = fmaxf(most, largest[w]);
  for (int w = 0; w < kJoinWarps; ++w) {
    const float shrink = Exp2(largest[w] - BaseOf(most));
    sum = fmaf(shrink, sums[w][d], sum);
    total = fmaf(shrink, totals[w], total);
  }
  p.out[(row * p.heads + head) * p.head_dim + d] = sum / total;
}

// Heads of a kv-head that a block takes.
int64_t HeadsOfBlock(int64_t heads, int64_t kv_heads) {
  return heads == kv_heads ? 1 : 4;
}
int64_t ChunksOf(int64_t heads, int64_t kv_heads) {
  return CeilDiv(heads / kv_heads, HeadsOfBlock(heads, kv_heads));
}
// Splits that a row is to have.
int64_t WantedSplits(int64_t rows, int64_t heads, int64_t kv_heads) {
  return CeilDiv(kWantedBlocks, rows * kv_heads * ChunksOf(heads, kv_heads));
}
int64_t SplitsOf(int64_t rows, int64_t heads, int64_t kv_heads, int64_t keys) {
  return MostSplits(keys, WantedSplits(rows, heads, kv_heads));
}

template <typename T, int kLanes, int kVectors, int kHeads, bool kWide>
void LaunchSplits(const Decode& p, int64_t rows, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(p.splits), static_cast<unsigned>(p.kv_heads * ChunksOf(p.heads, p.kv_heads)),
                  static_cast<unsigned>(rows));
  LaunchOverlapped(AttendSplit<T, kLanes, kVectors, kHeads, kWide>, grid, kAttendThreads, 0, stream, p);
}

template <typename T, int kLanes, int kVectors, bool kWide>
void LaunchHeads(const Decode& p, int64_t rows, cudaStream_t stream) {
  if (HeadsOfBlock(p.heads, p.kv_heads) == 1)
    LaunchSplits<T, kLanes, kVectors, 1, kWide>(p, rows, stream);
  else
    LaunchSplits<T, kLanes, kVectors, 4, kWide>(p, rows, stream);
}

template <typename T, int kVectors, bool kWide>
void LaunchLanes(const Decode& p, int64_t rows, cudaStream_t stream) {
  if (p.head_dim <= 32 * kVectors)
    LaunchHeads<T, 8, kVectors, kWide>(p, rows, stream);
  else if (p.head_dim <= 64 * kVectors)
    LaunchHeads<T, 16, kVectors, kWide>(p, rows, stream);
  else
    LaunchHeads<T, 32, kVectors, kWide>(p, rows, stream);
}

// A lane has 16 bytes of a key where they are aligned to that; 32 of fp32 beyond hd 128.
template <typename T>
void LaunchWidth(const Decode& p, int64_t rows, cudaStream_t stream) {
  if constexpr (sizeof(T) == 2) {
    if (p.head_dim % 8 == 0) return LaunchLanes<T, 2, true>(p, rows, stream);
  }
  if (p.head_dim <= 128)
    LaunchLanes<T, 1, false>(p, rows, stream);
  else
    LaunchHeads<T, 32, 2, false>(p, rows, stream);
}

}  // namespace

size_t attend_rows_workspace(int64_t rows, int64_t heads, int64_t kv_heads, int64_t head_dim, int64_t max_position) {
  if (rows == 0) return 0;
  const int64_t splits = SplitsOf(rows, heads, kv_heads, max_position + 1);
  return static_cast<size_t>(rows * heads * splits * PartialFloats(head_dim)) * sizeof(float);
}

void attend_rows(float* out, float* q, float* k, const float* v, const float* cos, const float* sin,
                 const ms_cache_row* caches, ms_value_type type, int64_t rows, int64_t heads, int64_t kv_heads,
                 int64_t head_dim, double scale, int64_t window, int64_t max_position, void* workspace,
                 cudaStream_t stream) {
  if (rows == 0) return;
  const int64_t keys = window > 0 ? Min(window, max_position + 1) : max_position + 1;
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
                    SplitsOf(rows, heads, kv_heads, keys),
                    WantedSplits(rows, heads, kv_heads),
                    static_cast<float>(scale) * kLog2e};
  const unsigned all = static_cast<unsigned>(rows);
  WithCacheType(type, [&](auto element) {
    typedef decltype(element) T;
    LaunchOverlapped(RotateAndStore<T>, dim3(Blocks((heads + kv_heads) * head_dim / 2, 256), all), 256, 0, stream, p);
    LaunchWidth<T>(p, rows, stream);
  });
  LaunchOverlapped(JoinSplits, dim3(static_cast<unsigned>(heads), all), kJoinWarps * kWarp, 0, stream, p);
}

}  // namespace cuda
}  // namespace maskserve
