// The CPU backend behind the op table: per-thread state (context.cpp), and the choice of an instruction set
// (dispatch.cpp).
#pragma once

#include "../include/backend.h"

namespace maskserve {

// As ms_backend_open_fn. Chooses the best instruction set that the machine runs, or the one MASKSERVE_ISA names.
const ms_backend* OpenCpuBackend(uint32_t abi_version, const char** reason);

ms_context* ContextCreate();
void ContextDestroy(ms_context* ctx);
ms_status ContextSetThreads(ms_context* ctx, int32_t threads);
int32_t ContextThreads(ms_context* ctx);
void ContextSetExact(ms_context* ctx, int32_t exact);
const char* ContextLastError(ms_context* ctx);
ms_status CopyBytes(ms_context* ctx, void* out, const void* in, size_t bytes);
ms_status MemoryBytes(ms_context* ctx, int64_t* free, int64_t* total);
ms_status ZeroBytes(ms_context* ctx, void* memory, size_t bytes);

// The op tables of table.cpp and codec_table.cpp, one for each instruction set it was compiled for.
#if defined(MASKSERVE_HAS_avx512)
namespace avx512 {
extern const ms_ops kOps;
extern const ms_codec_ops kCodecOps;
}  // namespace avx512
#endif
#if defined(MASKSERVE_HAS_avx2)
namespace avx2 {
extern const ms_ops kOps;
extern const ms_codec_ops kCodecOps;
}  // namespace avx2
#endif
namespace scalar {
extern const ms_ops kOps;
extern const ms_codec_ops kCodecOps;
}  // namespace scalar

}  // namespace maskserve
