// What the addon keeps for each JavaScript thread that loaded it.
#pragma once

#include <node_api.h>

#include <map>

#include "../include/backend.h"

namespace maskserve {

// A backend, and the thread's state of it: thread pool or stream, working memory, precision.
struct Runner {
  const ms_backend* backend = nullptr;
  ms_context* context = nullptr;
};

struct Instance {
  Runner host;    // the CPU: buffers of host memory, the mask codec
  Runner device;  // the CUDA backend, from when this thread first met it or a buffer of its
  bool on_device = false;
  std::map<uint32_t, ms_recording*> recordings;  // of the device, by the number that JavaScript has
  uint32_t last_recording = 0;

  // What ops run on.
  const Runner& current() const { return on_device ? device : host; }
  // The runner for memory of `owner` (NULL: host memory); its context is NULL when memory for one is short.
  const Runner& Of(const ms_backend* owner);
};

// False, with a JavaScript error pending, when no backend runs here.
bool CreateInstance(napi_env env);
Instance* InstanceOf(napi_env env);

}  // namespace maskserve
