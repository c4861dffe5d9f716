// The mask codec's encoders (codec/FORMAT.md §7–§9), for 2:4, and small things around them. Decoders:
// codec_decoders.cpp.

#include <cstring>

#include "bindings.h"
#include "check.h"
#include "codec_arguments.h"

namespace maskserve {

namespace {

constexpr TensorUse kEncoded{true, true, false, false, false, false}, kCounted{false, true, false, false, false, false},
    kChanged{true, false, false, true, false, false};

napi_value Boolean(Call& call, bool value) {
  napi_value boolean;
  napi_get_boolean(call.env(), value, &boolean);
  return boolean;
}

// Chunks encoded apart, moved together. Returns their bytes.
int64_t Gather(Call& call, const std::vector<ms_mask_output>& chunks, uint8_t* out, uint32_t* lengths,
               uint32_t* checksums) {
  int64_t at = 0;
  for (size_t i = 0; i < chunks.size(); ++i) {
    if (chunks[i].status != MS_CHUNK_OK) {
      call.Fail(CallError::kRange,
                "expected nibbles that are patterns and have a frequency, and room, in chunk " + std::to_string(i));
    }
    std::memmove(out + at, chunks[i].bytes, static_cast<size_t>(chunks[i].length));
    lengths[i] = static_cast<uint32_t>(chunks[i].length);
    checksums[i] = chunks[i].checksum;
    at += chunks[i].length;
  }
  return at;
}

// `out` cut into rooms of the capacities given; lengths and checksums have an element for each.
struct Output {
  std::vector<ms_mask_output> chunks;
  uint8_t* bytes;
  uint32_t *lengths, *checksums;

  Output(Call& call, size_t at, const std::vector<int64_t>& capacities) {
    int64_t total = 0;
    for (const int64_t capacity : capacities) total += capacity;
    const HostArray out = call.AnyArray(at, "out"), of_lengths = call.AnyArray(at + 1, "lengths"),
                    of_checksums = call.AnyArray(at + 2, "checksums");
    call.AtMost("room", total, "the bytes of out", static_cast<int64_t>(out.bytes));
    const int64_t entries = 4 * static_cast<int64_t>(capacities.size());
    call.AtMost("room", entries, "the bytes of lengths", static_cast<int64_t>(of_lengths.bytes));
    call.AtMost("room", entries, "the bytes of checksums", static_cast<int64_t>(of_checksums.bytes));
    bytes = static_cast<uint8_t*>(out.data);
    lengths = static_cast<uint32_t*>(of_lengths.data);
    checksums = static_cast<uint32_t*>(of_checksums.data);
    int64_t from = 0;
    for (const int64_t capacity : capacities) {
      chunks.push_back({bytes + from, capacity, 0, 0, MS_CHUNK_OK});
      from += capacity;
    }
  }
};

napi_value EncodeMasks(Call& call) {
  const CodedTensors tensors(call, 0, kEncoded);
  tensors.RequireSymbolCoders(call);
  const int64_t chunk_steps = ChunkSteps(call, 1), first = call.Index(2, "firstStep");
  call.AtMost("firstStep", first, "the steps of all tensors", tensors.steps());
  const int64_t chunks = static_cast<int64_t>(call.Array(4, "lengths", napi_uint32_array).length);
  int64_t left = tensors.steps() - first;
  call.AtMost("chunks", chunks, "those from firstStep", (left + chunk_steps - 1) / chunk_steps);
  std::vector<int64_t> capacities;
  for (int64_t c = 0; c < chunks; ++c, left -= chunk_steps) {
    capacities.push_back(128 + 64 * (left < chunk_steps ? left : chunk_steps));
  }
  Output output(call, 3, capacities);
  CheckHost(call, HostCodec(call).encode_masks(call.host().context, tensors.data(), tensors.count(), chunk_steps, first,
                                               output.chunks.data(), chunks));
  return JsNumber(call,
                  static_cast<double>(Gather(call, output.chunks, output.bytes, output.lengths, output.checksums)));
}

napi_value CountSymbols(Call& call) {
  const CodedTensors tensor(call, kCounted, call.argument(0));
  tensor.RequireSymbolCoders(call);
  const HostArray counts = call.AnyArray(1, "counts");
  const int64_t bytes = 8 * 4 * static_cast<int64_t>(tensor.data()->contexts);
  call.AtMost("contexts", bytes, "the bytes of counts", static_cast<int64_t>(counts.bytes));
  int32_t bad = 0;
  CheckHost(call, HostCodec(call).count_symbols(call.host().context, tensor.data(), static_cast<uint32_t*>(counts.data),
                                                &bad));
  if (bad != 0) call.Fail(CallError::kRange, "expected nibbles 4, 8, 12, 9, 13 or 14 in mask but received another");
  return nullptr;
}

napi_value EncodePatches(Call& call) {
  const CodedTensors tensors(call, 0, kChanged);
  tensors.RequireOneCoder(call);
  const std::vector<int64_t> first = tensors.PatchChunks(call.Count(1, "fullChunk"));
  const std::vector<uint16_t> gaps = WideStarts(call, 2, "gaps");
  std::vector<int64_t> capacities;
  for (size_t c = 0; c + 1 < first.size(); ++c) {
    capacities.push_back(32);
    for (int64_t i = first[c]; i < first[c + 1]; ++i) capacities.back() += 10 * tensors.data()[i].changes;
  }
  Output output(call, 3, capacities);
  CheckHost(call, HostCodec(call).encode_patches(call.host().context, tensors.data(), first.data(), gaps.data(),
                                                 output.chunks.data(), static_cast<int64_t>(output.chunks.size())));
  return JsNumber(call,
                  static_cast<double>(Gather(call, output.chunks, output.bytes, output.lengths, output.checksums)));
}

// A typed array of bytes with at least `bytes`.
uint8_t* HostBytes(Call& call, size_t at, const char* name, int64_t bytes) {
  const HostArray array = call.AnyArray(at, name);
  if (static_cast<int64_t>(array.bytes) < bytes) {
    call.Fail(CallError::kRange, std::string("expected ") + name + " of at least " + std::to_string(bytes) +
                                     " bytes but received " + std::to_string(array.bytes));
  }
  return static_cast<uint8_t*>(array.data);
}

int64_t Groups(Call& call, size_t at) {
  const int64_t groups = call.Count(at, "groups");
  call.AtMost("groups", groups, "2^30", int64_t{1} << 30);
  return groups;
}

napi_value ApplyChanges(Call& call) {
  const int64_t groups = Groups(call, 2), bytes = (groups + 1) / 2;
  uint8_t* mask = HostBytes(call, 0, "mask", bytes);
  const uint8_t* parent = HostBytes(call, 1, "parent", bytes);
  const HostArray positions = call.Array(3, "positions", napi_uint32_array);
  const int64_t changes = static_cast<int64_t>(positions.length);
  const uint8_t* codes = HostBytes(call, 4, "codes", changes);
  if (mask != parent) call.Apart("mask", mask, bytes, "parent", parent, bytes);
  CheckHost(call, HostCodec(call).apply_changes(call.host().context, mask, parent, groups,
                                                static_cast<const uint32_t*>(positions.data), codes, changes));
  return nullptr;
}

napi_value FindChanges(Call& call) {
  const int64_t groups = Groups(call, 2), bytes = (groups + 1) / 2;
  const uint8_t* mask = HostBytes(call, 0, "mask", bytes);
  const uint8_t* parent = HostBytes(call, 1, "parent", bytes);
  uint8_t* positions = HostBytes(call, 3, "positions", 4 * groups);
  uint8_t* codes = HostBytes(call, 4, "codes", groups);
  int64_t changes = 0;
  CheckHost(call, HostCodec(call).find_changes(call.host().context, mask, parent, groups,
                                               reinterpret_cast<uint32_t*>(positions), codes, &changes));
  return JsNumber(call, static_cast<double>(changes));
}

napi_value Crc32c(Call& call) {
  const HostArray bytes = call.AnyArray(0, "bytes");
  return JsNumber(call,
                  HostCodec(call).crc32c(static_cast<const uint8_t*>(bytes.data), static_cast<int64_t>(bytes.bytes)));
}

napi_value PackSymbols(Call& call) {
  const HostArray symbols = call.AnyArray(1, "symbols");
  const int64_t groups = static_cast<int64_t>(symbols.bytes);
  uint8_t* nibbles = HostBytes(call, 0, "nibbles", (groups + 1) / 2);
  call.Apart("nibbles", nibbles, (groups + 1) / 2, "symbols", symbols.data, groups);
  return Boolean(call, HostCodec(call).pack_symbols(call.host().context, nibbles,
                                                    static_cast<const uint8_t*>(symbols.data), groups) != 0);
}

napi_value UnpackSymbols(Call& call) {
  const HostArray symbols = call.AnyArray(0, "symbols");
  const int64_t groups = static_cast<int64_t>(symbols.bytes);
  const uint8_t* nibbles = HostBytes(call, 1, "nibbles", (groups + 1) / 2);
  call.Apart("symbols", symbols.data, groups, "nibbles", nibbles, (groups + 1) / 2);
  return Boolean(call, HostCodec(call).unpack_symbols(call.host().context, static_cast<uint8_t*>(symbols.data), nibbles,
                                                      groups) != 0);
}

}  // namespace

void ExportCodec(napi_env env, napi_value exports) {
  const Export list[] = {
      {"encodeMasks", Bind<EncodeMasks, 6>},     {"countSymbols", Bind<CountSymbols, 2>},
      {"encodePatches", Bind<EncodePatches, 6>}, {"applyChanges", Bind<ApplyChanges, 5>},
      {"findChanges", Bind<FindChanges, 5>},     {"crc32c", Bind<Crc32c, 1>},
      {"packSymbols", Bind<PackSymbols, 2>},     {"unpackSymbols", Bind<UnpackSymbols, 2>},
  };
  ExportAll(env, exports, list, sizeof(list) / sizeof(list[0]));
}

}  // namespace maskserve
