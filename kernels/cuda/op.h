// One call of the op table: what it takes of the context, and how it ends.
#pragma once

#include <exception>

#include "context.h"

namespace maskserve {
namespace cuda {

class Op {
 public:
  // Whether the rounded activations of the op before stay: only products leave them as they are.
  enum class Rounded { kDropped, kKept };

  explicit Op(ms_context* ctx, Rounded rounded) : ctx_(ctx) {
    ctx->arena.Reset(ctx->stream);
    if (rounded == Rounded::kDropped) ctx->rounded.x = nullptr;
  }

  ms_context* context() const { return ctx_; }
  cudaStream_t stream() const { return ctx_->stream; }
  int32_t exact() const { return ctx_->exact; }

  // Working memory of this op.
  template <typename T>
  T* Take(int64_t count) {
    return static_cast<T*>(ctx_->arena.Take(static_cast<size_t>(count) * sizeof(T)));
  }
  void* TakeBytes(size_t bytes) { return ctx_->arena.Take(bytes); }

  // A copy on the device of what the host has.
  template <typename T>
  T* Upload(const T* host, int64_t count) {
    if (ctx_->recording != nullptr) {
      return static_cast<T*>(ctx_->recording->Keep(host, static_cast<size_t>(count) * sizeof(T)));
    }
    T* device = Take<T>(count);
    Send(device, host, static_cast<size_t>(count) * sizeof(T));
    return device;
  }
  // The same of what a recorded step is given anew each time. most_position: of the rows, or what it is recorded for.
  const int32_t* UploadIds(const int32_t* host, int64_t count);
  const ms_cache_row* UploadRows(const ms_cache_row* host, int64_t count, int64_t position_bytes,
                                 int64_t* most_position);
  const ms_draw* UploadDraws(const ms_draw* host, int64_t count);
  // Where drawn tokens go: replays fetch them from there.
  int32_t* TakeTokens(int64_t count);
  // Small copies: pageable memory has been read when the call returns.
  void Send(void* device, const void* host, size_t bytes);
  // Waits for everything before.
  void Fetch(void* host, const void* device, size_t bytes);
  void Zero(void* device, size_t bytes);

  // launch.h's `bad`: nothing is bad yet.
  uint64_t* Bad();
  // Throws MS_BAD_DATA with `line` (a printf format for the row) if something was.
  void RequireGood(const uint64_t* bad, const char* line);

 private:
  ms_context* ctx_;
};

// An op has ended with `status`, for the reason in `line`: what is left of it is no later op's.
inline ms_status Failed(ms_context* ctx, ms_status status, const std::string& line) {
  cudaGetLastError();
  ctx->error = line;
  if (ctx->recording != nullptr) ctx->recording->failed = true;
  return status;
}

// Runs `body(op)` and makes a status of how it ended; nothing is thrown across the C ABI.
template <typename Body>
ms_status Run(ms_context* ctx, Op::Rounded rounded, Body&& body) noexcept {
  try {
    Op op(ctx, rounded);
    body(op);
    Require(cudaGetLastError(), "a kernel");
    return MS_OK;
  } catch (const Failure& failure) {
    return Failed(ctx, failure.status, failure.line);
  } catch (const std::exception& error) {
    return Failed(ctx, MS_OUT_OF_MEMORY, error.what());
  }
}

template <typename Body>
ms_status Run(ms_context* ctx, Body&& body) noexcept {
  return Run(ctx, Op::Rounded::kDropped, body);
}

}  // namespace cuda
}  // namespace maskserve
