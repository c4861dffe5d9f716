#include "context.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

#include "cpu_backend.h"
#include "threads.h"

struct ms_context {
  std::unique_ptr<maskserve::Pool> pool;  // created by the first op that is large enough to share
  int threads = 0;
  int exact = 0;
  void* scratch = nullptr;
  size_t scratch_bytes = 0;
  char error[256] = "";
};

namespace maskserve {

namespace {

constexpr size_t kAlignment = 64;
constexpr size_t kPage = 4096;
constexpr size_t kHugePage = size_t{2} << 20;
// Smaller buffers come from the heap: a mapping costs a system call and at least a page.
constexpr size_t kMapFrom = size_t{256} << 10;
constexpr int kMaxThreads = 1024;

size_t RoundUp(size_t bytes, size_t to) {
  return (bytes + to - 1) / to * to;
}

// Mapped with 2 MiB alignment, so that the kernel can back it with huge pages.
void* MapBytes(size_t bytes) {
  const size_t align = bytes >= kHugePage ? kHugePage : kPage;
  const size_t size = RoundUp(bytes, kPage);
  if (size < bytes || size + align < size) return nullptr;
  void* raw = mmap(nullptr, size + align - kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (raw == MAP_FAILED) return nullptr;
  char* begin = static_cast<char*>(raw);
  char* aligned = reinterpret_cast<char*>(RoundUp(reinterpret_cast<uintptr_t>(raw), align));
  if (aligned > begin) munmap(begin, static_cast<size_t>(aligned - begin));
  const size_t tail = static_cast<size_t>(begin + size + align - kPage - (aligned + size));
  if (tail > 0) munmap(aligned + size, tail);
#ifdef MADV_HUGEPAGE
  if (align == kHugePage) madvise(aligned, size, MADV_HUGEPAGE);
#endif
  return aligned;
}

}  // namespace

void* AllocateBytes(size_t bytes) {
  if (bytes >= kMapFrom) return MapBytes(bytes);
  const size_t size = RoundUp(bytes > 0 ? bytes : 1, kAlignment);
  void* memory = std::aligned_alloc(kAlignment, size);
  if (memory != nullptr) std::memset(memory, 0, size);
  return memory;
}

void ReleaseBytes(void* memory, size_t bytes) {
  if (memory == nullptr) return;
  if (bytes >= kMapFrom) {
    munmap(memory, RoundUp(bytes, kPage));
  } else {
    std::free(memory);
  }
}

void RunTasks(ms_context* ctx, int64_t tasks, void (*fn)(void* arg, int64_t task, int worker), void* arg) {
  if (tasks > 1 && ctx->threads > 1 && ctx->pool == nullptr) {
    try {
      ctx->pool = std::make_unique<Pool>(ctx->threads);
    } catch (const std::bad_alloc&) {
      ctx->threads = 1;  // the op still runs, on the caller
    }
  }
  if (ctx->pool != nullptr) {
    ctx->pool->Run(tasks, fn, arg);
  } else {
    for (int64_t task = 0; task < tasks; ++task) fn(arg, task, 0);
  }
}

int Threads(ms_context* ctx) {
  return ctx->threads;
}

int Exact(ms_context* ctx) {
  return ctx->exact;
}

void* Scratch(ms_context* ctx, size_t bytes) {
  if (bytes > ctx->scratch_bytes) {
    ReleaseBytes(ctx->scratch, ctx->scratch_bytes);
    ctx->scratch_bytes = 0;
    ctx->scratch = AllocateBytes(bytes + bytes / 2);
    if (ctx->scratch != nullptr) ctx->scratch_bytes = bytes + bytes / 2;
  }
  return ctx->scratch;
}

ms_status Fail(ms_context* ctx, ms_status status, const char* format, ...) {
  va_list args;
  va_start(args, format);
  std::vsnprintf(ctx->error, sizeof(ctx->error), format, args);
  va_end(args);
  return status;
}

ms_status FailMemory(ms_context* ctx, size_t bytes) {
  return Fail(ctx, MS_OUT_OF_MEMORY, "expected %zu bytes of working memory but the system has none to give", bytes);
}

ms_status FailType(ms_context* ctx, const char* op, ms_value_type type) {
  return Fail(ctx, MS_UNSUPPORTED, "expected %s of a value type this backend multiplies but received type %u", op,
              type);
}

ms_context* ContextCreate() {
  ms_context* ctx = new (std::nothrow) ms_context;
  if (ctx != nullptr) ctx->threads = UsableCores();
  return ctx;
}

void ContextDestroy(ms_context* ctx) {
  if (ctx == nullptr) return;
  ReleaseBytes(ctx->scratch, ctx->scratch_bytes);
  delete ctx;
}

ms_status ContextSetThreads(ms_context* ctx, int32_t threads) {
  if (threads < 0 || threads > kMaxThreads) {
    return Fail(ctx, MS_BAD_DATA, "expected threads between 0 and %d but received %d", kMaxThreads, threads);
  }
  const int wanted = threads == 0 ? UsableCores() : threads;
  if (wanted != ctx->threads) ctx->pool.reset();
  ctx->threads = wanted;
  return MS_OK;
}

int32_t ContextThreads(ms_context* ctx) {
  return ctx->threads;
}

void ContextSetExact(ms_context* ctx, int32_t exact) {
  ctx->exact = exact;
}

const char* ContextLastError(ms_context* ctx) {
  return ctx->error;
}

ms_status CopyBytes(ms_context*, void* out, const void* in, size_t bytes) {
  std::memcpy(out, in, bytes);
  return MS_OK;
}

ms_status MemoryBytes(ms_context*, int64_t* free, int64_t* total) {
  const int64_t page = sysconf(_SC_PAGESIZE);
  *free = page * sysconf(_SC_AVPHYS_PAGES);
  *total = page * sysconf(_SC_PHYS_PAGES);
  return MS_OK;
}

ms_status ZeroBytes(ms_context*, void* memory, size_t bytes) {
  std::memset(memory, 0, bytes);
  return MS_OK;
}

}  // namespace maskserve
