// y (T, N) = x (T, K) wᵀ with w in 2:4 form: values (N, K/2) bf16 and meta (N, K/8). The activations are permuted to
// match the compact values, so half the multiplications of the dense product are left.

#include "pick24.h"
#include "tiles.h"

namespace maskserve {
namespace {

struct Sparse {
  const uint16_t* values;  // (N, K/2)
  const uint8_t* meta;     // (N, K/8)
  int64_t k;

  const uint16_t* Values(int64_t row, int64_t i) const { return values + row * (k >> 1) + (i >> 1); }
  // Values and metadata are two short streams a row, each broken at every page: too much for the hardware alone. As
  // integers, because the last tile's successor lies beyond the matrix. Metadata is asked for once a cache line.
  void Prefetch(int64_t row, int64_t i) const {
    const uintptr_t at = reinterpret_cast<uintptr_t>(values) + static_cast<uintptr_t>(row * k + i);
    __builtin_prefetch(reinterpret_cast<const void*>(at), 0, 2);
    if ((i & 511) != 0) return;
    const uintptr_t meta_at = reinterpret_cast<uintptr_t>(meta) + static_cast<uintptr_t>((row * k + i) >> 3);
    __builtin_prefetch(reinterpret_cast<const void*>(meta_at), 0, 2);
  }
  uint64_t Meta(int64_t row, int64_t i, int64_t n) const { return LoadMeta(meta + row * (k >> 3) + (i >> 3), n >> 3); }
};

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
  MS_INLINE Weights Get(const Sparse& w, int64_t row, int64_t i) {
    return {LoadBf16(w.Values(row, i)), MakeIndex24(w.Meta(row, i, kStep))};
  }
  MS_INLINE Weights GetPart(const Sparse& w, int64_t row, int64_t i, int64_t n) {
    return {LoadBf16Part(w.Values(row, i), n / 2), MakeIndex24(w.Meta(row, i, n))};
  }
  MS_INLINE void Prefetch(const Sparse& w, int64_t row, int64_t i) {
    w.Prefetch(row, i);
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
  static constexpr int kTokens = 4, kRows = 4, kRowsNarrow = 4;
  struct Weights {
    __m512i values, index;
  };
  MS_INLINE Weights Get(const Sparse& w, int64_t row, int64_t i) {
    return {LoadPairs(w.Values(row, i)), WordIndex24(w.Meta(row, i, kStep))};
  }
  MS_INLINE Weights GetPart(const Sparse& w, int64_t row, int64_t i, int64_t n) {
    return {LoadPairsPart(w.Values(row, i), n / 2), WordIndex24(w.Meta(row, i, n))};
  }
  MS_INLINE void Prefetch(const Sparse& w, int64_t row, int64_t i) { w.Prefetch(row, i); }
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

}  // namespace

namespace ISA {

ms_status Matmul24(ms_context* ctx, float* y, const float* x, ms_weights w, const uint8_t* meta, int64_t tokens,
                   int64_t n, int64_t k) {
  if (w.type != MS_BF16) return FailType(ctx, "values", w.type);
  const Sparse sparse = {static_cast<const uint16_t*>(w.values), meta, k};
#if defined(__AVX512BF16__)
  if (!Exact(ctx)) return Multiply<Bf16Dot24>(ctx, y, x, sparse, tokens, n, k, k + k / 8);
#endif
  return Multiply<Fp32Dot24>(ctx, y, x, sparse, tokens, n, k, k + k / 8);
}

}  // namespace ISA
}  // namespace maskserve
