// The ops of backend.h over the kernels of launch.h, a file for each family; table.cpp lists them.
#pragma once

#include "op.h"

namespace maskserve {
namespace cuda {

void AddForwardOps(ms_ops* ops);
void AddProductOps(ms_ops* ops);
void AddMaskOps(ms_ops* ops);
void AddSamplingOps(ms_ops* ops);
void AddTrainingOps(ms_ops* ops);

// Throws MS_UNSUPPORTED unless the weights are bf16.
const uint16_t* Bf16Of(const ms_weights& w, const char* op);

}  // namespace cuda
}  // namespace maskserve
