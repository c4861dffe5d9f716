// CUDA's execution model on the host, for tests: the same .cu file compiled by a C++ compiler against this header
// (kernels.md §8). Blocks run one after another, the threads of a block as fibers that take turns at barriers and warp
// operations: in ascending order, all in step, or shuffled, one warp after another from barrier to barrier. Where the
// result depends on the order, there is a race.
//
// Strict where the hardware is undefined: a barrier or a warp operation that not all its threads reach, lanes of one
// operation that are at different ones, a shuffle from a lane that is not there, and a grid or block beyond CUDA's
// limits end the process with a line that says where. Compiled with MASKSERVE_CHECKED, every access is looked at as
// well (checker.h). What it can't show: timing.
#pragma once

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <algorithm>
#include <functional>
#include <utility>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __constant__ static const
#define __shared__ static
#define __launch_bounds__(...)

#if defined(MASKSERVE_CHECKED)
#include "checker.h"
#define MS_UNCHECKED __attribute__((no_sanitize("thread")))
#else
#define MS_UNCHECKED
#endif

typedef struct CUstream_st* cudaStream_t;

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) {
  return {x, y, z, w};
}
inline float2 make_float2(float x, float y) {
  return {x, y};
}
inline float4 make_float4(float x, float y, float z, float w) {
  return {x, y, z, w};
}

extern dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace maskserve {
namespace cuda {
namespace host {

enum class Order { kAscending, kShuffled };
void SetOrder(Order order, uint64_t seed);

// What a stream does when a kernel is launched on it; nullptr: it runs at once.
using SubmitFn = void (*)(cudaStream_t stream, std::function<void()> run);
SubmitFn& Submitter();
inline void Submit(cudaStream_t stream, std::function<void()> run) {
  if (Submitter() == nullptr) return run();
  Submitter()(stream, std::move(run));
}

// thread(arg) is one thread of the kernel: a plain function, so that nothing of the host is looked at as the kernel's.
// Overlapped: every thread has to call AwaitFront before it touches the GPU's memory.
void RunGrid(dim3 grid, dim3 block, size_t shared_bytes, bool overlapped, void (*thread)(const void* arg),
             const void* arg);
void AwaitFront();
template <typename Thread>
MS_UNCHECKED void CallThread(const void* thread) {
  (*static_cast<const Thread*>(thread))();
}
// The block's dynamic shared memory, filled with garbage when the block starts.
void* SharedMemory();

enum class Operation { kShuffle, kBallot, kSyncWarp, kMma, kSparseMma, kLoadMatrices, kLoadTransposed, kSyncBlock };
constexpr size_t kPayload = 64;  // bytes that a lane gives to an operation of its warp

void SyncBlock();
// Waits until all lanes of `mask` are at the same operation; lanes' payloads, kPayload apart, until the next one.
const unsigned char* Exchange(Operation operation, uint32_t mask, const void* payload, size_t bytes);
// Ends the process unless the lane took part in this warp's last exchange.
void RequireLane(int lane);
int Lane();
// cp.async: 16 bytes that this thread is to write when it waits for their group, in the order in which it asked for
// them. NextCopy: the next one of all groups but the last `left`, if any is left to write.
void DeferCopy(void* to, const uint4& value);
void CommitCopies();
bool NextCopy(int left, void** to, uint4* value);

template <typename T>
T Shuffle(uint32_t mask, T value, int lane) {
  static_assert(sizeof(T) <= kPayload, "a value fits");
  const unsigned char* all = Exchange(Operation::kShuffle, mask, &value, sizeof(T));
  RequireLane(lane);
  T result;
  memcpy(&result, all + kPayload * static_cast<size_t>(lane), sizeof(T));
  return result;
}

}  // namespace host
}  // namespace cuda
}  // namespace maskserve

inline void __syncthreads() {
  maskserve::cuda::host::SyncBlock();
}
inline void __syncwarp(uint32_t mask = 0xffffffffu) {
  maskserve::cuda::host::Exchange(maskserve::cuda::host::Operation::kSyncWarp, mask, nullptr, 0);
}
inline void __threadfence() {}

template <typename T>
T __shfl_sync(uint32_t mask, T value, int lane, int width = 32) {
  const int self = maskserve::cuda::host::Lane();
  return maskserve::cuda::host::Shuffle(mask, value, (self & ~(width - 1)) | (lane & (width - 1)));
}
template <typename T>
T __shfl_xor_sync(uint32_t mask, T value, int bits, int width = 32) {
  const int self = maskserve::cuda::host::Lane(), from = self ^ bits;
  return maskserve::cuda::host::Shuffle(mask, value, (from & ~(width - 1)) > (self & ~(width - 1)) ? self : from);
}
template <typename T>
T __shfl_up_sync(uint32_t mask, T value, unsigned delta, int width = 32) {
  const int self = maskserve::cuda::host::Lane(), from = self - static_cast<int>(delta);
  return maskserve::cuda::host::Shuffle(mask, value, from < (self & ~(width - 1)) ? self : from);
}
template <typename T>
T __shfl_down_sync(uint32_t mask, T value, unsigned delta, int width = 32) {
  const int self = maskserve::cuda::host::Lane(), from = self + static_cast<int>(delta);
  return maskserve::cuda::host::Shuffle(mask, value, from > (self | (width - 1)) ? self : from);
}
inline uint32_t __ballot_sync(uint32_t mask, int predicate) {
  const uint32_t vote = predicate != 0;
  const unsigned char* all =
      maskserve::cuda::host::Exchange(maskserve::cuda::host::Operation::kBallot, mask, &vote, sizeof(vote));
  uint32_t result = 0;
  for (size_t lane = 0; lane < 32; ++lane) {
    uint32_t other;
    memcpy(&other, all + maskserve::cuda::host::kPayload * lane, sizeof(other));
    if ((mask >> lane & 1) != 0) result |= other << lane;
  }
  return result;
}
inline int __any_sync(uint32_t mask, int predicate) {
  return __ballot_sync(mask, predicate) != 0;
}
inline int __all_sync(uint32_t mask, int predicate) {
  return __ballot_sync(mask, predicate == 0) == 0;
}

// Threads take turns only at barriers, so plain reads and writes are atomic.
template <typename T, typename Change>
MS_UNCHECKED T ChangeAtomically(T* at, const Change& change) {
#if defined(MASKSERVE_CHECKED)
  maskserve::cuda::host::CheckAtomic(at, sizeof(T), __builtin_return_address(0));
#endif
  const T old = *at;
  *at = change(old);
  return old;
}
template <typename T>
T atomicAdd(T* at, T value) {
  return ChangeAtomically(at, [value](T old) { return old + value; });
}
template <typename T>
T atomicMin(T* at, T value) {
  return ChangeAtomically(at, [value](T old) { return std::min(old, value); });
}
template <typename T>
T atomicXor(T* at, T value) {
  return ChangeAtomically(at, [value](T old) { return old ^ value; });
}

inline int __popc(uint32_t x) {
  return __builtin_popcount(x);
}
inline int __clz(uint32_t x) {
  return x == 0 ? 32 : __builtin_clz(x);
}
inline int __ffs(uint32_t x) {
  return __builtin_ffs(static_cast<int>(x));
}
inline uint32_t __umulhi(uint32_t a, uint32_t b) {
  return static_cast<uint32_t>(static_cast<uint64_t>(a) * b >> 32);
}
inline float __uint_as_float(uint32_t bits) {
  float f;
  memcpy(&f, &bits, 4);
  return f;
}
inline uint32_t __float_as_uint(float f) {
  uint32_t bits;
  memcpy(&bits, &f, 4);
  return bits;
}
// Bytes of the eight of b:a that the four low nibbles of `selector` name (PTX prmt, default mode without sign bits).
inline uint32_t __byte_perm(uint32_t a, uint32_t b, uint32_t selector) {
  const uint64_t bytes = static_cast<uint64_t>(b) << 32 | a;
  uint32_t result = 0;
  for (int i = 0; i < 4; ++i) result |= static_cast<uint32_t>(bytes >> 8 * (selector >> 4 * i & 7) & 255) << 8 * i;
  return result;
}
inline uint32_t __funnelshift_r(uint32_t low, uint32_t high, uint32_t shift) {
  return static_cast<uint32_t>((static_cast<uint64_t>(high) << 32 | low) >> (shift & 31));
}
inline float __fmul_rn(float a, float b) {
  return a * b;
}
inline float __fadd_rn(float a, float b) {
  return a + b;
}
inline float __fsub_rn(float a, float b) {
  return a - b;
}
inline float __fdiv_rn(float a, float b) {
  return a / b;
}
inline float __fsqrt_rn(float a) {
  return sqrtf(a);
}
inline double rsqrt(double a) {
  return 1 / sqrt(a);
}
