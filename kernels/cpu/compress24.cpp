// Dense weights to 2:4 form and back. Both move whole values by position: a kept −0.0 stays −0.0, and nothing is
// multiplied.

#include "compress_block24.h"
#include "rows24.h"

namespace maskserve {
namespace {

constexpr int64_t kTaskBytes = 256 << 10;  // of dense weights

void CompressRow(const GroupRows24<uint8_t, uint16_t>& out, const uint16_t* w, const uint8_t* meta, int64_t k) {
  int64_t i = 0;
  for (; i + kBlock24 <= k; i += kBlock24) CompressBlock24(out.Whole(out, 0, i), w + i, meta + i / 8);
  if (i == k) return;
  const BlockRow24<uint8_t, uint16_t> block = out.Any(out, 0, i);
  memcpy(block.meta, meta + i / 8, static_cast<size_t>((k - i) / 8));
  // The values of a shorter block may begin at an odd address.
  for (int64_t v = 0; v < (k - i) / 2; ++v) memcpy(block.values + v, &w[i + KeptColumn24(meta + i / 8, v)], 2);
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
  auto row = [&](int64_t r) {
    CompressRow(out.From(r), in + r * k, meta + r * (k / 8), k);
    if ((r & 7) == 7 || r == n - 1) EndStreams24();
  };
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
