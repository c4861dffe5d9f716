// y (T, N) = x (T, K) wᵀ with w in the packed 2:4 form (packed24.h), and the same with a patch (patch24.h) for each
// token: one pass over the parent for all of them, then each token's swaps. Many tokens of one task are multiplied by
// panels of its weights (panel24.h).

#include "dot24.h"
#include "nonfinite24.h"
#include "panel24.h"
#include "swaps24.h"

namespace maskserve {
namespace {

// x (n elements) in its own order, as it is multiplied: rounded to a copy at `room`, or itself.
const float* PlainRows(float*, const float* x, int64_t) {
  return x;
}
#if defined(__AVX512BF16__)
const uint16_t* PlainRows(uint16_t* room, const float* x, int64_t n) {
  for (int64_t i = 0; i < n; i += W) {
    const __mmask16 lanes = n - i < W ? FirstLanes(n - i) : FirstLanes(W);
    const __m256i rounded = (__m256i)_mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(lanes, x + i));
    _mm256_mask_storeu_epi16(room + i, lanes, rounded);
  }
  return room;
}
#endif

struct Patched24 {
  float* y;
  const float* x;
  Packed24 w;
  const ms_patch24* patches;  // NULL: none
  int64_t tokens;

  MS_INLINE const uint8_t* PatchOf(const Patched24& p, int64_t t) {
    return p.patches == NULL ? NULL : static_cast<const uint8_t*>(p.patches[t].data);
  }
};

// What is left to do when the parent has been multiplied: each token's swaps, and what its infinities and NaNs make of
// pruned places. A task is some windows of one token.
template <typename X>
ms_status Correct24(ms_context* ctx, const Patched24& p, bool finite) {
  const int64_t n = p.w.n, k = p.w.k;
  const size_t bytes = sizeof(X) == sizeof(float) ? 0 : static_cast<size_t>(p.tokens * k) * sizeof(X);
  X* room = static_cast<X*>(Scratch(ctx, bytes));
  if (bytes != 0 && room == NULL) return FailMemory(ctx, bytes);
  const X* x = PlainRows(room, p.x, p.tokens * k);
  // Windows of the same rows add to the same y: a task takes all of them.
  constexpr int64_t kTaskElements = 1 << 22;  // of the matrix: some 10 µs
  const int64_t rows = Max(1, kTaskElements / (kWindowRows24 * k)) * kWindowRows24, pieces = CeilDiv(n, rows);
  auto task = [&](int64_t i, int) {
    const int64_t t = i / pieces, begin = i % pieces * rows, end = Min(n, begin + rows);
    const uint8_t* patch = Patched24::PatchOf(p, t);
    const int64_t last = patch == NULL ? 0 : CeilDiv(end, kWindowRows24) * WindowsAcross24(k);
    for (int64_t j = begin / kWindowRows24 * WindowsAcross24(k); j < last; ++j) {
      AddWindow24(p.y + t * n, x + t * k, Window24::Of(patch, j, n, k), finite);
    }
    if (!finite) SpreadNonFinite24(p.y + t * n, p.x + t * k, p.w, patch, begin, end);
  };
  Parallel(ctx, p.tokens * pieces, task);
  return MS_OK;
}

template <typename Dot>
MS_INLINE ms_status Product24(ms_context* ctx, const Patched24& p) {
  const int64_t k = p.w.k;
  const ms_status status = Multiply<Dot>(ctx, p.y, p.x, p.w, p.tokens, p.w.n, k, k + k / 8);
  if (status != MS_OK) return status;
  const bool finite = !HasNonFinite(p.x, p.tokens * k);
  return finite && p.patches == NULL ? MS_OK : Correct24<typename Dot::X>(ctx, p, finite);
}

// The instruction sets with a shuffle whose places are data.
#if defined(__AVX512BF16__) || defined(__AVX2__)

// Whether the tokens are many, and all go through the same patch or none.
MS_INLINE bool ManyOfOneTask(const Patched24& p) {
  for (int64_t t = 1; t < p.tokens; ++t) {
    if (Patched24::PatchOf(p, t) != Patched24::PatchOf(p, 0)) return false;
  }
  return p.tokens >= kManyTokens;
}

template <typename Arithmetic>
ms_status ProductOfPanels24(ms_context* ctx, const Patched24& p) {
  typedef Tile24<Arithmetic> Tile;
  const int64_t n = p.w.n, k = p.w.k;
  const uint8_t* patch = Patched24::PatchOf(p, 0);
  const ms_status status = MultiplyMany<Tile>(ctx, p.y, p.x, PackPanel24<Tile>{p.w, patch}, p.tokens, n, k);
  if (status != MS_OK || !HasNonFinite(p.x, p.tokens * k)) return status;
  auto spread = [&](int64_t t, int) { SpreadNonFinite24(p.y + t * n, p.x + t * k, p.w, patch, 0, n); };
  Parallel(ctx, p.tokens, spread);
  return MS_OK;
}

ms_status ProductOfOneTask24(ms_context* ctx, const Patched24& p) {
#if defined(__AVX512BF16__)
  if (!Exact(ctx)) return ProductOfPanels24<Bf16Picks24>(ctx, p);
#endif
  return ProductOfPanels24<Fp32Picks24>(ctx, p);
}

#endif

ms_status AnyProduct24(ms_context* ctx, float* y, const float* x, ms_weights w, const ms_patch24* patches,
                       int64_t tokens, int64_t n, int64_t k) {
  if (w.type != MS_BF16) return FailType(ctx, "packed", w.type);
  const Patched24 product = {y, x, {static_cast<const uint8_t*>(w.values), n, k}, patches, tokens};
#if defined(__AVX512BF16__) || defined(__AVX2__)
  if (ManyOfOneTask(product)) return ProductOfOneTask24(ctx, product);
#endif
#if defined(__AVX512BF16__)
  if (!Exact(ctx)) return Product24<Bf16Dot24>(ctx, product);
#endif
  return Product24<Fp32Dot24>(ctx, product);
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
