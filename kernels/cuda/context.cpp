#include "context.h"

#include <algorithm>

#include "dense_gemm.h"
#include "sparse_gemm.h"

namespace maskserve {
namespace cuda {

namespace {

constexpr size_t kAlignment = 256;
constexpr size_t kFirstBlock = size_t{8} << 20;

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

Arena::Scope::Scope(Arena& arena) : arena_(arena) {
  for (const Block& block : arena.blocks_) taken_.push_back(block.taken);
}

Arena::Scope::~Scope() {
  taken_.resize(arena_.blocks_.size());
  for (size_t i = 0; i < taken_.size(); ++i) arena_.blocks_[i].taken = taken_[i];
}

}  // namespace cuda
}  // namespace maskserve

namespace {

// The GPU gives free multiprocessors to waiting blocks of the stream of the highest priority. By default all have the
// lowest.
cudaStream_t MakeStream(bool first) {
  int least = 0, greatest = 0;
  maskserve::cuda::Require(cudaDeviceGetStreamPriorityRange(&least, &greatest), "asking for priorities");
  cudaStream_t stream = nullptr;
  maskserve::cuda::Require(cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking, first ? greatest : least),
                           "a stream");
  return stream;
}

}  // namespace

ms_context::ms_context() : stream(MakeStream(true)) {}

void ms_context::GiveWay() {
  const cudaStream_t other = MakeStream(false);
  cudaStreamSynchronize(stream);
  cudaStreamDestroy(stream);
  stream = other;
}

ms_context::~ms_context() {
  recording.reset();
  cudaStreamSynchronize(stream);
  if (uploads != nullptr) cudaStreamDestroy(uploads);
  cudaFree(rounded.rounded);
  dense.reset();
  sparse.reset();
  cudaStreamDestroy(stream);
}
