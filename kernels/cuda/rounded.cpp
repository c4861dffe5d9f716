#include "rounded.h"

#include "launch.h"
#include "memory.h"

namespace maskserve {
namespace cuda {

const uint16_t* Round(Op& op, const float* x, int64_t tokens, int64_t padded, int64_t k) {
  RoundedActivations& kept = op.context()->rounded;
  if (kept.x == x && kept.rows == tokens && kept.padded >= padded && kept.cols == k) return kept.rounded;
  const size_t bytes = static_cast<size_t>(padded * k) * sizeof(uint16_t);
  kept.x = nullptr;
  if (bytes > kept.bytes) {
    Require(cudaStreamSynchronize(op.stream()), "the op");
    cudaFree(kept.rounded);
    kept.rounded = nullptr;
    kept.bytes = 0;
    ++kept.moves;
    void* memory = nullptr;
    Require(cudaMalloc(&memory, bytes), "rounded activations");
    kept.rounded = static_cast<uint16_t*>(memory);
    kept.bytes = bytes;
  }
  to_bf16(kept.rounded, x, MS_F32, tokens * k, op.stream());
  if (padded > tokens) {
    op.Zero(kept.rounded + tokens * k, static_cast<size_t>((padded - tokens) * k) * sizeof(uint16_t));
  }
  kept.x = x;
  kept.rows = tokens;
  kept.padded = padded;
  kept.cols = k;
  return kept.rounded;
}

const uint16_t* RoundOnce(Op& op, const float* x, int64_t count) {
  auto* rounded = op.Take<uint16_t>(count);
  to_bf16(rounded, x, MS_F32, count, op.stream());
  return rounded;
}

void DropIfWritten(Op& op, const float* y, int64_t count) {
  RoundedActivations& kept = op.context()->rounded;
  if (kept.x != nullptr && y < kept.x + kept.rows * kept.cols && kept.x < y + count) kept.x = nullptr;
  const uint64_t releases = ReleaseCount();
  if (kept.releases != releases) kept.x = nullptr;
  kept.releases = releases;
}

}  // namespace cuda
}  // namespace maskserve
