// y (T, N) = x (T, K) wᵀ with w in the packed 2:4 form (packed24.h), and the same with a patch (patch24.h) for each
// token: one pass over the parent for all of them, then each token's swaps. Many tokens of one task are multiplied by
// panels of its weights (panel24.h). For one w or several of an x.

#include "dot24.h"
#include "nonfinite24.h"
#include "panel24.h"
#include "swaps24.h"

namespace maskserve {
namespace {

// x (n elements) in its own order, as it is multiplied: rounded to a copy at `room`, or itself.
MS_INLINE const float* PlainRow(float*, const float* x, int64_t) {
  return x;
}
#if defined(__AVX512BF16__)
MS_INLINE const uint16_t* PlainRow(uint16_t* room, const float* x, int64_t n) {
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

// The products of an x.
struct Products24 {
  const ms_product* each;
  int64_t count;
  const float* x;
  int64_t tokens, k;

  MS_INLINE Packed24 Matrix(const Products24& p, int64_t i) {
    return {static_cast<const uint8_t*>(p.each[i].w.values), p.each[i].n, p.k};
  }
  MS_INLINE Patched24 At(const Products24& p, int64_t i) {
    return {p.each[i].y, p.x, Matrix(p, i), p.each[i].host_patches, p.tokens};
  }
};

// What is left to do when the parent has been multiplied: each token's swaps, and what its infinities and NaNs make of
// pruned places. A task is some rows of one token; windows of the same rows add to the same y, so it takes all of them.
struct Corrections24 {
  static constexpr int64_t kTaskElements = 1 << 22;  // of the matrix: some 5 µs

  const Patched24& p;
  int64_t rows, pieces;  // rows of a task; tasks of a token

  explicit Corrections24(const Patched24& product) : p(product) {
    rows = Max(1, kTaskElements / (kWindowRows24 * p.w.k)) * kWindowRows24;
    pieces = CeilDiv(p.w.n, rows);
  }
  int64_t Tasks() const { return p.tokens * pieces; }
  int64_t TokenOf(int64_t task) const { return task / pieces; }
  int64_t RowOf(int64_t task) const { return task % pieces * rows; }
  int64_t EndOf(int64_t task) const { return Min(p.w.n, RowOf(task) + rows); }
  // False where there is no such task, or no patch.
  bool WindowsOf(int64_t task, WindowsOf24* windows) const {
    const uint8_t* patch = task < Tasks() ? Patched24::PatchOf(p, TokenOf(task)) : NULL;
    if (patch == NULL) return false;
    const int64_t across = WindowsAcross24(p.w.k);
    *windows = {
        {patch, p.w.n, p.w.k}, RowOf(task) / kWindowRows24 * across, CeilDiv(EndOf(task), kWindowRows24) * across};
    return true;
  }
};

template <typename X>
ms_status Correct24(ms_context* ctx, const Corrections24& corrections, bool finite) {
  const Patched24& p = corrections.p;
  const int64_t n = p.w.n, k = p.w.k, threads = Threads(ctx);
  const size_t bytes = sizeof(X) == sizeof(float) ? 0 : static_cast<size_t>(threads * k) * sizeof(X);
  X* room = static_cast<X*>(Scratch(ctx, bytes));
  if (bytes != 0 && room == NULL) return FailMemory(ctx, bytes);
  auto body = [&](int64_t task, int worker) {
    const int64_t t = corrections.TokenOf(task);
    WindowsOf24 windows, next;
    if (corrections.WindowsOf(task, &windows)) {
      const X* x = PlainRow(room + worker * k, p.x + t * k, k);
      AddWindows24(p.y + t * n, x, windows, corrections.WindowsOf(task + threads, &next) ? &next : NULL, finite);
    }
    if (finite) return;
    SpreadNonFinite24(p.y + t * n, p.x + t * k, p.w, Patched24::PatchOf(p, t), corrections.RowOf(task),
                      corrections.EndOf(task));
  };
  Parallel(ctx, corrections.Tasks(), body);
  return MS_OK;
}

template <typename Dot>
MS_INLINE ms_status Multiply24(ms_context* ctx, const Products24& p) {
  const auto matrix = [&](const ms_product& product) { return Products24::Matrix(p, &product - p.each); };
  const Factors<Packed24> factors = Factors<Packed24>::Of(p.each, p.count, matrix);
  const ms_status status = Multiply<Dot>(ctx, factors, p.x, p.tokens, p.k, p.k + p.k / 8);
  if (status != MS_OK) return status;
  const bool finite = !HasNonFinite(p.x, p.tokens * p.k);
  for (int64_t i = 0; i < p.count; ++i) {
    const Patched24 product = Products24::At(p, i);
    if (finite && product.patches == NULL) continue;
    const Corrections24 corrections(product);
    WindowsOf24 windows;
    for (int task = 0; task < Threads(ctx); ++task) {
      if (corrections.WindowsOf(task, &windows)) AskForWindows24(windows);
    }
    const ms_status corrected = Correct24<typename Dot::X>(ctx, corrections, finite);
    if (corrected != MS_OK) return corrected;
  }
  return MS_OK;
}

// The instruction sets with a shuffle whose places are data.
#if defined(__AVX512BF16__) || defined(__AVX2__)

// Whether all tokens go through the same patch or none.
MS_INLINE bool OfOneTask(const Products24& p) {
  for (int64_t i = 0; i < p.count; ++i) {
    const Patched24 product = Products24::At(p, i);
    for (int64_t t = 1; t < p.tokens; ++t) {
      if (Patched24::PatchOf(product, t) != Patched24::PatchOf(product, 0)) return false;
    }
  }
  return true;
}

template <typename Arithmetic>
ms_status MultiplyPanels24(ms_context* ctx, const Products24& p) {
  typedef Tile24<Arithmetic> Tile;
  const auto panels = [&](const ms_product& product) {
    const Patched24 patched = Products24::At(p, &product - p.each);
    return PackPanel24<Tile>{patched.w, Patched24::PatchOf(patched, 0)};
  };
  const auto factors = Factors<PackPanel24<Tile>>::Of(p.each, p.count, panels);
  const ms_status status = MultiplyMany<Tile>(ctx, factors, p.x, p.tokens, p.k);
  if (status != MS_OK || !HasNonFinite(p.x, p.tokens * p.k)) return status;
  auto spread = [&](int64_t task, int) {
    const int64_t i = task / p.tokens, t = task % p.tokens;
    const Packed24& w = factors.each[i].w.w;
    SpreadNonFinite24(p.each[i].y + t * w.n, p.x + t * p.k, w, factors.each[i].w.patch, 0, w.n);
  };
  Parallel(ctx, p.count * p.tokens, spread);
  return MS_OK;
}

ms_status MultiplyOneTask24(ms_context* ctx, const Products24& p) {
#if defined(__AVX512BF16__)
  if (!Exact(ctx)) return MultiplyPanels24<Bf16Picks24>(ctx, p);
#endif
  return MultiplyPanels24<Fp32Picks24>(ctx, p);
}

#endif

}  // namespace

namespace ISA {

ms_status Matmul24Fused(ms_context* ctx, const ms_product* products, int64_t count, const float* x, int64_t tokens,
                        int64_t k, [[maybe_unused]] int64_t panel_tokens) {
  const Products24 p = {products, count, x, tokens, k};
  for (int64_t i = 0; i < count; ++i) {
    if (products[i].w.type != MS_BF16) return FailType(ctx, "packed", products[i].w.type);
    for (int64_t t = 0; t < tokens && products[i].host_patches != NULL; ++t) {
      const ms_patch24& patch = products[i].host_patches[t];
      const ms_status status = patch.data == NULL ? MS_OK : CheckPatch24(ctx, patch, products[i].n, k);
      if (status != MS_OK) return status;
    }
  }
#if defined(__AVX512BF16__) || defined(__AVX2__)
  if (tokens >= panel_tokens && OfOneTask(p)) return MultiplyOneTask24(ctx, p);
#endif
#if defined(__AVX512BF16__)
  if (!Exact(ctx)) return Multiply24<Bf16Dot24>(ctx, p);
#endif
  return Multiply24<Fp32Dot24>(ctx, p);
}

ms_status Matmul24Patched(ms_context* ctx, float* y, const float* x, ms_weights w, const ms_patch24* patches,
                          int64_t tokens, int64_t n, int64_t k) {
  const ms_product product = {y, w, patches, n};
  return Matmul24Fused(ctx, &product, 1, x, tokens, k, MS_PANEL_TOKENS);
}

ms_status Matmul24(ms_context* ctx, float* y, const float* x, ms_weights w, int64_t tokens, int64_t n, int64_t k) {
  return Matmul24Patched(ctx, y, x, w, NULL, tokens, n, k);
}

}  // namespace ISA
}  // namespace maskserve
