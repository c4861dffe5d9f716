#include "chunk_run.h"

#include <algorithm>
#include <cstring>

#include "../cpu/read_file.h"
#include "launch.h"

namespace maskserve {
namespace cuda {

namespace {

// A chunk of 2^16 symbols takes a warp 0.4 ms, whatever else there is; 1,500 of them at once, 32 MiB, keep the
// multiprocessors of the largest GPUs as busy as they can be, and are as long on their way over PCIe. The first batch
// is smaller: nothing is decoded while it comes.
#ifndef MASKSERVE_CUDA_ON_HOST
constexpr int64_t kBatchBytes = int64_t{32} << 20, kFirstBatchBytes = int64_t{8} << 20;
#else
// As little as its tests have, for batches to take turns.
constexpr int64_t kBatchBytes = 6000, kFirstBatchBytes = 2000;
#endif
// A word beyond the end may be read along with the last one.
constexpr int64_t kSlack = 4;

int64_t Padded(int64_t bytes) {
  return (bytes + 3) / 4 * 4;
}

}  // namespace

Event::Event(unsigned flags) {
  Require(cudaEventCreateWithFlags(&event_, flags), "an event");
}

Event::~Event() {
  cudaEventDestroy(event_);
}

void Event::Record(cudaStream_t stream) {
  Require(cudaEventRecord(event_, stream), "an event");
}

void Event::HoldUp(cudaStream_t stream) const {
  Require(cudaStreamWaitEvent(stream, event_, 0), "waiting for an event");
}

double Event::MillisecondsTo(const Event& later) const {
  float ms = 0;
  Require(cudaEventElapsedTime(&ms, event_, later.event_), "a time");
  return static_cast<double>(ms);
}

ChunkRun::ChunkRun(Op& op, ms_mask_chunk* chunks, int64_t count, const ms_chunk_file* file)
    : op_(op), chunks_(chunks), count_(count), file_(file) {
  cudaStream_t& uploads = op.context()->uploads;
  if (uploads == nullptr) Require(cudaStreamCreateWithFlags(&uploads, cudaStreamNonBlocking), "a stream");
  Plan();
  for (size_t turn = 0; turn < std::min<size_t>(batches_.size(), 2); ++turn) {
    int64_t most = 0;
    for (size_t b = turn; b < batches_.size(); b += 2) most = std::max(most, batches_[b].bytes);
    room_[turn] = op.Take<char>(most + kSlack);
  }
  std::vector<ms_mask_chunk> moved(chunks, chunks + count);
  for (size_t b = 0; b < batches_.size(); ++b) {
    for (int64_t c = batches_[b].begin; c < batches_[b].end; ++c) {
      moved[static_cast<size_t>(c)].bytes =
          reinterpret_cast<const uint8_t*>(room_[b % 2] + at_[static_cast<size_t>(c)]);
    }
  }
  device_ = op.Upload(moved.data(), count);
  tables_ = op.Upload(static_cast<const char*>(checksum_tables()), kChecksumTableBytes);
  // Ops before may still be at work with the memory that chunks come to.
  uploaded_[0].Record(op.stream());
  uploaded_[0].HoldUp(uploads);
}

ChunkRun::~ChunkRun() {
  cudaStreamSynchronize(op_.context()->uploads);
}

void ChunkRun::Plan() {
  int64_t left = 0, longest = 0, most = kFirstBatchBytes;
  for (int64_t c = 0; c < count_; ++c) {
    left += Padded(chunks_[c].length);
    longest = std::max(longest, Padded(chunks_[c].length));
  }
  at_.reserve(static_cast<size_t>(count_));
  for (int64_t c = 0; c < count_; ++c) {
    const int64_t bytes = Padded(chunks_[c].length);
    if (batches_.empty() || batches_.back().bytes + bytes > most) {
      // All but the first are of one size: a few chunks at the end would take as long as many.
      if (batches_.size() == 1) most = left / ((left + kBatchBytes - 1) / kBatchBytes) + longest;
      batches_.push_back({c, c, 0});
    }
    Batch& batch = batches_.back();
    at_.push_back(batch.bytes);
    batch.bytes += bytes;
    batch.end = c + 1;
    left -= bytes;
  }
}

void ChunkRun::Upload(size_t b) {
  const Batch& batch = batches_[b];
  const size_t turn = b % 2;
  const cudaStream_t uploads = op_.context()->uploads;
  if (b >= 2) decoded_[turn].HoldUp(uploads);
  op_.context()->staging.Send(room_[turn], static_cast<size_t>(batch.bytes), uploads,
                              [&](char* to, size_t at, size_t bytes) {
                                Fill(batch, to, static_cast<int64_t>(at), static_cast<int64_t>(bytes));
                              });
  uploaded_[turn].Record(uploads);
  uploaded_[turn].HoldUp(op_.stream());
  check_chunks(device_ + batch.begin, batch.end - batch.begin, tables_, op_.stream());
}

// What is between chunks nobody reads.
void ChunkRun::Fill(const Batch& batch, char* to, int64_t at, int64_t bytes) const {
  const auto first = at_.begin() + batch.begin, last = at_.begin() + batch.end;
  for (int64_t c = std::upper_bound(first, last, at) - at_.begin() - 1; c < batch.end; ++c) {
    const ms_mask_chunk& chunk = chunks_[c];
    const int64_t start = at_[static_cast<size_t>(c)];
    if (start >= at + bytes) break;
    const int64_t from = std::max(at, start), end = std::min(at + bytes, start + chunk.length);
    if (from >= end) continue;
    if (file_ != nullptr) {
      ReadFileBytes(file_->descriptor, file_->offsets[c] + from - start, to + (from - at), end - from);
    } else {
      std::memcpy(to + (from - at), chunk.bytes + (from - start), static_cast<size_t>(end - from));
    }
  }
}

bool ChunkRun::FetchStatuses() {
  std::vector<ms_mask_chunk> decoded(static_cast<size_t>(count_));
  op_.Fetch(decoded.data(), device_, decoded.size() * sizeof(ms_mask_chunk));
  bool whole = true;
  for (int64_t c = 0; c < count_; ++c) {
    chunks_[c].status = decoded[static_cast<size_t>(c)].status;
    whole = whole && chunks_[c].status == MS_CHUNK_OK;
  }
  return whole;
}

}  // namespace cuda
}  // namespace maskserve
