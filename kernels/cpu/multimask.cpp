// y (T, N): every token through its own 2:4 mask of one dense matrix (N, K). The weights are read once for all tokens,
// and beside them one bit a weight for each mask, so that from three masks on less is read than from compacted copies.

#include "packed24.h"
#include "panel.h"
#include "rows24.h"

namespace maskserve {
namespace {

constexpr int kTileRows = 4;
constexpr int kTileTokens = 4;
constexpr int kBlockRegisters = kBlock24 / (2 * W);
constexpr int kRowBytes = kBlock24 / 8;  // of a block's bits

// A byte of two nibbles as a byte of eight bits, set where a weight is kept.
MS_INLINE uint8_t KeptBits(uint8_t nibbles) {
  return static_cast<uint8_t>(1u << (nibbles & 3) | 1u << (nibbles >> 2 & 3) | 16u << (nibbles >> 4 & 3) |
                              16u << (nibbles >> 6));
}

// The bits of kTileRows rows of a whole block.
MS_INLINE void KeptBlock(uint8_t* bits, const uint8_t* nibbles) {
#if defined(__AVX2__)
  static_assert(kTileRows * kRowBytes == 32, "one register");
  // Nibble idx0 | idx1 << 2 to 1 << idx0 | 1 << idx1; those that name no pattern are never read.
  const __m256i low = _mm256_broadcastsi128_si256(_mm_setr_epi8(1, 3, 5, 9, 3, 2, 6, 10, 5, 6, 4, 12, 9, 10, 12, 8));
  const __m256i nibble = _mm256_set1_epi8(15);
  const __m256i in = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(nibbles));
  const __m256i first = _mm256_shuffle_epi8(low, _mm256_and_si256(in, nibble));
  const __m256i second = _mm256_shuffle_epi8(low, _mm256_and_si256(_mm256_srli_epi16(in, 4), nibble));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(bits), _mm256_or_si256(first, _mm256_slli_epi16(second, 4)));
#else
  for (int b = 0; b < kTileRows * kRowBytes; ++b) bits[b] = KeptBits(nibbles[b]);
#endif
}

// w where the 2W bits from `bits` are set, else 0.
MS_INLINE VI Keep(VI w, const uint8_t* bits) {
#if defined(__AVX512BF16__)
  __mmask32 kept;
  memcpy(&kept, bits, 4);
  return _mm512_maskz_mov_epi16(kept, w);
#elif defined(__AVX2__)
  int16_t kept;
  memcpy(&kept, bits, 2);
  const __m256i bit = _mm256_setr_epi16(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, -32768);
  return _mm256_and_si256(w, _mm256_cmpeq_epi16(_mm256_and_si256(_mm256_set1_epi16(kept), bit), bit));
#else
  const VI kept = VI{bits[0], bits[0], bits[0], bits[0]};
  const VI even = (kept >> VI{0, 2, 4, 6}) & 1u, odd = (kept >> VI{1, 3, 5, 7}) & 1u;
  return w & ((0u - even) >> 16 | (0u - odd) << 16);
#endif
}

struct Fp32Masked {
  typedef float X;
  static constexpr int kStep = kBlock24;
  MS_INLINE VF Step(VF acc, VI w, const float* x) { return Fma(Odd(w), Load(x + W), Fma(Even(w), Load(x), acc)); }
  MS_INLINE void PackBlock(float* out, const float* in) {
    for (int i = 0; i < kStep; i += 2 * W) {
      for (int j = 0; j < W; ++j) {
        out[i + j] = in[i + 2 * j];
        out[i + W + j] = in[i + 2 * j + 1];
      }
    }
  }
};

#if defined(__AVX512BF16__)
struct Bf16Masked {
  typedef uint16_t X;
  static constexpr int kStep = kBlock24;
  MS_INLINE VF Step(VF acc, VI w, const uint16_t* x) {
    return _mm512_dpbf16_ps(acc, (__m512bh)w, (__m512bh)_mm512_loadu_si512(x));
  }
  MS_INLINE void PackBlock(uint16_t* out, const float* in) {
    _mm512_storeu_si512(out, (__m512i)_mm512_cvtne2ps_pbh(Load(in + W), Load(in)));
    _mm512_storeu_si512(out + 32, (__m512i)_mm512_cvtne2ps_pbh(Load(in + 3 * W), Load(in + 2 * W)));
  }
};
#endif

struct Problem {
  float* y;
  const uint16_t* w;
  const ms_mask24* masks;
  int64_t n, k;
};

// The bits of one mask for a tile: codes24 holds them as they are read; those of a packed matrix are made of its
// nibbles, block by block; without a mask all are set.
struct TileBits {
  const uint8_t* at;  // of the tile's first row in this block: 8 bytes a row
  const uint8_t* nibbles;
  int64_t step, nibbles_step;  // bytes from block to block
  alignas(32) uint8_t made[kTileRows * kRowBytes];

  void Begin(const ms_mask24& mask, int64_t row, int64_t rows, int64_t k) {
    const uint8_t* data = static_cast<const uint8_t*>(mask.nibbles);
    const int64_t first = (row & 7) * kRowBytes;
    memset(made, 0xff, sizeof(made));
    at = made;
    nibbles = NULL;
    step = nibbles_step = 0;
    if (data != NULL && mask.packed) {
      nibbles = data + (row >> 3) * 9 * k + first;
      nibbles_step = rows * 9 * kRowBytes;
    } else if (data != NULL) {
      at = data + (row >> 3) * k + first;
      step = rows * kRowBytes;
    }
  }
  template <int R>
  MS_METHOD void Make() {
    if (nibbles == NULL) return;
    if (R == kTileRows) return KeptBlock(made, nibbles);
    for (int b = 0; b < R * kRowBytes; ++b) made[b] = KeptBits(nibbles[b]);
  }
  MS_METHOD void Next() {
    at += step;
    nibbles += nibbles_step;
  }
};

// Asks for what is read some 30 lines later: in the tile's rows or, where those end, in the next tile's. The hardware
// alone gives up on this many streams.
struct Ahead {
  static constexpr int64_t kWeights = 2048, kBits = 1024;  // bytes

  template <int R, int TT>
  MS_METHOD static void Ask(const uint16_t* row, int64_t i, int64_t k, const TileBits* bits) {
    const int64_t ahead = 2 * i + kWeights, wrapped = ahead < 2 * k ? ahead : ahead + (R - 1) * 2 * k;
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const uintptr_t at = reinterpret_cast<uintptr_t>(row) + static_cast<uintptr_t>(r * 2 * k + wrapped);
      __builtin_prefetch(reinterpret_cast<const void*>(at), 0, 3);
      __builtin_prefetch(reinterpret_cast<const void*>(at + 64), 0, 3);
    }
#pragma GCC unroll 8
    for (int t = 0; t < TT; ++t) {
      const uintptr_t at = reinterpret_cast<uintptr_t>(bits[t].nibbles == NULL ? bits[t].at : bits[t].nibbles);
      __builtin_prefetch(reinterpret_cast<const void*>(at + kBits), 0, 3);
    }
  }
};

// R rows, 64 columns, TT tokens: `row` is R rows of `stride` weights.
template <typename Dot, int R, int TT>
MS_INLINE void Block(VF acc[R][TT], const uint16_t* row, int64_t stride, const uint8_t* const* bits,
                     const typename Dot::X* x) {
#pragma GCC unroll 8
  for (int p = 0; p < kBlockRegisters; ++p) {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const VI w = LoadPairs(row + r * stride + 2 * W * p);
#pragma GCC unroll 8
      for (int t = 0; t < TT; ++t) {
        const VI kept = Keep(w, bits[t] + r * kRowBytes + p * (W / 4));
        acc[r][t] = Dot::Step(acc[r][t], kept, x + t * kBlock24 + 2 * W * p);
      }
    }
  }
}

// The last, shorter block, as a whole one. A mask's nibbles or bits have columns/8 bytes a row there.
template <typename Dot, int R, int TT>
void LastBlock(VF acc[R][TT], const Problem& p, const TileBits* bits, int64_t row, int64_t i,
               const typename Dot::X* x) {
  const int64_t columns = p.k - i, bytes = columns / 8, back = (row & 7) * (kRowBytes - bytes);
  uint16_t weights[R * kBlock24] = {0};
  uint8_t whole[TT][R * kRowBytes] = {{0}};
  const uint8_t* at[TT];
  for (int t = 0; t < TT; ++t) {
    at[t] = whole[t];
    const uint8_t* in = bits[t].nibbles != NULL ? bits[t].nibbles : bits[t].at;
    const bool all = in == bits[t].made;
    for (int r = 0; r < R; ++r) {
      for (int64_t b = 0; b < bytes; ++b) {
        const uint8_t byte = all ? 0xff : in[r * bytes + b - back];
        whole[t][r * kRowBytes + b] = bits[t].nibbles != NULL ? KeptBits(byte) : byte;
      }
    }
  }
  for (int r = 0; r < R; ++r) {
    memcpy(weights + r * kBlock24, p.w + (row + r) * p.k + i, static_cast<size_t>(columns) * 2);
  }
  Block<Dot, R, TT>(acc, weights, kBlock24, at, x);
}

template <typename Dot, int R, int TT>
void Tile(const Problem& p, int64_t first, int64_t row, const typename Dot::X* x) {
  TileBits bits[TT];
  for (int t = 0; t < TT; ++t) bits[t].Begin(p.masks[first + t], row, Min(kGroupRows24, p.n - (row & ~7)), p.k);
  VF acc[R][TT];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int t = 0; t < TT; ++t) acc[r][t] = Zero();
  }
  const uint16_t* weights = p.w + row * p.k;
  int64_t i = 0;
  for (; i + kBlock24 <= p.k; i += kBlock24, x += TT * kBlock24) {
    Ahead::Ask<R, TT>(weights, i, p.k, bits);
    const uint8_t* at[TT];
#pragma GCC unroll 8
    for (int t = 0; t < TT; ++t) {
      bits[t].template Make<R>();
      at[t] = bits[t].at;
    }
    Block<Dot, R, TT>(acc, weights + i, p.k, at, x);
    for (int t = 0; t < TT; ++t) bits[t].Next();
  }
  if (i < p.k) LastBlock<Dot, R, TT>(acc, p, bits, row, i, x);
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int t = 0; t < TT; ++t) p.y[(first + t) * p.n + row + r] = Sum(acc[r][t]);
  }
}

template <typename Dot, int TT>
void Rows(const Problem& p, int64_t first, int64_t begin, int64_t end, const typename Dot::X* x) {
  int64_t r = begin;
  for (; r + kTileRows <= end; r += kTileRows) Tile<Dot, kTileRows, TT>(p, first, r, x);
  for (; r < end; ++r) Tile<Dot, 1, TT>(p, first, r, x);
}

template <typename Dot>
ms_status Product(ms_context* ctx, const Problem& p, const float* x, int64_t tokens) {
  const Panels panels = Panels::Of(tokens, kTileTokens);
  const int64_t padded = PaddedK(p.k, kBlock24);
  size_t bytes;
  typename Dot::X* packed = PackTokens<Dot>(ctx, x, panels, p.k, &bytes);
  if (packed == NULL) return FailMemory(ctx, bytes);
  auto body = [&](int64_t begin, int64_t end, int) {
    for (int64_t panel = 0; panel < panels.count; ++panel) {
      const int64_t first = panels.First(panel);
      const typename Dot::X* from = packed + first * padded;
      switch (panels.Width(panel)) {
        case 1:
          Rows<Dot, 1>(p, first, begin, end, from);
          break;
        case 2:
          Rows<Dot, 2>(p, first, begin, end, from);
          break;
        case 3:
          Rows<Dot, 3>(p, first, begin, end, from);
          break;
        default:
          Rows<Dot, kTileTokens>(p, first, begin, end, from);
      }
    }
  };
  // Several tasks a thread, each of weights that stay in the second-level cache between panels.
  const int64_t cached = panels.count == 1 ? p.n : (128 << 10) / p.k, shared = p.n / (4 * Threads(ctx));
  ParallelRanges(ctx, p.n, CeilDiv(Max(1, Min(cached, shared)), kGroupRows24) * kGroupRows24, body);
  return MS_OK;
}

}  // namespace

namespace ISA {

ms_status MatmulMasked(ms_context* ctx, float* y, const float* x, ms_weights w, const ms_mask24* masks, int64_t tokens,
                       int64_t n, int64_t k) {
  if (w.type != MS_BF16) return FailType(ctx, "w", w.type);
  const Problem problem = {y, static_cast<const uint16_t*>(w.values), masks, n, k};
#if defined(__AVX512BF16__)
  if (!Exact(ctx)) return Product<Bf16Masked>(ctx, problem, x, tokens);
#endif
  return Product<Fp32Masked>(ctx, problem, x, tokens);
}

ms_status Codes24(ms_context* ctx, uint8_t* codes, const uint8_t* meta, int64_t n, int64_t k) {
  auto row = [&](int64_t r) {
    const int64_t rows = Min(kGroupRows24, n - (r & ~7));
    uint8_t* group = codes + (r >> 3) * k;
    for (int64_t i = 0; i < k; i += kBlock24) {
      const int64_t bytes = Min(kBlock24, k - i) / 8;
      uint8_t* out = group + (i >> 6) * (rows * 8) + (r & 7) * bytes;
      for (int64_t b = 0; b < bytes; ++b) out[b] = KeptBits(meta[(r * k + i) / 8 + b]);
    }
  };
  return EachRow24(ctx, meta, n, k, Max(1, (1 << 18) / (k * kGroupRows24)) * kGroupRows24, row);
}

}  // namespace ISA
}  // namespace maskserve
