#include "cublaslt.h"

namespace maskserve {
namespace cuda {
namespace blaslt {

namespace {

std::string Check(void* handle, Api* api, FoundLibrary* found) {
  std::string missing;
#define RESOLVE(name) Resolve(handle, "cublasLt" #name, &api->name, &missing)
  RESOLVE(GetVersion);
  RESOLVE(Create);
  RESOLVE(Destroy);
  RESOLVE(MatmulDescCreate);
  RESOLVE(MatmulDescDestroy);
  RESOLVE(MatmulDescSetAttribute);
  RESOLVE(MatrixLayoutCreate);
  RESOLVE(MatrixLayoutDestroy);
  RESOLVE(MatmulPreferenceCreate);
  RESOLVE(MatmulPreferenceDestroy);
  RESOLVE(MatmulPreferenceSetAttribute);
  RESOLVE(MatmulAlgoGetHeuristic);
  RESOLVE(Matmul);
#undef RESOLVE
  if (!missing.empty()) return "it lacks " + missing;
  // 13.1.1 is 130101, 12.4.5 is 120405.
  const size_t version = api->GetVersion();
  found->version = std::to_string(version / 10000) + "." + std::to_string(version % 10000 / 100) + "." +
                   std::to_string(version % 100);
  const size_t major = version / 10000;
  if (major < 12 || major > 13) return "expected version 12 or 13 but it is " + found->version;
  return "";
}

const LoadedLibrary<Api>& LoadOnce() {
  static const auto& loaded =
      LoadLibrary<Api>({"MASKSERVE_CUBLASLT", {"libcublasLt.so.13", "libcublasLt.so.12"}, "cublas/lib"}, Check);
  return loaded;
}

}  // namespace

const FoundLibrary& Find() {
  return LoadOnce().library;
}

const Api* Load() {
  return LoadOnce().Usable();
}

}  // namespace blaslt
}  // namespace cuda
}  // namespace maskserve
