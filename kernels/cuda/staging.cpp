#include "staging.h"

#include <algorithm>
#include <cstring>
#include <exception>
#include <mutex>

#include "../cpu/threads.h"
#include "context.h"

namespace maskserve {
namespace cuda {

namespace {

// On its way for some 40 µs: long beside a call of the driver, short beside a layer's chunks.
#ifndef MASKSERVE_CUDA_ON_HOST
constexpr size_t kPiece = size_t{1} << 20;
#else
constexpr size_t kPiece = 4000;  // pieces take turns in tests
#endif
// They copy at some 5 to 10 GB/s each, and PCIe takes 25 to 50.
constexpr int kMostThreads = 8;

int MostThreads(int wanted) {
  return std::min(wanted > 0 ? wanted : UsableCores(), kMostThreads);
}

// What the tasks of one copy share; the first failure of any is thrown when all have ended.
struct Sending {
  std::function<void(int64_t piece, int worker)> body;
  std::mutex mutex;
  std::exception_ptr failure;

  void Do(int64_t piece, int worker) {
    try {
      body(piece, worker);
    } catch (...) {
      const std::lock_guard<std::mutex> lock(mutex);
      if (failure == nullptr) failure = std::current_exception();
    }
  }
};

}  // namespace

Staging::Staging() : threads_(MostThreads(0)) {}

Staging::~Staging() {
  Free();
}

void Staging::Limit(int threads) {
  const int most = MostThreads(threads);
  if (most == threads_) return;
  threads_ = most;
  pool_.reset();
  Free();
}

void Staging::Free() {
  for (Pieces& pieces : pieces_) {
    for (Piece& piece : pieces.of) {
      if (piece.passed != nullptr) {
        cudaEventSynchronize(piece.passed);
        cudaEventDestroy(piece.passed);
      }
      if (piece.memory != nullptr) cudaFreeHost(piece.memory);
    }
  }
  pieces_.clear();
}

void Staging::Prepare(int workers) {
  if (pieces_.size() < static_cast<size_t>(workers)) pieces_.resize(static_cast<size_t>(workers));
  for (int w = 0; w < workers; ++w) {
    for (Piece& piece : pieces_[static_cast<size_t>(w)].of) {
      void* memory = piece.memory;
      if (memory == nullptr) Require(cudaMallocHost(&memory, kPiece), "pinned memory");
      piece.memory = static_cast<char*>(memory);
      if (piece.passed == nullptr) Require(cudaEventCreateWithFlags(&piece.passed, cudaEventDisableTiming), "an event");
    }
  }
}

Staging::Piece& Staging::Next(int worker) {
  Pieces& pieces = pieces_[static_cast<size_t>(worker)];
  pieces.turn ^= 1;
  Piece& piece = pieces.of[static_cast<size_t>(pieces.turn)];
  Require(cudaEventSynchronize(piece.passed), "waiting for a copy");
  return piece;
}

void Staging::Send(void* out, size_t bytes, cudaStream_t stream, const Fill& fill) {
  const int64_t count = static_cast<int64_t>((bytes + kPiece - 1) / kPiece);
  if (count > 1 && threads_ > 1 && pool_ == nullptr) pool_ = std::make_unique<Pool>(threads_);
  const bool shared = count > 1 && pool_ != nullptr;
  Prepare(shared ? pool_->threads() : 1);
  Sending sending;
  sending.body = [&](int64_t i, int worker) {
    const size_t at = static_cast<size_t>(i) * kPiece, part = std::min(kPiece, bytes - at);
    Piece& piece = Next(worker);
    fill(piece.memory, at, part);
    Require(cudaMemcpyAsync(static_cast<char*>(out) + at, piece.memory, part, cudaMemcpyHostToDevice, stream),
            "a copy to the GPU");
    Require(cudaEventRecord(piece.passed, stream), "an event");
  };
  if (shared) {
    pool_->Run(
        count, [](void* arg, int64_t i, int worker) { static_cast<Sending*>(arg)->Do(i, worker); }, &sending);
  } else {
    for (int64_t i = 0; i < count; ++i) sending.Do(i, 0);
  }
  if (sending.failure != nullptr) std::rethrow_exception(sending.failure);
}

void Staging::Upload(void* out, const void* host_in, size_t bytes, cudaStream_t stream) {
  const auto* from = static_cast<const char*>(host_in);
  Send(out, bytes, stream, [from](char* to, size_t at, size_t part) { std::memcpy(to, from + at, part); });
  Require(cudaStreamSynchronize(stream), "a copy to the GPU");
}

void Staging::Download(void* host_out, const void* in, size_t bytes, cudaStream_t stream) {
  Prepare(1);
  const auto begin = [&](size_t at) -> Piece* {
    if (at >= bytes) return nullptr;
    Piece& piece = Next(0);
    Require(cudaMemcpyAsync(piece.memory, static_cast<const char*>(in) + at, std::min(kPiece, bytes - at),
                            cudaMemcpyDeviceToHost, stream),
            "a copy from the GPU");
    Require(cudaEventRecord(piece.passed, stream), "an event");
    return &piece;
  };
  Piece* coming = begin(0);
  for (size_t done = 0; done < bytes; done += kPiece) {
    Piece* const arrived = coming;
    coming = begin(done + kPiece);
    Require(cudaEventSynchronize(arrived->passed), "a copy from the GPU");
    std::memcpy(static_cast<char*>(host_out) + done, arrived->memory, std::min(kPiece, bytes - done));
  }
}

}  // namespace cuda
}  // namespace maskserve
