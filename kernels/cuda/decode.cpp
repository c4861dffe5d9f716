#include "decode.h"

#include <algorithm>
#include <vector>

#include "launch.h"
#include "op.h"

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

ms_status DecodeMasks(ms_context* ctx, const ms_mask_tensor* tensors, int64_t count, int64_t chunk_steps,
                      int64_t first_step, ms_mask_chunk* chunks, int64_t chunk_count) {
  return Run(ctx, [&](Op& op) {
    if (count == 0 || chunk_count == 0) return;
    const ms_mask_tensor& last = tensors[count - 1];
    const ms_mask_tensor* moved = UploadTensors(op, tensors, count);
    ms_mask_chunk* moved_chunks = UploadChunks(op, chunks, chunk_count);
    decode_masks(moved, count, chunk_steps, first_step, last.first_step + StepsOf(last), moved_chunks, chunk_count,
                 op.stream());
    std::vector<ms_mask_chunk> decoded(static_cast<size_t>(chunk_count));
    op.Fetch(decoded.data(), moved_chunks, decoded.size() * sizeof(ms_mask_chunk));
    for (int64_t c = 0; c < chunk_count; ++c) chunks[c].status = decoded[static_cast<size_t>(c)].status;
  });
}

}  // namespace

const ms_codec_ops* DecodeOps() {
  static const ms_codec_ops* const ops = [] {
    auto* made = new ms_codec_ops{};
    made->decode_masks = DecodeMasks;
    return made;
  }();
  return ops;
}

}  // namespace cuda
}  // namespace maskserve
