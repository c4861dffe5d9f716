// Chunks of a container on their way through the device: batches of them are uploaded while those before are decoded.
#pragma once

#include <array>
#include <vector>

#include "op.h"

namespace maskserve {
namespace cuda {

class Event {
 public:
  // cudaEventDisableTiming, or 0.
  explicit Event(unsigned flags);
  ~Event();
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;

  void Record(cudaStream_t stream);
  // What is asked of the stream from now on happens after it.
  void HoldUp(cudaStream_t stream) const;
  // Of an event after this one; both have passed.
  double MillisecondsTo(const Event& later) const;

 private:
  cudaEvent_t event_ = nullptr;
};

class ChunkRun {
 public:
  // `file`: as codec.h's decode_compressed. All of them outlive it. Throws Failure, as everything here.
  ChunkRun(Op& op, ms_mask_chunk* chunks, int64_t count, const ms_chunk_file* file);
  // Waits for what is on its way.
  ~ChunkRun();
  ChunkRun(const ChunkRun&) = delete;
  ChunkRun& operator=(const ChunkRun&) = delete;

  // For each batch: decode(chunks, begin, end) launches on the op's stream what reads chunks begin … end − 1 of
  // `chunks`, all of them on the device, whose checksums have been compared; after(end) what comes then.
  template <typename Decode, typename After>
  void ForEach(const Decode& decode, const After& after) {
    for (size_t b = 0; b < batches_.size(); ++b) {
      Upload(b);
      decode(device_, batches_[b].begin, batches_[b].end);
      decoded_[b % 2].Record(op_.stream());
      after(batches_[b].end);
    }
  }
  // What became of the chunks; waits. Whether all are whole.
  bool FetchStatuses();

 private:
  struct Batch {
    int64_t begin, end, bytes;
  };

  void Plan();
  void Upload(size_t b);
  void Fill(const Batch& batch, char* to, int64_t at, int64_t bytes) const;

  Op& op_;
  ms_mask_chunk* chunks_;
  const int64_t count_;
  const ms_chunk_file* file_;
  std::vector<Batch> batches_;
  std::vector<int64_t> at_;      // of each chunk, in its batch
  std::array<char*, 2> room_{};  // batches take turns
  std::array<Event, 2> uploaded_{{Event(cudaEventDisableTiming), Event(cudaEventDisableTiming)}};
  std::array<Event, 2> decoded_{{Event(cudaEventDisableTiming), Event(cudaEventDisableTiming)}};
  ms_mask_chunk* device_ = nullptr;
  const void* tables_ = nullptr;
};

}  // namespace cuda
}  // namespace maskserve
