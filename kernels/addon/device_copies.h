// Arrays of the host that a call needs in a device's memory.
#pragma once

#include <vector>

#include "check.h"

namespace maskserve {

// What it was given is freed with it.
class DeviceCopies {
 public:
  DeviceCopies() = default;
  ~DeviceCopies();
  DeviceCopies(const DeviceCopies&) = delete;
  DeviceCopies& operator=(const DeviceCopies&) = delete;

  // A copy of `bytes` at `host`. Throws CallError.
  void* Put(Call& call, const Runner& device, void* host, int64_t bytes, Access access);
  // What was put with kWrite comes back. Throws CallError.
  void Fetch(Call& call) const;

 private:
  struct Copy {
    Runner device;
    void *memory, *host;
    size_t bytes;
    Access access;
  };
  std::vector<Copy> copies_;
};

}  // namespace maskserve
