// The nibble of the two best of four scores.
#pragma once

#include "simd.h"

namespace maskserve {
namespace {

// An earlier position wins a tie. Scores are never NaN. idx0 | idx1 << 2.
MS_INLINE unsigned BestTwo(const float* s) {
  // Four bits: which positions are beaten by fewer than two others.
  const int ab = s[0] >= s[1], ac = s[0] >= s[2], ad = s[0] >= s[3], bc = s[1] >= s[2], bd = s[1] >= s[3],
            cd = s[2] >= s[3];
  const int wins[4] = {ab + ac + ad, !ab + bc + bd, !ac + !bc + cd, !ad + !bd + !cd};
  unsigned kept = 0;
  for (int i = 0; i < 4; ++i) kept |= static_cast<unsigned>(wins[i] >= 2) << i;
  constexpr uint8_t kNibbleOfKept[16] = {0, 0, 0, 4, 0, 8, 9, 0, 0, 12, 13, 0, 14, 0, 0, 0};
  return kNibbleOfKept[kept];
}

}  // namespace
}  // namespace maskserve
