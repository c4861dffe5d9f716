// Sums and maxima over a warp and a block, in one fixed order.
#pragma once

#include "device.cuh"

namespace maskserve {
namespace cuda {
namespace {

// Every lane gets the sum over its `kLanes` neighbours.
template <int kLanes = kWarp, typename T>
MS_DEVICE T WarpSum(T v) {
#pragma unroll
  for (int bit = kLanes / 2; bit > 0; bit /= 2) v += __shfl_xor_sync(kWholeWarp, v, bit);
  return v;
}
template <int kLanes = kWarp>
MS_DEVICE float WarpMax(float v) {
#pragma unroll
  for (int bit = kLanes / 2; bit > 0; bit /= 2) v = fmaxf(v, __shfl_xor_sync(kWholeWarp, v, bit));
  return v;
}

// Every thread of a block of kThreads gets the sum; `room` (kThreads / 32) is shared memory of its own.
template <int kThreads, typename T>
MS_DEVICE T BlockSum(T v, T* room) {
  constexpr int kWarps = kThreads / kWarp;
  v = WarpSum(v);
  __syncthreads();
  if (Lane() == 0) room[WarpOfBlock()] = v;
  __syncthreads();
  T sum = room[0];
#pragma unroll
  for (int w = 1; w < kWarps; ++w) sum += room[w];
  return sum;
}
template <int kThreads>
MS_DEVICE float BlockMax(float v, float* room) {
  constexpr int kWarps = kThreads / kWarp;
  v = WarpMax(v);
  __syncthreads();
  if (Lane() == 0) room[WarpOfBlock()] = v;
  __syncthreads();
  float most = room[0];
#pragma unroll
  for (int w = 1; w < kWarps; ++w) most = fmaxf(most, room[w]);
  return most;
}

}  // namespace
}  // namespace cuda
}  // namespace maskserve
