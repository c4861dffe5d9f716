// Device memory behind the buffers' handles, and what is known of what lies in it.
#pragma once

#include "../include/backend.h"

namespace maskserve {
namespace cuda {

void AddMemory(ms_backend* backend);

// How much memory has been given back so far: an address may be another buffer's since.
uint64_t ReleaseCount();

// A patch that build_patch24 wrote, by its address, until its memory is written to or released.
struct KnownPatch {
  int64_t n, k, bytes;
};
void RememberPatch(const void* patch, KnownPatch known);
bool RecallPatch(const void* patch, KnownPatch* known);

}  // namespace cuda
}  // namespace maskserve
