// Causal attention with grouped queries over a key/value cache, by online softmax (Milakov & Gimelshein 2018, arXiv
// 1805.02867; the blocked form is FlashAttention's, arXiv 2205.14135).
//
// A task is one kv-head and a tile of tokens: every query that reads that head's keys goes over one block of positions
// while it is in the first-level cache. Blocks begin at multiples of kBlock whatever the queries, so a token's result
// does not depend on how many tokens are computed with it.

#include "ops.h"

namespace maskserve {
namespace {

constexpr int64_t kBlock = 64;         // positions
constexpr int64_t kQueries = 32;       // queries of a tile: tokens · heads of the group
constexpr int64_t kMinWork = 1 << 18;  // multiply-adds a task

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
void Scores(float* scores, const float* q, const float* k, int64_t count, int64_t head_dim, VF scale) {
  for (int64_t j = 0; j < count; j += W) {
    const float* rows[W];
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
      for (int r = 0; r < W; ++r) acc[r] = Fma(qd, Load(rows[r] + d), acc[r]);
    }
    if (d < head_dim) {
      const VF qd = LoadPart(q + d, head_dim - d);
      for (int r = 0; r < W; ++r) acc[r] = Fma(qd, LoadPart(rows[r] + d, head_dim - d), acc[r]);
    }
    Store(scores + j, Mul(SumEach(acc), scale));
  }
}

// out (hd) += Σ_j p[j] v[j], over D registers of columns.
template <int D>
MS_INLINE void Accumulate(float* out, const float* p, const float* v, int64_t count, int64_t head_dim) {
  VF acc[D];
#pragma GCC unroll 8
  for (int d = 0; d < D; ++d) acc[d] = Load(out + d * W);
  for (int64_t j = 0; j < count; ++j) {
    const VF pj = Set(p[j]);
#pragma GCC unroll 8
    for (int d = 0; d < D; ++d) acc[d] = Fma(pj, Load(v + j * head_dim + d * W), acc[d]);
  }
#pragma GCC unroll 8
  for (int d = 0; d < D; ++d) Store(out + d * W, acc[d]);
}

void WeightedSum(float* out, const float* p, const float* v, int64_t count, int64_t head_dim) {
  int64_t d = 0;
  for (; d + 8 * W <= head_dim; d += 8 * W) Accumulate<8>(out + d, p, v + d, count, head_dim);
  for (; d + 4 * W <= head_dim; d += 4 * W) Accumulate<4>(out + d, p, v + d, count, head_dim);
  for (; d + W <= head_dim; d += W) Accumulate<1>(out + d, p, v + d, count, head_dim);
  if (d == head_dim) return;
  VF acc = LoadPart(out + d, head_dim - d);
  for (int64_t j = 0; j < count; ++j) acc = Fma(Set(p[j]), LoadPart(v + j * head_dim + d, head_dim - d), acc);
  StorePart(out + d, acc, head_dim - d);
}

// One query's running softmax: out (hd) is Σ exp(s − largest) v, total is Σ exp(s − largest).
struct Query {
  float largest, total;
};

void ScaleRow(float* x, float by, int64_t n) {
  int64_t i = 0;
  for (; i + W <= n; i += W) Store(x + i, Mul(Load(x + i), Set(by)));
  if (i < n) StorePart(x + i, Mul(LoadPart(x + i, n - i), Set(by)), n - i);
}

// Positions [first, count) of a block join a query's softmax. Both are relative to the block; k and v point at its
// start.
void Attend(Query* query, float* out, const float* q, const float* k, const float* v, int64_t first, int64_t count,
            int64_t head_dim, VF scale) {
  alignas(64) float p[kBlock + W];
  const int64_t skip = first / W * W;
  Scores(p + skip, q, k + skip * head_dim, count - skip, head_dim, scale);
  for (int64_t j = skip; j < first; ++j) p[j] = -INFINITY;
  const int64_t padded = CeilDiv(count, W) * W;
  for (int64_t j = count; j < padded; ++j) p[j] = -INFINITY;
  VF largest = Set(query->largest);
  for (int64_t j = skip; j < padded; j += W) largest = Larger(largest, Load(p + j));
  const float now = Largest(largest);
  const float base = now == -INFINITY ? 0.0f : now;
  VF total = Zero();
  for (int64_t j = skip; j < padded; j += W) {
    const VF e = Exp(Sub(Load(p + j), Set(base)));
    Store(p + j, e);
    total = Add(total, e);
  }
  if (now != query->largest) {
    alignas(64) float shrink[W];
    Store(shrink, Exp(Set(query->largest - base)));
    ScaleRow(out, shrink[0], head_dim);
    query->total *= shrink[0];
    query->largest = now;
  }
  query->total += Sum(total);
  WeightedSum(out, p + first, v + first * head_dim, count - first, head_dim);
}

}  // namespace

namespace ISA {

ms_status Attention(ms_context* ctx, float* out, const float* q, const float* k_cache, const float* v_cache,
                    int64_t start, int64_t tokens, int64_t heads, int64_t kv_heads, int64_t head_dim, int64_t capacity,
                    double scale, int64_t window) {
  const int64_t group = heads / kv_heads;
  const int64_t tile = Max(1, kQueries / group);
  const int64_t tiles = CeilDiv(tokens, tile);
  const VF scales = Set(static_cast<float>(scale));
  auto body = [&](int64_t begin, int64_t end, int) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t kv = task / tiles, first = task % tiles * tile, last = Min(tokens, first + tile) - 1;
      const float *k = k_cache + kv * capacity * head_dim, *v = v_cache + kv * capacity * head_dim;
      const auto lowest = [&](int64_t t) { return window > 0 ? Max(0, start + t - window + 1) : 0; };
      // Groups larger than a tile go over the keys in several rounds.
      for (int64_t h = 0; h < group; h += kQueries) {
        const int64_t some = Min(kQueries, group - h);
        Query queries[kQueries];
        for (int64_t i = 0; i < kQueries; ++i) queries[i] = {-INFINITY, 0.0f};
        for (int64_t t = first; t <= last; ++t) {
          memset(out + (t * heads + kv * group + h) * head_dim, 0,
                 static_cast<size_t>(some * head_dim) * sizeof(float));
        }
        for (int64_t b = lowest(first) / kBlock * kBlock; b <= start + last; b += kBlock) {
          for (int64_t t = first; t <= last; ++t) {
            const int64_t from = Max(lowest(t) - b, 0), count = Min(start + t + 1 - b, kBlock);
            if (from >= count) continue;
            for (int64_t i = 0; i < some; ++i) {
              const int64_t at = (t * heads + kv * group + h + i) * head_dim;
              Attend(&queries[(t - first) * some + i], out + at, q + at, k + b * head_dim, v + b * head_dim, from,
                     count, head_dim, scales);
            }
          }
        }
        for (int64_t t = first; t <= last; ++t) {
          for (int64_t i = 0; i < some; ++i) {
            const float total = queries[(t - first) * some + i].total;
            ScaleRow(out + (t * heads + kv * group + h + i) * head_dim, 1.0f / total, head_dim);
          }
        }
      }
    }
  };
  const int64_t work = 2 * tile * group * head_dim * (window > 0 ? Min(window, start + tokens) : start + tokens);
  ParallelRanges(ctx, kv_heads * tiles, Max(1, kMinWork / work), body);
  return MS_OK;
}

}  // namespace ISA
}  // namespace maskserve
