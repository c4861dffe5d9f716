// CRC-32C (RFC 3720 §B.4), by the CPU's instruction where the build has it.
#pragma once

#include "simd.h"

#if defined(__SSE4_2__)
#include <nmmintrin.h>
#endif

namespace maskserve {
namespace {

#if defined(__SSE4_2__)

MS_INLINE uint32_t Crc32c(const uint8_t* bytes, int64_t length) {
  uint64_t crc = 0xffffffffu;
  int64_t i = 0;
  for (; i + 8 <= length; i += 8) {
    uint64_t word;
    memcpy(&word, bytes + i, 8);
    crc = _mm_crc32_u64(crc, word);
  }
  uint32_t rest = static_cast<uint32_t>(crc);
  for (; i < length; ++i) rest = _mm_crc32_u8(rest, bytes[i]);
  return ~rest;
}

#else

// Eight bytes at a time: entry [j][b] is the remainder of byte b followed by j zero bytes (Kounavis and Berry 2005).
struct CrcTables {
  uint32_t of[8][256];
};
constexpr CrcTables MakeCrcTables() {
  CrcTables t = {};
  for (uint32_t b = 0; b < 256; ++b) {
    uint32_t crc = b;
    for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78u : 0);
    t.of[0][b] = crc;
  }
  for (int j = 1; j < 8; ++j) {
    for (int b = 0; b < 256; ++b) t.of[j][b] = t.of[j - 1][b] >> 8 ^ t.of[0][t.of[j - 1][b] & 255];
  }
  return t;
}
constexpr CrcTables kCrcTables = MakeCrcTables();

MS_INLINE uint32_t Crc32c(const uint8_t* bytes, int64_t length) {
  uint32_t crc = 0xffffffffu;
  int64_t i = 0;
  for (; i + 8 <= length; i += 8) {
    uint64_t word;
    memcpy(&word, bytes + i, 8);
    word ^= crc;
    crc = 0;
    for (int j = 0; j < 8; ++j) crc ^= kCrcTables.of[7 - j][word >> 8 * j & 255];
  }
  for (; i < length; ++i) crc = crc >> 8 ^ kCrcTables.of[0][(crc ^ bytes[i]) & 255];
  return ~crc;
}

#endif

}  // namespace
}  // namespace maskserve
