// Decoding a batch: one token of each sequence, at its own position, against its own cache.

#include "attend.h"
#include "rotate.h"

namespace maskserve {
namespace {

struct Batch {
  float *out, *q, *k;
  const float *v, *cos, *sin;
  const ms_cache_row* caches;
  int64_t rows;
};

// q and k of row r rotated, k and v written to its caches.
template <typename T>
void StoreToken(const AttendShape& s, const Batch& batch, int64_t r) {
  const ms_cache_row& cache = batch.caches[r];
  const int64_t hd = s.head_dim, half = hd / 2, at = cache.position * half;
  float *q = batch.q + r * s.heads * hd, *k = batch.k + r * s.kv_heads * hd;
  for (int64_t h = 0; h < s.heads; ++h) RotateHead(q + h * hd, batch.cos + at, batch.sin + at, half);
  for (int64_t h = 0; h < s.kv_heads; ++h) RotateHead(k + h * hd, batch.cos + at, batch.sin + at, half);
  StorePosition(static_cast<T*>(cache.keys), k, cache.position, s.kv_heads, hd, cache.capacity);
  StorePosition(static_cast<T*>(cache.values), batch.v + r * s.kv_heads * hd, cache.position, s.kv_heads, hd,
                cache.capacity);
}

template <typename T>
ms_status AttendBatch(ms_context* ctx, const AttendShape& s, const Batch& batch) {
  auto store = [&](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; ++r) StoreToken<T>(s, batch, r);
  };
  constexpr int64_t kGrain = 8192;  // floats a task
  ParallelRanges(ctx, batch.rows, Max(1, kGrain / ((s.heads + 2 * s.kv_heads) * s.head_dim)), store);
  return AttendTiles<T>(ctx, s, batch.rows, [&](int64_t r) {
    const ms_cache_row& cache = batch.caches[r];
    const int64_t at = r * s.heads * s.head_dim;
    return AttendTile<T>{batch.out + at,
                         batch.q + at,
                         static_cast<const T*>(cache.keys),
                         static_cast<const T*>(cache.values),
                         cache.position,
                         1,
                         cache.capacity};
  });
}

}  // namespace

namespace ISA {

ms_status AttendRows(ms_context* ctx, float* out, float* q, float* k, const float* v, const float* cos,
                     const float* sin, const ms_cache_row* caches, ms_value_type type, int64_t rows, int64_t heads,
                     int64_t kv_heads, int64_t head_dim, double scale, int64_t window) {
  const AttendShape shape = {heads, kv_heads, head_dim, window, static_cast<float>(scale)};
  const Batch batch = {out, q, k, v, cos, sin, caches, rows};
  switch (type) {
    case MS_F32:
      return AttendBatch<float>(ctx, shape, batch);
    case MS_BF16:
      return AttendBatch<uint16_t>(ctx, shape, batch);
    default:
      return FailType(ctx, "a cache", type);
  }
}

}  // namespace ISA
}  // namespace maskserve
