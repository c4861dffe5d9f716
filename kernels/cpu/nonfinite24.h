// Infinities and NaNs among the activations of a 2:4 product. A dense product with zeros at the pruned places makes a
// NaN of 0 · ∞ there; a product that skips those places has to say so itself.
#pragma once

#include <math.h>

#include "packed24.h"
#include "patch24.h"

namespace maskserve {
namespace {

MS_INLINE bool HasNonFinite(const float* x, int64_t n) {
  VF zeros = Zero();
  int64_t i = 0;
  for (; i + W <= n; i += W) zeros = Fma(Load(x + i), Zero(), zeros);
  if (i < n) zeros = Fma(LoadPart(x + i, n - i), Zero(), zeros);
  const float sum = Sum(zeros);
  return sum != sum;
}

// Whether the child of `patch` (NULL: the parent itself) keeps column c of this row.
bool Keeps24(const GroupRows24<const uint8_t, const uint16_t>& row, const uint8_t* patch, int64_t first,
             int64_t sections, int64_t c) {
  const uint8_t byte =
      GroupRows24<const uint8_t, const uint16_t>::Any(row, 0, c / kBlock24 * kBlock24).meta[c % kBlock24 / 8];
  const unsigned nibble = byte >> (c & 4) & 15u, at = static_cast<unsigned>(c & 3);
  bool kept = (nibble & 3) == at || nibble >> 2 == at;
  if (patch == NULL) return kept;
  const Swaps24 swaps = SectionSwaps24(patch, sections, first + c / kSectionColumns24);
  for (int64_t i = 0; i < swaps.count; ++i) {
    const SwapColumns24 swap = ColumnsOf24(swaps, i);
    if (swap.in == c % kSectionColumns24) kept = true;
    if (swap.out == c % kSectionColumns24) kept = false;
  }
  return kept;
}

// y of rows [begin, end) becomes NaN where the row prunes a place whose activation is not finite.
void SpreadNonFinite24(float* y, const float* x, const PackedMatrix24<const uint8_t, const uint16_t>& w,
                       const uint8_t* patch, int64_t begin, int64_t end) {
  const int64_t per_row = Sections24(w.k);
  for (int64_t r = begin; r < end; ++r) {
    for (int64_t c = 0; c < w.k; ++c) {
      if (fabsf(x[c]) <= 3.4028235e38f || Keeps24(w.From(r), patch, r * per_row, w.n * per_row, c)) continue;
      y[r] = NAN;
      break;
    }
  }
}

}  // namespace
}  // namespace maskserve
