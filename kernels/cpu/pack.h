// The operands of gemm.h, packed: elements of the arithmetic, in panels that a tile reads as one contiguous stream.
//
// An element is what a lane multiplies at once: a float, or two bf16 of adjacent k's side by side.
#pragma once

#include "ops.h"
#include "transpose.h"

namespace maskserve {
namespace {

// Multiply-adds of fp32.
struct Fp32Product {
  typedef float E;
  static constexpr int64_t kPair = 1;  // k's in an element
#if defined(__AVX512BF16__)
  static constexpr int kRows = 12, kColumns = 2;
#elif defined(__AVX2__)
  static constexpr int kRows = 6, kColumns = 2;
#else
  static constexpr int kRows = 4, kColumns = 2;
#endif
  typedef VF Vector;
  MS_INLINE Vector LoadColumns(const float* b) {
    return Load(b);
  }
  MS_INLINE Vector Broadcast(const float* a) {
    return Set(*a);
  }
  MS_INLINE VF Step(VF acc, Vector a, Vector b) {
    return Fma(a, b, acc);
  }
  MS_INLINE void Put(float* out, VF v) {
    Store(out, v);
  }
  // W elements from W k's.
  MS_INLINE VF Along(const float* in) {
    return Load(in);
  }
  MS_INLINE VF Along(const uint16_t* in) {
    return LoadBf16(in);
  }
  // n ≤ W elements, one a column, from one row.
  MS_INLINE void Across(float* out, const float* row, const float*, int64_t n) {
    if (n == W) {
      Store(out, Load(row));
    } else {
      StorePart(out, LoadPart(row, n), n);
    }
  }
  MS_INLINE void Across(float* out, const uint16_t* row, const uint16_t*, int64_t n) {
    if (n == W) {
      Store(out, LoadBf16(row));
    } else {
      StorePart(out, LoadBf16Part(row, n), n);
    }
  }
};

#if defined(__AVX512BF16__)
// Operands rounded to bf16; an element is two k's, the lower one in the low half, and vdpbf16ps adds both products.
struct Bf16Product {
  typedef uint32_t E;
  static constexpr int64_t kPair = 2;
  static constexpr int kRows = 12, kColumns = 2;
  typedef __m512i Vector;
  MS_INLINE Vector LoadColumns(const uint32_t* b) { return _mm512_loadu_si512(b); }
  MS_INLINE Vector Broadcast(const uint32_t* a) { return _mm512_set1_epi32(static_cast<int>(*a)); }
  MS_INLINE VF Step(VF acc, Vector a, Vector b) { return _mm512_dpbf16_ps(acc, (__m512bh)a, (__m512bh)b); }
  MS_INLINE void Put(uint32_t* out, VF v) { _mm512_storeu_si512(out, _mm512_castps_si512(v)); }
  MS_INLINE VF Along(const float* in) {
    return _mm512_castsi512_ps((__m512i)_mm512_cvtne2ps_pbh(Load(in + W), Load(in)));
  }
  MS_INLINE VF Along(const uint16_t* in) { return _mm512_castsi512_ps(LoadPairs(in)); }
  // n ≤ W elements, one a column, from two rows.
  MS_INLINE void Across(uint32_t* out, const float* low, const float* high, int64_t n) {
    const __mmask16 lanes = n == W ? static_cast<__mmask16>(-1) : FirstLanes(n);
    const __m512i both =
        (__m512i)_mm512_cvtne2ps_pbh(_mm512_maskz_loadu_ps(lanes, high), _mm512_maskz_loadu_ps(lanes, low));
    _mm512_mask_storeu_epi32(out, lanes, Interleave(both));
  }
  MS_INLINE void Across(uint32_t* out, const uint16_t* low, const uint16_t* high, int64_t n) {
    const __mmask16 lanes = n == W ? static_cast<__mmask16>(-1) : FirstLanes(n);
    const __m512i both = _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_maskz_loadu_epi16(lanes, low)),
                                            _mm256_maskz_loadu_epi16(lanes, high), 1);
    _mm512_mask_storeu_epi32(out, lanes, Interleave(both));
  }
  // Words 0 16 1 17 …
  MS_INLINE __m512i Interleave(__m512i v) {
    const __m512i word = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                                          21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return _mm512_permutexvar_epi16(word, v);
  }
};
#endif

// W elements from k's [k, min(end, k + W · kPair)) of a row; zero beyond.
template <typename P, typename T>
MS_INLINE VF BlockAlong(const T* row, int64_t k, int64_t end) {
  constexpr int64_t kStep = P::kPair * W;
  if (k + kStep <= end) return P::Along(row + k);
  T rest[kStep] = {};
  memcpy(rest, row + k, static_cast<size_t>(end - k) * sizeof(T));
  return P::Along(rest);
}

// A panel of a packed operand: rows of A or columns of B [first, first + some), in a panel `width` wide.
struct PanelPlace {
  int64_t first, some, width;
};

// The three ways to pack a panel: Pack writes k's [k, end) of it as ⌈(end − k) / kPair / W⌉ · W elements, zeros beyond
// the end. kByDepth: adjacent panels share the cache lines that are read, so packing proceeds along K, not by panel.

// K runs along memory; element d of row r goes to (d / W · width + r) · W + d mod W: a block of W elements lies
// together.
template <typename P, typename T>
struct PackAlong {
  static constexpr bool kByDepth = false;
  const T* data;
  int64_t stride;

  PackAlong From(int64_t row) const { return {data + row * stride, stride}; }

  void Pack(typename P::E* out, const PanelPlace& panel, int64_t k, int64_t end) const {
    for (int64_t r = 0; r < panel.some; ++r) {
      const T* row = data + (panel.first + r) * stride;
      typename P::E* to = out + r * W;
      for (int64_t i = k; i < end; i += P::kPair * W, to += W * panel.width) P::Put(to, BlockAlong<P>(row, i, end));
    }
  }
};

// K runs along memory; element d of column c goes to d · width + c, where width is whole registers.
template <typename P, typename T>
struct PackTransposed {
  static constexpr bool kByDepth = false;
  const T* data;
  int64_t stride;

  PackTransposed From(int64_t column) const { return {data + column * stride, stride}; }

  void Pack(typename P::E* out, const PanelPlace& panel, int64_t k, int64_t end) const {
    for (int64_t c = 0; c < panel.some; c += W) {
      const T* rows = data + (panel.first + c) * stride;
      const int64_t n = Min(W, panel.some - c);
      typename P::E* to = out + c;
      for (int64_t i = k; i < end; i += P::kPair * W, to += W * panel.width) {
        VF block[W];
#pragma GCC unroll 16
        for (int r = 0; r < W; ++r) block[r] = r < n ? BlockAlong<P>(rows + r * stride, i, end) : Zero();
        Transpose(block);
#pragma GCC unroll 16
        for (int d = 0; d < W; ++d) P::Put(to + d * panel.width, block[d]);
      }
    }
  }
};

// Asks for the line `elements` after p, which may lie outside the matrix: nothing is read. Short runs of many rows are
// what the hardware does not foresee.
template <typename T>
MS_INLINE void Prefetch(const T* p, int64_t elements) {
  const uintptr_t ahead = static_cast<uintptr_t>(elements) * sizeof(T);
  __builtin_prefetch(reinterpret_cast<const void*>(reinterpret_cast<uintptr_t>(p) + ahead));
}

// K is the stride; the same places.
template <typename P, typename T>
struct PackAcross {
  static constexpr bool kByDepth = true;
  const T* data;
  int64_t stride;

  PackAcross From(int64_t column) const { return {data + column, stride}; }

  void Pack(typename P::E* out, const PanelPlace& panel, int64_t k, int64_t end) const {
    constexpr int64_t kAhead = P::kPair * W;  // k's: the next step of PackPanels
    const T zeros[W] = {};
    const int64_t stop = k + CeilDiv(end - k, P::kPair * W) * P::kPair * W;
    for (int64_t i = k; i < stop; i += P::kPair, out += panel.width) {
      const T* low = data + i * stride + panel.first;
      for (int64_t c = 0; c < panel.some; c += W) {
        const int64_t n = Min(W, panel.some - c);
        for (int row = 0; row < P::kPair; ++row) Prefetch(low + c, (kAhead + row) * stride);
        P::Across(out + c, i < end ? low + c : zeros, i + 1 < end ? low + stride + c : zeros, n);
      }
    }
  }
};

// All panels of an operand for k's [at, end), panel p at place(p).first · depth elements.
template <typename P, typename Packer, typename Place>
MS_INLINE void PackPanels(ms_context* ctx, typename P::E* out, const Packer& packer, int64_t panels, const Place& place,
                          int64_t at, int64_t end, int64_t depth) {
  constexpr int64_t kGrain = 32768, kStep = W * P::kPair;  // elements a task; k's a step
  const auto pack = [&](int64_t p, int64_t k, int64_t stop) {
    const PanelPlace panel = place(p);
    typename P::E* to = out + panel.first * depth + (k - at) / P::kPair * panel.width;
    if (panel.some < panel.width) {
      const int64_t elements = CeilDiv(stop - k, kStep) * W * panel.width;
      memset(to, 0, static_cast<size_t>(elements) * sizeof(typename P::E));
    }
    packer.Pack(to, panel, k, stop);
  };
  const int64_t widest = place(0).width;
  if (Packer::kByDepth) {
    auto body = [&](int64_t begin, int64_t stop, int) {
      for (int64_t step = begin; step < stop; ++step) {
        const int64_t k = at + step * kStep;
        for (int64_t p = 0; p < panels; ++p) pack(p, k, Min(end, k + kStep));
      }
    };
    ParallelRanges(ctx, depth / W, Max(1, kGrain / (widest * panels * W)), body);
  } else {
    auto body = [&](int64_t begin, int64_t stop, int) {
      for (int64_t p = begin; p < stop; ++p) pack(p, at, end);
    };
    ParallelRanges(ctx, panels, Max(1, kGrain / (widest * depth)), body);
  }
}

}  // namespace
}  // namespace maskserve
