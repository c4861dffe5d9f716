// Finds NVIDIA's optional libraries, which are too large and too proprietary to be part of the package: named by an
// environment variable, in an optional npm package's folder, in a Python wheel's, or on the loader's path.
#pragma once

#include <functional>
#include <string>
#include <vector>

namespace maskserve {
namespace cuda {

struct Refusal {
  std::string at, reason;
};

// A library that was looked for.
struct FoundLibrary {
  void* handle;  // of dlopen, never closed; NULL: none is used
  std::string version, file, warning;
  std::vector<Refusal> refused;
};

struct WantedLibrary {
  const char* variable;            // names a file, or a folder that has one
  std::vector<std::string> names;  // best first, like "libcusparseLt.so.0"
  const char* wheel_folder;        // below site-packages/nvidia, like "cusparselt/lib"
};

// Checks a library that was opened: sets its version and, where it is used all the same, a warning; returns why it is
// refused, or nothing.
typedef std::function<std::string(void* handle, FoundLibrary* found)> LibraryCheck;

FoundLibrary FindLibrary(const WantedLibrary& wanted, const LibraryCheck& check);

// A symbol's address; the first that the library lacks is left in `missing`.
void* FindSymbol(void* handle, const std::string& name, std::string* missing);

template <typename Function>
void Resolve(void* handle, const std::string& name, Function* function, std::string* missing) {
  *function = reinterpret_cast<Function>(FindSymbol(handle, name, missing));
}

// A library and the entry points that its check resolved.
template <typename Api>
struct LoadedLibrary {
  Api api;
  FoundLibrary library;

  // NULL where none is used.
  const Api* Usable() const { return library.handle == nullptr ? nullptr : &api; }
};

// Looks for a library once in the life of the process: never freed, as it is never closed.
template <typename Api>
const LoadedLibrary<Api>& LoadLibrary(const WantedLibrary& wanted,
                                      std::string (*check)(void* handle, Api* api, FoundLibrary* found)) {
  auto* loaded = new LoadedLibrary<Api>{};
  loaded->library =
      FindLibrary(wanted, [=](void* handle, FoundLibrary* found) { return check(handle, &loaded->api, found); });
  return *loaded;
}

}  // namespace cuda
}  // namespace maskserve
