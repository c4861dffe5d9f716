// The ops of backend.h over the kernels of launch.h, a file for each family; backend.cpp lists them.
#pragma once

#include "op.h"

namespace maskserve {
namespace cuda {

void AddForwardOps(ms_ops* ops);
void AddProductOps(ms_ops* ops);
void AddMaskOps(ms_ops* ops);
void AddSamplingOps(ms_ops* ops);
void AddLinearOps(ms_ops* ops);
void AddTrainingOps(ms_ops* ops);

// ops.compress24; `meta` may be the packed matrix's own nibbles.
ms_status Compress24(ms_context* ctx, void* packed, ms_weights w, const uint8_t* meta, int64_t n, int64_t k);

// y (T, N) = x (T, K) wT of many tokens; w of bf16 or fp32.
void MultiplyLayer(Op& op, float* y, const float* x, const ms_weights& w, int64_t rows, int64_t n, int64_t k);

// Throws MS_UNSUPPORTED unless the weights are bf16.
const uint16_t* Bf16Of(const ms_weights& w, const char* op);

}  // namespace cuda
}  // namespace maskserve
