// Decoding a batch: one token of each sequence, at its own position, against its own cache.

#include "ops.h"

namespace maskserve {
namespace ISA {

ms_status AttendRows(ms_context* ctx, float* out, float* q, float* k, const float* v, const float* cos,
                     const float* sin, const ms_cache_row* caches, int64_t rows, int64_t heads, int64_t kv_heads,
                     int64_t head_dim, double scale, int64_t window) {
  const int64_t q_row = heads * head_dim, kv_row = kv_heads * head_dim;
  ms_status status = MS_OK;
  for (int64_t r = 0; r < rows && status == MS_OK; ++r) {
    const ms_cache_row& cache = caches[r];
    Rope(ctx, q + r * q_row, cos, sin, cache.position, 1, heads, head_dim);
    Rope(ctx, k + r * kv_row, cos, sin, cache.position, 1, kv_heads, head_dim);
    KvWrite(ctx, cache.keys, k + r * kv_row, cache.position, 1, kv_heads, head_dim, cache.capacity);
    KvWrite(ctx, cache.values, v + r * kv_row, cache.position, 1, kv_heads, head_dim, cache.capacity);
    status = Attention(ctx, out + r * q_row, q + r * q_row, cache.keys, cache.values, cache.position, 1, heads,
                       kv_heads, head_dim, cache.capacity, scale, window);
  }
  return status;
}

}  // namespace ISA
}  // namespace maskserve
