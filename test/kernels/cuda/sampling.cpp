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
      argmax(tokens.data(), logits.data(), rows, vocab, workspace.data(), nullptr);
      for (int64_t r = 0; r < rows; ++r) {
        int32_t expected = -1;
        cpu->ops.argmax(context, logits.data() + r * vocab, vocab, &expected);
        Expect(tokens[static_cast<size_t>(r)] == expected, "argmax", vocab, tokens[static_cast<size_t>(r)], expected);
      }
    }
  }
}

void ExpectTokens(std::vector<float> logits, const std::vector<ms_draw>& draws, int64_t vocab, const char* what) {
  const auto rows = static_cast<int64_t>(draws.size());
  const std::vector<float> before = logits;
  std::vector<int32_t> tokens(draws.size());
  std::vector<uint64_t> workspace = Workspace(rows, vocab);
  sample(tokens.data(), logits.data(), draws.data(), rows, vocab, workspace.data(), nullptr);
  ExpectSame(logits, before, what, vocab);
  for (size_t r = 0; r < draws.size(); ++r) {
    const int32_t expected = OnCpu(logits.data() + static_cast<int64_t>(r) * vocab, vocab, draws[r]);
    Expect(tokens[r] == expected, what, vocab * 100 + static_cast<int64_t>(r), tokens[r], expected);
  }
}
std::vector<float> Repeated(const std::vector<float>& row, size_t times) {
  std::vector<float> rows;
  for (size_t i = 0; i < times; ++i) rows.insert(rows.end(), row.begin(), row.end());
  return rows;
}

CASE(Lengths, "rows of a token, a few, and of whole vocabularies are drawn from as on the CPU") {
  Random random{54};
  for (const int64_t vocab :
       {int64_t{1}, int64_t{7}, int64_t{1000}, int64_t{1024}, int64_t{1025}, int64_t{128256}, kMostSampled}) {
    // The CPU's sums of so many in fp64 are not exact: the very last number of a draw is not theirs.
    const double last = vocab < 10000 ? 1 - 0x1p-53 : 1 - 0x1p-30;
    std::vector<ms_draw> draws = {{1, 1, 0.37, 0, nullptr, nullptr, 0},
                                  {0.8, 0.95, 0.61, 50, nullptr, nullptr, 0},
                                  {3, 0.9, last, 0, nullptr, nullptr, 0},
                                  {1, 1e-9, 0.5, 0, nullptr, nullptr, 0},
                                  {1, 1, last, 2 * vocab, nullptr, nullptr, 0}};
    if (vocab < kMostSampled) draws.push_back({2, 1, last, vocab - 1, nullptr, nullptr, 0});
    std::vector<float> logits;
    for (size_t r = 0; r < draws.size(); ++r) {
      const std::vector<float> row = Logits(random, vocab, false);
      logits.insert(logits.end(), row.begin(), row.end());
    }
    ExpectTokens(logits, draws, vocab, "a row's token");
  }
}

CASE(Equals, "equal logits, in many runs of ids, are drawn in the order of ids, however far a cut reaches") {
  const int64_t vocab = 2100;
  const double last = 1 - 0x1p-53;
  std::vector<ms_draw> draws;
  for (const int64_t top_k : {int64_t{0}, int64_t{2}, int64_t{1024}, vocab - 1}) {
    for (const double top_p : {1.0, 0.6, 1e-12}) {
      draws.push_back({1, top_p, top_p < 1 ? 0.777 : last, top_k, nullptr, nullptr, 0});
    }
  }
  std::vector<float> row(static_cast<size_t>(vocab), -3.5f);
  ExpectTokens(Repeated(row, draws.size()), draws, vocab, "one logit");
  for (size_t i = 0; i < row.size(); ++i) row[i] = i % 3 == 0 ? 0.0f : i % 3 == 1 ? -0.0f : -0.01f;
  ExpectTokens(Repeated(row, draws.size()), draws, vocab, "two logits");
  // Many of a bin, and a few of it beside each other's bits.
  for (size_t i = 0; i < row.size(); ++i) row[i] = 1 + static_cast<float>(i * 7919 % 2100) * 0x1p-23f;
  ExpectTokens(Repeated(row, draws.size()), draws, vocab, "neighbouring logits");
}

CASE(Cold, "at a low temperature the cut to the best counts what has no weight, as on the CPU, and puts in order") {
  Random random{55};
  const int64_t vocab = 2500;
  std::vector<float> logits;
  std::vector<ms_draw> draws;
  for (int64_t r = 0; r < 24; ++r) {
    for (int64_t i = 0; i < vocab; ++i) logits.push_back(4 * UniformFloat(random));
    const int64_t first = r * vocab;
    logits[static_cast<size_t>(first + 2000)] = 5.01f;
    logits[static_cast<size_t>(first + 3)] = 5;
    logits[static_cast<size_t>(first + 1500)] = 5.005f;
    draws.push_back(
        {0.01, 1, static_cast<double>(random.Next()) / 4294967296.0, 10 + random.Below(900), nullptr, nullptr, 0});
  }
  ExpectTokens(logits, draws, vocab, "a cold draw");
}

CASE(Settled, "rows of NaN, of infinities and of the ends of floats give the CPU's tokens") {
  const float most = 3.4e38f;
  const std::vector<std::vector<float>> patterns = {{NAN},
                                                    {-INFINITY},
                                                    {NAN, -INFINITY},
                                                    {1, INFINITY, NAN, INFINITY},
                                                    {most, -most, NAN, most / 2},
                                                    {-most, -INFINITY}};
  for (const auto& pattern : patterns) {
    for (const int64_t vocab : {int64_t{4}, int64_t{1030}}) {
      std::vector<float> row;
      for (int64_t i = 0; i < vocab; ++i) row.push_back(pattern[static_cast<size_t>(i) % pattern.size()]);
      std::vector<ms_draw> draws;
      for (const double temperature : {0.0, 1.0, 1e38, 5e-324, 1e308}) {
        draws.push_back({temperature, 1, 0.7, 0, nullptr, nullptr, 0});
        draws.push_back({temperature, 0.9, 0.99, 3, nullptr, nullptr, 0});
      }
      ExpectTokens(Repeated(row, draws.size()), draws, vocab, "a row of few values");
    }
  }
}

CASE(Deltas, "deltas reach their logits in any run, for their own row alone") {
  Random random{56};
  const int64_t vocab = 3001;
  std::vector<int32_t> ids;
  std::vector<float> deltas;
  for (int32_t id = 0; id < vocab; id += 1 + static_cast<int32_t>(random.Below(3))) {
    ids.push_back(id);
    deltas.push_back(random.OneIn(3) ? -INFINITY : 5 * UniformFloat(random));
  }
  std::vector<float> logits;
  std::vector<ms_draw> draws;
  for (int64_t r = 0; r < 9; ++r) {
    const std::vector<float> row = Logits(random, vocab, false);
    logits.insert(logits.end(), row.begin(), row.end());
    draws.push_back({r % 3 == 0 ? 0.0 : 0.9, r % 2 == 0 ? 1 : 0.9, 0.1 * static_cast<double>(r), 0, ids.data(),
                     deltas.data(), r % 4 == 3 ? 0 : static_cast<int64_t>(ids.size()) - r});
  }
  ExpectTokens(logits, draws, vocab, "a biased draw");
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
