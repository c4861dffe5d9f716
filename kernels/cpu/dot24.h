// The arithmetic of a packed 2:4 matrix (packed24.h) for the tiles: the activations are permuted to match the compact
// values, so half the multiplications of the dense product are left.
#pragma once

#include "packed24.h"
#include "pick24.h"
#include "tiles.h"

namespace maskserve {
namespace {

typedef GroupRows24<const uint8_t, const uint16_t> Rows24;
typedef BlockRow24<const uint8_t, const uint16_t> Row24;

// A thread reads one long stream, which the hardware follows but for its stops at the ends of pages; two groups of long
// rows side by side are two of them, each followed on its own: with one, memory that gives a core more than 25 GB/s
// waits for us. Being read half as fast they are asked for a shorter way ahead.
struct Stream24 {
  static constexpr int kStep = kBlock24;
  static constexpr int64_t kAhead = 9216, kAheadOfTwo = 2880;  // bytes: sixteen tiles, and five
  static constexpr int64_t kLongRow = 2048;                    // columns

  template <int R>
  MS_INLINE void Prefetch(const Rows24& rows, int64_t r, int64_t i) {
    const Row24 row = Rows24::Whole(rows, r, i);
    int64_t ahead = kAhead;
    if (R > kGroupRows24) {
      const bool within = i + kAheadOfTwo / kTileBytes * kBlock24 < rows.k;
      ahead = kAheadOfTwo + (within ? 0 : Rows24::GroupBytes(rows));  // or in the next two groups
    }
    Ask(row.values, ahead);
    if (r % kGroupRows24 == 0) Ask(row.meta, ahead);
  }

 private:
  static constexpr int64_t kTileBytes = kGroupRows24 * kBlock24 * 9 / 8;

  MS_INLINE void Ask(const void* at, int64_t ahead) {
    const uintptr_t place = reinterpret_cast<uintptr_t>(at) + static_cast<uintptr_t>(ahead);
    __builtin_prefetch(reinterpret_cast<const void*>(place), 0, 3);
  }
};

// 64 dense activations in fp32 against 32 values.
struct Fp32Dot24 : Stream24 {
  typedef float X;
#if defined(__AVX512BF16__)
  static constexpr int kTokens = 4, kRows = 4, kRowsNarrow = 8;
#elif defined(__AVX2__)
  static constexpr int kTokens = 2, kRows = 4, kRowsNarrow = 8;
#else
  static constexpr int kTokens = 2, kRows = 2, kRowsNarrow = 2;
#endif
  static constexpr int kRowsLong = kRowsNarrow;
  struct Weights {
    VF even[kRegisters24], odd[kRegisters24];
    Index24 index;
  };
  MS_INLINE Weights Load24(const uint16_t* values, const uint8_t* meta) {
    Weights w;
#pragma GCC unroll 4
    for (int p = 0; p < kRegisters24; ++p) {
      const VI words = LoadPairs(values + 2 * W * p);
      w.even[p] = Even(words);
      w.odd[p] = Odd(words);
    }
    w.index = MakeIndex24(LoadMeta(meta));
    return w;
  }
  MS_INLINE Weights Get(const Rows24& rows, int64_t r, int64_t i) {
    const Row24 row = Rows24::Whole(rows, r, i);
    return Load24(row.values, row.meta);
  }
  MS_INLINE Weights GetPart(const Rows24& rows, int64_t r, int64_t i, int64_t n) {
    PaddedBlock24 block;
    PadBlock24(&block, Rows24::Any(rows, r, i), n);
    return Load24(block.values, block.meta);
  }
  MS_INLINE VF Step(VF acc, const Weights& w, const float* x) {
#pragma GCC unroll 4
    for (int p = 0; p < kRegisters24; ++p) {
      acc = Fma(w.even[p], PickEven24(x, w.index, p), acc);
      acc = Fma(w.odd[p], PickOdd24(x, w.index, p), acc);
    }
    return acc;
  }
  MS_INLINE void PackBlock(float* out, const float* in) {
    PackForPick24(out, in);
  }
};

#if defined(__AVX512BF16__)
// 64 dense activations in bf16 against 32 values.
struct Bf16Dot24 : Stream24 {
  typedef uint16_t X;
  static constexpr int kTokens = 4, kRows = 4, kRowsNarrow = 8, kRowsLong = 16;
  struct Weights {
    __m512i values, index;
  };
  MS_INLINE Weights Get(const Rows24& rows, int64_t r, int64_t i) {
    const Row24 row = Rows24::Whole(rows, r, i);
    return {LoadPairs(row.values), WordIndex24(LoadMeta(row.meta))};
  }
  MS_INLINE Weights GetPart(const Rows24& rows, int64_t r, int64_t i, int64_t n) {
    PaddedBlock24 block;
    PadBlock24(&block, Rows24::Any(rows, r, i), n);
    return {LoadPairs(block.values), WordIndex24(LoadMeta(block.meta))};
  }
  MS_INLINE VF Step(VF acc, const Weights& w, const uint16_t* x) {
    const __m512i picked = PickWords24(_mm512_loadu_si512(x), _mm512_loadu_si512(x + 32), w.index);
    return _mm512_dpbf16_ps(acc, (__m512bh)w.values, (__m512bh)picked);
  }
  MS_INLINE void PackBlock(uint16_t* out, const float* in) {
    _mm512_storeu_si512(out, (__m512i)_mm512_cvtne2ps_pbh(Load(in + W), Load(in)));
    _mm512_storeu_si512(out + 32, (__m512i)_mm512_cvtne2ps_pbh(Load(in + 3 * W), Load(in + 2 * W)));
  }
};
#endif

}  // namespace
}  // namespace maskserve
