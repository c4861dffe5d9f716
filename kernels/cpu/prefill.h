// y (T, N) = x (T, K) wᵀ for many tokens and all w of an x: the products of prefill, dense and 2:4.
//
// x is packed once. The weights never are as a whole: a task packs a panel, kColumns · W rows of w, cut along K so that
// it stays in the first-level cache, multiplies all its tokens with it, and goes on. As in gemm.h every element of y is
// one chain along K, put aside in y between parts.
#pragma once

#include "factors.h"
#include "gemm.h"

namespace maskserve {
namespace {

// How the y are shared among the threads: parts of rows of the w first, because parts of tokens pack the same panels
// again.
struct Shares {
  int64_t panels, weight_parts, token_parts;

  MS_INLINE Shares Of(ms_context* ctx, int64_t panels, int64_t token_panels) {
    const int64_t wanted = 8 * Threads(ctx), weight_parts = Min(panels, wanted);
    return {panels, weight_parts, Min(token_panels, CeilDiv(wanted, weight_parts))};
  }
};

// Each y (T, N) = x wᵀ. Weights: Pack(out, panel, begin, end) packs columns [begin, end) of some rows of w for Tile,
// begin a multiple of Tile::kBlock elements; it may write up to the end of its last block.
template <typename Tile, typename Weights>
MS_INLINE ms_status MultiplyMany(ms_context* ctx, const Factors<Weights>& factors, const float* x, int64_t tokens,
                                 int64_t k) {
  typedef typename Tile::Product P;
  typedef typename P::E E;
  constexpr int64_t kWidth = Tile::kColumns * W, kPanelBytes = 32 << 10;
  constexpr int64_t kMost = kPanelBytes / (kWidth * static_cast<int64_t>(sizeof(E)));
  const Panels panels = Panels::Of(tokens, Tile::kRows);
  const int64_t depth = CeilDiv(k, W * P::kPair) * W, parts = CeilDiv(depth, kMost);
  const int64_t part = CeilDiv(CeilDiv(depth, parts), Tile::kBlock) * Tile::kBlock;
  const size_t bytes = static_cast<size_t>(tokens * depth + Threads(ctx) * part * kWidth) * sizeof(E);
  E* panel_room = static_cast<E*>(Scratch(ctx, bytes));
  if (panel_room == NULL) return FailMemory(ctx, bytes);
  E* a = panel_room + Threads(ctx) * part * kWidth;
  const auto token_place = [&](int64_t p) { return PanelPlace{panels.First(p), panels.Width(p), panels.Width(p)}; };
  PackPanels<P>(ctx, a, PackAlong<P, float>{x, k}, panels.count, token_place, 0, k, depth);
  const Shares shares = Shares::Of(ctx, factors.Pieces(kWidth), panels.count);
  auto body = [&](int64_t task, int worker) {
    E* b = panel_room + worker * part * kWidth;
    const int64_t i = task % shares.token_parts, j = task / shares.token_parts;
    const int64_t first = panels.count * i / shares.token_parts, end = panels.count * (i + 1) / shares.token_parts;
    const int64_t last_panel = shares.panels * (j + 1) / shares.weight_parts;
    for (int64_t q = shares.panels * j / shares.weight_parts; q < last_panel; ++q) {
      const Piece<Weights> piece = factors.At(q, kWidth);
      const int64_t n = piece.factor->n, rows = piece.end - piece.begin;
      for (int64_t d = 0; d < depth; d += part) {
        piece.factor->w.Pack(b, {piece.begin, rows, kWidth}, d * P::kPair, Min(k, (d + part) * P::kPair));
        for (int64_t p = first; p < end; ++p) {
          const int64_t token = panels.First(p);
          const int width = panels.Width(p);
          RunTile<Tile>(width, piece.factor->y + token * n + piece.begin, n, a + token * depth + d * width, b,
                        Min(part, depth - d), rows, d > 0);
        }
      }
    }
  };
  Parallel(ctx, shares.weight_parts * shares.token_parts, body);
  return MS_OK;
}

}  // namespace
}  // namespace maskserve
