#include "cusparselt.h"

namespace maskserve {
namespace cuda {
namespace sparselt {

namespace {

constexpr int kOldest = 800, kWanted = 801;

std::string ResolveAll(void* handle, Api* api) {
  std::string missing;
#define RESOLVE(name) Resolve(handle, "cusparseLt" #name, &api->name, &missing)
  RESOLVE(Init);
  RESOLVE(Destroy);
  RESOLVE(GetProperty);
  RESOLVE(GetErrorString);
  RESOLVE(DenseDescriptorInit);
  RESOLVE(StructuredDescriptorInit);
  RESOLVE(MatDescriptorDestroy);
  RESOLVE(MatmulDescriptorInit);
  RESOLVE(MatmulAlgSelectionInit);
  RESOLVE(MatmulAlgSelectionDestroy);
  RESOLVE(MatmulAlgSetAttribute);
  RESOLVE(MatmulAlgGetAttribute);
  RESOLVE(MatmulGetWorkspace);
  RESOLVE(MatmulPlanInit);
  RESOLVE(MatmulPlanDestroy);
  RESOLVE(Matmul);
  RESOLVE(MatmulSearch);
  RESOLVE(SpMMACompressedSize2);
  RESOLVE(SpMMACompress2);
#undef RESOLVE
  return missing;
}

// The version first: what an older library lacks is said by its number.
std::string Check(void* handle, Api* api, FoundLibrary* found) {
  std::string missing;
  Resolve(handle, "cusparseLtGetProperty", &api->GetProperty, &missing);
  if (!missing.empty()) return "it lacks " + missing;
  int part[3] = {0, 0, 0};
  for (int i = 0; i < 3; ++i) {
    if (api->GetProperty(i, &part[i]) != 0) return "it does not tell its version";
  }
  found->version = std::to_string(part[0]) + "." + std::to_string(part[1]) + "." + std::to_string(part[2]);
  const int version = part[0] * 1000 + part[1] * 100 + part[2];
  if (version < kOldest) {
    return "expected version 0.8.1 or later but it is " + found->version +
           "; pip install 'nvidia-cusparselt-cu13>=0.8.1'";
  }
  missing = ResolveAll(handle, api);
  if (!missing.empty()) return "it lacks " + missing;
  if (version < kWanted) {
    found->warning = "0.8.0 is slower on H100 and L4 than 0.8.1, which mends that; used after a self-test";
  }
  return "";
}

const LoadedLibrary<Api>& LoadOnce() {
  static const auto& loaded =
      LoadLibrary<Api>({"MASKSERVE_CUSPARSELT", {"libcusparseLt.so.0", "libcusparseLt.so"}, "cusparselt/lib"}, Check);
  return loaded;
}

}  // namespace

const FoundLibrary& Find() {
  return LoadOnce().library;
}

const Api* Load() {
  return LoadOnce().Usable();
}

}  // namespace sparselt
}  // namespace cuda
}  // namespace maskserve
