// Masks from scores (magnitude; Wanda, arXiv 2306.11695), the best pattern of logits, straight-through's two best of
// four, and the statistics of a layer's inputs. Bound by DRAM: 2 to 16 bytes a group's element read once; gram by fp32
// FMAs.

#include "device.cuh"

namespace maskserve {
namespace cuda {
namespace {

constexpr int kThreads = 256;

// An earlier position wins a tie. Scores are never NaN.
MS_DEVICE uint32_t BestTwo(const float (&s)[4]) {
  uint32_t kept = 0, nibble = 0, count = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    int before = 0;
#pragma unroll
    for (int j = 0; j < 4; ++j) before += j < i ? s[j] >= s[i] : s[j] > s[i];
    kept |= before < 2 ? 1u << i : 0;
  }
#pragma unroll
  for (uint32_t i = 0; i < 4; ++i) {
    if ((kept >> i & 1) != 0) nibble |= i << 2 * count++;
  }
  return nibble;
}

// A thread a byte: two groups.
__global__ void __launch_bounds__(kThreads)
    ScoreMask(uint8_t* meta, const uint16_t* w, const float* scale, int64_t bytes, int64_t k) {
  const int64_t at = GlobalIndex();
  if (at >= bytes) return;
  uint32_t nibbles = 0;
  for (int group = 0; group < 2; ++group) {
    float score[4];
    for (int i = 0; i < 4; ++i) {
      const int64_t element = 8 * at + 4 * group + i;
      const float s = fabsf(FloatOfBf16(w[element])) * (scale != nullptr ? scale[element % k] : 1.0f);
      score[i] = s >= 0 ? s : -1.0f;
    }
    nibbles |= BestTwo(score) << 4 * group;
  }
  meta[at] = static_cast<uint8_t>(nibbles);
}

MS_DEVICE float NanBelowAll(float x) {
  return x == x ? x : -INFINITY;
}

__global__ void __launch_bounds__(kThreads) TopTwo(uint8_t* meta, const float4* scores, int64_t bytes) {
  const int64_t at = GlobalIndex();
  if (at >= bytes) return;
  uint32_t nibbles = 0;
  for (int group = 0; group < 2; ++group) {
    const float4 v = scores[2 * at + group];
    const float score[4] = {NanBelowAll(v.x), NanBelowAll(v.y), NanBelowAll(v.z), NanBelowAll(v.w)};
    nibbles |= BestTwo(score) << 4 * group;
  }
  meta[at] = static_cast<uint8_t>(nibbles);
}

// The lower of equals; a NaN is below everything.
__global__ void __launch_bounds__(kThreads)
    ArgmaxPatterns(uint8_t* symbols, const float* logits, int64_t groups, int64_t patterns) {
  const int64_t group = GlobalIndex();
  if (group >= groups) return;
  const float* from = logits + group * patterns;
  int64_t best = 0;
  float largest = NanBelowAll(from[0]);
  for (int64_t i = 1; i < patterns; ++i) {
    if (from[i] > largest) {
      largest = from[i];
      best = i;
    }
  }
  symbols[group] = static_cast<uint8_t>(best);
}

__global__ void __launch_bounds__(kThreads) SumSquares(double* sums, const float* x, int64_t tokens, int64_t k) {
  const int64_t column = GlobalIndex();
  if (column >= k) return;
  double sum = sums[column];
  for (int64_t t = 0; t < tokens; ++t) {
    const double v = static_cast<double>(x[t * k + column]);
    sum += v * v;
  }
  sums[column] = sum;
}

// A block: 32 × 32 elements of xᵀx on or above the diagonal; four rows a thread. Sums over 256 tokens are fp32, then
// they are added to the fp64 ones, and the mirrored element takes the same bits.
constexpr int kTile = 32, kTileTokens = 32, kFloatTokens = 256;
__global__ void __launch_bounds__(kThreads) Gram(double* gram, const float* x, int64_t tokens, int64_t k) {
  __shared__ float rows[kTileTokens][kTile + 1], columns[kTileTokens][kTile + 1];
  if (blockIdx.y > blockIdx.x) return;
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kTile, row = static_cast<int64_t>(blockIdx.y) * kTile;
  const int i = static_cast<int>(threadIdx.x) % kTile, j = static_cast<int>(threadIdx.x) / kTile;
  double total[4] = {};
  for (int64_t first = 0; first < tokens; first += kFloatTokens) {
    float acc[4] = {};
    const int64_t end = Min(tokens, first + kFloatTokens);
    for (int64_t t = first; t < end; t += kTileTokens) {
      for (int s = j; s < kTileTokens; s += kThreads / kTile) {
        const bool there = t + s < end;
        rows[s][i] = there && row + i < k ? x[(t + s) * k + row + i] : 0.0f;
        columns[s][i] = there && column + i < k ? x[(t + s) * k + column + i] : 0.0f;
      }
      __syncthreads();
      for (int s = 0; s < kTileTokens; ++s) {
#pragma unroll
        for (int r = 0; r < 4; ++r) acc[r] = fmaf(rows[s][j + 8 * r], columns[s][i], acc[r]);
      }
      __syncthreads();
    }
#pragma unroll
    for (int r = 0; r < 4; ++r) total[r] += static_cast<double>(acc[r]);
  }
#pragma unroll
  for (int r = 0; r < 4; ++r) {
    const int64_t at = row + j + 8 * r;
    if (at >= k || column + i >= k || at > column + i) continue;
    const double sum = gram[at * k + column + i] + total[r];
    gram[at * k + column + i] = sum;
    gram[(column + i) * k + at] = sum;
  }
}

}  // namespace

void score_mask24(uint8_t* meta, const uint16_t* w, const float* scale, int64_t n, int64_t k, cudaStream_t stream) {
  const int64_t bytes = n * k / 8;
  Launch(ScoreMask, Blocks(bytes, kThreads), kThreads, 0, stream, meta, w, scale, bytes, k);
}

void top_two(uint8_t* meta, const float* scores, int64_t groups, cudaStream_t stream) {
  const int64_t bytes = groups / 2;
  Launch(TopTwo, Blocks(bytes, kThreads), kThreads, 0, stream, meta, reinterpret_cast<const float4*>(scores), bytes);
}

void argmax_patterns(uint8_t* symbols, const float* logits, int64_t groups, int64_t patterns, cudaStream_t stream) {
  Launch(ArgmaxPatterns, Blocks(groups, kThreads), kThreads, 0, stream, symbols, logits, groups, patterns);
}

void sum_squares(double* sums, const float* x, int64_t tokens, int64_t k, cudaStream_t stream) {
  Launch(SumSquares, Blocks(k, kThreads), kThreads, 0, stream, sums, x, tokens, k);
}

void gram(double* gram, const float* x, int64_t tokens, int64_t k, cudaStream_t stream) {
  if (tokens > 0) Launch(Gram, dim3(Blocks(k, kTile), Blocks(k, kTile)), kThreads, 0, stream, gram, x, tokens, k);
}

}  // namespace cuda
}  // namespace maskserve
