// What the op files see of a calling thread's state: a few plain functions and nothing inline, because op files are
// compiled once per instruction set and an inline function shared with the baseline could be linked from the wrong one.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "../include/backend.h"

namespace maskserve {

// Runs fn(arg, task, worker) for every task in [0, tasks), on the context's pool; worker is in [0, Threads(ctx)).
void RunTasks(ms_context* ctx, int64_t tasks, void (*fn)(void* arg, int64_t task, int worker), void* arg);
int Threads(ms_context* ctx);
// 1 when matmuls must keep activations in fp32.
int Exact(ms_context* ctx);
// At least `bytes` of 64-byte aligned working memory, kept by the context until the next call; NULL when memory is
// short.
void* Scratch(ms_context* ctx, size_t bytes);
// Records a printf-style line and returns `status`.
ms_status Fail(ms_context* ctx, ms_status status, const char* format, ...) __attribute__((format(printf, 3, 4)));
ms_status FailMemory(ms_context* ctx, size_t bytes);
ms_status FailType(ms_context* ctx, const char* op, ms_value_type type);
// Zeroed, 64-byte aligned, with huge pages where they help. NULL when memory is short.
void* AllocateBytes(size_t bytes);
void ReleaseBytes(void* memory, size_t bytes);

}  // namespace maskserve
