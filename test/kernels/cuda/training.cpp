// Training and one-shot masks against the CPU backend: masks bit for bit, gradients to rounding.

#include "cases.h"

namespace {

using namespace maskserve::cuda;

constexpr double kRounding = 2e-6;

CASE(NormGradients, "the gradient of RMSNorm is the CPU's") {
  Random random{41};
  for (const int64_t dim : {int64_t{6}, int64_t{700}, int64_t{1500}}) {
    for (const int64_t rows : {int64_t{3}, int64_t{130}}) {
      const std::vector<float> x = Floats(random, rows * dim), dy = Floats(random, rows * dim),
                               gain = Floats(random, dim);
      std::vector<float> dx = Floats(random, rows * dim), dx_cpu = dx, dgain = Floats(random, dim), dgain_cpu = dgain;
      std::vector<float> workspace(rmsnorm_backward_workspace(rows, dim) / sizeof(float));
      rmsnorm_backward(dx.data(), dgain.data(), dy.data(), x.data(), gain.data(), rows, dim, 1e-5, workspace.data(),
                       nullptr);
      rmsnorm_backward(dx.data(), nullptr, dy.data(), x.data(), gain.data(), rows, dim, 1e-5, nullptr, nullptr);
      for (float* to : {dgain_cpu.data(), static_cast<float*>(nullptr)}) {
        cpu->ops.rmsnorm_backward(context, dx_cpu.data(), to, dy.data(), x.data(), gain.data(), rows, dim, 1e-5);
      }
      ExpectNear(dx, dx_cpu, kRounding, "dx", dim);
      ExpectNear(dgain, dgain_cpu, kRounding, "dgain", dim);
    }
  }
}

CASE(SequenceAttention, "attention over sequences and its gradient are the CPU's") {
  Random random{42};
  const ms_attention_shape shapes[] = {{2, 37, 4, 2, 16, 0.3, 0},
                                       {1, 70, 2, 2, 64, 0.2, 23},
                                       {1, 33, 2, 1, 128, 0.1, 0},
                                       {1, 20, 2, 1, 256, 0.1, 0},
                                       {2, 1, 1, 1, 4, 1.0, 5}};
  for (const ms_attention_shape& s : shapes) {
    const int64_t queries = s.batch * s.tokens * s.heads * s.head_dim, keys = queries / s.heads * s.kv_heads;
    const std::vector<float> q = Floats(random, queries), k = Floats(random, keys), v = Floats(random, keys);
    std::vector<float> out = Like(q), out_cpu = out;
    std::vector<float> lse(static_cast<size_t>(s.batch * s.heads * s.tokens)), lse_cpu = lse;
    attention_forward(out.data(), lse.data(), q.data(), k.data(), v.data(), s, nullptr);
    cpu->ops.attention_forward(context, out_cpu.data(), lse_cpu.data(), q.data(), k.data(), v.data(), s);
    ExpectNear(out, out_cpu, kRounding, "attention_forward", s.head_dim);
    ExpectNear(lse, lse_cpu, kRounding, "lse", s.head_dim);
    const std::vector<float> dout = Floats(random, queries);
    std::vector<float> dq = Like(q), dk = Like(k), dv = Like(v), dq_cpu = dq, dk_cpu = dk, dv_cpu = dv;
    std::vector<float> workspace(attention_backward_workspace(s) / sizeof(float));
    attention_backward(dq.data(), dk.data(), dv.data(), dout.data(), out_cpu.data(), lse_cpu.data(), q.data(), k.data(),
                       v.data(), s, workspace.data(), nullptr);
    cpu->ops.attention_backward(context, dq_cpu.data(), dk_cpu.data(), dv_cpu.data(), dout.data(), out_cpu.data(),
                                lse_cpu.data(), q.data(), k.data(), v.data(), s);
    // With one token they are differences of equals: nothing but rounding, some 1e-8, on both sides.
    const double tolerance = s.tokens == 1 ? 4 : 10 * kRounding;
    ExpectNear(dq, dq_cpu, tolerance, "dq", s.head_dim);
    ExpectNear(dk, dk_cpu, tolerance, "dk", s.head_dim);
    ExpectNear(dv, dv_cpu, 10 * kRounding, "dv", s.head_dim);
  }
}

CASE(TensorSequenceAttention, "attention over sequences and its gradient on tensor cores are the CPU's to bf16") {
  Random random{47};
  const ms_attention_shape shapes[] = {{2, 37, 4, 2, 16, 0.3, 0},   {1, 70, 2, 2, 64, 0.2, 23},
                                       {1, 161, 3, 1, 48, 0.2, 40}, {1, 130, 2, 1, 128, 0.1, 0},
                                       {1, 66, 1, 1, 96, 0.1, 66},  {2, 1, 1, 1, 16, 1.0, 5}};
  for (const ms_attention_shape& s : shapes) {
    const int64_t queries = s.batch * s.tokens * s.heads * s.head_dim, keys = queries / s.heads * s.kv_heads;
    const std::vector<float> q = Rounded(Floats(random, queries)), k = Rounded(Floats(random, keys)),
                             v = Rounded(Floats(random, keys)), dout = Rounded(Floats(random, queries));
    std::vector<float> out = Like(q), out_cpu = out;
    std::vector<float> lse(static_cast<size_t>(s.batch * s.heads * s.tokens)), lse_cpu = lse;
    attention_forward_mma(out.data(), lse.data(), q.data(), k.data(), v.data(), s, nullptr);
    cpu->ops.attention_forward(context, out_cpu.data(), lse_cpu.data(), q.data(), k.data(), v.data(), s);
    // Probabilities are rounded to 2⁻⁹.
    ExpectNear(out, out_cpu, 0x1p-9, "attention_forward_mma", s.head_dim);
    ExpectNear(lse, lse_cpu, kRounding, "lse", s.head_dim);
    std::vector<float> dq = Like(q), dk = Like(k), dv = Like(v), dq_cpu = dq, dk_cpu = dk, dv_cpu = dv;
    std::vector<float> workspace(attention_backward_workspace(s) / sizeof(float));
    attention_backward_mma(dq.data(), dk.data(), dv.data(), dout.data(), out_cpu.data(), lse_cpu.data(), q.data(),
                           k.data(), v.data(), s, workspace.data(), nullptr);
    cpu->ops.attention_backward(context, dq_cpu.data(), dk_cpu.data(), dv_cpu.data(), dout.data(), out_cpu.data(),
                                lse_cpu.data(), q.data(), k.data(), v.data(), s);
    if (s.tokens > 1) {
      ExpectNear(dq, dq_cpu, 0x1p-8, "dq", s.head_dim);
      ExpectNear(dk, dk_cpu, 0x1p-8, "dk", s.head_dim);
    }
    ExpectNear(dv, dv_cpu, 0x1p-8, "dv", s.head_dim);
  }
}

CASE(SiluGradient, "the gradient of SiLU · up is the CPU's") {
  Random random{43};
  const int64_t n = 333;
  const std::vector<float> dout = Floats(random, n), gate = Floats(random, n, 9), up = Floats(random, n);
  std::vector<float> dgate = Like(gate), dup = dgate, dgate_cpu = dgate, dup_cpu = dgate;
  silu_mul_backward(dgate.data(), dup.data(), dout.data(), gate.data(), up.data(), n, nullptr);
  cpu->ops.silu_mul_backward(context, dgate_cpu.data(), dup_cpu.data(), dout.data(), gate.data(), up.data(), n);
  ExpectNear(dgate, dgate_cpu, kRounding, "dgate");
  ExpectNear(dup, dup_cpu, kRounding, "dup");
}

CASE(Losses, "the loss and its gradient are the CPU's, with and without a teacher") {
  Random random{44};
  const int64_t rows = 3;
  for (const int64_t vocab : {int64_t{5}, int64_t{1300}}) {
    const std::vector<float> logits = Floats(random, rows * vocab, 7), teacher = Floats(random, rows * vocab, 7);
    std::vector<int32_t> targets;
    for (int64_t r = 0; r < rows; ++r) targets.push_back(static_cast<int32_t>(random.Below(vocab)));
    for (const float* to : {teacher.data(), static_cast<const float*>(nullptr)}) {
      std::vector<float> device = logits, host = logits;
      std::vector<double> losses(2 * rows);
      double lm = 0, kl = 0, lm_device = 0, kl_device = 0;
      loss_backward(device.data(), losses.data(), to, targets.data(), rows, vocab, to == nullptr ? 0 : 0.7, 11,
                    nullptr);
      cpu->ops.loss_backward(context, host.data(), to, targets.data(), rows, vocab, to == nullptr ? 0 : 0.7, 11, &lm,
                             &kl);
      for (size_t r = 0; r < static_cast<size_t>(rows); ++r) {
        lm_device += losses[2 * r];
        kl_device += losses[2 * r + 1];
      }
      ExpectNear(device, host, kRounding, "gradient of the loss", vocab);
      Expect(std::fabs(lm_device - lm) < 1e-5 * (1 + std::fabs(lm)), "cross-entropy", vocab);
      Expect(std::fabs(kl_device - kl) < 1e-5 * (1 + std::fabs(kl)), "KL", vocab);
    }
  }
}

CASE(SoftMasks, "the Gumbel mask and its gradient are the CPU's, from the same noise") {
  Random random{45};
  struct Pattern {
    int64_t n, m, patterns;
  };
  for (const Pattern& p : {Pattern{2, 4, 6}, Pattern{1, 4, 4}, Pattern{4, 8, 70}}) {
    const int64_t groups = 150;
    const ms_gumbel settings = {p.n, p.m, groups, 3.0, 0.7, 0x123456789abcdefull, 17, 5};
    const std::vector<float> logits = Floats(random, groups * p.patterns), noise = Floats(random, groups * p.patterns);
    const std::vector<float> dw = Floats(random, groups * p.m);
    const std::vector<uint16_t> w = Weights(random, groups * p.m);
    for (const float* given : {noise.data(), static_cast<const float*>(nullptr)}) {
      std::vector<float> out = Like(dw), out_cpu = out, dlogits = Like(logits), dlogits_cpu = dlogits;
      std::vector<uint16_t> bits = Like(w);
      std::vector<double> squares(static_cast<size_t>(gumbel_blocks(groups)));
      double total = 0, total_cpu = 0;
      gumbel_mask(out.data(), MS_F32, squares.data(), w.data(), logits.data(), given, settings, nullptr);
      for (const double s : squares) total += s;
      cpu->ops.gumbel_mask(context, out_cpu.data(), MS_F32, Bf16(w), logits.data(), given, settings, &total_cpu);
      ExpectNear(out, out_cpu, 10 * kRounding, "gumbel_mask", p.m);
      Expect(std::fabs(total - total_cpu) < 1e-5 * total_cpu, "Σ (w ∘ M̃)²", p.m);
      gumbel_mask(bits.data(), MS_BF16, squares.data(), w.data(), logits.data(), given, settings, nullptr);
      std::vector<uint16_t> rounded = Like(w);
      cpu->ops.to_bf16(context, rounded.data(), out.data(), MS_F32, groups * p.m);
      ExpectSame(bits, rounded, "gumbel_mask in bf16", p.m);
      gumbel_mask_backward(dlogits.data(), dw.data(), w.data(), logits.data(), given, settings, 0.25, nullptr);
      cpu->ops.gumbel_mask_backward(context, dlogits_cpu.data(), dw.data(), Bf16(w), logits.data(), given, settings,
                                    0.25);
      ExpectNear(dlogits, dlogits_cpu, 20 * kRounding, "gumbel_mask_backward", p.m);
    }
  }
}

CASE(ScoredMasks, "masks by score, top two and best patterns are the CPU's, ties and NaN too") {
  Random random{46};
  const int64_t n = 7, k = 72;
  std::vector<uint16_t> w = Weights(random, n * k);
  std::vector<float> scores = Floats(random, n * k), scale = Floats(random, k);
  for (float& s : scale) s = std::fabs(s);
  for (int64_t i = 0; i < n * k; i += 3) {
    w[static_cast<size_t>(i)] = static_cast<uint16_t>(random.OneIn(3) ? 0x7fc0 : 0xbf80 & ~(random.Next() & 0x8000u));
    scores[static_cast<size_t>(i)] = random.OneIn(3) ? NAN : 0.5f;
  }
  Bytes device(static_cast<size_t>(n * k / 8)), host(device.size());
  for (const float* by : {static_cast<const float*>(scale.data()), static_cast<const float*>(nullptr)}) {
    score_mask24(device.data(), w.data(), by, n, k, nullptr);
    cpu->ops.score_mask24(context, host.data(), Bf16(w), by, n, k);
    ExpectSame(device, host, "score_mask24");
  }
  top_two(device.data(), scores.data(), n * k / 4, nullptr);
  cpu->ops.top_two(context, host.data(), scores.data(), n * k / 4);
  ExpectSame(device, host, "top_two");
  device.resize(static_cast<size_t>(n * k / 6));
  host.resize(device.size());
  argmax_patterns(device.data(), scores.data(), n * k / 6, 6, nullptr);
  cpu->ops.argmax_patterns(context, host.data(), scores.data(), n * k / 6, 6);
  ExpectSame(device, host, "argmax_patterns");
}

CASE(Statistics, "sums of squares and Gram matrices of a layer's inputs are the CPU's") {
  Random random{47};
  for (const int64_t tokens : {int64_t{5}, int64_t{300}}) {
    const int64_t k = 45;
    const std::vector<float> x = Floats(random, tokens * k);
    std::vector<double> sums(k, 2.0), sums_cpu = sums, matrix(k * k, 1.0), matrix_cpu = matrix;
    sum_squares(sums.data(), x.data(), tokens, k, nullptr);
    cpu->ops.sum_squares(context, sums_cpu.data(), x.data(), tokens, k);
    gram(matrix.data(), x.data(), tokens, k, nullptr);
    cpu->ops.gram(context, matrix_cpu.data(), x.data(), tokens, k);
    for (size_t i = 0; i < sums.size(); ++i) Expect(std::fabs(sums[i] - sums_cpu[i]) < 1e-12 * sums[i], "sum_squares");
    for (size_t i = 0; i < matrix.size(); ++i) {
      Expect(std::fabs(matrix[i] - matrix_cpu[i]) < 1e-5 * static_cast<double>(tokens), "gram",
             static_cast<int64_t>(i));
      Expect(matrix[i] == matrix[i % 45 * 45 + i / 45], "gram is symmetric", static_cast<int64_t>(i));
    }
  }
}

CASE(AdamWSteps, "AdamW steps are the CPU's bits, gated and not, and norms its sums") {
  Random random{48};
  const int64_t n = 70000;
  for (const double threshold : {0.0, 0.3}) {
    std::vector<float> p = Floats(random, n), m = Floats(random, n), v = Floats(random, n), g = Floats(random, n);
    for (float& x : v) x = x * x;
    std::vector<float> p_cpu = p, m_cpu = m, v_cpu = v;
    const ms_adamw settings = {0.01, 0.9, 0.98, 1e-8, 0.1, 7, 0.5, threshold, threshold / 3};
    adamw(p.data(), g.data(), m.data(), v.data(), n, settings, nullptr);
    cpu->ops.adamw(context, p_cpu.data(), g.data(), m_cpu.data(), v_cpu.data(), n, settings);
    ExpectSame(p, p_cpu, "parameters");
    ExpectSame(m, m_cpu, "first moments");
    ExpectSame(v, v_cpu, "second moments");
    const ms_adamw still = {0.01, 0.0, 0.98, 1e-8, 0.1, 8, 0.5, threshold, threshold / 3};
    adamw(p.data(), g.data(), nullptr, v.data(), n, still, nullptr);
    cpu->ops.adamw(context, p_cpu.data(), g.data(), nullptr, v_cpu.data(), n, still);
    ExpectSame(p, p_cpu, "parameters without first moments");
    std::vector<double> sums(static_cast<size_t>(square_blocks(n)));
    double total = 0, total_cpu = 0;
    sum_of_squares(sums.data(), g.data(), n, nullptr);
    for (const double s : sums) total += s;
    cpu->ops.sum_of_squares(context, g.data(), n, &total_cpu);
    Expect(std::fabs(total - total_cpu) < 1e-12 * total_cpu, "sum_of_squares");
  }
}

}  // namespace
