// Dense weights to 2:4 form and back. Both move whole values by position: a kept −0.0 stays −0.0, and nothing is
// multiplied.

#include "packed24.h"
#include "pick24.h"
#include "rows24.h"

namespace maskserve {
namespace {

constexpr int64_t kTaskBytes = 256 << 10;  // of dense weights

// The column of value `v` of the block that begins at column i, in a row with this metadata.
MS_INLINE int64_t KeptColumn24(const uint8_t* meta, int64_t i, int64_t v) {
  return i + v / 2 * 4 + (meta[i / 8 + v / 4] >> (2 * (v & 3)) & 3);
}

void CompressRow(const GroupRows24<uint8_t, uint16_t>& out, const uint16_t* w, const uint8_t* meta, int64_t k) {
  int64_t i = 0;
  for (; i + kBlock24 <= k; i += kBlock24) {
    const BlockRow24<uint8_t, uint16_t> block = out.Whole(out, 0, i);
    memcpy(block.meta, meta + i / 8, 8);
#if defined(__AVX512BF16__)
    const __m512i index = WordIndex24(LoadMeta(meta + i / 8));
    const __m512i kept = PickWords24(_mm512_loadu_si512(w + i), _mm512_loadu_si512(w + i + 32), index);
    _mm512_storeu_si512(block.values, kept);
#else
    for (int64_t v = 0; v < kBlock24 / 2; ++v) block.values[ValueWord24(v)] = w[KeptColumn24(meta, i, v)];
#endif
  }
  if (i == k) return;
  const BlockRow24<uint8_t, uint16_t> block = out.Any(out, 0, i);
  memcpy(block.meta, meta + i / 8, static_cast<size_t>((k - i) / 8));
  for (int64_t v = 0; v < (k - i) / 2; ++v) block.values[v] = w[KeptColumn24(meta, i, v)];
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

ms_status Compress24(ms_context* ctx, void* packed, ms_weights w, const uint8_t* meta, int64_t n, int64_t k) {
  if (w.type != MS_BF16) return FailType(ctx, "w", w.type);
  const PackedOut24 out = {static_cast<uint8_t*>(packed), n, k};
  const uint16_t* in = static_cast<const uint16_t*>(w.values);
  auto row = [&](int64_t r) { CompressRow(out.From(r), in + r * k, meta + r * (k / 8), k); };
  // Whole groups, so that two threads don't write one cache line.
  const int64_t groups = Max(1, kTaskBytes / (2 * k * kGroupRows24));
  return EachRow24(ctx, meta, n, k, groups * kGroupRows24, row);
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
