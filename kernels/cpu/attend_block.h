// One block of positions joins the softmaxes of a few queries of one kv-head: scores, exponentials, and the weighted
// sum of values, which the queries share.
#pragma once

#include "exp_log.h"
#include "ops.h"

namespace maskserve {
namespace {

constexpr int64_t kBlock = 64;  // positions
constexpr int kTogether = 4;    // queries that share a pass over the values

// One query's running softmax: its sums (hd) are Σ exp(s − largest) v, total is Σ exp(s − largest).
struct Query {
  float largest, total;
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

// A query's share of the next block's k or v, asked for while this block is worked on: the hardware foresees neither
// that k and v take turns nor what follows a page, and by itself reads a cache at half the rate that memory has.
struct Ahead {
  static constexpr int64_t kLine = 64;
  const char* at;
  int64_t lines;

  MS_INLINE Ahead Of(const void* next, int64_t bytes, int64_t query, int64_t queries) {
    const int64_t all = CeilDiv(bytes, kLine), first = all * query / queries;
    return {static_cast<const char*>(next) + first * kLine, all * (query + 1) / queries - first};
  }
  // The share of step `step` of `steps`.
  MS_METHOD void Ask(int64_t step, int64_t steps) const {
    const int64_t each = CeilDiv(lines, steps), end = Min(lines, (step + 1) * each);
    for (int64_t i = step * each; i < end; ++i) __builtin_prefetch(at + i * kLine);
  }
};

// A query as keys of type T are multiplied with it, `Floats(hd)` floats at a time: as it is, where they are widened to
// fp32.
template <typename T>
struct Keys {
  MS_INLINE int64_t Floats(int64_t head_dim) { return CeilDiv(head_dim, W) * W; }
  MS_INLINE void Prepare(float* out, const float* q, int64_t head_dim) {
    memset(out + Floats(head_dim) - W, 0, W * sizeof(float));
    memcpy(out, q, static_cast<size_t>(head_dim) * sizeof(float));
  }
  // q · row(r) in lane r.
  template <typename Row>
  MS_INLINE VF Multiply(const float* q, const Row& row, int64_t head_dim) {
    VF acc[W];
#pragma GCC unroll 16
    for (int r = 0; r < W; ++r) acc[r] = Zero();
    int64_t d = 0;
    for (; d + W <= head_dim; d += W) {
      const VF qd = Load(q + d);
#pragma GCC unroll 16
      for (int r = 0; r < W; ++r) acc[r] = Fma(qd, Value(row(r) + d), acc[r]);
    }
    if (d < head_dim) {
      const VF qd = Load(q + d);
      for (int r = 0; r < W; ++r) acc[r] = Fma(qd, ValuePart(row(r) + d, head_dim - d), acc[r]);
    }
    return SumEach(acc);
  }
};

#if defined(__AVX512BF16__)
// Keys in bf16 are multiplied as they are, by a query that is a sum of two bf16: what it loses, 2⁻¹⁷ of itself, is
// little beside what the keys lost when they were stored, and vdpbf16ps takes half the instructions of widening them.
template <>
struct Keys<uint16_t> {
  static constexpr int64_t kStep = 2 * W;  // words of a register

  // The nearest bf16s, and what they leave.
  MS_INLINE int64_t Floats(int64_t head_dim) { return CeilDiv(head_dim, kStep) * kStep; }
  MS_INLINE void Prepare(float* out, const float* q, int64_t head_dim) {
    const int64_t words = Floats(head_dim);
    uint16_t* near = reinterpret_cast<uint16_t*>(out);
    for (int64_t d = 0; d < words; d += kStep) {
      const int64_t n = Min(kStep, head_dim - d);
      const VF low = LoadPart(q + d, Min(W, n)), high = n > W ? LoadPart(q + d + W, n - W) : Zero();
      const __m512i both = (__m512i)_mm512_cvtne2ps_pbh(high, low);
      _mm512_storeu_si512(near + d, both);
      const VF low_left = Sub(low, LoadBf16(near + d)), high_left = Sub(high, LoadBf16(near + d + W));
      _mm512_storeu_si512(near + words + d, (__m512i)_mm512_cvtne2ps_pbh(high_left, low_left));
    }
  }
  template <typename Row>
  MS_INLINE VF Multiply(const float* q, const Row& row, int64_t head_dim) {
    const int64_t words = Floats(head_dim);
    const uint16_t* near = reinterpret_cast<const uint16_t*>(q);
    VF acc[W];
#pragma GCC unroll 16
    for (int r = 0; r < W; ++r) acc[r] = Zero();
    int64_t d = 0;
    for (; d + kStep <= head_dim; d += kStep) {
      const __m512bh first = (__m512bh)LoadPairs(near + d), second = (__m512bh)LoadPairs(near + words + d);
#pragma GCC unroll 16
      for (int r = 0; r < W; ++r) {
        const __m512bh keys = (__m512bh)LoadPairs(row(r) + d);
        acc[r] = _mm512_dpbf16_ps(_mm512_dpbf16_ps(acc[r], first, keys), second, keys);
      }
    }
    if (d < head_dim) {
      const __m512bh first = (__m512bh)LoadPairs(near + d), second = (__m512bh)LoadPairs(near + words + d);
      for (int r = 0; r < W; ++r) {
        const __m512bh keys = (__m512bh)LoadPairsPart(row(r) + d, head_dim - d);
        acc[r] = _mm512_dpbf16_ps(_mm512_dpbf16_ps(acc[r], first, keys), second, keys);
      }
    }
    const VF products = SumEach(acc);
    const __mmask16 lost = _mm512_cmp_ps_mask(products, products, _CMP_UNORD_Q);
    if (lost == 0) return products;
    const uint16_t* rows[W];
    for (int r = 0; r < W; ++r) rows[r] = row(r);
    return _mm512_mask_mov_ps(products, lost, MultiplyWhole(near, rows, head_dim));
  }
  // The same by the sum of both parts: apart they make a NaN of an infinite key where one of them is zero.
  MS_TILE VF MultiplyWhole(const uint16_t* near, const uint16_t* const* rows, int64_t head_dim) {
    alignas(64) float products[W];
    for (int r = 0; r < W; ++r) {
      float sum = 0;
      for (int64_t d = 0; d < head_dim; ++d) {
        sum += (FloatOfBf16(near[d]) + FloatOfBf16(near[Floats(head_dim) + d])) * FloatOfBf16(rows[r][d]);
      }
      products[r] = sum;
    }
    return Load(products);
  }
};
#endif

// scores[j] = q · k[j] · scale for j in [0, count); up to W − 1 entries beyond are written too. kHeadDim: the usual
// ones, for which rows lie at constant distances, or 0.
template <int kHeadDim, typename T>
MS_TILE void Scores(float* scores, const float* q, const T* k, int64_t count, int64_t any_head_dim, VF scale,
                    const Ahead& ahead) {
  const int64_t head_dim = kHeadDim > 0 ? kHeadDim : any_head_dim;
  int64_t j = 0;
  for (; j + W <= count; j += W) {
    ahead.Ask(j / W, kBlock / W);
    const T* rows = k + j * head_dim;
    const auto row = [=](int r) { return rows + r * head_dim; };
    Store(scores + j, Mul(Keys<T>::Multiply(q, row, head_dim), scale));
  }
  if (j == count) return;
  const T *rows = k + j * head_dim, *last = k + (count - 1) * head_dim;
  const auto row = [=](int r) { return j + r < count ? rows + r * head_dim : last; };
  Store(scores + j, Mul(Keys<T>::Multiply(q, row, head_dim), scale));
}

template <typename T>
MS_INLINE void AnyScores(float* scores, const float* q, const T* k, int64_t count, int64_t head_dim, VF scale,
                         const Ahead& ahead) {
  switch (head_dim) {
    case 64:
      return Scores<64>(scores, q, k, count, head_dim, scale, ahead);
    case 128:
      return Scores<128>(scores, q, k, count, head_dim, scale, ahead);
    default:
      return Scores<0>(scores, q, k, count, head_dim, scale, ahead);
  }
}

// out (Q, hd) += Σ_j p[j] v[j], over D registers of columns. P partial sums of each, so that additions need not wait
// for one another.
template <int Q, int D, typename T>
MS_INLINE void Accumulate(float* out, const float (*p)[kBlock + W], const T* v, int64_t count, int64_t head_dim,
                          const Ahead& ahead) {
  constexpr int P = Q * D < 8 ? 2 : 1;
  VF acc[P][Q][D];
#pragma GCC unroll 4
  for (int i = 0; i < Q; ++i) {
#pragma GCC unroll 8
    for (int d = 0; d < D; ++d) {
      acc[0][i][d] = Load(out + i * head_dim + d * W);
      if (P == 2) acc[P - 1][i][d] = Zero();
    }
  }
  const auto add = [&](VF(*to)[D], int64_t j) {
    VF value[D];
#pragma GCC unroll 8
    for (int d = 0; d < D; ++d) value[d] = Value(v + j * head_dim + d * W);
#pragma GCC unroll 4
    for (int i = 0; i < Q; ++i) {
      const VF pj = Set(p[i][j]);
#pragma GCC unroll 8
      for (int d = 0; d < D; ++d) to[i][d] = Fma(pj, value[d], to[i][d]);
    }
  };
  int64_t j = 0;
  for (; j + P <= count; j += P) {
    ahead.Ask(j / P, kBlock / P);
    add(acc[0], j);
    if (P == 2) add(acc[P - 1], j + 1);
  }
  if (j < count) add(acc[0], j);
#pragma GCC unroll 4
  for (int i = 0; i < Q; ++i) {
#pragma GCC unroll 8
    for (int d = 0; d < D; ++d) {
      const VF sum = P == 2 ? Add(acc[0][i][d], acc[P - 1][i][d]) : acc[0][i][d];
      Store(out + i * head_dim + d * W, sum);
    }
  }
}

template <int Q, typename T>
void WeightedSum(float* out, const float (*p)[kBlock + W], const T* v, int64_t count, int64_t head_dim,
                 const Ahead& ahead) {
#if defined(__AVX512BF16__)
  constexpr int kWide = Q == 1 ? 8 : 4;  // registers of columns at a time
#else
  constexpr int kWide = Q == 1 ? 8 : Q == 2 ? 4 : 2;
#endif
  constexpr int kLess = kWide > 4 ? 4 : kWide;
  Ahead now = ahead;
  int64_t d = 0;
  for (; d + kWide * W <= head_dim; d += kWide * W, now.lines = 0) {
    Accumulate<Q, kWide>(out + d, p, v + d, count, head_dim, now);
  }
  for (; d + kLess * W <= head_dim; d += kLess * W, now.lines = 0) {
    Accumulate<Q, kLess>(out + d, p, v + d, count, head_dim, now);
  }
  for (; d + W <= head_dim; d += W, now.lines = 0) Accumulate<Q, 1>(out + d, p, v + d, count, head_dim, now);
  if (d == head_dim) return;
  for (int i = 0; i < Q; ++i) {
    VF acc = LoadPart(out + i * head_dim + d, head_dim - d);
    for (int64_t j = 0; j < count; ++j) {
      acc = Fma(Set(p[i][j]), ValuePart(v + j * head_dim + d, head_dim - d), acc);
    }
    StorePart(out + i * head_dim + d, acc, head_dim - d);
  }
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

// Scores p[skip … count) become exp(s − the largest so far); what was summed before is brought to the same base.
MS_INLINE void Exponentials(Query* query, float* sums, float* p, int64_t skip, int64_t count, int64_t head_dim) {
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
}

// Positions [first, count) of a block, k and v pointing at its start.
template <typename K, typename V>
struct BlockOf {
  const K* k;
  const V* v;
  int64_t first, count, head_dim;
  float scale;
};

// They join the softmaxes of Q queries: sums (Q, hd), and q prepared for K, one after another.
template <int Q, typename K, typename V>
void Attend(Query* queries, float* sums, const float* q, const BlockOf<K, V>& b, const Ahead* next_k,
            const Ahead& next_v) {
  alignas(64) float p[Q][kBlock + W];
  const int64_t skip = b.first / W * W, hd = b.head_dim;
  for (int i = 0; i < Q; ++i) {
    AnyScores(p[i] + skip, q + i * Keys<K>::Floats(hd), b.k + skip * hd, b.count - skip, hd, Set(b.scale), next_k[i]);
    for (int64_t j = skip; j < b.first; ++j) p[i][j] = -INFINITY;
    Exponentials(&queries[i], sums + i * hd, p[i], skip, b.count, hd);
  }
  WeightedSum<Q>(sums, reinterpret_cast<const float(*)[kBlock + W]>(p[0] + b.first), b.v + b.first * hd,
                 b.count - b.first, hd, next_v);
}

}  // namespace
}  // namespace maskserve
