// Masks by score: the two largest |w| · scale of each group (magnitude pruning; Wanda, arXiv 2306.11695, when scale is
// ‖x‖). Equal scores: the lower position is kept. A NaN scores below everything.

#include "ops.h"
#include "rank24.h"

namespace maskserve {
namespace {

void ScoreRow(uint8_t* meta, const uint16_t* w, const float* scale, int64_t k) {
  for (int64_t i = 0; i < k; i += 8) {
    float score[8];
    for (int j = 0; j < 8; ++j) {
      const float s = fabsf(FloatOfBf16(w[i + j])) * (scale != NULL ? scale[i + j] : 1.0f);
      score[j] = s >= 0 ? s : -1.0f;
    }
    meta[i / 8] = static_cast<uint8_t>(BestTwo(score) | BestTwo(score + 4) << 4);
  }
}

}  // namespace

namespace ISA {

ms_status ScoreMask24(ms_context* ctx, uint8_t* meta, ms_weights w, const float* scale, int64_t n, int64_t k) {
  if (w.type != MS_BF16) return FailType(ctx, "w", w.type);
  const uint16_t* values = static_cast<const uint16_t*>(w.values);
  auto body = [&](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; ++r) ScoreRow(meta + r * (k / 8), values + r * k, scale, k);
  };
  constexpr int64_t kGrain = 32768;  // weights a task
  ParallelRanges(ctx, n, Max(1, kGrain / k), body);
  return MS_OK;
}

}  // namespace ISA
}  // namespace maskserve
