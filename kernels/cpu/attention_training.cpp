// Causal attention over whole sequences, with its gradient (FlashAttention-2, arXiv 2307.08691, Algorithm 2): the
// forward pass keeps each row's log-sum-exp, the backward pass recomputes the probabilities from it.
//
// A task owns all that it writes: forward a sequence's query head, backward a sequence's kv-head with the query heads
// that read it. Within a task the tiles follow one another in a fixed order, so nothing depends on the threads.

#include "exp_log.h"
#include "ops.h"
#include "strided.h"

namespace maskserve {
namespace {

constexpr int64_t kQueries = 64;  // rows of a tile
constexpr int64_t kKeys = 256;    // columns of a tile, backward

// A sequence's rows of one head: token t at data + t · stride.
template <typename T>
struct HeadRows {
  T* data;
  int64_t stride;

  T* At(int64_t t) const { return data + t * stride; }
};

template <typename T>
MS_INLINE HeadRows<T> RowsOf(T* data, const ms_attention_shape& s, int64_t sequence, int64_t head, int64_t heads) {
  return {data + (sequence * s.tokens * heads + head) * s.head_dim, heads * s.head_dim};
}

// The first position that token t attends to; the last is t.
MS_INLINE int64_t FirstKey(const ms_attention_shape& s, int64_t t) {
  return s.window > 0 ? Max(0, t - s.window + 1) : 0;
}

// out (hd, T) ← rows (T, hd): keys or values as the columns of a product.
void Transpose(float* out, const HeadRows<const float>& rows, int64_t tokens, int64_t head_dim) {
  constexpr int64_t kSquare = 16;
  for (int64_t t = 0; t < tokens; t += kSquare) {
    const int64_t end = Min(tokens, t + kSquare);
    for (int64_t d = 0; d < head_dim; ++d) {
      for (int64_t i = t; i < end; ++i) out[d * tokens + i] = rows.At(i)[d];
    }
  }
}

// scores (n) → exp(scores · scale − largest), the largest being over all of them; returns ln Σ exp(scores · scale).
float Softmax(float* scores, int64_t n, float scale, float* total) {
  VF most = Set(-INFINITY);
  int64_t i = 0;
  for (; i + W <= n; i += W) most = Larger(most, Load(scores + i));
  float largest = Largest(most);
  for (; i < n; ++i) largest = scores[i] > largest ? scores[i] : largest;
  largest *= scale;
  const float base = largest == -INFINITY ? 0.0f : largest;
  VF sum = Zero();
  for (i = 0; i + W <= n; i += W) {
    const VF e = Exp(Sub(Mul(Load(scores + i), Set(scale)), Set(base)));
    Store(scores + i, e);
    sum = Add(sum, e);
  }
  if (i < n) {
    StorePart(scores + i, Exp(Sub(Mul(LoadPart(scores + i, n - i), Set(scale)), Set(base))), n - i);
    sum = Add(sum, LoadPart(scores + i, n - i));
  }
  *total = Sum(sum);
  return static_cast<float>(static_cast<double>(base) + log(static_cast<double>(*total)));
}

void ScaleRow(float* x, float by, int64_t n) {
  int64_t i = 0;
  for (; i + W <= n; i += W) Store(x + i, Mul(Load(x + i), Set(by)));
  if (i < n) StorePart(x + i, Mul(LoadPart(x + i, n - i), Set(by)), n - i);
}

float Dot(const float* a, const float* b, int64_t n) {
  VF sum = Zero();
  int64_t i = 0;
  for (; i + W <= n; i += W) sum = Fma(Load(a + i), Load(b + i), sum);
  if (i < n) sum = Fma(LoadPart(a + i, n - i), LoadPart(b + i, n - i), sum);
  return Sum(sum);
}

void ZeroFloats(float* x, int64_t n) {
  memset(x, 0, static_cast<size_t>(n) * sizeof(float));
}

struct ForwardHead {
  HeadRows<float> out;
  float* lse;  // (T)
  HeadRows<const float> q, k, v;
};

// `keys` (hd, T) and `scores` (kQueries, T) are working memory.
void AttendForward(const ForwardHead& h, const ms_attention_shape& s, float* keys, float* scores) {
  const float scale = static_cast<float>(s.scale);
  Transpose(keys, h.k, s.tokens, s.head_dim);
  for (int64_t t = 0; t < s.tokens; t += kQueries) {
    const int64_t rows = Min(kQueries, s.tokens - t), first = FirstKey(s, t), span = t + rows - first;
    StridedProduct(scores, span, {h.q.At(t), h.q.stride, 1}, keys + first, s.tokens, rows, span, s.head_dim, false);
    float totals[kQueries];
    for (int64_t r = 0; r < rows; ++r) {
      float* row = scores + r * span;
      const int64_t from = FirstKey(s, t + r) - first, end = t + r + 1 - first;
      h.lse[t + r] = Softmax(row + from, end - from, scale, &totals[r]);
      ZeroFloats(row, from);
      ZeroFloats(row + end, span - end);
    }
    StridedProduct(h.out.At(t), h.out.stride, {scores, span, 1}, h.v.At(first), h.v.stride, rows, s.head_dim, span,
                   false);
    for (int64_t r = 0; r < rows; ++r) ScaleRow(h.out.At(t + r), 1.0f / totals[r], s.head_dim);
  }
}

struct BackwardHead {
  HeadRows<float> dq, dk, dv;
  HeadRows<const float> dout, out, q, k, v;
  const float* lse;
};

// Working memory of one kv-head.
struct BackwardTiles {
  float *keys, *values;                    // (hd, T)
  float *probabilities, *score_gradients;  // (kQueries, kKeys)
};

// probabilities ← exp(scores · scale − lse), score_gradients ← probabilities ∘ (dP − δ) · scale, over one row.
void RowGradients(float* p, float* ds, int64_t n, float scale, float lse, float delta) {
  for (int64_t i = 0; i < n; i += W) {
    const int64_t some = Min(W, n - i);
    const VF e = Exp(Sub(Mul(LoadPart(p + i, some), Set(scale)), Set(lse)));
    StorePart(p + i, e, some);
    StorePart(ds + i, Mul(Mul(e, Sub(LoadPart(ds + i, some), Set(delta))), Set(scale)), some);
  }
}

void AttendBackward(const BackwardHead& h, const ms_attention_shape& s, const BackwardTiles& w) {
  const float scale = static_cast<float>(s.scale);
  const int64_t hd = s.head_dim;
  for (int64_t t = 0; t < s.tokens; t += kQueries) {
    const int64_t rows = Min(kQueries, s.tokens - t), first = FirstKey(s, t), last = t + rows;
    float delta[kQueries];
    for (int64_t r = 0; r < rows; ++r) delta[r] = Dot(h.dout.At(t + r), h.out.At(t + r), hd);
    for (int64_t key = first; key < last; key += kKeys) {
      const int64_t span = Min(kKeys, last - key);
      StridedProduct(w.probabilities, span, {h.q.At(t), h.q.stride, 1}, w.keys + key, s.tokens, rows, span, hd, false);
      StridedProduct(w.score_gradients, span, {h.dout.At(t), h.dout.stride, 1}, w.values + key, s.tokens, rows, span,
                     hd, false);
      for (int64_t r = 0; r < rows; ++r) {
        float *p = w.probabilities + r * span, *ds = w.score_gradients + r * span;
        const int64_t from = Min(span, Max(0, FirstKey(s, t + r) - key)), end = Max(from, Min(span, t + r + 1 - key));
        RowGradients(p + from, ds + from, end - from, scale, h.lse[t + r], delta[r]);
        ZeroFloats(p, from);
        ZeroFloats(ds, from);
        ZeroFloats(p + end, span - end);
        ZeroFloats(ds + end, span - end);
      }
      StridedProduct(h.dv.At(key), h.dv.stride, {w.probabilities, 1, span}, h.dout.At(t), h.dout.stride, span, hd, rows,
                     true);
      StridedProduct(h.dk.At(key), h.dk.stride, {w.score_gradients, 1, span}, h.q.At(t), h.q.stride, span, hd, rows,
                     true);
      StridedProduct(h.dq.At(t), h.dq.stride, {w.score_gradients, span, 1}, h.k.At(key), h.k.stride, rows, hd, span,
                     key > first);
    }
  }
}

}  // namespace

namespace ISA {

ms_status AttentionForward(ms_context* ctx, float* out, float* lse, const float* q, const float* k, const float* v,
                           ms_attention_shape s) {
  const int64_t tasks = s.batch * s.heads, group = s.heads / s.kv_heads;
  const int64_t floats = (s.head_dim + kQueries) * s.tokens;
  const size_t bytes = static_cast<size_t>(Threads(ctx) * floats) * sizeof(float);
  float* scratch = static_cast<float*>(Scratch(ctx, bytes));
  if (scratch == NULL) return FailMemory(ctx, bytes);
  auto body = [&](int64_t task, int worker) {
    const int64_t b = task / s.heads, h = task % s.heads, kv = h / group;
    float* keys = scratch + worker * floats;
    AttendForward({RowsOf(out, s, b, h, s.heads), lse + task * s.tokens, RowsOf(q, s, b, h, s.heads),
                   RowsOf(k, s, b, kv, s.kv_heads), RowsOf(v, s, b, kv, s.kv_heads)},
                  s, keys, keys + s.head_dim * s.tokens);
  };
  Parallel(ctx, tasks, body);
  return MS_OK;
}

ms_status AttentionBackward(ms_context* ctx, float* dq, float* dk, float* dv, const float* dout, const float* out,
                            const float* lse, const float* q, const float* k, const float* v, ms_attention_shape s) {
  const int64_t tasks = s.batch * s.kv_heads, group = s.heads / s.kv_heads;
  const int64_t columns = s.head_dim * s.tokens, floats = 2 * columns + 2 * kQueries * kKeys;
  const size_t bytes = static_cast<size_t>(Threads(ctx) * floats) * sizeof(float);
  float* scratch = static_cast<float*>(Scratch(ctx, bytes));
  if (scratch == NULL) return FailMemory(ctx, bytes);
  auto body = [&](int64_t task, int worker) {
    const int64_t b = task / s.kv_heads, kv = task % s.kv_heads;
    float* mine = scratch + worker * floats;
    const BackwardTiles tiles = {mine, mine + columns, mine + 2 * columns, mine + 2 * columns + kQueries * kKeys};
    const HeadRows<const float> keys = RowsOf(k, s, b, kv, s.kv_heads), values = RowsOf(v, s, b, kv, s.kv_heads);
    const HeadRows<float> key_gradients = RowsOf(dk, s, b, kv, s.kv_heads),
                          value_gradients = RowsOf(dv, s, b, kv, s.kv_heads);
    Transpose(tiles.keys, keys, s.tokens, s.head_dim);
    Transpose(tiles.values, values, s.tokens, s.head_dim);
    for (int64_t t = 0; t < s.tokens; ++t) {
      ZeroFloats(key_gradients.At(t), s.head_dim);
      ZeroFloats(value_gradients.At(t), s.head_dim);
    }
    for (int64_t h = kv * group; h < (kv + 1) * group; ++h) {
      AttendBackward({RowsOf(dq, s, b, h, s.heads), key_gradients, value_gradients, RowsOf(dout, s, b, h, s.heads),
                      RowsOf(out, s, b, h, s.heads), RowsOf(q, s, b, h, s.heads), keys, values,
                      lse + (b * s.heads + h) * s.tokens},
                     s, tiles);
    }
  };
  Parallel(ctx, tasks, body);
  return MS_OK;
}

}  // namespace ISA
}  // namespace maskserve
