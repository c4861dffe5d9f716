// Rows of a packed 2:4 matrix (packed24.h) as a panel for Tile24, or rows of the child that a patch makes of it: the
// patch is worked into the panel, so a prompt through a patch costs what it costs through a compacted copy.
#pragma once

#include "patch24.h"
#include "pick24.h"
#include "tile24.h"

#if defined(__AVX512BF16__) || defined(__AVX2__)

namespace maskserve {
namespace {

// W rows of a block of 64 columns, where they lie: `values` as packed24.h orders them, and the nibbles of groups 0–7
// and 8–15, a row a lane, the first in the lowest bits.
struct BlockRows24 {
  const uint16_t* values[W];
  VI low, high;
};

#if defined(__AVX512BF16__)
// `meta`: W rows of eight bytes.
MS_INLINE void SetNibbles24(BlockRows24* rows, const uint8_t* first, const uint8_t* second) {
  const __m512i even = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
  const __m512i odd = _mm512_or_si512(even, _mm512_set1_epi32(1));
  const __m512i above = _mm512_loadu_si512(first), below = _mm512_loadu_si512(second);
  rows->low = _mm512_permutex2var_epi32(above, even, below);
  rows->high = _mm512_permutex2var_epi32(above, odd, below);
}
MS_INLINE VI ShiftRight24(VI v, int bits) {
  return _mm512_srli_epi32(v, static_cast<unsigned>(bits));
}
MS_INLINE VF AsFloats24(VI v) {
  return _mm512_castsi512_ps(v);
}
#else
MS_INLINE void SetNibbles24(BlockRows24* rows, const uint8_t* first, const uint8_t*) {
  const __m256i order = _mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7);
  const __m256i above = _mm256_permutevar8x32_epi32(LoadPairs(reinterpret_cast<const uint16_t*>(first)), order);
  const __m256i below = _mm256_permutevar8x32_epi32(LoadPairs(reinterpret_cast<const uint16_t*>(first) + 2 * W), order);
  rows->low = _mm256_permute2x128_si256(above, below, 0x20);
  rows->high = _mm256_permute2x128_si256(above, below, 0x31);
}
MS_INLINE VI ShiftRight24(VI v, int bits) {
  return _mm256_srli_epi32(v, bits);
}
MS_INLINE VF AsFloats24(VI v) {
  return _mm256_castsi256_ps(v);
}
#endif

// Room for rows that are not whole blocks, or not there.
struct PaddedRows24 {
  PaddedBlock24 blocks[W];
  alignas(64) uint8_t meta[W * 8];
};

// Rows [row, row + W) of the block that begins at `column`.
MS_INLINE void FindRows24(BlockRows24* out, PaddedRows24* room, const Packed24& w, int64_t row, int64_t column) {
  constexpr int64_t kSecond = W - kGroupRows24;
  if (row + W <= w.n && column + kBlock24 <= w.k) {
    const Packed24::Rows above = w.From(row), below = w.From(row + kSecond);
    for (int r = 0; r < W; ++r) {
      out->values[r] = Packed24::Rows::Whole(r < kSecond ? above : below, r % kGroupRows24, column).values;
    }
    SetNibbles24(out, Packed24::Rows::Whole(above, 0, column).meta, Packed24::Rows::Whole(below, 0, column).meta);
    return;
  }
  memset(room, 0, sizeof(*room));
  for (int r = 0; r < W; ++r) {
    PaddedBlock24* block = &room->blocks[r];
    out->values[r] = block->values;
    if (row + r >= w.n) continue;
    const BlockRow24<const uint8_t, const uint16_t> at = Packed24::Rows::Any(w.From(row + r), 0, column);
    if (column + kBlock24 <= w.k) {
      out->values[r] = at.values;
      memcpy(block->meta, at.meta, sizeof(block->meta));
    } else {
      PadBlock24(block, at, w.k - column);
    }
    memcpy(room->meta + 8 * r, block->meta, sizeof(block->meta));
  }
  SetNibbles24(out, room->meta, room->meta + 8 * kSecond);
}

// Fills column c … c + W of the 16 groups at `out`.
#if defined(__AVX512BF16__)
MS_INLINE void FillGroups24(Tile24<Bf16Picks24>, uint32_t* out, const BlockRows24& rows) {
  typedef Tile24<Bf16Picks24> Tile;
  alignas(64) uint16_t word[32];
  for (int64_t i = 0; i < 32; ++i) word[i] = static_cast<uint16_t>(ValueWord24(i));
  // The shuffle's four bytes for each nibble.
  alignas(64) uint32_t bytes[16];
  for (uint32_t nibble = 0; nibble < 16; ++nibble) {
    const uint32_t first = 2 * (nibble & 3), second = 2 * (nibble >> 2);
    bytes[nibble] = first | (first + 1) << 8 | second << 16 | (second + 1) << 24;
  }
  VF pairs[W];
#pragma GCC unroll 16
  for (int r = 0; r < W; ++r) {
    pairs[r] = AsFloats24(_mm512_permutexvar_epi16(_mm512_load_si512(word), LoadPairs(rows.values[r])));
  }
  Transpose(pairs);
#pragma GCC unroll 16
  for (int g = 0; g < W; ++g, out += Tile::kGroupOfPanel) {
    const VI nibbles = ShiftRight24(g < 8 ? rows.low : rows.high, 4 * (g % 8));
    Bf16Product::Put(out, pairs[g]);
    _mm512_storeu_si512(out + Tile::kPicks, _mm512_permutexvar_epi32(nibbles, _mm512_load_si512(bytes)));
  }
}
#endif

// The packed word of a block to the number of its value, 0 … 31.
constexpr MS_INLINE int64_t ValueOfWord24(int64_t word) {
  return (word & 16) | (word & 1) << 3 | (word >> 1 & 7);
}

// Only the lowest two bits of a pick count.
MS_INLINE void FillGroups24(Tile24<Fp32Picks24>, float* out, const BlockRows24& rows) {
  typedef Tile24<Fp32Picks24> Tile;
  constexpr int64_t kStep = 2 * Tile::kPicks;
  for (int part = 0; part < kRegisters24; ++part) {
    VF even[W], odd[W];
#pragma GCC unroll 16
    for (int r = 0; r < W; ++r) {
      const VI words = LoadPairs(rows.values[r] + 2 * W * part);
      even[r] = Even(words);
      odd[r] = Odd(words);
    }
    Transpose(even);
    Transpose(odd);
#pragma GCC unroll 16
    for (int d = 0; d < W; ++d) {
      const int64_t word = 2 * (W * part + d);
      Store(out + ValueOfWord24(word) * kStep, even[d]);
      Store(out + ValueOfWord24(word + 1) * kStep, odd[d]);
    }
  }
#pragma GCC unroll 32
  for (int i = 0; i < 32; ++i) {
    Store(out + i * kStep + Tile::kPicks, AsFloats24(ShiftRight24(i < 16 ? rows.low : rows.high, 2 * (i % 16))));
  }
}

// One row's swap of a group at `values` of a panel. `in` and `out`: places in the group.
MS_INLINE void SwapLane24(Tile24<Fp32Picks24>, float* values, uint16_t weight, uint32_t in, uint32_t out) {
  typedef Tile24<Fp32Picks24> Tile;
  float* step = (BitsOfFloat(values[Tile::kPicks]) & 3) == out ? values : values + 2 * Tile::kPicks;
  step[0] = FloatOfBf16(weight);
  step[Tile::kPicks] = FloatOfBits(in);
}
#if defined(__AVX512BF16__)
MS_INLINE void SwapLane24(Tile24<Bf16Picks24>, uint32_t* values, uint16_t weight, uint32_t in, uint32_t out) {
  uint32_t* picks = values + Tile24<Bf16Picks24>::kPicks;
  const int shift = (*picks & 0xff) == 2 * out ? 0 : 16;
  const uint32_t others = ~(0xffffu << shift);
  *values = (*values & others) | static_cast<uint32_t>(weight) << shift;
  *picks = (*picks & others) | (2 * in | (2 * in + 1) << 8) << shift;
}
#endif

template <typename Tile>
struct PackPanel24 {
  typedef typename Tile::E E;
  Packed24 w;
  const uint8_t* patch;  // NULL: none

  void Pack(E* out, const PanelPlace& panel, int64_t begin, int64_t end) const {
    PaddedRows24 room;
    E* block = out;
    for (int64_t i = begin; i < end; i += kBlock24, block += kBlock24 / 4 * Tile::kGroupOfPanel) {
      for (int64_t c = 0; c < panel.some; c += W) {
        BlockRows24 rows;
        FindRows24(&rows, &room, w, panel.first + c, i);
        FillGroups24(Tile(), block + c, rows);
      }
    }
    if (patch != NULL) Swap(out, panel, begin, end);
  }

  // The child's weights and places instead of the parent's. A window of the patch is whole panels high.
  void Swap(E* out, const PanelPlace& panel, int64_t begin, int64_t end) const {
    static_assert(kWindowRows24 % (Tile::kColumns * W) == 0, "a panel lies in one row of windows");
    const int64_t windows = panel.first / kWindowRows24 * WindowsAcross24(w.k);
    for (int64_t i = begin / kWindowColumns24; i * kWindowColumns24 < end; ++i) {
      const int64_t column = i * kWindowColumns24;
      SwapOfWindow(out, panel, Patch24::Window({patch, w.n, w.k}, windows + i), begin - column, end - column);
    }
  }

  // Columns [begin, end) are counted from the window's first.
  MS_INLINE void SwapOfWindow(E* out, const PanelPlace& panel, const Window24& window, int64_t begin, int64_t end) {
    for (int64_t c = 0; c < panel.some; ++c) {
      E* lane = out + c;
      auto swap = [&](const Swap24& swap) {
        if (swap.in < begin || swap.in >= end) return;
        SwapLane24(Tile(), lane + (swap.in - begin) / 4 * Tile::kGroupOfPanel, swap.in_weight,
                   static_cast<uint32_t>(swap.in & 3), static_cast<uint32_t>(swap.out & 3));
      };
      EachSwapOfRow24(window, panel.first + c - window.place.row, swap);
    }
  }
};

}  // namespace
}  // namespace maskserve

#endif
