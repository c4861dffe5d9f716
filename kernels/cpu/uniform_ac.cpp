// `uniform-ac` (FORMAT.md §8.4) for six symbols, to nibbles: the arithmetic coder of npm's arithmetic-coding 1.2.3,
// after codec/uniform-ac.ts, where the steps that are taken together here are derived.

#include "checksum.h"
#include "codec_ops.h"
#include "lanes24.h"

namespace maskserve {
namespace {

constexpr uint32_t kStateMask = 0x7fffffff, kHalf = 0x40000000, kLowMask = 0x3fffffff;
constexpr int64_t kMillibits = 2584;

MS_INLINE int LeadingZeros(uint32_t v) {
  return v == 0 ? 32 : __builtin_clz(v);
}

// The bits of a chunk from the highest of its first byte on, zeros after its end.
class BitReader {
 public:
  MS_METHOD BitReader(const uint8_t* bytes, int64_t length) : bytes_(bytes), length_(length) {}

  // At most 31.
  MS_METHOD uint32_t Take(int bits) {
    while (left_ < bits) {
      window_ = window_ << 8 | (next_ < length_ ? bytes_[next_] : 0u);
      ++next_;
      left_ += 8;
    }
    left_ -= bits;
    return static_cast<uint32_t>(window_ >> left_) & static_cast<uint32_t>((1ull << bits) - 1);
  }
  MS_METHOD int64_t Taken() const { return 8 * next_ - left_; }

 private:
  const uint8_t* bytes_;
  int64_t length_, next_ = 0;
  uint64_t window_ = 0;
  int left_ = 0;
};

// Whether the chunk is exactly what the encoder writes for the symbols it decodes to.
bool DecodeChunk(const ms_mask_chunk& chunk, int64_t symbols, uint8_t* nibbles) {
  BitReader bits(chunk.bytes, chunk.length);
  uint32_t low = 0, high = kStateMask, offset = bits.Take(31);  // offset = code − low
  int64_t pending = 0;
  for (int64_t i = 0; i < symbols; ++i) {
    const uint64_t range = static_cast<uint64_t>(high) - low + 1;
    const uint32_t symbol = static_cast<uint32_t>(((offset + 1ull) * 6 - 1) / range);
    const uint32_t below = static_cast<uint32_t>(range * symbol / 6);
    const unsigned nibble = kNibbleOfSymbol[symbol & 7];
    nibbles[i / 2] = static_cast<uint8_t>(i % 2 == 0 ? nibble : nibbles[i / 2] | nibble << 4);
    high = low + static_cast<uint32_t>(range * (symbol + 1) / 6) - 1;
    low += below;
    const int shifts = LeadingZeros(low ^ high) - 1;
    low = low << shifts & kStateMask;
    high = (high << shifts & kStateMask) | ((1u << shifts) - 1);
    const int underflows = LeadingZeros(~((low & ~high) << 2));
    low = low << underflows & kLowMask;
    high = (high << underflows & kLowMask) | kHalf | ((1u << underflows) - 1);
    pending = shifts > 0 ? underflows : pending + underflows;
    const int doublings = shifts + underflows;
    offset = (offset - below) << doublings | bits.Take(doublings);
  }
  const int64_t written = bits.Taken() - 31 - pending;
  const int64_t least = Max(1, symbols * kMillibits / 8000 - 8);
  return chunk.length == Max(least, (written + 8) >> 3) && low + offset == kHalf;
}

}  // namespace

namespace ISA {

ms_status DecodeUniformAc(ms_context* ctx, const ms_mask_tensor* tensor, int64_t chunk_symbols, ms_mask_chunk* chunks,
                          int64_t chunk_count) {
  auto body = [&](int64_t c, int) {
    ms_mask_chunk& chunk = chunks[c];
    const int64_t first = c * chunk_symbols, symbols = Min(chunk_symbols, tensor->groups - first);
    if (Crc32c(chunk.bytes, chunk.length) != chunk.checksum)
      chunk.status = MS_CHUNK_CHECKSUM;
    else
      chunk.status = DecodeChunk(chunk, symbols, tensor->mask + first / 2) ? MS_CHUNK_OK : MS_CHUNK_OVERRUN;
  };
  Parallel(ctx, chunk_count, body);
  return MS_OK;
}

}  // namespace ISA
}  // namespace maskserve
