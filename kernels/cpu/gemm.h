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

#include "pack.h"
#include "panel.h"

namespace maskserve {
namespace {

// Where element d of row r lies in a packed panel of A: r · kRow + d · kStep within a block of W elements.
template <int R, bool kAlong>
struct Places {
  static constexpr int kRow = kAlong ? W : 1, kStep = kAlong ? 1 : R;
};

// Where the sums of a tile come from, NULL for zeros, and where they go: rows of `columns` floats, a stride apart.
struct Sums {
  const float* in;
  int64_t in_stride;
  float* out;
  int64_t out_stride, columns;
};

// The sums of a tile of R rows × C registers.
template <int R, int C>
struct Accumulators {
  VF of[R][C];

  MS_METHOD void Begin(const Sums& sums) {
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int j = 0; j < C; ++j) {
        const int64_t n = Min(W, Max(0, sums.columns - j * W));
        const float* from = sums.in + r * sums.in_stride + j * W;
        of[r][j] = sums.in == NULL ? Zero() : n == W ? Load(from) : LoadPart(from, n);
      }
    }
  }
  MS_METHOD void End(const Sums& sums) const {
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int j = 0; j < C; ++j) {
        const int64_t n = Min(W, Max(0, sums.columns - j * W));
        float* to = sums.out + r * sums.out_stride + j * W;
        if (n == W) {
          Store(to, of[r][j]);
        } else if (n > 0) {
          StorePart(to, of[r][j], n);
        }
      }
    }
  }
};

// Both operands dense. kAlong: A is packed by PackAlong.
template <typename P, bool kAlong>
struct DenseTile {
  typedef P Product;
  static constexpr int kRows = P::kRows, kColumns = P::kColumns;
  static constexpr int64_t kBlock = W;

  // Adds R rows of A times a panel of B over `depth` elements, a multiple of W.
  template <int R>
  MS_TILE void Run(const Sums& sums, const typename P::E* a, const typename P::E* b, int64_t depth) {
    constexpr int C = kColumns;
    typedef Places<R, kAlong> At;
    Accumulators<R, C> acc;
    acc.Begin(sums);
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
          for (int j = 0; j < C; ++j) acc.of[r][j] = P::Step(acc.of[r][j], row, columns_of_b[j]);
        }
      }
    }
    acc.End(sums);
  }
};

template <typename Tile>
MS_INLINE void RunTile(int rows, const Sums& sums, const typename Tile::Product::E* a,
                       const typename Tile::Product::E* b, int64_t depth) {
  static_assert(Tile::kRows <= 12, "a case for every height");
  switch (rows) {
#define MS_ROWS(R) \
  case R:          \
    return Tile::template Run<Min(R, Tile::kRows)>(sums, a, b, depth)
    MS_ROWS(1);
    MS_ROWS(2);
    MS_ROWS(3);
    MS_ROWS(4);
    MS_ROWS(5);
    MS_ROWS(6);
    MS_ROWS(7);
    MS_ROWS(8);
    MS_ROWS(9);
    MS_ROWS(10);
    MS_ROWS(11);
    MS_ROWS(12);
#undef MS_ROWS
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
          float* at = c + (block.row + row) * ldc + block.column + column;
          const Sums sums = {add || d > 0 ? at : NULL, ldc, at, ldc, block.columns - column};
          RunTile<DenseTile<P, kAlong>>(width, sums, block.a + row * block.depth + d * width, b, depth);
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
