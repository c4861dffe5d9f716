// The backends of this process: the CPU's, which is part of the addon, and the CUDA library, which is looked for when
// it is asked for.
#pragma once

#include <string>

#include "../include/backend.h"

namespace maskserve {

// A backend that was looked for. `backend` is NULL when it can't run here, and `reason` says why and what to do.
struct FoundBackend {
  const ms_backend* backend;
  std::string file;    // of the library
  std::string reason;  // one line
  std::string report;  // JSON of ms_backend_report; empty where there is no library to ask
};

// Opens the library MASKSERVE_CUDA_LIBRARY, or libmaskserve_cuda.so beside the addon, once a process. Never crashes on
// a library that is missing, broken or of another version.
const FoundBackend& CudaBackend();

}  // namespace maskserve
