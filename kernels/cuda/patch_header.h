// The header of a patch and its size, as cpu/patch24.h lays them out.
#pragma once

#include <cstdint>

namespace maskserve {
namespace cuda {

constexpr uint64_t kPatchMagic = 0x34322d6863746170ull;  // "patch-24"
constexpr int64_t kPatchSectionColumns = 1 << 18;

struct PatchHeader {
  uint64_t magic;
  int64_t n, k, bytes;  // of the swaps
};

inline int64_t PatchSections(int64_t n, int64_t k) {
  return n * ((k + kPatchSectionColumns - 1) / kPatchSectionColumns);
}

inline int64_t PatchBytes(int64_t n, int64_t k, int64_t swap_bytes) {
  return static_cast<int64_t>(sizeof(PatchHeader)) + (PatchSections(n, k) + 1) * 4 + swap_bytes + 4;
}

}  // namespace cuda
}  // namespace maskserve
