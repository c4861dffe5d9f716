// What the addon keeps for each JavaScript thread that loaded it.
#pragma once

#include <node_api.h>

#include "../include/backend.h"

namespace maskserve {

struct Instance {
  const ms_backend* backend;
  ms_context* context;  // thread pool, working memory, precision
};

// False, with a JavaScript error pending, when no backend runs here.
bool CreateInstance(napi_env env);
Instance* InstanceOf(napi_env env);

}  // namespace maskserve
