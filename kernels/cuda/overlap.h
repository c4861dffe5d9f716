// Whether the kernels of a decoding step begin while the one in front still runs (launches_overlap): looked at, and
// proved with a chain of kernels and a recording of it, when the backend starts.
#pragma once

#include <string>

namespace maskserve {
namespace cuda {

struct Overlap {
  bool used;
  std::string reason;  // why not, one line
};

// Once a process. MASKSERVE_CUDA_OVERLAP=0: not wanted.
const Overlap& ProvenOverlap();

}  // namespace cuda
}  // namespace maskserve
