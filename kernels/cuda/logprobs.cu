// Log-probabilities of a row of logits, and its best tokens in order.
//
// A block for the row, bound by latency: two passes over it from the second-level cache, 5–10 µs each at V = 128 k, and
// one for each token that is asked for.

#include "sampling.cuh"

namespace maskserve {
namespace cuda {
namespace {

constexpr int kThreads = 1024;

struct Room {
  uint64_t keys[kThreads / kWarp];
  double sums[kThreads / kWarp];
};

// The largest key below `below`, in all threads; 0 where there is none.
MS_DEVICE uint64_t LargestBelow(const float* logits, int64_t vocab, uint64_t below, Room& room) {
  uint64_t best = 0;
  for (int64_t first = threadIdx.x * kQuad; first < vocab; first += kThreads * kQuad) {
    const float4 v = LoadQuad(logits + first, static_cast<int>(vocab - first));
    const float four[kQuad] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < kQuad; ++i) {
      const uint64_t key = first + i < vocab ? KeyOf(four[i], first + i) : 0;
      if (key < below) best = Max(best, key);
    }
  }
  return BlockLargest<kThreads>(best, room.keys);
}

struct Normal {
  double largest, log_sum;
};

// A row without a finite maximum is uniform over its largest logits.
MS_DEVICE Normal Normalise(const float* logits, int64_t vocab, Room& room) {
  const float largest = logits[IdOfKey(LargestBelow(logits, vocab, UINT64_MAX, room))];
  const float clean = largest == largest ? largest : -INFINITY;
  const bool finite = fabsf(clean) <= FLT_MAX;
  double sum = 0;
  for (int64_t i = threadIdx.x; i < vocab; i += kThreads) {
    const float logit = logits[i] == logits[i] ? logits[i] : -INFINITY;
    sum += finite ? exp(static_cast<double>(logit) - static_cast<double>(clean)) : logit == clean ? 1.0 : 0.0;
  }
  return {static_cast<double>(clean), log(BlockSum<kThreads>(sum, room.sums))};
}
MS_DEVICE double LogprobOf(float logit, const Normal& row) {
  const double clean = logit == logit ? static_cast<double>(logit) : -INFINITY;
  return (clean == row.largest ? 0.0 : clean - row.largest) - row.log_sum;
}

__global__ void __launch_bounds__(kThreads)
    Logprobs(double* out, const int32_t* ids, const float* logits, int64_t vocab, int64_t count) {
  __shared__ Room room;
  const Normal row = Normalise(logits, vocab, room);
  for (int64_t i = threadIdx.x; i < count; i += kThreads) out[i] = LogprobOf(logits[ids[i]], row);
}

__global__ void __launch_bounds__(kThreads)
    TopLogprobs(int32_t* ids, double* out, const float* logits, int64_t vocab, int64_t count) {
  __shared__ Room room;
  const Normal row = Normalise(logits, vocab, room);
  uint64_t below = UINT64_MAX;
  for (int64_t i = 0; i < count; ++i) {
    below = LargestBelow(logits, vocab, below, room);
    if (threadIdx.x != 0) continue;
    ids[i] = IdOfKey(below);
    out[i] = LogprobOf(logits[ids[i]], row);
  }
}

}  // namespace

void logprobs(double* out, const int32_t* ids, const float* logits, int64_t vocab, int64_t count, cudaStream_t stream) {
  if (count > 0) Launch(Logprobs, 1, kThreads, 0, stream, out, ids, logits, vocab, count);
}

void top_logprobs(int32_t* ids, double* out, const float* logits, int64_t vocab, int64_t count, cudaStream_t stream) {
  if (count > 0) Launch(TopLogprobs, 1, kThreads, 0, stream, ids, out, logits, vocab, count);
}

}  // namespace cuda
}  // namespace maskserve
