// A layer of training and its two gradients: by cuBLASLt where it is there and bf16 activations are allowed, else by
// gemm.cu.

#include "dense_gemm.h"
#include "launch.h"
#include "ops.h"
#include "rounded.h"

namespace maskserve {
namespace cuda {

namespace {

void RequireMatrixType(const ms_weights& w, const char* op) {
  if (w.type == MS_BF16 || w.type == MS_F32) return;
  throw Failure{MS_UNSUPPORTED, std::string("expected ") + op +
                                    " of bf16 or fp32 weights on the GPU but received type " + std::to_string(w.type)};
}

// NULL: gemm.cu multiplies.
DenseGemm* Library(Op& op, ms_value_type type) {
  return op.exact() != 0 || type != MS_BF16 ? nullptr : DenseGemm::Of(op);
}

ms_status Linear(ms_context* ctx, float* y, const float* x, ms_weights w, int64_t rows, int64_t n, int64_t k) {
  return Run(ctx, Op::Rounded::kKept, [&](Op& op) {
    RequireMatrixType(w, "linear");
    DropIfWritten(op, y, rows * n);
    MultiplyLayer(op, y, x, w, rows, n, k);
  });
}

ms_status LinearBackwardInput(ms_context* ctx, float* dx, const float* dy, ms_weights w, int64_t rows, int64_t n,
                              int64_t k, int32_t accumulate) {
  return Run(ctx, Op::Rounded::kKept, [&](Op& op) {
    RequireMatrixType(w, "linearBackwardInput");
    DropIfWritten(op, dx, rows * k);
    DenseGemm* gemm = Library(op, w.type);
    if (gemm != nullptr) {
      const uint16_t* rounded = Round(op, dy, rows, rows, n);
      const auto* weights = static_cast<const uint16_t*>(w.values);
      if (gemm->Multiply(op, {DenseProduct::kInputGradient, dx, rounded, weights, rows, k, n, accumulate != 0})) return;
    }
    linear_backward_input(dx, dy, w.values, w.type, rows, n, k, accumulate, op.exact(), op.stream());
  });
}

ms_status LinearBackwardWeight(ms_context* ctx, float* dw, const float* dy, const float* x, int64_t rows, int64_t n,
                               int64_t k, int32_t accumulate) {
  return Run(ctx, Op::Rounded::kKept, [&](Op& op) {
    DropIfWritten(op, dw, n * k);
    DenseGemm* gemm = Library(op, MS_BF16);
    if (gemm != nullptr) {
      const uint16_t *of_dy = Round(op, dy, rows, rows, n), *of_x = RoundOnce(op, x, rows * k);
      if (gemm->Multiply(op, {DenseProduct::kWeightGradient, dw, of_dy, of_x, n, k, rows, accumulate != 0})) return;
    }
    linear_backward_weight(dw, dy, x, rows, n, k, accumulate, op.exact(), op.stream());
  });
}

}  // namespace

void MultiplyLayer(Op& op, float* y, const float* x, const ms_weights& w, int64_t rows, int64_t n, int64_t k) {
  DenseGemm* gemm = Library(op, w.type);
  if (gemm != nullptr) {
    const uint16_t* rounded = Round(op, x, rows, rows, k);
    const auto* weights = static_cast<const uint16_t*>(w.values);
    if (gemm->Multiply(op, {DenseProduct::kLayer, y, rounded, weights, rows, n, k, false})) return;
  }
  linear(y, x, w.values, w.type, rows, n, k, op.exact(), op.stream());
}

void AddLinearOps(ms_ops* ops) {
  ops->linear = Linear;
  ops->linear_backward_input = LinearBackwardInput;
  ops->linear_backward_weight = LinearBackwardWeight;
}

}  // namespace cuda
}  // namespace maskserve
