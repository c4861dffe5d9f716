// cuBLASLt's entry points, declared by hand from the header of CUDA 13.1, so that building needs none of its files.
// Names without the prefix cublasLt.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "library_search.h"
#include "runtime.h"

namespace maskserve {
namespace cuda {
namespace blaslt {

typedef struct Context_st* Handle;
typedef struct MatmulDesc_st* MatmulDesc;
typedef struct MatrixLayout_st* MatrixLayout;
typedef struct Preference_st* Preference;

struct Algo {
  uint64_t data[8];
};
struct HeuristicResult {
  Algo algo;
  size_t workspace_bytes;
  int state;  // 0: usable
  float waves;
  int reserved[4];
};

constexpr int kF32 = 0, kBf16 = 14;  // cudaDataType
constexpr int kCompute32F = 68;      // cublasComputeType_t
constexpr int kNoTranspose = 0, kTranspose = 1;
constexpr int kDescTransA = 3, kDescTransB = 4;  // cublasLtMatmulDescAttributes_t
constexpr int kPreferenceMaxWorkspace = 1;       // cublasLtMatmulPreferenceAttributes_t

struct Api {
  size_t (*GetVersion)();
  int (*Create)(Handle*);
  int (*Destroy)(Handle);
  int (*MatmulDescCreate)(MatmulDesc*, int compute, int scale_type);
  int (*MatmulDescDestroy)(MatmulDesc);
  int (*MatmulDescSetAttribute)(MatmulDesc, int attribute, const void* data, size_t bytes);
  int (*MatrixLayoutCreate)(MatrixLayout*, int type, uint64_t rows, uint64_t cols, int64_t ld);
  int (*MatrixLayoutDestroy)(MatrixLayout);
  int (*MatmulPreferenceCreate)(Preference*);
  int (*MatmulPreferenceDestroy)(Preference);
  int (*MatmulPreferenceSetAttribute)(Preference, int attribute, const void* data, size_t bytes);
  int (*MatmulAlgoGetHeuristic)(Handle, MatmulDesc, MatrixLayout a, MatrixLayout b, MatrixLayout c, MatrixLayout d,
                                Preference, int wanted, HeuristicResult* results, int* count);
  int (*Matmul)(Handle, MatmulDesc, const void* alpha, const void* a, MatrixLayout a_layout, const void* b,
                MatrixLayout b_layout, const void* beta, const void* c, MatrixLayout c_layout, void* d,
                MatrixLayout d_layout, const Algo*, void* workspace, size_t workspace_bytes, cudaStream_t stream);
};

// The library, looked for once a process: major version 12 or 13. MASKSERVE_CUBLASLT names a file or a folder.
const FoundLibrary& Find();
// NULL: there is none.
const Api* Load();

}  // namespace blaslt
}  // namespace cuda
}  // namespace maskserve
