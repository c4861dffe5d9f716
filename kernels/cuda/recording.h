// A step that is done again: a CUDA graph of what a context's ops launched, and the device's copy of what they took
// from the host. Between steps only token ids and positions change; each replay sends those.
#pragma once

#include <cstdint>
#include <vector>

#include "../include/backend.h"
#include "runtime.h"

struct ms_recording {
  // Throws Failure where there is no room for it.
  ms_recording();
  ~ms_recording();
  ms_recording(const ms_recording&) = delete;
  ms_recording& operator=(const ms_recording&) = delete;

  // Device addresses for what ops take from the host: arrays that stay; ids and cache rows, which replays change. Throw
  // Failure where there is no more room.
  void* Keep(const void* host, size_t bytes);
  const int32_t* KeepIds(const int32_t* host_ids, int64_t rows);
  const ms_cache_row* KeepRows(const ms_cache_row* host_rows, int64_t rows, int64_t most_position);

  // Sends what stays; from then on it can be replayed.
  void Finish(cudaGraph_t graph, cudaStream_t stream);
  // New ids and positions. False where a position is beyond most_position. Throws Failure where they don't fit.
  bool Update(const int32_t* host_ids, const int32_t* host_positions, int64_t rows);
  void Launch(cudaStream_t stream);

  // What it holds for: working memory where it was, and the precision.
  uint64_t moves = 0;
  int32_t exact = 0;
  bool failed = false;  // an op while it was recorded

 private:
  void* At(std::vector<char>& part, size_t begin, size_t most, const void* host, size_t bytes);

  char* device_ = nullptr;
  std::vector<char> changing_, staying_;
  std::vector<size_t> tables_;  // where cache rows begin in `changing_`
  int64_t rows_ = 0, most_position_ = INT64_MAX;
  cudaGraphExec_t exec_ = nullptr;
};

namespace maskserve {
namespace cuda {

// The largest position that a step recorded at `last` is to reach.
int64_t RecordedPosition(int64_t last);
void AddRecording(ms_backend* backend);

}  // namespace cuda
}  // namespace maskserve
