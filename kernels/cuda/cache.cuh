// Elements of key-value caches, fp32 or bf16 (uint16_t), four at a time, as kernels read and write them, and the
// rotation that keys have there.
#pragma once

#include "device.cuh"

namespace maskserve {
namespace cuda {
namespace {

// Four elements as they lie in memory: aligned to their size.
template <typename T>
struct CacheFour;
template <>
struct CacheFour<float> {
  typedef float4 Type;
};
template <>
struct CacheFour<uint16_t> {
  typedef uint2 Type;
};

MS_DEVICE float4 Widened(const float4& four) {
  return four;
}
MS_DEVICE float4 Widened(const uint2& four) {
  return make_float4(LowOfPair(four.x), HighOfPair(four.x), LowOfPair(four.y), HighOfPair(four.y));
}

// Two neighbours as bf16, the first in the low half.
MS_DEVICE uint32_t PairAt(const float* p) {
  const float2 two = *reinterpret_cast<const float2*>(p);
  return PairOfFloats(two.x, two.y);
}
MS_DEVICE uint32_t PairAt(const uint16_t* p) {
  return *reinterpret_cast<const uint32_t*>(p);
}
// Two that lie apart.
MS_DEVICE uint32_t PairOf(float low, float high) {
  return PairOfFloats(low, high);
}
MS_DEVICE uint32_t PairOf(uint16_t low, uint16_t high) {
  return low | static_cast<uint32_t>(high) << 16;
}

MS_DEVICE void Store(float* p, float x) {
  *p = x;
}
MS_DEVICE void Store(uint16_t* p, float x) {
  *p = static_cast<uint16_t>(Bf16OfFloat(x));
}

// A pair of elements rotated. Each product and sum is rounded by itself, as in cpu/rotate.h: fused multiply-adds, which
// the compiler would choose, may be others in each kernel, and a key would differ with the kernel that rotated it.
MS_DEVICE float2 RotatePair(float a, float b, float cos, float sin) {
  return make_float2(__fsub_rn(__fmul_rn(a, cos), __fmul_rn(b, sin)), __fadd_rn(__fmul_rn(b, cos), __fmul_rn(a, sin)));
}

// body(T()) for caches of `type`: MS_F32 or MS_BF16.
template <typename Body>
void WithCacheType(ms_value_type type, const Body& body) {
  if (type == MS_BF16)
    body(uint16_t{});
  else
    body(float{});
}

}  // namespace
}  // namespace cuda
}  // namespace maskserve
