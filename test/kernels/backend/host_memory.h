// The memory of the GPU that host_runtime.cpp stands in for: a part of the process's own that the host can't touch but
// while the GPU works. The process ends with a line where the host reads or writes it by itself.
#pragma once

#include <cstddef>

namespace host_gpu {

size_t TotalBytes();  // MASKSERVE_HOST_GPU_BYTES, or 1 GiB
size_t FreeBytes();

// NULL: there is not as much left. 256-byte aligned, filled with garbage.
void* Give(size_t bytes);
// Ends the process unless Give gave it.
void Take(void* memory);
// Ends the process unless an allocation has all of these bytes.
void RequireGiven(const void* memory, size_t bytes, const char* what);
bool IsGpus(const void* memory);

// While one lives, this memory can be touched.
class Work {
 public:
  Work();
  ~Work();
  Work(const Work&) = delete;
  Work& operator=(const Work&) = delete;
};

}  // namespace host_gpu
