// Pattern numbers, one a byte, to canonical nibbles and back (FORMAT.md §2), and the checksum of bytes.

#include "checksum.h"
#include "codec_ops.h"
#include "lanes24.h"

namespace maskserve {
namespace {

constexpr int64_t kGrain = 1 << 16;  // groups, a multiple of kStep

// 1 where a value is 6 or more.
MS_INLINE bool AnyAbove5(const uint8_t* symbols, int64_t groups) {
  uint8_t above = 0;
  for (int64_t i = 0; i < groups; ++i) above |= symbols[i] > 5;
  return above != 0;
}

// 1 where a nibble names no pattern: idx0 < idx1 does not hold.
MS_INLINE bool AnyNoPattern(const uint8_t* nibbles, int64_t bytes) {
  uint8_t bad = 0;
  for (int64_t i = 0; i < bytes; ++i) {
    const uint8_t m = nibbles[i];
    bad |= static_cast<uint8_t>((m & 3) >= (m >> 2 & 3)) | static_cast<uint8_t>((m >> 4 & 3) >= (m >> 6));
  }
  return bad != 0;
}

MS_INLINE void PackRange(uint8_t* nibbles, const uint8_t* symbols, int64_t groups) {
  int64_t i = 0;
  for (; i + kStep <= groups; i += kStep) {
    StoreLaneNibbles(nibbles + i / 2, NibblesOfSymbols(LoadLaneBytes(symbols + i)));
  }
  for (; i < groups; ++i) {
    const unsigned nibble = kNibbleOfSymbol[symbols[i] & 7];
    nibbles[i / 2] = static_cast<uint8_t>(i % 2 == 0 ? nibble : nibbles[i / 2] | nibble << 4);
  }
}

MS_INLINE void UnpackRange(uint8_t* symbols, const uint8_t* nibbles, int64_t groups) {
  int64_t i = 0;
  for (; i + kStep <= groups; i += kStep) {
    StoreLaneBytes(symbols + i, SymbolsOfNibbles(LoadLaneNibbles(nibbles + i / 2)));
  }
  for (; i < groups; ++i) symbols[i] = static_cast<uint8_t>(kSymbolOfNibble[nibbles[i / 2] >> 4 * (i % 2) & 15]);
}

}  // namespace

namespace ISA {

int32_t PackSymbols(ms_context* ctx, uint8_t* nibbles, const uint8_t* symbols, int64_t groups) {
  int32_t bad = 0;
  auto body = [&](int64_t begin, int64_t end, int) {
    if (AnyAbove5(symbols + begin, end - begin)) __atomic_store_n(&bad, 1, __ATOMIC_RELAXED);
    PackRange(nibbles + begin / 2, symbols + begin, end - begin);
  };
  ParallelRanges(ctx, groups, kGrain, body);
  return bad == 0;
}

int32_t UnpackSymbols(ms_context* ctx, uint8_t* symbols, const uint8_t* nibbles, int64_t groups) {
  int32_t bad = 0;
  auto body = [&](int64_t begin, int64_t end, int) {
    const int64_t odd = (end - begin) % 2;
    bool wrong = AnyNoPattern(nibbles + begin / 2, (end - begin) / 2);
    if (odd != 0) wrong |= nibbles[end / 2] >> 4 != 0 || (nibbles[end / 2] & 3) >= (nibbles[end / 2] >> 2 & 3);
    if (wrong) __atomic_store_n(&bad, 1, __ATOMIC_RELAXED);
    UnpackRange(symbols + begin, nibbles + begin / 2, end - begin);
  };
  ParallelRanges(ctx, groups, kGrain, body);
  return bad == 0;
}

uint32_t Checksum(const uint8_t* bytes, int64_t length) {
  return Crc32c(bytes, length);
}

}  // namespace ISA
}  // namespace maskserve
