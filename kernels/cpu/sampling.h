// Ops over rows of logits. Compiled once, for the baseline, in fp64 and in a fixed order: the same logits give the
// same token on every instruction set. NaN counts as minus infinity.
#pragma once

#include "../include/backend.h"

namespace maskserve {

ms_status Sample(ms_context*, float* logits, const ms_draw* draws, int64_t rows, int64_t vocab, int32_t* tokens);
ms_status Argmax(ms_context*, const float* logits, int64_t vocab, int32_t* token);
ms_status Logprobs(ms_context*, const float* logits, int64_t vocab, const int32_t* ids, double* out, int64_t count);
ms_status TopLogprobs(ms_context*, const float* logits, int64_t vocab, int32_t* ids, double* out, int64_t count);

}  // namespace maskserve
