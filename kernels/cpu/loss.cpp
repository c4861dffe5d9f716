// The loss over rows of logits and its gradient, in place: (1 − a) · cross-entropy + a · KL(teacher ‖ student).

#include "exp_log.h"
#include "ops.h"

namespace maskserve {
namespace {

struct RowLoss {
  double lm, kl;
};

// ln Σ exp(x).
double LogSumExp(const float* x, int64_t n) {
  VF most = Set(-INFINITY);
  int64_t i = 0;
  for (; i + W <= n; i += W) most = Larger(most, Load(x + i));
  float largest = Largest(most);
  for (; i < n; ++i) largest = x[i] > largest ? x[i] : largest;
  const VF base = Set(largest);
  VF sum[2] = {Zero(), Zero()};
  for (i = 0; i + 2 * W <= n; i += 2 * W) {
    sum[0] = Add(sum[0], Exp(Sub(Load(x + i), base)));
    sum[1] = Add(sum[1], Exp(Sub(Load(x + i + W), base)));
  }
  double total = static_cast<double>(Sum(sum[0])) + static_cast<double>(Sum(sum[1]));
  for (; i < n; i += W) {
    alignas(64) float rest[W] = {0};
    const int64_t some = Min(W, n - i);
    StorePart(rest, Exp(Sub(LoadPart(x + i, some), base)), some);
    total += static_cast<double>(Sum(Load(rest)));
  }
  return static_cast<double>(largest) + log(total);
}

// logits → softmax · factor.
void GradientOfLm(float* logits, int64_t vocab, float log_sum, float factor) {
  for (int64_t i = 0; i < vocab; i += W) {
    const int64_t n = Min(W, vocab - i);
    StorePart(logits + i, Mul(Exp(Sub(LoadPart(logits + i, n), Set(log_sum))), Set(factor)), n);
  }
}

// logits → (softmax − weight · softmax(teacher)) · factor; returns Σ softmax(teacher) · (ln softmax(teacher) − ln
// softmax), summed in fp32 over short runs and in fp64 over these.
double GradientOfMix(float* logits, const float* teacher, int64_t vocab, float log_sum, float teacher_log_sum,
                     float weight, float factor) {
  constexpr int64_t kRun = 32 * W;
  double kl = 0;
  for (int64_t run = 0; run < vocab; run += kRun) {
    VF sum = Zero();
    for (int64_t i = run; i < Min(vocab, run + kRun); i += W) {
      const int64_t n = Min(W, vocab - i);
      const VF s = Sub(LoadPart(logits + i, n), Set(log_sum)), t = Sub(LoadPart(teacher + i, n), Set(teacher_log_sum));
      const VF p = Exp(t);
      StorePart(logits + i, Mul(Sub(Exp(s), Mul(p, Set(weight))), Set(factor)), n);
      alignas(64) float terms[W] = {0};
      StorePart(terms, ZeroBelow(Mul(p, Sub(t, s)), t, -87.33654f), n);  // 0 · ln 0 is 0
      sum = Add(sum, Load(terms));
    }
    kl += static_cast<double>(Sum(sum));
  }
  return kl;
}

RowLoss LossOfRow(float* logits, const float* teacher, int32_t target, int64_t vocab, float kl_weight, float factor) {
  const double log_sum = LogSumExp(logits, vocab);
  RowLoss loss = {log_sum - static_cast<double>(logits[target]), 0};
  if (teacher == NULL) {
    GradientOfLm(logits, vocab, static_cast<float>(log_sum), factor);
  } else {
    const double teacher_log_sum = LogSumExp(teacher, vocab);
    loss.kl = GradientOfMix(logits, teacher, vocab, static_cast<float>(log_sum), static_cast<float>(teacher_log_sum),
                            kl_weight, factor);
  }
  logits[target] -= (1.0f - kl_weight) * factor;
  return loss;
}

}  // namespace

namespace ISA {

ms_status LossBackward(ms_context* ctx, float* logits, const float* teacher, const int32_t* targets, int64_t rows,
                       int64_t vocab, double kl_weight, int64_t total_rows, double* lm, double* kl) {
  const size_t bytes = static_cast<size_t>(rows) * sizeof(RowLoss);
  RowLoss* losses = static_cast<RowLoss*>(Scratch(ctx, bytes));
  if (losses == NULL) return FailMemory(ctx, bytes);
  const float weight = static_cast<float>(kl_weight),
              factor = static_cast<float>(1.0 / static_cast<double>(total_rows));
  auto body = [&](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; ++r) {
      losses[r] = LossOfRow(logits + r * vocab, teacher == NULL ? NULL : teacher + r * vocab, targets[r], vocab, weight,
                            factor);
    }
  };
  constexpr int64_t kGrain = 16384;  // logits a task
  ParallelRanges(ctx, rows, Max(1, kGrain / vocab), body);
  *lm = *kl = 0;
  for (int64_t r = 0; r < rows; ++r) {
    *lm += losses[r].lm;
    *kl += losses[r].kl;
  }
  return MS_OK;
}

}  // namespace ISA
}  // namespace maskserve
