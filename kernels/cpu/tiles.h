// The loops that the two matrix products share: y (T, N) = x (T, K) wᵀ, tile by tile, for all w of an x.
//
// Every element is one dot product along K, accumulated in the lanes of one register, block after block, and summed
// across the lanes once at the end. Tiles of R rows × TT tokens only decide how many such registers are in flight, and
// a long K is cut so that a panel stays in the first-level cache, its registers being put aside in between. So an
// element's bits depend neither on T, nor on the tile it falls in, nor on the thread.
//
// Dot is the arithmetic: kStep elements of K a block, kTokens × kRows the tile, kRowsNarrow its rows for one or two
// tokens, kRowsLong for one where K is kLongRow or more, Weights what a block of a row is held as, Get and GetPart to
// load it, Step to multiply it with a packed block of activations, Prefetch to ask for a block that is read later when
// decoding. Matrix is what Get reads: From(row) is the tile's rows. A tile begins at a multiple of R or of 8, and R
// divides 16 or is 1.
#pragma once

#include "factors.h"
#include "panel.h"

namespace maskserve {
namespace {

constexpr int64_t kMaxRowsCut = 64;  // rows of a task when K is cut
constexpr int kMaxTokens = 6;

// A part of K: [begin, end). `partial` holds the accumulators between parts.
struct Cut {
  int64_t begin, end;
  bool first, last;
  float* partial;
};

template <typename Dot, int R, int TT, typename Matrix>
MS_INLINE void Tile(float* y, int64_t ldy, const typename Dot::X* x, const Matrix& w, int64_t row, const Cut& cut,
                    float* partial) {
  constexpr int kStep = Dot::kStep;
  const typename Matrix::Rows rows = w.From(row);
  VF acc[R][TT];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int t = 0; t < TT; ++t) acc[r][t] = cut.first ? Zero() : Load(partial + (r * TT + t) * W);
  }
  int64_t i = cut.begin;
  for (; i + kStep <= cut.end; i += kStep, x += TT * kStep) {
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const typename Dot::Weights weights = Dot::Get(rows, r, i);
      if (TT <= 4) Dot::template Prefetch<R>(rows, r, i);
#pragma GCC unroll 8
      for (int t = 0; t < TT; ++t) acc[r][t] = Dot::Step(acc[r][t], weights, x + t * kStep);
    }
  }
  if (i < cut.end) {
    for (int r = 0; r < R; ++r) {
      const typename Dot::Weights weights = Dot::GetPart(rows, r, i, cut.end - i);
      for (int t = 0; t < TT; ++t) acc[r][t] = Dot::Step(acc[r][t], weights, x + t * kStep);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int t = 0; t < TT; ++t) {
      if (cut.last) {
        y[t * ldy + row + r] = Sum(acc[r][t]);
      } else {
        Store(partial + (r * TT + t) * W, acc[r][t]);
      }
    }
  }
}

// Rows [begin, end) with one panel of TT tokens.
template <typename Dot, int TT, typename Matrix>
void Rows(float* y, int64_t ldy, const typename Dot::X* x, const Matrix& w, int64_t begin, int64_t end,
          const Cut& cut) {
  constexpr int R = TT <= 2 ? Dot::kRowsNarrow : Dot::kRows;
  float* partial = cut.partial;
  int64_t r = begin;
  if (TT == 1 && Dot::kRowsLong > R && w.k >= Dot::kLongRow) {
    constexpr int L = Max(R, Dot::kRowsLong);
    for (; r + L <= end; r += L, partial += L * TT * W) Tile<Dot, L, Min(TT, 1)>(y, ldy, x, w, r, cut, partial);
  }
  for (; r + R <= end; r += R, partial += R * TT * W) Tile<Dot, R, TT>(y, ldy, x, w, r, cut, partial);
  for (; r < end; ++r, partial += TT * W) Tile<Dot, 1, TT>(y, ldy, x, w, r, cut, partial);
}

template <typename Dot, typename Matrix>
MS_INLINE void Panel(float* y, int64_t ldy, const typename Dot::X* x, const Matrix& w, int width, int64_t begin,
                     int64_t end, const Cut& cut) {
  static_assert(Dot::kTokens <= kMaxTokens, "a case for every width");
  const typename Dot::X* from = x + cut.begin * width;
  switch (width) {
    case 1:
      return Rows<Dot, 1>(y, ldy, from, w, begin, end, cut);
    case 2:
      return Rows<Dot, Min(2, Dot::kTokens)>(y, ldy, from, w, begin, end, cut);
    case 3:
      return Rows<Dot, Min(3, Dot::kTokens)>(y, ldy, from, w, begin, end, cut);
    case 4:
      return Rows<Dot, Min(4, Dot::kTokens)>(y, ldy, from, w, begin, end, cut);
    case 5:
      return Rows<Dot, Min(5, Dot::kTokens)>(y, ldy, from, w, begin, end, cut);
    case 6:
      return Rows<Dot, Min(6, Dot::kTokens)>(y, ldy, from, w, begin, end, cut);
  }
}

// Rows of w that one task multiplies with all panels: they stay in the second-level cache between panels, there are
// several tasks a thread to even out, and a task outweighs its handing over. A multiple of the tile's.
template <typename Dot>
MS_INLINE int64_t RowsOfTask(ms_context* ctx, int64_t tokens, int64_t n, int64_t k, int64_t row_bytes) {
  constexpr int64_t kCacheBytes = 256 << 10;
  constexpr int64_t kMinBytes = 64 << 10;
  constexpr int64_t kMinProducts = 1 << 20;
  const int64_t cached = kCacheBytes / row_bytes;
  const int64_t shared = n / (4 * Threads(ctx));
  const int64_t least = Min(CeilDiv(kMinBytes, row_bytes), CeilDiv(kMinProducts, tokens * k));
  const int64_t tile = Max(Dot::kRowsLong, Max(Dot::kRows, Dot::kRowsNarrow));
  return CeilDiv(Max(1, Max(least, Min(cached, shared))), tile) * tile;
}

// Each y (T, N) = x wᵀ. `row_bytes`: what a row of a w takes, for the cut into tasks.
template <typename Dot, typename Matrix>
MS_INLINE ms_status Multiply(ms_context* ctx, const Factors<Matrix>& factors, const float* x, int64_t tokens, int64_t k,
                             int64_t row_bytes) {
  typedef typename Dot::X X;
  const Panels panels = Panels::Of(tokens, Dot::kTokens);
  const int64_t padded = PaddedK(k, Dot::kStep);
  size_t bytes;
  X* packed = PackTokens<Dot>(ctx, x, panels, k, &bytes);
  if (packed == NULL) return FailMemory(ctx, bytes);
  // Half of a 48 KiB first-level cache for the panel. One or two tokens are read along with the weights: nothing to
  // keep.
  constexpr int64_t kPanelBytes = 24 << 10;
  const int64_t fits = kPanelBytes / (Dot::kTokens * static_cast<int64_t>(sizeof(typename Dot::X))) / 64 * 64;
  const int64_t part = tokens <= 2 ? k : fits;
  const int64_t of_task = RowsOfTask<Dot>(ctx, tokens, factors.Rows(), k, row_bytes);
  const int64_t rows = part < k ? Min(of_task, kMaxRowsCut) : of_task;
  auto body = [&](int64_t task, int) {
    alignas(64) float partial[kMaxRowsCut * Dot::kTokens * W];
    const Piece<Matrix> piece = factors.At(task, rows);
    const int64_t n = piece.factor->n;
    for (int64_t p = 0; p < panels.count; ++p) {
      const int64_t first = panels.First(p);
      for (int64_t i = 0; i < k; i += part) {
        const Cut cut = {i, Min(k, i + part), i == 0, i + part >= k, partial};
        Panel<Dot>(piece.factor->y + first * n, n, packed + first * padded, piece.factor->w, panels.Width(p),
                   piece.begin, piece.end, cut);
      }
    }
  };
  Parallel(ctx, factors.Pieces(rows), body);
  return MS_OK;
}

}  // namespace
}  // namespace maskserve
