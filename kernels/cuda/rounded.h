// fp32 activations rounded to bf16 for the products that take them so.
#pragma once

#include "op.h"

namespace maskserve {
namespace cuda {

// x (T, K) rounded to bf16, rows beyond T zero. Kept for the next product of the same x. 256-byte aligned.
const uint16_t* Round(Op& op, const float* x, int64_t tokens, int64_t padded, int64_t k);
// The same of any matrix (count), in this op's own memory.
const uint16_t* RoundOnce(Op& op, const float* x, int64_t count);
// A product that writes `count` values at y, over what was rounded, or memory that came and went, makes it stale.
void DropIfWritten(Op& op, const float* y, int64_t count);

}  // namespace cuda
}  // namespace maskserve
