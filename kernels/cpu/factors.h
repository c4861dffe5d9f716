// The matrices that one x is multiplied with. Their rows are shared among the threads in pieces, none of which has rows
// of two matrices: one fork and join for all of them.
#pragma once

#include "ops.h"

namespace maskserve {
namespace {

template <typename Matrix>
struct Factor {
  float* y;  // (T, N)
  Matrix w;  // (N, K)
  int64_t n;
};

template <typename Matrix>
struct Piece {
  const Factor<Matrix>* factor;
  int64_t begin, end;  // rows
};

template <typename Matrix>
struct Factors {
  Factor<Matrix> each[MS_MOST_PRODUCTS];
  int64_t count;

  // make(product): its weights as a Matrix.
  template <typename Make>
  MS_INLINE Factors Of(const ms_product* products, int64_t count, const Make& make) {
    Factors factors;
    factors.count = count;
    for (int64_t i = 0; i < count; ++i) factors.each[i] = {products[i].y, make(products[i]), products[i].n};
    return factors;
  }
  int64_t Rows() const {
    int64_t rows = 0;
    for (int64_t i = 0; i < count; ++i) rows += each[i].n;
    return rows;
  }
  // Pieces of at most `rows` rows, and piece `at` of them.
  int64_t Pieces(int64_t rows) const {
    int64_t pieces = 0;
    for (int64_t i = 0; i < count; ++i) pieces += CeilDiv(each[i].n, rows);
    return pieces;
  }
  Piece<Matrix> At(int64_t at, int64_t rows) const {
    const Factor<Matrix>* factor = each;
    for (int64_t pieces; at >= (pieces = CeilDiv(factor->n, rows)); ++factor) at -= pieces;
    return {factor, at * rows, Min(factor->n, (at + 1) * rows)};
  }
};

}  // namespace
}  // namespace maskserve
