// A step that is done again: a CUDA graph of what a context's ops launched, and the device's copy of what they took
// from the host. Between steps only token ids, caches, positions and draws change; each replay sends those.
#pragma once

#include <cstdint>
#include <mutex>
#include <vector>

#include "../include/backend.h"
#include "runtime.h"

namespace maskserve {
namespace cuda {

// Held while a stream records, and by whoever waits for the whole device: a wait of any thread would break the
// recording (CUDA C++ Programming Guide, "Stream capture: prohibited operations"). A thread that records may wait, to
// its own loss.
std::recursive_mutex& RecordingMutex();

}  // namespace cuda
}  // namespace maskserve

struct ms_recording {
  // Throws Failure where there is no room for it.
  ms_recording();
  ~ms_recording();
  ms_recording(const ms_recording&) = delete;
  ms_recording& operator=(const ms_recording&) = delete;

  // Device addresses for what ops take from the host: arrays that stay; ids, cache rows and draws, which replays
  // change; and for the tokens that they give. Throw Failure where there is no more room.
  void* Keep(const void* host, size_t bytes);
  const int32_t* KeepIds(const int32_t* host_ids, int64_t rows);
  // position_bytes: of a cache, keys or values alone.
  const ms_cache_row* KeepRows(const ms_cache_row* host_rows, int64_t rows, int64_t most_position,
                               int64_t position_bytes);
  const ms_draw* KeepDraws(const ms_draw* host_draws, int64_t rows);
  int32_t* KeepTokens(int64_t rows);

  // Sends what stays; from then on it can be replayed.
  void Finish(cudaGraph_t graph, cudaStream_t stream);
  // New ids, caches (backend.h's replay) and draws. False where a position is beyond most_position. Throws Failure
  // where they don't fit.
  bool Update(const int32_t* host_ids, const ms_cache_row* host_caches, const ms_draw* host_draws, int64_t rows);
  void Launch(cudaStream_t stream);
  // Of the last step; NULL: none are drawn.
  const int32_t* tokens() const { return tokens_; }

  // What it holds for: working memory where it was, and the precision.
  uint64_t moves = 0;
  int32_t exact = 0;
  bool failed = false;  // an op while it was recorded
  std::unique_lock<std::recursive_mutex> alone{maskserve::cuda::RecordingMutex(), std::defer_lock};

 private:
  ms_cache_row* Table(size_t index) { return reinterpret_cast<ms_cache_row*>(changing_.data() + tables_[index]); }
  void* At(std::vector<char>& part, size_t begin, size_t most, const void* host, size_t bytes);

  char* device_ = nullptr;
  std::vector<char> changing_, staying_;
  std::vector<size_t> tables_;  // where cache rows begin in `changing_`
  size_t draws_ = 0;            // where draws do; 0: there are none
  int32_t* tokens_ = nullptr;
  int64_t rows_ = 0, most_position_ = INT64_MAX, position_bytes_ = 0;
  cudaGraphExec_t exec_ = nullptr;
};

namespace maskserve {
namespace cuda {

// The largest position that a step recorded at `last` is to reach.
int64_t RecordedPosition(int64_t last);
void AddRecording(ms_backend* backend);

}  // namespace cuda
}  // namespace maskserve
