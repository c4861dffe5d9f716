// Choosing tokens on the device, as cpu/sampling.cpp does: softmax(logits / temperature) cut to the top_k best, then to
// the smallest set whose probability reaches top_p, then inverse-cdf at a uniform number.
//
// A block a row, bound by latency: some 12 passes over a row that is in the second-level cache (0.5 MB of logits, 1 MB
// of weights at V = 128 k), 5–10 µs each.

#include "sampling.cuh"

namespace maskserve {
namespace cuda {
namespace {

__global__ void __launch_bounds__(kSampleThreads) Argmax(int32_t* tokens, const float* logits, int64_t vocab) {
  __shared__ SampleRoom room;
  const uint64_t key = LargestKey(logits + blockIdx.x * vocab, vocab, UINT64_MAX, true, room);
  if (threadIdx.x == 0) tokens[blockIdx.x] = IdOfKey(key);
}

// What is left of `whole` · share, as a limit of a running sum.
MS_DEVICE uint64_t LimitOf(double share, uint64_t whole, bool beyond) {
  const double sum = share * static_cast<double>(whole);
  const uint64_t limit = beyond ? static_cast<uint64_t>(sum) + 1 : static_cast<uint64_t>(ceil(sum));
  return Max<uint64_t>(1, Min(limit, whole));
}

// In all threads.
MS_DEVICE int32_t Choose(const float* logits, uint64_t* weights, const ms_draw& p, int64_t vocab, SampleRoom& room) {
  const int32_t best = IdOfKey(LargestKey(logits, vocab, UINT64_MAX, true, room));
  const float largest = logits[best];
  if (p.temperature == 0 || p.top_k == 1 || !(fabsf(largest) <= FLT_MAX)) return best;
  for (int64_t i = threadIdx.x; i < vocab; i += kSampleThreads) {
    const double logit = static_cast<double>(logits[i]);
    const double x = logit == logit ? (logit - static_cast<double>(largest)) / p.temperature : -INFINITY;
    weights[i] = static_cast<uint64_t>(exp(x) * kWeightUnit + 0.5);
  }
  __syncthreads();
  Candidates c = {logits, weights, vocab, largest, fminf(FLT_MAX, static_cast<float>(kBinsOfUnit / p.temperature)), 0};
  bool sorted = p.top_p < 1;
  if (p.top_k > 0 && static_cast<uint64_t>(p.top_k) < WholeOf<true>(c, room)) {
    c.least = KeyAt<true>(c, static_cast<uint64_t>(p.top_k), room);
    sorted = true;
  }
  uint64_t whole = WholeOf<false>(c, room);
  if (p.top_p < 1) {
    c.least = KeyAt<false>(c, LimitOf(p.top_p, whole, false), room);
    whole = WholeOf<false>(c, room);
  }
  const uint64_t limit = LimitOf(p.uniform, whole, true);
  return sorted ? IdOfKey(KeyAt<false>(c, limit, room)) : IdAt(c, limit, room);
}

__global__ void __launch_bounds__(kSampleThreads)
    Sample(int32_t* tokens, float* all_logits, const ms_draw* draws, uint64_t* all_weights, int64_t vocab) {
  __shared__ SampleRoom room;
  float* logits = all_logits + blockIdx.x * vocab;
  // A draw's room: V weights, then the logits that its deltas change.
  uint64_t* weights = all_weights + static_cast<int64_t>(blockIdx.x) * (vocab + CeilDiv<int64_t>(vocab, 2));
  float* before = reinterpret_cast<float*>(weights + vocab);
  const ms_draw p = draws[blockIdx.x];
  for (int64_t i = threadIdx.x; i < p.count; i += kSampleThreads) {
    before[i] = logits[p.ids[i]];
    logits[p.ids[i]] += p.deltas[i];
  }
  __syncthreads();
  const int32_t token = Choose(logits, weights, p, vocab, room);
  __syncthreads();
  for (int64_t i = threadIdx.x; i < p.count; i += kSampleThreads) logits[p.ids[i]] = before[i];
  if (threadIdx.x == 0) tokens[blockIdx.x] = token;
}

struct Normal {
  double largest, log_sum;
};

// A row without a finite maximum is uniform over its largest logits.
MS_DEVICE Normal Normalise(const float* logits, int64_t vocab, SampleRoom& room, double* sums) {
  const float largest = logits[IdOfKey(LargestKey(logits, vocab, UINT64_MAX, false, room))];
  const float clean = largest == largest ? largest : -INFINITY;
  const bool finite = fabsf(clean) <= FLT_MAX;
  double sum = 0;
  for (int64_t i = threadIdx.x; i < vocab; i += kSampleThreads) {
    const float logit = logits[i] == logits[i] ? logits[i] : -INFINITY;
    sum += finite ? exp(static_cast<double>(logit) - static_cast<double>(clean)) : logit == clean ? 1.0 : 0.0;
  }
  return {static_cast<double>(clean), log(BlockSum<kSampleThreads>(sum, sums))};
}
MS_DEVICE double LogprobOf(float logit, const Normal& row) {
  const double clean = logit == logit ? static_cast<double>(logit) : -INFINITY;
  return (clean == row.largest ? 0.0 : clean - row.largest) - row.log_sum;
}

__global__ void __launch_bounds__(kSampleThreads)
    Logprobs(double* out, const int32_t* ids, const float* logits, int64_t vocab, int64_t count) {
  __shared__ SampleRoom room;
  __shared__ double sums[kSampleThreads / kWarp];
  const Normal row = Normalise(logits, vocab, room, sums);
  for (int64_t i = threadIdx.x; i < count; i += kSampleThreads) out[i] = LogprobOf(logits[ids[i]], row);
}

__global__ void __launch_bounds__(kSampleThreads)
    TopLogprobs(int32_t* ids, double* out, const float* logits, int64_t vocab, int64_t count) {
  __shared__ SampleRoom room;
  __shared__ double sums[kSampleThreads / kWarp];
  const Normal row = Normalise(logits, vocab, room, sums);
  uint64_t below = UINT64_MAX;
  for (int64_t i = 0; i < count; ++i) {
    below = LargestKey(logits, vocab, below, false, room);
    if (threadIdx.x != 0) continue;
    ids[i] = IdOfKey(below);
    out[i] = LogprobOf(logits[ids[i]], row);
  }
}

}  // namespace

void argmax(int32_t* tokens, const float* logits, int64_t rows, int64_t vocab, cudaStream_t stream) {
  Launch(Argmax, Blocks(rows, 1), kSampleThreads, 0, stream, tokens, logits, vocab);
}

size_t sample_workspace(int64_t rows, int64_t vocab) {
  return static_cast<size_t>(rows * (vocab + CeilDiv<int64_t>(vocab, 2))) * sizeof(uint64_t);
}

void sample(int32_t* tokens, float* logits, const ms_draw* draws, int64_t rows, int64_t vocab, void* workspace,
            cudaStream_t stream) {
  Launch(Sample, Blocks(rows, 1), kSampleThreads, 0, stream, tokens, logits, draws, static_cast<uint64_t*>(workspace),
         vocab);
}

void logprobs(double* out, const int32_t* ids, const float* logits, int64_t vocab, int64_t count, cudaStream_t stream) {
  if (count > 0) Launch(Logprobs, 1, kSampleThreads, 0, stream, out, ids, logits, vocab, count);
}

void top_logprobs(int32_t* ids, double* out, const float* logits, int64_t vocab, int64_t count, cudaStream_t stream) {
  if (count > 0) Launch(TopLogprobs, 1, kSampleThreads, 0, stream, ids, out, logits, vocab, count);
}

}  // namespace cuda
}  // namespace maskserve
