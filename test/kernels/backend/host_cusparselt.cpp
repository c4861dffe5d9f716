// cuSPARSELt's entry points of kernels/cuda/cusparselt.h over host memory, for tests: what NVIDIA documents of bf16
// 2:4 matrices (kernels.md §1.2–§1.4), with a metadata layout of its own. Says on standard error, once each, that it
// searches and that it multiplies. Of the environment: HOST_CUSPARSELT_VERSION (0.8.1), and HOST_CUSPARSELT_FORM:
// "apart" puts the metadata before the values, "wrong" multiplies wrongly.

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "../../../kernels/cuda/cusparselt.h"
#include "host_stream.h"

using namespace maskserve::cuda::sparselt;

namespace {

constexpr int kInvalid = 3, kNotSupported = 10;  // cusparseStatus_t
constexpr int32_t kConfigs = 10;

struct Matrix {
  int64_t rows, cols, ld;
  int order;
  bool structured;
};
struct Product {
  Matrix a, b, d;
};
struct Selection {
  Product product;
  int32_t attributes[6];
};
struct PlanState {
  Product product;
  Selection* selection;
};

template <typename State>
State& In(const Opaque* opaque) {
  static_assert(sizeof(State) <= sizeof(Opaque), "");
  return *reinterpret_cast<State*>(const_cast<Opaque*>(opaque));
}

bool Form(const char* which) {
  const char* form = std::getenv("HOST_CUSPARSELT_FORM");
  return form != nullptr && std::strcmp(form, which) == 0;
}

void TellOnce(const char* what) {
  static std::string told;
  if (told.find(what) != std::string::npos) return;
  told += what;
  std::fprintf(stderr, "host_cusparselt %s\n", what);
}

bool Aligned(const void* p) {
  return reinterpret_cast<uintptr_t>(p) % 16 == 0;
}
float FloatOf(uint16_t bits) {
  const uint32_t word = static_cast<uint32_t>(bits) << 16;
  float x;
  std::memcpy(&x, &word, sizeof(x));
  return x;
}
uint16_t Bf16Of(float x) {
  uint32_t word;
  std::memcpy(&word, &x, sizeof(word));
  return static_cast<uint16_t>((word + 0x7fff + (word >> 16 & 1)) >> 16);
}

// A compressed matrix: values (N, K/2) row-major; metadata, a nibble a group, columns of bytes first.
struct Compressed {
  uint16_t* values;
  uint8_t* meta;
  Compressed(void* data, int64_t n, int64_t k) {
    auto* bytes = static_cast<char*>(data);
    const bool apart = Form("apart");
    values = reinterpret_cast<uint16_t*>(apart ? bytes + n * (k / 8) : bytes);
    meta = reinterpret_cast<uint8_t*>(apart ? bytes : bytes + n * k);
  }
};

int Multiply(const PlanState& plan, const void* alpha, const void* a, const void* b, const void* beta, void* d,
             cudaStream_t stream) {
  if (!Aligned(a) || !Aligned(b) || !Aligned(d) || *static_cast<const float*>(beta) != 0) return kInvalid;
  const auto by = *static_cast<const float*>(alpha);
  const Product product = plan.product;
  stream->Put([=] {
    const int64_t n = product.a.rows, k = product.a.cols, tokens = product.b.cols;
    const Compressed w(const_cast<void*>(a), n, k);
    const auto* x = static_cast<const uint16_t*>(b);
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t row = 0; row < n; ++row) {
        float sum = 0;
        for (int64_t group = 0; group < k / 4; ++group) {
          const int nibble = w.meta[group / 2 * n + row] >> 4 * (group % 2) & 15;
          const uint16_t* pair = w.values + row * (k / 2) + 2 * group;
          const uint16_t* of = x + t * product.b.ld + 4 * group;
          sum += FloatOf(pair[0]) * FloatOf(of[nibble & 3]) + FloatOf(pair[1]) * FloatOf(of[nibble >> 2]);
        }
        if (Form("wrong")) sum += 1;
        static_cast<uint16_t*>(d)[t * product.d.ld + row] = Bf16Of(by * sum);
      }
    }
  });
  return 0;
}

// Which of a group are kept is what is not zero; a group with less keeps the lowest others.
void CompressGroup(const Compressed& to, const Matrix& m, const uint16_t* of, int64_t row, int64_t group) {
  int kept[5], count = 0;
  for (int i = 0; i < 4; ++i) {
    if ((of[i] & 0x7fff) != 0) kept[count++] = i;
  }
  if (count > 2) {
    std::fprintf(stderr, "host_cusparselt: row %lld, group %lld has %d that are not zero\n",
                 static_cast<long long>(row), static_cast<long long>(group), count);
    std::abort();
  }
  for (int i = 0; count < 2; ++i) {
    if (std::find(kept, kept + count, i) == kept + count) kept[count++] = i;
  }
  std::sort(kept, kept + 2);
  uint16_t* pair = to.values + row * (m.cols / 2) + 2 * group;
  pair[0] = of[kept[0]];
  pair[1] = of[kept[1]];
  uint8_t& byte = to.meta[group / 2 * m.rows + row];
  byte = static_cast<uint8_t>(byte | (kept[0] | kept[1] << 2) << 4 * (group % 2));
}

}  // namespace

#define API extern "C" __attribute__((visibility("default")))

API int cusparseLtInit(Handle*) {
  return 0;
}
API int cusparseLtDestroy(const Handle*) {
  return 0;
}
API int cusparseLtGetProperty(int property, int* value) {
  const char* named = std::getenv("HOST_CUSPARSELT_VERSION");
  int parts[3] = {0, 8, 1};
  if (named != nullptr) std::sscanf(named, "%d.%d.%d", parts, parts + 1, parts + 2);
  *value = parts[property];
  return 0;
}
API const char* cusparseLtGetErrorString(int status) {
  return status == 0 ? "success" : status == kInvalid ? "invalid value" : "not supported";
}
API int cusparseLtDenseDescriptorInit(const Handle*, MatDescriptor* out, int64_t rows, int64_t cols, int64_t ld,
                                      uint32_t alignment, int type, int order) {
  if (type != kBf16 || order != kCol || alignment != 16 || rows % 8 != 0 || cols % 8 != 0) return kNotSupported;
  In<Matrix>(out) = {rows, cols, ld, order, false};
  return 0;
}
API int cusparseLtStructuredDescriptorInit(const Handle*, MatDescriptor* out, int64_t rows, int64_t cols, int64_t ld,
                                           uint32_t alignment, int type, int order, int sparsity) {
  if (type != kBf16 || order != kRow || alignment != 16 || sparsity != kSparsity50) return kNotSupported;
  if (rows % 16 != 0 || cols % 16 != 0 || ld != cols) return kNotSupported;
  In<Matrix>(out) = {rows, cols, ld, order, true};
  return 0;
}
API int cusparseLtMatDescriptorDestroy(const MatDescriptor*) {
  return 0;
}
API int cusparseLtMatmulDescriptorInit(const Handle*, MatmulDescriptor* out, int op_a, int op_b, const MatDescriptor* a,
                                       const MatDescriptor* b, const MatDescriptor*, const MatDescriptor* d,
                                       int compute) {
  const Product product = {In<Matrix>(a), In<Matrix>(b), In<Matrix>(d)};
  if (op_a != kNoTranspose || op_b != kNoTranspose || compute != kCompute32F) return kNotSupported;
  if (!product.a.structured || product.a.cols != product.b.rows || product.a.rows != product.d.rows ||
      product.b.cols != product.d.cols) {
    return kInvalid;
  }
  In<Product>(out) = product;
  return 0;
}
API int cusparseLtMatmulAlgSelectionInit(const Handle*, AlgSelection* out, const MatmulDescriptor* product, int) {
  In<Selection>(out) = {In<Product>(product), {0, kConfigs, 5, 1, 0, 0}};
  return 0;
}
API int cusparseLtMatmulAlgSelectionDestroy(const AlgSelection*) {
  return 0;
}
API int cusparseLtMatmulAlgSetAttribute(const Handle*, AlgSelection* out, int attribute, const void* data,
                                        size_t bytes) {
  int32_t value;
  if (bytes != sizeof(value)) return kInvalid;
  std::memcpy(&value, data, bytes);
  if (attribute == kConfigId && (value < 0 || value >= kConfigs)) return kInvalid;
  In<Selection>(out).attributes[attribute] = value;
  return 0;
}
API int cusparseLtMatmulAlgGetAttribute(const Handle*, const AlgSelection* selection, int attribute, void* data,
                                        size_t bytes) {
  if (bytes != sizeof(int32_t)) return kInvalid;
  std::memcpy(data, &In<Selection>(selection).attributes[attribute], bytes);
  return 0;
}
API int cusparseLtMatmulGetWorkspace(const Handle*, const Plan*, size_t* bytes) {
  *bytes = 64;
  return 0;
}
API int cusparseLtMatmulPlanInit(const Handle*, Plan* out, const MatmulDescriptor* product,
                                 const AlgSelection* selection) {
  In<PlanState>(out) = {In<Product>(product), &In<Selection>(selection)};
  return 0;
}
API int cusparseLtMatmulPlanDestroy(const Plan*) {
  return 0;
}
API int cusparseLtMatmul(const Handle*, const Plan* plan, const void* alpha, const void* a, const void* b,
                         const void* beta, const void*, void* d, void*, cudaStream_t* streams, int32_t) {
  TellOnce("multiplies");
  return Multiply(In<PlanState>(plan), alpha, a, b, beta, d, streams[0]);
}
API int cusparseLtMatmulSearch(const Handle*, Plan* plan, const void* alpha, const void* a, const void* b,
                               const void* beta, const void*, void* d, void*, cudaStream_t* streams, int32_t) {
  TellOnce("searches");
  In<PlanState>(plan).selection->attributes[kConfigId] = 7;
  return Multiply(In<PlanState>(plan), alpha, a, b, beta, d, streams[0]);
}
API int cusparseLtSpMMACompressedSize2(const Handle*, const MatDescriptor* matrix, size_t* bytes,
                                       size_t* buffer_bytes) {
  const Matrix& m = In<Matrix>(matrix);
  *bytes = static_cast<size_t>(m.rows * m.cols / 8 * 9);
  *buffer_bytes = 16;
  return m.structured ? 0 : kInvalid;
}
API int cusparseLtSpMMACompress2(const Handle*, const MatDescriptor* matrix, int is_sparse_a, int op, const void* dense,
                                 void* compressed, void*, cudaStream_t stream) {
  const Matrix m = In<Matrix>(matrix);
  if (is_sparse_a != 1 || op != kNoTranspose || !Aligned(compressed)) return kInvalid;
  stream->Put([=] {
    const Compressed to(compressed, m.rows, m.cols);
    std::fill_n(to.meta, m.rows * m.cols / 8, uint8_t{0});
    for (int64_t row = 0; row < m.rows; ++row) {
      for (int64_t group = 0; group < m.cols / 4; ++group) {
        CompressGroup(to, m, static_cast<const uint16_t*>(dense) + row * m.cols + 4 * group, row, group);
      }
    }
  });
  return 0;
}
