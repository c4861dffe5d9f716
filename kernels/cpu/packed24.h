// The packed form of a 2:4 matrix (N, K): one sequential stream, in the order in which matmul24 reads it.
//
// Rows go in groups of 8 (the last may have fewer), K in blocks of 64 columns (the last may be shorter). One tile, the
// R rows of a group × the B columns of a block, is R·B/8 bytes of metadata, row after row the canonical nibbles (idx0 |
// idx1 << 2, low nibble first), then R·B/2 bf16 values, row after row. A whole tile is nine cache lines: one of
// metadata, a line of values for each row. Nothing is padded: N·K·9/8 bytes in all, 9/16 of the dense matrix.
//
// In a whole block a row's 32 values are laid out for registers that hold words in pairs: value i goes to word
// ValueWord24(i), so that the even words of a 32-byte half are 8 consecutive values and its odd words the next 8. In a
// shorter block they are in position order.
#pragma once

#include "simd.h"

namespace maskserve {
namespace {

constexpr int64_t kGroupRows24 = 8;
constexpr int64_t kBlock24 = 64;

MS_INLINE int64_t ValueWord24(int64_t i) {
  return (i & 16) | (i & 7) << 1 | (i >> 3 & 1);
}

// A row's part of one block. `meta` has columns/8 bytes, `values` columns/2 words.
template <typename Byte, typename Word>
struct BlockRow24 {
  Byte* meta;
  Word* values;
};

// Some rows of one group, from `first`: where their blocks are. `meta` and `values` are row first's in the first block,
// were it whole, so that every whole block is a constant away from them.
template <typename Byte, typename Word>
struct GroupRows24 {
  Byte *group, *meta, *values;
  int64_t rows, first, k;  // rows of the group

  // Row first + r of the whole block that begins at column i. From 8 on r is in the next group, if both are whole.
  MS_INLINE BlockRow24<Byte, Word> Whole(const GroupRows24& g, int64_t r, int64_t i) {
    const int64_t tile = (i >> 6) * (g.rows * 72) + r / kGroupRows24 * GroupBytes(g), row = r % kGroupRows24;
    return {g.meta + tile + row * 8, reinterpret_cast<Word*>(g.values + tile + row * 64)};
  }
  // Of eight rows.
  MS_INLINE int64_t GroupBytes(const GroupRows24& g) { return 9 * g.k; }
  // The same of any block.
  MS_INLINE BlockRow24<Byte, Word> Any(const GroupRows24& g, int64_t r, int64_t i) {
    const int64_t columns = Min(kBlock24, g.k - i);
    const int64_t row = (g.first + r) % kGroupRows24;
    Byte* tile = g.group + (i >> 6) * (g.rows * 72) + (g.first + r) / kGroupRows24 * GroupBytes(g);
    return {tile + row * (columns >> 3), reinterpret_cast<Word*>(tile + g.rows * (columns >> 3) + row * columns)};
  }
};

template <typename Byte, typename Word>
struct PackedMatrix24 {
  typedef GroupRows24<Byte, Word> Rows;
  Byte* data;
  int64_t n, k;

  // The rows of the group that `row` is in, from `row` on.
  Rows From(int64_t row) const {
    const int64_t rows = Min(kGroupRows24, n - (row & ~7)), first = row & 7;
    Byte* group = data + (row >> 3) * 9 * k;
    return {group, group + first * 8, group + rows * 8 + first * 64, rows, first, k};
  }
};

typedef PackedMatrix24<const uint8_t, const uint16_t> Packed24;
typedef PackedMatrix24<uint8_t, uint16_t> PackedOut24;

// Where one group's nibble is: in this byte, low when the group's number in its row is even. Groups count row by row.
MS_INLINE const uint8_t* GroupByte24(const Packed24& matrix, int64_t group) {
  const int64_t per_row = matrix.k >> 2, row = group / per_row, column = (group - row * per_row) << 2;
  const Packed24::Rows rows = matrix.From(row);
  return Packed24::Rows::Any(rows, 0, column & ~(kBlock24 - 1)).meta + ((column & (kBlock24 - 1)) >> 3);
}

MS_INLINE unsigned GroupNibble24(const Packed24& matrix, int64_t group) {
  return *GroupByte24(matrix, group) >> 4 * (group & 1) & 15;  // rows have an even number of groups
}

// A block as a whole one, zero beyond its columns.
struct PaddedBlock24 {
  alignas(64) uint16_t values[32];
  uint8_t meta[8];
};

MS_INLINE void PadBlock24(PaddedBlock24* out, const BlockRow24<const uint8_t, const uint16_t>& in, int64_t columns) {
  memset(out, 0, sizeof(*out));
  memcpy(out->meta, in.meta, static_cast<size_t>(columns >> 3));
  for (int64_t i = 0; i < columns >> 1; ++i) memcpy(&out->values[ValueWord24(i)], in.values + i, 2);
}

}  // namespace
}  // namespace maskserve
