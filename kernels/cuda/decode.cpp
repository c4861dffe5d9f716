#include "decode.h"

#include <algorithm>
#include <chrono>
#include <numeric>
#include <vector>

#include "launch.h"
#include "op.h"
#include "ops.h"

namespace maskserve {
namespace cuda {

namespace {

constexpr int64_t kGroupsOfStep = 32;
constexpr int64_t kTableEntries = 8;

int64_t StepsOf(const ms_mask_tensor& tensor) {
  return (tensor.groups + kGroupsOfStep - 1) / kGroupsOfStep;
}

// The tensors with their tables on the device; masks, weights and parents are there already.
const ms_mask_tensor* UploadTensors(Op& op, const ms_mask_tensor* tensors, int64_t count) {
  std::vector<ms_mask_tensor> moved(tensors, tensors + count);
  for (ms_mask_tensor& tensor : moved) {
    if (tensor.starts != nullptr) tensor.starts = op.Upload(tensor.starts, tensor.contexts * kTableEntries);
    if (tensor.scales != nullptr) tensor.scales = op.Upload(tensor.scales, tensor.cols);
  }
  return op.Upload(moved.data(), count);
}

// The chunks with their bytes, each at a multiple of 4, in one copy.
ms_mask_chunk* UploadChunks(Op& op, const ms_mask_chunk* chunks, int64_t count) {
  const auto padded = [](int64_t bytes) { return (bytes + 3) / 4 * 4; };
  int64_t total = 0;
  for (int64_t c = 0; c < count; ++c) total += padded(chunks[c].length);
  std::vector<uint8_t> bytes(static_cast<size_t>(std::max<int64_t>(total, 1)));
  // A word beyond the end may be read along with the last one.
  auto* device = op.Take<uint8_t>(total + 4);
  std::vector<ms_mask_chunk> moved(chunks, chunks + count);
  int64_t at = 0;
  for (ms_mask_chunk& chunk : moved) {
    std::copy(chunk.bytes, chunk.bytes + chunk.length, bytes.begin() + at);
    chunk.bytes = device + at;
    at += padded(chunk.length);
  }
  op.context()->staging.Upload(device, bytes.data(), static_cast<size_t>(total), op.stream());
  return op.Upload(moved.data(), count);
}

// What became of chunks.
void FetchStatuses(Op& op, const ms_mask_chunk* moved, ms_mask_chunk* chunks, int64_t count) {
  std::vector<ms_mask_chunk> decoded(static_cast<size_t>(count));
  op.Fetch(decoded.data(), moved, decoded.size() * sizeof(ms_mask_chunk));
  for (int64_t c = 0; c < count; ++c) chunks[c].status = decoded[static_cast<size_t>(c)].status;
}

bool AllWhole(const ms_mask_chunk* chunks, int64_t count) {
  return std::all_of(chunks, chunks + count, [](const ms_mask_chunk& chunk) { return chunk.status == MS_CHUNK_OK; });
}

ms_status DecodeMasks(ms_context* ctx, const ms_mask_tensor* tensors, int64_t count, int64_t chunk_steps,
                      int64_t first_step, ms_mask_chunk* chunks, int64_t chunk_count) {
  return Run(ctx, [&](Op& op) {
    if (count == 0 || chunk_count == 0) return;
    const ms_mask_tensor& last = tensors[count - 1];
    const ms_mask_tensor* moved = UploadTensors(op, tensors, count);
    ms_mask_chunk* moved_chunks = UploadChunks(op, chunks, chunk_count);
    decode_masks(moved, count, chunk_steps, first_step, last.first_step + StepsOf(last), moved_chunks, chunk_count,
                 op.stream());
    FetchStatuses(op, moved_chunks, chunks, chunk_count);
  });
}

int64_t RowsOf(const ms_mask_tensor& tensor) {
  return tensor.groups * 4 / tensor.cols;
}

// Nibbles are decoded to where the packed form keeps them; a tensor whose last step has been decoded is compacted from
// there, one that reaches into later chunks when those are.
ms_status DecodeCompressed(ms_context* ctx, const ms_mask_tensor* tensors, int64_t count, int64_t chunk_steps,
                           int64_t first_step, ms_mask_chunk* chunks, int64_t chunk_count, double* host_share) {
  using Clock = std::chrono::steady_clock;
  const Clock::time_point begun = Clock::now();
  std::vector<ms_mask_tensor> aimed(tensors, tensors + count);
  for (ms_mask_tensor& tensor : aimed) tensor.mask = packed24_meta(tensor.packed, RowsOf(tensor), tensor.cols);
  ms_status status = DecodeMasks(ctx, aimed.data(), count, chunk_steps, first_step, chunks, chunk_count);
  const Clock::time_point decoded = Clock::now();
  const int64_t end = first_step + chunk_count * chunk_steps;
  const bool whole = AllWhole(chunks, chunk_count);
  for (size_t i = 0; whole && status == MS_OK && i < aimed.size(); ++i) {
    const ms_mask_tensor& tensor = aimed[i];
    if (tensor.first_step + StepsOf(tensor) > end) continue;
    status =
        Compress24(ctx, tensor.packed, {MS_BF16, 0, tensor.weights, nullptr}, tensor.mask, RowsOf(tensor), tensor.cols);
  }
  const Clock::time_point ended = Clock::now();
  *host_share = ended == begun ? 0 : std::chrono::duration<double>(ended - decoded) / (ended - begun);
  return status;
}

ms_status MagnitudeMask(ms_context* ctx, const ms_mask_tensor* tensor) {
  return Run(ctx, [&](Op& op) {
    magnitude_mask(tensor->mask, tensor->weights, tensor->groups, op.stream());
    Require(cudaStreamSynchronize(op.stream()), "magnitudeMask");
  });
}

ms_status DecodePatches(ms_context* ctx, const ms_mask_tensor* tensors, const int64_t* first, const uint16_t* gaps,
                        ms_mask_chunk* chunks, int64_t chunk_count) {
  constexpr int64_t kGapStarts = 65;
  return Run(ctx, [&](Op& op) {
    const int64_t count = first[chunk_count];
    std::vector<ms_mask_tensor> aimed(tensors, tensors + count);
    const int64_t changes = std::accumulate(aimed.begin(), aimed.end(), int64_t{0},
                                            [](int64_t sum, const ms_mask_tensor& t) { return sum + t.changes; });
    auto* positions = op.Take<uint32_t>(changes);
    auto* codes = op.Take<uint8_t>(changes);
    int64_t at = 0;
    for (ms_mask_tensor& tensor : aimed) {
      if (tensor.packed_parent != nullptr) {
        tensor.parent = packed24_meta(tensor.packed_parent, RowsOf(tensor), tensor.cols);
      }
      tensor.positions = positions + at;
      tensor.codes = codes + at;
      at += tensor.changes;
    }
    const ms_mask_tensor* moved = UploadTensors(op, aimed.data(), count);
    ms_mask_chunk* moved_chunks = UploadChunks(op, chunks, chunk_count);
    decode_patches(moved, op.Upload(first, chunk_count + 1), op.Upload(gaps, kGapStarts), moved_chunks, chunk_count,
                   op.stream());
    FetchStatuses(op, moved_chunks, chunks, chunk_count);
    if (!AllWhole(chunks, chunk_count)) return;
    for (int64_t i = 0; i < count; ++i) {
      const ms_mask_tensor& from = aimed[static_cast<size_t>(i)];
      op.Fetch(tensors[i].positions, from.positions, static_cast<size_t>(from.changes) * sizeof(uint32_t));
      op.Fetch(tensors[i].codes, from.codes, static_cast<size_t>(from.changes));
    }
  });
}

}  // namespace

const ms_codec_ops* DecodeOps() {
  static const ms_codec_ops* const ops = [] {
    auto* made = new ms_codec_ops{};
    made->decode_masks = DecodeMasks;
    made->decode_compressed = DecodeCompressed;
    made->magnitude_mask = MagnitudeMask;
    made->decode_patches = DecodePatches;
    return made;
  }();
  return ops;
}

}  // namespace cuda
}  // namespace maskserve
