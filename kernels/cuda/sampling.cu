// Choosing tokens on the device, as cpu/sampling.cpp does: softmax(logits / temperature) cut to the top_k best, then to
// the smallest set whose probability reaches top_p, then inverse-cdf at a uniform number.
//
// Bound by latency: four launches, of which three read the row, 0.5 MB at V = 128 k from the second-level cache, in
// blocks of 1,024 ids (126 of them), a vector a thread:
//   Largest  adds the deltas, and finds each run's largest logit
//   Weigh    sums each run's weights and, where a cut needs an order, the weights of each eighth of a nat
//   Gather   puts the candidates down to the bin where the first cut is in the order of bins: a few hundred, as a rule
//   Finish   a block a row: the bin where each limit is reached, and the candidate in it, compared with the bin's
//   others
// where one block a row made some 13 passes. fp64 is spread over all multiprocessors, and only where a weight is not 0:
// some 20 instructions an id. argmax is the first pass, and a last one over the runs.

#include "sampling.cuh"

namespace maskserve {
namespace cuda {
namespace {

// What the kernels of a row leave each other.
struct RowSpace {
  Scale* scale;
  unsigned long long *sums, *counts;  // (kBins) of the candidates by bin
  unsigned long long* candidates;     // their number, with those whose weight is 0
  uint64_t *largest, *totals;         // (runs)
  uint32_t* offsets;                  // (runs, kBins): of its bins, what comes before a run's part
  uint64_t* keys;                     // (V) gathered
  float* before;                      // (V) the logits that deltas change
};

inline __host__ __device__ int64_t Runs(int64_t vocab) {
  return CeilDiv<int64_t>(vocab, kRun);
}
inline __host__ __device__ int64_t RowWords(int64_t vocab) {
  const int64_t words = 4 + 2 * kBins + 1 + Runs(vocab) * (2 + kBins / 2) + vocab + CeilDiv<int64_t>(vocab, 2);
  return words + words % 2;  // Scale is aligned to two
}
MS_DEVICE RowSpace SpaceOf(uint64_t* workspace, int64_t row, int64_t vocab) {
  static_assert(sizeof(Scale) <= 4 * sizeof(uint64_t), "its words");
  const int64_t runs = Runs(vocab);
  RowSpace space;
  uint64_t* at = workspace + row * RowWords(vocab);
  space.scale = reinterpret_cast<Scale*>(at);
  space.sums = reinterpret_cast<unsigned long long*>(at + 4);
  space.counts = space.sums + kBins;
  space.candidates = space.counts + kBins;
  space.largest = at + 4 + 2 * kBins + 1;
  space.totals = space.largest + runs;
  space.offsets = reinterpret_cast<uint32_t*>(space.totals + runs);
  space.keys = space.totals + runs + runs * (kBins / 2);
  space.before = reinterpret_cast<float*>(space.keys + vocab);
  return space;
}

// A thread's part of its block's run.
struct Part {
  float logits[kQuad];
  int64_t first, there;  // its ids, and how many the row has of them
};
MS_DEVICE Part PartOf(const float* logits, int64_t vocab) {
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kRun + threadIdx.x * kQuad;
  const float4 v = LoadQuad(logits + first, static_cast<int>(vocab - first));
  return {{v.x, v.y, v.z, v.w}, first, vocab - first};
}

MS_DEVICE uint64_t LargestOfRun(const float* logits, int64_t vocab, uint64_t* room) {
  const Part part = PartOf(logits, vocab);
  uint64_t key = 0;
#pragma unroll
  for (int i = 0; i < kQuad; ++i) {
    if (i < part.there) key = Max(key, KeyOf(part.logits[i], part.first + i, true));
  }
  return BlockLargest<kRunThreads>(key, room);
}

__global__ void __launch_bounds__(kRunThreads) ArgmaxOfRuns(uint64_t* largest, const float* logits, int64_t vocab) {
  __shared__ uint64_t room[kRunThreads / kWarp];
  LetNextBegin();
  AwaitFront();
  const uint64_t key = LargestOfRun(logits + blockIdx.y * vocab, vocab, room);
  if (threadIdx.x == 0) largest[static_cast<int64_t>(blockIdx.y) * gridDim.x + blockIdx.x] = key;
}
__global__ void __launch_bounds__(kRunThreads) Argmax(int32_t* tokens, const uint64_t* largest, int64_t runs) {
  __shared__ uint64_t room[kRunThreads / kWarp];
  LetNextBegin();
  AwaitFront();
  const uint64_t key = LargestOf<kRunThreads>(largest + blockIdx.x * runs, runs, room);
  if (threadIdx.x == 0) tokens[blockIdx.x] = IdOfKey(key);
}

__global__ void __launch_bounds__(kRunThreads)
    Largest(float* all_logits, const ms_draw* draws, uint64_t* workspace, int64_t vocab) {
  __shared__ uint64_t room[kRunThreads / kWarp];
  LetNextBegin();
  AwaitFront();
  const RowSpace space = SpaceOf(workspace, blockIdx.y, vocab);
  const ms_draw draw = draws[blockIdx.y];
  float* logits = all_logits + blockIdx.y * vocab;
  // Every block changes its own.
  for (int64_t i = threadIdx.x; i < draw.count; i += kRunThreads) {
    const int32_t id = draw.ids[i];
    if (static_cast<uint32_t>(id) / kRun != blockIdx.x) continue;
    space.before[i] = logits[id];
    logits[id] += draw.deltas[i];
  }
  if (blockIdx.x == 0) {
    space.sums[threadIdx.x] = 0;
    space.counts[threadIdx.x] = 0;
    if (threadIdx.x == 0) {
      *space.candidates = 0;
      *space.scale = ScaleOf(draw.temperature);
    }
  }
  __syncthreads();
  const uint64_t key = LargestOfRun(logits, vocab, room);
  if (threadIdx.x == 0) space.largest[blockIdx.x] = key;
}

// Whether the largest logit is chosen, whatever the number.
MS_DEVICE bool IsGreedy(const ms_draw& draw) {
  return draw.temperature == 0 || draw.top_k == 1;
}
MS_DEVICE bool IsFinite(float largest) {
  return fabsf(largest) <= FLT_MAX;
}
// Whether candidates are drawn from best first; by id otherwise.
MS_DEVICE bool IsSorted(const ms_draw& draw, uint64_t candidates) {
  return draw.top_p < 1 || (draw.top_k > 0 && static_cast<uint64_t>(draw.top_k) < candidates);
}

// A block's bins. Weights are added in parts of 20 bits, with the number above the last: 32-bit atomics are the
// hardware's, and a run's sums fit.
struct RunBins {
  uint32_t low[kBins], middle[kBins], high_and_count[kBins];
};
constexpr int kPartBits = 20;
constexpr uint32_t kOne = 1u << 16;
static_assert(kRun << kPartBits <= INT64_C(1) << 32 && kRun * 0x1p45 < 0x1p56, "20 bits of each, and 16 above");

__global__ void __launch_bounds__(kRunThreads)
    Weigh(const float* all_logits, const ms_draw* draws, uint64_t* workspace, int64_t vocab) {
  __shared__ uint64_t room[kRunThreads / kWarp];
  __shared__ RunBins bins;
  __shared__ uint32_t candidates;
  LetNextBegin();
  AwaitFront();
  const RowSpace space = SpaceOf(workspace, blockIdx.y, vocab);
  const ms_draw draw = draws[blockIdx.y];
  if (IsGreedy(draw)) return;
  const Part part = PartOf(all_logits + blockIdx.y * vocab, vocab);
  const float largest = LogitOfKey(LargestOf<kRunThreads>(space.largest, gridDim.x, room));
  if (!IsFinite(largest)) return;
  const Scale scale = *space.scale;
  const bool by_bins = draw.top_p < 1 || draw.top_k > 0;
  if (by_bins) {
    bins.low[threadIdx.x] = 0;
    bins.middle[threadIdx.x] = 0;
    bins.high_and_count[threadIdx.x] = 0;
    if (threadIdx.x == 0) candidates = 0;
    __syncthreads();
  }
  uint64_t total = 0;
  uint32_t number = 0;
#pragma unroll
  for (int i = 0; i < kQuad; ++i) {
    if (i >= part.there) break;
    const float logit = part.logits[i];
    const uint64_t weight = WeightOf(scale, largest, logit);
    total += weight;
    if (!by_bins) continue;
    number += weight != 0 || IsCandidate(scale, largest, logit) ? 1 : 0;
    if (weight == 0) continue;
    const uint32_t bin = BinOf(scale, largest, logit), mask = (1u << kPartBits) - 1;
    atomicAdd(&bins.low[bin], static_cast<uint32_t>(weight) & mask);
    atomicAdd(&bins.middle[bin], static_cast<uint32_t>(weight >> kPartBits) & mask);
    atomicAdd(&bins.high_and_count[bin], static_cast<uint32_t>(weight >> 2 * kPartBits) + kOne);
  }
  total = BlockSum<kRunThreads>(total, room);
  if (threadIdx.x == 0) space.totals[blockIdx.x] = total;
  if (!by_bins) return;
  number = WarpSum(number);
  if (Lane() == 0) atomicAdd(&candidates, number);
  __syncthreads();
  if (threadIdx.x == 0) atomicAdd(space.candidates, static_cast<unsigned long long>(candidates));
  const uint32_t last = bins.high_and_count[threadIdx.x], count = last / kOne;
  if (count == 0) return;
  const uint64_t sum = (static_cast<uint64_t>(last % kOne) << 2 * kPartBits) +
                       (static_cast<uint64_t>(bins.middle[threadIdx.x]) << kPartBits) + bins.low[threadIdx.x];
  atomicAdd(&space.sums[threadIdx.x], static_cast<unsigned long long>(sum));
  // Which block comes when does not matter: the order within a bin is nobody's concern.
  space.offsets[blockIdx.x * kBins + threadIdx.x] =
      static_cast<uint32_t>(atomicAdd(&space.counts[threadIdx.x], static_cast<unsigned long long>(count)));
}

struct BinsRoom {
  Mass warps[kLastThreads / kWarp], whole;
  Place place;
};
// A row's bins, one in each of the first kBins threads, and all of them together.
struct RowBins {
  Mass mine, through, whole;
};
template <int kThreads>
MS_DEVICE RowBins BinsOf(const Mass& mine, BinsRoom& room) {
  RowBins bins = {mine, RunningMass<kThreads>(mine, room.warps), {0, 0}};
  if (threadIdx.x == kThreads - 1) room.whole = bins.through;
  __syncthreads();
  bins.whole = room.whole;
  return bins;
}
MS_DEVICE bool IsCut(const ms_draw& draw, const RowBins& bins) {
  return draw.top_k > 0 && static_cast<uint64_t>(draw.top_k) < bins.whole.count;
}

__global__ void __launch_bounds__(kRunThreads)
    Gather(const float* all_logits, const ms_draw* draws, uint64_t* workspace, int64_t vocab) {
  __shared__ uint64_t keys[kRunThreads / kWarp];
  __shared__ BinsRoom room;
  __shared__ uint32_t ends[kBins];
  LetNextBegin();
  AwaitFront();
  const RowSpace space = SpaceOf(workspace, blockIdx.y, vocab);
  const ms_draw draw = draws[blockIdx.y];
  if (IsGreedy(draw) || !IsSorted(draw, *space.candidates)) return;
  const Part part = PartOf(all_logits + blockIdx.y * vocab, vocab);
  const float largest = LogitOfKey(LargestOf<kRunThreads>(space.largest, gridDim.x, keys));
  if (!IsFinite(largest)) return;
  const RowBins bins = BinsOf<kRunThreads>({space.sums[threadIdx.x], space.counts[threadIdx.x]}, room);
  // Down to the bin where the first cut is: a second one is not below it.
  const Place last =
      IsCut(draw, bins) ? Reach<true>(bins.mine, bins.through, static_cast<uint64_t>(draw.top_k), room.place)
                        : Reach<false>(bins.mine, bins.through, LimitOf(draw.top_p, bins.whole.sum, false), room.place);
  if (bins.mine.count != 0) {
    ends[threadIdx.x] =
        static_cast<uint32_t>(bins.through.count - bins.mine.count) + space.offsets[blockIdx.x * kBins + threadIdx.x];
  }
  __syncthreads();
  const Scale scale = *space.scale;
#pragma unroll
  for (int i = 0; i < kQuad; ++i) {
    const float logit = part.logits[i];
    if (i >= part.there || !(logit >= -FLT_MAX)) continue;
    const uint32_t bin = BinOf(scale, largest, logit);
    if (bin > last.thread || WeightOf(scale, largest, logit) == 0) continue;
    space.keys[atomicAdd(&ends[bin], 1u)] = KeyOf(logit, part.first + i);
  }
}

struct LastRoom {
  uint64_t keys[kLastThreads / kWarp];
  uint64_t limit;
  BinsRoom bins;
  SliceRoom slice;
};

// LimitOf, worked out by one thread: fp64 again.
MS_DEVICE uint64_t BlockLimitOf(double share, uint64_t whole, bool beyond, LastRoom& room) {
  __syncthreads();
  if (threadIdx.x == 0) room.limit = LimitOf(share, whole, beyond);
  __syncthreads();
  return room.limit;
}

// The candidate at which the sum of weights, by ascending id, reaches its limit.
__device__ inline int32_t DrawById(const RowSpace& space, const ms_draw& draw, const float* logits, int64_t vocab,
                                   float largest, LastRoom& room) {
  Mass mine = {0, 0};
  if (threadIdx.x < Runs(vocab)) mine.sum = space.totals[threadIdx.x];
  const RowBins runs = BinsOf<kLastThreads>(mine, room.bins);
  const uint64_t limit = BlockLimitOf(draw.uniform, runs.whole.sum, true, room);
  const Place run = Reach<false>(runs.mine, runs.through, limit, room.bins.place);
  static_assert(kRun == kLastThreads, "a thread an id");
  const int64_t id = static_cast<int64_t>(run.thread) * kRun + threadIdx.x;
  mine.sum = id < vocab ? WeightOf(*space.scale, largest, logits[id]) : 0;
  const Mass through = RunningMass<kLastThreads>(mine, room.bins.warps);
  const Place at = Reach<false>(mine, through, limit - run.before.sum, room.bins.place);
  return static_cast<int32_t>(run.thread * kRun + at.thread);
}

template <bool kCounts>
MS_DEVICE Reached ReachKey(const RowSpace& space, const RowBins& bins, uint64_t limit, float largest, LastRoom& room) {
  const Place at = Reach<kCounts>(bins.mine, bins.through, limit, room.bins.place);
  return ReachWithin<kCounts>(space.keys + at.before.count, static_cast<uint32_t>(at.own.count), at.before, limit,
                              *space.scale, largest, room.slice);
}
// The candidate at which the sum of weights, best first, reaches its limit, after the cuts.
__device__ inline int32_t DrawByRank(const RowSpace& space, const ms_draw& draw, float largest, LastRoom& room) {
  Mass mine = {0, 0};
  if (threadIdx.x < kBins) mine = {space.sums[threadIdx.x], space.counts[threadIdx.x]};
  const RowBins bins = BinsOf<kLastThreads>(mine, room.bins);
  uint64_t whole = bins.whole.sum;
  if (IsCut(draw, bins)) {
    whole = ReachKey<true>(space, bins, static_cast<uint64_t>(draw.top_k), largest, room).through;
  }
  if (draw.top_p < 1) {
    const uint64_t limit = BlockLimitOf(draw.top_p, whole, false, room);
    whole = ReachKey<false>(space, bins, limit, largest, room).through;
  }
  const uint64_t limit = BlockLimitOf(draw.uniform, whole, true, room);
  return IdOfKey(ReachKey<false>(space, bins, limit, largest, room).key);
}

__global__ void __launch_bounds__(kLastThreads)
    Finish(int32_t* tokens, float* all_logits, const ms_draw* draws, uint64_t* workspace, int64_t vocab) {
  __shared__ LastRoom room;
  LetNextBegin();
  AwaitFront();
  const RowSpace space = SpaceOf(workspace, blockIdx.x, vocab);
  const ms_draw draw = draws[blockIdx.x];
  float* logits = all_logits + blockIdx.x * vocab;
  const uint64_t best = LargestOf<kLastThreads>(space.largest, Runs(vocab), room.keys);
  const float largest = LogitOfKey(best);
  int32_t token = IdOfKey(best);
  if (!IsGreedy(draw) && IsFinite(largest)) {
    token = IsSorted(draw, *space.candidates) ? DrawByRank(space, draw, largest, room)
                                              : DrawById(space, draw, logits, vocab, largest, room);
  }
  __syncthreads();
  for (int64_t i = threadIdx.x; i < draw.count; i += kLastThreads) logits[draw.ids[i]] = space.before[i];
  if (threadIdx.x == 0) tokens[blockIdx.x] = token;
}

}  // namespace

size_t argmax_workspace(int64_t rows, int64_t vocab) {
  return static_cast<size_t>(rows * Runs(vocab)) * sizeof(uint64_t);
}

void argmax(int32_t* tokens, const float* logits, int64_t rows, int64_t vocab, void* workspace, cudaStream_t stream) {
  const dim3 grid(Blocks(vocab, kRun), static_cast<unsigned>(rows));
  auto* largest = static_cast<uint64_t*>(workspace);
  LaunchOverlapped(ArgmaxOfRuns, grid, kRunThreads, 0, stream, largest, logits, vocab);
  LaunchOverlapped(Argmax, Blocks(rows, 1), kRunThreads, 0, stream, tokens, largest, Runs(vocab));
}

size_t sample_workspace(int64_t rows, int64_t vocab) {
  return static_cast<size_t>(rows * RowWords(vocab)) * sizeof(uint64_t);
}

void sample(int32_t* tokens, float* logits, const ms_draw* draws, int64_t rows, int64_t vocab, void* workspace,
            cudaStream_t stream) {
  const dim3 grid(Blocks(vocab, kRun), static_cast<unsigned>(rows));
  auto* words = static_cast<uint64_t*>(workspace);
  LaunchOverlapped(Largest, grid, kRunThreads, 0, stream, logits, draws, words, vocab);
  LaunchOverlapped(Weigh, grid, kRunThreads, 0, stream, logits, draws, words, vocab);
  LaunchOverlapped(Gather, grid, kRunThreads, 0, stream, logits, draws, words, vocab);
  LaunchOverlapped(Finish, Blocks(rows, 1), kLastThreads, 0, stream, tokens, logits, draws, words, vocab);
}

}  // namespace cuda
}  // namespace maskserve
