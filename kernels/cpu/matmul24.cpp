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
MS_INLINE ms_status Product24(ms_context* ctx, const Patched24& p) {
  const int64_t k = p.w.k;
  const ms_status status = Multiply<Dot>(ctx, p.y, p.x, p.w, p.tokens, p.w.n, k, k + k / 8);
  if (status != MS_OK) return status;
  const Corrections24 corrections(p);
  WindowsOf24 windows;
  for (int task = 0; task < Threads(ctx); ++task) {
    if (corrections.WindowsOf(task, &windows)) AskForWindows24(windows);
  }
  const bool finite = !HasNonFinite(p.x, p.tokens * k);
  return finite && p.patches == NULL ? MS_OK : Correct24<typename Dot::X>(ctx, corrections, finite);
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
