// The state of one calling thread: a stream on which all its ops happen in order, working memory on the device, pinned
// memory between host and device, the matrix libraries' handles, the last error.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "../include/backend.h"
#include "recording.h"
#include "runtime.h"
#include "staging.h"

namespace maskserve {
namespace cuda {

class DenseGemm;
class SparseGemm;

// What ends an op: its status, and the line about it. Never leaves this library.
struct Failure {
  ms_status status;
  std::string line;
};

// Throws what a call of the runtime ended with.
void Require(cudaError_t error, const char* what);

// Working memory: what an op takes is its own until the next op of the context takes some. All of them use the same
// stream, so that nothing waits.
class Arena {
 public:
  ~Arena();
  // 256-byte aligned. Throws Failure.
  void* Take(size_t bytes);
  // What is taken of each block; going back to it gives what was taken since to whoever takes next.
  std::vector<size_t> Taken() const;
  void GoBack(const std::vector<size_t>& taken);
  // Everything may be taken again. Blocks that an op needed beside the first become one.
  void Reset(cudaStream_t stream);
  // Frozen: it gives what it has, stays where it is, and throws where that is not enough.
  void Freeze(bool frozen) { frozen_ = frozen; }
  // How often blocks were given back: what was taken before may then be elsewhere.
  uint64_t moves() const { return moves_; }
  // What is taken while it lives may be taken again when it ends: one piece of an op's work after the other.
  class Scope {
   public:
    explicit Scope(Arena& arena);
    ~Scope();
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Arena& arena_;
    std::vector<size_t> taken_;
  };

 private:
  struct Block {
    char* memory;
    size_t bytes, taken;
  };
  std::vector<Block> blocks_;
  bool frozen_ = false;
  uint64_t moves_ = 0;
};

// fp32 activations that were rounded to bf16: kept for the next product of the same ones (q, k, v; gate, up).
struct RoundedActivations {
  const float* x = nullptr;
  int64_t rows = 0, padded = 0, cols = 0;
  uint16_t* rounded = nullptr;
  size_t bytes = 0;
  uint64_t releases = 0;  // memory.h's count when it was looked at last
  uint64_t moves = 0;     // how often `rounded` was given back
};

}  // namespace cuda
}  // namespace maskserve

struct ms_context {
  cudaStream_t stream = nullptr;
  cudaStream_t uploads = nullptr;  // chunks, while those before are decoded; NULL: none have been
  int32_t exact = 0, threads = 1;
  maskserve::cuda::Arena arena;
  maskserve::cuda::Staging staging;
  maskserve::cuda::RoundedActivations rounded;
  std::unique_ptr<maskserve::cuda::DenseGemm> dense;
  std::unique_ptr<maskserve::cuda::SparseGemm> sparse;
  std::string error;
  // What is recorded now; NULL: ops are done.
  std::unique_ptr<ms_recording> recording;

  ms_context();
  ~ms_context();
  // What is asked for from now on goes behind what other contexts ask for.
  void GiveWay();
};
