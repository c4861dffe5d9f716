#include "decode.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <memory>
#include <numeric>
#include <vector>

#include "chunk_run.h"
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

int64_t EndOf(const ms_mask_tensor& tensor) {
  return tensor.first_step + StepsOf(tensor);
}

int64_t RowsOf(const ms_mask_tensor& tensor) {
  return tensor.groups * 4 / tensor.cols;
}

// Tables of many tensors, which go to the device in one copy.
class Tables {
 public:
  // Where `count` elements will lie in the copy.
  template <typename T>
  size_t Add(const T* host, int64_t count) {
    constexpr size_t kAlignment = 16;
    const size_t at = (bytes_.size() + kAlignment - 1) / kAlignment * kAlignment;
    bytes_.resize(at + static_cast<size_t>(count) * sizeof(T));
    std::memcpy(bytes_.data() + at, host, static_cast<size_t>(count) * sizeof(T));
    return at;
  }
  const char* Upload(Op& op) const { return op.Upload(bytes_.data(), static_cast<int64_t>(bytes_.size())); }

 private:
  std::vector<char> bytes_;
};

// The tensors with their tables on the device; masks, weights and parents are there already.
const ms_mask_tensor* UploadTensors(Op& op, const ms_mask_tensor* tensors, int64_t count) {
  std::vector<ms_mask_tensor> moved(tensors, tensors + count);
  Tables tables;
  std::vector<size_t> starts, scales;
  for (const ms_mask_tensor& tensor : moved) {
    starts.push_back(tensor.starts == nullptr ? 0 : tables.Add(tensor.starts, tensor.contexts * kTableEntries));
    scales.push_back(tensor.scales == nullptr ? 0 : tables.Add(tensor.scales, tensor.cols));
  }
  const char* device = tables.Upload(op);
  for (size_t i = 0; i < moved.size(); ++i) {
    ms_mask_tensor& tensor = moved[i];
    if (tensor.starts != nullptr) tensor.starts = reinterpret_cast<const uint16_t*>(device + starts[i]);
    if (tensor.scales != nullptr) tensor.scales = reinterpret_cast<const int16_t*>(device + scales[i]);
  }
  return op.Upload(moved.data(), count);
}

// Symbol chunks of the sequence of all steps of tensors, as codec.h has it.
struct Symbols {
  const ms_mask_tensor* tensors;
  int64_t count, chunk_steps, first_step;

  // Launches their decoding, and for each batch after(the step after its last).
  template <typename After>
  void Decode(Op& op, ChunkRun& run, const After& after) const {
    const ms_mask_tensor* moved = UploadTensors(op, tensors, count);
    const int64_t all_steps = EndOf(tensors[count - 1]);
    run.ForEach(
        [&](ms_mask_chunk* chunks, int64_t begin, int64_t end) {
          decode_masks(moved, count, chunk_steps, first_step + begin * chunk_steps, all_steps, chunks + begin,
                       end - begin, op.stream());
        },
        [&](int64_t end) { after(first_step + end * chunk_steps); });
  }
};

ms_status DecodeMasks(ms_context* ctx, const ms_mask_tensor* tensors, int64_t count, int64_t chunk_steps,
                      int64_t first_step, ms_mask_chunk* chunks, int64_t chunk_count) {
  return Run(ctx, [&](Op& op) {
    if (count == 0 || chunk_count == 0) return;
    ChunkRun run(op, chunks, chunk_count, nullptr);
    Symbols{tensors, count, chunk_steps, first_step}.Decode(op, run, [](int64_t) {});
    run.FetchStatuses();
  });
}

// The time between two points of a stream, batch after batch.
class Stopwatch {
 public:
  explicit Stopwatch(cudaStream_t stream) : stream_(stream) {}
  void Start() { Mark(); }
  void Stop() { Mark(); }
  // All of it has passed.
  double Milliseconds() const {
    double sum = 0;
    for (size_t i = 0; i + 1 < marks_.size(); i += 2) sum += marks_[i]->MillisecondsTo(*marks_[i + 1]);
    return sum;
  }

 private:
  void Mark() {
    marks_.push_back(std::make_unique<Event>(0));
    marks_.back()->Record(stream_);
  }

  cudaStream_t stream_;
  std::vector<std::unique_ptr<Event>> marks_;
};

// Nibbles are decoded to where the packed form keeps them; a tensor whose last step has been decoded is compacted from
// there, one that reaches into later chunks when those are. What is made of damaged chunks nobody uses.
ms_status DecodeCompressed(ms_context* ctx, const ms_mask_tensor* tensors, int64_t count, int64_t chunk_steps,
                           int64_t first_step, ms_mask_chunk* chunks, int64_t chunk_count, const ms_chunk_file* file,
                           double* host_share) {
  using Clock = std::chrono::steady_clock;
  const Clock::time_point begun = Clock::now();
  *host_share = 0;
  return Run(ctx, [&](Op& op) {
    if (count == 0 || chunk_count == 0) return;
    std::vector<ms_mask_tensor> aimed(tensors, tensors + count);
    for (ms_mask_tensor& tensor : aimed) tensor.mask = packed24_meta(tensor.packed, RowsOf(tensor), tensor.cols);
    uint64_t* bad = op.Bad();
    Stopwatch compacting(op.stream());
    size_t next = 0;
    ChunkRun run(op, chunks, chunk_count, file);
    Symbols{aimed.data(), count, chunk_steps, first_step}.Decode(op, run, [&](int64_t end) {
      compacting.Start();
      for (; next < aimed.size() && EndOf(aimed[next]) <= end; ++next) {
        const ms_mask_tensor& tensor = aimed[next];
        CompressInto(op, tensor.packed, tensor.weights, tensor.mask, RowsOf(tensor), tensor.cols, bad);
      }
      compacting.Stop();
    });
    if (!run.FetchStatuses()) return;
    RequirePatterns(op, bad);
    const double all = std::chrono::duration<double, std::milli>(Clock::now() - begun).count();
    *host_share = all > 0 ? std::min(1.0, compacting.Milliseconds() / all) : 0;
  });
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
    const int64_t* firsts = op.Upload(first, chunk_count + 1);
    const uint16_t* starts = op.Upload(gaps, kGapStarts);
    ChunkRun run(op, chunks, chunk_count, nullptr);
    run.ForEach(
        [&](ms_mask_chunk* moved_chunks, int64_t begin, int64_t end) {
          decode_patches(moved, firsts + begin, starts, moved_chunks + begin, end - begin, op.stream());
        },
        [](int64_t) {});
    if (!run.FetchStatuses()) return;
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
