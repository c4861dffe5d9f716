// Chunks of symbols (codec/FORMAT.md §8.2) to canonical nibbles: one warp a chunk, a lane for each of its 32 states;
// chunks of one lane are decoded by a warp too, which looks at 32 groups at once and lets their symbols follow.
//
// Bound by latency: a step of 32 groups is a chain of a table row, a multiplication, a ballot and a word from the
// first-level cache, some 200 cycles; 32 warps a multiprocessor hide it (a 7B mask has 25,000 chunks of 2¹⁶). DRAM
// moves ½ byte out and ⅓ byte in a group; the coders that look at the weights read 8 bytes more. Layout and order as in
// cpu/symbols24.cpp; interleaved rANS on GPUs: Giesen 2014 (arXiv 1402.3392).

#include "rans24.cuh"

namespace maskserve {
namespace cuda {
namespace {

constexpr int kChunksOfBlock = 4;
constexpr int64_t kLeastLaneSteps = 128;  // a chunk of fewer steps has one lane

// The states that are below 2¹⁶ take words, in lane order.
MS_DEVICE void TakeWords(uint32_t& state, bool active, ChunkWords& words) {
  const bool due = active && state < kLeastState;
  const uint32_t all = __ballot_sync(kWholeWarp, due);
  const int before = __popc(all & ((1u << Lane()) - 1));
  if (due) state = state << 16 | WordAt(words, before);
  words.at += 2 * __popc(all);
}

struct ManyLanes {
  uint32_t state;
  static constexpr int kStates = 32;

  // Lanes 0–15 are the low nibbles of 16 bytes.
  MS_METHOD int GroupOfLane() { return 2 * (Lane() & 15) + (Lane() >> 4); }
  __device__ uint32_t Decode(const SymbolTable& table, int groups, ChunkWords& words) {
    const bool active = GroupOfLane() < groups;
    uint32_t symbol = 0;
    if (active) symbol = DecodeSymbol(state, table);
    TakeWords(state, active, words);
    return symbol;
  }
  MS_METHOD void Store(uint8_t* out, uint32_t nibble, int groups) {
    const uint32_t high = __shfl_xor_sync(kWholeWarp, nibble, 16);
    if (Lane() < (groups + 1) / 2) out[Lane()] = static_cast<uint8_t>(nibble | high << 4);
  }
};

// All lanes hold the one state; lane i decodes group i of a step when its turn comes.
struct SingleLane {
  uint32_t state;
  static constexpr int kStates = 1;

  MS_METHOD int GroupOfLane() { return Lane(); }
  __device__ uint32_t Decode(const SymbolTable& table, int groups, ChunkWords& words) {
    uint32_t symbol = 0;
    for (int i = 0; i < groups; ++i) {
      uint32_t next = state;
      const uint32_t mine = DecodeSymbol(next, table);
      if (Lane() == i) symbol = mine;
      state = __shfl_sync(kWholeWarp, next, i);
      if (state >= kLeastState) continue;
      state = state << 16 | WordAt(words, 0);
      words.at += 2;
    }
    return symbol;
  }
  MS_METHOD void Store(uint8_t* out, uint32_t nibble, int groups) {
    const uint32_t high = __shfl_xor_sync(kWholeWarp, nibble, 1);
    if (Lane() % 2 == 0 && Lane() < groups) out[Lane() / 2] = static_cast<uint8_t>(nibble | high << 4);
  }
};

// Steps [begin, end) of one tensor; false when the words have run out.
template <uint32_t kCoder, typename Lanes>
__device__ bool DecodeSteps(const ms_mask_tensor& tensor, Lanes& lanes, ChunkWords& words, int64_t begin, int64_t end) {
  for (int64_t step = begin; step < end; ++step) {
    const int64_t first = step * kStep;
    const int groups = static_cast<int>(Min<int64_t>(kStep, tensor.groups - first));
    // Lanes without a group look at the last one.
    const int64_t group = first + Min(Lanes::GroupOfLane(), groups - 1);
    const KnownGroup known = LookAt<kCoder>(tensor, group);
    const uint32_t symbol = lanes.Decode(TableOf(tensor.starts, known.context), groups, words);
    const uint32_t nibble = Lanes::GroupOfLane() < groups ? NibbleOfCoded<kCoder>(symbol, known) : 0;
    if (tensor.mask != nullptr) Lanes::Store(tensor.mask + first / 2, nibble, groups);
    if (words.at > words.end) return false;
  }
  return true;
}

template <typename Lanes>
__device__ bool DecodeTensor(const ms_mask_tensor& tensor, Lanes& lanes, ChunkWords& words, int64_t begin,
                             int64_t end) {
  switch (tensor.coder) {
    case MS_CODER_UNIFORM:
    case MS_CODER_STATIC:
      return DecodeSteps<MS_CODER_STATIC>(tensor, lanes, words, begin, end);
    case MS_CODER_PARENT:
      return DecodeSteps<MS_CODER_PARENT>(tensor, lanes, words, begin, end);
    case MS_CODER_WEIGHTS:
      return DecodeSteps<MS_CODER_WEIGHTS>(tensor, lanes, words, begin, end);
    case MS_CODER_SCALED_WEIGHTS:
      return DecodeSteps<MS_CODER_SCALED_WEIGHTS>(tensor, lanes, words, begin, end);
    case MS_CODER_PARENT_WEIGHTS:
      return DecodeSteps<MS_CODER_PARENT_WEIGHTS>(tensor, lanes, words, begin, end);
    default:
      return false;
  }
}

struct Sequence {
  const ms_mask_tensor* tensors;
  int64_t count, chunk_steps, first_step, all_steps;
};

// The tensor that holds a step: the last one that starts at or before it.
MS_DEVICE int64_t TensorOfStep(const Sequence& s, int64_t step) {
  int64_t low = 0, high = s.count - 1;
  while (low < high) {
    const int64_t middle = (low + high + 1) / 2;
    if (s.tensors[middle].first_step <= step)
      low = middle;
    else
      high = middle - 1;
  }
  return low;
}

template <typename Lanes>
__device__ bool DecodeChunk(const Sequence& s, int64_t step, int64_t steps, const ms_mask_chunk& chunk) {
  if (chunk.length < 4 * Lanes::kStates) return false;
  Lanes lanes = {StateAt(chunk.bytes, Lane() % Lanes::kStates)};
  if (__any_sync(kWholeWarp, lanes.state < kLeastState)) return false;
  ChunkWords words = {chunk.bytes + 4 * Lanes::kStates, chunk.bytes + chunk.length};
  for (int64_t t = TensorOfStep(s, step); steps > 0; ++t) {
    const ms_mask_tensor tensor = s.tensors[t];
    const int64_t begin = step - tensor.first_step, end = Min(begin + steps, CeilDiv<int64_t>(tensor.groups, kStep));
    if (!DecodeTensor(tensor, lanes, words, begin, end)) return false;
    step += end - begin;
    steps -= end - begin;
  }
  return words.at == words.end && __all_sync(kWholeWarp, lanes.state == kLeastState);
}

__global__ void __launch_bounds__(kChunksOfBlock* kWarp)
    DecodeMasks(Sequence s, ms_mask_chunk* chunks, int64_t chunk_count) {
  const int64_t c = static_cast<int64_t>(blockIdx.x) * kChunksOfBlock + WarpOfBlock();
  if (c >= chunk_count || chunks[c].status == MS_CHUNK_CHECKSUM) return;
  const int64_t step = s.first_step + c * s.chunk_steps, steps = Min(s.chunk_steps, s.all_steps - step);
  const bool whole = steps < kLeastLaneSteps ? DecodeChunk<SingleLane>(s, step, steps, chunks[c])
                                             : DecodeChunk<ManyLanes>(s, step, steps, chunks[c]);
  __syncwarp();  // all have read the status
  if (Lane() == 0) chunks[c].status = whole ? MS_CHUNK_OK : MS_CHUNK_OVERRUN;
}

// A thread a byte: two groups.
__global__ void __launch_bounds__(256) MagnitudeMask(uint8_t* mask, const uint16_t* weights, int64_t groups) {
  const int64_t byte = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (2 * byte >= groups) return;
  ms_mask_tensor tensor = {};
  tensor.weights = weights;
  uint32_t nibbles = 0;
  for (int i = 0; i < 2 && 2 * byte + i < groups; ++i) {
    nibbles |= NibbleOfCoded<MS_CODER_MAGNITUDE>(0, LookAt<MS_CODER_MAGNITUDE>(tensor, 2 * byte + i)) << 4 * i;
  }
  mask[byte] = static_cast<uint8_t>(nibbles);
}

}  // namespace

void decode_masks(const ms_mask_tensor* tensors, int64_t count, int64_t chunk_steps, int64_t first_step,
                  int64_t all_steps, ms_mask_chunk* chunks, int64_t chunk_count, cudaStream_t stream) {
  const Sequence sequence = {tensors, count, chunk_steps, first_step, all_steps};
  Launch(DecodeMasks, Blocks(chunk_count, kChunksOfBlock), kChunksOfBlock * kWarp, 0, stream, sequence, chunks,
         chunk_count);
}

void magnitude_mask(uint8_t* mask, const uint16_t* weights, int64_t groups, cudaStream_t stream) {
  Launch(MagnitudeMask, Blocks(groups, 512), 256, 0, stream, mask, weights, groups);
}

}  // namespace cuda
}  // namespace maskserve
