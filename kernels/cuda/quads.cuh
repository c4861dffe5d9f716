// Four floats at a time, wherever a row begins and ends: what a thread works on is the same for any alignment, so that
// sums have the same order, and only how it is loaded differs.
#pragma once

#include "device.cuh"

namespace maskserve {
namespace cuda {
namespace {

constexpr int kQuad = 4;

inline __host__ __device__ bool IsAligned(const float* p) {
  return (reinterpret_cast<uintptr_t>(p) & 15) == 0;
}
// The four at p, of which `there` exist; the others are 0. kWhole: all or none of them do, at an aligned address.
template <bool kWhole = false>
MS_DEVICE float4 LoadQuad(const float* p, int there) {
  if (kWhole ? there > 0 : there >= kQuad && IsAligned(p)) return *reinterpret_cast<const float4*>(p);
  if (kWhole) return make_float4(0, 0, 0, 0);
  return make_float4(there > 0 ? p[0] : 0.0f, there > 1 ? p[1] : 0.0f, there > 2 ? p[2] : 0.0f,
                     there > 3 ? p[3] : 0.0f);
}
template <bool kWhole = false>
MS_DEVICE void StoreQuad(float* p, int there, const float4& v) {
  if (kWhole ? there > 0 : there >= kQuad && IsAligned(p)) {
    *reinterpret_cast<float4*>(p) = v;
    return;
  }
  if (kWhole) return;
  if (there > 0) p[0] = v.x;
  if (there > 1) p[1] = v.y;
  if (there > 2) p[2] = v.z;
  if (there > 3) p[3] = v.w;
}

}  // namespace
}  // namespace cuda
}  // namespace maskserve
