// Chunks of symbols (FORMAT.md §8.2) to nibbles. Whatever the bytes, nothing outside them and the tensors is touched:
// the states give some symbol for every slot, and words after the end are zeros until the chunk is found to overrun.

#include "checksum.h"
#include "coders24.h"
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

// Steps [begin, end) of one tensor.
template <typename Lane>
struct DecodeSteps {
  const ms_mask_tensor& tensor;
  Lane& lane;
  Words& words;
  int64_t begin, end;

  template <uint32_t kCoder>
  bool Run() {
    const Starts* starts = reinterpret_cast<const Starts*>(tensor.starts);
    const auto table = TableFor<kCoder>(tensor, starts);
    InputSteps inputs(tensor);
    for (int64_t step = begin; step < end; ++step) {
      words.Ready();
      if (words.Overrun()) return false;
      const int64_t group = step * kStep, groups = Min(kStep, tensor.groups - group);
      const Known known = Look<kCoder>(inputs.template At<kCoder>(group, groups));
      const Lanes coded = lane.Decode(table, starts, known.context, groups, words);
      if (tensor.mask != nullptr) {
        StoreNibbles(tensor.mask + group / 2, NibblesOfCoded<kCoder>(coded, known), groups);
      }
    }
    return true;
  }
};

template <typename Lane>
bool DecodeChunk(const ms_mask_tensor* tensors, int64_t count, int64_t step, int64_t steps,
                 const ms_mask_chunk& chunk) {
  Words words(chunk.bytes, chunk.length);
  Lane lane;
  if (!lane.Open(words, chunk.length)) return false;
  for (int64_t t = TensorOfStep(tensors, count, step); steps > 0; ++t) {
    const int64_t begin = step - tensors[t].first_step, end = Min(begin + steps, StepsOf(tensors[t]));
    DecodeSteps<Lane> body{tensors[t], lane, words, begin, end};
    if (!WithCoder(tensors[t].coder, body)) return false;
    step += end - begin;
    steps -= end - begin;
  }
  return words.AtEnd() && lane.Closed();
}

}  // namespace

namespace ISA {

ms_status DecodeMasks(ms_context* ctx, const ms_mask_tensor* tensors, int64_t count, int64_t chunk_steps,
                      int64_t first_step, ms_mask_chunk* chunks, int64_t chunk_count) {
  const int64_t all_steps = tensors[count - 1].first_step + StepsOf(tensors[count - 1]);
  auto body = [&](int64_t c, int) {
    const int64_t step = first_step + c * chunk_steps, steps = Min(chunk_steps, all_steps - step);
    ms_mask_chunk& chunk = chunks[c];
    if (Crc32c(chunk.bytes, chunk.length) != chunk.checksum) {
      chunk.status = MS_CHUNK_CHECKSUM;
      return;
    }
    const bool whole = steps < kLeastLaneSteps ? DecodeChunk<SingleLane>(tensors, count, step, steps, chunk)
                                               : DecodeChunk<ManyLanes>(tensors, count, step, steps, chunk);
    chunk.status = whole ? MS_CHUNK_OK : MS_CHUNK_OVERRUN;
  };
  Parallel(ctx, chunk_count, body);
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
