// C (M, N) = A · B, or C += A · B, for the three products of a trained linear layer: y = x wᵀ, dx = dy w, dw = dyᵀ x.
//
// Both operands are packed, so that a tile of kRows × kColumns registers reads two contiguous streams (the scheme of
// Goto & van de Geijn 2008, "Anatomy of High-Performance Matrix Multiplication"): a register of B holds W columns, an
// element of A is broadcast. Unlike the dot products of tiles.h nothing is summed across lanes, which is what a short K
// (256) needs.
//
// Depth is K in elements of the arithmetic: a float, or two bf16 side by side. Every element of C is one chain of
// multiply-adds along K, put aside in C between parts, so its bits don't depend on the blocks, on the tile or on the
// thread.
#pragma once

#include "panel.h"

namespace maskserve {
namespace {

// A matrix as an operand. By rows: its K runs along memory; by columns: K is the stride.
template <typename T>
struct Operand {
  const T* data;
  int64_t stride;
};

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
  // W elements from W k's.
  MS_INLINE void Along(float* out, const float* in) {
    Store(out, Load(in));
  }
  MS_INLINE void Along(float* out, const uint16_t* in) {
    Store(out, LoadBf16(in));
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
  MS_INLINE void Along(uint32_t* out, const float* in) {
    _mm512_storeu_si512(out, (__m512i)_mm512_cvtne2ps_pbh(Load(in + W), Load(in)));
  }
  MS_INLINE void Along(uint32_t* out, const uint16_t* in) { _mm512_storeu_si512(out, LoadPairs(in)); }
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

// k's [k, end) of one row as ⌈(end − k) / kPair⌉ elements, by W; zero beyond. Calls put(block, elements).
template <typename P, typename T, typename Put>
MS_INLINE void EachBlockAlong(const T* row, int64_t k, int64_t end, const Put& put) {
  constexpr int64_t kStep = P::kPair * W;
  alignas(64) typename P::E block[W];
  for (int64_t i = k; i < end; i += kStep) {
    if (i + kStep <= end) {
      P::Along(block, row + i);
    } else {
      T rest[kStep] = {};
      memcpy(rest, row + i, static_cast<size_t>(end - i) * sizeof(T));
      P::Along(block, rest);
    }
    put((i - k) / P::kPair, block);
  }
}

// Row r of the panel, element d at (d / W · width + r) · W + d mod W: a block of W elements lies together.
template <typename P, typename T>
void PackAlong(typename P::E* out, const Operand<T>& a, int64_t row, int64_t width, int64_t k, int64_t end) {
  for (int64_t r = 0; r < width; ++r) {
    EachBlockAlong<P>(a.data + (row + r) * a.stride, k, end, [&](int64_t d, const typename P::E* block) {
      memcpy(out + d * width + r * W, block, W * sizeof(typename P::E));
    });
  }
}

// Column c of the panel, element d at d · width + c, of a matrix whose K runs along memory.
template <typename P, typename T>
void PackTransposed(typename P::E* out, const Operand<T>& b, int64_t column, int64_t columns, int64_t width, int64_t k,
                    int64_t end) {
  for (int64_t c = 0; c < columns; ++c) {
    EachBlockAlong<P>(b.data + (column + c) * b.stride, k, end, [&](int64_t d, const typename P::E* block) {
      typename P::E* to = out + d * width + c;
      for (int i = 0; i < W; ++i) to[i * width] = block[i];
    });
  }
}

// The same places, of a matrix whose K is the stride.
template <typename P, typename T>
void PackAcross(typename P::E* out, const Operand<T>& b, int64_t column, int64_t columns, int64_t width, int64_t k,
                int64_t end) {
  const T zeros[W] = {};
  for (int64_t i = k; i < end; i += P::kPair, out += width) {
    const T* low = b.data + i * b.stride + column;
    const T* high = i + 1 < end ? low + b.stride : NULL;
    for (int64_t c = 0; c < columns; c += W) {
      P::Across(out + c, low + c, high == NULL ? zeros : high + c, Min(W, columns - c));
    }
  }
}

// Where element d of row r lies in a packed panel of A: r · kRow + d · kStep within a block of W elements.
template <int R, bool kAlong>
struct Places {
  static constexpr int kRow = kAlong ? W : 1, kStep = kAlong ? 1 : R;
};

// c (R, kColumns · W), of which `columns` exist, over `depth` elements, a multiple of W.
template <typename P, bool kAlong, int R>
void ProductTile(float* c, int64_t ldc, const typename P::E* a, const typename P::E* b, int64_t depth, int64_t columns,
                 bool add) {
  constexpr int C = P::kColumns;
  typedef Places<R, kAlong> At;
  VF acc[R][C];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int j = 0; j < C; ++j) {
      const int64_t n = Min(W, Max(0, columns - j * W));
      acc[r][j] = !add ? Zero() : n == W ? Load(c + r * ldc + j * W) : LoadPart(c + r * ldc + j * W, n);
    }
  }
  for (int64_t d = 0; d < depth; d += W, a += R * W, b += C * W * W) {
    const typename P::E* from = a;
    const typename P::E* to = b;
#pragma GCC unroll 2
    for (int i = 0; i < W; ++i, from += At::kStep, to += C * W) {
      typename P::Vector columns_of_b[C];
#pragma GCC unroll 4
      for (int j = 0; j < C; ++j) columns_of_b[j] = P::LoadColumns(to + j * W);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        const typename P::Vector row = P::Broadcast(from + r * At::kRow);
#pragma GCC unroll 4
        for (int j = 0; j < C; ++j) acc[r][j] = P::Step(acc[r][j], row, columns_of_b[j]);
      }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int j = 0; j < C; ++j) {
      const int64_t n = Min(W, Max(0, columns - j * W));
      if (n == W) {
        Store(c + r * ldc + j * W, acc[r][j]);
      } else if (n > 0) {
        StorePart(c + r * ldc + j * W, acc[r][j], n);
      }
    }
  }
}

template <typename P, bool kAlong>
MS_INLINE void ProductPanel(int width, float* c, int64_t ldc, const typename P::E* a, const typename P::E* b,
                            int64_t depth, int64_t columns, bool add) {
  static_assert(P::kRows <= 12, "a case for every width");
  switch (width) {
#define MS_WIDTH(R) \
  case R:           \
    return ProductTile<P, kAlong, Min(R, P::kRows)>(c, ldc, a, b, depth, columns, add)
    MS_WIDTH(1);
    MS_WIDTH(2);
    MS_WIDTH(3);
    MS_WIDTH(4);
    MS_WIDTH(5);
    MS_WIDTH(6);
    MS_WIDTH(7);
    MS_WIDTH(8);
    MS_WIDTH(9);
    MS_WIDTH(10);
    MS_WIDTH(11);
    MS_WIDTH(12);
#undef MS_WIDTH
  }
}

// The packed part of a product: rows [row, row + panels.tokens) of C, columns [column, column + columns), `depth`
// elements. A's panels are as wide as Panels says, B's kColumns · W with zeros beyond the last column.
template <typename P>
struct PackedBlock {
  typename P::E* a;
  typename P::E* b;
  Panels panels;
  int64_t row, column, columns, depth;
};

// Multiplies the block, shared among the threads as a grid of parts of C. B's panels are gone through in parts that
// stay in the first-level cache while the rows pass by.
template <typename P, bool kAlong>
MS_INLINE void MultiplyBlock(ms_context* ctx, float* c, int64_t ldc, const PackedBlock<P>& block, bool add) {
  constexpr int64_t kWidth = P::kColumns * W;
  constexpr int64_t kPanelBytes = 24 << 10;
  constexpr int64_t kLargest = 8;  // panels of a part of C, each way
  constexpr int64_t kTasks = 8;    // wanted a thread
  const int64_t fits = kPanelBytes / (kWidth * static_cast<int64_t>(sizeof(typename P::E))) / W * W;
  const int64_t part = CeilDiv(CeilDiv(block.depth, CeilDiv(block.depth, fits)), W) * W;
  const int64_t down = block.panels.count, across = CeilDiv(block.columns, kWidth);
  int64_t rows = kLargest, columns = kLargest;
  while (rows > 1 && CeilDiv(down, rows) * CeilDiv(across, columns) < kTasks * Threads(ctx)) {
    (columns >= rows ? columns : rows) /= 2;
  }
  const int64_t row_parts = CeilDiv(down, rows);
  auto body = [&](int64_t task, int) {
    const int64_t first_panel = task % row_parts * rows, end_panel = Min(down, first_panel + rows);
    const int64_t first = task / row_parts * columns, end = Min(across, first + columns);
    for (int64_t d = 0; d < block.depth; d += part) {
      const int64_t depth = Min(part, block.depth - d);
      for (int64_t j = first; j < end; ++j) {
        const typename P::E* b = block.b + (j * block.depth + d) * kWidth;
        const int64_t column = j * kWidth;
        for (int64_t p = first_panel; p < end_panel; ++p) {
          const int64_t row = block.panels.First(p);
          const int width = block.panels.Width(p);
          ProductPanel<P, kAlong>(width, c + (block.row + row) * ldc + block.column + column, ldc,
                                  block.a + row * block.depth + d * width, b, depth, block.columns - column,
                                  add || d > 0);
        }
      }
    }
  };
  Parallel(ctx, row_parts * CeilDiv(across, columns), body);
}

// What varies between the three products: pack_a(out, row, width, k, end) and pack_b(out, column, columns, k, end)
// write one panel; kAlong says which of its two layouts pack_a writes.
template <typename P, bool kAlong, typename PackA, typename PackB>
MS_INLINE ms_status MultiplyPacked(ms_context* ctx, float* c, int64_t m, int64_t n, int64_t k, bool add,
                                   const PackA& pack_a, const PackB& pack_b) {
  typedef typename P::E E;
  constexpr int64_t kWidth = P::kColumns * W, kMost = 4096, kBytes = 16 << 20, kGrain = 32768;
  constexpr int64_t kDepthStep = W * P::kPair;
  const int64_t most_rows = Min(m, kMost), most_columns = Min(CeilDiv(n, kWidth) * kWidth, kMost);
  const int64_t fits = kBytes / static_cast<int64_t>(sizeof(E)) / (most_rows + most_columns) / W * kDepthStep;
  const int64_t most_k = Min(CeilDiv(k, kDepthStep) * kDepthStep, Max(kDepthStep, fits));
  const int64_t most_depth = most_k / P::kPair;
  const size_t bytes = static_cast<size_t>((most_rows + most_columns) * most_depth) * sizeof(E);
  E* a = static_cast<E*>(Scratch(ctx, bytes));
  if (a == NULL) return FailMemory(ctx, bytes);
  E* b = a + most_rows * most_depth;
  for (int64_t at = 0; at < k; at += most_k) {
    const int64_t end = Min(k, at + most_k), depth = CeilDiv(end - at, kDepthStep) * W;
    int64_t packed_row = -1;
    for (int64_t column = 0; column < n; column += kMost) {
      const int64_t columns = Min(kMost, n - column), column_panels = CeilDiv(columns, kWidth);
      auto pack_columns = [&](int64_t begin, int64_t stop, int) {
        for (int64_t j = begin; j < stop; ++j) {
          E* out = b + j * depth * kWidth;
          const int64_t some = Min(kWidth, columns - j * kWidth), used = CeilDiv(end - at, P::kPair);
          if (some < kWidth) memset(out, 0, static_cast<size_t>(depth * kWidth) * sizeof(E));
          memset(out + used * kWidth, 0, static_cast<size_t>((depth - used) * kWidth) * sizeof(E));
          pack_b(out, column + j * kWidth, some, at, end);
        }
      };
      ParallelRanges(ctx, column_panels, Max(1, kGrain / (kWidth * (end - at))), pack_columns);
      for (int64_t row = 0; row < m; row += kMost) {
        const PackedBlock<P> block = {a, b, Panels::Of(Min(kMost, m - row), P::kRows), row, column, columns, depth};
        auto pack_rows = [&](int64_t begin, int64_t stop, int) {
          for (int64_t p = begin; p < stop; ++p) {
            const int64_t first = block.panels.First(p), width = block.panels.Width(p);
            E* out = a + first * depth;
            const int64_t used = kAlong ? depth : CeilDiv(end - at, P::kPair);
            memset(out + used * width, 0, static_cast<size_t>((depth - used) * width) * sizeof(E));
            pack_a(out, row + first, width, at, end);
          }
        };
        if (packed_row != row) {
          ParallelRanges(ctx, block.panels.count, Max(1, kGrain / (P::kRows * (end - at))), pack_rows);
        }
        packed_row = row;
        MultiplyBlock<P, kAlong>(ctx, c, n, block, add || at > 0);
      }
    }
  }
  return MS_OK;
}

}  // namespace
}  // namespace maskserve
