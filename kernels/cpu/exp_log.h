// Exponential and logarithm of a vector of floats, the same polynomials on every instruction set.
#pragma once

#include "simd.h"

namespace maskserve {
namespace {

// eˣ to 2 units in the last place: x = n·ln 2 + r, |r| ≤ ln 2 / 2, then Cephes' polynomial for eʳ and a scaling by 2ⁿ.
// 0 below −87.3 (the smallest normal float); +∞ comes out as e^88.7; a NaN stays one.
MS_INLINE VF Exp(VF x) {
  const VF bounded = Larger(Set(-88.0f), Smaller(Set(88.72283f), x));
  const VF n = Round(Mul(bounded, Set(1.44269504088896341f)));
  VF r = Fma(n, Set(-0.693359375f), bounded);
  r = Fma(n, Set(2.12194440e-4f), r);
  VF p = Set(1.9875691500e-4f);
  p = Fma(p, r, Set(1.3981999507e-3f));
  p = Fma(p, r, Set(8.3334519073e-3f));
  p = Fma(p, r, Set(4.1665795894e-2f));
  p = Fma(p, r, Set(1.6666665459e-1f));
  p = Fma(p, r, Set(5.0000001201e-1f));
  p = Fma(p, Mul(r, r), Add(r, Set(1.0f)));
  return ZeroBelow(Scale2(p, n), x, -87.33654f);
}

// ln x to 2 units in the last place, for positive normal x: x = m · 2^e with m in [√½, √2), then Cephes' polynomial for
// ln m. Exact subtractions around m = 1 keep the relative precision where ln x is small.
MS_INLINE VF Log(VF x) {
  const VF mantissa = Mantissa(x);
  const VF above = ZeroBelow(Set(1.0f), mantissa, 1.41421356f);
  const VF e = Add(Exponent(x), above);
  const VF f = Sub(Sub(mantissa, Mul(above, Mul(mantissa, Set(0.5f)))), Set(1.0f));
  VF p = Set(7.0376836292e-2f);
  p = Fma(p, f, Set(-1.1514610310e-1f));
  p = Fma(p, f, Set(1.1676998740e-1f));
  p = Fma(p, f, Set(-1.2420140846e-1f));
  p = Fma(p, f, Set(1.4249322787e-1f));
  p = Fma(p, f, Set(-1.6668057665e-1f));
  p = Fma(p, f, Set(2.0000714765e-1f));
  p = Fma(p, f, Set(-2.4999993993e-1f));
  p = Fma(p, f, Set(3.3333331174e-1f));
  const VF square = Mul(f, f);
  VF tail = Mul(Mul(p, f), square);
  tail = Fma(e, Set(-2.12194440e-4f), tail);
  tail = Fma(square, Set(-0.5f), tail);
  return Fma(e, Set(0.693359375f), Add(f, tail));
}

}  // namespace
}  // namespace maskserve
