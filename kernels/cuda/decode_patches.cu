// Chunks of a patch (codec/FORMAT.md §9) to changed groups and their nibbles, and changed groups onto a mask.
//
// A chunk is one rANS lane, so a warp decodes it serially: it finds gap symbols by a ballot over the 64 starts, and
// looks at 32 changed groups at once before their symbols follow. Some 200 cycles a change; a 7B patch of 1% has 16
// million in 250 chunks of 2¹⁶: ~10 ms on one of them at a time in each multiprocessor. Same bytes as
// cpu/changes24.cpp.

#include "group24.cuh"
#include "rans24.cuh"

namespace maskserve {
namespace cuda {
namespace {

constexpr uint32_t kEscape = 63;
constexpr int kChunksOfBlock = 2;

// One state, the same in all lanes.
struct Serial {
  uint32_t state;
  ChunkWords words;
};

MS_DEVICE void Refill(Serial& s) {
  if (s.state >= kLeastState) return;
  s.state = s.state << 16 | WordAt(s.words, 0);
  s.words.at += 2;
}

// Lane j holds starts j and j + 32 of the gap table.
struct GapTable {
  uint32_t low, high;
};

MS_DEVICE uint32_t StartOf(const GapTable& gaps, uint32_t symbol) {
  const uint32_t low = __shfl_sync(kWholeWarp, gaps.low, static_cast<int>(symbol & 31));
  const uint32_t high = __shfl_sync(kWholeWarp, gaps.high, static_cast<int>(symbol & 31));
  return symbol == 64 ? kSlots : symbol < 32 ? low : high;
}

__device__ uint32_t GapSymbol(Serial& s, const GapTable& gaps) {
  const uint32_t slot = s.state & (kSlots - 1);
  const int reached =
      __popc(__ballot_sync(kWholeWarp, gaps.low <= slot)) + __popc(__ballot_sync(kWholeWarp, gaps.high <= slot));
  const uint32_t symbol = static_cast<uint32_t>(reached - 1);
  const uint32_t start = StartOf(gaps, symbol), end = StartOf(gaps, symbol + 1);
  s.state = (end - start) * (s.state >> kProbabilityBits) + slot - start;
  Refill(s);
  return symbol;
}

MS_DEVICE uint32_t FewBits(Serial& s, int bits) {
  const uint32_t value = s.state & ((1u << bits) - 1);
  s.state >>= bits;
  Refill(s);
  return value;
}
MS_DEVICE uint32_t RawBits(Serial& s, int bits) {
  const uint32_t low = FewBits(s, Min(bits, kProbabilityBits));
  return bits <= kProbabilityBits ? low : low | FewBits(s, bits - kProbabilityBits) << kProbabilityBits;
}

__device__ bool DecodePositions(const ms_mask_tensor& tensor, const GapTable& gaps, Serial& s) {
  // Tensors have at most 2³⁰ groups (FORMAT.md §4).
  const int low_bits = Max(0, 28 - __clz(static_cast<uint32_t>(tensor.groups / tensor.changes)));
  int64_t last = -1;
  for (int64_t i = 0; i < tensor.changes; ++i) {
    int64_t high = 0;
    for (uint32_t symbol = kEscape; symbol == kEscape;) {
      symbol = GapSymbol(s, gaps);
      high += symbol;
      if (high << low_bits >= tensor.groups) return false;
    }
    last += 1 + (high << low_bits) + RawBits(s, low_bits);
    if (last >= tensor.groups) return false;
    if (Lane() == 0) tensor.positions[i] = static_cast<uint32_t>(last);
  }
  return true;
}

// kCoder: that of dense symbols which has the same contexts.
template <uint32_t kCoder>
__device__ void DecodeCodes(const ms_mask_tensor& tensor, Serial& s) {
  for (int64_t i = 0; i < tensor.changes; i += kStep) {
    const int count = static_cast<int>(Min<int64_t>(kStep, tensor.changes - i));
    const int64_t mine = i + Min(Lane(), count - 1);
    const KnownGroup known = LookAt<kCoder>(tensor, tensor.positions[mine]);
    const SymbolTable table = TableOf(tensor.starts, known.context);
    uint32_t symbol = 0;
    for (int j = 0; j < count; ++j) {
      uint32_t next = s.state;
      const uint32_t found = DecodeSymbol(next, table);
      if (Lane() == j) symbol = found;
      s.state = __shfl_sync(kWholeWarp, next, j);
      Refill(s);
    }
    if (Lane() < count) tensor.codes[mine] = static_cast<uint8_t>(NibbleOfCoded<kCoder>(symbol, known));
  }
}

__device__ int32_t DecodeChunk(const ms_mask_tensor* tensors, int64_t begin, int64_t end, const GapTable& gaps,
                               const ms_mask_chunk& chunk) {
  if (chunk.length < 4) return MS_CHUNK_OVERRUN;
  Serial s = {StateAt(chunk.bytes, 0), {chunk.bytes + 4, chunk.bytes + chunk.length}};
  const bool low_start = s.state < kLeastState;
  for (int64_t t = begin; t < end; ++t) {
    if (!DecodePositions(tensors[t], gaps, s)) return MS_CHUNK_POSITION;
  }
  __syncwarp();
  for (int64_t t = begin; t < end; ++t) {
    if (tensors[t].coder == MS_CODER_PATCH)
      DecodeCodes<MS_CODER_PARENT>(tensors[t], s);
    else
      DecodeCodes<MS_CODER_PARENT_WEIGHTS>(tensors[t], s);
  }
  const bool closed = !low_start && s.words.at == s.words.end && s.state == kLeastState;
  return closed ? MS_CHUNK_OK : MS_CHUNK_OVERRUN;
}

__global__ void __launch_bounds__(kChunksOfBlock* kWarp)
    DecodePatches(const ms_mask_tensor* tensors, const int64_t* first, const uint16_t* gaps, ms_mask_chunk* chunks,
                  int64_t chunk_count) {
  const int64_t c = static_cast<int64_t>(blockIdx.x) * kChunksOfBlock + WarpOfBlock();
  if (c >= chunk_count || chunks[c].status == MS_CHUNK_CHECKSUM) return;
  const GapTable table = {gaps[Lane()], gaps[Lane() + 32]};
  const int32_t status = DecodeChunk(tensors, first[c], first[c + 1], table, chunks[c]);
  __syncwarp();  // all have read the status
  if (Lane() == 0) chunks[c].status = status;
}

__global__ void __launch_bounds__(256) CopyBytes(uint8_t* out, const uint8_t* in, int64_t bytes) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  const int64_t self = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const bool aligned = ((reinterpret_cast<uintptr_t>(out) | reinterpret_cast<uintptr_t>(in)) & 15) == 0;
  const int64_t quads = aligned ? bytes / 16 : 0;
  for (int64_t i = self; i < quads; i += stride) {
    reinterpret_cast<uint4*>(out)[i] = reinterpret_cast<const uint4*>(in)[i];
  }
  for (int64_t i = 16 * quads + self; i < bytes; i += stride) out[i] = in[i];
}

// A thread a change.
__global__ void __launch_bounds__(256)
    ApplyChanges(uint8_t* mask, const uint32_t* positions, const uint8_t* codes, int64_t changes) {
  const int64_t i = GlobalIndex();
  if (i < changes) ApplyChange(mask, positions, codes, i, changes);
}

}  // namespace

void decode_patches(const ms_mask_tensor* tensors, const int64_t* first, const uint16_t* gaps, ms_mask_chunk* chunks,
                    int64_t chunk_count, cudaStream_t stream) {
  Launch(DecodePatches, Blocks(chunk_count, kChunksOfBlock), kChunksOfBlock * kWarp, 0, stream, tensors, first, gaps,
         chunks, chunk_count);
}

void apply_changes(uint8_t* mask, const uint8_t* parent, int64_t groups, const uint32_t* positions,
                   const uint8_t* codes, int64_t changes, cudaStream_t stream) {
  const int64_t bytes = CeilDiv<int64_t>(groups, 2);
  if (mask != parent) Launch(CopyBytes, Min(1024u, Blocks(bytes, 4096)), 256, 0, stream, mask, parent, bytes);
  Launch(ApplyChanges, Blocks(changes, 256), 256, 0, stream, mask, positions, codes, changes);
}

}  // namespace cuda
}  // namespace maskserve
