// y (T, N) = x (T, K) wᵀ with w in 2:4 form: values (N, K/2) bf16 and meta (N, K/8).
//
// The activations are permuted to match the compact values, so half the multiplications of the dense product are left.
// One accumulator register an element, as in matmul.cpp: the bits of a row don't depend on T or on the threads.

#include "panel.h"
#include "pick24.h"

namespace maskserve {
namespace {

// 2W dense activations in fp32 against W values.
struct Fp32Dot24 {
  typedef float X;
  static constexpr int kStep = 2 * W;
#if defined(__AVX512BF16__)
  static constexpr int kTokens = 4, kRows = 4, kRowsNarrow = 8;
#elif defined(__AVX2__)
  static constexpr int kTokens = 2, kRows = 4, kRowsNarrow = 4;
#else
  static constexpr int kTokens = 2, kRows = 2, kRowsNarrow = 2;
#endif
  struct Weights {
    VF values;
    Index24 index;
  };
  MS_INLINE Weights Get(const uint16_t* values, const uint8_t* meta) {
    return {LoadBf16(values), MakeIndex24(LoadMeta(meta, kStep / 8))};
  }
  MS_INLINE Weights GetPart(const uint16_t* values, const uint8_t* meta, int64_t k) {
    return {LoadBf16Part(values, k / 2), MakeIndex24(LoadMeta(meta, k / 8))};
  }
  MS_INLINE VF Step(VF acc, const Weights& w, const float* x) {
    return Fma(w.values, Pick24(x, w.index), acc);
  }
  MS_INLINE void PackBlock(float* out, const float* in) {
    PackForPick24(out, in);
  }
};

#if defined(__AVX512BF16__)
// 64 dense activations in bf16 against 32 values.
struct Bf16Dot24 {
  typedef uint16_t X;
  static constexpr int kStep = 64;
  static constexpr int kTokens = 4, kRows = 4, kRowsNarrow = 8;
  struct Weights {
    __m512i values, index;
  };
  MS_INLINE Weights Get(const uint16_t* values, const uint8_t* meta) {
    return {LoadPairs(values), WordIndex24(LoadMeta(meta, 8))};
  }
  MS_INLINE Weights GetPart(const uint16_t* values, const uint8_t* meta, int64_t k) {
    return {LoadPairsPart(values, k / 2), WordIndex24(LoadMeta(meta, k / 8))};
  }
  MS_INLINE VF Step(VF acc, const Weights& w, const uint16_t* x) {
    const __m512i picked = PickWords24(_mm512_loadu_si512(x), _mm512_loadu_si512(x + 32), w.index);
    return _mm512_dpbf16_ps(acc, (__m512bh)w.values, (__m512bh)picked);
  }
  MS_INLINE void PackBlock(uint16_t* out, const float* in) {
    _mm512_storeu_si512(out, (__m512i)_mm512_cvtne2ps_pbh(Load(in + W), Load(in)));
    _mm512_storeu_si512(out + 32, (__m512i)_mm512_cvtne2ps_pbh(Load(in + 3 * W), Load(in + 2 * W)));
  }
};
#endif

template <typename Dot, int R, int TT>
void Tile(float* y, int64_t ldy, const typename Dot::X* x, const uint16_t* values, const uint8_t* meta, int64_t k) {
  constexpr int kStep = Dot::kStep;
  VF acc[R][TT];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int t = 0; t < TT; ++t) acc[r][t] = Zero();
  }
  int64_t i = 0;
  for (; i + kStep <= k; i += kStep, x += TT * kStep) {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const typename Dot::Weights w = Dot::Get(values + (r * k + i) / 2, meta + (r * k + i) / 8);
#pragma GCC unroll 8
      for (int t = 0; t < TT; ++t) acc[r][t] = Dot::Step(acc[r][t], w, x + t * kStep);
    }
  }
  if (i < k) {
    for (int r = 0; r < R; ++r) {
      const typename Dot::Weights w = Dot::GetPart(values + (r * k + i) / 2, meta + (r * k + i) / 8, k - i);
      for (int t = 0; t < TT; ++t) acc[r][t] = Dot::Step(acc[r][t], w, x + t * kStep);
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
void Rows(float* y, int64_t ldy, const typename Dot::X* x, const uint16_t* values, const uint8_t* meta, int64_t rows,
          int64_t k) {
  constexpr int R = TT <= 2 ? Dot::kRowsNarrow : Dot::kRows;
  int64_t r = 0;
  for (; r + R <= rows; r += R) Tile<Dot, R, TT>(y + r, ldy, x, values + r * k / 2, meta + r * k / 8, k);
  for (; r < rows; ++r) Tile<Dot, 1, TT>(y + r, ldy, x, values + r * k / 2, meta + r * k / 8, k);
}

template <typename Dot>
void Panel(float* y, int64_t ldy, const typename Dot::X* x, const uint16_t* values, const uint8_t* meta, int width,
           int64_t rows, int64_t k) {
  switch (width) {
    case 1:
      return Rows<Dot, 1>(y, ldy, x, values, meta, rows, k);
    case 2:
      return Rows<Dot, 2>(y, ldy, x, values, meta, rows, k);
    case 3:
      return Rows<Dot, 3>(y, ldy, x, values, meta, rows, k);
    case 4:
      return Rows<Dot, 4>(y, ldy, x, values, meta, rows, k);
  }
}

template <typename Dot>
ms_status Multiply(ms_context* ctx, float* y, const float* x, const uint16_t* values, const uint8_t* meta,
                   int64_t tokens, int64_t n, int64_t k) {
  const Panels panels = Panels::Of(tokens, Dot::kTokens);
  size_t bytes;
  const typename Dot::X* packed = PackTokens<Dot>(ctx, x, panels, k, &bytes);
  if (packed == NULL) return FailMemory(ctx, bytes);
  const int64_t padded = PaddedK(k, Dot::kStep);
  auto body = [&](int64_t begin, int64_t end, int) {
    for (int64_t p = 0; p < panels.count; ++p) {
      const int64_t first = panels.First(p);
      Panel<Dot>(y + first * n + begin, n, packed + first * padded, values + begin * k / 2, meta + begin * k / 8,
                 panels.Width(p), end - begin, k);
    }
  };
  ParallelRanges(ctx, n, RowsOfTask(ctx, tokens, n, k + k / 8, k / 2, Dot::kRowsNarrow), body);
  return MS_OK;
}

}  // namespace

namespace ISA {

ms_status Matmul24(ms_context* ctx, float* y, const float* x, ms_weights w, const uint8_t* meta, int64_t tokens,
                   int64_t n, int64_t k) {
  if (w.type != MS_BF16) return FailType(ctx, "values", w.type);
  const uint16_t* values = static_cast<const uint16_t*>(w.values);
#if defined(__AVX512BF16__)
  if (!Exact(ctx)) return Multiply<Bf16Dot24>(ctx, y, x, values, meta, tokens, n, k);
#endif
  return Multiply<Fp32Dot24>(ctx, y, x, values, meta, tokens, n, k);
}

}  // namespace ISA
}  // namespace maskserve
