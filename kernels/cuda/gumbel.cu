// MaskLLM's soft mask and its gradient (arXiv 2409.17481, Eq. 6 to 8), fused: a thread a group, its probabilities in
// registers and recomputed by the backward pass. The noise is cpu/gumbel.cpp's: −ln(−ln u) of the same Philox words.
//
// Bound by issue, not DRAM: a 2:4 group moves 40 to 80 bytes, and takes two Philox blocks of 10 rounds (4 IMAD each)
// and 12 logarithms, some 350 instructions.

#include "reduce.cuh"

namespace maskserve {
namespace cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kMaxPatterns = 70;

// Bit j of kept[i]: pattern i keeps position j; lexicographic order (codec/FORMAT.md §2).
struct PatternTable {
  uint8_t kept[kMaxPatterns];
};

PatternTable MakePatterns(int64_t n, int64_t m) {
  PatternTable table = {};
  int64_t at[8];
  for (int64_t i = 0; i < n; ++i) at[i] = i;
  for (int count = 0;; ++count) {
    for (int64_t i = 0; i < n; ++i) table.kept[count] = static_cast<uint8_t>(table.kept[count] | 1 << at[i]);
    int64_t last = n - 1;
    while (last >= 0 && at[last] == m - n + last) --last;
    if (last < 0) return table;
    ++at[last];
    for (int64_t i = last + 1; i < n; ++i) at[i] = at[i - 1] + 1;
  }
}

struct SoftMask {
  const uint16_t* w;
  const float *logits, *noise;
  int64_t groups;
  uint64_t seed;
  uint32_t step, tensor;
  float scale, inverse_temperature;
  PatternTable patterns;
};

// Philox4x32-10 (Salmon et al. 2011).
MS_DEVICE void Philox(uint32_t (&word)[4], uint64_t key) {
  uint32_t low = static_cast<uint32_t>(key), high = static_cast<uint32_t>(key >> 32);
#pragma unroll
  for (int round = 0; round < 10; ++round, low += 0x9e3779b9u, high += 0xbb67ae85u) {
    const uint32_t a = word[0], b = word[2];
    word[0] = __umulhi(0xcd9e8d57u, b) ^ word[1] ^ low;
    word[1] = 0xcd9e8d57u * b;
    word[2] = __umulhi(0xd2511f53u, a) ^ word[3] ^ high;
    word[3] = 0xd2511f53u * a;
  }
}

MS_DEVICE float GumbelOf(uint32_t word) {
  const float uniform = static_cast<float>(static_cast<int32_t>(word >> 8)) * 0x1p-24f;
  return -logf(-logf(fmaxf(1e-9f, fminf(1.0f - 0x1p-23f, uniform))));
}

// probability ← softmax over patterns of (π · scale + noise) / temperature.
template <int P>
MS_DEVICE void Probabilities(float (&probability)[P], const SoftMask& s, int64_t group) {
#pragma unroll
  for (int i = 0; i < P; ++i) probability[i] = s.logits[group * P + i] * s.scale;
  if (s.noise != nullptr) {
#pragma unroll
    for (int i = 0; i < P; ++i) probability[i] += s.noise[group * P + i];
  } else {
#pragma unroll
    for (int quad = 0; quad < CeilDiv(P, 4); ++quad) {
      const uint64_t g = static_cast<uint64_t>(group);
      uint32_t word[4] = {static_cast<uint32_t>(g), static_cast<uint32_t>(g >> 32 << 8) | static_cast<uint32_t>(quad),
                          s.tensor, s.step};
      Philox(word, s.seed);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (4 * quad + i < P) probability[Min(4 * quad + i, P - 1)] += GumbelOf(word[i]);
      }
    }
  }
  float largest = probability[0], total = 0;
#pragma unroll
  for (int i = 1; i < P; ++i) largest = fmaxf(largest, probability[i]);
#pragma unroll
  for (int i = 0; i < P; ++i) {
    probability[i] = expf((probability[i] - largest) * s.inverse_temperature);
    total += probability[i];
  }
  const float share = 1.0f / total;
#pragma unroll
  for (int i = 0; i < P; ++i) probability[i] *= share;
}

// M̃ of a position: the probabilities of the patterns that keep it.
template <int P>
MS_DEVICE float MaskAt(const float (&probability)[P], const PatternTable& patterns, int position) {
  float sum = 0;
#pragma unroll
  for (int i = 0; i < P; ++i) sum += (patterns.kept[i] >> position & 1) != 0 ? probability[i] : 0.0f;
  return sum;
}

template <int P, int M>
__global__ void __launch_bounds__(kThreads) Forward(void* out, ms_value_type type, double* squares, SoftMask s) {
  __shared__ double room[kThreads / kWarp];
  const int64_t group = GlobalIndex();
  float sum = 0;
  if (group < s.groups) {
    float probability[P];
    Probabilities(probability, s, group);
#pragma unroll
    for (int j = 0; j < M; ++j) {
      const int64_t at = group * M + j;
      const float masked = FloatOfBf16(s.w[at]) * MaskAt(probability, s.patterns, j);
      sum = fmaf(masked, masked, sum);
      if (type == MS_F32)
        static_cast<float*>(out)[at] = masked;
      else
        static_cast<uint16_t*>(out)[at] = static_cast<uint16_t>(Bf16OfFloat(masked));
    }
  }
  const double total = BlockSum<kThreads>(static_cast<double>(sum), room);
  if (threadIdx.x == 0) squares[blockIdx.x] = total;
}

// ∂/∂π of loss − regularisation · Σ (w ∘ M̃)²: with a_i the sum over pattern i of ∂/∂M̃ = w · (dw − twice · w · M̃),
// p_i · (a_i − Σ p a) · slope.
template <int P, int M>
__global__ void __launch_bounds__(kThreads)
    Backward(float* dlogits, const float* dw, SoftMask s, float twice, float slope) {
  const int64_t group = GlobalIndex();
  if (group >= s.groups) return;
  float probability[P], gradient[M];
  Probabilities(probability, s, group);
#pragma unroll
  for (int j = 0; j < M; ++j) {
    const int64_t at = group * M + j;
    const float w = FloatOfBf16(s.w[at]);
    gradient[j] = w * (dw[at] - twice * (w * MaskAt(probability, s.patterns, j)));
  }
  float mean = 0;
  for (int pass = 0; pass < 2; ++pass) {
#pragma unroll
    for (int i = 0; i < P; ++i) {
      float along = 0;
#pragma unroll
      for (int j = 0; j < M; ++j) along += (s.patterns.kept[i] >> j & 1) != 0 ? gradient[j] : 0.0f;
      if (pass == 0)
        mean = fmaf(along, probability[i], mean);
      else
        dlogits[group * P + i] = probability[i] * (along - mean) * slope;
    }
  }
}

SoftMask Prepare(const uint16_t* w, const float* logits, const float* noise, const ms_gumbel& s) {
  return {w,
          logits,
          noise,
          s.groups,
          s.seed,
          s.step,
          s.tensor,
          static_cast<float>(s.scale),
          static_cast<float>(1.0 / s.temperature),
          MakePatterns(s.n, s.m)};
}

// launch(P, M as constants): 1:4, 2:4 or 4:8.
template <typename Launcher>
void WithPattern(const ms_gumbel& s, const Launcher& launcher) {
  if (s.m == 8)
    launcher.template Run<70, 8>();
  else if (s.n == 1)
    launcher.template Run<4, 4>();
  else
    launcher.template Run<6, 4>();
}

struct ForwardLaunch {
  void* out;
  ms_value_type type;
  double* squares;
  SoftMask s;
  cudaStream_t stream;
  template <int P, int M>
  void Run() const {
    Launch(Forward<P, M>, Blocks(s.groups, kThreads), kThreads, 0, stream, out, type, squares, s);
  }
};

struct BackwardLaunch {
  float* dlogits;
  const float* dw;
  SoftMask s;
  float twice, slope;
  cudaStream_t stream;
  template <int P, int M>
  void Run() const {
    Launch(Backward<P, M>, Blocks(s.groups, kThreads), kThreads, 0, stream, dlogits, dw, s, twice, slope);
  }
};

}  // namespace

int64_t gumbel_blocks(int64_t groups) {
  return CeilDiv<int64_t>(groups, kThreads);
}

void gumbel_mask(void* out, ms_value_type type, double* squares, const uint16_t* w, const float* logits,
                 const float* noise, ms_gumbel settings, cudaStream_t stream) {
  WithPattern(settings, ForwardLaunch{out, type, squares, Prepare(w, logits, noise, settings), stream});
}

void gumbel_mask_backward(float* dlogits, const float* dw, const uint16_t* w, const float* logits, const float* noise,
                          ms_gumbel settings, double regularisation, cudaStream_t stream) {
  WithPattern(settings,
              BackwardLaunch{dlogits, dw, Prepare(w, logits, noise, settings), static_cast<float>(2 * regularisation),
                             static_cast<float>(settings.scale / settings.temperature), stream});
}

}  // namespace cuda
}  // namespace maskserve
