// 2:4 products of up to 16 tokens on sparse tensor cores (kernels.md §3, design 2): mma.sp.m16n8k32 with the weights as
// A and the tokens as B's eight columns, straight from the packed form.
//
// The order of the columns within a block of 64 does not matter to a sum, so lane t of a quad takes groups 4t … 4t + 3
// of a row, its 16 bytes of values in one load, and they stand for groups t and t + 4 of two instructions (s = 0, 1):
// physical group 4j + 2s is the instruction's group j, 4j + 2s + 1 its group 4 + j. Nibbles and activations are picked
// in the same order.
//
// Bound by DRAM: 4½ bytes a group, 9/16 of dense, for 8 tokens as for 1. A warp multiplies 32 rows by 64 columns by 16
// tokens with 8 instructions and some 150 others, 36 bits of weights each. A block's 8 warps split K, and their sums
// meet in shared memory.

#include "matrices.cuh"
#include "patch24.cuh"
#include "reduce.cuh"

namespace maskserve {
namespace cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kThreads = kWarps * kWarp;
constexpr int kBlock = 64;  // columns of two instructions
constexpr int kTokens = 8;  // columns of B

struct Mma24Matrix {
  float* y;
  const uint8_t *values, *meta;
  int64_t n;
};

// What all matrices of a launch have in common.
struct Mma24Input {
  const float* x;
  int64_t tokens, k;
  int32_t spread;
};

// A block's product.
struct Mma24 {
  float* y;
  const float* x;
  const uint8_t *values, *meta;
  int64_t tokens, n, k;
  int32_t spread;
};

// What a lane holds of a row in a block: four packed groups, and the row's 16 nibbles.
struct RowPart {
  uint32_t pairs[4];
  uint2 nibbles;
};

MS_DEVICE RowPart LoadRow(const Mma24& p, int64_t row, int64_t column, int t) {
  const int64_t at = Min(row, p.n - 1) * p.k + column;
  const uint4 v = LoadStream(p.values + at + 16 * t);
  return {{v.x, v.y, v.z, v.w}, *reinterpret_cast<const uint2*>(p.meta + at / 8)};
}

// Nibbles `shift` / 4, + 4, + 8, + 12 of 16, packed into 16 bits.
MS_DEVICE uint32_t EveryFourth(const uint2& nibbles, int shift) {
  const uint32_t low = nibbles.x >> shift & 0x000f000fu, high = nibbles.y >> shift & 0x000f000fu;
  const uint32_t both = low | high << 8;
  return (both | both >> 12) & 0xffffu;
}

// b of instruction s for the token of this lane's column: pairs of its activations, in the order of the groups.
MS_DEVICE void LoadTokens(uint32_t (&b)[4], const float* x, int s, int t) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int column = 16 * (t / 2) + 32 * (i % 2) + 8 * s + 4 * (i / 2) + 2 * (t % 2);
    const float2 pair = *reinterpret_cast<const float2*>(x + column);
    b[i] = PairOfFloats(pair.x, pair.y);
  }
}

// y of this block's rows and tokens from the warps' sums, and NaN where a row prunes what is not finite.
template <int kRows, int kWidth>
MS_DEVICE void Finish(const Mma24& p, const float (*sums)[kWidth][kRows], bool nonfinite, int64_t row, int64_t token) {
  for (int i = static_cast<int>(threadIdx.x); i < kRows * kWidth; i += kThreads) {
    const int64_t r = row + i % kRows, t = token + i / kRows;
    if (r >= p.n || t >= p.tokens) continue;
    float sum = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) sum += sums[w][i / kRows][i % kRows];
    p.y[t * p.n + r] = sum;
  }
  if (p.spread == 0 || !nonfinite) return;
  __syncthreads();
  for (int i = 0; i < kRows * kWidth; ++i) {
    const int64_t r = row + i % kRows, t = token + i / kRows;
    if (r >= p.n || t >= p.tokens) continue;
    if (SpreadsRow(p.meta + r * (p.k / 8), nullptr, 0, 0, p.x + t * p.k, p.k)) {
      p.y[t * p.n + r] = __uint_as_float(0x7fc00000u);
    }
  }
}

// kTiles × 16 rows, kPanels × 8 tokens.
template <int kTiles, int kPanels, int kMost>
__global__ void __launch_bounds__(kThreads) SparseProduct(Matrices<Mma24Matrix, kMost> all, Mma24Input in) {
  constexpr int kRows = 16 * kTiles, kWidth = kTokens * kPanels;
  __shared__ float sums[kWarps][kWidth][kRows];
  __shared__ int nonfinite;
  const int g = Lane() / 4, t = Lane() % 4;
  unsigned block;
  const Mma24Matrix matrix = MatrixOfBlock(all, &block);
  const Mma24 p = {matrix.y, in.x, matrix.values, matrix.meta, in.tokens, matrix.n, in.k, in.spread};
  const int64_t row = static_cast<int64_t>(block) * kRows, token = static_cast<int64_t>(blockIdx.y) * kWidth;
  if (threadIdx.x == 0) nonfinite = 0;
  float acc[kTiles][kPanels][4] = {};
  uint32_t zeros = 0;
  // The four lanes of a row ask for its next four steps.
  LetNextBegin();
  const int64_t asked = (WarpOfBlock() + t * kWarps) * kBlock;
#pragma unroll
  for (int i = 0; i < 2 * kTiles; ++i) {
    if (asked >= p.k) continue;
    const int64_t at = Min(row + 8 * i + g, p.n - 1) * p.k + asked;
    AskFor(p.values + at);
    AskFor(p.meta + at / 8);
  }
  AwaitFront();
  for (int64_t column = WarpOfBlock() * kBlock; column < p.k; column += kWarps * kBlock) {
    RowPart parts[kTiles][2];
#pragma unroll
    for (int m = 0; m < kTiles; ++m) {
      parts[m][0] = LoadRow(p, row + 16 * m + g, column, t);
      parts[m][1] = LoadRow(p, row + 16 * m + g + 8, column, t);
    }
#pragma unroll
    for (int s = 0; s < 2; ++s) {
      uint32_t b[kPanels][4];
#pragma unroll
      for (int q = 0; q < kPanels; ++q) {
        // Tokens that are not there repeat the last one, and are left out at the end.
        const int64_t mine = Min(token + kTokens * q + g, p.tokens - 1);
        LoadTokens(b[q], p.x + mine * p.k + column, s, t);
#pragma unroll
        for (int i = 0; i < 4; ++i) zeros = FmaPairs(b[q][i], 0, zeros);
      }
#pragma unroll
      for (int m = 0; m < kTiles; ++m) {
        const RowPart &top = parts[m][0], &bottom = parts[m][1];
        const uint32_t a[4] = {top.pairs[2 * s], bottom.pairs[2 * s], top.pairs[2 * s + 1], bottom.pairs[2 * s + 1]};
        const int shift = 4 * (2 * s + t % 2);
        const uint32_t meta = EveryFourth(top.nibbles, shift) | EveryFourth(bottom.nibbles, shift) << 16;
#pragma unroll
        for (int q = 0; q < kPanels; ++q) SparseMma16832(acc[m][q], a, b[q], meta);
      }
    }
  }
#pragma unroll
  for (int m = 0; m < kTiles; ++m) {
#pragma unroll
    for (int q = 0; q < kPanels; ++q) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        sums[WarpOfBlock()][kTokens * q + 2 * t + i % 2][16 * m + g + 8 * (i / 2)] = acc[m][q][i];
      }
    }
  }
  __syncthreads();
  const float total = LowOfPair(zeros) + HighOfPair(zeros);
  if (total != total) nonfinite = 1;
  __syncthreads();
  Finish<kRows, kWidth>(p, sums, nonfinite != 0, row, token);
}

template <int kTiles, int kPanels>
void LaunchProduct(const ms_product* products, int64_t count, const Mma24Input& in, cudaStream_t stream) {
  const auto matrix = [&](const ms_product& p) {
    const auto* values = static_cast<const uint8_t*>(p.w.values);
    return Mma24Matrix{p.y, values, packed24_meta(values, p.n, in.k), p.n};
  };
  ForCount(count, [&](auto most) {
    constexpr int kMost = decltype(most)::value;
    const auto all = MatricesOf<kMost>(products, count, 16 * kTiles, matrix);
    const dim3 grid(all.blocks, Blocks(in.tokens, kTokens * kPanels));
    LaunchOverlapped(SparseProduct<kTiles, kPanels, kMost>, grid, kThreads, 0, stream, all, in);
  });
}

}  // namespace

void mma24(float* y, const float* x, const void* packed, int64_t tokens, int64_t n, int64_t k, cudaStream_t stream,
           bool spread) {
  const ms_product product = {y, {MS_BF16, 0, packed, nullptr}, nullptr, n};
  mma24_fused(&product, 1, x, tokens, k, stream, spread);
}

void mma24_fused(const ms_product* host_products, int64_t count, const float* x, int64_t tokens, int64_t k,
                 cudaStream_t stream, bool spread) {
  const Mma24Input in = {x, tokens, k, spread};
  // With 16 rows a block instead of 32, small layers have blocks for all multiprocessors. A row's sums are the same, so
  // that it does not matter to them what it is multiplied with.
  constexpr int64_t kFewRows = 4096;
  int64_t rows = 0;
  for (int64_t i = 0; i < count; ++i) rows += host_products[i].n;
  if (rows < kFewRows && tokens <= kTokens)
    LaunchProduct<1, 1>(host_products, count, in, stream);
  else if (rows < kFewRows)
    LaunchProduct<1, 2>(host_products, count, in, stream);
  else if (tokens <= kTokens)
    LaunchProduct<2, 1>(host_products, count, in, stream);
  else
    LaunchProduct<2, 2>(host_products, count, in, stream);
}

}  // namespace cuda
}  // namespace maskserve
