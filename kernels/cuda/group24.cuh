// One group of four in registers: picking the kept two by their nibble, never multiplying by a mask.
#pragma once

#include "device.cuh"

namespace maskserve {
namespace cuda {
namespace {

MS_DEVICE bool NoPattern(uint32_t nibble) {
  return (nibble & 3) >= nibble >> 2;
}
MS_DEVICE uint32_t KeptBits(uint32_t nibble) {
  return 1u << (nibble & 3) | 1u << (nibble >> 2);
}
// Leaves the lowest index in *bad.
MS_DEVICE void ReportBad(uint64_t* bad, int64_t index) {
  atomicMin(reinterpret_cast<unsigned long long*>(bad), static_cast<unsigned long long>(index));
}

// The two bf16 of a group (low: positions 0, 1; high: 2, 3) that a nibble keeps, as one word: a single PRMT, whose
// selector is 2·idx0, 2·idx0 + 1, 2·idx1, 2·idx1 + 1 from the lowest digit on.
MS_DEVICE uint32_t PickSelector(uint32_t nibble) {
  return 0x1010u + (nibble & 3) * 0x22u + (nibble >> 2) * 0x2200u;
}
MS_DEVICE uint32_t PickPair(uint32_t low, uint32_t high, uint32_t nibble) {
  return __byte_perm(low, high, PickSelector(nibble));
}
// The selectors of two nibbles of a byte, the first in the low half: PRMT looks at no more of a word than that.
MS_DEVICE uint32_t PickSelectors(uint32_t byte) {
  const uint32_t nibbles = (byte | byte << 12) & 0x000f000fu;
  return 0x10101010u + (nibbles & 0x00030003u) * 0x22u + (nibbles & 0x000c000cu) * 0x880u;
}
MS_DEVICE float PickFloat(const float4& x, uint32_t index) {
  const float low = index == 0 ? x.x : x.y, high = index == 2 ? x.z : x.w;
  return index < 2 ? low : high;
}

// All ones where the nibble keeps the half of a word: positions 0, 1 and 2, 3.
MS_DEVICE uint2 KeptHalves(uint32_t nibble) {
  const uint32_t bits = KeptBits(nibble);
  uint2 halves;
  halves.x = ((bits & 1) != 0 ? 0xffffu : 0) | ((bits & 2) != 0 ? 0xffff0000u : 0);
  halves.y = ((bits & 4) != 0 ? 0xffffu : 0) | ((bits & 8) != 0 ? 0xffff0000u : 0);
  return halves;
}

// Change i of a list in ascending order: the first change of a byte of nibbles writes it, with the next one if that is
// the byte's other group, so that no two threads write a byte.
MS_DEVICE void ApplyChange(uint8_t* nibbles, const uint32_t* positions, const uint8_t* codes, int64_t i,
                           int64_t changes) {
  const uint32_t position = positions[i], byte = position / 2, shift = 4 * (position % 2);
  if (i > 0 && positions[i - 1] / 2 == byte) return;
  uint32_t pair = (nibbles[byte] & ~(15u << shift)) | static_cast<uint32_t>(codes[i]) << shift;
  if (i + 1 < changes && positions[i + 1] / 2 == byte) pair = (pair & 15) | static_cast<uint32_t>(codes[i + 1]) << 4;
  nibbles[byte] = static_cast<uint8_t>(pair);
}

MS_DEVICE bool Finite(float x) {
  return fabsf(x) <= FLT_MAX;
}

}  // namespace
}  // namespace cuda
}  // namespace maskserve
