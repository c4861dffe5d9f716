// One-shot masks and training.

#include <vector>

#include "launch.h"
#include "ops.h"

namespace maskserve {
namespace cuda {

namespace {

// Sums of blocks, added up in their order.
double Total(Op& op, const double* device, int64_t count) {
  std::vector<double> parts(static_cast<size_t>(count));
  op.Fetch(parts.data(), device, parts.size() * sizeof(double));
  double total = 0;
  for (const double part : parts) total += part;
  return total;
}

ms_status ScoreMask24(ms_context* ctx, uint8_t* meta, ms_weights w, const float* scale, int64_t n, int64_t k) {
  return Run(ctx, [&](Op& op) { score_mask24(meta, Bf16Of(w, "scoreMask24"), scale, n, k, op.stream()); });
}

ms_status SumSquares(ms_context* ctx, double* sums, const float* x, int64_t tokens, int64_t k) {
  return Run(ctx, [&](Op& op) { sum_squares(sums, x, tokens, k, op.stream()); });
}

ms_status Gram(ms_context* ctx, double* out, const float* x, int64_t tokens, int64_t k) {
  return Run(ctx, [&](Op& op) { gram(out, x, tokens, k, op.stream()); });
}

ms_status SparseGpt24(ms_context* ctx, uint8_t*, uint16_t*, ms_weights, const double*, int64_t, int64_t, int64_t,
                      double) {
  return Run(ctx, [](Op&) {
    throw Failure{MS_UNSUPPORTED, "SparseGPT's masks are made on the CPU only; use --backend cpu for them"};
  });
}

ms_status RmsNormBackward(ms_context* ctx, float* dx, float* dgain, const float* dy, const float* x, const float* gain,
                          int64_t rows, int64_t dim, double eps) {
  return Run(ctx, [&](Op& op) {
    void* workspace = op.TakeBytes(rmsnorm_backward_workspace(rows, dim));
    rmsnorm_backward(dx, dgain, dy, x, gain, rows, dim, eps, workspace, op.stream());
  });
}

ms_status RopeBatch(ms_context* ctx, float* x, const float* cos, const float* sin, int64_t batch, int64_t tokens,
                    int64_t heads, int64_t head_dim, int32_t inverse) {
  return Run(ctx, [&](Op& op) { rope_batch(x, cos, sin, batch, tokens, heads, head_dim, inverse, op.stream()); });
}

void RequireHeads(const ms_attention_shape& shape) {
  if (shape.head_dim <= kMaxHeadDim && shape.head_dim % 4 == 0) return;
  throw Failure{MS_UNSUPPORTED, "expected heads of at most 256 values, a multiple of 4, on the GPU but received " +
                                    std::to_string(shape.head_dim) + "; use --backend cpu"};
}

// Where bf16 is allowed.
bool ByTiles(const Op& op, const ms_attention_shape& shape) {
  return op.exact() == 0 && shape.head_dim <= kMaxMmaHeadDim && shape.head_dim % 16 == 0;
}

ms_status AttentionForward(ms_context* ctx, float* out, float* lse, const float* q, const float* k, const float* v,
                           ms_attention_shape shape) {
  return Run(ctx, [&](Op& op) {
    RequireHeads(shape);
    (ByTiles(op, shape) ? attention_forward_mma : attention_forward)(out, lse, q, k, v, shape, op.stream());
  });
}

ms_status AttentionBackward(ms_context* ctx, float* dq, float* dk, float* dv, const float* dout, const float* out,
                            const float* lse, const float* q, const float* k, const float* v,
                            ms_attention_shape shape) {
  return Run(ctx, [&](Op& op) {
    RequireHeads(shape);
    void* workspace = op.TakeBytes(attention_backward_workspace(shape));
    (ByTiles(op, shape) ? attention_backward_mma : attention_backward)(dq, dk, dv, dout, out, lse, q, k, v, shape,
                                                                       workspace, op.stream());
  });
}

ms_status SiluMulBackward(ms_context* ctx, float* dgate, float* dup, const float* dout, const float* gate,
                          const float* up, int64_t n) {
  return Run(ctx, [&](Op& op) { silu_mul_backward(dgate, dup, dout, gate, up, n, op.stream()); });
}

ms_status LossBackward(ms_context* ctx, float* logits, const float* teacher, const int32_t* host_targets, int64_t rows,
                       int64_t vocab, double kl_weight, int64_t total_rows, double* host_lm, double* host_kl) {
  return Run(ctx, [&](Op& op) {
    auto* losses = op.Take<double>(2 * rows);
    loss_backward(logits, losses, teacher, op.Upload(host_targets, rows), rows, vocab, kl_weight, total_rows,
                  op.stream());
    std::vector<double> each(static_cast<size_t>(2 * rows));
    op.Fetch(each.data(), losses, each.size() * sizeof(double));
    *host_lm = *host_kl = 0;
    for (size_t i = 0; i < each.size(); i += 2) {
      *host_lm += each[i];
      *host_kl += each[i + 1];
    }
  });
}

ms_status GumbelMask(ms_context* ctx, void* out, ms_value_type type, ms_weights w, const float* logits,
                     const float* noise, ms_gumbel settings, double* host_squares) {
  return Run(ctx, [&](Op& op) {
    const int64_t blocks = gumbel_blocks(settings.groups);
    auto* squares = op.Take<double>(blocks);
    gumbel_mask(out, type, squares, Bf16Of(w, "gumbelMask"), logits, noise, settings, op.stream());
    *host_squares = Total(op, squares, blocks);
  });
}

ms_status GumbelMaskBackward(ms_context* ctx, float* dlogits, const float* dw, ms_weights w, const float* logits,
                             const float* noise, ms_gumbel settings, double regularisation) {
  return Run(ctx, [&](Op& op) {
    gumbel_mask_backward(dlogits, dw, Bf16Of(w, "gumbelMaskBackward"), logits, noise, settings, regularisation,
                         op.stream());
  });
}

ms_status ArgmaxPatterns(ms_context* ctx, uint8_t* symbols, const float* logits, int64_t groups, int64_t patterns) {
  return Run(ctx, [&](Op& op) { argmax_patterns(symbols, logits, groups, patterns, op.stream()); });
}

ms_status TopTwo(ms_context* ctx, uint8_t* meta, const float* scores, int64_t groups) {
  return Run(ctx, [&](Op& op) { top_two(meta, scores, groups, op.stream()); });
}

ms_status MulBf16(ms_context* ctx, float* out, const float* a, ms_weights b, int64_t n) {
  return Run(ctx, [&](Op& op) { mul_bf16(out, a, Bf16Of(b, "mulBf16"), n, op.stream()); });
}

ms_status SumOfSquares(ms_context* ctx, const float* x, int64_t n, double* host_sum) {
  return Run(ctx, [&](Op& op) {
    const int64_t blocks = square_blocks(n);
    auto* sums = op.Take<double>(blocks);
    sum_of_squares(sums, x, n, op.stream());
    *host_sum = Total(op, sums, blocks);
  });
}

ms_status ScaleBy(ms_context* ctx, float* x, double factor, int64_t n) {
  return Run(ctx, [&](Op& op) { scale_by(x, factor, n, op.stream()); });
}

ms_status AdamW(ms_context* ctx, float* parameters, const float* gradients, float* first_moments, float* second_moments,
                int64_t n, ms_adamw settings) {
  return Run(ctx,
             [&](Op& op) { adamw(parameters, gradients, first_moments, second_moments, n, settings, op.stream()); });
}

}  // namespace

void AddTrainingOps(ms_ops* ops) {
  ops->score_mask24 = ScoreMask24;
  ops->sum_squares = SumSquares;
  ops->gram = Gram;
  ops->sparsegpt24 = SparseGpt24;
  ops->rmsnorm_backward = RmsNormBackward;
  ops->rope_batch = RopeBatch;
  ops->attention_forward = AttentionForward;
  ops->attention_backward = AttentionBackward;
  ops->silu_mul_backward = SiluMulBackward;
  ops->loss_backward = LossBackward;
  ops->gumbel_mask = GumbelMask;
  ops->gumbel_mask_backward = GumbelMaskBackward;
  ops->argmax_patterns = ArgmaxPatterns;
  ops->top_two = TopTwo;
  ops->mul_bf16 = MulBf16;
  ops->sum_of_squares = SumOfSquares;
  ops->scale_by = ScaleBy;
  ops->adamw = AdamW;
}

}  // namespace cuda
}  // namespace maskserve
