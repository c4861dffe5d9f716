// Rows of 2:4 metadata, checked before they are used.
#pragma once

#include "ops.h"

namespace maskserve {
namespace {

// The row's groups all name two different positions in ascending order.
MS_INLINE bool ValidRow24(const uint8_t* meta, int64_t bytes) {
  uint8_t bad = 0;
  for (int64_t i = 0; i < bytes; ++i) {
    const uint8_t m = meta[i];
    bad |= static_cast<uint8_t>((m & 3) >= (m >> 2 & 3)) | static_cast<uint8_t>((m >> 4 & 3) >= (m >> 6));
  }
  return bad == 0;
}

// fn(row) over all rows of meta (N, K/8) that name patterns only, in tasks of `grain` rows. Names the first bad row.
template <typename Row>
MS_INLINE ms_status EachRow24(ms_context* ctx, const uint8_t* meta, int64_t n, int64_t k, int64_t grain, Row& fn) {
  int64_t bad = n;
  auto body = [&](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; ++r) {
      if (ValidRow24(meta + r * (k / 8), k / 8)) {
        fn(r);
      } else {
        int64_t first = __atomic_load_n(&bad, __ATOMIC_RELAXED);
        while (r < first && !__atomic_compare_exchange_n(&bad, &first, r, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
        }
      }
    }
  };
  ParallelRanges(ctx, n, Max(1, grain), body);
  if (bad == n) return MS_OK;
  return Fail(ctx, MS_BAD_DATA,
              "expected nibbles idx0 | idx1 << 2 with idx0 < idx1 in meta but received another in row %lld",
              static_cast<long long>(bad));
}

}  // namespace
}  // namespace maskserve
