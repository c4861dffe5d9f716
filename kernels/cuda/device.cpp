#include "device.h"

#include <cstdlib>

#include "runtime.h"

#ifndef MASKSERVE_ARCHITECTURES
#error "the Makefile names the architectures that it compiles for"
#endif

namespace maskserve {
namespace cuda {

namespace {

constexpr int kOldestArchitecture = 80;  // mma.sp with bf16

std::string Version(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

int Attribute(cudaDeviceAttr which) {
  int value = 0;
  if (cudaDeviceGetAttribute(&value, which, 0) != cudaSuccess) cudaGetLastError();
  return value;
}

// Whether the library has machine code for this GPU, or (90a and the like aside) for an older one of its major version.
bool HasKernelsFor(int major, int minor) {
  const std::string list = std::string(MASKSERVE_ARCHITECTURES) + ",";
  for (int older = minor; older >= 0; --older) {
    const std::string name = "sm_" + std::to_string(major * 10 + older);
    if (list.find(name + ",") != std::string::npos) return true;
    if (older == minor && list.find(name + "a,") != std::string::npos) return true;
  }
  return false;
}

void ReadFacts(DeviceSearch* search) {
  DeviceFacts& facts = search->device;
  static cudaDeviceProp properties;
  if (cudaGetDeviceProperties(&properties, 0) == cudaSuccess) facts.name = properties.name;
  const int major = Attribute(cudaDevAttrComputeCapabilityMajor), minor = Attribute(cudaDevAttrComputeCapabilityMinor);
  facts.architecture = "sm_" + std::to_string(major * 10 + minor);
  facts.multiprocessors = Attribute(cudaDevAttrMultiProcessorCount);
  facts.clock_khz = Attribute(cudaDevAttrClockRate);
  facts.memory_clock_khz = Attribute(cudaDevAttrMemoryClockRate);
  facts.cache_bytes = static_cast<size_t>(Attribute(cudaDevAttrL2CacheSize));
  facts.overlaps = major >= 9;  // programmatic dependent launch
  search->has_device = true;
  const cudaError_t error = cudaMemGetInfo(&facts.free_bytes, &facts.total_bytes);
  if (error != cudaSuccess) {
    search->reason = facts.name + " does not answer: " + cudaGetErrorString(error) + "; see nvidia-smi";
  } else if (major * 10 + minor < kOldestArchitecture) {
    search->reason = "expected a GPU of sm_80 (Ampere) or later but " + facts.name + " is " + facts.architecture;
  } else if (!HasKernelsFor(major, minor)) {
    search->reason = "expected kernels for " + facts.architecture + " (" + facts.name + ") but the library has " +
                     MASKSERVE_ARCHITECTURES +
                     "; build it with: npm run build:cuda -- CUDA_ARCHS=" + std::to_string(major * 10 + minor);
  } else {
    search->usable = true;
  }
}

DeviceSearch Search() {
  DeviceSearch search{};
  int driver = 0, devices = 0;
  if (cudaDriverGetVersion(&driver) == cudaSuccess && driver > 0) search.driver_version = Version(driver);
  const cudaError_t error = cudaGetDeviceCount(&devices);
  if (search.driver_version.empty()) {
    search.reason = "no NVIDIA driver (libcuda.so.1) on this machine; install the driver of its GPU";
  } else if (error == cudaErrorInsufficientDriver) {
    search.reason = "expected a driver for CUDA " + Version(CUDART_VERSION) + " or later but this one is for CUDA " +
                    search.driver_version + "; update the driver, or build with an older nvcc";
  } else if (error != cudaSuccess) {
    search.reason = std::string("the driver shows no GPU: ") + cudaGetErrorString(error) +
                    "; see nvidia-smi, and CUDA_VISIBLE_DEVICES";
  } else if (devices == 0) {
    search.reason = "the driver shows no GPU; see nvidia-smi, and CUDA_VISIBLE_DEVICES";
  } else {
    ReadFacts(&search);
  }
  cudaGetLastError();
  return search;
}

}  // namespace

const DeviceSearch& FindDevice() {
  static const DeviceSearch& search = *new DeviceSearch(Search());
  return search;
}

const char* RuntimeVersion() {
  static const std::string& version = *new std::string(Version(CUDART_VERSION));
  return version.c_str();
}

const char* Architectures() {
  return MASKSERVE_ARCHITECTURES;
}

}  // namespace cuda
}  // namespace maskserve
