#include "library_search.h"

#include <dlfcn.h>
#include <glob.h>
#include <sys/stat.h>

#include <cstdlib>

namespace maskserve {
namespace cuda {

namespace {

// Where a file may lie: an exact path is a mistake to tell if it is missing, a folder that was only tried is not.
struct Place {
  std::string path;
  bool asked_for;
};

bool Exists(const std::string& path) {
  struct stat status;
  return stat(path.c_str(), &status) == 0;
}

bool IsFolder(const std::string& path) {
  struct stat status;
  return stat(path.c_str(), &status) == 0 && S_ISDIR(status.st_mode);
}

std::vector<std::string> Matches(const std::string& pattern) {
  std::vector<std::string> paths;
  glob_t found;
  if (glob(pattern.c_str(), GLOB_TILDE, nullptr, &found) == 0) {
    for (size_t i = 0; i < found.gl_pathc; ++i) paths.push_back(found.gl_pathv[i]);
  }
  globfree(&found);
  return paths;
}

// The folder of this library, with a slash.
std::string OwnFolder() {
  Dl_info self;
  if (dladdr(reinterpret_cast<void*>(&OwnFolder), &self) == 0 || self.dli_fname == nullptr) return "./";
  const std::string file = self.dli_fname;
  const size_t slash = file.rfind('/');
  return slash == std::string::npos ? "./" : file.substr(0, slash + 1);
}

// site-packages of the virtual environment that is active, of the user and of the system.
std::vector<std::string> WheelRoots() {
  std::vector<std::string> roots;
  for (const char* variable : {"VIRTUAL_ENV", "CONDA_PREFIX"}) {
    const char* prefix = std::getenv(variable);
    if (prefix != nullptr && prefix[0] != '\0') roots.push_back(std::string(prefix) + "/lib/python3*/site-packages/");
  }
  for (const char* root : {"~/.local/lib/python3*/site-packages/", "/usr/local/lib/python3*/dist-packages/",
                           "/usr/local/lib/python3*/site-packages/", "/usr/lib/python3*/site-packages/",
                           "/usr/lib/python3/dist-packages/", "/opt/conda/lib/python3*/site-packages/"}) {
    roots.push_back(root);
  }
  return roots;
}

std::vector<Place> Places(const WantedLibrary& wanted) {
  std::vector<Place> places;
  const char* named = std::getenv(wanted.variable);
  if (named != nullptr && named[0] != '\0') {
    if (!IsFolder(named)) return {{named, true}};
    for (const std::string& name : wanted.names) {
      for (const char* below : {"/", "/lib/", "/lib64/"}) {
        const std::string path = named + std::string(below) + name;
        if (Exists(path)) return {{path, true}};
      }
    }
    return {{named + ("/" + wanted.names.front()), true}};
  }
  const std::string package = OwnFolder() + "../../node_modules/@maskserve/cuda-libraries/lib/";
  for (const std::string& name : wanted.names) {
    if (Exists(package + name)) places.push_back({package + name, false});
  }
  for (const std::string& root : WheelRoots()) {
    for (const std::string& name : wanted.names) {
      // CUDA 13's wheels share a folder; those of 12 and cuSPARSELt have one each.
      for (const std::string& folder : {std::string(wanted.wheel_folder), std::string("cu1[0-9]/lib")}) {
        for (const std::string& path : Matches(root + "nvidia/" + folder + "/" + name)) places.push_back({path, false});
      }
    }
  }
  for (const std::string& name : wanted.names) places.push_back({name, false});
  return places;
}

}  // namespace

void* FindSymbol(void* handle, const std::string& name, std::string* missing) {
  void* symbol = dlsym(handle, name.c_str());
  if (symbol == nullptr && missing->empty()) *missing = name;
  return symbol;
}

FoundLibrary FindLibrary(const WantedLibrary& wanted, const LibraryCheck& check) {
  FoundLibrary found{nullptr, "", "", "", {}};
  for (const Place& place : Places(wanted)) {
    void* handle = dlopen(place.path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (handle == nullptr) {
      const char* error = dlerror();
      found.refused.push_back({place.path, error != nullptr ? error : "it did not load"});
      continue;
    }
    const std::string reason = check(handle, &found);
    if (reason.empty()) {
      found.handle = handle;
      found.file = place.path;
      return found;
    }
    found.refused.push_back({place.path, reason});
    found.version.clear();
    found.warning.clear();
    dlclose(handle);
  }
  return found;
}

}  // namespace cuda
}  // namespace maskserve
