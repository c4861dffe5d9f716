// info, probeCuda, useBackend, memory, synchronize, setThreads, setPrecision, giveWay: the state of the calling
// JavaScript thread.

#include <cstring>

#include "backends.h"
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
  napi_value device;
  napi_get_null(env, &device);
  if (backend.device != nullptr) device = String(env, backend.device, NAPI_AUTO_LENGTH);
  napi_set_named_property(env, info, "device", device);
  return info;
}

napi_value ProbeCuda(Call& call) {
  const FoundBackend& found = CudaBackend();
  napi_env env = call.env();
  napi_value probe, usable;
  napi_create_object(env, &probe);
  napi_get_boolean(env, found.backend != nullptr, &usable);
  napi_set_named_property(env, probe, "usable", usable);
  napi_set_named_property(env, probe, "file", String(env, found.file.data(), found.file.size()));
  napi_set_named_property(env, probe, "reason", String(env, found.reason.data(), found.reason.size()));
  napi_set_named_property(env, probe, "report", String(env, found.report.data(), found.report.size()));
  return probe;
}

napi_value UseBackend(Call& call) {
  const std::string name = call.Text(0, "name");
  if (name == "cpu") {
    call.RunOn(nullptr);
    return nullptr;
  }
  if (name != "cuda") call.Fail(CallError::kRange, "expected name to be 'cpu' or 'cuda' but received '" + name + "'");
  const FoundBackend& found = CudaBackend();
  if (found.backend == nullptr) call.Fail(CallError::kPlain, found.reason);
  call.RunOn(found.backend);
  return nullptr;
}

napi_value Memory(Call& call) {
  int64_t free = 0, total = 0;
  call.Check(call.backend().memory(call.context(), &free, &total));
  napi_env env = call.env();
  napi_value memory, value;
  napi_create_object(env, &memory);
  napi_create_int64(env, free, &value);
  napi_set_named_property(env, memory, "freeBytes", value);
  napi_create_int64(env, total, &value);
  napi_set_named_property(env, memory, "totalBytes", value);
  return memory;
}

napi_value Synchronize(Call& call) {
  call.Check(call.backend().synchronize(call.context()));
  return nullptr;
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

napi_value GiveWay(Call& call) {
  const ms_backend& backend = call.backend();
  if (backend.give_way != nullptr) call.Check(backend.give_way(call.context()));
  return nullptr;
}

}  // namespace

void ExportSetup(napi_env env, napi_value exports) {
  const Export list[] = {
      {"info", Bind<Info, 0>},
      {"probeCuda", Bind<ProbeCuda, 0>},
      {"useBackend", Bind<UseBackend, 1>},
      {"memory", Bind<Memory, 0>},
      {"synchronize", Bind<Synchronize, 0>},
      {"setThreads", Bind<SetThreads, 1>},
      {"setPrecision", Bind<SetPrecision, 1>},
      {"giveWay", Bind<GiveWay, 0>},
  };
  ExportAll(env, exports, list, sizeof(list) / sizeof(list[0]));
}

}  // namespace maskserve
