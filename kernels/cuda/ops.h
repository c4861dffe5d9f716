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

// What ops.compress24 leaves in `packed`, not waited for; `meta` may be the packed matrix's own nibbles.
void CompressInto(Op& op, void* packed, const uint16_t* w, const uint8_t* meta, int64_t n, int64_t k, uint64_t* bad);
// Waits; throws MS_BAD_DATA where `bad` says so.
void RequirePatterns(Op& op, const uint64_t* bad);

// y (T, N) = x (T, K) wT of many tokens; w of bf16 or fp32.
void MultiplyLayer(Op& op, float* y, const float* x, const ms_weights& w, int64_t rows, int64_t n, int64_t k);

// Throws MS_UNSUPPORTED unless the weights are bf16.
const uint16_t* Bf16Of(const ms_weights& w, const char* op);

}  // namespace cuda
}  // namespace maskserve
