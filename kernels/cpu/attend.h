// Causal attention with grouped queries over a key/value cache of fp32 or bf16, by online softmax (Milakov & Gimelshein
// 2018, arXiv 1805.02867; the blocked form is FlashAttention's, arXiv 2205.14135).
//
// A tile is some consecutive tokens of one sequence; a task, one of its kv-heads: every query that reads that head's
// keys goes over one block of positions while it is in the first-level cache. Positions are cut into segments, each a
// softmax of its own, which are joined in order: where there are fewer tasks than threads could take, segments are
// tasks (flash-decoding). Segments and blocks begin at multiples of their length whatever the queries, so a token's
// result depends neither on how many tokens are computed with it nor on the number of threads.
#pragma once

#include "attend_block.h"

namespace maskserve {
namespace {

constexpr int64_t kSegment = 256;      // positions, whole blocks
constexpr int64_t kQueries = 32;       // queries of a tile: tokens · heads of the group
constexpr int64_t kWidenFrom = 9;      // queries that are worth widening a block of bf16 for
constexpr int64_t kMinWork = 1 << 15;  // bytes and multiply-adds a task: some 2 µs

struct AttendShape {
  int64_t heads, kv_heads, head_dim, window;
  float scale;

  int64_t Group() const { return heads / kv_heads; }
  int64_t Lowest(int64_t position) const { return window > 0 ? Max(0, position - window + 1) : 0; }
};

// Tokens at positions start … start + tokens − 1, and what they attend to.
template <typename T>
struct AttendTile {
  float* out;      // (tokens, H, hd)
  const float* q;  // as `out`
  const T *k, *v;  // (KV, capacity, hd)
  int64_t start, tokens, capacity;

  int64_t End() const { return start + tokens; }
};

// Of every query of a task, token by token.
struct Softmaxes {
  Query* queries;
  float* sums;  // (queries, hd)
};

// x (n) = x · by + y · times.
MS_INLINE void BlendRow(float* x, float by, const float* y, float times, int64_t n) {
  const VF a = Set(by), b = Set(times);
  int64_t i = 0;
  for (; i + W <= n; i += W) Store(x + i, Fma(Load(y + i), b, Mul(Load(x + i), a)));
  if (i < n) StorePart(x + i, Fma(LoadPart(y + i, n - i), b, Mul(LoadPart(x + i, n - i), a)), n - i);
}

// One block, at position `block`, joins the softmaxes of all queries of a task, prepared for K. k and v point at the
// block; `next` positions follow it in the cache.
template <typename T, typename K, typename V>
void AttendBlock(const AttendShape& s, const AttendTile<T>& tile, int64_t kv, const Softmaxes& to,
                 const float* prepared, int64_t block, const K* k, const V* v, int64_t next) {
  const int64_t group = s.Group(), hd = s.head_dim, queries = tile.tokens * group, lots = CeilDiv(group, kTogether);
  const int64_t after = (kv * tile.capacity + block + kBlock) * hd, bytes = next * hd * static_cast<int64_t>(sizeof(T));
  for (int64_t t = 0; t < tile.tokens; ++t) {
    const int64_t first = Max(s.Lowest(tile.start + t) - block, 0), count = Min(tile.start + t + 1 - block, kBlock);
    if (first >= count) continue;
    const BlockOf<K, V> part = {k, v, first, count, hd, s.scale};
    for (int64_t lot = 0; lot < lots; ++lot) {
      const int64_t h = group * lot / lots, some = group * (lot + 1) / lots - h, i = t * group + h;
      Ahead next_k[kTogether];
      for (int64_t q = 0; q < some; ++q) next_k[q] = Ahead::Of(tile.k + after, bytes, i + q, queries);
      const Ahead next_v = Ahead::Of(tile.v + after, bytes, t * lots + lot, tile.tokens * lots);
      const float* q = prepared + i * Keys<K>::Floats(hd);
      switch (some) {
        case 1:
          Attend<1>(to.queries + i, to.sums + i * hd, q, part, next_k, next_v);
          break;
        case 2:
          Attend<2>(to.queries + i, to.sums + i * hd, q, part, next_k, next_v);
          break;
        case 3:
          Attend<3>(to.queries + i, to.sums + i * hd, q, part, next_k, next_v);
          break;
        default:
          Attend<4>(to.queries + i, to.sums + i * hd, q, part, next_k, next_v);
      }
    }
  }
}

// out (n) f32 ← in (n) bf16.
MS_INLINE void Widen(float* out, const uint16_t* in, int64_t n) {
  int64_t i = 0;
  for (; i + W <= n; i += W) Store(out + i, LoadBf16(in + i));
  for (; i < n; ++i) out[i] = FloatOfBf16(in[i]);
}

#if defined(__AVX512BF16__)
// Keys are multiplied as they are stored (Keys).
MS_INLINE const uint16_t* WidenKeys(float*, const uint16_t* k, int64_t) {
  return k;
}
#else
MS_INLINE const float* WidenKeys(float* out, const uint16_t* k, int64_t n) {
  Widen(out, k, n);
  return out;
}
#endif

// fp32 needs no widening.
MS_INLINE bool AttendWidened(const AttendShape&, const AttendTile<float>&, int64_t, const Softmaxes&, const float*,
                             int64_t, int64_t, int64_t, float*) {
  return false;
}

// Positions [block, end), as fp32 in `wide` (2, kBlock, hd), where there are enough queries.
MS_INLINE bool AttendWidened(const AttendShape& s, const AttendTile<uint16_t>& tile, int64_t kv, const Softmaxes& to,
                             const float* prepared, int64_t block, int64_t end, int64_t next, float* wide) {
  if (tile.tokens * s.Group() < kWidenFrom) return false;
  const int64_t at = (kv * tile.capacity + block) * s.head_dim, n = (end - block) * s.head_dim;
  float* v = wide + kBlock * s.head_dim;
  Widen(v, tile.v + at, n);
  AttendBlock(s, tile, kv, to, prepared, block, WidenKeys(wide, tile.k + at, n), v, next);
  return true;
}

// `to` = the softmaxes of one kv-head's queries over one segment. Room for them prepared, and for a widened block.
template <typename T>
void AttendSegment(const AttendShape& s, const AttendTile<T>& tile, int64_t kv, int64_t segment, const Softmaxes& to,
                   float* prepared, float* wide) {
  const int64_t group = s.Group(), queries = tile.tokens * group;
  for (int64_t i = 0; i < queries; ++i) {
    to.queries[i] = {-INFINITY, 0.0f};
    const float* q = tile.q + (i / group * s.heads + kv * group + i % group) * s.head_dim;
    Keys<T>::Prepare(prepared + i * Keys<T>::Floats(s.head_dim), q, s.head_dim);
  }
  memset(to.sums, 0, static_cast<size_t>(queries * s.head_dim) * sizeof(float));
  const int64_t end = Min(tile.End(), (segment + 1) * kSegment);
  for (int64_t b = Max(segment * kSegment, s.Lowest(tile.start) / kBlock * kBlock); b < end; b += kBlock) {
    const int64_t at = (kv * tile.capacity + b) * s.head_dim, next = Min(kBlock, Max(0, end - b - kBlock));
    if (AttendWidened(s, tile, kv, to, prepared, b, Min(end, b + kBlock), next, wide)) continue;
    AttendBlock(s, tile, kv, to, prepared, b, tile.k + at, tile.v + at, next);
  }
}

// Row of `tile.out` of query i of a kv-head.
template <typename T>
MS_INLINE float* OutOf(const AttendShape& s, const AttendTile<T>& tile, int64_t kv, int64_t i) {
  return tile.out + (i / s.Group() * s.heads + kv * s.Group() + i % s.Group()) * s.head_dim;
}

// A segment's softmaxes join those of the segments before it: `queries`, with the sums in `tile.out`.
template <typename T>
void JoinSegment(const AttendShape& s, const AttendTile<T>& tile, int64_t kv, Query* queries,
                 const Softmaxes& segment) {
  for (int64_t i = 0; i < tile.tokens * s.Group(); ++i) {
    const Query &before = queries[i], &more = segment.queries[i];
    const float largest = before.largest > more.largest ? before.largest : more.largest, base = BaseOf(largest);
    const float shrink = ExpOf(before.largest - base), by = ExpOf(more.largest - base);
    BlendRow(OutOf(s, tile, kv, i), shrink, segment.sums + i * s.head_dim, by, s.head_dim);
    queries[i] = {largest, before.total * shrink + more.total * by};
  }
}

// The softmaxes of one kv-head over all segments: segment(i) gives those of segment i.
template <typename T, typename SegmentAt>
MS_INLINE void JoinSegments(const AttendShape& s, const AttendTile<T>& tile, int64_t kv, Query* queries,
                            const SegmentAt& segment) {
  const int64_t count = tile.tokens * s.Group();
  int64_t at = s.Lowest(tile.start) / kSegment;
  const Softmaxes first = segment(at);
  for (int64_t i = 0; i < count; ++i) {
    queries[i] = first.queries[i];
    memcpy(OutOf(s, tile, kv, i), first.sums + i * s.head_dim, static_cast<size_t>(s.head_dim) * sizeof(float));
  }
  while (++at * kSegment < tile.End()) JoinSegment(s, tile, kv, queries, segment(at));
  for (int64_t i = 0; i < count; ++i) ScaleRow(OutOf(s, tile, kv, i), 1.0f / queries[i].total, s.head_dim);
}

// Working memory of AttendTiles: a part for each worker, then, where segments are tasks, their softmaxes.
struct AttendRoom {
  int64_t queries, head_dim;  // queries of the largest tile
  int64_t prepared, wide;     // floats of them as keys are multiplied with them, and of a widened block
  float* data;

  // Whole cache lines.
  int64_t QueryFloats() const { return CeilDiv(2 * queries, 16) * 16; }
  int64_t SoftmaxFloats() const { return QueryFloats() + CeilDiv(queries * head_dim, 16) * 16; }
  int64_t WorkerFloats() const { return prepared + wide + QueryFloats() + SoftmaxFloats(); }
  Softmaxes At(float* place) const { return {reinterpret_cast<Query*>(place), place + QueryFloats()}; }

  float* Prepared(int worker) const { return data + worker * WorkerFloats(); }
  float* Wide(int worker) const { return Prepared(worker) + prepared; }
  Query* Joined(int worker) const { return reinterpret_cast<Query*>(Wide(worker) + wide); }
  Softmaxes Own(int worker) const { return At(Wide(worker) + wide + QueryFloats()); }
  Softmaxes Shared(int workers, int64_t task) const {
    return At(data + workers * WorkerFloats() + task * SoftmaxFloats());
  }
};

// Attention of `tiles` tiles, tile_at(i) being the i-th.
template <typename T, typename TileAt>
ms_status AttendTiles(ms_context* ctx, const AttendShape& s, int64_t tiles, const TileAt& tile_at) {
  const int threads = Threads(ctx);
  int64_t tokens = 0, positions = 0, segments = 0;  // the most of a tile; of all; the most of a tile
  for (int64_t i = 0; i < tiles; ++i) {
    const AttendTile<T> tile = tile_at(i);
    tokens = Max(tokens, tile.tokens);
    positions += tile.End() - s.Lowest(tile.start);
    segments = Max(segments, CeilDiv(tile.End(), kSegment));
  }
  const int64_t tasks = tiles * s.kv_heads, queries = tokens * s.Group();
  const bool split = segments > 1 && threads > 1 && tasks < 4 * threads;
  const bool widens = sizeof(T) == 2 && queries >= kWidenFrom;
  AttendRoom room = {queries, s.head_dim, CeilDiv(queries * Keys<T>::Floats(s.head_dim), 16) * 16,
                     widens ? CeilDiv(2 * kBlock * s.head_dim, 16) * 16 : 0, NULL};
  const int64_t floats = threads * room.WorkerFloats() + (split ? tasks * segments * room.SoftmaxFloats() : 0);
  const size_t bytes = static_cast<size_t>(floats) * sizeof(float);
  room.data = static_cast<float*>(Scratch(ctx, bytes));
  if (room.data == NULL) return FailMemory(ctx, bytes);
  const int64_t work = 2 * CeilDiv(positions, tiles) * s.head_dim * (queries + static_cast<int64_t>(sizeof(T)));
  if (!split) {
    auto whole = [&](int64_t begin, int64_t end, int worker) {
      for (int64_t task = begin; task < end; ++task) {
        const int64_t kv = task / tiles;
        const AttendTile<T> tile = tile_at(task % tiles);
        JoinSegments(s, tile, kv, room.Joined(worker), [&](int64_t segment) {
          AttendSegment(s, tile, kv, segment, room.Own(worker), room.Prepared(worker), room.Wide(worker));
          return room.Own(worker);
        });
      }
    };
    ParallelRanges(ctx, tasks, Max(1, kMinWork / work), whole);
    return MS_OK;
  }
  auto part = [&](int64_t begin, int64_t end, int worker) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t segment = i % segments, task = i / segments;
      const AttendTile<T> tile = tile_at(task % tiles);
      if (segment < s.Lowest(tile.start) / kSegment || segment * kSegment >= tile.End()) continue;
      AttendSegment(s, tile, task / tiles, segment, room.Shared(threads, i), room.Prepared(worker), room.Wide(worker));
    }
  };
  ParallelRanges(ctx, tasks * segments, Max(1, kMinWork * segments / work), part);
  for (int64_t task = 0; task < tasks; ++task) {
    JoinSegments(s, tile_at(task % tiles), task / tiles, room.Joined(0),
                 [&](int64_t segment) { return room.Shared(threads, task * segments + segment); });
  }
  return MS_OK;
}

}  // namespace
}  // namespace maskserve
