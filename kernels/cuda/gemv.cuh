// The skeleton of products with a few tokens on CUDA cores: y (T, N) ← x (T, K) wᵀ, for one w or several of one x.
//
// A block of four warps takes kRows rows and up to TT tokens; its 128 lanes go along the columns together, kColumns of
// them a lane at a time, so that every weight is read once, in 16-byte loads, and activations come from the first-level
// cache once for kRows rows. The lanes' sums are then added: a split of K within the block, so that a layer of 1,024
// rows still fills the machine, without a workspace.
//
// A `Product` says what a lane loads and how it multiplies:
//   kColumns, kSpreads; Weights, Activations
//   Ask(row, column): for what Load reads there; Weights Load(row, column); Activations Read(x + column, columns that
//   are left); Step(weights, activations, token, row, column): their product; Nonfinite(activations): NaN where one is
//   not finite; Spreads(token, row, x): whether the row prunes such a place (one thread's share).
#pragma once

#include "matrices.cuh"
#include "reduce.cuh"

namespace maskserve {
namespace cuda {
namespace {

constexpr int kGemvWarps = 4;
constexpr int kGemvThreads = kGemvWarps * kWarp;
constexpr int kGemvBlocks = 4;  // of a multiprocessor, at least
constexpr int kRows = 4;

struct GemvShape {
  int64_t tokens, n, k;
};

template <typename Product>
struct GemvMatrix {
  float* y;
  Product product;
  int64_t n;
};

// Rows that prune a place whose activation is not finite become NaN. Rare: not a part of the loop.
template <typename Product, int TT>
__device__ void SpreadNonfinite(float* y, const float* x, const Product& product, const GemvShape& s, int64_t row,
                                int64_t token, bool mine) {
  __shared__ int spread[kRows * TT];
  if (threadIdx.x < kRows * TT) spread[threadIdx.x] = 0;
  __syncthreads();
  if (mine) spread[0] = 1;
  __syncthreads();
  const bool any = spread[0] != 0;
  __syncthreads();
  if (!any) return;
  if (threadIdx.x == 0) spread[0] = 0;
  __syncthreads();
  for (int i = 0; i < kRows * TT; ++i) {
    const int64_t r = row + i / TT, t = token + i % TT;
    if (r < s.n && t < s.tokens && product.Spreads(t, r, x + t * s.k)) spread[i] = 1;
  }
  __syncthreads();
  const int i = static_cast<int>(threadIdx.x);
  if (i < kRows * TT && spread[i] != 0) y[(token + i % TT) * s.n + row + i / TT] = __uint_as_float(0x7fc00000u);
}

template <typename Product, int TT, int kMost>
__global__ void __launch_bounds__(kGemvThreads, kGemvBlocks)
    Gemv(Matrices<GemvMatrix<Product>, kMost> all, const float* x, int64_t tokens, int64_t k) {
  constexpr int kStep = kGemvThreads * Product::kColumns;
  static_assert(kRows == 4, "two steps of four rows are eight lines");
  __shared__ float partial[kGemvWarps][kRows * TT];
  unsigned block;
  const GemvMatrix<Product> matrix = MatrixOfBlock(all, &block);
  float* y = matrix.y;
  const Product& product = matrix.product;
  const GemvShape s = {tokens, matrix.n, k};
  const int64_t row = static_cast<int64_t>(block) * kRows, token = static_cast<int64_t>(blockIdx.y) * TT;
  float acc[kRows][TT] = {};
  float zeros = 0;
  // Rows and tokens that are not there repeat the last one.
  const float* from[TT];
#pragma unroll
  for (int t = 0; t < TT; ++t) from[t] = x + Min(token + t, s.tokens - 1) * s.k;
  const int64_t first = static_cast<int64_t>(threadIdx.x) * Product::kColumns;
  // Eight threads share the lines that they read next, in the first two steps of kRows rows: each asks for one.
  LetNextBegin();
  const int share = static_cast<int>(threadIdx.x % 8);
  const int64_t asked = first + share / kRows * kStep;
  if (asked < s.k) product.Ask(Min(row + share % kRows, s.n - 1), asked);
  AwaitFront();
  for (int64_t c = first; c < s.k; c += kStep) {
    typename Product::Weights weights[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) weights[r] = product.Load(Min(row + r, s.n - 1), c);
#pragma unroll
    for (int t = 0; t < TT; ++t) {
      const typename Product::Activations activations = Product::Read(from[t] + c, s.k - c);
      if (Product::kSpreads) zeros += Product::Nonfinite(activations);
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        acc[r][t] += product.Step(weights[r], activations, Min(token + t, s.tokens - 1), Min(row + r, s.n - 1), c);
      }
    }
  }
#pragma unroll
  for (int i = 0; i < kRows * TT; ++i) {
    const float sum = WarpSum(acc[i / TT][i % TT]);
    if (Lane() == 0) partial[WarpOfBlock()][i] = sum;
  }
  __syncthreads();
  const int i = static_cast<int>(threadIdx.x);
  if (i < kRows * TT && row + i / TT < s.n && token + i % TT < s.tokens) {
    y[(token + i % TT) * s.n + row + i / TT] = (partial[0][i] + partial[1][i]) + (partial[2][i] + partial[3][i]);
  }
  if (Product::kSpreads && product.spread != 0) {
    __syncthreads();
    SpreadNonfinite<Product, TT>(y, x, product, s, row, token, zeros != zeros);
  }
}

// Products of one x (T, K); `of` makes the Product that reads the weights of one of them.
struct GemvProducts {
  const ms_product* products;
  int64_t count;
  const float* x;
  int64_t tokens, k;
};

template <int kMost, int TT, typename Of>
inline void LaunchGemv(const GemvProducts& p, Of&& of, cudaStream_t stream) {
  using Product = decltype(of(*p.products));
  const auto all = MatricesOf<kMost>(p.products, p.count, kRows, [&](const ms_product& one) {
    return GemvMatrix<Product>{one.y, of(one), one.n};
  });
  const dim3 grid(all.blocks, Blocks(p.tokens, TT));
  LaunchOverlapped(Gemv<Product, TT, kMost>, grid, kGemvThreads, 0, stream, all, p.x, p.tokens, p.k);
}

// Tiles of as many tokens as there are, four at most.
template <int kMost, typename Of>
inline void LaunchTiles(const GemvProducts& p, Of&& of, cudaStream_t stream) {
  if (p.tokens == 1)
    LaunchGemv<kMost, 1>(p, of, stream);
  else if (p.tokens == 2)
    LaunchGemv<kMost, 2>(p, of, stream);
  else
    LaunchGemv<kMost, 4>(p, of, stream);
}

MS_DEVICE float RoundToBf16(float x) {
  return FloatOfBf16(Bf16OfFloat(x));
}

}  // namespace
}  // namespace cuda
}  // namespace maskserve
