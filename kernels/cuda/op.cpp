#include "op.h"

#include <algorithm>
#include <cinttypes>
#include <cstdio>

namespace maskserve {
namespace cuda {

const int32_t* Op::UploadIds(const int32_t* host, int64_t count) {
  return ctx_->recording != nullptr ? ctx_->recording->KeepIds(host, count) : Upload(host, count);
}

const ms_cache_row* Op::UploadRows(const ms_cache_row* host, int64_t count, int64_t position_bytes,
                                   int64_t* most_position) {
  *most_position = 0;
  for (int64_t r = 0; r < count; ++r) *most_position = std::max(*most_position, host[r].position);
  if (ctx_->recording == nullptr) return Upload(host, count);
  *most_position = RecordedPosition(*most_position);
  return ctx_->recording->KeepRows(host, count, *most_position, position_bytes);
}

const ms_draw* Op::UploadDraws(const ms_draw* host, int64_t count) {
  return ctx_->recording != nullptr ? ctx_->recording->KeepDraws(host, count) : Upload(host, count);
}

int32_t* Op::TakeTokens(int64_t count) {
  return ctx_->recording != nullptr ? ctx_->recording->KeepTokens(count) : Take<int32_t>(count);
}

void Op::Send(void* device, const void* host, size_t bytes) {
  if (ctx_->recording != nullptr) throw Failure{MS_UNSUPPORTED, "a recorded step copies nothing from the host"};
  Require(cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, stream()), "a copy to the GPU");
}

void Op::Fetch(void* host, const void* device, size_t bytes) {
  // A kernel that did not start leaves nothing to be looked at.
  Require(cudaGetLastError(), "a kernel");
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
