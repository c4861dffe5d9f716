// info, setThreads, setPrecision: the state of the calling JavaScript thread.

#include <cstring>

#include "bindings.h"
#include "check.h"

namespace maskserve {

namespace {

napi_value String(napi_env env, const char* text, size_t length) {
  napi_value value;
  napi_create_string_utf8(env, text, length, &value);
  return value;
}

// "avx2,scalar" → ['avx2', 'scalar']
napi_value List(napi_env env, const char* names) {
  napi_value list;
  napi_create_array(env, &list);
  uint32_t count = 0;
  while (*names != '\0') {
    const size_t length = std::strcspn(names, ",");
    napi_set_element(env, list, count++, String(env, names, length));
    names += length + (names[length] == ',' ? 1 : 0);
  }
  return list;
}

napi_value Info(Call& call) {
  const ms_backend& backend = call.backend();
  napi_env env = call.env();
  napi_value info, abi, threads;
  napi_create_object(env, &info);
  napi_create_uint32(env, backend.abi_version, &abi);
  napi_create_int32(env, backend.threads(call.context()), &threads);
  napi_set_named_property(env, info, "abiVersion", abi);
  napi_set_named_property(env, info, "backend", String(env, backend.name, NAPI_AUTO_LENGTH));
  napi_set_named_property(env, info, "isa", String(env, backend.isa, NAPI_AUTO_LENGTH));
  napi_set_named_property(env, info, "available", List(env, backend.available));
  napi_set_named_property(env, info, "threads", threads);
  return info;
}

napi_value SetThreads(Call& call) {
  const int64_t threads = call.Index(0, "threads");
  call.AtMost("threads", threads, "the limit", INT32_MAX);
  call.Check(call.backend().set_threads(call.context(), static_cast<int32_t>(threads)));
  return nullptr;
}

napi_value SetPrecision(Call& call) {
  const std::string precision = call.Text(0, "precision");
  if (precision != "bf16" && precision != "f32") {
    call.Fail(CallError::kRange, "expected precision to be 'bf16' or 'f32' but received '" + precision + "'");
  }
  call.backend().set_exact(call.context(), precision == "f32" ? 1 : 0);
  return nullptr;
}

}  // namespace

void ExportSetup(napi_env env, napi_value exports) {
  const Export list[] = {
      {"info", Bind<Info, 0>},
      {"setThreads", Bind<SetThreads, 1>},
      {"setPrecision", Bind<SetPrecision, 1>},
  };
  ExportAll(env, exports, list, sizeof(list) / sizeof(list[0]));
}

}  // namespace maskserve
