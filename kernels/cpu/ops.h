// The ops of one instruction set. Included by the op files, each compiled once per set with -DISA=avx512 | avx2 |
// scalar.
#pragma once

#include "context.h"
#include "simd.h"

#ifndef ISA
#error "op files are compiled with -DISA=avx512, avx2 or scalar"
#endif

namespace maskserve {
namespace ISA {

ms_status ReadThrough(ms_context*, const void* data, int64_t bytes, uint64_t* result);
ms_status ToBf16(ms_context*, uint16_t* out, const void* in, ms_value_type type, int64_t n);
ms_status ToF32(ms_context*, float* out, const void* in, ms_value_type type, int64_t n);
ms_status Embed(ms_context*, float* out, ms_weights table, const int32_t* ids, int64_t tokens, int64_t dim);
ms_status RmsNorm(ms_context*, float* out, const float* x, const float* gain, int64_t rows, int64_t dim, double eps);
ms_status Rope(ms_context*, float* x, const float* cos, const float* sin, int64_t start, int64_t tokens, int64_t heads,
               int64_t head_dim);
ms_status KvWrite(ms_context*, void* cache, ms_value_type type, const float* x, int64_t start, int64_t tokens,
                  int64_t kv_heads, int64_t head_dim, int64_t capacity);
ms_status Attention(ms_context*, float* out, const float* q, const void* k_cache, const void* v_cache,
                    ms_value_type type, int64_t start, int64_t tokens, int64_t heads, int64_t kv_heads,
                    int64_t head_dim, int64_t capacity, double scale, int64_t window);
ms_status AttendRows(ms_context*, float* out, float* q, float* k, const float* v, const float* cos, const float* sin,
                     const ms_cache_row* caches, ms_value_type type, int64_t rows, int64_t heads, int64_t kv_heads,
                     int64_t head_dim, double scale, int64_t window);
ms_status SiluMul(ms_context*, float* out, const float* gate, const float* up, int64_t n);
ms_status AddInto(ms_context*, float* x, const float* y, int64_t n);
ms_status AddBias(ms_context*, float* x, const float* bias, int64_t rows, int64_t n);
ms_status Matmul(ms_context*, float* y, const float* x, ms_weights w, int64_t tokens, int64_t n, int64_t k);
ms_status Matmul24(ms_context*, float* y, const float* x, ms_weights w, int64_t tokens, int64_t n, int64_t k);
ms_status Matmul24Patched(ms_context*, float* y, const float* x, ms_weights w, const ms_patch24* patches,
                          int64_t tokens, int64_t n, int64_t k);
ms_status MatmulFused(ms_context*, const ms_product* products, int64_t count, const float* x, int64_t tokens,
                      int64_t k);
ms_status Matmul24Fused(ms_context*, const ms_product* products, int64_t count, const float* x, int64_t tokens,
                        int64_t k, int64_t panel_tokens);
ms_status MatmulMasked(ms_context*, float* y, const float* x, ms_weights w, const ms_mask24* masks, int64_t tokens,
                       int64_t n, int64_t k);
ms_status Compress24(ms_context*, void* packed, ms_weights w, const uint8_t* meta, int64_t n, int64_t k);
ms_status Select24(ms_context*, void* out, ms_weights w, const uint8_t* meta, int64_t n, int64_t k);
ms_status Nibbles24(ms_context*, uint8_t* meta, ms_weights packed, int64_t n, int64_t k);
ms_status Codes24(ms_context*, uint8_t* codes, const uint8_t* meta, int64_t n, int64_t k);
ms_status PatchBytes24(ms_context*, ms_weights packed, const uint8_t* meta, int64_t n, int64_t k, int64_t* bytes);
ms_status BuildPatch24(ms_context*, void* patch, int64_t bytes, ms_weights packed, ms_weights w, const uint8_t* meta,
                       int64_t n, int64_t k);
ms_status ChangesBytes24(ms_context*, ms_weights packed, ms_changes24 changes, int64_t n, int64_t k, int64_t* bytes);
ms_status BuildChanges24(ms_context*, void* patch, int64_t bytes, ms_weights packed, ms_weights w, ms_changes24 changes,
                         int64_t n, int64_t k);
ms_status ScoreMask24(ms_context*, uint8_t* meta, ms_weights w, const float* scale, int64_t n, int64_t k);
ms_status SumSquares(ms_context*, double* sums, const float* x, int64_t tokens, int64_t k);
ms_status Gram(ms_context*, double* gram, const float* x, int64_t tokens, int64_t k);
ms_status SparseGpt24(ms_context*, uint8_t* meta, uint16_t* updated, ms_weights w, const double* gram, int64_t tokens,
                      int64_t n, int64_t k, double damp);

ms_status Linear(ms_context*, float* y, const float* x, ms_weights w, int64_t rows, int64_t n, int64_t k);
ms_status LinearBackwardInput(ms_context*, float* dx, const float* dy, ms_weights w, int64_t rows, int64_t n, int64_t k,
                              int32_t accumulate);
ms_status LinearBackwardWeight(ms_context*, float* dw, const float* dy, const float* x, int64_t rows, int64_t n,
                               int64_t k, int32_t accumulate);
ms_status RmsNormBackward(ms_context*, float* dx, float* dgain, const float* dy, const float* x, const float* gain,
                          int64_t rows, int64_t dim, double eps);
ms_status RopeBatch(ms_context*, float* x, const float* cos, const float* sin, int64_t batch, int64_t tokens,
                    int64_t heads, int64_t head_dim, int32_t inverse);
ms_status AttentionForward(ms_context*, float* out, float* lse, const float* q, const float* k, const float* v,
                           ms_attention_shape shape);
ms_status AttentionBackward(ms_context*, float* dq, float* dk, float* dv, const float* dout, const float* out,
                            const float* lse, const float* q, const float* k, const float* v, ms_attention_shape shape);
ms_status SiluMulBackward(ms_context*, float* dgate, float* dup, const float* dout, const float* gate, const float* up,
                          int64_t n);
ms_status LossBackward(ms_context*, float* logits, const float* teacher, const int32_t* targets, int64_t rows,
                       int64_t vocab, double kl_weight, int64_t total_rows, double* lm, double* kl);
ms_status GumbelMask(ms_context*, void* out, ms_value_type type, ms_weights w, const float* logits, const float* noise,
                     ms_gumbel settings, double* squares);
ms_status GumbelMaskBackward(ms_context*, float* dlogits, const float* dw, ms_weights w, const float* logits,
                             const float* noise, ms_gumbel settings, double regularisation);
ms_status ArgmaxPatterns(ms_context*, uint8_t* symbols, const float* logits, int64_t groups, int64_t patterns);
ms_status TopTwo(ms_context*, uint8_t* meta, const float* scores, int64_t groups);
ms_status MulBf16(ms_context*, float* out, const float* a, ms_weights b, int64_t n);
ms_status Select24F32(ms_context*, uint16_t* out, const float* w, const uint8_t* meta, int64_t n, int64_t k);
ms_status Keep24F32(ms_context*, float* x, const uint8_t* meta, int64_t n, int64_t k);
ms_status SumOfSquares(ms_context*, const float* x, int64_t n, double* sum);
ms_status ScaleBy(ms_context*, float* x, double factor, int64_t n);
ms_status AdamWStep(ms_context*, float* parameters, const float* gradients, float* first, float* second, int64_t n,
                    ms_adamw settings);

// u (K, K) f64, upper triangular, with h⁻¹ = uᵀ u. `h` (K, K) is overwritten. Returns K, or the column at which h
// proved not to be positive definite.
int64_t InverseCholesky(ms_context*, double* u, double* h, int64_t k);

}  // namespace ISA

namespace {

// body(task, worker) for every task in [0, tasks).
template <typename Body>
MS_INLINE void Parallel(ms_context* ctx, int64_t tasks, Body& body) {
  RunTasks(
      ctx, tasks, [](void* arg, int64_t task, int worker) { (*static_cast<Body*>(arg))(task, worker); }, &body);
}

// body(begin, end, worker) over [0, n) in pieces of `grain`: sized so that a piece outweighs handing it over (some 10
// µs).
template <typename Body>
MS_INLINE void ParallelRanges(ms_context* ctx, int64_t n, int64_t grain, Body& body) {
  auto piece = [&](int64_t task, int worker) { body(task * grain, Min(n, (task + 1) * grain), worker); };
  Parallel(ctx, CeilDiv(n, grain), piece);
}

}  // namespace
}  // namespace maskserve
