// The training half of the op table under sanitizers: see op_table.cpp.

#include <algorithm>
#include <cmath>

#include "op_table.h"

namespace {

std::vector<float> Room(int64_t n) {
  return std::vector<float>(static_cast<size_t>(n));
}

void Append(std::vector<float>* all, const std::vector<float>& more) {
  all->insert(all->end(), more.begin(), more.end());
}

void LinearLayer(int64_t rows, int64_t n, int64_t k) {
  Random random{static_cast<uint64_t>(rows * 31 + n * 7 + k)};
  const auto x = Floats(random, rows * k), dy = Floats(random, rows * n), wide = Floats(random, n * k);
  const auto half = Weights(random, n * k);
  for (const int exact : {0, 1}) {
    for (const ms_weights& w : {Bf16(half), ms_weights{MS_F32, 0, wide.data(), nullptr}}) {
      SameOnAnyThreads("linear", [&](ms_context* ctx) {
        backend->set_exact(ctx, exact);
        auto y = Room(rows * n), dx = Room(rows * k), dw = Room(n * k);
        Expect(backend->ops.linear(ctx, y.data(), x.data(), w, rows, n, k) == MS_OK, "linear", rows, n, k);
        for (const int accumulate : {0, 1}) {
          backend->ops.linear_backward_input(ctx, dx.data(), dy.data(), w, rows, n, k, accumulate);
          backend->ops.linear_backward_weight(ctx, dw.data(), dy.data(), x.data(), rows, n, k, accumulate);
        }
        Append(&y, dx);
        Append(&y, dw);
        return y;
      });
    }
  }
}

void AttentionBothWays(int64_t batch, int64_t tokens, int64_t heads, int64_t kv_heads, int64_t head_dim,
                       int64_t window) {
  Random random{static_cast<uint64_t>(tokens + head_dim)};
  const ms_attention_shape shape = {batch, tokens, heads, kv_heads, head_dim, 0.3, window};
  const int64_t q_size = batch * tokens * heads * head_dim, kv_size = batch * tokens * kv_heads * head_dim;
  const auto q = Floats(random, q_size), dout = Floats(random, q_size);
  const auto k = Floats(random, kv_size), v = Floats(random, kv_size);
  SameOnAnyThreads("attention with gradients", [&](ms_context* ctx) {
    auto out = Room(q_size), lse = Room(batch * heads * tokens), dq = Room(q_size);
    auto dk = Room(kv_size), dv = Room(kv_size);
    backend->ops.attention_forward(ctx, out.data(), lse.data(), q.data(), k.data(), v.data(), shape);
    backend->ops.attention_backward(ctx, dq.data(), dk.data(), dv.data(), dout.data(), out.data(), lse.data(), q.data(),
                                    k.data(), v.data(), shape);
    for (const auto* part : {&lse, &dq, &dk, &dv}) Append(&out, *part);
    for (const float f : out) Expect(std::isfinite(f), "attention is finite", tokens, heads, head_dim);
    return out;
  });
}

void NormRopeSilu(int64_t rows, int64_t dim) {
  Random random{static_cast<uint64_t>(rows + dim)};
  const auto x = Floats(random, rows * dim), dy = Floats(random, rows * dim), gain = Floats(random, dim);
  const auto table = Floats(random, rows * dim / 2);
  SameOnAnyThreads("gradients between products", [&](ms_context* ctx) {
    auto dx = Room(rows * dim), dgain = Room(dim), dup = Room(rows * dim);
    backend->ops.rmsnorm_backward(ctx, dx.data(), dgain.data(), dy.data(), x.data(), gain.data(), rows, dim, 1e-5);
    backend->ops.rmsnorm_backward(ctx, dx.data(), nullptr, dy.data(), x.data(), gain.data(), rows, dim, 1e-5);
    if (dim % 2 == 0) backend->ops.rope_batch(ctx, dx.data(), table.data(), table.data(), 1, rows, 1, dim, 1);
    backend->ops.silu_mul_backward(ctx, dx.data(), dup.data(), dx.data(), x.data(), dy.data(), rows * dim);
    Append(&dx, dup);
    Append(&dx, dgain);
    return dx;
  });
}

void Loss(int64_t rows, int64_t vocab) {
  Random random{static_cast<uint64_t>(rows + vocab)};
  const auto logits = Floats(random, rows * vocab), teacher = Floats(random, rows * vocab);
  std::vector<int32_t> targets(static_cast<size_t>(rows));
  for (int32_t& target : targets) target = static_cast<int32_t>(random.Next() % static_cast<uint32_t>(vocab));
  for (const float* with : {static_cast<const float*>(nullptr), teacher.data()}) {
    SameOnAnyThreads("loss", [&](ms_context* ctx) {
      auto gradient = logits;
      double lm, kl;
      backend->ops.loss_backward(ctx, gradient.data(), with, targets.data(), rows, vocab, with != nullptr ? 0.5 : 0,
                                 rows, &lm, &kl);
      gradient.push_back(static_cast<float>(lm));
      gradient.push_back(static_cast<float>(kl));
      return gradient;
    });
  }
}

void SoftMask(int64_t n, int64_t m, int64_t patterns, int64_t groups) {
  Random random{static_cast<uint64_t>(groups)};
  const auto w = Weights(random, groups * m);
  const auto logits = Floats(random, groups * patterns), given = Floats(random, groups * patterns);
  const auto dw = Floats(random, groups * m);
  const ms_gumbel settings = {n, m, groups, 10, 0.5, uint64_t{1} << 40, 3, 7};
  for (const float* noise : {static_cast<const float*>(nullptr), given.data()}) {
    SameOnAnyThreads("soft mask", [&](ms_context* ctx) {
      auto wide = Room(groups * m), dlogits = Room(groups * patterns);
      std::vector<uint16_t> half(wide.size());
      std::vector<uint8_t> symbols(static_cast<size_t>(groups));
      double squares, again;
      backend->ops.gumbel_mask(ctx, wide.data(), MS_F32, Bf16(w), logits.data(), noise, settings, &squares);
      backend->ops.gumbel_mask(ctx, half.data(), MS_BF16, Bf16(w), logits.data(), noise, settings, &again);
      Expect(squares == again, "squares before rounding", n, m, groups);
      backend->ops.gumbel_mask_backward(ctx, dlogits.data(), dw.data(), Bf16(w), logits.data(), noise, settings, 0.1);
      backend->ops.argmax_patterns(ctx, symbols.data(), dlogits.data(), groups, patterns);
      for (const uint8_t symbol : symbols) Expect(symbol < patterns, "a symbol", symbol, patterns);
      Append(&wide, dlogits);
      wide.push_back(static_cast<float>(squares));
      return wide;
    });
  }
}

void MaskedWeights(int64_t n, int64_t k) {
  Random random{static_cast<uint64_t>(n + k)};
  const auto w = Floats(random, n * k);
  const auto half = Weights(random, n * k);
  SameOnAnyThreads("masked weights", [&](ms_context* ctx) {
    auto kept = w;
    std::vector<uint8_t> meta(static_cast<size_t>(n * k / 8));
    std::vector<uint16_t> selected(w.size());
    backend->ops.top_two(ctx, meta.data(), w.data(), n * k / 4);
    Expect(backend->ops.select24_f32(ctx, selected.data(), w.data(), meta.data(), n, k) == MS_OK, "select24_f32", n, k);
    Expect(backend->ops.keep24_f32(ctx, kept.data(), meta.data(), n, k) == MS_OK, "keep24_f32", n, k);
    Expect(std::count(kept.begin(), kept.end(), 0.0f) >= n * k / 2, "half is pruned", n, k);
    backend->ops.mul_bf16(ctx, kept.data(), kept.data(), Bf16(half), n * k);
    return kept;
  });
}

void Optimizer(int64_t n) {
  Random random{static_cast<uint64_t>(n)};
  const auto start = Floats(random, n), gradients = Floats(random, n);
  SameOnAnyThreads("optimizer", [&](ms_context* ctx) {
    auto p = start, m = Room(n), v = Room(n);
    for (int64_t step = 1; step <= 2; ++step) {
      backend->ops.adamw(ctx, p.data(), gradients.data(), m.data(), v.data(), n,
                         {1e-2, 0.9, 0.95, 1e-5, 0.1, step, 0.5, 0, 0});
      backend->ops.adamw(ctx, p.data(), gradients.data(), m.data(), v.data(), n,
                         {1e-2, 0.9, 0.95, 1e-5, 0.1, step, 0.5, 0.3, 0.1});
    }
    double squares;
    backend->ops.sum_of_squares(ctx, p.data(), n, &squares);
    backend->ops.scale_by(ctx, p.data(), 0.3, n);
    p.push_back(static_cast<float>(squares));
    return p;
  });
}

}  // namespace

void TrainingOps() {
  for (const int64_t k : {1, 7, 31, 64, 129, 1100}) {
    for (const int64_t rows : {1, 5, 13, 100}) LinearLayer(rows, 37, k);
  }
  LinearLayer(700, 33, 40);
  LinearLayer(3, 4200, 20);
  for (const int64_t head_dim : {2, 6, 20, 64}) {
    AttentionBothWays(1, 1, 2, 1, head_dim, 0);
    AttentionBothWays(2, 70, 4, 2, head_dim, 0);
    AttentionBothWays(1, 300, 2, 2, head_dim, 33);
  }
  for (const int64_t dim : {1, 6, 33, 200}) {
    NormRopeSilu(1, dim);
    NormRopeSilu(150, dim);
  }
  for (const int64_t vocab : {1, 5, 37, 1100}) Loss(9, vocab);
  for (const int64_t groups : {1, 63, 64, 65, 5001}) {
    SoftMask(2, 4, 6, groups);
    SoftMask(1, 4, 4, groups);
    SoftMask(4, 8, 70, std::min<int64_t>(groups, 200));
  }
  MaskedWeights(1, 8);
  MaskedWeights(300, 520);
  for (const int64_t n : {1, 15, 17, 200003}) Optimizer(n);
}
