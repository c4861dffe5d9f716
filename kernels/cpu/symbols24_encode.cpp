// Nibbles to chunks of symbols (FORMAT.md §8.2), and the histograms that their tables are made from. Contexts and coded
// symbols are found forwards, a run of steps at a time; the runs are then coded backwards.

#include "checksum.h"
#include "coders24.h"
#include "rans_writer.h"

namespace maskserve {
namespace {

constexpr int64_t kRunSteps = 64;
constexpr int kStride = 8;  // symbols of a context, rounded up

// index[i] = 8 · context + symbol of group i of a run.
struct RunIndex {
  uint16_t of[kRunSteps * kStep];
};

// 1 for each nibble that is no pattern.
MS_INLINE bool AllPatterns(const uint8_t* nibbles, int64_t groups) {
  constexpr uint16_t kPatterns = 1 << 4 | 1 << 8 | 1 << 12 | 1 << 9 | 1 << 13 | 1 << 14;
  unsigned all = 1;
  for (int64_t i = 0; i < groups / 2; ++i) all &= kPatterns >> (nibbles[i] & 15) & kPatterns >> (nibbles[i] >> 4);
  if (groups % 2 != 0) all &= kPatterns >> (nibbles[groups / 2] & 15);
  return (all & 1) != 0;
}

MS_INLINE Lanes IndexOf(Lanes context, Lanes coded) {
  uint16_t c[kStep], s[kStep];
  StoreLanes(c, context);
  StoreLanes(s, coded);
  for (int i = 0; i < kStep; ++i) c[i] = static_cast<uint16_t>(kStride * c[i] + s[i]);
  return LoadLanes(c);
}

// Steps [begin, end) of one tensor; false where a nibble is no pattern.
struct IndexSteps {
  const ms_mask_tensor& tensor;
  int64_t begin, end;
  RunIndex& index;

  template <uint32_t kCoder>
  bool Run() {
    InputSteps inputs(tensor);
    for (int64_t step = begin; step < end; ++step) {
      const int64_t group = step * kStep, groups = Min(kStep, tensor.groups - group);
      uint8_t copy[kStep / 2] = {};
      const uint8_t* nibbles = tensor.mask + group / 2;
      if (!AllPatterns(nibbles, groups)) return false;
      if (groups < kStep) {
        memcpy(copy, nibbles, static_cast<size_t>((groups + 1) / 2));
        nibbles = copy;
      }
      const Known known = Look<kCoder>(inputs.template At<kCoder>(group, groups));
      const Lanes coded = CodedOfNibbles<kCoder>(LoadLaneNibbles(nibbles), known);
      StoreLanes(index.of + (step - begin) * kStep, IndexOf(known.context, coded));
    }
    return true;
  }
};

struct ManyLanesWriter {
  static constexpr int kLanes = kStep;
  States states = FirstStates();
  uint8_t* at;

  MS_METHOD bool Put(const uint16_t* index, int64_t groups, const SlotTable& table) {
    return PutStep(states, LoadLanes(index), FirstGroups(groups), table, at);
  }
  MS_METHOD void Close(uint8_t* bytes) const { StoreStates(bytes, states); }
};

struct SingleLaneWriter {
  static constexpr int kLanes = 1;
  uint32_t state = kLeastState;
  uint8_t* at;

  MS_METHOD bool Put(const uint16_t* index, int64_t groups, const SlotTable& table) {
    for (int64_t i = groups - 1; i >= 0; --i) {
      const uint32_t slots = table.of[index[i]];
      if (slots == 0) return false;
      PutSymbol(state, slots & 0xffff, slots >> 16, at);
    }
    return true;
  }
  MS_METHOD void Close(uint8_t* bytes) const { memcpy(bytes, &state, sizeof(state)); }
};

// Steps [begin, end) of one tensor, the last one first; false where a symbol has no frequency.
template <typename Writer>
bool PutTensorSteps(const ms_mask_tensor& tensor, int64_t begin, int64_t end, Writer& writer) {
  RunIndex index;
  SlotTable table;
  table.Load(reinterpret_cast<const Starts*>(tensor.starts), static_cast<int>(tensor.contexts));
  for (int64_t last = end; last > begin;) {
    const int64_t first = Max(begin, last - kRunSteps);
    IndexSteps body{tensor, first, last, index};
    if (!WithCoder(tensor.coder, body)) return false;
    for (int64_t step = last - 1; step >= first; --step) {
      const int64_t groups = Min(kStep, tensor.groups - step * kStep);
      if (!writer.Put(index.of + (step - first) * kStep, groups, table)) return false;
    }
    last = first;
  }
  return true;
}

// The words end where the room ends; then everything is moved to the front.
template <typename Writer>
bool EncodeChunk(const ms_mask_tensor* tensors, int64_t count, int64_t step, int64_t steps, ms_mask_output& chunk) {
  Writer writer;
  uint8_t* const room_end = chunk.bytes + chunk.capacity;
  writer.at = room_end;
  for (int64_t end = step + steps, t = TensorOfStep(tensors, count, end - 1); end > step; --t) {
    const int64_t first = tensors[t].first_step, begin = Max(step, first);
    if (!PutTensorSteps(tensors[t], begin - first, end - first, writer)) return false;
    end = begin;
  }
  constexpr int64_t kStateBytes = 4 * Writer::kLanes;
  const int64_t words = room_end - writer.at;
  memmove(chunk.bytes + kStateBytes, writer.at, static_cast<size_t>(words));
  writer.Close(chunk.bytes);
  chunk.length = kStateBytes + words;
  return true;
}

// Room for every symbol's word, the states, and the word that PutSymbol writes before it knows that it is due.
MS_INLINE int64_t Bound(int64_t steps) {
  return 4 * kStep + 2 * kStep * steps;
}

}  // namespace

namespace ISA {

ms_status EncodeMasks(ms_context* ctx, const ms_mask_tensor* tensors, int64_t count, int64_t chunk_steps,
                      int64_t first_step, ms_mask_output* chunks, int64_t chunk_count) {
  const int64_t all_steps = tensors[count - 1].first_step + StepsOf(tensors[count - 1]);
  auto body = [&](int64_t c, int) {
    const int64_t step = first_step + c * chunk_steps, steps = Min(chunk_steps, all_steps - step);
    ms_mask_output& chunk = chunks[c];
    chunk.length = 0;
    bool whole = chunk.capacity >= Bound(steps);
    if (whole && steps < kLeastLaneSteps)
      whole = EncodeChunk<SingleLaneWriter>(tensors, count, step, steps, chunk);
    else if (whole)
      whole = EncodeChunk<ManyLanesWriter>(tensors, count, step, steps, chunk);
    chunk.status = whole ? MS_CHUNK_OK : MS_CHUNK_BAD_SYMBOL;
    chunk.checksum = Crc32c(chunk.bytes, chunk.length);
  };
  Parallel(ctx, chunk_count, body);
  return MS_OK;
}

ms_status CountSymbols(ms_context* ctx, const ms_mask_tensor* tensor, uint32_t* counts, int32_t* bad) {
  const int64_t entries = kStride * static_cast<int64_t>(tensor->contexts);
  const size_t bytes = static_cast<size_t>(Threads(ctx)) * static_cast<size_t>(entries) * sizeof(uint32_t);
  uint32_t* each = static_cast<uint32_t*>(Scratch(ctx, bytes));
  if (each == nullptr) return FailMemory(ctx, bytes);
  memset(each, 0, bytes);
  int32_t found_bad = 0;
  auto body = [&](int64_t begin, int64_t end, int worker) {
    uint32_t* own = each + worker * entries;
    RunIndex index;
    for (int64_t first = begin; first < end; first += kRunSteps) {
      const int64_t last = Min(end, first + kRunSteps);
      IndexSteps steps{*tensor, first, last, index};
      if (!WithCoder(tensor->coder, steps)) {
        __atomic_store_n(&found_bad, 1, __ATOMIC_RELAXED);
        return;
      }
      const int64_t groups = Min(last * kStep, tensor->groups) - first * kStep;
      for (int64_t i = 0; i < groups; ++i) ++own[index.of[i]];
    }
  };
  ParallelRanges(ctx, StepsOf(*tensor), 2048, body);
  for (int worker = 0; worker < Threads(ctx); ++worker) {
    for (int64_t i = 0; i < entries; ++i) counts[i] += each[worker * entries + i];
  }
  if (found_bad != 0) *bad = 1;
  return MS_OK;
}

}  // namespace ISA
}  // namespace maskserve
