// How tokens are drawn, as JavaScript says it.
#pragma once

#include <vector>

#include "check.h"

namespace maskserve {

// Argument `at`: temperature, topK, topP and uniform of each of `rows` rows, one after the other; without deltas.
std::vector<ms_draw> Draws(Call& call, size_t at, int64_t rows);

}  // namespace maskserve
