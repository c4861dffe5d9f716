// cuBLASLt's entry points of kernels/cuda/cublaslt.h over host memory, for tests: what NVIDIA documents of column-major
// matrices, leading dimensions, transposes and beta, for bf16 operands and fp32 sums; anything else is refused. Says on
// standard error which transposes it has multiplied.

#include <cstdint>
#include <cstdio>
#include <cstring>

#include "../../../kernels/cuda/cublaslt.h"
#include "host_stream.h"

using namespace maskserve::cuda::blaslt;

namespace maskserve {
namespace cuda {
namespace blaslt {
struct MatmulDesc_st {
  int32_t transposed[2];
};
struct MatrixLayout_st {
  int type;
  uint64_t rows, columns;
  int64_t ld;
};
struct Preference_st {
  size_t workspace;
};
}  // namespace blaslt
}  // namespace cuda
}  // namespace maskserve

namespace {

constexpr int kInvalid = 7, kNotSupported = 15;  // cublasStatus_t

float ElementOf(const void* data, const MatrixLayout_st& layout, uint64_t row, uint64_t column) {
  const uint32_t bits =
      static_cast<uint32_t>(static_cast<const uint16_t*>(data)[row + column * static_cast<uint64_t>(layout.ld)]) << 16;
  float x;
  std::memcpy(&x, &bits, sizeof(x));
  return x;
}

// Rows and columns of op(matrix).
uint64_t RowsOf(const MatrixLayout_st& layout, int32_t transposed) {
  return transposed != 0 ? layout.columns : layout.rows;
}
uint64_t ColumnsOf(const MatrixLayout_st& layout, int32_t transposed) {
  return transposed != 0 ? layout.rows : layout.columns;
}

bool Fits(const MatmulDesc_st& product, const MatrixLayout_st& a, const MatrixLayout_st& b, const MatrixLayout_st& d) {
  const int32_t* t = product.transposed;
  return a.type == kBf16 && b.type == kBf16 && d.type == kF32 && RowsOf(a, t[0]) == d.rows &&
         ColumnsOf(b, t[1]) == d.columns && ColumnsOf(a, t[0]) == RowsOf(b, t[1]);
}

// A line for each pair of transposes, the first time.
void Tell(const int32_t* transposed) {
  static bool told[2][2];
  bool& now = told[transposed[0] != 0][transposed[1] != 0];
  if (!now) std::fprintf(stderr, "host_cublaslt multiplies %c%c\n", "NT"[transposed[0] != 0], "NT"[transposed[1] != 0]);
  now = true;
}

}  // namespace

#define API extern "C" __attribute__((visibility("default")))

API size_t cublasLtGetVersion() {
  return 130101;
}
API int cublasLtCreate(Handle* handle) {
  static int one;
  *handle = reinterpret_cast<Handle>(&one);
  return 0;
}
API int cublasLtDestroy(Handle) {
  return 0;
}
API int cublasLtMatmulDescCreate(MatmulDesc* product, int compute, int scale) {
  if (compute != kCompute32F || scale != kF32) return kNotSupported;
  *product = new MatmulDesc_st{};
  return 0;
}
API int cublasLtMatmulDescDestroy(MatmulDesc product) {
  delete product;
  return 0;
}
API int cublasLtMatmulDescSetAttribute(MatmulDesc product, int attribute, const void* data, size_t bytes) {
  if ((attribute != kDescTransA && attribute != kDescTransB) || bytes != sizeof(int32_t)) return kInvalid;
  std::memcpy(&product->transposed[attribute - kDescTransA], data, bytes);
  return 0;
}
API int cublasLtMatrixLayoutCreate(MatrixLayout* layout, int type, uint64_t rows, uint64_t columns, int64_t ld) {
  if (ld < static_cast<int64_t>(rows)) return kInvalid;
  *layout = new MatrixLayout_st{type, rows, columns, ld};
  return 0;
}
API int cublasLtMatrixLayoutDestroy(MatrixLayout layout) {
  delete layout;
  return 0;
}
API int cublasLtMatmulPreferenceCreate(Preference* preference) {
  *preference = new Preference_st{};
  return 0;
}
API int cublasLtMatmulPreferenceDestroy(Preference preference) {
  delete preference;
  return 0;
}
API int cublasLtMatmulPreferenceSetAttribute(Preference preference, int attribute, const void* data, size_t bytes) {
  if (attribute != kPreferenceMaxWorkspace || bytes != sizeof(size_t)) return kInvalid;
  std::memcpy(&preference->workspace, data, bytes);
  return 0;
}
API int cublasLtMatmulAlgoGetHeuristic(Handle, MatmulDesc product, MatrixLayout a, MatrixLayout b, MatrixLayout,
                                       MatrixLayout d, Preference, int, HeuristicResult* results, int* count) {
  *count = 0;
  if (!Fits(*product, *a, *b, *d)) return kNotSupported;
  // Rows of operands have to begin on 16 bytes.
  if (a->ld % 8 != 0 || b->ld % 8 != 0 || d->ld % 4 != 0) return kNotSupported;
  results[0] = HeuristicResult{};
  *count = 1;
  return 0;
}
API int cublasLtMatmul(Handle, MatmulDesc product, const void* alpha, const void* a, MatrixLayout of_a, const void* b,
                       MatrixLayout of_b, const void* beta, const void* c, MatrixLayout, void* d, MatrixLayout of_d,
                       const Algo*, void*, size_t, cudaStream_t stream) {
  if (!Fits(*product, *of_a, *of_b, *of_d)) return kNotSupported;
  const auto by = *static_cast<const float*>(alpha), of_before = *static_cast<const float*>(beta);
  Tell(product->transposed);
  const bool at = product->transposed[0] != 0, bt = product->transposed[1] != 0;
  const MatrixLayout_st la = *of_a, lb = *of_b, ld = *of_d;
  stream->Put([=] {
    const uint64_t inner = ColumnsOf(la, at);
    for (uint64_t column = 0; column < ld.columns; ++column) {
      for (uint64_t row = 0; row < ld.rows; ++row) {
        float sum = 0;
        for (uint64_t i = 0; i < inner; ++i) {
          sum += ElementOf(a, la, at ? i : row, at ? row : i) * ElementOf(b, lb, bt ? column : i, bt ? i : column);
        }
        const uint64_t place = row + column * static_cast<uint64_t>(ld.ld);
        const float before = of_before == 0 ? 0.0f : of_before * static_cast<const float*>(c)[place];
        static_cast<float*>(d)[place] = by * sum + before;
      }
    }
  });
  return 0;
}
