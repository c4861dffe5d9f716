// Attention of a chunk of one sequence over its cache.

#include "attend.h"

namespace maskserve {
namespace {

template <typename T>
ms_status AttendChunk(ms_context* ctx, const AttendShape& s, const AttendTile<T>& chunk) {
  const int64_t most = Max(1, kQueries / s.Group()), row = s.heads * s.head_dim;
  return AttendTiles<T>(ctx, s, CeilDiv(chunk.tokens, most), [=](int64_t i) {
    const int64_t t = i * most;
    AttendTile<T> tile = chunk;
    tile.out += t * row;
    tile.q += t * row;
    tile.start += t;
    tile.tokens = Min(most, chunk.tokens - t);
    return tile;
  });
}

template <typename T>
AttendTile<T> WholeChunk(float* out, const float* q, const void* k, const void* v, int64_t start, int64_t tokens,
                         int64_t capacity) {
  return {out, q, static_cast<const T*>(k), static_cast<const T*>(v), start, tokens, capacity};
}

}  // namespace

namespace ISA {

ms_status Attention(ms_context* ctx, float* out, const float* q, const void* k_cache, const void* v_cache,
                    ms_value_type type, int64_t start, int64_t tokens, int64_t heads, int64_t kv_heads,
                    int64_t head_dim, int64_t capacity, double scale, int64_t window) {
  const AttendShape shape = {heads, kv_heads, head_dim, window, static_cast<float>(scale)};
  switch (type) {
    case MS_F32:
      return AttendChunk(ctx, shape, WholeChunk<float>(out, q, k_cache, v_cache, start, tokens, capacity));
    case MS_BF16:
      return AttendChunk(ctx, shape, WholeChunk<uint16_t>(out, q, k_cache, v_cache, start, tokens, capacity));
    default:
      return FailType(ctx, "a cache", type);
  }
}

}  // namespace ISA
}  // namespace maskserve
