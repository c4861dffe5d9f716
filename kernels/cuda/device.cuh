// What every kernel file includes: launching, and the intrinsics and PTX instructions that kernels use, by name. nvcc
// compiles the device bodies, a C++ compiler the host ones against host/execution.h, so that no kernel has inline
// assembly of its own and all of them run in tests without a GPU.
#pragma once

#include <float.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "launch.h"

#if defined(__CUDACC__)
#include <cuda_runtime.h>
#define MS_DEVICE __device__ __forceinline__
#define MS_METHOD static __device__ __forceinline__
#else
#include "host/execution.h"
#define MS_DEVICE static inline
#define MS_METHOD static inline
#endif

namespace maskserve {
namespace cuda {
namespace {

constexpr uint32_t kWholeWarp = 0xffffffffu;
constexpr int kWarp = 32;

// Overlapped: the kernel may begin while the one in front of it on the stream still runs, where GPUs do that
// (launches_overlap): it touches no memory of theirs before AwaitFront, which every thread calls.
enum class Begin { kAfterFront, kOverlapped };

// kernel<<<grid, block, shared, stream>>>(arguments…); nothing for an empty grid.
template <typename... P, typename... A>
inline void LaunchAs(Begin begin, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared, cudaStream_t stream,
                     A... arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
#if defined(__CUDACC__)
  // Beyond 48 KiB a kernel has to ask.
  if (shared > (48u << 10)) {
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared));
  }
  cudaLaunchAttribute overlap = {};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared;
  config.stream = stream;
  config.attrs = &overlap;
  config.numAttrs = begin == Begin::kOverlapped && launches_overlap() ? 1 : 0;
  cudaLaunchKernelEx(&config, kernel, static_cast<P>(arguments)...);
#else
  const auto thread = [=]() MS_UNCHECKED { kernel(static_cast<P>(arguments)...); };
  host::Submit(stream, [=] {
    const bool overlapped = begin == Begin::kOverlapped;
    host::RunGrid(grid, block, shared, overlapped, host::CallThread<decltype(thread)>, &thread);
  });
#endif
}
template <typename... P, typename... A>
inline void Launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared, cudaStream_t stream, A... arguments) {
  LaunchAs(Begin::kAfterFront, kernel, grid, block, shared, stream, arguments...);
}
template <typename... P, typename... A>
inline void LaunchOverlapped(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared, cudaStream_t stream,
                             A... arguments) {
  LaunchAs(Begin::kOverlapped, kernel, grid, block, shared, stream, arguments...);
}

// The kernel behind this one may begin, as soon as all blocks of this one have called it or ended (PTX ISA,
// griddepcontrol): what it does before its own AwaitFront then fills the time in which this one ends.
MS_DEVICE void LetNextBegin() {
#if defined(__CUDACC__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
// Everything in front of this kernel is done, and its memory to be seen. Also where the kernel in front did not wait
// itself to the end: it can't end before the one in front of it, for which it waits.
MS_DEVICE void AwaitFront() {
#if !defined(__CUDACC__)
  host::AwaitFront();
#elif __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
// Asks for a line of memory that is soon read, without reading it: also before AwaitFront, since what the second-level
// cache holds is what was written last.
MS_DEVICE void AskFor(const void* p) {
#if defined(__CUDACC__)
  asm volatile("prefetch.global.L2 [%0];" ::"l"(p));
#else
  (void)p;
#endif
}

// The block's dynamic shared memory.
MS_DEVICE void* SharedMemory() {
#if defined(__CUDACC__)
  extern __shared__ __align__(16) unsigned char dynamic_shared[];
  return dynamic_shared;
#else
  return host::SharedMemory();
#endif
}

template <typename T>
inline __host__ __device__ constexpr T CeilDiv(T a, T b) {
  return (a + b - 1) / b;
}
template <typename T>
inline __host__ __device__ constexpr T Min(T a, T b) {
  return a < b ? a : b;
}
template <typename T>
inline __host__ __device__ constexpr T Max(T a, T b) {
  return a > b ? a : b;
}
inline unsigned Blocks(int64_t n, int64_t of) {
  return static_cast<unsigned>(CeilDiv(n, of));
}

// This thread's index over the grid, of blocks in x alone.
MS_DEVICE int64_t GlobalIndex() {
  return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}
MS_DEVICE int Lane() {
  return static_cast<int>(threadIdx.x) & (kWarp - 1);
}
MS_DEVICE int WarpOfBlock() {
  return static_cast<int>(threadIdx.x) / kWarp;
}

// ---- bf16 ----

MS_DEVICE float FloatOfBf16(uint32_t bits) {
  return __uint_as_float(bits << 16);
}
// The two of a word, the low one first.
MS_DEVICE float LowOfPair(uint32_t pair) {
  return __uint_as_float(pair << 16);
}
MS_DEVICE float HighOfPair(uint32_t pair) {
  return __uint_as_float(pair & 0xffff0000u);
}
// To nearest even; NaN stays NaN.
MS_DEVICE uint32_t Bf16OfFloat(float x) {
#if defined(__CUDACC__)
  uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(0.0f), "f"(x));
  return pair & 0xffffu;
#else
  const uint32_t bits = __float_as_uint(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return (bits >> 16 | 0x40u) & 0xffffu;
  return (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
#endif
}
MS_DEVICE uint32_t PairOfFloats(float low, float high) {
#if defined(__CUDACC__)
  uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
#else
  return Bf16OfFloat(low) | Bf16OfFloat(high) << 16;
#endif
}
// IEEE binary16.
MS_DEVICE float FloatOfF16(uint16_t bits) {
#if defined(__CUDACC__)
  float x;
  asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
  return x;
#else
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16, rest = static_cast<uint32_t>(bits & 0x7fffu) << 13;
  if (rest >= 0x7c00u << 13) return __uint_as_float(sign | 0x7f800000u | (rest & 0x007fffffu));
  return __uint_as_float(sign | __float_as_uint(__uint_as_float(rest) * 0x1p112f));
#endif
}
constexpr float kLog2e = 1.44269504f;
// 2ˣ to two units in the last place; +0 for minus infinity, and where the result would be subnormal.
MS_DEVICE float Exp2(float x) {
#if defined(__CUDACC__)
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return exp2f(x);
#endif
}
// Both elements of a · b + c, each rounded once.
MS_DEVICE uint32_t FmaPairs(uint32_t a, uint32_t b, uint32_t c) {
#if defined(__CUDACC__)
  uint32_t d;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
#else
  return PairOfFloats(LowOfPair(a) * LowOfPair(b) + LowOfPair(c), HighOfPair(a) * HighOfPair(b) + HighOfPair(c));
#endif
}

// ---- memory ----

// Weights are read once: past the first-level cache.
MS_DEVICE uint4 LoadStream(const void* p) {
#if defined(__CUDACC__)
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(p));
  return v;
#else
  return *static_cast<const uint4*>(p);
#endif
}
// 32 bits at any address, which may reach up to 3 bytes beyond them.
MS_DEVICE uint32_t LoadWordAnywhere(const uint8_t* p) {
  const uintptr_t at = reinterpret_cast<uintptr_t>(p);
  const uint32_t* word = reinterpret_cast<const uint32_t*>(at & ~uintptr_t{3});
  const uint32_t shift = static_cast<uint32_t>(at & 3) * 8;
  return shift == 0 ? word[0] : __funnelshift_r(word[0], word[1], shift);
}

// ---- copies to shared memory while the thread goes on ----

// 16 bytes of global memory to shared memory, each aligned to 16, past the first-level cache; zeros unless `there`
// (then nothing is read). In shared memory they are for this thread when a wait for their group is over, for others
// behind a barrier after that.
MS_DEVICE void CopyAsync(void* to, const void* from, bool there) {
#if defined(__CUDACC__)
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
               :
               : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(to))), "l"(from), "r"(there ? 16 : 0)
               : "memory");
#else
  const uint4 value = there ? *static_cast<const uint4*>(from) : uint4{};
  // Until it is waited for, nobody may rely on what is there.
  *static_cast<uint4*>(to) = {~0u, ~0u, ~0u, ~0u};
  host::DeferCopy(to, value);
#endif
}
// Ends a group of copies.
MS_DEVICE void CommitCopies() {
#if defined(__CUDACC__)
  asm volatile("cp.async.commit_group;" : : : "memory");
#else
  host::CommitCopies();
#endif
}
// Waits for all groups of this thread but the last kLeft.
template <int kLeft>
MS_DEVICE void WaitForCopies() {
#if defined(__CUDACC__)
  asm volatile("cp.async.wait_group %0;" : : "n"(kLeft) : "memory");
#else
  void* to;
  for (uint4 value; host::NextCopy(kLeft, &to, &value);) *static_cast<uint4*>(to) = value;
#endif
}

// ---- tensor cores: one 16 × 8 tile of fp32 sums a warp ----

// d += a b for a (16, 16), b (16, 8) bf16: mma.m16n8k16. With g = lane / 4 and t = lane % 4: a[0] row g, columns 2t, 2t
// + 1; a[1] row g + 8; a[2], a[3] the same 8 columns on; b[0] rows 2t, 2t + 1 of column g, b[1] 8 rows on; d[0], d[1]
// row g, columns 2t, 2t + 1; d[2], d[3] row g + 8.
MS_DEVICE void Mma16816(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);
// Four matrices of 8 × 8 bf16 in shared memory, lane i naming row i % 8 of matrix i / 8 (8 elements, aligned to 16
// bytes): to[j] is row g, columns 2t, 2t + 1 of matrix j; transposed: rows 2t, 2t + 1 of column g.
MS_DEVICE void LoadMatrices(uint32_t (&to)[4], const uint16_t* row);
MS_DEVICE void LoadTransposed(uint32_t (&to)[4], const uint16_t* row);
// d += a b for a (16, 32) of which two in four columns are kept, b (32, 8): mma.sp::ordered_metadata.m16n8k32. a as
// above over the 16 kept columns; b[i] rows 2t + 8i, 2t + 8i + 1 of column g. meta: nibbles (idx0 | idx1 << 2) of four
// groups, row g in the low half and row g + 8 in the high one; lanes with t = 0 name columns 0–15, t = 1 columns 16–31,
// the others are not read (sparsity selector 0).
MS_DEVICE void SparseMma16832(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[4], uint32_t meta);

#if defined(__CUDACC__)
MS_DEVICE void Mma16816(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
MS_DEVICE void LoadMatrices(uint32_t (&to)[4], const uint16_t* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(row)))
               : "memory");
}
MS_DEVICE void LoadTransposed(uint32_t (&to)[4], const uint16_t* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(row)))
               : "memory");
}
MS_DEVICE void SparseMma16832(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[4], uint32_t meta) {
  asm volatile(
      "mma.sp::ordered_metadata.sync.aligned.m16n8k32.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9, %10, %11}, {%0, %1, %2, %3}, %12, 0x0;"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(b[2]), "r"(b[3]), "r"(meta));
}
#endif

}  // namespace
}  // namespace cuda
}  // namespace maskserve

#if !defined(__CUDACC__)
#include "host/mma.h"
#endif
