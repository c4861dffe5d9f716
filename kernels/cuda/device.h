// The GPU that ops run on: the process's first (CUDA_VISIBLE_DEVICES says which that is).
#pragma once

#include <stddef.h>

#include <string>

namespace maskserve {
namespace cuda {

struct DeviceFacts {
  std::string name;          // as NVIDIA calls it
  std::string architecture;  // "sm_90"
  size_t total_bytes, free_bytes;
  int multiprocessors, clock_khz, memory_clock_khz;
  size_t cache_bytes;  // second level
  bool overlaps;       // a kernel can begin while the one in front still runs
};

// What was found, or why nothing can run here.
struct DeviceSearch {
  bool usable;
  std::string reason;          // one line
  std::string driver_version;  // "13.0"; empty: no driver
  bool has_device;
  DeviceFacts device;
};

// Looks once a process.
const DeviceSearch& FindDevice();
// CUDA of the build, "13.0", and what the kernels were compiled for, "sm_80,sm_86".
const char* RuntimeVersion();
const char* Architectures();

}  // namespace cuda
}  // namespace maskserve
