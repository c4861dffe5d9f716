#include "op.h"

#include <cinttypes>
#include <cstdio>
#include <mutex>

namespace maskserve {
namespace cuda {

#ifdef MASKSERVE_CUDA_ON_HOST
namespace {
std::recursive_mutex one_at_a_time;
}
Turn::Turn() {
  one_at_a_time.lock();
}
Turn::~Turn() {
  one_at_a_time.unlock();
}
#else
Turn::Turn() {}
Turn::~Turn() {}
#endif

void Op::Send(void* device, const void* host, size_t bytes) {
  Require(cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, stream()), "a copy to the GPU");
}

void Op::Fetch(void* host, const void* device, size_t bytes) {
  Require(cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, stream()), "a copy from the GPU");
  Require(cudaStreamSynchronize(stream()), "the op");
}

void Op::Zero(void* device, size_t bytes) {
  Require(cudaMemsetAsync(device, 0, bytes, stream()), "filling memory");
}

uint64_t* Op::Bad() {
  auto* bad = Take<uint64_t>(1);
  Require(cudaMemsetAsync(bad, 0xff, sizeof(*bad), stream()), "filling memory");
  return bad;
}

void Op::RequireGood(const uint64_t* bad, const char* line) {
  uint64_t row = 0;
  Fetch(&row, bad, sizeof(row));
  if (row == UINT64_MAX) return;
  char text[256];
  std::snprintf(text, sizeof(text), line, static_cast<unsigned long long>(row));
  throw Failure{MS_BAD_DATA, text};
}

}  // namespace cuda
}  // namespace maskserve
