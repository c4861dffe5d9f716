// Tokens chosen on the device are the CPU's.

#include "cases.h"

namespace {

using namespace maskserve::cuda;

// Logits of a language model's shape: few large ones, ties, infinities and NaN where `wild`.
std::vector<float> Logits(Random& random, int64_t vocab, bool wild) {
  std::vector<float> logits(static_cast<size_t>(vocab));
  for (float& x : logits) {
    x = 6 * (UniformFloat(random) + UniformFloat(random) + UniformFloat(random));
    if (random.OneIn(5)) x = std::floor(x);
    if (wild && random.OneIn(6)) x = random.OneIn(2) ? NAN : -INFINITY;
  }
  return logits;
}

int32_t OnCpu(float* logits, int64_t vocab, const ms_draw& draw) {
  int32_t token = -1;
  cpu->ops.sample(context, logits, &draw, 1, vocab, &token);
  return token;
}

std::vector<uint64_t> Workspace(int64_t rows, int64_t vocab) {
  return std::vector<uint64_t>(sample_workspace(rows, vocab) / sizeof(uint64_t));
}

CASE(Samples, "a batch's tokens are the CPU's for every cut and bias, with ties, infinities and NaN; logits stay") {
  Random random{51};
  const int32_t ids[] = {0, 7, 3, 5};
  const float deltas[] = {2, -30, 4, NAN};
  for (const int64_t vocab : {int64_t{1}, int64_t{9}, int64_t{300}, int64_t{3000}}) {
    for (const bool wild : {false, true}) {
      const int64_t rows = 12;
      std::vector<float> logits;
      std::vector<ms_draw> draws;
      for (int64_t r = 0; r < rows; ++r) {
        const std::vector<float> row = Logits(random, vocab, wild);
        logits.insert(logits.end(), row.begin(), row.end());
        const double temperatures[] = {0, 0.01, 0.7, 1, 5, 1e-300}, tops[] = {1, 0.9, 0.3, 1e-9};
        draws.push_back({temperatures[random.Below(6)], tops[random.Below(4)],
                         static_cast<double>(random.Next()) / 4294967296.0, random.OneIn(2) ? 0 : random.Below(40), ids,
                         deltas, vocab < 9 ? 0 : random.Below(5)});
      }
      const std::vector<float> before = logits;
      std::vector<int32_t> tokens(rows);
      std::vector<uint64_t> workspace = Workspace(rows, vocab);
      sample(tokens.data(), logits.data(), draws.data(), rows, vocab, workspace.data(), nullptr);
      ExpectSame(logits, before, "logits", vocab);
      for (int64_t r = 0; r < rows; ++r) {
        const ms_draw& draw = draws[static_cast<size_t>(r)];
        const int32_t expected = OnCpu(logits.data() + r * vocab, vocab, draw);
        if (tokens[static_cast<size_t>(r)] != expected) {
          std::fprintf(stderr, "temperature %g, top_p %g, top_k %lld, uniform %g, %lld deltas: ", draw.temperature,
                       draw.top_p, static_cast<long long>(draw.top_k), draw.uniform,
                       static_cast<long long>(draw.count));
        }
        Expect(tokens[static_cast<size_t>(r)] == expected, "sample", vocab, tokens[static_cast<size_t>(r)], expected);
      }
      ExpectSame(logits, before, "logits on the CPU", vocab);
      argmax(tokens.data(), logits.data(), rows, vocab, nullptr);
      for (int64_t r = 0; r < rows; ++r) {
        int32_t expected = -1;
        cpu->ops.argmax(context, logits.data() + r * vocab, vocab, &expected);
        Expect(tokens[static_cast<size_t>(r)] == expected, "argmax", vocab, tokens[static_cast<size_t>(r)], expected);
      }
    }
  }
}

CASE(Ends, "the first and the last number of a draw choose the first and the last candidate") {
  Random random{52};
  const int64_t vocab = 500;
  std::vector<float> logits = Logits(random, vocab, false);
  std::vector<uint64_t> workspace = Workspace(1, vocab);
  for (const double uniform : {0.0, 1 - 0x1p-53}) {
    for (const double top_p : {1.0, 0.8}) {
      const ms_draw draw = {1, top_p, uniform, 0, nullptr, nullptr, 0};
      int32_t token = -1;
      sample(&token, logits.data(), &draw, 1, vocab, workspace.data(), nullptr);
      const int32_t expected = OnCpu(logits.data(), vocab, draw);
      Expect(token == expected, "sample", token, expected);
    }
  }
}

CASE(Logprobs, "log-probabilities and the best ones are the CPU's") {
  Random random{53};
  for (const bool wild : {false, true}) {
    const int64_t vocab = 700, count = 20;
    const std::vector<float> logits = Logits(random, vocab, wild);
    std::vector<int32_t> ids;
    for (int64_t i = 0; i < count; ++i) ids.push_back(static_cast<int32_t>(random.Below(vocab / 40)));
    std::vector<double> out(count), expected(count);
    std::vector<int32_t> best(count), best_cpu(count);
    const auto compare = [&](const char* what) {
      for (size_t i = 0; i < out.size(); ++i) {
        Expect(out[i] == expected[i] || std::fabs(out[i] - expected[i]) < 1e-12, what, static_cast<int64_t>(i));
      }
    };
    logprobs(out.data(), ids.data(), logits.data(), vocab, count, nullptr);
    cpu->ops.logprobs(context, logits.data(), vocab, ids.data(), expected.data(), count);
    compare("logprobs");
    top_logprobs(best.data(), out.data(), logits.data(), vocab, count, nullptr);
    cpu->ops.top_logprobs(context, logits.data(), vocab, best_cpu.data(), expected.data(), count);
    ExpectSame(best, best_cpu, "the best tokens");
    compare("top_logprobs");
  }
}

}  // namespace
