// A patch: what turns the product with one compacted 2:4 matrix (the parent) into the product with another (the child).
// Δ = W ⊙ M_child − W ⊙ M_parent, as swaps: one weight of a group comes in, one goes out; a group whose two weights
// both change has two swaps.
//
// A row is cut into sections of 2¹⁸ columns, so that a swap's group fits 16 bits. Behind the header, (N·S + 1) uint32
// byte offsets say where section s of row r is: [offset[r·S + s], offset[r·S + s + 1]) of what follows them. A section
// of c swaps is c pairs of bf16 (the weight that comes in, and minus the one that goes out), c groups (uint16, counted
// from the section's first) and c nibbles (position in | position out << 2, low nibble first): 6½ bytes a swap. Four
// bytes that mean nothing end it, so that nibbles can be read by the word.
#pragma once

#include "ops.h"

namespace maskserve {
namespace {

constexpr int64_t kSectionColumns24 = 1 << 18;
constexpr uint64_t kPatchMagic24 = 0x34322d6863746170ull;  // "patch-24"

struct PatchHeader24 {
  uint64_t magic;
  int64_t n, k, bytes;  // of the swaps
};

MS_INLINE int64_t Sections24(int64_t k) {
  return CeilDiv(k, kSectionColumns24);
}

MS_INLINE int64_t SectionBytes24(int64_t swaps) {
  return 6 * swaps + (swaps + 1) / 2;
}

MS_INLINE int64_t PatchSize24(int64_t n, int64_t k, int64_t swap_bytes) {
  return static_cast<int64_t>(sizeof(PatchHeader24)) + (n * Sections24(k) + 1) * 4 + swap_bytes + 4;
}

// The swaps of one section of a row. The arrays may begin at odd addresses.
struct Swaps24 {
  int64_t count;
  const uint8_t* pairs;    // (count, 2) bf16
  const uint8_t* groups;   // (count) uint16
  const uint8_t* nibbles;  // (count) nibbles
};

// Of a patch whose header has been checked; `section` counts all rows' sections: r·S + s.
MS_INLINE Swaps24 SectionSwaps24(const uint8_t* patch, int64_t sections, int64_t section) {
  const uint8_t* offsets = patch + sizeof(PatchHeader24);
  uint32_t ends[2];
  memcpy(ends, offsets + section * 4, sizeof(ends));
  const int64_t count = (ends[1] - ends[0]) * 2 / 13;
  const uint8_t* pairs = offsets + (sections + 1) * 4 + ends[0];
  return {count, pairs, pairs + count * 4, pairs + count * 6};
}

// One swap by itself: the columns, counted from the section's first.
struct SwapColumns24 {
  int64_t in, out;
};

MS_INLINE SwapColumns24 ColumnsOf24(const Swaps24& swaps, int64_t i) {
  uint16_t group;
  memcpy(&group, swaps.groups + 2 * i, 2);
  const unsigned nibble = swaps.nibbles[i >> 1] >> (4 * (i & 1)) & 15;
  return {4 * group + (nibble & 3), 4 * group + (nibble >> 2)};
}

// Refuses what build_patch24 has not written for a matrix of this shape.
MS_INLINE ms_status CheckPatch24(ms_context* ctx, const ms_patch24& patch, int64_t n, int64_t k) {
  PatchHeader24 header = {0, 0, 0, 0};
  if (patch.bytes >= static_cast<int64_t>(sizeof(header))) memcpy(&header, patch.data, sizeof(header));
  if (header.magic == kPatchMagic24 && header.n == n && header.k == k && header.bytes >= 0 &&
      header.bytes <= UINT32_MAX && patch.bytes >= PatchSize24(n, k, header.bytes)) {
    return MS_OK;
  }
  return Fail(ctx, MS_BAD_DATA,
              "expected patches that buildPatch24 made for a matrix of %lld x %lld but received another",
              static_cast<long long>(n), static_cast<long long>(k));
}

}  // namespace
}  // namespace maskserve
