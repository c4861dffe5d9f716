// y (T, N) = x (T, K) wᵀ with bf16 weights (N, K) and fp32 accumulation.
//
// Every element is one dot product along K, accumulated in the lanes of one register, block after block, and summed
// across the lanes once at the end. Tiles of R rows × TT tokens only decide how many such registers are in flight, so
// an element's bits depend neither on T, nor on the tile it falls in, nor on the thread.

#include "panel.h"

namespace maskserve {
namespace {

// Activations in fp32. A register of 2W weights is taken apart into its even and its odd elements by a shift and a
// mask, so a packed block holds the even activations first.
struct Fp32Dot {
  typedef float X;
  static constexpr int kStep = 2 * W;
#if defined(__AVX512BF16__)
  static constexpr int kTokens = 4, kRows = 4, kRowsNarrow = 8;
#elif defined(__AVX2__)
  static constexpr int kTokens = 4, kRows = 2, kRowsNarrow = 4;
#else
  static constexpr int kTokens = 2, kRows = 2, kRowsNarrow = 4;
#endif
  struct Weights {
    VF even, odd;
  };
  MS_INLINE Weights Split(VI w) {
    return {Even(w), Odd(w)};
  }
  MS_INLINE VF Step(VF acc, const Weights& w, const float* x) {
    return Fma(w.odd, Load(x + W), Fma(w.even, Load(x), acc));
  }
  MS_INLINE void PackBlock(float* out, const float* in) {
    for (int i = 0; i < W; ++i) {
      out[i] = in[2 * i];
      out[W + i] = in[2 * i + 1];
    }
  }
};

#if defined(__AVX512BF16__)
// Activations rounded to bf16; vdpbf16ps adds two products a lane.
struct Bf16Dot {
  typedef uint16_t X;
  static constexpr int kStep = 32;
  static constexpr int kTokens = 6, kRows = 4, kRowsNarrow = 8;
  struct Weights {
    __m512bh pairs;
  };
  MS_INLINE Weights Split(VI w) { return {(__m512bh)w}; }
  MS_INLINE VF Step(VF acc, const Weights& w, const uint16_t* x) {
    return _mm512_dpbf16_ps(acc, w.pairs, (__m512bh)_mm512_loadu_si512(x));
  }
  MS_INLINE void PackBlock(uint16_t* out, const float* in) {
    _mm512_storeu_si512(out, (__m512i)_mm512_cvtne2ps_pbh(Load(in + W), Load(in)));
  }
};
#endif

template <typename Dot, int R, int TT>
void Tile(float* y, int64_t ldy, const typename Dot::X* x, const uint16_t* w, int64_t k) {
  constexpr int kStep = Dot::kStep;
  VF acc[R][TT];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int t = 0; t < TT; ++t) acc[r][t] = Zero();
  }
  int64_t i = 0;
  for (; i + kStep <= k; i += kStep, x += TT * kStep) {
    typename Dot::Weights weights[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) weights[r] = Dot::Split(LoadPairs(w + r * k + i));
#pragma GCC unroll 8
    for (int t = 0; t < TT; ++t) {
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) acc[r][t] = Dot::Step(acc[r][t], weights[r], x + t * kStep);
    }
  }
  if (i < k) {
    for (int r = 0; r < R; ++r) {
      const typename Dot::Weights weights = Dot::Split(LoadPairsPart(w + r * k + i, k - i));
      for (int t = 0; t < TT; ++t) acc[r][t] = Dot::Step(acc[r][t], weights, x + t * kStep);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int t = 0; t < TT; ++t) y[t * ldy + r] = Sum(acc[r][t]);
  }
}

// Rows [0, rows) with one panel of TT tokens.
template <typename Dot, int TT>
void Rows(float* y, int64_t ldy, const typename Dot::X* x, const uint16_t* w, int64_t rows, int64_t k) {
  constexpr int R = TT <= 2 ? Dot::kRowsNarrow : Dot::kRows;
  int64_t r = 0;
  for (; r + R <= rows; r += R) Tile<Dot, R, TT>(y + r, ldy, x, w + r * k, k);
  for (; r < rows; ++r) Tile<Dot, 1, TT>(y + r, ldy, x, w + r * k, k);
}

template <typename Dot>
void Panel(float* y, int64_t ldy, const typename Dot::X* x, const uint16_t* w, int width, int64_t rows, int64_t k) {
  switch (width) {
    case 1:
      return Rows<Dot, 1>(y, ldy, x, w, rows, k);
    case 2:
      return Rows<Dot, 2>(y, ldy, x, w, rows, k);
    case 3:
      return Rows<Dot, 3>(y, ldy, x, w, rows, k);
    case 4:
      return Rows<Dot, 4>(y, ldy, x, w, rows, k);
    case 5:
      return Rows<Dot, 5>(y, ldy, x, w, rows, k);
    case 6:
      return Rows<Dot, 6>(y, ldy, x, w, rows, k);
  }
}

template <typename Dot>
ms_status Multiply(ms_context* ctx, float* y, const float* x, const uint16_t* w, int64_t tokens, int64_t n, int64_t k) {
  const Panels panels = Panels::Of(tokens, Dot::kTokens);
  size_t bytes;
  const typename Dot::X* packed = PackTokens<Dot>(ctx, x, panels, k, &bytes);
  if (packed == NULL) return FailMemory(ctx, bytes);
  const int64_t padded = PaddedK(k, Dot::kStep);
  auto body = [&](int64_t begin, int64_t end, int) {
    for (int64_t p = 0; p < panels.count; ++p) {
      const int64_t first = panels.First(p);
      Panel<Dot>(y + first * n + begin, n, packed + first * padded, w + begin * k, panels.Width(p), end - begin, k);
    }
  };
  ParallelRanges(ctx, n, RowsOfTask(ctx, tokens, n, 2 * k, k, Dot::kRowsNarrow), body);
  return MS_OK;
}

}  // namespace

namespace ISA {

ms_status Matmul(ms_context* ctx, float* y, const float* x, ms_weights w, int64_t tokens, int64_t n, int64_t k) {
  if (w.type != MS_BF16) return FailType(ctx, "w", w.type);
  const uint16_t* values = static_cast<const uint16_t*>(w.values);
#if defined(__AVX512BF16__)
  if (!Exact(ctx)) return Multiply<Bf16Dot>(ctx, y, x, values, tokens, n, k);
#endif
  return Multiply<Fp32Dot>(ctx, y, x, values, tokens, n, k);
}

}  // namespace ISA
}  // namespace maskserve
