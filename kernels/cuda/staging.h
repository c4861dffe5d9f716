// Pinned memory between the host's pages and the GPU's memory.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <vector>

#include "runtime.h"

namespace maskserve {

class Pool;

namespace cuda {

// Pieces that are filled while others are on their way: by several threads where there is much to send, since one
// copies slower than the GPU takes it. A thread has two pieces of its own, and nothing waits but it for one of them.
class Staging {
 public:
  // Bytes [at, at + bytes) of what is sent → `to`; called by any thread, for whole pieces or what is left.
  using Fill = std::function<void(char* to, size_t at, size_t bytes)>;

  Staging();
  ~Staging();
  // From the next copy on, for as many threads at most.
  void Limit(int threads);
  // All `bytes` of `fill` have been asked for when it returns, and will be at `out` in the order of the stream.
  void Send(void* out, size_t bytes, cudaStream_t stream, const Fill& fill);
  // Both wait.
  void Upload(void* out, const void* host_in, size_t bytes, cudaStream_t stream);
  void Download(void* host_out, const void* in, size_t bytes, cudaStream_t stream);

 private:
  struct Piece {
    char* memory = nullptr;
    cudaEvent_t passed = nullptr;
  };
  struct Pieces {
    std::array<Piece, 2> of;
    int turn = 0;
  };

  Piece& Next(int worker);
  void Prepare(int workers);
  void Free();

  int threads_;
  std::vector<Pieces> pieces_;  // of each thread
  std::unique_ptr<Pool> pool_;
};

}  // namespace cuda
}  // namespace maskserve
