// The CUDA runtime of kernels/cuda/runtime.h without a GPU, for tests. As strict as a GPU may be:
// - A stream does nothing before somebody waits for it, or for the device: what another stream, or the host, uses
//   without having waited is not there yet. A copy from pageable memory has read it when the call returns, one from
//   pinned memory not.
// - Streams that record keep their work in a graph; a wait of any thread for the device then ends the graph.
// - The GPU's memory is not the host's (host_memory.h), and as much of it as MASKSERVE_HOST_GPU_BYTES says.
// One thread at a time is in here: the stand-in for a grid is one a process.

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <vector>

#include "../../../kernels/cuda/device.h"
#include "../../../kernels/cuda/host/execution.h"
#include "../../../kernels/cuda/runtime.h"
#include "host_memory.h"
#include "host_stream.h"

namespace {

using Works = std::vector<std::function<void()>>;

std::recursive_mutex one_at_a_time;
using Turn = std::lock_guard<std::recursive_mutex>;

struct Stream;
std::set<Stream*>& Streams() {
  static auto& streams = *new std::set<Stream*>;
  return streams;
}

}  // namespace

struct CUgraph_st {
  Works nodes;
};
struct CUgraphExec_st {
  Works nodes;
};
struct CUevent_st {
  Stream* stream = nullptr;  // where it was recorded last
  uint64_t recorded = 0;     // how often
  // What streams still have of it when it is gone.
  struct Passed {
    uint64_t count = 0;
    std::chrono::steady_clock::time_point at;
  };
  std::shared_ptr<Passed> passed = std::make_shared<Passed>();
};

namespace {

struct Stream final : CUstream_st {
  std::unique_ptr<CUgraph_st> capture;
  bool broken = false;
  std::deque<std::function<void()>> queue;

  void Put(std::function<void()> work) override {
    const Turn turn(one_at_a_time);
    if (capture != nullptr) {
      capture->nodes.push_back(std::move(work));
    } else {
      queue.push_back(std::move(work));
    }
  }
  template <typename Until>
  void Work(const Until& until) {
    if (queue.empty()) return;
    const host_gpu::Work work;
    while (!queue.empty() && !until()) {
      const std::function<void()> next = std::move(queue.front());
      queue.pop_front();
      next();
    }
  }
  void WorkAll() {
    Work([] { return false; });
  }
};

Stream& Of(cudaStream_t stream) {
  static auto& legacy = *new Stream;
  return stream != nullptr ? static_cast<Stream&>(*stream) : legacy;
}

std::map<void*, size_t>& PinnedBytes() {
  static auto& bytes = *new std::map<void*, size_t>;
  return bytes;
}
bool IsPinned(const void* memory) {
  auto of = PinnedBytes().upper_bound(const_cast<void*>(memory));
  if (of == PinnedBytes().begin()) return false;
  --of;
  return static_cast<const char*>(memory) < static_cast<char*>(of->first) + of->second;
}

const bool submits = [] {
  maskserve::cuda::host::Submitter() = [](cudaStream_t stream, std::function<void()> run) {
    Of(stream).Put(std::move(run));
  };
  return true;
}();

}  // namespace

cudaError_t cudaMalloc(void** memory, size_t bytes) {
  const Turn turn(one_at_a_time);
  *memory = host_gpu::Give(bytes);
  return *memory != nullptr ? cudaSuccess : cudaErrorMemoryAllocation;
}

// As the real one, waits for everything.
cudaError_t cudaFree(void* memory) {
  if (memory == nullptr) return cudaSuccess;
  const Turn turn(one_at_a_time);
  for (Stream* stream : Streams()) stream->WorkAll();
  host_gpu::Take(memory);
  return cudaSuccess;
}

cudaError_t cudaMallocHost(void** memory, size_t bytes) {
  const Turn turn(one_at_a_time);
  *memory = std::malloc(bytes);
  if (*memory == nullptr) return cudaErrorMemoryAllocation;
  PinnedBytes()[*memory] = bytes;
  return cudaSuccess;
}

cudaError_t cudaFreeHost(void* memory) {
  const Turn turn(one_at_a_time);
  for (Stream* stream : Streams()) stream->WorkAll();
  PinnedBytes().erase(memory);
  std::free(memory);
  return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  const Turn turn(one_at_a_time);
  *total = host_gpu::TotalBytes();
  *free = host_gpu::FreeBytes();
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  const Turn turn(one_at_a_time);
  if (bytes == 0) return cudaSuccess;
  const bool of_host = kind == cudaMemcpyHostToDevice, to_host = kind == cudaMemcpyDeviceToHost;
  if (!to_host) host_gpu::RequireGiven(to, bytes, "copies to");
  if (!of_host) host_gpu::RequireGiven(from, bytes, "copies from");
  if ((of_host && host_gpu::IsGpus(from)) || (to_host && host_gpu::IsGpus(to))) std::abort();
  if (of_host && !IsPinned(from)) {
    const auto* begin = static_cast<const char*>(from);
    const auto kept = std::make_shared<std::vector<char>>(begin, begin + bytes);
    Of(stream).Put([=] { std::memcpy(to, kept->data(), bytes); });
    return cudaSuccess;
  }
  Of(stream).Put([=] { std::memmove(to, from, bytes); });
  return to_host && !IsPinned(to) ? cudaStreamSynchronize(stream) : cudaSuccess;
}

cudaError_t cudaMemsetAsync(void* memory, int value, size_t bytes, cudaStream_t stream) {
  const Turn turn(one_at_a_time);
  if (bytes == 0) return cudaSuccess;
  host_gpu::RequireGiven(memory, bytes, "fills");
  Of(stream).Put([=] { std::memset(memory, value, bytes); });
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  const Turn turn(one_at_a_time);
  auto* made = new Stream;
  Streams().insert(made);
  *stream = made;
  return cudaSuccess;
}

// Told on standard error, where a test asks for it: what waits for what is not to be seen otherwise.
cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags, int priority) {
  if (std::getenv("HOST_RUNTIME_TELLS") != nullptr) std::fprintf(stderr, "host_runtime: priority %d\n", priority);
  return cudaStreamCreateWithFlags(stream, flags);
}

cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  *least = 0;
  *greatest = -5;
  return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  const Turn turn(one_at_a_time);
  Of(stream).WorkAll();
  Streams().erase(&Of(stream));
  delete &Of(stream);
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  const Turn turn(one_at_a_time);
  Stream& of = Of(stream);
  of.broken = of.capture != nullptr;
  if (of.broken) return cudaErrorStreamCaptureUnsupported;
  of.WorkAll();
  return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  const Turn turn(one_at_a_time);
  Of(stream).capture = std::make_unique<CUgraph_st>();
  Of(stream).broken = false;
  return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  const Turn turn(one_at_a_time);
  Stream& of = Of(stream);
  *graph = of.broken ? nullptr : of.capture.release();
  of.capture = nullptr;
  return of.broken ? cudaErrorStreamCaptureUnsupported : cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long) {
  *exec = new CUgraphExec_st{graph->nodes};
  return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  for (const auto& node : exec->nodes) Of(stream).Put(node);
  return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  delete exec;
  return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize() {
  const Turn turn(one_at_a_time);
  bool records = false;
  for (Stream* stream : Streams()) {
    stream->WorkAll();
    if (stream->capture == nullptr) continue;
    records = stream->broken = true;
  }
  return records ? cudaErrorStreamCaptureUnsupported : cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new CUevent_st{};
  return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  cudaEventSynchronize(event);
  delete event;
  return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  const Turn turn(one_at_a_time);
  event->stream = &Of(stream);
  const uint64_t recorded = ++event->recorded;
  Of(stream).Put([passed = event->passed, recorded] { *passed = {recorded, std::chrono::steady_clock::now()}; });
  return cudaSuccess;
}

namespace {

// Works until it has passed as often as it has been recorded when this is called, whatever is recorded later.
std::function<void()> WaitFor(cudaEvent_t event) {
  return [stream = event->stream, passed = event->passed, recorded = event->recorded] {
    const auto there = [&] { return passed->count >= recorded; };
    if (!there()) stream->Work(there);
  };
}

}  // namespace

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  const Turn turn(one_at_a_time);
  if (event != nullptr) WaitFor(event)();
  return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  const Turn turn(one_at_a_time);
  Of(stream).Put(WaitFor(event));
  return cudaSuccess;
}

cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t from, cudaEvent_t to) {
  *ms = std::chrono::duration<float, std::milli>(to->passed->at - from->passed->at).count();
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
    found->device = {"host stand-in", "sm_host", host_gpu::TotalBytes(), host_gpu::TotalBytes(), 1, 0, 0, 4096, true};
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
