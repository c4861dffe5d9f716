// From what training learns to masks, and masks on weights in training: the best pattern of logits, the two best of
// four scores, fp32 weights and gradients under a 2:4 mask.

#include "ops.h"
#include "rank24.h"
#include "rows24.h"

namespace maskserve {
namespace {

constexpr int64_t kGroups = 8192;   // a task
constexpr int64_t kFloats = 65536;  // a task

MS_INLINE float NanBelowAll(float x) {
  return x == x ? x : -INFINITY;
}

// The lower of equals; a NaN is below everything.
uint8_t BestPattern(const float* logits, int64_t patterns) {
  int64_t best = 0;
  float largest = NanBelowAll(logits[0]);
  for (int64_t i = 1; i < patterns; ++i) {
    if (logits[i] > largest) {
      largest = logits[i];
      best = i;
    }
  }
  return static_cast<uint8_t>(best);
}

unsigned NibbleOf(const float* scores) {
  float clean[4];
  for (int i = 0; i < 4; ++i) clean[i] = NanBelowAll(scores[i]);
  return BestTwo(clean);
}

// A group's four floats as bits: all ones where the nibble keeps the float.
MS_INLINE void KeptFloats(uint32_t* keep, unsigned nibble) {
  for (unsigned i = 0; i < 4; ++i) keep[i] = i == (nibble & 3) || i == nibble >> 2 ? 0xffffffffu : 0;
}

// The 16 nibbles' masks, so that a row is loads and ands.
struct NibbleMasks {
  alignas(64) uint32_t keep[16][4];
};

NibbleMasks MakeNibbleMasks() {
  NibbleMasks masks;
  for (unsigned nibble = 0; nibble < 16; ++nibble) KeptFloats(masks.keep[nibble], nibble);
  return masks;
}

MS_INLINE void KeepGroup(float* out, const float* in, const uint32_t* keep) {
  uint32_t bits[4];
  memcpy(bits, in, sizeof(bits));
  for (int i = 0; i < 4; ++i) bits[i] &= keep[i];
  memcpy(out, bits, sizeof(bits));
}

}  // namespace

namespace ISA {

ms_status ArgmaxPatterns(ms_context* ctx, uint8_t* symbols, const float* logits, int64_t groups, int64_t patterns) {
  auto body = [&](int64_t begin, int64_t end, int) {
    for (int64_t g = begin; g < end; ++g) symbols[g] = BestPattern(logits + g * patterns, patterns);
  };
  ParallelRanges(ctx, groups, kGroups, body);
  return MS_OK;
}

ms_status TopTwo(ms_context* ctx, uint8_t* meta, const float* scores, int64_t groups) {
  auto body = [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      meta[i] = static_cast<uint8_t>(NibbleOf(scores + 8 * i) | NibbleOf(scores + 8 * i + 4) << 4);
    }
  };
  ParallelRanges(ctx, groups / 2, kGroups / 2, body);
  return MS_OK;
}

ms_status MulBf16(ms_context* ctx, float* out, const float* a, ms_weights b, int64_t n) {
  if (b.type != MS_BF16) return FailType(ctx, "b", b.type);
  const uint16_t* values = static_cast<const uint16_t*>(b.values);
  auto body = [&](int64_t begin, int64_t end, int) {
    int64_t i = begin;
    for (; i + W <= end; i += W) Store(out + i, Mul(Load(a + i), LoadBf16(values + i)));
    if (i < end) StorePart(out + i, Mul(LoadPart(a + i, end - i), LoadBf16Part(values + i, end - i)), end - i);
  };
  ParallelRanges(ctx, n, kFloats, body);
  return MS_OK;
}

ms_status Select24F32(ms_context* ctx, uint16_t* out, const float* w, const uint8_t* meta, int64_t n, int64_t k) {
  const NibbleMasks masks = MakeNibbleMasks();
  auto row = [&](int64_t r) {
    for (int64_t i = 0; i < k; i += 8) {
      const int64_t at = r * k + i;
      float kept[8];
      KeepGroup(kept, w + at, masks.keep[meta[at / 8] & 15]);
      KeepGroup(kept + 4, w + at + 4, masks.keep[meta[at / 8] >> 4]);
      for (int j = 0; j < 8; ++j) out[at + j] = Bf16OfFloat(kept[j]);
    }
  };
  return EachRow24(ctx, meta, n, k, kFloats / k, row);
}

ms_status Keep24F32(ms_context* ctx, float* x, const uint8_t* meta, int64_t n, int64_t k) {
  const NibbleMasks masks = MakeNibbleMasks();
  auto row = [&](int64_t r) {
    for (int64_t i = 0; i < k; i += 8) {
      float* at = x + r * k + i;
      const uint8_t byte = meta[(r * k + i) / 8];
      KeepGroup(at, at, masks.keep[byte & 15]);
      KeepGroup(at + 4, at + 4, masks.keep[byte >> 4]);
    }
  };
  return EachRow24(ctx, meta, n, k, kFloats / k, row);
}

}  // namespace ISA
}  // namespace maskserve
