#include "context.h"

#include <algorithm>
#include <cstring>

#include "dense_gemm.h"
#include "sparse_gemm.h"

namespace maskserve {
namespace cuda {

namespace {

constexpr size_t kAlignment = 256;
constexpr size_t kFirstBlock = size_t{8} << 20;
constexpr size_t kStagingBytes = size_t{16} << 20;

size_t RoundUp(size_t bytes) {
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

}  // namespace

void Require(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  cudaGetLastError();
  if (error == cudaErrorMemoryAllocation) {
    throw Failure{MS_OUT_OF_MEMORY, std::string("expected room on the GPU for ") + what +
                                        " but it has none to give; lower --cache-bytes or --kv-bytes"};
  }
  throw Failure{MS_OUT_OF_MEMORY, std::string(what) + " failed on the GPU: " + cudaGetErrorString(error)};
}

Arena::~Arena() {
  for (const Block& block : blocks_) cudaFree(block.memory);
}

void* Arena::Take(size_t bytes) {
  const size_t size = RoundUp(std::max<size_t>(bytes, 1));
  for (Block& block : blocks_) {
    if (size > block.bytes - block.taken) continue;
    block.taken += size;
    return block.memory + block.taken - size;
  }
  if (frozen_) {
    throw Failure{MS_UNSUPPORTED, "a recorded step needs " + std::to_string(size) + " bytes of working memory more"};
  }
  void* memory = nullptr;
  const size_t room = std::max(size, kFirstBlock);
  Require(cudaMalloc(&memory, room), "working memory");
  blocks_.push_back({static_cast<char*>(memory), room, size});
  return memory;
}

std::vector<size_t> Arena::Taken() const {
  std::vector<size_t> taken;
  for (const Block& block : blocks_) taken.push_back(block.taken);
  return taken;
}

void Arena::GoBack(const std::vector<size_t>& taken) {
  for (size_t i = 0; i < blocks_.size(); ++i) blocks_[i].taken = i < taken.size() ? taken[i] : 0;
}

void Arena::Reset(cudaStream_t stream) {
  if (blocks_.size() > 1 && !frozen_) {
    size_t total = 0;
    for (const Block& block : blocks_) total += block.bytes;
    cudaStreamSynchronize(stream);
    for (const Block& block : blocks_) cudaFree(block.memory);
    blocks_.clear();
    ++moves_;
    Take(total);
  }
  for (Block& block : blocks_) block.taken = 0;
}

Staging::~Staging() {
  for (int i = 0; i < 2; ++i) {
    if (passed_[i] != nullptr) cudaEventDestroy(passed_[i]);
    if (halves_[i] != nullptr) cudaFreeHost(halves_[i]);
  }
}

void Staging::Prepare() {
  for (int i = 0; i < 2; ++i) {
    void* memory = halves_[i];
    if (memory == nullptr) Require(cudaMallocHost(&memory, kStagingBytes), "pinned memory");
    halves_[i] = static_cast<char*>(memory);
    if (passed_[i] == nullptr) {
      Require(cudaEventCreateWithFlags(&passed_[i], cudaEventDisableTiming), "an event");
    }
  }
}

void Staging::Upload(void* out, const void* host_in, size_t bytes, cudaStream_t stream) {
  Prepare();
  for (size_t done = 0, turn = 0; done < bytes; done += kStagingBytes, turn ^= 1) {
    const size_t part = std::min(kStagingBytes, bytes - done);
    Require(cudaEventSynchronize(passed_[turn]), "waiting for a copy");
    std::memcpy(halves_[turn], static_cast<const char*>(host_in) + done, part);
    Require(cudaMemcpyAsync(static_cast<char*>(out) + done, halves_[turn], part, cudaMemcpyHostToDevice, stream),
            "a copy to the GPU");
    Require(cudaEventRecord(passed_[turn], stream), "an event");
  }
  Require(cudaStreamSynchronize(stream), "a copy to the GPU");
}

void Staging::Download(void* host_out, const void* in, size_t bytes, cudaStream_t stream) {
  Prepare();
  const auto begin = [&](size_t at, size_t turn) {
    const size_t part = std::min(kStagingBytes, bytes - at);
    Require(cudaMemcpyAsync(halves_[turn], static_cast<const char*>(in) + at, part, cudaMemcpyDeviceToHost, stream),
            "a copy from the GPU");
    Require(cudaEventRecord(passed_[turn], stream), "an event");
  };
  begin(0, 0);
  for (size_t done = 0, turn = 0; done < bytes; done += kStagingBytes, turn ^= 1) {
    if (done + kStagingBytes < bytes) begin(done + kStagingBytes, turn ^ 1);
    Require(cudaEventSynchronize(passed_[turn]), "a copy from the GPU");
    std::memcpy(static_cast<char*>(host_out) + done, halves_[turn], std::min(kStagingBytes, bytes - done));
  }
}

}  // namespace cuda
}  // namespace maskserve

ms_context::ms_context() {
  maskserve::cuda::Require(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "a stream");
}

ms_context::~ms_context() {
  recording.reset();
  cudaStreamSynchronize(stream);
  cudaFree(rounded.rounded);
  dense.reset();
  sparse.reset();
  cudaStreamDestroy(stream);
}
