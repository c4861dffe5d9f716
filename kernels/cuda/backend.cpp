// libmaskserve_cuda.so's two symbols: the op table of the CUDA backend, or why there is none; and the report.

#include <new>

#include "decode.h"
#include "device.h"
#include "memory.h"
#include "ops.h"
#include "overlap.h"
#include "report.h"
#include "sparse_gemm.h"

namespace maskserve {
namespace cuda {

namespace {

constexpr int32_t kMostThreads = 1024;

ms_context* ContextCreate() {
  try {
    return new ms_context;
  } catch (const Failure&) {
    return nullptr;
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}

// The GPU has its own: what the caller asked for is remembered, and bounds the threads that copy.
ms_status SetThreads(ms_context* ctx, int32_t threads) {
  if (threads < 0 || threads > kMostThreads) {
    ctx->error = "expected threads between 0 and 1024 but received " + std::to_string(threads);
    return MS_BAD_DATA;
  }
  ctx->threads = threads == 0 ? 1 : threads;
  ctx->staging.Limit(threads);
  return MS_OK;
}

ms_status Synchronize(ms_context* ctx) {
  return Run(ctx, Op::Rounded::kKept,
             [](Op& op) { Require(cudaStreamSynchronize(op.stream()), "what was asked for before"); });
}

ms_status GiveWay(ms_context* ctx) {
  return Run(ctx, [&](Op&) { ctx->GiveWay(); });
}

// Leaked on purpose: it lives as long as the library.
const ms_backend* MakeBackend() {
  const DeviceFacts& device = FindDevice().device;
  auto* backend = new ms_backend{};
  backend->abi_version = MS_ABI_VERSION;
  backend->bytes = sizeof(ms_backend);
  backend->name = "cuda";
  backend->isa = device.architecture.c_str();
  backend->available = device.architecture.c_str();
  backend->device = device.name.c_str();
  backend->host_memory = 0;
  AddMemory(backend);
  AddRecording(backend);
  backend->context_create = ContextCreate;
  backend->context_destroy = [](ms_context* ctx) { delete ctx; };
  backend->set_threads = SetThreads;
  backend->threads = [](ms_context* ctx) { return ctx->threads; };
  backend->set_exact = [](ms_context* ctx, int32_t exact) { ctx->exact = exact; };
  backend->give_way = GiveWay;
  backend->synchronize = Synchronize;
  backend->last_error = [](ms_context* ctx) { return ctx->error.c_str(); };
  backend->packed_bytes = PackedBytes;
  AddForwardOps(&backend->ops);
  AddProductOps(&backend->ops);
  AddMaskOps(&backend->ops);
  AddSamplingOps(&backend->ops);
  AddLinearOps(&backend->ops);
  AddTrainingOps(&backend->ops);
  backend->codec = DecodeOps();
  ProvenForm();
  ProvenOverlap();
  return backend;
}

}  // namespace

}  // namespace cuda
}  // namespace maskserve

extern "C" __attribute__((visibility("default"))) const ms_backend* ms_backend_open(uint32_t abi_version,
                                                                                    const char** reason) {
  using namespace maskserve::cuda;
  if (abi_version != MS_ABI_VERSION) {
    *reason = "the CUDA backend and the addon were built from different versions; run npm run build:cuda again";
    return nullptr;
  }
  const DeviceSearch& search = FindDevice();
  if (!search.usable) {
    *reason = search.reason.c_str();
    return nullptr;
  }
  static const ms_backend* const backend = MakeBackend();
  return backend;
}

extern "C" __attribute__((visibility("default"))) const char* ms_backend_report(void) {
  static const std::string& report = *new std::string(maskserve::cuda::Report());
  return report.c_str();
}
