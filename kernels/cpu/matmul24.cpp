// y (T, N) = x (T, K) wᵀ with w in the packed 2:4 form (packed24.h), and the same with a patch (patch24.h) for each
// token: one pass over the parent for all of them, then each token's swaps.

#include "dot24.h"
#include "nonfinite24.h"
#include "swaps24.h"

namespace maskserve {
namespace {

// What is left to do for some rows when the parent has been multiplied.
template <typename Dot>
struct Corrections24 {
  float* y;
  const float* x;
  const Packed24& w;
  const ms_patch24* patches;  // NULL: none
  int64_t tokens;
  bool nonfinite;

  MS_INLINE const uint8_t* PatchOf(const Corrections24& c, int64_t t) {
    return c.patches == NULL ? NULL : static_cast<const uint8_t*>(c.patches[t].data);
  }
  MS_INLINE void Ahead(const Corrections24& c, int64_t begin, int64_t end) {
    for (int64_t t = 0; t < c.tokens; ++t) {
      const uint8_t* patch = PatchOf(c, t);
      if (patch != NULL && (t == 0 || patch != PatchOf(c, t - 1))) PrefetchSwaps24(patch, begin, end, c.w.n, c.w.k);
    }
  }
  MS_INLINE void After(const Corrections24& c, int64_t begin, int64_t end, const typename Dot::X* rows) {
    for (int64_t t = 0; t < c.tokens; ++t) {
      const uint8_t* patch = PatchOf(c, t);
      if (patch != NULL) AddSwaps24<Dot>(c.y + t * c.w.n, rows + t * c.w.k, patch, begin, end, c.w.n, c.w.k);
      if (c.nonfinite) SpreadNonFinite24(c.y + t * c.w.n, c.x + t * c.w.k, c.w, patch, begin, end);
    }
  }
};

template <typename Dot>
MS_INLINE ms_status Product24(ms_context* ctx, float* y, const float* x, const Packed24& w, const ms_patch24* patches,
                              int64_t tokens) {
  const Corrections24<Dot> corrections = {y, x, w, patches, tokens, HasNonFinite(x, tokens * w.k)};
  return Multiply<Dot>(ctx, y, x, w, tokens, w.n, w.k, w.k + w.k / 8, patches != NULL, corrections);
}

ms_status AnyProduct24(ms_context* ctx, float* y, const float* x, ms_weights w, const ms_patch24* patches,
                       int64_t tokens, int64_t n, int64_t k) {
  if (w.type != MS_BF16) return FailType(ctx, "packed", w.type);
  const Packed24 packed = {static_cast<const uint8_t*>(w.values), n, k};
#if defined(__AVX512BF16__)
  if (!Exact(ctx)) return Product24<Bf16Dot24>(ctx, y, x, packed, patches, tokens);
#endif
  return Product24<Fp32Dot24>(ctx, y, x, packed, patches, tokens);
}

}  // namespace

namespace ISA {

ms_status Matmul24(ms_context* ctx, float* y, const float* x, ms_weights w, int64_t tokens, int64_t n, int64_t k) {
  return AnyProduct24(ctx, y, x, w, NULL, tokens, n, k);
}

ms_status Matmul24Patched(ms_context* ctx, float* y, const float* x, ms_weights w, const ms_patch24* patches,
                          int64_t tokens, int64_t n, int64_t k) {
  for (int64_t t = 0; t < tokens; ++t) {
    const ms_status status = patches[t].data == NULL ? MS_OK : CheckPatch24(ctx, patches[t], n, k);
    if (status != MS_OK) return status;
  }
  return AnyProduct24(ctx, y, x, w, patches, tokens, n, k);
}

}  // namespace ISA
}  // namespace maskserve
