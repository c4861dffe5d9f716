// beginRecording, endRecording, replay, freeRecording: decoding steps of a device that are done again by one call.

#include "bindings.h"
#include "check.h"
#include "draws.h"

namespace maskserve {

namespace {

napi_value Boolean(Call& call, bool value) {
  napi_value boolean;
  napi_get_boolean(call.env(), value, &boolean);
  return boolean;
}

napi_value BeginRecording(Call& call) {
  const ms_backend& backend = call.backend();
  if (backend.record_begin == nullptr) return Boolean(call, false);
  call.Check(backend.record_begin(call.context()));
  return Boolean(call, true);
}

napi_value EndRecording(Call& call) {
  if (call.backend().record_end == nullptr) call.Fail(CallError::kPlain, "this backend records nothing");
  ms_recording* recording = nullptr;
  call.Check(call.backend().record_end(call.context(), &recording));
  Instance& instance = call.instance();
  if (recording != nullptr) instance.recordings[++instance.last_recording] = recording;
  napi_value number;
  napi_create_uint32(call.env(), recording != nullptr ? instance.last_recording : 0, &number);
  return number;
}

// Argument 0.
std::map<uint32_t, ms_recording*>::iterator Recorded(Call& call) {
  const int64_t number = call.Count(0, "recording");
  auto& recordings = call.instance().recordings;
  const auto at = number > UINT32_MAX ? recordings.end() : recordings.find(static_cast<uint32_t>(number));
  call.Require(at != recordings.end(), "recording", "to be one of this thread's", static_cast<double>(number));
  return at;
}

// Arguments 2 to 4: all of each row's caches, its position and capacity.
std::vector<ms_cache_row> Caches(Call& call, int64_t rows) {
  const std::vector<Buffer> buffers = call.Buffers(2, "caches", "ids.length", rows);
  const std::vector<int32_t> positions = call.Counts(3, "positions", 0), capacities = call.Counts(4, "capacities", 1);
  call.Require(static_cast<int64_t>(positions.size()) == rows, "positions", "to be as many as ids",
               double(positions.size()));
  call.Require(static_cast<int64_t>(capacities.size()) == rows, "capacities", "to be as many as ids",
               double(capacities.size()));
  std::vector<ms_cache_row> caches;
  for (size_t r = 0; r < buffers.size(); ++r) {
    call.Reachable(buffers[r], "caches");
    auto* begin = static_cast<char*>(buffers[r].data);
    caches.push_back({begin, begin + buffers[r].bytes, positions[r], capacities[r]});
  }
  return caches;
}

napi_value Replay(Call& call) {
  ms_recording* recording = Recorded(call)->second;
  const std::vector<int32_t> ids = call.Ids(1, call.Count(5, "vocab"));
  const int64_t rows = static_cast<int64_t>(ids.size());
  const std::vector<ms_cache_row> caches = Caches(call, rows);
  const Runner& device = call.instance().device;
  const HostArray tokens = call.Array(7, "tokens", napi_int32_array);
  std::vector<ms_draw> draws;
  if (tokens.length > 0) {
    call.Require(tokens.length == ids.size(), "tokens", "to be as many as ids, or none", double(tokens.length));
    draws = Draws(call, 6, rows);
  }
  int32_t done = 0;
  call.Check(
      device.backend->replay(device.context, recording, ids.data(), caches.data(),
                             draws.empty() ? nullptr : draws.data(), rows, static_cast<int32_t*>(tokens.data), &done),
      device);
  return Boolean(call, done != 0);
}

napi_value FreeRecording(Call& call) {
  const auto at = Recorded(call);
  const Runner& device = call.instance().device;
  device.backend->recording_free(device.context, at->second);
  call.instance().recordings.erase(at);
  return nullptr;
}

}  // namespace

void ExportRecording(napi_env env, napi_value exports) {
  const Export list[] = {
      {"beginRecording", Bind<BeginRecording, 0>},
      {"endRecording", Bind<EndRecording, 0>},
      {"replay", Bind<Replay, 8>},
      {"freeRecording", Bind<FreeRecording, 1>},
  };
  ExportAll(env, exports, list, sizeof(list) / sizeof(list[0]));
}

}  // namespace maskserve
