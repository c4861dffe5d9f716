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

// k's [k, end) of one row as ⌈(end − k) / kPair⌉ elements, by W; zero beyond. Calls put(first element, block).
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
      EachBlockAlong<P>(data + (panel.first + r) * stride, k, end, [&](int64_t d, const typename P::E* block) {
        memcpy(out + d * panel.width + r * W, block, W * sizeof(typename P::E));
      });
    }
  }
};

// K runs along memory; element d of column c goes to d · width + c.
template <typename P, typename T>
struct PackTransposed {
  static constexpr bool kByDepth = false;
  const T* data;
  int64_t stride;

  PackTransposed From(int64_t column) const { return {data + column * stride, stride}; }

  void Pack(typename P::E* out, const PanelPlace& panel, int64_t k, int64_t end) const {
    for (int64_t c = 0; c < panel.some; ++c) {
      EachBlockAlong<P>(data + (panel.first + c) * stride, k, end, [&](int64_t d, const typename P::E* block) {
        typename P::E* to = out + d * panel.width + c;
        for (int i = 0; i < W; ++i) to[i * panel.width] = block[i];
      });
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

// A packed part of a product: rows [row, row + panels.tokens) of C, columns [column, column + columns), `depth`
// elements. A's panels are as wide as Panels says and follow one another, B's are kColumns · W wide, zero beyond the
// last column, and `b_depth` elements long.
template <typename P>
struct PackedBlock {
  const typename P::E* a;
  const typename P::E* b;
  Panels panels;
  int64_t row, column, columns, depth, b_depth;
};

// Multiplies the block, shared among the threads as a grid of parts of C: columns first, because a panel of B stays in
// the first-level cache (cut along its depth) while all rows of A pass by from the second.
template <typename P, bool kAlong>
MS_INLINE void MultiplyBlock(ms_context* ctx, float* c, int64_t ldc, const PackedBlock<P>& block, bool add) {
  constexpr int64_t kWidth = P::kColumns * W;
  constexpr int64_t kPanelBytes = 24 << 10;
  constexpr int64_t kTasks = 4;  // wanted a thread
  const int64_t fits = kPanelBytes / (kWidth * static_cast<int64_t>(sizeof(typename P::E))) / W * W;
  const int64_t part = CeilDiv(CeilDiv(block.depth, CeilDiv(block.depth, fits)), W) * W;
  const int64_t across = CeilDiv(block.columns, kWidth), wanted = kTasks * Threads(ctx);
  const int64_t column_parts = Min(across, wanted);
  const int64_t row_parts = Min(block.panels.count, CeilDiv(wanted, column_parts));
  auto body = [&](int64_t task, int) {
    const int64_t i = task % row_parts, j = task / row_parts;
    const int64_t first_panel = block.panels.count * i / row_parts,
                  end_panel = block.panels.count * (i + 1) / row_parts;
    for (int64_t q = across * j / column_parts; q < across * (j + 1) / column_parts; ++q) {
      const int64_t column = q * kWidth;
      for (int64_t d = 0; d < block.depth; d += part) {
        const typename P::E* b = block.b + q * block.b_depth * kWidth + d * kWidth;
        const int64_t depth = Min(part, block.depth - d);
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
  Parallel(ctx, row_parts * column_parts, body);
}

// How a product is cut. B is packed once, in parts that the last-level cache holds; A in parts that the second-level
// cache holds, each multiplied with all of B's part.
struct Cuts {
  int64_t b_depth, columns;  // of a part of B, in elements and columns
  int64_t depth, rows;       // of a part of A

  MS_INLINE Cuts Of(int64_t m, int64_t n, int64_t depth, int64_t width, int64_t rows_of_tile) {
    constexpr int64_t kElementsOfB = 4 << 20, kElementsOfA = 128 << 10, kDepth = 512;
    Cuts cuts;
    cuts.b_depth = Even(depth, Max(kDepth, kElementsOfB / Min(n, 4096)));
    cuts.columns = Min(CeilDiv(n, width), Max(1, kElementsOfB / cuts.b_depth / width)) * width;
    cuts.depth = Even(cuts.b_depth, kDepth);
    cuts.rows = Min(m, Max(rows_of_tile, kElementsOfA / cuts.depth / rows_of_tile * rows_of_tile));
    return cuts;
  }
  // Parts of nearly equal size, at most about `most`, of whole registers.
  MS_INLINE int64_t Even(int64_t depth, int64_t most) { return CeilDiv(CeilDiv(depth, CeilDiv(depth, most)), W) * W; }
};

// c (M, N) = or += A · B. kAlong: A is packed by PackAlong.
template <typename P, bool kAlong, typename PackerA, typename PackerB>
MS_INLINE ms_status MultiplyPacked(ms_context* ctx, float* c, const PackerA& pack_a, const PackerB& pack_b, int64_t m,
                                   int64_t n, int64_t k, bool add) {
  typedef typename P::E E;
  constexpr int64_t kWidth = P::kColumns * W;
  const Cuts cuts = Cuts::Of(m, n, CeilDiv(k, P::kPair), kWidth, P::kRows);
  const size_t bytes = static_cast<size_t>(cuts.columns * cuts.b_depth + cuts.rows * cuts.depth) * sizeof(E);
  E* b = static_cast<E*>(Scratch(ctx, bytes));
  if (b == NULL) return FailMemory(ctx, bytes);
  E* a = b + cuts.columns * cuts.b_depth;
  const int64_t b_step = cuts.b_depth * P::kPair, a_step = cuts.depth * P::kPair;
  for (int64_t column = 0; column < n; column += cuts.columns) {
    const int64_t columns = Min(cuts.columns, n - column);
    const auto column_place = [&](int64_t p) {
      return PanelPlace{p * kWidth, Min(kWidth, columns - p * kWidth), kWidth};
    };
    for (int64_t b_at = 0; b_at < k; b_at += b_step) {
      const int64_t b_end = Min(k, b_at + b_step), b_depth = CeilDiv(b_end - b_at, W * P::kPair) * W;
      PackPanels<P>(ctx, b, pack_b.From(column), CeilDiv(columns, kWidth), column_place, b_at, b_end, b_depth);
      for (int64_t row = 0; row < m; row += cuts.rows) {
        const Panels panels = Panels::Of(Min(cuts.rows, m - row), P::kRows);
        const auto row_place = [&](int64_t p) { return PanelPlace{panels.First(p), panels.Width(p), panels.Width(p)}; };
        for (int64_t at = b_at; at < b_end; at += a_step) {
          const int64_t end = Min(b_end, at + a_step), depth = CeilDiv(end - at, W * P::kPair) * W;
          PackPanels<P>(ctx, a, pack_a.From(row), panels.count, row_place, at, end, depth);
          const PackedBlock<P> block = {
              a, b + (at - b_at) / P::kPair * kWidth, panels, row, column, columns, depth, b_depth};
          MultiplyBlock<P, kAlong>(ctx, c, n, block, add || at > 0);
        }
      }
    }
  }
  return MS_OK;
}

}  // namespace
}  // namespace maskserve
