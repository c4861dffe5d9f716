// The CUDA runtime of kernels/cuda/runtime.h over host memory, for tests: streams do everything at once, or keep it in
// a graph (a wait, of any thread for the device, then ends the graph, as on a GPU), a GPU has as much memory as
// MASKSERVE_HOST_GPU_BYTES says (1 GiB), and memory that is given back or written past is the sanitizer's to find.

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <set>

#include "../../../kernels/cuda/device.h"
#include "../../../kernels/cuda/host/execution.h"
#include "../../../kernels/cuda/runtime.h"

using maskserve::cuda::host::Capture;
using maskserve::cuda::host::Captured;

struct CUgraph_st {
  Captured nodes;
};
struct CUgraphExec_st {
  Captured nodes;
};
struct CUstream_st {
  CUgraph_st* capture = nullptr;
  bool broken = false;
};
struct CUevent_st {
  std::chrono::steady_clock::time_point at;
};

namespace {

constexpr size_t kAlignment = 256;

size_t Total() {
  const char* bytes = std::getenv("MASKSERVE_HOST_GPU_BYTES");
  return bytes != nullptr ? std::strtoull(bytes, nullptr, 10) : size_t{1} << 30;
}

std::mutex mutex;
std::map<void*, size_t>& Live() {
  static auto& live = *new std::map<void*, size_t>;
  return live;
}
size_t used = 0;

// Streams that record, of all threads.
std::set<cudaStream_t>& Recording() {
  static auto& recording = *new std::set<cudaStream_t>;
  return recording;
}

template <typename Body>
cudaError_t Do(cudaStream_t stream, Body&& body) {
  if (stream != nullptr && stream->capture != nullptr) {
    stream->capture->nodes.push_back(body);
  } else {
    body();
  }
  return cudaSuccess;
}

}  // namespace

cudaError_t cudaMalloc(void** memory, size_t bytes) {
  std::lock_guard<std::mutex> lock(mutex);
  const size_t size = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  if (size > Total() - used) return cudaErrorMemoryAllocation;
  *memory = std::aligned_alloc(kAlignment, size);
  if (*memory == nullptr) return cudaErrorMemoryAllocation;
  std::memset(*memory, 0xa5, size);  // as a GPU's: anything
  Live()[*memory] = size;
  used += size;
  return cudaSuccess;
}

cudaError_t cudaFree(void* memory) {
  if (memory == nullptr) return cudaSuccess;
  std::lock_guard<std::mutex> lock(mutex);
  const auto live = Live().find(memory);
  if (live == Live().end()) std::abort();
  used -= live->second;
  Live().erase(live);
  std::free(memory);
  return cudaSuccess;
}

cudaError_t cudaMallocHost(void** memory, size_t bytes) {
  *memory = std::malloc(bytes);
  return *memory != nullptr ? cudaSuccess : cudaErrorMemoryAllocation;
}

cudaError_t cudaFreeHost(void* memory) {
  std::free(memory);
  return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  std::lock_guard<std::mutex> lock(mutex);
  *total = Total();
  *free = Total() - used;
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
  return Do(stream, [=] {
    if (bytes > 0) std::memmove(to, from, bytes);
  });
}

cudaError_t cudaMemsetAsync(void* memory, int value, size_t bytes, cudaStream_t stream) {
  return Do(stream, [=] {
    if (bytes > 0) std::memset(memory, value, bytes);
  });
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = new CUstream_st;
  return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  delete stream;
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  if (stream == nullptr || stream->capture == nullptr) return cudaSuccess;
  stream->broken = true;
  return cudaErrorStreamCaptureUnsupported;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  stream->capture = new CUgraph_st;
  stream->broken = false;
  Capture() = &stream->capture->nodes;
  std::lock_guard<std::mutex> lock(mutex);
  Recording().insert(stream);
  return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  std::lock_guard<std::mutex> lock(mutex);
  Recording().erase(stream);
  Capture() = nullptr;
  *graph = stream->capture;
  stream->capture = nullptr;
  if (!stream->broken) return cudaSuccess;
  delete *graph;
  *graph = nullptr;
  return cudaErrorStreamCaptureUnsupported;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long) {
  *exec = new CUgraphExec_st{graph->nodes};
  return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t) {
  for (const auto& node : exec->nodes) node();
  return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  delete exec;
  return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize() {
  std::lock_guard<std::mutex> lock(mutex);
  for (const cudaStream_t stream : Recording()) stream->broken = true;
  return Recording().empty() ? cudaSuccess : cudaErrorStreamCaptureUnsupported;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new CUevent_st{};
  return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t) {
  event->at = std::chrono::steady_clock::now();
  return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t) {
  return cudaSuccess;
}

cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t from, cudaEvent_t to) {
  *ms = std::chrono::duration<float, std::milli>(to->at - from->at).count();
  return cudaSuccess;
}

cudaError_t cudaGetLastError() {
  return cudaSuccess;
}

const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorMemoryAllocation ? "out of memory" : "no error";
}

namespace maskserve {
namespace cuda {

const DeviceSearch& FindDevice() {
  static const DeviceSearch& search = *[] {
    auto* found = new DeviceSearch{};
    found->usable = found->has_device = true;
    found->driver_version = "0.0";
    found->device = {"host stand-in", "sm_host", Total(), Total(), 1, 0, 0};
    return found;
  }();
  return search;
}

const char* RuntimeVersion() {
  return "0.0";
}

const char* Architectures() {
  return "sm_host";
}

}  // namespace cuda
}  // namespace maskserve
