// A library that stands where the CUDA backend does: MASKSERVE_FAKE picks what is wrong with it. Where nothing is, its
// memory is the host's under another name, and `add` its only op.

#include <cstdlib>
#include <cstring>

#include "../../../kernels/include/backend.h"

struct ms_context {
  char error[64];
};

namespace {

constexpr size_t kTotal = size_t{1} << 20;
size_t used = 0;

const char* Mode() {
  const char* mode = std::getenv("MASKSERVE_FAKE");
  return mode != nullptr ? mode : "";
}

bool Is(const char* mode) {
  return std::strcmp(Mode(), mode) == 0;
}

void* Alloc(size_t bytes) {
  if (bytes > kTotal - used) return nullptr;
  used += bytes;
  return std::calloc(1, bytes + 1);
}

void Release(void* memory, size_t bytes) {
  used -= bytes;
  std::free(memory);
}

ms_status Copy(ms_context*, void* out, const void* in, size_t bytes) {
  std::memcpy(out, in, bytes);
  return MS_OK;
}

ms_status Add(ms_context* ctx, float* x, const float* y, int64_t n) {
  if (Is("failing")) {
    std::strcpy(ctx->error, "the device fell off the bus");
    return MS_OUT_OF_MEMORY;
  }
  for (int64_t i = 0; i < n; ++i) x[i] += y[i];
  return MS_OK;
}

ms_backend MakeTable() {
  ms_backend b{};
  b.abi_version = Is("old") ? MS_ABI_VERSION - 1 : MS_ABI_VERSION;
  b.bytes = Is("short") ? sizeof(ms_backend) - 8 : sizeof(ms_backend);
  b.name = "cuda";
  b.isa = "sm_00";
  b.available = "sm_00";
  b.device = "Fake Device";
  b.host_memory = 0;
  b.memory = [](ms_context*, int64_t* free, int64_t* total) -> ms_status {
    *free = static_cast<int64_t>(kTotal - used);
    *total = static_cast<int64_t>(kTotal);
    return MS_OK;
  };
  b.alloc = Alloc;
  b.release = Release;
  b.upload = b.download = b.copy = Copy;
  b.zero = [](ms_context*, void* memory, size_t bytes) -> ms_status {
    std::memset(memory, 0, bytes);
    return MS_OK;
  };
  b.context_create = []() -> ms_context* { return Is("stateless") ? nullptr : new ms_context{}; };
  b.context_destroy = [](ms_context* ctx) { delete ctx; };
  b.set_threads = [](ms_context*, int32_t) -> ms_status { return MS_OK; };
  b.threads = [](ms_context*) -> int32_t { return 1; };
  b.set_exact = [](ms_context*, int32_t) {};
  b.synchronize = [](ms_context*) -> ms_status { return MS_OK; };
  b.last_error = [](ms_context* ctx) -> const char* { return ctx->error; };
  b.ops.add = Add;
  return b;
}

}  // namespace

extern "C" __attribute__((visibility("default"))) const ms_backend* ms_backend_open(uint32_t, const char** reason) {
  static const ms_backend table = MakeTable();
  if (Is("refused")) {
    *reason = "no GPU in this test";
    return nullptr;
  }
  return &table;
}

#ifndef WITHOUT_REPORT
extern "C" __attribute__((visibility("default"))) const char* ms_backend_report(void) {
  const char* report = std::getenv("MASKSERVE_FAKE_REPORT");
  return report != nullptr ? report : "{\"runtime\":\"0.0\"}";
}
#endif
