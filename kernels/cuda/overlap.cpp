#include "overlap.h"

#include <cstdlib>
#include <cstring>
#include <vector>

#include "device.h"
#include "launch.h"
#include "op.h"

namespace maskserve {
namespace cuda {

namespace {

constexpr int64_t kElements = 1 << 16;
constexpr int kLinks = 64, kReplays = 2;

// Each link adds 1 to what the one in front has left.
void Chain(float* x, const float* ones, cudaStream_t stream) {
  for (int i = 0; i < kLinks; ++i) add(x, ones, kElements, stream);
}

// The chain as it is, and recorded as decoding steps are.
std::vector<float> Counted(Op& op) {
  std::vector<float> counted(kElements), one(kElements, 1.0f);
  auto* x = op.Take<float>(kElements);
  const float* ones = op.Upload(one.data(), kElements);
  op.Zero(x, counted.size() * sizeof(float));
  Chain(x, ones, op.stream());
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  Require(cudaStreamBeginCapture(op.stream(), cudaStreamCaptureModeRelaxed), "recording");
  Chain(x, ones, op.stream());
  Require(cudaStreamEndCapture(op.stream(), &graph), "recording");
  const cudaError_t made = cudaGraphInstantiate(&exec, graph, 0);
  cudaGraphDestroy(graph);
  Require(made, "a recording");
  for (int i = 0; i < kReplays; ++i) Require(cudaGraphLaunch(exec, op.stream()), "a recording");
  op.Fetch(counted.data(), x, counted.size() * sizeof(float));
  cudaGraphExecDestroy(exec);
  return counted;
}

Overlap Prove() {
  const char* wanted = std::getenv("MASKSERVE_CUDA_OVERLAP");
  if (wanted != nullptr && std::strcmp(wanted, "0") == 0) return {false, "MASKSERVE_CUDA_OVERLAP=0"};
  if (!FindDevice().device.overlaps) return {false, "GPUs before sm_90 can't"};
  launches_overlap() = true;
  Overlap overlap{true, ""};
  try {
    ms_context context;
    const ms_status status = Run(&context, [&](Op& op) {
      for (const float count : Counted(op)) {
        if (count != (1 + kReplays) * kLinks) throw Failure{MS_BAD_DATA, "kernels did not wait for each other"};
      }
    });
    if (status != MS_OK) overlap = {false, "the self-test failed: " + context.error};
  } catch (const Failure& failure) {
    overlap = {false, "the self-test failed: " + failure.line};
  }
  launches_overlap() = overlap.used;
  return overlap;
}

}  // namespace

const Overlap& ProvenOverlap() {
  static const Overlap& overlap = *new Overlap(Prove());
  return overlap;
}

}  // namespace cuda
}  // namespace maskserve
