// cuSPARSELt's entry points, declared by hand from the header of 0.8.1 (kernels.md §1.2), so that building needs none
// of its files. Names without the prefix cusparseLt.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "library_search.h"
#include "runtime.h"

namespace maskserve {
namespace cuda {
namespace sparselt {

struct alignas(16) Opaque {
  uint8_t data[512];
};
typedef Opaque Handle, MatDescriptor, MatmulDescriptor, AlgSelection, Plan;

constexpr int kRow = 2, kCol = 1;  // cusparseOrder_t
constexpr int kNoTranspose = 0;    // cusparseOperation_t
constexpr int kBf16 = 14;          // cudaDataType
constexpr int kSparsity50 = 0;     // cusparseLtSparsity_t
constexpr int kCompute32F = 2;     // cusparseComputeType
constexpr int kAlgDefault = 0;     // cusparseLtMatmulAlg_t
enum AlgAttribute {
  kConfigId = 0,
  kConfigMaxId = 1,
  kSearchIterations = 2,
  kSplitK = 3,
  kSplitKMode = 4,
  kSplitKBuffers = 5
};

struct Api {
  int (*Init)(Handle*);
  int (*Destroy)(const Handle*);
  int (*GetProperty)(int property, int* value);  // 0 major, 1 minor, 2 patch
  const char* (*GetErrorString)(int status);
  int (*DenseDescriptorInit)(const Handle*, MatDescriptor*, int64_t rows, int64_t cols, int64_t ld, uint32_t alignment,
                             int type, int order);
  int (*StructuredDescriptorInit)(const Handle*, MatDescriptor*, int64_t rows, int64_t cols, int64_t ld,
                                  uint32_t alignment, int type, int order, int sparsity);
  int (*MatDescriptorDestroy)(const MatDescriptor*);
  int (*MatmulDescriptorInit)(const Handle*, MatmulDescriptor*, int op_a, int op_b, const MatDescriptor* a,
                              const MatDescriptor* b, const MatDescriptor* c, const MatDescriptor* d, int compute);
  int (*MatmulAlgSelectionInit)(const Handle*, AlgSelection*, const MatmulDescriptor*, int alg);
  int (*MatmulAlgSelectionDestroy)(const AlgSelection*);
  int (*MatmulAlgSetAttribute)(const Handle*, AlgSelection*, int attribute, const void* data, size_t bytes);
  int (*MatmulAlgGetAttribute)(const Handle*, const AlgSelection*, int attribute, void* data, size_t bytes);
  int (*MatmulGetWorkspace)(const Handle*, const Plan*, size_t* bytes);
  int (*MatmulPlanInit)(const Handle*, Plan*, const MatmulDescriptor*, const AlgSelection*);
  int (*MatmulPlanDestroy)(const Plan*);
  int (*Matmul)(const Handle*, const Plan*, const void* alpha, const void* a, const void* b, const void* beta,
                const void* c, void* d, void* workspace, cudaStream_t* streams, int32_t count);
  int (*MatmulSearch)(const Handle*, Plan*, const void* alpha, const void* a, const void* b, const void* beta,
                      const void* c, void* d, void* workspace, cudaStream_t* streams, int32_t count);
  int (*SpMMACompressedSize2)(const Handle*, const MatDescriptor*, size_t* bytes, size_t* buffer_bytes);
  int (*SpMMACompress2)(const Handle*, const MatDescriptor*, int is_sparse_a, int op, const void* dense,
                        void* compressed, void* buffer, cudaStream_t stream);
};

// The library, looked for once a process: its version must be 0.8.1 or later; 0.8.0, which is slow on some GPUs, is
// used with a warning. MASKSERVE_CUSPARSELT names a file or a folder.
const FoundLibrary& Find();
// NULL: there is none.
const Api* Load();

}  // namespace sparselt
}  // namespace cuda
}  // namespace maskserve
