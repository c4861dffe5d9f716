#include "instance.h"

#include <initializer_list>
#include <new>

#include "../cpu/cpu_backend.h"

namespace maskserve {

namespace {

void DestroyInstance(napi_env, void* data, void*) {
  auto* instance = static_cast<Instance*>(data);
  for (const auto& [number, recording] : instance->recordings) {
    instance->device.backend->recording_free(instance->device.context, recording);
  }
  for (const Runner& runner : {instance->device, instance->host}) {
    if (runner.context != nullptr) runner.backend->context_destroy(runner.context);
  }
  delete instance;
}

}  // namespace

const Runner& Instance::Of(const ms_backend* owner) {
  if (owner == nullptr || owner == host.backend) return host;
  if (device.context == nullptr) device = {owner, owner->context_create()};
  return device;
}

bool CreateInstance(napi_env env) {
  const char* reason = "";
  const ms_backend* backend = OpenCpuBackend(MS_ABI_VERSION, &reason);
  if (backend == nullptr) {
    napi_throw_error(env, nullptr, reason);
    return false;
  }
  ms_context* context = backend->context_create();
  if (context == nullptr) {
    napi_throw_error(env, nullptr, "expected memory for a thread's state but the system has none to give");
    return false;
  }
  auto* instance = new Instance;
  instance->host = {backend, context};
  return napi_set_instance_data(env, instance, DestroyInstance, nullptr) == napi_ok;
}

Instance* InstanceOf(napi_env env) {
  void* data = nullptr;
  napi_get_instance_data(env, &data);
  return static_cast<Instance*>(data);
}

}  // namespace maskserve
