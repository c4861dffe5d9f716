// Statistics of a layer's inputs for one-shot pruning: xᵀx (SparseGPT's Hessian, up to a factor) and Σx² (Wanda's
// norms).
//
// Calibration runs over tens of thousands of tokens, so products are summed in fp32 over kTokens tokens and then added
// to the fp64 sums. Tasks own parts of the result, never parts of the tokens: the sums don't depend on the number of
// threads.

#include "ops.h"

namespace maskserve {
namespace {

constexpr int64_t kTokens = 256;
#if defined(__AVX512BF16__)
constexpr int kRows = 8, kColumns = 2;  // of a tile: rows are broadcast, columns are registers
#else
constexpr int kRows = 4, kColumns = 2;
#endif
constexpr int64_t kPanel = kColumns * W;  // columns packed together
static_assert(kPanel % kRows == 0, "tiles don't straddle panels");

// Panel p holds columns [p · kPanel, …) of the tokens, row-major, zero beyond K.
void PackColumns(float* out, const float* x, int64_t tokens, int64_t k, int64_t column) {
  const int64_t n = Min(kPanel, k - column);
  for (int64_t t = 0; t < tokens; ++t, out += kPanel) {
    memcpy(out, x + t * k + column, static_cast<size_t>(n) * sizeof(float));
    for (int64_t i = n; i < kPanel; ++i) out[i] = 0;
  }
}

// sums (kRows, kPanel) = Σ_t a[t][row] · b[t][column]; a points at the first of its rows in its panel.
void Products(float* sums, const float* a, const float* b, int64_t tokens) {
  VF acc[kRows][kColumns];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int c = 0; c < kColumns; ++c) acc[r][c] = Zero();
  }
  for (int64_t t = 0; t < tokens; ++t, a += kPanel, b += kPanel) {
    VF columns[kColumns];
#pragma GCC unroll 8
    for (int c = 0; c < kColumns; ++c) columns[c] = Load(b + c * W);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const VF row = Set(a[r]);
#pragma GCC unroll 8
      for (int c = 0; c < kColumns; ++c) acc[r][c] = Fma(row, columns[c], acc[r][c]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int c = 0; c < kColumns; ++c) Store(sums + r * kPanel + c * W, acc[r][c]);
  }
}

// Columns of panel `p` against rows of panels 0 … p: the upper triangle.
void AddPanel(double* gram, const float* packed, int64_t p, int64_t tokens, int64_t k) {
  alignas(64) float sums[kRows * kPanel];
  const int64_t column = p * kPanel, columns = Min(kPanel, k - column);
  for (int64_t row = 0; row < Min(k, column + kPanel); row += kRows) {
    const float* a = packed + row / kPanel * (kTokens * kPanel) + row % kPanel;
    Products(sums, a, packed + p * kTokens * kPanel, tokens);
    for (int64_t r = 0; r < Min(kRows, k - row); ++r) {
      double* to = gram + (row + r) * k + column;
      for (int64_t c = Max(0, row + r - column); c < columns; ++c) to[c] += static_cast<double>(sums[r * kPanel + c]);
    }
  }
}

// The lower triangle of rows [first, end) from the upper one, in squares that fit the first-level cache.
void Mirror(double* gram, int64_t first, int64_t end, int64_t k) {
  constexpr int64_t kSquare = 16;
  for (int64_t column = 0; column < end; column += kSquare) {
    for (int64_t i = first; i < end; ++i) {
      for (int64_t j = column; j < Min(i, column + kSquare); ++j) gram[i * k + j] = gram[j * k + i];
    }
  }
}

}  // namespace

namespace ISA {

ms_status Gram(ms_context* ctx, double* gram, const float* x, int64_t tokens, int64_t k) {
  const int64_t panels = CeilDiv(k, kPanel);
  const size_t bytes = static_cast<size_t>(panels * kPanel * kTokens) * sizeof(float);
  float* packed = static_cast<float*>(Scratch(ctx, bytes));
  if (packed == NULL) return FailMemory(ctx, bytes);
  for (int64_t first = 0; first < tokens; first += kTokens) {
    const int64_t some = Min(kTokens, tokens - first);
    auto pack = [&](int64_t p, int) { PackColumns(packed + p * kTokens * kPanel, x + first * k, some, k, p * kPanel); };
    Parallel(ctx, panels, pack);
    // Long panels first: the last ones handed out are the short ones.
    auto add = [&](int64_t task, int) { AddPanel(gram, packed, panels - 1 - task, some, k); };
    Parallel(ctx, panels, add);
  }
  constexpr int64_t kMirrorRows = 16;
  auto mirror = [&](int64_t begin, int64_t end, int) { Mirror(gram, begin, end, k); };
  ParallelRanges(ctx, k, kMirrorRows, mirror);
  return MS_OK;
}

ms_status SumSquares(ms_context* ctx, double* sums, const float* x, int64_t tokens, int64_t k) {
  auto body = [&](int64_t begin, int64_t end, int) {
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t i = begin; i < end; ++i) {
        const double v = x[t * k + i];
        sums[i] += v * v;
      }
    }
  };
  ParallelRanges(ctx, k, Max(64, CeilDiv(k, 4 * Threads(ctx))), body);
  return MS_OK;
}

}  // namespace ISA
}  // namespace maskserve
