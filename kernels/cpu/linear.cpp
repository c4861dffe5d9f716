// A trained linear layer y = x wᵀ and its gradients dx = dy w, dw = dyᵀ x, with w (N, K) in bf16 or fp32.

#include "gemm.h"

namespace maskserve {
namespace {

template <typename P, typename T>
ms_status Forward(ms_context* ctx, float* y, const float* x, const T* w, int64_t rows, int64_t n, int64_t k) {
  return MultiplyPacked<P, true>(ctx, y, PackAlong<P, float>{x, k}, PackTransposed<P, T>{w, k}, rows, n, k, false);
}

template <typename P, typename T>
ms_status BackwardInput(ms_context* ctx, float* dx, const float* dy, const T* w, int64_t rows, int64_t n, int64_t k,
                        bool add) {
  return MultiplyPacked<P, true>(ctx, dx, PackAlong<P, float>{dy, n}, PackAcross<P, T>{w, k}, rows, k, n, add);
}

template <typename P>
ms_status BackwardWeight(ms_context* ctx, float* dw, const float* dy, const float* x, int64_t rows, int64_t n,
                         int64_t k, bool add) {
  return MultiplyPacked<P, false>(ctx, dw, PackAcross<P, float>{dy, n}, PackAcross<P, float>{x, k}, n, k, rows, add);
}

// run(product): the arithmetic that the precision and the instruction set call for.
template <typename Run>
MS_INLINE ms_status WithProduct(ms_context* ctx, const Run& run) {
#if defined(__AVX512BF16__)
  if (!Exact(ctx)) return run(Bf16Product());
#else
  (void)ctx;
#endif
  return run(Fp32Product());
}

template <typename Run>
MS_INLINE ms_status WithWeights(ms_context* ctx, const ms_weights& w, const Run& run) {
  if (w.type == MS_BF16) return run(static_cast<const uint16_t*>(w.values));
  if (w.type == MS_F32) return run(static_cast<const float*>(w.values));
  return FailType(ctx, "w", w.type);
}

}  // namespace

namespace ISA {

ms_status Linear(ms_context* ctx, float* y, const float* x, ms_weights w, int64_t rows, int64_t n, int64_t k) {
  return WithWeights(ctx, w, [&](auto* values) {
    return WithProduct(ctx, [&](auto product) { return Forward<decltype(product)>(ctx, y, x, values, rows, n, k); });
  });
}

ms_status LinearBackwardInput(ms_context* ctx, float* dx, const float* dy, ms_weights w, int64_t rows, int64_t n,
                              int64_t k, int32_t accumulate) {
  return WithWeights(ctx, w, [&](auto* values) {
    return WithProduct(ctx, [&](auto product) {
      return BackwardInput<decltype(product)>(ctx, dx, dy, values, rows, n, k, accumulate != 0);
    });
  });
}

ms_status LinearBackwardWeight(ms_context* ctx, float* dw, const float* dy, const float* x, int64_t rows, int64_t n,
                               int64_t k, int32_t accumulate) {
  return WithProduct(ctx, [&](auto product) {
    return BackwardWeight<decltype(product)>(ctx, dw, dy, x, rows, n, k, accumulate != 0);
  });
}

}  // namespace ISA
}  // namespace maskserve
