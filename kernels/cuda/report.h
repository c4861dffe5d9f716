// kernels/backend-types.ts, CudaReport.
#pragma once

#include <string>

namespace maskserve {
namespace cuda {

std::string Report();

}  // namespace cuda
}  // namespace maskserve
