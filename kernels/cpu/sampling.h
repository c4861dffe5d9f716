// Ops over one row of logits. Compiled once, for the baseline, in fp64 and in a fixed order: the same logits give the
// same token on every instruction set. NaN counts as minus infinity.
#pragma once

#include "../include/backend.h"

namespace maskserve {

ms_status AddSparse(ms_context*, float* logits, const int32_t* ids, const float* deltas, int64_t count);
ms_status Argmax(ms_context*, const float* logits, int64_t vocab, int32_t* token);
ms_status Sample(ms_context*, const float* logits, int64_t vocab, double temperature, int64_t top_k, double top_p,
                 double uniform, int32_t* token);
ms_status Logprobs(ms_context*, const float* logits, int64_t vocab, const int32_t* ids, double* out, int64_t count);
ms_status TopLogprobs(ms_context*, const float* logits, int64_t vocab, int32_t* ids, double* out, int64_t count);

}  // namespace maskserve
