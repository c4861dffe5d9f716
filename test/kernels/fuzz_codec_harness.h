// What a target of the native codec's fuzzer is, and what it runs on.
#pragma once

#include <algorithm>
#include <cstdlib>

#include "fuzz_codec.h"

struct Isa {
  const char* name;
  const ms_codec_ops* codec;
};

// Those of this machine; the last one is scalar.
extern const std::vector<Isa> isas;
extern ms_context* context;

// Ends the run: a promise was broken by the input that is being run.
[[noreturn]] void Violation(const char* what);
inline void Require(bool holds, const char* what) {
  if (!holds) Violation(what);
}

// A way into the codec, with valid inputs of its own.
class Target {
 public:
  virtual ~Target() = default;
  // Runs one mutated input on an instruction set, and every fourth on all of them, which must agree. Returns what
  // became of it, as a chunk's status.
  virtual int32_t Run(Random& random) = 0;
};

// Chunks of symbols to masks, or straight to compacted matrices.
std::unique_ptr<Target> MakeSymbolTarget(Random& random, uint32_t coder, bool compressed);
// Chunks of patches, against a parent's nibbles and against its compacted matrix.
std::unique_ptr<Target> MakePatchTarget(Random& random, uint32_t coder);
// Lists of changes to patches of a compacted matrix.
std::unique_ptr<Target> MakeChangesTarget(Random& random);
// Masks and changes, sound ones and others, to chunks.
std::unique_ptr<Target> MakeEncodeTarget(Random& random);
std::unique_ptr<Target> MakeScalesTarget(Random& random);
std::unique_ptr<Target> MakeUniformAcTarget(Random& random);

// Every eighth entry of a corpus may be large: as many symbols as all others. They are tried less often.
constexpr int64_t kCorpus = 48, kLargeEvery = 8;

inline size_t AnyEntry(Random& random) {
  const int64_t entry = random.Below(kCorpus);
  return static_cast<size_t>(entry % kLargeEvery == 0 && !random.OneIn(8) ? entry + 1 : entry);
}

inline const Isa& AnyIsa(Random& random) {
  return isas[static_cast<size_t>(random.Below(static_cast<int64_t>(isas.size())))];
}

inline bool IsPatch(uint32_t coder) {
  return coder == MS_CODER_PATCH || coder == MS_CODER_PATCH_WEIGHTS;
}
inline int64_t StepsOf(const ms_mask_tensor& tensor) {
  return (tensor.groups + 31) / 32;
}
inline bool IsPattern(unsigned nibble) {
  return nibble < 16 && (nibble & 3) < nibble >> 2;
}

// An array of exactly so many elements, so that an access beyond it is found; at a multiple of 64 or of 16 bytes.
template <typename T>
class Exact {
 public:
  explicit Exact(size_t count, bool aligned = false) : count_(count) {
    void* memory = nullptr;
    if (posix_memalign(&memory, aligned ? 64 : 16, count * sizeof(T)) != 0) std::abort();
    data_.reset(static_cast<T*>(memory));
  }
  explicit Exact(const std::vector<T>& from) : Exact(from.size()) {
    if (!from.empty()) std::memcpy(data_.get(), from.data(), from.size() * sizeof(T));
  }
  T* data() const { return data_.get(); }
  size_t size() const { return count_; }
  void Fill(int byte) { std::memset(data_.get(), byte, count_ * sizeof(T)); }

 private:
  struct Free {
    void operator()(T* data) const { std::free(data); }
  };
  std::unique_ptr<T, Free> data_;
  size_t count_;
};

inline ms_mask_chunk ChunkOf(const Exact<uint8_t>& bytes) {
  const int64_t length = static_cast<int64_t>(bytes.size());
  return {bytes.data(), length, isas.back().codec->crc32c(bytes.data(), length), -1};
}

// Tables that fit the symbols of an entry's masks; `smooth`: every symbol that may occur does.
void FitTables(Entry& entry, bool smooth);
// Any tables that FORMAT.md §5 allows, (contexts, 8).
std::vector<uint16_t> RandomTables(Random& random, uint32_t coder, int64_t contexts);
// (65): the boundaries of any table of 64 symbols.
std::vector<uint16_t> RandomWideTable(Random& random);

// Where the nibbles and the words of block `block` of 64 columns are in a compacted matrix (n, k), by the definition in
// kernels/cpu/packed24.h. k: a multiple of 64.
struct PackedBlock {
  uint8_t *meta, *values;
};
inline PackedBlock BlockAt(uint8_t* packed, int64_t n, int64_t k, int64_t block) {
  const int64_t row = block / (k / 64), column = block % (k / 64) * 64, rows = std::min<int64_t>(8, n - row / 8 * 8);
  uint8_t* tile = packed + row / 8 * 9 * k + column / 64 * rows * 72;
  return {tile + row % 8 * 8, tile + rows * 8 + row % 8 * 64};
}
// The word of value v of a whole block.
inline int64_t WordOf(int64_t v) {
  return (v & 16) | (v & 7) << 1 | (v >> 3 & 1);
}
// The whole matrix, k a multiple of 8.
void PackInto(uint8_t* packed, const uint16_t* weights, const uint8_t* mask, int64_t n, int64_t k);
