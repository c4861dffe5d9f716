// Infinities and NaNs among the activations of a 2:4 product. A dense product with zeros at the pruned places makes a
// NaN of 0 · ∞ there; a product that skips those places has to say so itself.
#pragma once

#include <math.h>

#include "packed24.h"
#include "patch24.h"

namespace maskserve {
namespace {

// Whether something of x is infinite or not a number, or may be so when it is rounded to bf16.
MS_INLINE bool HasNonFinite(const float* x, int64_t n) {
  const VF rounding = Set(1.0f + 1.0f / 256);
  VF zeros[4] = {Zero(), Zero(), Zero(), Zero()};
  int64_t i = 0;
  for (; i + 4 * W <= n; i += 4 * W) {
    for (int j = 0; j < 4; ++j) zeros[j] = Fma(Mul(Load(x + i + j * W), rounding), Zero(), zeros[j]);
  }
  for (; i < n; i += W) zeros[0] = Fma(Mul(LoadPart(x + i, Min(W, n - i)), rounding), Zero(), zeros[0]);
  const float sum = Sum(Add(Add(zeros[0], zeros[1]), Add(zeros[2], zeros[3])));
  return sum != sum;
}

// Whether row r of the child of `patch` (NULL: of the parent itself) keeps column c.
bool Keeps24(const Packed24& w, const uint8_t* patch, int64_t r, int64_t c) {
  const uint8_t byte = Packed24::Rows::Any(w.From(r), 0, c / kBlock24 * kBlock24).meta[c % kBlock24 / 8];
  const unsigned nibble = byte >> (c & 4) & 15u, at = static_cast<unsigned>(c & 3);
  bool kept = (nibble & 3) == at || nibble >> 2 == at;
  if (patch == NULL) return kept;
  const int64_t across = WindowsAcross24(w.k), window = r / kWindowRows24 * across + c / kWindowColumns24;
  auto change = [&](const Swap24& swap) {
    if (swap.in == c % kWindowColumns24) kept = true;
    if (swap.out == c % kWindowColumns24) kept = false;
  };
  EachSwapOfRow24(Patch24::Window({patch, w.n, w.k}, window), r % kWindowRows24, change);
  return kept;
}

// y of rows [begin, end) becomes NaN where the row prunes a place whose activation is not finite.
void SpreadNonFinite24(float* y, const float* x, const Packed24& w, const uint8_t* patch, int64_t begin, int64_t end) {
  for (int64_t r = begin; r < end; ++r) {
    for (int64_t c = 0; c < w.k; ++c) {
      if (fabsf(x[c]) <= 3.4028235e38f || Keeps24(w, patch, r, c)) continue;
      y[r] = NAN;
      break;
    }
  }
}

}  // namespace
}  // namespace maskserve
