// y (T, N) = x (T, K) wᵀ for many tokens and all w of an x: the products of prefill, dense and 2:4.
//
// x is packed once. The weights never are as a whole: a task packs a panel, kColumns · W rows of w, cut along K so that
// it stays in the first-level cache, multiplies all its tokens with it, and goes on. With a large x it packs several: a
// part of x then comes from memory, or from a last level that others use too, once for all of them, in lots of tokens
// that the second level holds. With one panel at a time the 11 MB of 512 tokens × 11,008 are read again for every 32
// rows, which takes 1.3–2 times as long; 4 MB and less are better off with one. As in gemm.h every element of y is one
// chain along K, put aside between parts: side by side, not in y, whose rows are often a power of two apart and share a
// few lines of each cache.
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

// Bytes of a panel of weights; panels at a time when x has more bytes than kLargeX; tokens of a lot.
constexpr int64_t kPanelBytes = 32 << 10, kMostPanels = 8, kLargeX = 4 << 20, kLotTokens = 120;

// The products of an x, as they are cut.
template <typename Tile, typename Weights>
struct ManyTokens {
  typedef typename Tile::Product P;
  typedef typename P::E E;
  static constexpr int64_t kWidth = Tile::kColumns * W, kLot = kLotTokens / Tile::kRows;

  const Factors<Weights>& factors;
  int64_t tokens, k, depth, part;  // `depth` elements along K, a part of them at a time
  Panels panels;                   // of x
  int64_t most;                    // panels of weights at a time
  E* a;                            // x packed
  E* b;                            // a thread's panels, most · part · kWidth elements
  float* aside;                    // a thread's sums, most · tokens · kWidth

  ManyTokens(const Factors<Weights>& of, int64_t tokens_, int64_t k_)
      : factors(of), tokens(tokens_), k(k_), panels(Panels::Of(tokens_, Tile::kRows)) {
    constexpr int64_t kDeepest = kPanelBytes / (kWidth * static_cast<int64_t>(sizeof(E)));
    depth = CeilDiv(k, W * P::kPair) * W;
    part = CeilDiv(CeilDiv(depth, CeilDiv(depth, kDeepest)), Tile::kBlock) * Tile::kBlock;
    most = tokens * depth * static_cast<int64_t>(sizeof(E)) > kLargeX ? kMostPanels : 1;
  }
  // False when memory is short.
  bool FindRoom(ms_context* ctx, size_t* bytes) {
    const int64_t threads = Threads(ctx), sums = threads * most * tokens * kWidth,
                  weights = threads * most * part * kWidth;
    *bytes = static_cast<size_t>(sums) * sizeof(float) + static_cast<size_t>(weights + tokens * depth) * sizeof(E);
    aside = static_cast<float*>(Scratch(ctx, *bytes));
    b = reinterpret_cast<E*>(aside + sums);
    a = b + weights;
    return aside != NULL;
  }
  void PackX(ms_context* ctx, const float* x) const {
    const auto place = [&](int64_t p) { return PanelPlace{panels.First(p), panels.Width(p), panels.Width(p)}; };
    PackPanels<P>(ctx, a, PackAlong<P, float>{x, k}, panels.count, place, 0, k, depth);
  }

  // Panels [first, end) of x times `count` panels of weights from number q on.
  void MultiplySome(int64_t q, int64_t count, int64_t first, int64_t end, int worker) const {
    const int64_t room = part * kWidth, sums_room = tokens * kWidth;
    Piece<Weights> pieces[kMostPanels];
    for (int64_t i = 0; i < count; ++i) pieces[i] = factors.At(q + i, kWidth);
    E* weights = b + worker * most * room;
    for (int64_t d = 0; d < depth; d += part) {
      for (int64_t i = 0; i < count; ++i) {
        const PanelPlace rows = {pieces[i].begin, pieces[i].end - pieces[i].begin, kWidth};
        pieces[i].factor->w.Pack(weights + i * room, rows, d * P::kPair, Min(k, (d + part) * P::kPair));
      }
      for (int64_t lot = first; lot < end; lot += kLot) {
        for (int64_t i = 0; i < count; ++i) {
          float* sums = aside + (worker * most + i) * sums_room;
          MultiplyLot(pieces[i], weights + i * room, sums, d, lot, Min(end, lot + kLot));
        }
      }
    }
  }
  // Panels [first, end) of x times the part of a panel of weights that begins at element d of its depth.
  void MultiplyLot(const Piece<Weights>& piece, const E* weights, float* sums, int64_t d, int64_t first,
                   int64_t end) const {
    const bool last = d + part >= depth;
    const int64_t n = piece.factor->n;
    for (int64_t p = first; p < end; ++p) {
      const int64_t token = panels.First(p);
      float* put = sums + token * kWidth;
      float* to = last ? piece.factor->y + token * n + piece.begin : put;
      const Sums of = {d == 0 ? NULL : put, kWidth, to, last ? n : kWidth, piece.end - piece.begin};
      RunTile<Tile>(panels.Width(p), of, a + token * depth + d * panels.Width(p), weights, Min(part, depth - d));
    }
  }
};

// Each y (T, N) = x wᵀ. Weights: Pack(out, panel, begin, end) packs columns [begin, end) of some rows of w for Tile,
// begin a multiple of Tile::kBlock elements; it may write up to the end of its last block.
template <typename Tile, typename Weights>
MS_INLINE ms_status MultiplyMany(ms_context* ctx, const Factors<Weights>& factors, const float* x, int64_t tokens,
                                 int64_t k) {
  ManyTokens<Tile, Weights> many(factors, tokens, k);
  size_t bytes;
  if (!many.FindRoom(ctx, &bytes)) return FailMemory(ctx, bytes);
  many.PackX(ctx, x);
  const Shares shares = Shares::Of(ctx, factors.Pieces(many.kWidth), many.panels.count);
  auto body = [&](int64_t task, int worker) {
    const int64_t i = task % shares.token_parts, j = task / shares.token_parts;
    const int64_t first = many.panels.count * i / shares.token_parts,
                  end = many.panels.count * (i + 1) / shares.token_parts;
    const int64_t last = shares.panels * (j + 1) / shares.weight_parts;
    for (int64_t q = shares.panels * j / shares.weight_parts; q < last; q += many.most) {
      many.MultiplySome(q, Min(many.most, last - q), first, end, worker);
    }
  };
  Parallel(ctx, shares.weight_parts * shares.token_parts, body);
  return MS_OK;
}

}  // namespace
}  // namespace maskserve
