// The element-wise gradients, the loss over rows of logits, and AdamW. Bound by DRAM: 20 bytes an element of SiLU · up,
// 16 a logit with a teacher (its second and third read come from the second-level cache), 28 a parameter of AdamW.

#include "reduce.cuh"

namespace maskserve {
namespace cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kLossThreads = 512;
constexpr int64_t kSquareBlock = 65536;

// silu(g) = g · σ(g), so its derivative is σ · (1 + g · (1 − σ)).
__global__ void __launch_bounds__(kThreads)
    SiluMulBackward(float* dgate, float* dup, const float* dout, const float* gate, const float* up, int64_t n) {
  const int64_t i = GlobalIndex();
  if (i >= n) return;
  const float g = gate[i], d = dout[i], sigmoid = 1.0f / (1.0f + expf(-g));
  const float to_gate = d * up[i] * (sigmoid * fmaf(g, 1.0f - sigmoid, 1.0f));
  dup[i] = d * (g * sigmoid);
  dgate[i] = to_gate;
}

struct LossRoom {
  float floats[kLossThreads / kWarp];
  double doubles[kLossThreads / kWarp];
};

// ln Σ exp(x) over a row, in all threads of the block.
MS_DEVICE double LogSumExp(const float* x, int64_t n, LossRoom& room) {
  float largest = -INFINITY;
  for (int64_t i = threadIdx.x; i < n; i += kLossThreads) largest = fmaxf(largest, x[i]);
  largest = BlockMax<kLossThreads>(largest, room.floats);
  double sum = 0;
  for (int64_t i = threadIdx.x; i < n; i += kLossThreads) sum += static_cast<double>(expf(x[i] - largest));
  return static_cast<double>(largest) + log(BlockSum<kLossThreads>(sum, room.doubles));
}

struct Loss {
  float* logits;
  double* losses;
  const float* teacher;
  const int32_t* targets;
  int64_t vocab;
  float weight, factor;
};

// A block a row: logits → ((1 − a) · (softmax − target) + a · (softmax − softmax(teacher))) · factor.
__global__ void __launch_bounds__(kLossThreads) LossBackward(Loss p) {
  __shared__ LossRoom room;
  const int64_t row = blockIdx.x;
  float* logits = p.logits + row * p.vocab;
  const int32_t target = p.targets[row];
  const float at_target = logits[target];
  const double log_sum = LogSumExp(logits, p.vocab, room);
  double kl = 0;
  if (p.teacher == nullptr) {
    for (int64_t i = threadIdx.x; i < p.vocab; i += kLossThreads) {
      logits[i] = expf(logits[i] - static_cast<float>(log_sum)) * p.factor;
    }
  } else {
    const float* teacher = p.teacher + row * p.vocab;
    const double teacher_log_sum = LogSumExp(teacher, p.vocab, room);
    for (int64_t i = threadIdx.x; i < p.vocab; i += kLossThreads) {
      const float s = logits[i] - static_cast<float>(log_sum), t = teacher[i] - static_cast<float>(teacher_log_sum);
      const float probability = expf(t);
      logits[i] = (expf(s) - probability * p.weight) * p.factor;
      if (probability > 0) kl += static_cast<double>(probability * (t - s));  // 0 · ln 0 is 0
    }
    kl = BlockSum<kLossThreads>(kl, room.doubles);
  }
  __syncthreads();
  if (threadIdx.x != 0) return;
  logits[target] -= (1.0f - p.weight) * p.factor;
  p.losses[2 * row] = log_sum - static_cast<double>(at_target);
  p.losses[2 * row + 1] = kl;
}

__global__ void __launch_bounds__(kThreads) SumOfSquares(double* sums, const float* x, int64_t n) {
  __shared__ double room[kThreads / kWarp];
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kSquareBlock, end = Min(n, first + kSquareBlock);
  double sum = 0;
  for (int64_t i = first + threadIdx.x; i < end; i += kThreads) {
    sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  }
  sum = BlockSum<kThreads>(sum, room);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

// The step with its constants worked out in fp64.
struct AdamW {
  float gradient_scale, keep_first, add_first, keep_second, add_second, decay, rate, inverse_root, epsilon;
  float learning_rate, inverse_first, threshold, curvature;
  bool gated;
};

AdamW Prepare(const ms_adamw& s) {
  const double step = static_cast<double>(s.step);
  const double first_bias = 1 - pow(s.beta1, step), second_bias = 1 - pow(s.beta2, step);
  const auto f = [](double x) { return static_cast<float>(x); };
  return {f(s.gradient_scale),
          f(s.beta1),
          f(1 - s.beta1),
          f(s.beta2),
          f(1 - s.beta2),
          f(1 - s.learning_rate * s.weight_decay),
          f(s.learning_rate / first_bias),
          f(1 / sqrt(second_bias)),
          f(s.epsilon),
          f(s.learning_rate),
          f(1 / first_bias),
          f(s.threshold),
          f(s.curvature),
          s.threshold > 0 || s.curvature > 0};
}

// What a parameter moves by at rate 1: evidence below the threshold moves nothing.
MS_DEVICE float Gated(const AdamW& s, float m, float root) {
  const float ratio = __fdiv_rn(__fmul_rn(m, s.inverse_first), __fadd_rn(root, s.epsilon));
  const float threshold = __fadd_rn(s.threshold, __fmul_rn(s.curvature, root));
  return __fsub_rn(ratio, fminf(fmaxf(ratio, -threshold), threshold));
}

// No fused multiply-adds: the bits of cpu/optimizer.cpp. first: NULL where β1 is 0.
__global__ void __launch_bounds__(kThreads)
    AdamWStep(float* parameters, const float* gradients, float* first, float* second, int64_t n, AdamW s) {
  const int64_t i = GlobalIndex();
  if (i >= n) return;
  const float g = __fmul_rn(gradients[i], s.gradient_scale);
  const float m = first == nullptr ? g : __fadd_rn(__fmul_rn(first[i], s.keep_first), __fmul_rn(g, s.add_first));
  const float v = __fadd_rn(__fmul_rn(second[i], s.keep_second), __fmul_rn(__fmul_rn(g, g), s.add_second));
  const float root = __fmul_rn(__fsqrt_rn(v), s.inverse_root);
  const float step = s.gated ? __fmul_rn(s.learning_rate, Gated(s, m, root))
                             : __fdiv_rn(__fmul_rn(s.rate, m), __fadd_rn(root, s.epsilon));
  if (first != nullptr) first[i] = m;
  second[i] = v;
  parameters[i] = __fsub_rn(__fmul_rn(parameters[i], s.decay), step);
}

}  // namespace

void silu_mul_backward(float* dgate, float* dup, const float* dout, const float* gate, const float* up, int64_t n,
                       cudaStream_t stream) {
  Launch(SiluMulBackward, Blocks(n, kThreads), kThreads, 0, stream, dgate, dup, dout, gate, up, n);
}

void loss_backward(float* logits, double* losses, const float* teacher, const int32_t* targets, int64_t rows,
                   int64_t vocab, double kl_weight, int64_t total_rows, cudaStream_t stream) {
  const Loss p = {logits,
                  losses,
                  teacher,
                  targets,
                  vocab,
                  static_cast<float>(kl_weight),
                  static_cast<float>(1.0 / static_cast<double>(total_rows))};
  Launch(LossBackward, Blocks(rows, 1), kLossThreads, 0, stream, p);
}

int64_t square_blocks(int64_t n) {
  return CeilDiv(n, kSquareBlock);
}

void sum_of_squares(double* sums, const float* x, int64_t n, cudaStream_t stream) {
  Launch(SumOfSquares, Blocks(n, kSquareBlock), kThreads, 0, stream, sums, x, n);
}

void adamw(float* parameters, const float* gradients, float* first_moments, float* second_moments, int64_t n,
           ms_adamw settings, cudaStream_t stream) {
  Launch(AdamWStep, Blocks(n, kThreads), kThreads, 0, stream, parameters, gradients, first_moments, second_moments, n,
         Prepare(settings));
}

}  // namespace cuda
}  // namespace maskserve
