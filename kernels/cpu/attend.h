// Causal attention with grouped queries over a key/value cache of fp32 or bf16, by online softmax (Milakov & Gimelshein
// 2018, arXiv 1805.02867; the blocked form is FlashAttention's, arXiv 2205.14135).
//
// A tile is some consecutive tokens of one sequence; a task, one of its kv-heads: every query that reads that head's
// keys goes over one block of positions while it is in the first-level cache. Positions are cut into segments, each a
// softmax of its own, which are joined in order: where there are fewer tasks than threads could take, segments are
// tasks (flash-decoding). Segments and blocks begin at multiples of their length whatever the queries, so a token's
// result depends neither on how many tokens are computed with it nor on the number of threads.
#pragma once

#include "exp_log.h"
#include "ops.h"

namespace maskserve {
namespace {

constexpr int64_t kBlock = 64;         // positions
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

// One query's running softmax: its sums (hd) are Σ exp(s − largest) v, total is Σ exp(s − largest).
struct Query {
  float largest, total;
};

// Of every query of a task, token by token.
struct Softmaxes {
  Query* queries;
  float* sums;  // (queries, hd)
};

MS_INLINE VF Value(const float* p) {
  return Load(p);
}
MS_INLINE VF Value(const uint16_t* p) {
  return LoadBf16(p);
}
MS_INLINE VF ValuePart(const float* p, int64_t n) {
  return LoadPart(p, n);
}
MS_INLINE VF ValuePart(const uint16_t* p, int64_t n) {
  return LoadBf16Part(p, n);
}

// Lane j of the result is the sum of acc[j]'s lanes.
#if defined(__AVX512BF16__)
MS_INLINE VF SumEach(const VF* acc) {
  VF quads[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const VF* a = acc + 4 * i;
    const VF ab = Add(_mm512_unpacklo_ps(a[0], a[1]), _mm512_unpackhi_ps(a[0], a[1]));
    const VF cd = Add(_mm512_unpacklo_ps(a[2], a[3]), _mm512_unpackhi_ps(a[2], a[3]));
    const __m512d p = _mm512_castps_pd(ab), q = _mm512_castps_pd(cd);
    quads[i] = Add(_mm512_castpd_ps(_mm512_unpacklo_pd(p, q)), _mm512_castpd_ps(_mm512_unpackhi_pd(p, q)));
  }
  const VF low = Add(_mm512_shuffle_f32x4(quads[0], quads[1], 0x88), _mm512_shuffle_f32x4(quads[0], quads[1], 0xdd));
  const VF high = Add(_mm512_shuffle_f32x4(quads[2], quads[3], 0x88), _mm512_shuffle_f32x4(quads[2], quads[3], 0xdd));
  return Add(_mm512_shuffle_f32x4(low, high, 0x88), _mm512_shuffle_f32x4(low, high, 0xdd));
}
#elif defined(__AVX2__)
MS_INLINE VF SumEach(const VF* acc) {
  const VF low = _mm256_hadd_ps(_mm256_hadd_ps(acc[0], acc[1]), _mm256_hadd_ps(acc[2], acc[3]));
  const VF high = _mm256_hadd_ps(_mm256_hadd_ps(acc[4], acc[5]), _mm256_hadd_ps(acc[6], acc[7]));
  return Add(_mm256_permute2f128_ps(low, high, 0x20), _mm256_permute2f128_ps(low, high, 0x31));
}
#else
MS_INLINE VF SumEach(const VF* acc) {
  return VF{Sum(acc[0]), Sum(acc[1]), Sum(acc[2]), Sum(acc[3])};
}
#endif

// scores[j] = q · k[j] · scale for j in [0, count); up to W − 1 entries beyond are written too.
template <typename T>
void Scores(float* scores, const float* q, const T* k, int64_t count, int64_t head_dim, VF scale) {
  for (int64_t j = 0; j < count; j += W) {
    const T* rows[W];
    VF acc[W];
#pragma GCC unroll 16
    for (int r = 0; r < W; ++r) {
      rows[r] = k + Min(j + r, count - 1) * head_dim;
      acc[r] = Zero();
    }
    int64_t d = 0;
    for (; d + W <= head_dim; d += W) {
      const VF qd = Load(q + d);
#pragma GCC unroll 16
      for (int r = 0; r < W; ++r) acc[r] = Fma(qd, Value(rows[r] + d), acc[r]);
    }
    if (d < head_dim) {
      const VF qd = LoadPart(q + d, head_dim - d);
      for (int r = 0; r < W; ++r) acc[r] = Fma(qd, ValuePart(rows[r] + d, head_dim - d), acc[r]);
    }
    Store(scores + j, Mul(SumEach(acc), scale));
  }
}

// out (hd) += Σ_j p[j] v[j], over D registers of columns.
template <int D, typename T>
MS_INLINE void Accumulate(float* out, const float* p, const T* v, int64_t count, int64_t head_dim) {
  VF acc[D];
#pragma GCC unroll 8
  for (int d = 0; d < D; ++d) acc[d] = Load(out + d * W);
  for (int64_t j = 0; j < count; ++j) {
    const VF pj = Set(p[j]);
#pragma GCC unroll 8
    for (int d = 0; d < D; ++d) acc[d] = Fma(pj, Value(v + j * head_dim + d * W), acc[d]);
  }
#pragma GCC unroll 8
  for (int d = 0; d < D; ++d) Store(out + d * W, acc[d]);
}

template <typename T>
void WeightedSum(float* out, const float* p, const T* v, int64_t count, int64_t head_dim) {
  int64_t d = 0;
  for (; d + 8 * W <= head_dim; d += 8 * W) Accumulate<8>(out + d, p, v + d, count, head_dim);
  for (; d + 4 * W <= head_dim; d += 4 * W) Accumulate<4>(out + d, p, v + d, count, head_dim);
  for (; d + W <= head_dim; d += W) Accumulate<1>(out + d, p, v + d, count, head_dim);
  if (d == head_dim) return;
  VF acc = LoadPart(out + d, head_dim - d);
  for (int64_t j = 0; j < count; ++j) acc = Fma(Set(p[j]), ValuePart(v + j * head_dim + d, head_dim - d), acc);
  StorePart(out + d, acc, head_dim - d);
}

// x (n) = x · by + y · times.
MS_INLINE void BlendRow(float* x, float by, const float* y, float times, int64_t n) {
  const VF a = Set(by), b = Set(times);
  int64_t i = 0;
  for (; i + W <= n; i += W) Store(x + i, Fma(Load(y + i), b, Mul(Load(x + i), a)));
  if (i < n) StorePart(x + i, Fma(LoadPart(y + i, n - i), b, Mul(LoadPart(x + i, n - i), a)), n - i);
}

MS_INLINE void ScaleRow(float* x, float by, int64_t n) {
  int64_t i = 0;
  for (; i + W <= n; i += W) Store(x + i, Mul(Load(x + i), Set(by)));
  if (i < n) StorePart(x + i, Mul(LoadPart(x + i, n - i), Set(by)), n - i);
}

// exp(x), as a vector's lanes have it.
MS_INLINE float ExpOf(float x) {
  alignas(64) float lanes[W];
  Store(lanes, Exp(Set(x)));
  return lanes[0];
}

// What is taken from scores before exp: the largest, unless there is none.
MS_INLINE float BaseOf(float largest) {
  return largest == -INFINITY ? 0.0f : largest;
}

// Positions [first, count) of a block join a query's softmax. Both are relative to the block; k and v point at its
// start.
template <typename T>
void Attend(Query* query, float* sums, const float* q, const T* k, const T* v, int64_t first, int64_t count,
            int64_t head_dim, VF scale) {
  alignas(64) float p[kBlock + W];
  const int64_t skip = first / W * W;
  Scores(p + skip, q, k + skip * head_dim, count - skip, head_dim, scale);
  for (int64_t j = skip; j < first; ++j) p[j] = -INFINITY;
  const int64_t padded = CeilDiv(count, W) * W;
  for (int64_t j = count; j < padded; ++j) p[j] = -INFINITY;
  VF largest = Set(query->largest);
  for (int64_t j = skip; j < padded; j += W) largest = Larger(largest, Load(p + j));
  const float now = Largest(largest), base = BaseOf(now);
  VF total = Zero();
  for (int64_t j = skip; j < padded; j += W) {
    const VF e = Exp(Sub(Load(p + j), Set(base)));
    Store(p + j, e);
    total = Add(total, e);
  }
  if (now != query->largest) {
    const float shrink = ExpOf(query->largest - base);
    ScaleRow(sums, shrink, head_dim);
    query->total *= shrink;
    query->largest = now;
  }
  query->total += Sum(total);
  WeightedSum(sums, p + first, v + first * head_dim, count - first, head_dim);
}

// One block, at position `block`, joins the softmaxes of all queries of a task. k and v point at the block.
template <typename T, typename V>
void AttendBlock(const AttendShape& s, const AttendTile<T>& tile, int64_t kv, const Softmaxes& to, int64_t block,
                 const V* k, const V* v) {
  const int64_t group = s.Group(), hd = s.head_dim;
  for (int64_t t = 0; t < tile.tokens; ++t) {
    const int64_t first = Max(s.Lowest(tile.start + t) - block, 0), count = Min(tile.start + t + 1 - block, kBlock);
    if (first >= count) continue;
    for (int64_t h = 0; h < group; ++h) {
      const int64_t i = t * group + h;
      Attend(&to.queries[i], to.sums + i * hd, tile.q + (t * s.heads + kv * group + h) * hd, k, v, first, count, hd,
             Set(s.scale));
    }
  }
}

// out (n) f32 ← in (n) bf16.
MS_INLINE void Widen(float* out, const uint16_t* in, int64_t n) {
  int64_t i = 0;
  for (; i + W <= n; i += W) Store(out + i, LoadBf16(in + i));
  for (; i < n; ++i) out[i] = FloatOfBf16(in[i]);
}

// fp32 needs no widening.
MS_INLINE bool AttendWidened(const AttendShape&, const AttendTile<float>&, int64_t, const Softmaxes&, int64_t, int64_t,
                             float*) {
  return false;
}

// Positions [block, end), as fp32 in `wide` (2, kBlock, hd), where there are enough queries.
MS_INLINE bool AttendWidened(const AttendShape& s, const AttendTile<uint16_t>& tile, int64_t kv, const Softmaxes& to,
                             int64_t block, int64_t end, float* wide) {
  if (tile.tokens * s.Group() < kWidenFrom) return false;
  const int64_t at = (kv * tile.capacity + block) * s.head_dim, n = (end - block) * s.head_dim;
  Widen(wide, tile.k + at, n);
  Widen(wide + kBlock * s.head_dim, tile.v + at, n);
  AttendBlock(s, tile, kv, to, block, wide, wide + kBlock * s.head_dim);
  return true;
}

// `to` = the softmaxes of one kv-head's queries over one segment.
template <typename T>
void AttendSegment(const AttendShape& s, const AttendTile<T>& tile, int64_t kv, int64_t segment, const Softmaxes& to,
                   float* wide) {
  const int64_t queries = tile.tokens * s.Group();
  for (int64_t i = 0; i < queries; ++i) to.queries[i] = {-INFINITY, 0.0f};
  memset(to.sums, 0, static_cast<size_t>(queries * s.head_dim) * sizeof(float));
  const int64_t end = Min(tile.End(), (segment + 1) * kSegment);
  for (int64_t b = Max(segment * kSegment, s.Lowest(tile.start) / kBlock * kBlock); b < end; b += kBlock) {
    const int64_t at = (kv * tile.capacity + b) * s.head_dim;
    if (AttendWidened(s, tile, kv, to, b, Min(end, b + kBlock), wide)) continue;
    AttendBlock(s, tile, kv, to, b, tile.k + at, tile.v + at);
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
  int64_t queries, head_dim, wide;  // queries of the largest tile; floats of a widened block
  float* data;

  // Whole cache lines.
  int64_t QueryFloats() const { return CeilDiv(2 * queries, 16) * 16; }
  int64_t SoftmaxFloats() const { return QueryFloats() + CeilDiv(queries * head_dim, 16) * 16; }
  int64_t WorkerFloats() const { return wide + QueryFloats() + SoftmaxFloats(); }
  Softmaxes At(float* place) const { return {reinterpret_cast<Query*>(place), place + QueryFloats()}; }

  float* Wide(int worker) const { return data + worker * WorkerFloats(); }
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
  AttendRoom room = {queries, s.head_dim,
                     sizeof(T) == 2 && queries >= kWidenFrom ? CeilDiv(2 * kBlock * s.head_dim, 16) * 16 : 0, NULL};
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
          AttendSegment(s, tile, kv, segment, room.Own(worker), room.Wide(worker));
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
      AttendSegment(s, tile, task / tiles, segment, room.Shared(threads, i), room.Wide(worker));
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
