// Chunks of symbols (FORMAT.md §8.2) to nibbles. Whatever the bytes, nothing outside them and the tensors is touched:
// the states give some symbol for every slot, and words after the end are zeros until the chunk is found to overrun.

#include <time.h>

#include "checksum.h"
#include "coders24.h"
#include "compress_block24.h"
#include "read_file.h"
#include "words.h"

namespace maskserve {
namespace {

static_assert(kStepBytes <= kReadyBytes, "a step reads what Ready promises");

// 32 lanes: a step decodes at once.
struct ManyLanes {
  States states;

  MS_METHOD bool Open(Words& words, int64_t length) {
    if (length < 4 * kStep) return false;
    states = LoadStates(words.at);
    words.at += 4 * kStep;
    return !BelowLeast(states);
  }
  MS_METHOD bool Closed() const { return AllLeast(states); }

  template <typename Table>
  MS_METHOD Lanes Decode(const Table& table, const Starts*, Lanes context, int64_t groups, Words& words) {
    return table.Decode(states, context, FirstGroups(groups), words.at);
  }
};

// One lane: group after group.
struct SingleLane {
  uint32_t state;

  MS_METHOD bool Open(Words& words, int64_t length) {
    if (length < 4) return false;
    memcpy(&state, words.at, 4);
    words.at += 4;
    return state >= kLeastState;
  }
  MS_METHOD bool Closed() const { return state == kLeastState; }

  template <typename Table>
  MS_METHOD Lanes Decode(const Table&, const Starts* starts, Lanes context, int64_t groups, Words& words) {
    uint16_t contexts[kStep], symbols[kStep] = {};
    StoreLanes(contexts, context);
    for (int64_t i = 0; i < groups; ++i) {
      symbols[i] = static_cast<uint16_t>(DecodeOne(state, starts[contexts[i]], words.at));
    }
    return LoadLanes(symbols);
  }
};

MS_INLINE void StoreNibbles(uint8_t* out, Lanes nibbles, int64_t groups) {
  if (groups == kStep) return StoreLaneNibbles(out, nibbles);
  uint8_t bytes[kStep / 2];
  StoreLaneNibbles(bytes, nibbles);
  if (groups % 2 != 0) bytes[groups / 2] &= 15;
  memcpy(out, bytes, static_cast<size_t>((groups + 1) / 2));
}

template <uint32_t kCoder>
MS_INLINE auto TableFor(const ms_mask_tensor& tensor, const Starts* starts) {
  if constexpr (HasContexts(kCoder))
    return TableOfContext(starts, static_cast<int>(tensor.contexts));
  else
    return OneTable(starts);
}

// Steps [begin, end) of one tensor, to `mask`: nibbles from the first of them on, or NULL. kFetch: their weights are
// wanted next.
template <typename Lane, bool kFetch>
struct DecodeSteps {
  const ms_mask_tensor& tensor;
  Lane& lane;
  Words& words;
  int64_t begin, end;
  uint8_t* mask;

  template <uint32_t kCoder>
  bool Run() {
    const Starts* starts = reinterpret_cast<const Starts*>(tensor.starts);
    const auto table = TableFor<kCoder>(tensor, starts);
    InputSteps inputs(tensor);
    for (int64_t step = begin; step < end; ++step) {
      words.Ready();
      if (words.Overrun()) return false;
      const int64_t group = step * kStep, groups = Min(kStep, tensor.groups - group);
      if (kFetch) {
        for (int64_t i = 0; i < groups; i += 8) __builtin_prefetch(tensor.weights + 4 * (group + i));
      }
      const Known known = Look<kCoder>(inputs.template At<kCoder>(group, groups));
      const Lanes coded = lane.Decode(table, starts, known.context, groups, words);
      if (mask != nullptr) {
        StoreNibbles(mask + (step - begin) * (kStep / 2), NibblesOfCoded<kCoder>(coded, known), groups);
      }
    }
    return true;
  }
};

// Where the nibbles of a tensor's steps go, kSteps at most at a time: to its mask …
struct ToMask {
  static constexpr int64_t kSteps = INT64_MAX;
  static constexpr bool kWeights = false;

  MS_METHOD uint8_t* Begin(const ms_mask_tensor& tensor, int64_t step) {
    return tensor.mask == nullptr ? nullptr : tensor.mask + step * (kStep / 2);
  }
  MS_METHOD void End(const ms_mask_tensor&, int64_t, int64_t) {}
};

MS_INLINE int64_t Nanoseconds() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{1000000000} * now.tv_sec + now.tv_nsec;
}

// … or with the weights to packed form. So few steps that their weights, fetched while they are decoded, are still in
// the cache when they are picked. A step is two blocks.
struct ToPacked {
  static constexpr int64_t kSteps = 256;
  static constexpr bool kWeights = true;

  int64_t compressing = 0;  // nanoseconds
  alignas(64) uint8_t room[kSteps * kStep / 2];

  MS_METHOD uint8_t* Begin(const ms_mask_tensor&, int64_t) { return room; }
  MS_METHOD void End(const ms_mask_tensor& tensor, int64_t begin, int64_t end) {
    const int64_t started = Nanoseconds();
    const int64_t k = tensor.cols, per_row = k / kBlock24, n = tensor.groups * 4 / k;
    const PackedOut24 out = {tensor.packed, n, k};
    const uint8_t* meta = room;
    const int64_t last = Min(2 * end, n * per_row);
    for (int64_t block = 2 * begin; block < last;) {
      const int64_t row = block / per_row, to = Min(last, (row + 1) * per_row);
      const PackedOut24::Rows rows = out.From(row);
      for (; block < to; ++block, meta += 8) {
        const int64_t column = (block - row * per_row) * kBlock24;
        CompressBlock24(rows.Whole(rows, 0, column), tensor.weights + block * kBlock24, meta);
      }
    }
    compressing += Nanoseconds() - started;
  }
};

template <typename Lane, typename Sink>
bool DecodeLanes(const ms_mask_tensor* tensors, int64_t count, int64_t step, int64_t steps, const ms_mask_chunk& chunk,
                 Sink& sink) {
  Words words(chunk.bytes, chunk.length);
  Lane lane;
  if (!lane.Open(words, chunk.length)) return false;
  for (int64_t t = TensorOfStep(tensors, count, step); steps > 0;) {
    const int64_t begin = step - tensors[t].first_step, whole = StepsOf(tensors[t]);
    const int64_t end = begin + Min(Min(steps, Sink::kSteps), whole - begin);
    DecodeSteps<Lane, Sink::kWeights> body{tensors[t], lane, words, begin, end, sink.Begin(tensors[t], begin)};
    if (!WithCoder(tensors[t].coder, body)) return false;
    sink.End(tensors[t], begin, end);
    step += end - begin;
    steps -= end - begin;
    if (end == whole) ++t;
  }
  return words.AtEnd() && lane.Closed();
}

// Room for a chunk of a file for each thread: who decodes it reads it, and it stays in its cache.
struct ChunkRoom {
  int64_t longest = 0;
  uint8_t* bytes;

  bool Take(ms_context* ctx, const ms_mask_chunk* chunks, int64_t count) {
    for (int64_t c = 0; c < count; ++c) longest = Max(longest, chunks[c].length);
    const size_t all = static_cast<size_t>(longest * Threads(ctx));
    bytes = static_cast<uint8_t*>(Scratch(ctx, all));
    if (bytes == nullptr) FailMemory(ctx, all);
    return bytes != nullptr;
  }
  const uint8_t* Read(const ms_chunk_file& file, int64_t c, int64_t length, int worker) const {
    uint8_t* to = bytes + worker * longest;
    ReadFileBytes(file.descriptor, file.offsets[c], to, length);
    return to;
  }
};

template <typename Sink>
void DecodeChunk(const ms_mask_tensor* tensors, int64_t count, int64_t step, int64_t steps, ms_mask_chunk& chunk,
                 Sink& sink) {
  if (Crc32c(chunk.bytes, chunk.length) != chunk.checksum) {
    chunk.status = MS_CHUNK_CHECKSUM;
    return;
  }
  const bool whole = steps < kLeastLaneSteps ? DecodeLanes<SingleLane>(tensors, count, step, steps, chunk, sink)
                                             : DecodeLanes<ManyLanes>(tensors, count, step, steps, chunk, sink);
  chunk.status = whole ? MS_CHUNK_OK : MS_CHUNK_OVERRUN;
}

}  // namespace

namespace ISA {

ms_status DecodeMasks(ms_context* ctx, const ms_mask_tensor* tensors, int64_t count, int64_t chunk_steps,
                      int64_t first_step, ms_mask_chunk* chunks, int64_t chunk_count) {
  const int64_t all_steps = tensors[count - 1].first_step + StepsOf(tensors[count - 1]);
  auto body = [&](int64_t c, int) {
    const int64_t step = first_step + c * chunk_steps, steps = Min(chunk_steps, all_steps - step);
    ToMask sink;
    DecodeChunk(tensors, count, step, steps, chunks[c], sink);
  };
  Parallel(ctx, chunk_count, body);
  return MS_OK;
}

ms_status DecodeCompressed(ms_context* ctx, const ms_mask_tensor* tensors, int64_t count, int64_t chunk_steps,
                           int64_t first_step, ms_mask_chunk* chunks, int64_t chunk_count, const ms_chunk_file* file,
                           double* share) {
  const int64_t all_steps = tensors[count - 1].first_step + StepsOf(tensors[count - 1]);
  ChunkRoom room;
  if (file != nullptr && !room.Take(ctx, chunks, chunk_count)) return MS_OUT_OF_MEMORY;
  int64_t all = 0, compressing = 0;
  auto body = [&](int64_t c, int worker) {
    const int64_t started = Nanoseconds();
    const int64_t step = first_step + c * chunk_steps, steps = Min(chunk_steps, all_steps - step);
    ms_mask_chunk chunk = chunks[c];
    if (file != nullptr) chunk.bytes = room.Read(*file, c, chunk.length, worker);
    ToPacked sink;
    DecodeChunk(tensors, count, step, steps, chunk, sink);
    chunks[c].status = chunk.status;
    EndStreams24();
    __atomic_fetch_add(&compressing, sink.compressing, __ATOMIC_RELAXED);
    __atomic_fetch_add(&all, Nanoseconds() - started, __ATOMIC_RELAXED);
  };
  Parallel(ctx, chunk_count, body);
  *share = all > 0 ? static_cast<double>(compressing) / static_cast<double>(all) : 0;
  return MS_OK;
}

ms_status MagnitudeMask(ms_context* ctx, const ms_mask_tensor* tensor) {
  auto body = [&](int64_t begin, int64_t end, int) {
    InputSteps inputs(*tensor);
    for (int64_t step = begin; step < end; ++step) {
      const int64_t group = step * kStep, groups = Min(kStep, tensor->groups - group);
      const Known known = Look<MS_CODER_MAGNITUDE>(inputs.template At<MS_CODER_MAGNITUDE>(group, groups));
      StoreNibbles(tensor->mask + group / 2, NibblesOfCoded<MS_CODER_MAGNITUDE>(SetLanes(0), known), groups);
    }
  };
  ParallelRanges(ctx, StepsOf(*tensor), 2048, body);
  return MS_OK;
}

}  // namespace ISA
}  // namespace maskserve
