// faults NAME right | faulty: a program with the one fault of that name, which the stand-in for a GPU must find
// (cuda/host/checker.h, test/kernels/backend/host_runtime.cpp), or the same without it.

#include <cstdio>
#include <cstring>
#include <vector>

#include "../../../../kernels/cuda/device.cuh"
#include "../../../../kernels/cuda/runtime.h"

using namespace maskserve::cuda;

namespace {

constexpr int kCount = 128;

__global__ void Barrier(bool faulty, float* out) {
  __shared__ float room[64];
  room[threadIdx.x] = static_cast<float>(threadIdx.x);
  if (!faulty) __syncthreads();
  out[threadIdx.x] = room[63 - threadIdx.x];
}

__global__ void Reuse(bool faulty, float* out) {
  __shared__ float room[64];
  for (int i = 0; i < 2; ++i) {
    if (!faulty) __syncthreads();
    room[threadIdx.x] = static_cast<float>(threadIdx.x) + static_cast<float>(i);
    __syncthreads();
    out[threadIdx.x] += room[63 - threadIdx.x];
  }
}

// Shuffles make lanes meet, but order no memory.
__global__ void Lanes(bool faulty, float* out) {
  __shared__ float room[32];
  room[threadIdx.x] = __shfl_xor_sync(kWholeWarp, static_cast<float>(threadIdx.x), 1);
  if (faulty) {
    __shfl_xor_sync(kWholeWarp, 0, 1);
  } else {
    __syncwarp();
  }
  out[threadIdx.x] = room[31 - threadIdx.x];
}

__global__ void Blocks(bool faulty, float* out) {
  const unsigned at = faulty ? threadIdx.x : blockIdx.x * blockDim.x + threadIdx.x;
  out[at] = static_cast<float>(blockIdx.x);
}

// Bytes of one word by different threads are apart, one byte is not.
__global__ void Nibbles(bool faulty, uint8_t* out) {
  out[faulty ? threadIdx.x / 2 : threadIdx.x] = static_cast<uint8_t>(threadIdx.x);
}

// All may write the same.
__global__ void Flag(bool faulty, float* out) {
  __shared__ int any;
  any = faulty ? static_cast<int>(threadIdx.x) : 1;
  __syncthreads();
  out[threadIdx.x] = static_cast<float>(any);
}

__global__ void Atomic(bool faulty, unsigned* out) {
  if (!faulty || threadIdx.x != 0) {
    atomicAdd(out, 1u);
  } else {
    *out = *out + 1;
  }
}

__global__ void Unwritten(bool faulty, float* out) {
  float* room = static_cast<float*>(SharedMemory());
  if (!faulty || threadIdx.x != 7) room[threadIdx.x] = 1;
  __syncthreads();
  out[threadIdx.x] = room[threadIdx.x];
}

// Without the wait a copy may come at any time.
__global__ void Copies(bool faulty, float* out, const float* in) {
  alignas(16) __shared__ float room[4 * 32];
  CopyAsync(room + 4 * threadIdx.x, in + 4 * threadIdx.x, true);
  CommitCopies();
  if (!faulty) WaitForCopies<0>();
  __syncthreads();
  out[threadIdx.x] = room[threadIdx.x];
}

__global__ void Misaligned(bool faulty, float* out, const float* in) {
  const float4 four = *reinterpret_cast<const float4*>(in + (faulty ? 1 : 4));
  out[threadIdx.x] = four.x + four.y + four.z + four.w;
}

__global__ void Reach(float* out, const float* in) {
  out[threadIdx.x] = in[threadIdx.x];
}

// What the kernel in front wrote is there when it has been awaited.
__global__ void Overlapped(bool faulty, float* out, const float* in) {
  LetNextBegin();
  if (!faulty) AwaitFront();
  const float read = in[threadIdx.x];
  AwaitFront();
  out[threadIdx.x] = read;
}

float* Memory() {
  void* memory = nullptr;
  if (cudaMalloc(&memory, kCount * sizeof(float)) != cudaSuccess) return nullptr;
  cudaMemsetAsync(memory, 0, kCount * sizeof(float), nullptr);
  cudaStreamSynchronize(nullptr);
  return static_cast<float*>(memory);
}

// What a kernel on one stream has written, copied by another.
int AcrossStreams(bool faulty, float* memory, const float* ones) {
  cudaStream_t writer = nullptr, reader = nullptr;
  cudaStreamCreateWithFlags(&writer, cudaStreamNonBlocking);
  cudaStreamCreateWithFlags(&reader, cudaStreamNonBlocking);
  Launch(Reach, 1, kCount, 0, writer, memory, ones);
  if (!faulty) cudaStreamSynchronize(writer);
  float seen = -1;
  cudaMemcpyAsync(&seen, memory, sizeof(seen), cudaMemcpyDeviceToHost, reader);
  if (seen != 1) std::fprintf(stderr, "the copy came before what it copies\n");
  return seen == 1 ? 0 : 1;
}

int Run(const char* name, bool faulty) {
  const auto is = [name](const char* other) { return std::strcmp(name, other) == 0; };
  float *memory = Memory(), *other = Memory();
  if (is("barrier")) Launch(Barrier, 1, 64, 0, nullptr, faulty, memory);
  if (is("reuse")) Launch(Reuse, 1, 64, 0, nullptr, faulty, memory);
  if (is("lanes")) Launch(Lanes, 1, 32, 0, nullptr, faulty, memory);
  if (is("blocks")) Launch(Blocks, 2, 64, 0, nullptr, faulty, memory);
  if (is("nibbles")) Launch(Nibbles, 1, 64, 0, nullptr, faulty, reinterpret_cast<uint8_t*>(memory));
  if (is("flag")) Launch(Flag, 1, 64, 0, nullptr, faulty, memory);
  if (is("atomic")) Launch(Atomic, 1, 64, 0, nullptr, faulty, reinterpret_cast<unsigned*>(memory));
  if (is("unwritten")) Launch(Unwritten, 1, 32, 32 * sizeof(float), nullptr, faulty, memory);
  if (is("copies")) Launch(Copies, 1, 32, 0, nullptr, faulty, memory, other);
  if (is("misaligned")) Launch(Misaligned, 1, 32, 0, nullptr, faulty, memory, other);
  if (is("beyond")) Launch(Reach, 1, faulty ? kCount + 1 : kCount, 0, nullptr, memory, other);
  std::vector<float> of_the_host(kCount);
  if (is("host")) Launch(Reach, 1, kCount, 0, nullptr, memory, faulty ? of_the_host.data() : other);
  if (is("returned")) {
    if (faulty) cudaFree(other);
    Launch(Reach, 1, kCount, 0, nullptr, memory, other);
  }
  if (is("overlapped")) LaunchOverlapped(Overlapped, 1, kCount, 0, nullptr, faulty, memory, other);
  if (is("grid")) Launch(Reach, dim3(1, 1, faulty ? 65536 : 1), 1, 0, nullptr, memory, other);
  if (is("copied")) {
    cudaMemcpyAsync(memory, of_the_host.data(), (kCount + (faulty ? 1 : 0)) * sizeof(float), cudaMemcpyHostToDevice,
                    nullptr);
  }
  cudaStreamSynchronize(nullptr);
  if (is("touched")) return *static_cast<volatile float*>(faulty ? memory : of_the_host.data()) != 0;
  if (!is("streams")) return 0;
  of_the_host.assign(kCount, 1.0f);
  cudaMemcpyAsync(other, of_the_host.data(), kCount * sizeof(float), cudaMemcpyHostToDevice, nullptr);
  cudaStreamSynchronize(nullptr);
  return AcrossStreams(faulty, memory, other);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 3) return Run(argv[1], std::strcmp(argv[2], "faulty") == 0);
  std::fprintf(stderr, "usage: %s NAME right | faulty\n", argv[0]);
  return 2;
}
