// AdamW (Loshchilov & Hutter 2019, arXiv 1711.05101), and the norm and scaling that gradient clipping needs.

#include "ops.h"

namespace maskserve {
namespace {

constexpr int64_t kGrain = 65536;  // parameters a task
constexpr int kLanes = 16;         // running sums, whatever the instruction set

// Σ x² in fp64, over kLanes sums that are added in order.
double SquaresOfBlock(const float* x, int64_t n) {
  double lanes[kLanes] = {0};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int j = 0; j < kLanes; ++j) lanes[j] += static_cast<double>(x[i + j]) * static_cast<double>(x[i + j]);
  }
  for (; i < n; ++i) lanes[i % kLanes] += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  double sum = 0;
  for (const double lane : lanes) sum += lane;
  return sum;
}

// The step with its constants worked out in fp64.
struct AdamW {
  VF gradient_scale, keep_first, add_first, keep_second, add_second, decay, rate, inverse_root, epsilon;
  VF learning_rate, inverse_first, threshold, curvature;  // of gated steps alone
};

AdamW Prepare(const ms_adamw& s) {
  const double step = static_cast<double>(s.step);
  const double first_bias = 1 - pow(s.beta1, step), second_bias = 1 - pow(s.beta2, step);
  const auto set = [](double x) { return Set(static_cast<float>(x)); };
  return {set(s.gradient_scale),
          set(s.beta1),
          set(1 - s.beta1),
          set(s.beta2),
          set(1 - s.beta2),
          set(1 - s.learning_rate * s.weight_decay),
          set(s.learning_rate / first_bias),
          set(1 / sqrt(second_bias)),
          set(s.epsilon),
          set(s.learning_rate),
          set(1 / first_bias),
          set(s.threshold),
          set(s.curvature)};
}

// What a parameter moves by at rate 1, after what holds it back: evidence below the threshold moves nothing.
MS_INLINE VF Gated(const AdamW& s, VF m, VF root, VF epsilon) {
  const VF ratio = Div(Mul(m, s.inverse_first), Add(root, epsilon));
  const VF threshold = Add(s.threshold, Mul(s.curvature, root));
  return Sub(ratio, Smaller(Larger(ratio, Sub(Zero(), threshold)), threshold));
}

// No fused multiply-adds: the same bits on every instruction set.
// Without kFirst (β1 = 0) the first moment is the gradient itself and stands nowhere.
template <bool kGated, bool kFirst>
MS_INLINE void Update(const AdamW& s, float* parameters, const float* gradients, float* first, float* second,
                      int64_t n) {
  const VF g = Mul(LoadPart(gradients, n), s.gradient_scale);
  const VF m = kFirst ? Add(Mul(LoadPart(first, n), s.keep_first), Mul(g, s.add_first)) : g;
  const VF v = Add(Mul(LoadPart(second, n), s.keep_second), Mul(Mul(g, g), s.add_second));
  const VF root = Mul(Sqrt(v), s.inverse_root);
  const VF step =
      kGated ? Mul(s.learning_rate, Gated(s, m, root, s.epsilon)) : Div(Mul(s.rate, m), Add(root, s.epsilon));
  const VF p = Sub(Mul(LoadPart(parameters, n), s.decay), step);
  if (kFirst) StorePart(first, m, n);
  StorePart(second, v, n);
  StorePart(parameters, p, n);
}

template <bool kGated, bool kFirst>
void StepAll(ms_context* ctx, float* parameters, const float* gradients, float* first, float* second, int64_t n,
             const ms_adamw& settings) {
  const AdamW s = Prepare(settings);
  auto body = [&](int64_t begin, int64_t end, int) {
    int64_t i = begin;
    const auto update = [&](int64_t count) {
      Update<kGated, kFirst>(s, parameters + i, gradients + i, kFirst ? first + i : NULL, second + i, count);
    };
    for (; i + W <= end; i += W) update(W);
    if (i < end) update(end - i);
  };
  ParallelRanges(ctx, n, kGrain, body);
}

}  // namespace

namespace ISA {

ms_status AdamWStep(ms_context* ctx, float* parameters, const float* gradients, float* first, float* second, int64_t n,
                    ms_adamw settings) {
  const bool gated = settings.threshold > 0 || settings.curvature > 0;
  const auto step = first == NULL ? (gated ? StepAll<true, false> : StepAll<false, false>)
                                  : (gated ? StepAll<true, true> : StepAll<false, true>);
  step(ctx, parameters, gradients, first, second, n, settings);
  return MS_OK;
}

ms_status SumOfSquares(ms_context* ctx, const float* x, int64_t n, double* sum) {
  const int64_t blocks = CeilDiv(n, kGrain);
  const size_t bytes = static_cast<size_t>(blocks) * sizeof(double);
  double* sums = static_cast<double*>(Scratch(ctx, bytes));
  if (sums == NULL) return FailMemory(ctx, bytes);
  auto body = [&](int64_t block, int) {
    sums[block] = SquaresOfBlock(x + block * kGrain, Min(kGrain, n - block * kGrain));
  };
  Parallel(ctx, blocks, body);
  *sum = 0;
  for (int64_t block = 0; block < blocks; ++block) *sum += sums[block];
  return MS_OK;
}

ms_status ScaleBy(ms_context* ctx, float* x, double factor, int64_t n) {
  const VF by = Set(static_cast<float>(factor));
  auto body = [&](int64_t begin, int64_t end, int) {
    int64_t i = begin;
    for (; i + W <= end; i += W) Store(x + i, Mul(Load(x + i), by));
    if (i < end) StorePart(x + i, Mul(LoadPart(x + i, end - i), by), end - i);
  };
  ParallelRanges(ctx, n, kGrain, body);
  return MS_OK;
}

}  // namespace ISA
}  // namespace maskserve
