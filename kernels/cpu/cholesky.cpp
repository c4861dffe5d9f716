// The upper Cholesky factor of an inverse, in fp64: h⁻¹ = uᵀ u.
//
// With J the reversal of rows and columns and J h J = l lᵀ (lower Cholesky), h = (J l J)(J l J)ᵀ where J l J is upper
// triangular; so u = (J l J)⁻¹ = J l⁻¹ J. One factorisation and one triangular inverse instead of factor, invert,
// factor again. Both are blocked: nearly all work is matrix products of kBlock-wide panels, shared among the threads.

#include "ops.h"

namespace maskserve {
namespace {

constexpr int64_t kBlock = 64;

#if defined(__AVX512BF16__)
constexpr int64_t WD = 8;
typedef __m512d VD;
MS_INLINE VD SetD(double d) {
  return _mm512_set1_pd(d);
}
MS_INLINE VD LoadD(const double* p) {
  return _mm512_loadu_pd(p);
}
MS_INLINE void StoreD(double* p, VD v) {
  _mm512_storeu_pd(p, v);
}
MS_INLINE VD FnmaD(VD a, VD b, VD c) {
  return _mm512_fnmadd_pd(a, b, c);
}
#elif defined(__AVX2__)
constexpr int64_t WD = 4;
typedef __m256d VD;
MS_INLINE VD SetD(double d) {
  return _mm256_set1_pd(d);
}
MS_INLINE VD LoadD(const double* p) {
  return _mm256_loadu_pd(p);
}
MS_INLINE void StoreD(double* p, VD v) {
  _mm256_storeu_pd(p, v);
}
MS_INLINE VD FnmaD(VD a, VD b, VD c) {
  return _mm256_fnmadd_pd(a, b, c);
}
#else
constexpr int64_t WD = 2;
typedef double VD __attribute__((vector_size(16)));
MS_INLINE VD SetD(double d) {
  return VD{d, d};
}
MS_INLINE VD LoadD(const double* p) {
  VD v;
  memcpy(&v, p, sizeof(v));
  return v;
}
MS_INLINE void StoreD(double* p, VD v) {
  memcpy(p, &v, sizeof(v));
}
MS_INLINE VD FnmaD(VD a, VD b, VD c) {
  return c - a * b;
}
#endif

// c (R, 2·WD) −= a (R, depth) · b (depth, 2·WD)
template <int R>
MS_INLINE void SubtractTile(double* c, const double* a, const double* b, int64_t depth, int64_t ldc, int64_t lda,
                            int64_t ldb) {
  VD acc[R][2];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    acc[r][0] = LoadD(c + r * ldc);
    acc[r][1] = LoadD(c + r * ldc + WD);
  }
  for (int64_t i = 0; i < depth; ++i) {
    const VD b0 = LoadD(b + i * ldb), b1 = LoadD(b + i * ldb + WD);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const VD ar = SetD(a[r * lda + i]);
      acc[r][0] = FnmaD(ar, b0, acc[r][0]);
      acc[r][1] = FnmaD(ar, b1, acc[r][1]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    StoreD(c + r * ldc, acc[r][0]);
    StoreD(c + r * ldc + WD, acc[r][1]);
  }
}

// c (rows, columns) −= a (rows, depth) · b (depth, columns)
void SubtractProduct(double* c, const double* a, const double* b, int64_t rows, int64_t columns, int64_t depth,
                     int64_t ldc, int64_t lda, int64_t ldb) {
  int64_t j = 0;
  for (; j + 2 * WD <= columns; j += 2 * WD) {
    int64_t i = 0;
    for (; i + 4 <= rows; i += 4) SubtractTile<4>(c + i * ldc + j, a + i * lda, b + j, depth, ldc, lda, ldb);
    for (; i < rows; ++i) SubtractTile<1>(c + i * ldc + j, a + i * lda, b + j, depth, ldc, lda, ldb);
  }
  for (; j < columns; ++j) {
    for (int64_t i = 0; i < rows; ++i) {
      double sum = c[i * ldc + j];
      for (int64_t d = 0; d < depth; ++d) sum -= a[i * lda + d] * b[d * ldb + j];
      c[i * ldc + j] = sum;
    }
  }
}

// The diagonal block at `first`, in place; the column that is not positive, or −1.
int64_t FactorDiagonal(double* h, int64_t first, int64_t n, int64_t k) {
  double* block = h + first * k + first;
  for (int64_t j = 0; j < n; ++j) {
    double pivot = block[j * k + j];
    for (int64_t i = 0; i < j; ++i) pivot -= block[j * k + i] * block[j * k + i];
    if (!(pivot > 0) || pivot == INFINITY) return first + j;
    const double root = sqrt(pivot);
    block[j * k + j] = root;
    for (int64_t r = j + 1; r < n; ++r) {
      double sum = block[r * k + j];
      for (int64_t i = 0; i < j; ++i) sum -= block[r * k + i] * block[j * k + i];
      block[r * k + j] = sum / root;
    }
  }
  return -1;
}

// row (n) ← row · block⁻ᵀ, for the lower triangular block
void SolveRow(double* row, const double* block, int64_t n, int64_t k) {
  for (int64_t j = 0; j < n; ++j) {
    double sum = row[j];
    for (int64_t i = 0; i < j; ++i) sum -= row[i] * block[j * k + i];
    row[j] = sum / block[j * k + j];
  }
}

// Lower Cholesky factor in the lower triangle of h, block column by block column. `panel` (kBlock, K) is working memory
// for the transposed column. The column at which h is not positive definite, or k.
int64_t Factor(ms_context* ctx, double* h, double* panel, int64_t k) {
  for (int64_t first = 0; first < k; first += kBlock) {
    const int64_t n = Min(kBlock, k - first), next = first + n;
    const int64_t bad = FactorDiagonal(h, first, n, k);
    if (bad >= 0) return bad;
    const int64_t below = CeilDiv(k - next, kBlock);
    auto solve = [&](int64_t task, int) {
      const int64_t from = next + task * kBlock;
      for (int64_t r = from; r < Min(k, from + kBlock); ++r) {
        SolveRow(h + r * k + first, h + first * k + first, n, k);
        for (int64_t i = 0; i < n; ++i) panel[i * k + r] = h[r * k + first + i];
      }
    };
    Parallel(ctx, below, solve);
    auto update = [&](int64_t task, int) {
      const int64_t from = next + (below - 1 - task) * kBlock, rows = Min(kBlock, k - from);
      SubtractProduct(h + from * k + next, h + from * k + first, panel + next, rows, from + rows - next, n, k, k, k);
    };
    Parallel(ctx, below, update);
  }
  return k;
}

// x (n, columns) ← block⁻¹ · x, by forward substitution
void SolveColumns(double* x, const double* block, int64_t n, int64_t columns, int64_t k) {
  for (int64_t i = 0; i < n; ++i) {
    SubtractProduct(x + i * k, block + i * k, x, 1, columns, i, k, k, k);
    const double inverse = 1.0 / block[i * k + i];
    for (int64_t j = 0; j < columns; ++j) x[i * k + j] *= inverse;
  }
}

// u ← l⁻¹, lower triangular; the block columns are independent of each other.
void InvertLower(ms_context* ctx, double* u, const double* l, int64_t k) {
  auto column = [&](int64_t task, int) {
    const int64_t first = task * kBlock, n = Min(kBlock, k - first);
    for (int64_t row = first; row < k; row += kBlock) {
      const int64_t rows = Min(kBlock, k - row);
      double* x = u + row * k + first;
      for (int64_t r = 0; r < rows; ++r) {
        memset(x + r * k, 0, static_cast<size_t>(n) * sizeof(double));
        if (row == first) x[r * k + r] = 1.0;
      }
      SubtractProduct(x, l + row * k + first, u + first * k + first, rows, n, row - first, k, k, k);
      SolveColumns(x, l + row * k + row, rows, n, k);
    }
  };
  Parallel(ctx, CeilDiv(k, kBlock), column);
}

// Rows and columns in reverse order, in place.
void Reverse(double* h, int64_t k) {
  for (int64_t a = 0, b = k * k - 1; a < b; ++a, --b) {
    const double t = h[a];
    h[a] = h[b];
    h[b] = t;
  }
}

}  // namespace

namespace ISA {

int64_t InverseCholesky(ms_context* ctx, double* u, double* h, int64_t k) {
  Reverse(h, k);
  const int64_t bad = Factor(ctx, h, u, k);  // u is large enough to lend its first kBlock rows
  if (bad < k) return k - 1 - bad;
  for (int64_t i = 0; i < k * k; ++i) u[i] = 0;
  InvertLower(ctx, u, h, k);
  Reverse(u, k);
  return k;
}

}  // namespace ISA
}  // namespace maskserve
