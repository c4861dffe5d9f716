// The patterns of n:m, in lexicographic order of the kept positions (codec/FORMAT.md §2): bit j of a mask is set where
// position j is kept.
#pragma once

#include "simd.h"

namespace maskserve {
namespace {

constexpr int kMaxPatterns = 70;  // 4:8
constexpr int kMaxGroup = 8;

struct Patterns {
  int64_t count, group;
  uint8_t kept[kMaxPatterns];
};

MS_INLINE Patterns MakePatterns(int64_t n, int64_t m) {
  Patterns patterns = {0, m, {0}};
  int64_t at[kMaxGroup];
  for (int64_t i = 0; i < n; ++i) at[i] = i;
  for (;;) {
    uint8_t mask = 0;
    for (int64_t i = 0; i < n; ++i) mask = static_cast<uint8_t>(mask | 1 << at[i]);
    patterns.kept[patterns.count++] = mask;
    int64_t last = n - 1;
    while (last >= 0 && at[last] == m - n + last) --last;
    if (last < 0) return patterns;
    ++at[last];
    for (int64_t i = last + 1; i < n; ++i) at[i] = at[i - 1] + 1;
  }
}

}  // namespace
}  // namespace maskserve
