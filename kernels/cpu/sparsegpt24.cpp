// SparseGPT (Frantar & Alistarh 2023, arXiv 2301.00774, Algorithm 1) at 2:4.
//
// Rows are independent given u, the upper Cholesky factor of H⁻¹. A row goes through its columns in order: every fourth
// column chooses the mask of the next four by (w / u_ii)², and the error of a pruned weight is spread over the columns
// to its right. Inside a block of kBlock columns that happens at once; beyond it the block's errors are applied
// together, in the same order of subtractions, so the result is that of the plain loop.

#include "ops.h"
#include "rank24.h"

namespace maskserve {
namespace {

constexpr int64_t kBlock = 64;  // columns; a multiple of 4
constexpr int kRows = 8;        // rows of a tile, which share what they read of u

// A tile of rows in fp32, kRows × K, and the errors of the current block.
struct Tile {
  float* w;  // (kRows, K)
  float errors[kRows][kBlock];
};

uint8_t ChooseGroup(const float* w, const float* diagonal) {
  float score[4];
  for (int j = 0; j < 4; ++j) {
    const float d = w[j] / diagonal[j], s = d * d;
    score[j] = s >= 0 ? s : -1.0f;
  }
  return static_cast<uint8_t>(BestTwo(score));
}

// Columns [first, end) of one row: mask, errors, and the weights inside the block.
void PruneBlock(float* w, float* errors, uint8_t* meta, const float* u, const float* diagonal, int64_t first,
                int64_t end, int64_t k) {
  for (int64_t g = first; g < end; g += 4) {
    const uint8_t nibble = ChooseGroup(w + g, diagonal + g);
    uint8_t* byte = meta + g / 8;
    *byte = static_cast<uint8_t>(g % 8 == 0 ? nibble : (*byte & 15) | nibble << 4);
    for (int64_t i = g; i < g + 4; ++i) {
      const bool kept = (nibble & 3) == i - g || nibble >> 2 == i - g;
      const float error = kept ? 0.0f : w[i] / diagonal[i];
      errors[i - first] = error;
      if (kept) continue;
      const float* row = u + i * k;
      for (int64_t j = i + 1; j < end; ++j) w[j] -= error * row[j];
      w[i] = 0.0f;
    }
  }
}

// w[r][j] −= errors[r][i] · u[i][j] for the block's columns i in order, for all j beyond the block.
void SpreadErrors(Tile* tile, const float* u, int64_t first, int64_t end, int64_t k) {
  for (int64_t j = end; j < k; j += W) {
    const int64_t n = Min(W, k - j);
    VF acc[kRows];
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) acc[r] = LoadPart(tile->w + r * k + j, n);
    for (int64_t i = first; i < end; ++i) {
      const VF row = LoadPart(u + i * k + j, n);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) acc[r] = Sub(acc[r], Mul(Set(tile->errors[r][i - first]), row));
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) StorePart(tile->w + r * k + j, acc[r], n);
  }
}

struct Problem {
  uint8_t* meta;
  uint16_t* updated;
  const uint16_t* w;
  const float* u;         // (K, K)
  const float* diagonal;  // (K)
  const uint8_t* dead;    // (K)
  int64_t n, k;
};

void PruneTile(const Problem& p, float* rows, int64_t first_row) {
  const int64_t k = p.k, count = Min(kRows, p.n - first_row);
  Tile tile;
  tile.w = rows;
  memset(tile.errors, 0, sizeof(tile.errors));
  memset(rows, 0, static_cast<size_t>(kRows * k) * sizeof(float));
  for (int64_t r = 0; r < count; ++r) {
    for (int64_t i = 0; i < k; ++i) rows[r * k + i] = p.dead[i] ? 0.0f : FloatOfBf16(p.w[(first_row + r) * k + i]);
  }
  for (int64_t first = 0; first < k; first += kBlock) {
    const int64_t end = Min(k, first + kBlock);
    for (int64_t r = 0; r < count; ++r) {
      PruneBlock(rows + r * k, tile.errors[r], p.meta + (first_row + r) * (k / 8), p.u, p.diagonal, first, end, k);
    }
    SpreadErrors(&tile, p.u, first, end, k);
  }
  if (p.updated == NULL) return;
  for (int64_t r = 0; r < count; ++r) {
    for (int64_t i = 0; i < k; ++i) p.updated[(first_row + r) * k + i] = Bf16OfFloat(rows[r * k + i]);
  }
}

// h ← 2·gram/tokens with dead columns at 1, then damp × its mean diagonal added to the diagonal.
void MakeHessian(double* h, uint8_t* dead, const double* gram, int64_t tokens, int64_t k, double damp) {
  const double factor = 2.0 / static_cast<double>(tokens);
  for (int64_t i = 0; i < k * k; ++i) h[i] = factor * gram[i];
  double trace = 0;
  for (int64_t i = 0; i < k; ++i) {
    double* d = h + i * k + i;
    dead[i] = *d == 0;
    if (dead[i]) *d = 1;
    trace += *d;
  }
  for (int64_t i = 0; i < k; ++i) h[i * k + i] += damp * trace / static_cast<double>(k);
}

}  // namespace

namespace ISA {

ms_status SparseGpt24(ms_context* ctx, uint8_t* meta, uint16_t* updated, ms_weights w, const double* gram,
                      int64_t tokens, int64_t n, int64_t k, double damp) {
  if (w.type != MS_BF16) return FailType(ctx, "w", w.type);
  // h and u in fp64; then u in fp32 takes h's place.
  const size_t square = static_cast<size_t>(k) * static_cast<size_t>(k);
  const size_t rows_bytes = static_cast<size_t>(Threads(ctx)) * kRows * static_cast<size_t>(k) * sizeof(float);
  const size_t bytes = 2 * square * sizeof(double) + rows_bytes + static_cast<size_t>(k) * (sizeof(float) + 1);
  char* memory = static_cast<char*>(AllocateBytes(bytes));
  if (memory == NULL) return FailMemory(ctx, bytes);
  double* h = reinterpret_cast<double*>(memory);
  double* u = h + square;
  float* rows = reinterpret_cast<float*>(u + square);
  float* diagonal = rows + static_cast<int64_t>(Threads(ctx)) * kRows * k;
  uint8_t* dead = reinterpret_cast<uint8_t*>(diagonal + k);
  MakeHessian(h, dead, gram, tokens, k, damp);
  const int64_t bad = InverseCholesky(ctx, u, h, k);
  ms_status status = MS_OK;
  if (bad < k) {
    status =
        Fail(ctx, MS_BAD_DATA,
             "expected a positive definite Hessian but column %lld of %lld breaks it; raise damp (now %g) or calibrate "
             "on more samples",
             static_cast<long long>(bad), static_cast<long long>(k), damp);
  } else {
    float* u32 = reinterpret_cast<float*>(h);
    for (size_t i = 0; i < square; ++i) u32[i] = static_cast<float>(u[i]);
    for (int64_t i = 0; i < k; ++i) diagonal[i] = u32[i * k + i];
    const Problem problem = {meta, updated, static_cast<const uint16_t*>(w.values), u32, diagonal, dead, n, k};
    auto body = [&](int64_t task, int worker) { PruneTile(problem, rows + worker * kRows * k, task * kRows); };
    Parallel(ctx, CeilDiv(n, kRows), body);
  }
  ReleaseBytes(memory, bytes);
  return status;
}

}  // namespace ISA
}  // namespace maskserve
