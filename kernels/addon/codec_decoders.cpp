// The mask codec's decoders (codec/FORMAT.md §7–§9), for 2:4: by the CPU, or by the device whose memory masks, weights
// or packed matrices are in.

#include "bindings.h"
#include "check.h"
#include "codec_arguments.h"

namespace maskserve {

namespace {

constexpr TensorUse kDecoded{true, true, true, false, true, false}, kCompressed{true, false, false, false, true, true},
    kFilled{false, true, false, false, true, false}, kFilledOnHost{false, true, false, false, false, false},
    kChanged{true, false, false, true, true, false};

// `decoder` of the coders of tensors' place.
template <typename Decoder>
Decoder DecoderOf(Call& call, const CodedTensors& tensors, Decoder ms_codec_ops::*decoder) {
  const ms_codec_ops* codec = tensors.place() == nullptr ? &HostCodec(call) : tensors.place()->codec;
  if (codec != nullptr && codec->*decoder != nullptr) return codec->*decoder;
  call.Fail(CallError::kType, "expected masks and weights in host memory: this device decodes none");
}

const Runner& RunnerOf(Call& call, const CodedTensors& tensors) {
  return tensors.place() == nullptr ? call.host() : call.Device(tensors.place());
}

// Arguments of the decoders of symbol chunks.
struct ChunkRun {
  CodedTensors tensors;
  int64_t chunk_steps, first;
  CodedChunks chunks;

  ChunkRun(Call& call, TensorUse use, CodedChunks::Place place)
      : tensors(call, 0, use),
        chunk_steps(ChunkSteps(call, 1)),
        first(call.Index(2, "firstStep")),
        chunks(call, 3, place) {
    tensors.RequireSymbolCoders(call);
    call.AtMost("firstStep", first, "the steps of all tensors", tensors.steps());
    const int64_t left = (tensors.steps() - first + chunk_steps - 1) / chunk_steps;
    call.AtMost("chunks", chunks.count(), "those from firstStep", left);
  }
};

napi_value DecodeMasks(Call& call) {
  ChunkRun run(call, kDecoded, CodedChunks::Place::kMemory);
  const auto decode = DecoderOf(call, run.tensors, &ms_codec_ops::decode_masks);
  const Runner& runner = RunnerOf(call, run.tensors);
  call.Check(decode(runner.context, run.tensors.data(), run.tensors.count(), run.chunk_steps, run.first,
                    run.chunks.data(), run.chunks.count()),
             runner);
  run.tensors.FetchMasks(call);
  run.chunks.WriteStatuses();
  return nullptr;
}

napi_value DecodeCompressed(Call& call) {
  ChunkRun run(call, kCompressed, CodedChunks::Place::kFileToo);
  const auto decode = DecoderOf(call, run.tensors, &ms_codec_ops::decode_compressed);
  const Runner& runner = RunnerOf(call, run.tensors);
  double share = 0;
  call.Check(decode(runner.context, run.tensors.data(), run.tensors.count(), run.chunk_steps, run.first,
                    run.chunks.data(), run.chunks.count(), run.chunks.file(), &share),
             runner);
  run.chunks.WriteStatuses();
  return JsNumber(call, share);
}

napi_value MagnitudeMask(Call& call) {
  CodedTensors tensor(call, kFilled, call.argument(0));
  call.Require(tensor.data()->coder == MS_CODER_MAGNITUDE, "coder", "to be 10", tensor.data()->coder);
  const Runner& runner = RunnerOf(call, tensor);
  call.Check(DecoderOf(call, tensor, &ms_codec_ops::magnitude_mask)(runner.context, tensor.data()), runner);
  tensor.FetchMasks(call);
  return nullptr;
}

napi_value DecodePatches(Call& call) {
  const CodedTensors tensors(call, 0, kChanged);
  tensors.RequireOneCoder(call);
  const std::vector<int64_t> first = tensors.PatchChunks(call.Count(1, "fullChunk"));
  const std::vector<uint16_t> gaps = WideStarts(call, 2, "gaps");
  CodedChunks chunks(call, 3);
  const int64_t count = static_cast<int64_t>(first.size()) - 1;
  call.Require(chunks.count() == count, "chunks", "to be as many as the tensors fill", double(chunks.count()));
  const auto decode = DecoderOf(call, tensors, &ms_codec_ops::decode_patches);
  const Runner& runner = RunnerOf(call, tensors);
  call.Check(decode(runner.context, tensors.data(), first.data(), gaps.data(), chunks.data(), count), runner);
  chunks.WriteStatuses();
  return nullptr;
}

napi_value DecodeScales(Call& call) {
  const HostArray bytes = call.AnyArray(0, "chunk");
  const double checksum = call.Number(1, "checksum");
  call.Require(checksum >= 0 && checksum <= 4294967295.0, "checksum", "to be a u32", checksum);
  const std::vector<uint16_t> starts = WideStarts(call, 2, "starts");
  const HostArray scales = call.AnyArray(3, "scales");
  ms_mask_chunk chunk = {static_cast<const uint8_t*>(bytes.data), static_cast<int64_t>(bytes.bytes),
                         static_cast<uint32_t>(checksum), MS_CHUNK_OK};
  CheckHost(call, HostCodec(call).decode_scales(call.host().context, &chunk, starts.data(),
                                                static_cast<int16_t*>(scales.data),
                                                static_cast<int64_t>(scales.bytes / sizeof(int16_t))));
  return JsNumber(call, chunk.status);
}

napi_value DecodeUniformAc(Call& call) {
  const CodedTensors tensor(call, kFilledOnHost, call.argument(0));
  call.Require(tensor.data()->coder == MS_CODER_UNIFORM_AC, "coder", "to be 1", tensor.data()->coder);
  const int64_t chunk_symbols = call.Count(1, "chunkSymbols");
  call.Require(chunk_symbols % 2 == 0, "chunkSymbols", "to be even", double(chunk_symbols));
  CodedChunks chunks(call, 2);
  const int64_t count = (tensor.data()->groups + chunk_symbols - 1) / chunk_symbols;
  call.Require(chunks.count() == count, "chunks", "to be as many as the tensor fills", double(chunks.count()));
  CheckHost(call,
            HostCodec(call).decode_uniform_ac(call.host().context, tensor.data(), chunk_symbols, chunks.data(), count));
  chunks.WriteStatuses();
  return nullptr;
}

}  // namespace

void ExportCodecDecoders(napi_env env, napi_value exports) {
  const Export list[] = {
      {"decodeMasks", Bind<DecodeMasks, 4>},     {"decodeCompressed", Bind<DecodeCompressed, 4>},
      {"magnitudeMask", Bind<MagnitudeMask, 1>}, {"decodePatches", Bind<DecodePatches, 4>},
      {"decodeScales", Bind<DecodeScales, 4>},   {"decodeUniformAc", Bind<DecodeUniformAc, 3>},
  };
  ExportAll(env, exports, list, sizeof(list) / sizeof(list[0]));
}

}  // namespace maskserve
