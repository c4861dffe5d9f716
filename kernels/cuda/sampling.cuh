// Choosing from a row of logits: a total order of tokens, their weights, and where a running sum of weights, best
// first, reaches a limit. All sums are integers, so their order does not matter.
#pragma once

#include "quads.cuh"
#include "reduce.cuh"

namespace maskserve {
namespace cuda {
namespace {

constexpr int kRunThreads = 256;
constexpr int kRun = kQuad * kRunThreads;  // ids of a block in the passes over a row
constexpr int kLastThreads = 1024;         // of the block that ends a row
constexpr int kBins = 256;
constexpr double kWeightUnit = 0x1p45;  // the weight of the largest logit
constexpr double kLastNat = 708;        // as on the CPU: what is further below the largest is no candidate
constexpr double kLastWeighed = 33;     // above 46 · ln 2: weights further below are 0
constexpr double kBinsOfUnit = 8;       // an eighth of a nat each: the bins reach as far as weights above 0

static_assert(kBins == kRunThreads, "a thread a bin");
static_assert(kMostSampled <= int64_t{kRun} * kBins, "a thread a run");

// Larger for a larger logit, then for a lower id. −0 is 0; a NaN is minus infinity, or below it.
MS_DEVICE uint64_t KeyOf(float logit, int64_t id, bool nan_below = false) {
  const float clean = logit == logit ? logit : -INFINITY;
  const uint32_t bits = __float_as_uint(clean == 0 ? 0.0f : clean);
  const uint32_t ordered = logit != logit && nan_below ? 0 : (bits >> 31) != 0 ? ~bits : bits | 0x80000000u;
  return static_cast<uint64_t>(ordered) << 32 | (0xffffffffu - static_cast<uint32_t>(id));
}
MS_DEVICE int32_t IdOfKey(uint64_t key) {
  return static_cast<int32_t>(0xffffffffu - static_cast<uint32_t>(key));
}
// NaN of a NaN below minus infinity.
MS_DEVICE float LogitOfKey(uint64_t key) {
  const uint32_t ordered = static_cast<uint32_t>(key >> 32);
  return __uint_as_float((ordered >> 31) != 0 ? ordered & 0x7fffffffu : ~ordered);
}

// Every thread gets the largest; `room` (kThreads / 32) is shared memory of its own.
template <int kThreads>
MS_DEVICE uint64_t BlockLargest(uint64_t key, uint64_t* room) {
#pragma unroll
  for (int bit = kWarp / 2; bit > 0; bit /= 2) key = Max(key, __shfl_xor_sync(kWholeWarp, key, bit));
  __syncthreads();
  if (Lane() == 0) room[WarpOfBlock()] = key;
  __syncthreads();
  key = room[0];
#pragma unroll
  for (int w = 1; w < kThreads / kWarp; ++w) key = Max(key, room[w]);
  return key;
}
template <int kThreads>
MS_DEVICE uint64_t LargestOf(const uint64_t* keys, int64_t count, uint64_t* room) {
  uint64_t key = 0;
  for (int64_t i = threadIdx.x; i < count; i += kThreads) key = Max(key, keys[i]);
  return BlockLargest<kThreads>(key, room);
}

// What a draw's temperature makes of logits. Worked out once a row: fp64 division is slow where fp64 is.
struct alignas(16) Scale {
  double inverse, last_gap;
  float weighed_gap, bins_of_logit;
};
MS_DEVICE Scale ScaleOf(double temperature) {
  // An infinite inverse would make NaN of the largest logit's 0.
  const double inverse = fmin(1 / temperature, DBL_MAX);
  return {inverse, -kLastNat * temperature, static_cast<float>(kLastWeighed * temperature),
          fminf(FLT_MAX, static_cast<float>(kBinsOfUnit * inverse))};
}
MS_DEVICE bool IsCandidate(const Scale& scale, float largest, float logit) {
  return logit >= -FLT_MAX && static_cast<double>(logit) - static_cast<double>(largest) > scale.last_gap;
}
// exp(·) to less than one. In fp64 only where it can be more than 0: `gap` is beyond float's range where logits are at
// both of its ends.
MS_DEVICE uint64_t WeightOf(const Scale& scale, float largest, float logit) {
  const float gap = largest - logit;
  if (!(logit >= -FLT_MAX) || (gap > scale.weighed_gap && gap <= FLT_MAX)) return 0;
  const double x = (static_cast<double>(logit) - static_cast<double>(largest)) * scale.inverse;
  return static_cast<uint64_t>(exp(x) * kWeightUnit + 0.5);
}
// The best have bin 0; never a lower one for a lower logit.
MS_DEVICE uint32_t BinOf(const Scale& scale, float largest, float logit) {
  return static_cast<uint32_t>(fminf(kBins - 1, (largest - logit) * scale.bins_of_logit));
}

// ---- running sums, of which a thread has one ----

struct alignas(16) Mass {
  uint64_t sum, count;
};
// Of the threads up to this one; `room` (kThreads / 32) is shared memory of its own.
template <int kThreads>
MS_DEVICE Mass RunningMass(Mass mine, Mass* room) {
#pragma unroll
  for (int step = 1; step < kWarp; step *= 2) {
    const uint64_t sum = __shfl_up_sync(kWholeWarp, mine.sum, static_cast<unsigned>(step));
    const uint64_t count = __shfl_up_sync(kWholeWarp, mine.count, static_cast<unsigned>(step));
    if (Lane() < step) continue;
    mine.sum += sum;
    mine.count += count;
  }
  __syncthreads();
  if (Lane() == kWarp - 1) room[WarpOfBlock()] = mine;
  __syncthreads();
  for (int w = 0; w < WarpOfBlock(); ++w) {
    mine.sum += room[w].sum;
    mine.count += room[w].count;
  }
  return mine;
}

// Where a running sum reaches a limit: the thread, what is before it, and what it has.
struct Place {
  uint32_t thread;
  Mass before, own;
};
// In all threads. `limit` is at least 1 and at most the whole; `through` includes `mine`.
template <bool kCounts>
MS_DEVICE Place Reach(const Mass& mine, const Mass& through, uint64_t limit, Place& room) {
  const Mass before = {through.sum - mine.sum, through.count - mine.count};
  const bool is_here =
      kCounts ? before.count < limit && limit <= through.count : before.sum < limit && limit <= through.sum;
  __syncthreads();
  if (is_here) room = {threadIdx.x, before, mine};
  __syncthreads();
  return room;
}

// What is left of `whole` · share, as a limit of a running sum.
MS_DEVICE uint64_t LimitOf(double share, uint64_t whole, bool beyond) {
  const double sum = share * static_cast<double>(whole);
  const uint64_t limit = beyond ? static_cast<uint64_t>(sum) + 1 : static_cast<uint64_t>(ceil(sum));
  return Max<uint64_t>(1, Min(limit, whole));
}

// ---- a bin's candidates ----

constexpr uint32_t kRanked = 128;  // candidates that are compared with each other
constexpr int kRankers = kLastThreads / static_cast<int>(kRanked);

struct alignas(16) Ranked {
  uint64_t key, weight;
};
struct alignas(16) Reached {
  uint64_t key, through;  // the sum of weights up to it and with it
};
struct SliceRoom {
  unsigned long long sums[kBins];
  uint32_t counts[kBins];
  uint64_t largest[kLastThreads / kWarp], smallest[kLastThreads / kWarp];
  Mass warps[kLastThreads / kWarp];
  Place place;
  Ranked ranked[kRanked];
  uint32_t gathered;
  Reached reached;
};

MS_DEVICE int BitsOf(uint64_t x) {
  const uint32_t high = static_cast<uint32_t>(x >> 32);
  return high != 0 ? 64 - __clz(high) : 32 - __clz(static_cast<uint32_t>(x));
}

// Adds to a bin what lanes have for it, kBins: for none. Where all have the same one (equal logits with ids in order),
// in one go: 64-bit atomics in shared memory are loops, as many rounds as lanes collide.
MS_DEVICE void AddToBins(SliceRoom& room, uint32_t bin, uint64_t weight) {
  const uint32_t first = __shfl_sync(kWholeWarp, bin, 0);
  const bool same = __all_sync(kWholeWarp, bin == first) != 0;
  const uint64_t sum = same ? WarpSum(weight) : weight;
  if (bin == static_cast<uint32_t>(kBins) || (same && Lane() != 0)) return;
  atomicAdd(&room.sums[bin], static_cast<unsigned long long>(sum));
  atomicAdd(&room.counts[bin], same ? static_cast<uint32_t>(kWarp) : 1u);
}

// The candidate of `keys` (count), a bin's in any order, at which the sum of weights (or the number), best first,
// reaches `limit`; `before`: what other bins have before these. Halves the keys that are left, seven times or more at
// once, until few enough are left to be compared.
template <bool kCounts>
__device__ Reached ReachWithin(const uint64_t* keys, uint32_t count, Mass before, uint64_t limit, const Scale& scale,
                               float largest_logit, SliceRoom& room) {
  uint64_t low = 0, high = UINT64_MAX;
  for (uint32_t left = count; left > kRanked;) {
    uint64_t largest = 0, smallest = UINT64_MAX;
    for (uint32_t i = threadIdx.x; i < count; i += kLastThreads) {
      if (keys[i] < low || keys[i] > high) continue;
      largest = Max(largest, keys[i]);
      smallest = Min(smallest, keys[i]);
    }
    largest = BlockLargest<kLastThreads>(largest, room.largest);
    smallest = ~BlockLargest<kLastThreads>(~smallest, room.smallest);
    const int shift = Max(0, BitsOf(largest - smallest) - 8);
    if (threadIdx.x < kBins) {
      room.sums[threadIdx.x] = 0;
      room.counts[threadIdx.x] = 0;
    }
    __syncthreads();
    for (uint32_t first = 0; first < count; first += kLastThreads) {
      const uint64_t key = first + threadIdx.x < count ? keys[first + threadIdx.x] : 0;
      const bool is_left = key >= smallest && key <= largest;
      AddToBins(room, is_left ? static_cast<uint32_t>((largest - key) >> shift) : static_cast<uint32_t>(kBins),
                is_left ? WeightOf(scale, largest_logit, LogitOfKey(key)) : 0);
    }
    __syncthreads();
    Mass mine = {0, 0};
    if (threadIdx.x < kBins) mine = {room.sums[threadIdx.x], room.counts[threadIdx.x]};
    const Mass through = RunningMass<kLastThreads>(mine, room.warps);
    const Place at = Reach<kCounts>(mine, through, limit - (kCounts ? before.count : before.sum), room.place);
    before.sum += at.before.sum;
    before.count += at.before.count;
    left = static_cast<uint32_t>(at.own.count);
    high = largest - (static_cast<uint64_t>(at.thread) << shift);
    low = high - Min(high - smallest, (uint64_t{1} << shift) - 1);
  }
  if (threadIdx.x == 0) room.gathered = 0;
  __syncthreads();
  for (uint32_t i = threadIdx.x; i < count; i += kLastThreads) {
    const uint64_t key = keys[i];
    if (key < low || key > high) continue;
    room.ranked[atomicAdd(&room.gathered, 1u)] = {key, WeightOf(scale, largest_logit, LogitOfKey(key))};
  }
  __syncthreads();
  // Eight threads a candidate add up those that are not worse.
  const uint32_t gathered = room.gathered, candidate = threadIdx.x / kRankers;
  const Ranked mine = candidate < gathered ? room.ranked[candidate] : Ranked{UINT64_MAX, 0};
  Mass through = {0, 0};
  for (uint32_t i = threadIdx.x % kRankers; i < gathered; i += kRankers) {
    const Ranked other = room.ranked[i];
    if (other.key < mine.key) continue;
    through.sum += other.weight;
    ++through.count;
  }
  through = {before.sum + WarpSum<kRankers>(through.sum), before.count + WarpSum<kRankers>(through.count)};
  const uint64_t reached = kCounts ? through.count : through.sum;
  if (candidate < gathered && threadIdx.x % kRankers == 0 && reached >= limit &&
      reached - (kCounts ? 1 : mine.weight) < limit) {
    room.reached = {mine.key, through.sum};
  }
  __syncthreads();
  return room.reached;
}

}  // namespace
}  // namespace cuda
}  // namespace maskserve
