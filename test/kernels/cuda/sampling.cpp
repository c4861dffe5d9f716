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

int32_t OnCpu(const float* logits, int64_t vocab, const SampleRow& p) {
  int32_t token = -1;
  cpu->ops.sample(context, logits, vocab, p.temperature, p.top_k, p.top_p, p.uniform, &token);
  return token;
}

CASE(Samples, "sampled tokens are the CPU's for every cut, with ties, infinities and NaN") {
  Random random{51};
  for (const int64_t vocab : {int64_t{1}, int64_t{9}, int64_t{300}, int64_t{3000}}) {
    for (const bool wild : {false, true}) {
      const int64_t rows = 12;
      std::vector<float> logits;
      std::vector<SampleRow> params;
      for (int64_t r = 0; r < rows; ++r) {
        const std::vector<float> row = Logits(random, vocab, wild);
        logits.insert(logits.end(), row.begin(), row.end());
        const double temperatures[] = {0, 0.01, 0.7, 1, 5, 1e-300}, tops[] = {1, 0.9, 0.3, 0};
        params.push_back({temperatures[random.Below(6)], tops[random.Below(4)],
                          static_cast<double>(random.Next()) / 4294967296.0, random.OneIn(2) ? 0 : random.Below(40)});
      }
      std::vector<int32_t> tokens(rows);
      std::vector<uint64_t> workspace(sample_workspace(rows, vocab) / sizeof(uint64_t));
      sample(tokens.data(), logits.data(), params.data(), rows, vocab, workspace.data(), nullptr);
      for (int64_t r = 0; r < rows; ++r) {
        const SampleRow& p = params[static_cast<size_t>(r)];
        const int32_t expected = OnCpu(logits.data() + r * vocab, vocab, p);
        if (tokens[static_cast<size_t>(r)] != expected) {
          std::fprintf(stderr, "temperature %g, top_p %g, top_k %lld, uniform %g: ", p.temperature, p.top_p,
                       static_cast<long long>(p.top_k), p.uniform);
        }
        Expect(tokens[static_cast<size_t>(r)] == expected, "sample", vocab, tokens[static_cast<size_t>(r)], expected);
      }
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
  const std::vector<float> logits = Logits(random, vocab, false);
  std::vector<uint64_t> workspace(sample_workspace(1, vocab) / sizeof(uint64_t));
  for (const double uniform : {0.0, 1 - 0x1p-53}) {
    for (const double top_p : {1.0, 0.8}) {
      const SampleRow p = {1, top_p, uniform, 0};
      int32_t token = -1;
      sample(&token, logits.data(), &p, 1, vocab, workspace.data(), nullptr);
      const int32_t expected = OnCpu(logits.data(), vocab, p);
      Expect(token == expected, "sample", token, expected);
    }
  }
}

CASE(Logprobs, "log-probabilities, the best ones and biases are the CPU's") {
  Random random{53};
  for (const bool wild : {false, true}) {
    const int64_t vocab = 700, count = 20;
    std::vector<float> logits = Logits(random, vocab, wild), host = logits;
    std::vector<int32_t> ids;
    for (int64_t i = 0; i < count; ++i) ids.push_back(static_cast<int32_t>(random.Below(vocab / 40)));
    const std::vector<float> deltas = Floats(random, count);
    add_sparse(logits.data(), ids.data(), deltas.data(), count, nullptr);
    cpu->ops.add_sparse(context, host.data(), ids.data(), deltas.data(), count);
    ExpectSame(logits, host, "add_sparse");
    std::vector<double> out(count), expected(count);
    std::vector<int32_t> best(count), best_cpu(count);
    const auto compare = [&](const char* what) {
      for (size_t i = 0; i < out.size(); ++i) {
        Expect(out[i] == expected[i] || std::fabs(out[i] - expected[i]) < 1e-12, what, static_cast<int64_t>(i));
      }
    };
    logprobs(out.data(), ids.data(), logits.data(), vocab, count, nullptr);
    cpu->ops.logprobs(context, host.data(), vocab, ids.data(), expected.data(), count);
    compare("logprobs");
    top_logprobs(best.data(), out.data(), logits.data(), vocab, count, nullptr);
    cpu->ops.top_logprobs(context, host.data(), vocab, best_cpu.data(), expected.data(), count);
    ExpectSame(best, best_cpu, "the best tokens");
    compare("top_logprobs");
  }
}

}  // namespace
