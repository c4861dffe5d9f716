// Dense weights to 2:4 form and back. Both move whole values by position: a kept −0.0 stays −0.0, and nothing is
// multiplied.

#include "pick24.h"
#include "rows24.h"

namespace maskserve {
namespace {

constexpr int64_t kTaskBytes = 256 << 10;  // of dense weights

void CompressRow(uint16_t* values, const uint16_t* w, const uint8_t* meta, int64_t k) {
  int64_t i = 0;
#if defined(__AVX512BF16__)
  for (; i + 64 <= k; i += 64) {
    const __m512i index = WordIndex24(LoadMeta(meta + i / 8, 8));
    _mm512_storeu_si512(values + i / 2, PickWords24(_mm512_loadu_si512(w + i), _mm512_loadu_si512(w + i + 32), index));
  }
#endif
  for (; i < k; i += 8) {
    const uint8_t m = meta[i / 8];
    uint16_t* out = values + i / 2;
    out[0] = w[i + (m & 3)];
    out[1] = w[i + (m >> 2 & 3)];
    out[2] = w[i + 4 + (m >> 4 & 3)];
    out[3] = w[i + 4 + (m >> 6)];
  }
}

// A group's four words as one: 0xffff where the nibble keeps the word.
MS_INLINE uint64_t KeptWords(unsigned nibble) {
  return 0xffffull << (16 * (nibble & 3)) | 0xffffull << (16 * (nibble >> 2));
}

void SelectRow(uint16_t* out, const uint16_t* w, const uint8_t* meta, int64_t k) {
  for (int64_t i = 0; i < k; i += 8) {
    uint64_t groups[2];
    memcpy(groups, w + i, 16);
    groups[0] &= KeptWords(meta[i / 8] & 15);
    groups[1] &= KeptWords(meta[i / 8] >> 4);
    memcpy(out + i, groups, 16);
  }
}

}  // namespace

namespace ISA {

ms_status Compress24(ms_context* ctx, void* values, ms_weights w, const uint8_t* meta, int64_t n, int64_t k) {
  if (w.type != MS_BF16) return FailType(ctx, "w", w.type);
  uint16_t* out = static_cast<uint16_t*>(values);
  const uint16_t* in = static_cast<const uint16_t*>(w.values);
  auto row = [&](int64_t r) { CompressRow(out + r * (k / 2), in + r * k, meta + r * (k / 8), k); };
  return EachRow24(ctx, meta, n, k, kTaskBytes / (2 * k), row);
}

ms_status Select24(ms_context* ctx, void* out, ms_weights w, const uint8_t* meta, int64_t n, int64_t k) {
  if (w.type != MS_BF16) return FailType(ctx, "w", w.type);
  uint16_t* to = static_cast<uint16_t*>(out);
  const uint16_t* in = static_cast<const uint16_t*>(w.values);
  auto row = [&](int64_t r) { SelectRow(to + r * k, in + r * k, meta + r * (k / 8), k); };
  return EachRow24(ctx, meta, n, k, kTaskBytes / (2 * k), row);
}

}  // namespace ISA
}  // namespace maskserve
