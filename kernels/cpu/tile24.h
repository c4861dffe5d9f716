// Tiles of prefill.h that multiply by the packed 2:4 form: half the multiplications of the dense product.
//
// A register holds W rows of weights. For a group of four columns the panel has, a step, a register of values and one
// of picks; a token's four activations are broadcast, a shuffle picks in every lane what its row keeps, and a
// multiply-add follows. One step a group in bf16, where a lane holds both values of a row: a shuffle and a vdpbf16ps
// for what the dense product does with two vdpbf16ps. Two steps in fp32, with a shuffle and a multiply-add each, for
// four.
#pragma once

#include "packed24.h"
#include "prefill.h"

#if defined(__AVX512BF16__) || defined(__AVX2__)

namespace maskserve {
namespace {

#if defined(__AVX512BF16__)

struct Bf16Picks24 {
  typedef Bf16Product Product;
  static constexpr int kRows = 12, kColumns = 2, kSteps = 1;
  typedef __m512i Token;

  MS_INLINE Token Broadcast(const uint32_t* a) {
    int64_t four;
    memcpy(&four, a, sizeof(four));
    return _mm512_set1_epi64(four);
  }
  MS_INLINE VF Step(VF acc, const uint32_t* values, const uint32_t* picks, Token token) {
    const __m512i picked = _mm512_shuffle_epi8(token, _mm512_loadu_si512(picks));
    return _mm512_dpbf16_ps(acc, (__m512bh)_mm512_loadu_si512(values), (__m512bh)picked);
  }
};

#endif

struct Fp32Picks24 {
  typedef Fp32Product Product;
#if defined(__AVX512BF16__)
  static constexpr int kRows = 12;
#else
  static constexpr int kRows = 4;
#endif
  static constexpr int kColumns = 2, kSteps = 2;
  typedef VF Token;

#if defined(__AVX512BF16__)
  MS_INLINE Token Broadcast(const float* a) {
    return _mm512_broadcast_f32x4(_mm_loadu_ps(a));
  }
  MS_INLINE VF Step(VF acc, const float* values, const float* picks, Token token) {
    return Fma(Load(values), _mm512_permutevar_ps(token, _mm512_castps_si512(Load(picks))), acc);
  }
#else
  MS_INLINE Token Broadcast(const float* a) {
    return _mm256_broadcast_ps(reinterpret_cast<const __m128*>(a));
  }
  MS_INLINE VF Step(VF acc, const float* values, const float* picks, Token token) {
    return Fma(Load(values), _mm256_permutevar_ps(token, _mm256_castps_si256(Load(picks))), acc);
  }
#endif
};

// Arithmetic: Bf16Picks24 or Fp32Picks24.
template <typename Arithmetic>
struct Tile24 {
  typedef typename Arithmetic::Product Product;
  typedef typename Product::E E;
  static constexpr int kRows = Arithmetic::kRows, kColumns = Arithmetic::kColumns;
  static constexpr int64_t kBlock = kBlock24 / Product::kPair, kGroup = 4 / Product::kPair;  // elements
  // Elements of a panel: from a step's values to its picks, from a group to the next.
  static constexpr int64_t kPicks = kColumns * W, kGroupOfPanel = 2 * Arithmetic::kSteps * kPicks;
  static_assert(kGroupOfPanel == kGroup * kColumns * W, "as much room as the dense group takes");

  template <int R>
  MS_TILE void Run(const Sums& sums, const E* a, const E* b, int64_t depth) {
    constexpr int C = kColumns;
    Accumulators<R, C> acc;
    acc.Begin(sums);
    for (int64_t d = 0; d < depth; d += W, a += R * W) {
      const E* from = a;
#pragma GCC unroll 1
      for (int i = 0; i < W; i += kGroup, from += kGroup) {
#pragma GCC unroll 2
        for (int s = 0; s < Arithmetic::kSteps; ++s, b += 2 * kPicks) {
#pragma GCC unroll 16
          for (int r = 0; r < R; ++r) {
            const typename Arithmetic::Token token = Arithmetic::Broadcast(from + r * W);
#pragma GCC unroll 4
            for (int j = 0; j < C; ++j) {
              acc.of[r][j] = Arithmetic::Step(acc.of[r][j], b + j * W, b + kPicks + j * W, token);
            }
          }
        }
      }
    }
    acc.End(sums);
  }
};

}  // namespace
}  // namespace maskserve

#endif
