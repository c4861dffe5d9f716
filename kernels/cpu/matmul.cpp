// y (T, N) = x (T, K) wᵀ with bf16 weights (N, K) and fp32 accumulation, for one w or several of an x.

#include "prefill.h"
#include "tiles.h"

namespace maskserve {
namespace {

// Rows (…, K) of the matrix.
struct DenseRows {
  const uint16_t* w;
  int64_t k;

  MS_INLINE const uint16_t* At(const DenseRows& rows, int64_t r, int64_t i) { return rows.w + r * rows.k + i; }
};

struct Dense {
  typedef DenseRows Rows;
  const uint16_t* w;  // (N, K)
  int64_t k;

  Rows From(int64_t row) const { return {w + row * k, k}; }
};

// Asks for what is read later in a tile's rows or, where those end, for what the next tile reads first. AVX2's loop, of
// four times as many instructions, is 1.6 times as fast for it; AVX-512's gains a few hundredths of the reading rate.
struct RowsAhead {
  static constexpr int64_t kColumns = 768, kLongRow = 0;

  template <int R>
  MS_INLINE void Prefetch(const DenseRows& rows, int64_t r, int64_t i) {
    const bool within = i + kColumns < rows.k;
    const int64_t element = (within ? r : r + R - 1) * rows.k + i + kColumns;
    const uintptr_t at = reinterpret_cast<uintptr_t>(rows.w) + 2 * static_cast<uintptr_t>(element);
    __builtin_prefetch(reinterpret_cast<const void*>(at), 0, 3);
  }
};

// Activations in fp32. A register of 2W weights is taken apart into its even and its odd elements by a shift and a
// mask, so a packed block holds the even activations first.
struct Fp32Dot : RowsAhead {
  typedef float X;
  static constexpr int kStep = 2 * W;
#if defined(__AVX512BF16__)
  static constexpr int kTokens = 4, kRows = 4, kRowsNarrow = 8;
#elif defined(__AVX2__)
  static constexpr int kTokens = 4, kRows = 2, kRowsNarrow = 4;
#else
  static constexpr int kTokens = 2, kRows = 2, kRowsNarrow = 4;
#endif
  static constexpr int kRowsLong = kRowsNarrow;
  struct Weights {
    VF even, odd;
  };
  MS_INLINE Weights Split(VI w) {
    return {Even(w), Odd(w)};
  }
  MS_INLINE Weights Get(const DenseRows& w, int64_t r, int64_t i) {
    return Split(LoadPairs(DenseRows::At(w, r, i)));
  }
  MS_INLINE Weights GetPart(const DenseRows& w, int64_t r, int64_t i, int64_t n) {
    return Split(LoadPairsPart(DenseRows::At(w, r, i), n));
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
struct Bf16Dot : RowsAhead {
  typedef uint16_t X;
  static constexpr int kStep = 32;
  static constexpr int kTokens = 6, kRows = 4, kRowsNarrow = 4, kRowsLong = 4;
  struct Weights {
    __m512bh pairs;
  };
  MS_INLINE Weights Get(const DenseRows& w, int64_t r, int64_t i) {
    return {(__m512bh)LoadPairs(DenseRows::At(w, r, i))};
  }
  MS_INLINE Weights GetPart(const DenseRows& w, int64_t r, int64_t i, int64_t n) {
    return {(__m512bh)LoadPairsPart(DenseRows::At(w, r, i), n)};
  }
  MS_INLINE VF Step(VF acc, const Weights& w, const uint16_t* x) {
    return _mm512_dpbf16_ps(acc, w.pairs, (__m512bh)_mm512_loadu_si512(x));
  }
  MS_INLINE void PackBlock(uint16_t* out, const float* in) {
    _mm512_storeu_si512(out, (__m512i)_mm512_cvtne2ps_pbh(Load(in + W), Load(in)));
  }
};
#endif

template <typename Product, typename Dot>
MS_INLINE ms_status AnyProduct(ms_context* ctx, const ms_product* products, int64_t count, const float* x,
                               int64_t tokens, int64_t k) {
  const auto values = [](const ms_product& product) { return static_cast<const uint16_t*>(product.w.values); };
  if (tokens < MS_PANEL_TOKENS) {
    const auto rows = [&](const ms_product& product) { return Dense{values(product), k}; };
    return Multiply<Dot>(ctx, Factors<Dense>::Of(products, count, rows), x, tokens, k, 2 * k);
  }
  typedef PackTransposed<Product, uint16_t> Weights;
  const auto weights = [&](const ms_product& product) { return Weights{values(product), k}; };
  return MultiplyMany<DenseTile<Product, true>>(ctx, Factors<Weights>::Of(products, count, weights), x, tokens, k);
}

}  // namespace

namespace ISA {

ms_status MatmulFused(ms_context* ctx, const ms_product* products, int64_t count, const float* x, int64_t tokens,
                      int64_t k) {
  for (int64_t i = 0; i < count; ++i) {
    if (products[i].w.type != MS_BF16) return FailType(ctx, "w", products[i].w.type);
  }
#if defined(__AVX512BF16__)
  if (!Exact(ctx)) return AnyProduct<Bf16Product, Bf16Dot>(ctx, products, count, x, tokens, k);
#endif
  return AnyProduct<Fp32Product, Fp32Dot>(ctx, products, count, x, tokens, k);
}

ms_status Matmul(ms_context* ctx, float* y, const float* x, ms_weights w, int64_t tokens, int64_t n, int64_t k) {
  const ms_product product = {y, w, NULL, n};
  return MatmulFused(ctx, &product, 1, x, tokens, k);
}

}  // namespace ISA
}  // namespace maskserve
