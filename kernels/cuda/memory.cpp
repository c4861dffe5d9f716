#include "memory.h"

#include <atomic>
#include <iterator>
#include <map>
#include <mutex>

#include "op.h"
#include "recording.h"

namespace maskserve {
namespace cuda {

namespace {

// Below, a copy is one call of the driver; above, it goes through pinned memory.
constexpr size_t kStagedFrom = size_t{64} << 10;

std::atomic<uint64_t> releases{0};

std::mutex patches_mutex;
std::map<const char*, KnownPatch>& Patches() {
  static auto& patches = *new std::map<const char*, KnownPatch>;
  return patches;
}

void ForgetPatches(const void* memory, size_t bytes) {
  const auto* begin = static_cast<const char*>(memory);
  std::lock_guard<std::mutex> lock(patches_mutex);
  auto& patches = Patches();
  // One that begins before may reach into it.
  auto at = patches.lower_bound(begin);
  if (at != patches.begin()) {
    const auto before = std::prev(at);
    if (before->first + before->second.bytes > begin) at = before;
  }
  while (at != patches.end() && at->first < begin + bytes) at = patches.erase(at);
}

// The stream on which new memory is zeroed: nothing else waits for it.
cudaStream_t ZeroingStream() {
  static cudaStream_t stream = [] {
    cudaStream_t made = nullptr;
    return cudaStreamCreateWithFlags(&made, cudaStreamNonBlocking) == cudaSuccess ? made : nullptr;
  }();
  return stream;
}

void* Alloc(size_t bytes) {
  void* memory = nullptr;
  const size_t size = bytes > 0 ? bytes : 1;
  if (cudaMalloc(&memory, size) != cudaSuccess) {
    cudaGetLastError();
    return nullptr;
  }
  const cudaStream_t stream = ZeroingStream();
  if (cudaMemsetAsync(memory, 0, size, stream) == cudaSuccess && cudaStreamSynchronize(stream) == cudaSuccess) {
    return memory;
  }
  cudaGetLastError();
  cudaFree(memory);
  return nullptr;
}

// Ops of any thread may still be at work with it.
void Release(void* memory, size_t bytes) {
  if (memory == nullptr) return;
  ForgetPatches(memory, bytes);
  releases.fetch_add(1);
  std::lock_guard<std::recursive_mutex> lock(RecordingMutex());
  // A failure of either is no later op's: what still works will tell it again.
  cudaDeviceSynchronize();
  cudaFree(memory);
  cudaGetLastError();
}

// An event that was recorded with a step can't be waited for any more, and the staging's would be.
bool IsStaged(const ms_context* ctx, size_t bytes) {
  return bytes >= kStagedFrom && ctx->recording == nullptr;
}

ms_status Upload(ms_context* ctx, void* out, const void* host_in, size_t bytes) {
  ForgetPatches(out, bytes);
  return Run(ctx, [&](Op& op) {
    if (IsStaged(ctx, bytes)) {
      ctx->staging.Upload(out, host_in, bytes, op.stream());
    } else {
      op.Send(out, host_in, bytes);
    }
  });
}

ms_status Download(ms_context* ctx, void* host_out, const void* in, size_t bytes) {
  return Run(ctx, Op::Rounded::kKept, [&](Op& op) {
    if (IsStaged(ctx, bytes)) {
      ctx->staging.Download(host_out, in, bytes, op.stream());
    } else {
      op.Fetch(host_out, in, bytes);
    }
  });
}

ms_status Copy(ms_context* ctx, void* out, const void* in, size_t bytes) {
  ForgetPatches(out, bytes);
  return Run(ctx, [&](Op& op) {
    Require(cudaMemcpyAsync(out, in, bytes, cudaMemcpyDeviceToDevice, op.stream()), "a copy on the GPU");
  });
}

ms_status Zero(ms_context* ctx, void* memory, size_t bytes) {
  ForgetPatches(memory, bytes);
  return Run(ctx, [&](Op& op) { op.Zero(memory, bytes); });
}

ms_status Memory(ms_context* ctx, int64_t* host_free, int64_t* host_total) {
  return Run(ctx, Op::Rounded::kKept, [&](Op&) {
    size_t free = 0, total = 0;
    Require(cudaMemGetInfo(&free, &total), "asking for its memory");
    *host_free = static_cast<int64_t>(free);
    *host_total = static_cast<int64_t>(total);
  });
}

}  // namespace

uint64_t ReleaseCount() {
  return releases.load();
}

void RememberPatch(const void* patch, KnownPatch known) {
  std::lock_guard<std::mutex> lock(patches_mutex);
  Patches()[static_cast<const char*>(patch)] = known;
}

bool RecallPatch(const void* patch, KnownPatch* known) {
  std::lock_guard<std::mutex> lock(patches_mutex);
  const auto at = Patches().find(static_cast<const char*>(patch));
  if (at == Patches().end()) return false;
  *known = at->second;
  return true;
}

void AddMemory(ms_backend* backend) {
  backend->memory = Memory;
  backend->alloc = Alloc;
  backend->release = Release;
  backend->upload = Upload;
  backend->download = Download;
  backend->copy = Copy;
  backend->zero = Zero;
}

}  // namespace cuda
}  // namespace maskserve
