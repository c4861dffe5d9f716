#include "device_copies.h"

namespace maskserve {

DeviceCopies::~DeviceCopies() {
  for (const Copy& copy : copies_) copy.device.backend->release(copy.memory, copy.bytes);
}

void* DeviceCopies::Put(Call& call, const Runner& device, void* host, int64_t bytes, Access access) {
  const size_t size = static_cast<size_t>(bytes);
  void* memory = device.backend->alloc(size);
  if (memory == nullptr) {
    call.Fail(CallError::kRange, "expected room for " + std::to_string(bytes) + " bytes but " + device.backend->device +
                                     " has none to give");
  }
  copies_.push_back({device, memory, host, size, access});
  call.Check(device.backend->upload(device.context, memory, host, size), device);
  return memory;
}

void DeviceCopies::Fetch(Call& call) const {
  for (const Copy& copy : copies_) {
    if (copy.access != Access::kWrite) continue;
    call.Check(copy.device.backend->download(copy.device.context, copy.host, copy.memory, copy.bytes), copy.device);
  }
}

}  // namespace maskserve
