// Products of small matrices where they lie, in fp32: the tiles of attention. B's columns run along memory, A has any
// two strides (a transposed tile is one with its strides exchanged).
#pragma once

#include "simd.h"

namespace maskserve {
namespace {

// Element (i, j) at data[i · row + j · column].
struct StridedMatrix {
  const float* data;
  int64_t row, column;
};

#if defined(__AVX512BF16__)
constexpr int kStridedRows = 8;
#else
constexpr int kStridedRows = 4;
#endif
constexpr int kStridedColumns = 2;

template <int R, int C>
MS_INLINE void StridedTile(float* c, int64_t ldc, const StridedMatrix& a, const float* b, int64_t ldb, int64_t k,
                           bool add) {
  VF acc[R][C];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
    for (int j = 0; j < C; ++j) acc[r][j] = add ? Load(c + r * ldc + j * W) : Zero();
  }
  const float* from = a.data;
  for (int64_t i = 0; i < k; ++i, from += a.column, b += ldb) {
    VF columns[C];
#pragma GCC unroll 2
    for (int j = 0; j < C; ++j) columns[j] = Load(b + j * W);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const VF row = Set(from[r * a.row]);
#pragma GCC unroll 2
      for (int j = 0; j < C; ++j) acc[r][j] = Fma(row, columns[j], acc[r][j]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
    for (int j = 0; j < C; ++j) Store(c + r * ldc + j * W, acc[r][j]);
  }
}

// Fewer than W columns.
MS_INLINE void StridedRest(float* c, const float* a, int64_t a_column, const float* b, int64_t ldb, int64_t n,
                           int64_t k, bool add) {
  VF acc = add ? LoadPart(c, n) : Zero();
  for (int64_t i = 0; i < k; ++i) acc = Fma(Set(a[i * a_column]), LoadPart(b + i * ldb, n), acc);
  StorePart(c, acc, n);
}

template <int C>
MS_INLINE void StridedColumns(float* c, int64_t ldc, StridedMatrix a, const float* b, int64_t ldb, int64_t m, int64_t k,
                              bool add) {
  int64_t r = 0;
  for (; r + kStridedRows <= m; r += kStridedRows, c += kStridedRows * ldc, a.data += kStridedRows * a.row) {
    StridedTile<kStridedRows, C>(c, ldc, a, b, ldb, k, add);
  }
  for (; r < m; ++r, c += ldc, a.data += a.row) StridedTile<1, C>(c, ldc, a, b, ldb, k, add);
}

// c (m, n), rows ldc apart, = a (m, k) · b (k, n), rows ldb apart; += when `add`.
void StridedProduct(float* c, int64_t ldc, const StridedMatrix& a, const float* b, int64_t ldb, int64_t m, int64_t n,
                    int64_t k, bool add) {
  int64_t j = 0;
  for (; j + 2 * W <= n; j += 2 * W) StridedColumns<2>(c + j, ldc, a, b + j, ldb, m, k, add);
  for (; j + W <= n; j += W) StridedColumns<1>(c + j, ldc, a, b + j, ldb, m, k, add);
  if (j == n) return;
  for (int64_t r = 0; r < m; ++r) {
    StridedRest(c + r * ldc + j, a.data + r * a.row, a.column, b + j, ldb, n - j, k, add);
  }
}

}  // namespace
}  // namespace maskserve
