// Patches of a parent mask (FORMAT.md §9): chunks to changed groups and back, and changed groups onto nibbles. Only the
// changed groups of the parent and of the weights are ever read.

#include "checksum.h"
#include "codec_ops.h"
#include "coders24.h"
#include "packed24.h"
#include "rans_writer.h"
#include "serial_rans.h"

namespace maskserve {
namespace {

constexpr int kEscape = kWideSymbols - 1;
// How many changes ahead the parent and the weights are fetched.
constexpr int64_t kFetchAhead = 2 * kStep;

// ⌊log2(groups / changes)⌋ − 3, or 0.
MS_INLINE int LowBits(const ms_mask_tensor& tensor) {
  const uint64_t mean = static_cast<uint64_t>(tensor.groups / tensor.changes);
  return static_cast<int>(Max(0, 63 - __builtin_clzll(mean) - 3));
}

MS_INLINE unsigned NibbleAt(const uint8_t* nibbles, int64_t group) {
  return nibbles[group / 2] >> 4 * (group % 2) & 15;
}

MS_INLINE Packed24 PackedParent(const ms_mask_tensor& tensor) {
  return {tensor.packed_parent, tensor.groups * 4 / tensor.cols, tensor.cols};
}

MS_INLINE unsigned ParentNibble(const ms_mask_tensor& tensor, int64_t group) {
  if (tensor.packed_parent != nullptr) return GroupNibble24(PackedParent(tensor), group);
  return NibbleAt(tensor.parent, group);
}

bool DecodePositions(const ms_mask_tensor& tensor, const WideTable& gaps, SerialReader& reader) {
  const int low_bits = LowBits(tensor);
  int64_t last = -1;
  for (int64_t i = 0; i < tensor.changes; ++i) {
    int64_t high = 0;
    for (int symbol = kEscape; symbol == kEscape;) {
      symbol = reader.Wide(gaps);
      high += symbol;
      if (high << low_bits >= tensor.groups) return false;
    }
    last += 1 + (high << low_bits) + reader.Bits(low_bits);
    if (last >= tensor.groups) return false;
    tensor.positions[i] = static_cast<uint32_t>(last);
  }
  return true;
}

// The inputs of a step, gathered from changed groups. Positions lie in the caller's memory, where another thread could
// change them meanwhile: they are cut to the tensor when they are used.
struct Gathered {
  uint16_t weights[kStepWeights];
  uint8_t parent[kStep / 2];

  MS_METHOD void Load(const ms_mask_tensor& tensor, const uint32_t* positions, int64_t count) {
    for (int64_t i = 0; i < kStep; ++i) {
      const int64_t group = Min(positions[Min(i, count - 1)], tensor.groups - 1);
      const unsigned nibble = ParentNibble(tensor, group);
      parent[i / 2] = static_cast<uint8_t>(i % 2 == 0 ? nibble : parent[i / 2] | nibble << 4);
      if (tensor.weights != nullptr) memcpy(weights + 4 * i, tensor.weights + 4 * group, 8);
    }
  }
};

MS_INLINE void Fetch(const ms_mask_tensor& tensor, int64_t from, int64_t to) {
  for (int64_t i = from; i < Min(to, tensor.changes); ++i) {
    if (tensor.packed_parent != nullptr) {
      __builtin_prefetch(GroupByte24(PackedParent(tensor), Min(tensor.positions[i], tensor.groups - 1)));
    } else {
      __builtin_prefetch(tensor.parent + tensor.positions[i] / 2);
    }
    if (tensor.weights != nullptr) __builtin_prefetch(tensor.weights + 4 * static_cast<int64_t>(tensor.positions[i]));
  }
}

// kCoder: that of dense symbols which has the same contexts.
template <uint32_t kCoder>
void DecodeCodes(const ms_mask_tensor& tensor, SerialReader& reader) {
  const Starts* starts = reinterpret_cast<const Starts*>(tensor.starts);
  Fetch(tensor, 0, kFetchAhead);
  for (int64_t i = 0; i < tensor.changes; i += kStep) {
    const int64_t count = Min(kStep, tensor.changes - i);
    Fetch(tensor, i + kFetchAhead, i + kFetchAhead + kStep);
    Gathered gathered;
    gathered.Load(tensor, tensor.positions + i, count);
    const Known known = Look<kCoder>({gathered.weights, nullptr, gathered.parent});
    uint16_t contexts[kStep], coded[kStep] = {};
    StoreLanes(contexts, known.context);
    for (int64_t j = 0; j < count; ++j) coded[j] = static_cast<uint16_t>(reader.Symbol(starts[contexts[j]]));
    uint8_t nibbles[kStep];
    StoreLaneBytes(nibbles, NibblesOfCoded<kCoder>(LoadLanes(coded), known));
    memcpy(tensor.codes + i, nibbles, static_cast<size_t>(count));
  }
}

int32_t DecodePatchChunk(const ms_mask_tensor* tensors, int64_t count, const WideTable& gaps,
                         const ms_mask_chunk& chunk) {
  if (Crc32c(chunk.bytes, chunk.length) != chunk.checksum) return MS_CHUNK_CHECKSUM;
  if (chunk.length < 4) return MS_CHUNK_OVERRUN;
  SerialReader reader(chunk.bytes, chunk.length);
  for (int64_t t = 0; t < count; ++t) {
    if (!DecodePositions(tensors[t], gaps, reader)) return MS_CHUNK_POSITION;
  }
  for (int64_t t = 0; t < count; ++t) {
    if (tensors[t].coder == MS_CODER_PATCH)
      DecodeCodes<MS_CODER_PARENT>(tensors[t], reader);
    else
      DecodeCodes<MS_CODER_PARENT_WEIGHTS>(tensors[t], reader);
  }
  return reader.Closed() ? MS_CHUNK_OK : MS_CHUNK_OVERRUN;
}

struct SerialWriter {
  uint32_t state = kLeastState;
  uint8_t* at;
};

// False where the symbol has no frequency.
MS_INLINE bool PutBetween(uint32_t start, uint32_t end, SerialWriter& writer) {
  if (start == end) return false;
  PutSymbol(writer.state, start, end - start, writer.at);
  return true;
}

// The last change first.
template <uint32_t kCoder>
bool PutCodes(const ms_mask_tensor& tensor, SerialWriter& writer) {
  const Starts* starts = reinterpret_cast<const Starts*>(tensor.starts);
  for (int64_t end = tensor.changes; end > 0;) {
    const int64_t begin = (end - 1) / kStep * kStep, count = end - begin;
    Gathered gathered;
    gathered.Load(tensor, tensor.positions + begin, count);
    const Known known = Look<kCoder>({gathered.weights, nullptr, gathered.parent});
    uint8_t nibbles[kStep] = {};
    memcpy(nibbles, tensor.codes + begin, static_cast<size_t>(count));
    uint16_t contexts[kStep], coded[kStep];
    StoreLanes(contexts, known.context);
    StoreLanes(coded, CodedOfNibbles<kCoder>(LoadLaneBytes(nibbles), known));
    for (int64_t j = count - 1; j >= 0; --j) {
      const Starts& table = starts[contexts[j]];
      if (!PutBetween(table.start[coded[j]], table.start[coded[j] + 1], writer)) return false;
    }
    end = begin;
  }
  return true;
}

MS_INLINE bool PutGapSymbol(int symbol, const uint16_t* gaps, SerialWriter& writer) {
  return PutBetween(gaps[symbol], gaps[symbol + 1], writer);
}

bool PutPositions(const ms_mask_tensor& tensor, const uint16_t* gaps, SerialWriter& writer, const uint8_t* least) {
  const int low_bits = LowBits(tensor);
  for (int64_t i = tensor.changes - 1; i >= 0; --i) {
    const int64_t position = tensor.positions[i], before = i == 0 ? -1 : int64_t{tensor.positions[i - 1]};
    const int64_t gap = position - before - 1;
    const uint32_t low = static_cast<uint32_t>(gap) & ((1u << low_bits) - 1);
    if (low_bits > kProbabilityBits) {
      PutBits(writer.state, low >> kProbabilityBits, low_bits - kProbabilityBits, writer.at);
      PutBits(writer.state, low & ((1u << kProbabilityBits) - 1), kProbabilityBits, writer.at);
    } else if (low_bits > 0) {
      PutBits(writer.state, low, low_bits, writer.at);
    }
    const int64_t high = gap >> low_bits;
    if (!PutGapSymbol(static_cast<int>(high % kEscape), gaps, writer)) return false;
    for (int64_t escapes = high / kEscape; escapes > 0; --escapes) {
      if (writer.at - least < 16 || !PutGapSymbol(kEscape, gaps, writer)) return false;
    }
    if (writer.at - least < 16) return false;
  }
  return true;
}

// Ascending groups of the tensor, with codes that are patterns.
MS_INLINE bool AreChanges(const ms_mask_tensor& tensor) {
  int64_t last = -1;
  for (int64_t i = 0; i < tensor.changes; ++i) {
    const int64_t group = tensor.positions[i];
    const unsigned code = tensor.codes[i];
    if (group <= last || kNibbleOfSymbol[kSymbolOfNibble[code & 15]] != code) return false;
    last = group;
  }
  return last < tensor.groups;
}

// Written from the end of the room, then moved to its front.
bool EncodePatchChunk(const ms_mask_tensor* tensors, int64_t count, const uint16_t* gaps, ms_mask_output& chunk) {
  for (int64_t t = 0; t < count; ++t) {
    if (!AreChanges(tensors[t])) return false;
  }
  SerialWriter writer;
  uint8_t* const end = chunk.bytes + chunk.capacity;
  writer.at = end;
  for (int64_t t = count - 1; t >= 0; --t) {
    const bool whole = tensors[t].coder == MS_CODER_PATCH ? PutCodes<MS_CODER_PARENT>(tensors[t], writer)
                                                          : PutCodes<MS_CODER_PARENT_WEIGHTS>(tensors[t], writer);
    if (!whole) return false;
  }
  for (int64_t t = count - 1; t >= 0; --t) {
    if (!PutPositions(tensors[t], gaps, writer, chunk.bytes)) return false;
  }
  const int64_t words = end - writer.at;
  memmove(chunk.bytes + 4, writer.at, static_cast<size_t>(words));
  memcpy(chunk.bytes, &writer.state, 4);
  chunk.length = 4 + words;
  return true;
}

// What EncodePatchChunk is sure not to leave with 16 bytes to spare, but for escapes.
MS_INLINE int64_t PatchBound(const ms_mask_tensor* tensors, int64_t count) {
  int64_t changes = 0;
  for (int64_t t = 0; t < count; ++t) changes += tensors[t].changes;
  return 32 + 10 * changes;
}

}  // namespace

namespace ISA {

ms_status DecodePatches(ms_context* ctx, const ms_mask_tensor* tensors, const int64_t* first, const uint16_t* gaps,
                        ms_mask_chunk* chunks, int64_t chunk_count) {
  WideTable* table = static_cast<WideTable*>(Scratch(ctx, sizeof(WideTable)));
  if (table == nullptr) return FailMemory(ctx, sizeof(WideTable));
  table->Load(gaps);
  auto body = [&](int64_t c, int) {
    chunks[c].status = DecodePatchChunk(tensors + first[c], first[c + 1] - first[c], *table, chunks[c]);
  };
  Parallel(ctx, chunk_count, body);
  return MS_OK;
}

ms_status EncodePatches(ms_context* ctx, const ms_mask_tensor* tensors, const int64_t* first, const uint16_t* gaps,
                        ms_mask_output* chunks, int64_t chunk_count) {
  auto body = [&](int64_t c, int) {
    const ms_mask_tensor* own = tensors + first[c];
    const int64_t count = first[c + 1] - first[c];
    chunks[c].length = 0;
    const bool whole = chunks[c].capacity >= PatchBound(own, count) && EncodePatchChunk(own, count, gaps, chunks[c]);
    chunks[c].status = whole ? MS_CHUNK_OK : MS_CHUNK_BAD_SYMBOL;
    chunks[c].checksum = Crc32c(chunks[c].bytes, chunks[c].length);
  };
  Parallel(ctx, chunk_count, body);
  return MS_OK;
}

ms_status ApplyChanges(ms_context* ctx, uint8_t* mask, const uint8_t* parent, int64_t groups, const uint32_t* positions,
                       const uint8_t* codes, int64_t changes) {
  if (mask != parent) memcpy(mask, parent, static_cast<size_t>((groups + 1) / 2));
  for (int64_t i = 0; i < changes; ++i) {
    const int64_t group = positions[i];
    if (group >= groups) {
      return Fail(ctx, MS_BAD_DATA, "expected changed groups below %lld but received %lld",
                  static_cast<long long>(groups), static_cast<long long>(group));
    }
    const int shift = 4 * (group % 2);
    mask[group / 2] = static_cast<uint8_t>((mask[group / 2] & ~(15 << shift)) | (codes[i] & 15) << shift);
  }
  return MS_OK;
}

ms_status FindChanges(ms_context*, const uint8_t* mask, const uint8_t* parent, int64_t groups, uint32_t* positions,
                      uint8_t* codes, int64_t* changes) {
  const int64_t bytes = (groups + 1) / 2;
  int64_t found = 0;
  auto look = [&](int64_t byte) {
    for (int64_t group = 2 * byte; group < Min(groups, 2 * byte + 2); ++group) {
      if (NibbleAt(mask, group) == NibbleAt(parent, group)) continue;
      positions[found] = static_cast<uint32_t>(group);
      codes[found++] = static_cast<uint8_t>(NibbleAt(mask, group));
    }
  };
  int64_t at = 0;
  for (; at + 8 <= bytes; at += 8) {
    uint64_t a, b;
    memcpy(&a, mask + at, 8);
    memcpy(&b, parent + at, 8);
    if (a == b) continue;
    for (int64_t byte = at; byte < at + 8; ++byte) look(byte);
  }
  for (; at < bytes; ++at) look(at);
  *changes = found;
  return MS_OK;
}

ms_status DecodeScales(ms_context* ctx, ms_mask_chunk* chunk, const uint16_t* starts, int16_t* scales, int64_t count) {
  WideTable* table = static_cast<WideTable*>(Scratch(ctx, sizeof(WideTable)));
  if (table == nullptr) return FailMemory(ctx, sizeof(WideTable));
  table->Load(starts);
  chunk->status = MS_CHUNK_OVERRUN;
  if (Crc32c(chunk->bytes, chunk->length) != chunk->checksum) chunk->status = MS_CHUNK_CHECKSUM;
  if (chunk->status == MS_CHUNK_CHECKSUM || chunk->length < 4) return MS_OK;
  SerialReader reader(chunk->bytes, chunk->length);
  for (int64_t i = 0; i < count; ++i) scales[i] = static_cast<int16_t>(16 * (reader.Wide(*table) - kWideSymbols / 2));
  if (reader.Closed()) chunk->status = MS_CHUNK_OK;
  return MS_OK;
}

}  // namespace ISA
}  // namespace maskserve
