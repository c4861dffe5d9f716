// Container chunks decoded by the kernels, bit for bit as the CPU's coder wrote them, and damaged ones as it takes
// them.

#include "cases.h"

namespace {

using namespace maskserve::cuda;

struct Coder {
  const char* name;
  uint32_t id;
};

int64_t StepsOf(const ms_mask_tensor& t) {
  return (t.groups + 31) / 32;
}

void FitSymbols(Entry& entry, uint32_t dense_coder) {
  const int64_t contexts = entry.tensors.front()->view.contexts;
  std::vector<uint32_t> counts(static_cast<size_t>(8 * contexts));
  for (ms_mask_tensor view : entry.Views()) {
    int32_t bad = 0;
    view.coder = dense_coder;
    cpu->codec->count_symbols(context, &view, counts.data(), &bad);
    Expect(bad == 0, "the corpus has a mask that is none");
  }
  std::vector<uint16_t> starts;
  for (int64_t c = 0; c < contexts; ++c) {
    const std::vector<uint16_t> table = FittedStarts(counts.data() + 8 * c, 6, 8);
    starts.insert(starts.end(), table.begin(), table.end());
  }
  for (auto& tensor : entry.tensors) tensor->starts = starts;
}

std::vector<ms_mask_chunk> Encoded(std::vector<Bytes>& bytes, const Entry& entry, int64_t chunk_steps) {
  const std::vector<ms_mask_tensor> views = entry.Views();
  const int64_t steps = views.back().first_step + StepsOf(views.back());
  const size_t count = static_cast<size_t>((steps + chunk_steps - 1) / chunk_steps);
  bytes.assign(count, Bytes(static_cast<size_t>(256 + 64 * chunk_steps)));
  std::vector<ms_mask_output> outputs;
  for (Bytes& b : bytes) outputs.push_back({b.data(), static_cast<int64_t>(b.size()), 0, 0, -1});
  cpu->codec->encode_masks(context, views.data(), static_cast<int64_t>(views.size()), chunk_steps, 0, outputs.data(),
                           static_cast<int64_t>(count));
  std::vector<ms_mask_chunk> chunks;
  for (size_t c = 0; c < count; ++c) {
    Expect(outputs[c].status == MS_CHUNK_OK, "the chunk can't be encoded", static_cast<int64_t>(c));
    bytes[c].resize(static_cast<size_t>(outputs[c].length));
    chunks.push_back({bytes[c].data(), outputs[c].length, outputs[c].checksum, -1});
  }
  return chunks;
}

struct Decoded {
  std::vector<int32_t> status;
  std::vector<Bytes> masks;
};

// fn(tensors, chunks): a decoder.
template <typename Fn>
Decoded Decode(const Entry& entry, std::vector<ms_mask_chunk> chunks, const Fn& fn) {
  std::vector<ms_mask_tensor> views = entry.Views();
  Decoded decoded;
  for (const auto& tensor : entry.tensors) decoded.masks.emplace_back(tensor->mask.size());
  for (size_t t = 0; t < views.size(); ++t) views[t].mask = decoded.masks[t].data();
  fn(views, chunks);
  for (const ms_mask_chunk& chunk : chunks) decoded.status.push_back(chunk.status);
  return decoded;
}

Decoded OnDevice(const Entry& entry, const std::vector<ms_mask_chunk>& chunks, int64_t chunk_steps) {
  return Decode(entry, chunks, [&](std::vector<ms_mask_tensor>& views, std::vector<ms_mask_chunk>& of) {
    const int64_t steps = views.back().first_step + StepsOf(views.back());
    decode_masks(views.data(), static_cast<int64_t>(views.size()), chunk_steps, 0, steps, of.data(),
                 static_cast<int64_t>(of.size()), nullptr);
  });
}

Decoded OnCpu(const Entry& entry, const std::vector<ms_mask_chunk>& chunks, int64_t chunk_steps) {
  return Decode(entry, chunks, [&](std::vector<ms_mask_tensor>& views, std::vector<ms_mask_chunk>& of) {
    cpu->codec->decode_masks(context, views.data(), static_cast<int64_t>(views.size()), chunk_steps, 0, of.data(),
                             static_cast<int64_t>(of.size()));
  });
}

void DamagedChunks(Random& random, const Entry& entry, const std::vector<Bytes>& bytes, int64_t chunk_steps) {
  std::vector<Bytes> damaged;
  std::vector<ms_mask_chunk> chunks;
  for (const Bytes& b : bytes) damaged.push_back(Damaged(random, b));
  for (const Bytes& b : damaged) {
    const int64_t length = static_cast<int64_t>(b.size());
    chunks.push_back({b.data(), length, cpu->codec->crc32c(b.data(), length), -1});
  }
  const Decoded device = OnDevice(entry, chunks, chunk_steps), host = OnCpu(entry, chunks, chunk_steps);
  ExpectSame(device.status, host.status, "what became of damaged chunks");
}

CASE(SymbolChunks, "chunks of symbols decode to the CPU's nibbles, with every coder") {
  const Coder coders[] = {{"uniform", MS_CODER_UNIFORM},
                          {"static", MS_CODER_STATIC},
                          {"parent", MS_CODER_PARENT},
                          {"weights", MS_CODER_WEIGHTS},
                          {"scaled-weights", MS_CODER_SCALED_WEIGHTS},
                          {"parent+weights", MS_CODER_PARENT_WEIGHTS}};
  Random random{11};
  for (const Coder& coder : coders) {
    for (int64_t round = 0; round < 12; ++round) {
      Entry entry = RandomEntry(random, coder.id);
      FitSymbols(entry, coder.id);
      for (const int64_t chunk_steps : {entry.chunk_steps, int64_t{128}, int64_t{5}}) {
        std::vector<Bytes> bytes;
        const std::vector<ms_mask_chunk> chunks = Encoded(bytes, entry, chunk_steps);
        const Decoded decoded = OnDevice(entry, chunks, chunk_steps);
        for (size_t c = 0; c < chunks.size(); ++c) {
          Expect(decoded.status[c] == MS_CHUNK_OK, coder.name, round, chunk_steps, static_cast<int64_t>(c));
        }
        for (size_t t = 0; t < decoded.masks.size(); ++t) {
          ExpectSame(decoded.masks[t], entry.tensors[t]->mask, coder.name, round);
        }
        DamagedChunks(random, entry, bytes, chunk_steps);
      }
    }
  }
}

CASE(Checksums, "chunks are compared with their checksums, whatever their length") {
  Random random{14};
  std::vector<Bytes> bytes;
  std::vector<ms_mask_chunk> chunks;
  std::vector<int32_t> expected;
  for (int64_t length = 0; length < 600; length += 1 + length / 130) bytes.emplace_back(static_cast<size_t>(length));
  for (const size_t length : {4096, 21186, 21189}) bytes.emplace_back(length);
  for (Bytes& of : bytes) {
    for (uint8_t& byte : of) byte = static_cast<uint8_t>(random.Next() >> 16);
    const int64_t length = static_cast<int64_t>(of.size());
    const uint32_t checksum = cpu->codec->crc32c(of.data(), length);
    const bool whole = random.Below(3) != 0;
    chunks.push_back({of.data(), length, whole ? checksum : checksum ^ 1u << random.Below(32), -1});
    expected.push_back(whole ? MS_CHUNK_OK : MS_CHUNK_CHECKSUM);
  }
  const auto* tables = static_cast<const uint8_t*>(checksum_tables());
  const Bytes uploaded(tables, tables + kChecksumTableBytes);
  check_chunks(chunks.data(), static_cast<int64_t>(chunks.size()), uploaded.data(), nullptr);
  for (size_t c = 0; c < chunks.size(); ++c) Expect(chunks[c].status == expected[c], "length", chunks[c].length);
}

CASE(MagnitudeMasks, "magnitude masks are the CPU's") {
  Random random{12};
  for (int round = 0; round < 10; ++round) {
    const Entry entry = RandomEntry(random, MS_CODER_WEIGHTS);
    for (const ms_mask_tensor& view : entry.Views()) {
      const int64_t bytes = (view.groups + 1) / 2;
      Bytes device(static_cast<size_t>(bytes)), host(device.size());
      ms_mask_tensor tensor = view;
      tensor.coder = MS_CODER_MAGNITUDE;
      tensor.mask = host.data();
      cpu->codec->magnitude_mask(context, &tensor);
      magnitude_mask(device.data(), view.weights, view.groups, nullptr);
      ExpectSame(device, host, "magnitude", view.groups);
    }
  }
}

// Positions, codes and the patched masks of all tensors, where the chunk is whole.
struct Patched {
  int32_t status;
  std::vector<uint32_t> positions;
  Bytes codes, masks;
};

Patched DecodePatch(const Entry& entry, const Bytes& bytes, bool on_device) {
  std::vector<ms_mask_tensor> views = entry.Views();
  Patched patched{-1, {}, {}, {}};
  size_t changes = 0;
  for (const ms_mask_tensor& view : views) changes += static_cast<size_t>(view.changes);
  patched.positions.resize(changes);
  patched.codes.resize(changes);
  changes = 0;
  for (ms_mask_tensor& view : views) {
    view.positions = patched.positions.data() + changes;
    view.codes = patched.codes.data() + changes;
    changes += static_cast<size_t>(view.changes);
  }
  const int64_t length = static_cast<int64_t>(bytes.size()), first[] = {0, static_cast<int64_t>(views.size())};
  ms_mask_chunk chunk{bytes.data(), length, cpu->codec->crc32c(bytes.data(), length), -1};
  if (on_device)
    decode_patches(views.data(), first, entry.gaps.data(), &chunk, 1, nullptr);
  else
    cpu->codec->decode_patches(context, views.data(), first, entry.gaps.data(), &chunk, 1);
  patched.status = chunk.status;
  if (chunk.status != MS_CHUNK_OK) return {chunk.status, {}, {}, {}};
  for (const ms_mask_tensor& view : views) {
    Bytes mask(static_cast<size_t>((view.groups + 1) / 2));
    if (on_device)
      apply_changes(mask.data(), view.parent, view.groups, view.positions, view.codes, view.changes, nullptr);
    else
      cpu->codec->apply_changes(context, mask.data(), view.parent, view.groups, view.positions, view.codes,
                                view.changes);
    patched.masks.insert(patched.masks.end(), mask.begin(), mask.end());
  }
  return patched;
}

CASE(PatchChunks, "chunks of patches decode to the CPU's changes and apply as there") {
  const Coder coders[] = {{"patch", MS_CODER_PATCH}, {"patch+weights", MS_CODER_PATCH_WEIGHTS}};
  Random random{13};
  for (const Coder& coder : coders) {
    for (int64_t round = 0; round < 25; ++round) {
      Entry entry = RandomEntry(random, coder.id);
      FitSymbols(entry, coder.id == MS_CODER_PATCH ? MS_CODER_PARENT : MS_CODER_PARENT_WEIGHTS);
      uint32_t counts[64];
      for (uint32_t& count : counts) count = static_cast<uint32_t>(1 + random.Below(100));
      entry.gaps = FittedStarts(counts, 64, 65);
      const std::vector<ms_mask_tensor> views = entry.Views();
      const int64_t first[] = {0, static_cast<int64_t>(views.size())};
      Bytes bytes(1 << 20);
      ms_mask_output output{bytes.data(), static_cast<int64_t>(bytes.size()), 0, 0, -1};
      cpu->codec->encode_patches(context, views.data(), first, entry.gaps.data(), &output, 1);
      Expect(output.status == MS_CHUNK_OK, coder.name, round);
      bytes.resize(static_cast<size_t>(output.length));
      const Patched device = DecodePatch(entry, bytes, true), host = DecodePatch(entry, bytes, false);
      Expect(device.status == MS_CHUNK_OK && host.status == MS_CHUNK_OK, coder.name, round, device.status);
      ExpectSame(device.positions, host.positions, coder.name, round);
      ExpectSame(device.codes, host.codes, coder.name, round);
      ExpectSame(device.masks, host.masks, coder.name, round);
      const Bytes damaged = Damaged(random, bytes);
      Expect(DecodePatch(entry, damaged, true).status == DecodePatch(entry, damaged, false).status, "damaged", round);
    }
  }
}

}  // namespace
