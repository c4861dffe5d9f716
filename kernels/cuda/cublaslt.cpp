#include "cublaslt.h"

namespace maskserve {
namespace cuda {
namespace blaslt {

namespace {

struct Loaded {
  Api api;
  FoundLibrary library;
};

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

const Loaded& LoadOnce() {
  static const Loaded& loaded = *[] {
    auto* result = new Loaded{};
    const WantedLibrary wanted{"MASKSERVE_CUBLASLT", {"libcublasLt.so.13", "libcublasLt.so.12"}, "cublas/lib"};
    result->library =
        FindLibrary(wanted, [result](void* handle, FoundLibrary* found) { return Check(handle, &result->api, found); });
    return result;
  }();
  return loaded;
}

}  // namespace

const FoundLibrary& Find() {
  return LoadOnce().library;
}

const Api* Load() {
  const Loaded& loaded = LoadOnce();
  return loaded.library.handle == nullptr ? nullptr : &loaded.api;
}

}  // namespace blaslt
}  // namespace cuda
}  // namespace maskserve
