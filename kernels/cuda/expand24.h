// launch.h's companion for expand24.cu; the same rules.
#pragma once

#include "launch.h"

namespace maskserve {
namespace cuda {

// out (N, K) ← a packed matrix: its values where they are kept, +0 elsewhere. `marked`: 1 stands for values that are
// kept and zero, so that what compresses the result by looking for zeros finds every kept place.
void expand24(uint16_t* out, const void* packed, int64_t n, int64_t k, bool marked, cudaStream_t stream);

}  // namespace cuda
}  // namespace maskserve
