#include "backends.h"

#include <dlfcn.h>
#include <sys/stat.h>

#include <cstdlib>

namespace maskserve {

namespace {

constexpr char kLibrary[] = "libmaskserve_cuda.so";
constexpr char kBuildIt[] = "build it with \"npm run build:cuda\" (needs nvcc)";

std::string LibraryPath() {
  const char* named = std::getenv("MASKSERVE_CUDA_LIBRARY");
  if (named != nullptr && named[0] != '\0') return named;
  Dl_info self;
  if (dladdr(reinterpret_cast<void*>(&LibraryPath), &self) == 0 || self.dli_fname == nullptr) return kLibrary;
  const std::string addon = self.dli_fname;
  const size_t slash = addon.rfind('/');
  return (slash == std::string::npos ? "" : addon.substr(0, slash + 1)) + kLibrary;
}

bool Exists(const std::string& path) {
  struct stat status;
  return stat(path.c_str(), &status) == 0;
}

// A function's address as the function it is.
template <typename Function>
Function Symbol(void* library, const char* name) {
  return reinterpret_cast<Function>(dlsym(library, name));
}

FoundBackend Refused(FoundBackend found, const std::string& reason) {
  found.backend = nullptr;
  found.reason = reason;
  return found;
}

FoundBackend OpenLibrary() {
  FoundBackend found{nullptr, LibraryPath(), "", ""};
  if (!Exists(found.file)) {
    return Refused(found, "expected the CUDA backend at " + found.file + ", but there is none; " + kBuildIt);
  }
  // Never closed: buffers and contexts of every thread point into it.
  void* library = dlopen(found.file.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* error = dlerror();
    return Refused(found,
                   "the CUDA backend did not load: " + std::string(error != nullptr ? error : "no reason given"));
  }
  const auto report = Symbol<ms_backend_report_fn>(library, "ms_backend_report");
  const auto open = Symbol<ms_backend_open_fn>(library, "ms_backend_open");
  if (open == nullptr || report == nullptr) {
    return Refused(found, "expected ms_backend_open and ms_backend_report in " + found.file +
                              ", but it lacks one: it is no backend of maskserve; " + kBuildIt);
  }
  const char* reason = "it gave no reason";
  const ms_backend* backend = open(MS_ABI_VERSION, &reason);
  if (backend != nullptr && (backend->abi_version != MS_ABI_VERSION || backend->bytes != sizeof(ms_backend))) {
    return Refused(found, "expected version " + std::to_string(MS_ABI_VERSION) + " of the op table in " + found.file +
                              " but received version " + std::to_string(backend->abi_version) +
                              "; build both again: npm run build && npm run build:cuda");
  }
  const char* said = report();
  if (said != nullptr) found.report = said;
  found.backend = backend;
  if (backend == nullptr) found.reason = reason;
  return found;
}

}  // namespace

const FoundBackend& CudaBackend() {
  static const FoundBackend& found = *new FoundBackend(OpenLibrary());
  return found;
}

}  // namespace maskserve
