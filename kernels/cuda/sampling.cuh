// Choosing from a row of logits: a total order of tokens, and the token at which a running sum of weights, best first,
// reaches a limit. All sums are integers, so their order does not matter.
#pragma once

#include "reduce.cuh"

namespace maskserve {
namespace cuda {
namespace {

constexpr int kSampleThreads = 1024;
constexpr int kBins = 256;
constexpr double kWeightUnit = 0x1p45;  // the weight of the largest logit
constexpr float kBinsOfUnit = 8;        // first bins: an eighth of a nat

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

struct SampleRoom {
  unsigned long long sums[kBins];
  uint32_t counts[kBins];
  uint64_t warps[kSampleThreads / kWarp];
  uint64_t limit, key;
  uint32_t bin, count;
};

// The largest key below `below`, in all threads; 0 where there is none.
MS_DEVICE uint64_t LargestKey(const float* logits, int64_t vocab, uint64_t below, bool nan_below, SampleRoom& room) {
  uint64_t best = 0;
  for (int64_t i = threadIdx.x; i < vocab; i += kSampleThreads) {
    const uint64_t key = KeyOf(logits[i], i, nan_below);
    if (key < below) best = Max(best, key);
  }
#pragma unroll
  for (int bit = kWarp / 2; bit > 0; bit /= 2) best = Max(best, __shfl_xor_sync(kWholeWarp, best, bit));
  __syncthreads();
  if (Lane() == 0) room.warps[WarpOfBlock()] = best;
  __syncthreads();
  best = room.warps[0];
  for (int w = 1; w < kSampleThreads / kWarp; ++w) best = Max(best, room.warps[w]);
  return best;
}

// The candidates of a row: those with a weight and a key of at least `least`.
struct Candidates {
  const float* logits;
  const uint64_t* weights;
  int64_t vocab;
  float largest, bins_of_nat;
  uint64_t least;
};

MS_DEVICE uint32_t FirstBin(const Candidates& c, float logit) {
  // Never increasing with the logit; the best have the highest bin.
  return kBins - 1 - static_cast<uint32_t>(fminf(kBins - 1, (c.largest - logit) * c.bins_of_nat));
}

// Σ of the candidates' weights, or their number.
template <bool kCounts>
MS_DEVICE uint64_t WholeOf(const Candidates& c, SampleRoom& room) {
  uint64_t sum = 0;
  for (int64_t i = threadIdx.x; i < c.vocab; i += kSampleThreads) {
    const uint64_t weight = c.weights[i];
    if (weight != 0 && KeyOf(c.logits[i], i) >= c.least) sum += kCounts ? 1 : weight;
  }
  return BlockSum<kSampleThreads>(sum, room.warps);
}

// Warp 0: the bin, from the highest on, in which the sum reaches room.limit; the limit is then that within the bin.
MS_DEVICE void ChooseBin(SampleRoom& room) {
  constexpr int kOfLane = kBins / kWarp;
  const int top = kBins - 1 - kOfLane * Lane();
  uint64_t mine = 0;
  for (int i = 0; i < kOfLane; ++i) mine += room.sums[top - i];
  uint64_t before = mine;
#pragma unroll
  for (int step = 1; step < kWarp; step *= 2) {
    const uint64_t other = __shfl_up_sync(kWholeWarp, before, static_cast<unsigned>(step));
    if (Lane() >= step) before += other;
  }
  before -= mine;
  const uint64_t limit = room.limit;
  __syncwarp();
  if (before >= limit || before + mine < limit) return;
  for (int i = 0; i < kOfLane; ++i) {
    const uint64_t sum = room.sums[top - i];
    if (before + sum >= limit) {
      room.bin = static_cast<uint32_t>(top - i);
      room.count = room.counts[top - i];
      room.limit = limit - before;
      return;
    }
    before += sum;
  }
}

// The key of the candidate at which the sum of weights (or the number), best first, reaches `limit`, which is at least
// 1 and at most the whole. First by bins of the distance to the largest logit, then by the key's bytes.
template <bool kCounts>
__device__ uint64_t KeyAt(const Candidates& c, uint64_t limit, SampleRoom& room) {
  uint32_t first_bin = 0;
  uint64_t prefix = 0;
  if (threadIdx.x == 0) room.limit = limit;
  for (int pass = -1; pass < 8; ++pass) {
    // `shift`: bits of the key below this pass's byte.
    const int shift = 56 - 8 * pass;
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < kBins; i += kSampleThreads) {
      room.sums[i] = 0;
      room.counts[i] = 0;
    }
    __syncthreads();
    for (int64_t i = threadIdx.x; i < c.vocab; i += kSampleThreads) {
      const uint64_t weight = c.weights[i], key = KeyOf(c.logits[i], i);
      if (weight == 0 || key < c.least) continue;
      const uint32_t bin = FirstBin(c, c.logits[i]);
      if (pass >= 0 && (bin != first_bin || (pass > 0 && key >> (shift + 8) != prefix))) continue;
      const uint32_t at = pass < 0 ? bin : static_cast<uint32_t>(key >> shift & 255);
      atomicAdd(&room.sums[at], static_cast<unsigned long long>(kCounts ? 1 : weight));
      atomicAdd(&room.counts[at], 1u);
    }
    __syncthreads();
    if (WarpOfBlock() == 0) ChooseBin(room);
    __syncthreads();
    if (pass < 0)
      first_bin = room.bin;
    else
      prefix = prefix << 8 | room.bin;
    // Only one is left: it is found by its prefix.
    if (room.count != 1) continue;
    for (int64_t i = threadIdx.x; i < c.vocab; i += kSampleThreads) {
      const uint64_t key = KeyOf(c.logits[i], i);
      if (c.weights[i] == 0 || key < c.least || FirstBin(c, c.logits[i]) != first_bin) continue;
      if (pass < 0 || key >> shift == prefix) room.key = key;
    }
    __syncthreads();
    return room.key;
  }
  return prefix;
}

// The candidate at which the sum of weights, by ascending id, reaches `limit`: a thread sums a run of ids.
__device__ inline int32_t IdAt(const Candidates& c, uint64_t limit, SampleRoom& room) {
  const int64_t run = CeilDiv<int64_t>(c.vocab, kSampleThreads), first = run * threadIdx.x;
  uint64_t mine = 0;
  for (int64_t i = first; i < Min(c.vocab, first + run); ++i) mine += c.weights[i];
  uint64_t before = mine;
#pragma unroll
  for (int step = 1; step < kWarp; step *= 2) {
    const uint64_t other = __shfl_up_sync(kWholeWarp, before, static_cast<unsigned>(step));
    if (Lane() >= step) before += other;
  }
  __syncthreads();
  if (Lane() == kWarp - 1) room.warps[WarpOfBlock()] = before;
  __syncthreads();
  for (int w = 0; w < WarpOfBlock(); ++w) before += room.warps[w];
  before -= mine;
  if (before < limit && before + mine >= limit) {
    int64_t i = first;
    for (uint64_t sum = before; (sum += c.weights[i]) < limit;) ++i;
    room.key = static_cast<uint64_t>(i);
  }
  __syncthreads();
  return static_cast<int32_t>(room.key);
}

}  // namespace
}  // namespace cuda
}  // namespace maskserve
