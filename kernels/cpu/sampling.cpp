#include "sampling.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <new>
#include <vector>

#include "context.h"

namespace maskserve {

namespace {

constexpr double kMinusInfinity = -std::numeric_limits<double>::infinity();
constexpr size_t kFirstSorted = 256;  // candidates put in order before more are needed for topP

struct Candidate {
  double weight;  // softmax numerator
  float logit;
  int32_t id;
};

// A total order, best first: so that neither the selection algorithm nor the library decides between equals.
bool Better(const Candidate& a, const Candidate& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
}

float Clean(float logit) {
  return std::isnan(logit) ? -std::numeric_limits<float>::infinity() : logit;
}

// eˣ for x ≤ 0, in plain fp64 arithmetic: the C library's exp has variants per CPU whose last bits may differ.
// x = n·ln 2 + r with ln 2 in two parts, then the Taylor series of eʳ to degree 13 (|r| ≤ 0.35: remainder below 2⁻⁵⁵).
double ExpNegative(double x) {
  if (!(x > -708.0)) return 0.0;
  const double magic = 6755399441055744.0;  // 1.5 · 2⁵²
  const double n = (x * 1.4426950408889634 + magic) - magic;
  const double r = (x - n * 0.693147180369123816490) - n * 1.90821492927058770002e-10;
  constexpr double kInverseFactorials[] = {
      1.0 / 6227020800, 1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880, 1.0 / 40320, 1.0 / 5040,
      1.0 / 720,        1.0 / 120,       1.0 / 24,       1.0 / 6,       0.5,          1.0,         1.0};
  double p = 0;
  for (const double c : kInverseFactorials) p = p * r + c;
  const uint64_t bits = static_cast<uint64_t>(static_cast<int64_t>(n) + 1023) << 52;
  double power;
  std::memcpy(&power, &bits, sizeof(power));
  return p * power;
}

int32_t Best(const float* logits, int64_t vocab) {
  int32_t best = 0;
  float largest = Clean(logits[0]);
  for (int64_t i = 1; i < vocab; ++i) {
    if (logits[i] > largest) {
      largest = logits[i];
      best = static_cast<int32_t>(i);
    }
  }
  return best;
}

// Puts the best `count` first, in order.
void SortBest(std::vector<Candidate>& candidates, size_t count) {
  const auto middle = candidates.begin() + static_cast<std::ptrdiff_t>(count);
  if (count < candidates.size()) std::nth_element(candidates.begin(), middle, candidates.end(), Better);
  std::sort(candidates.begin(), middle, Better);
}

// The smallest leading set whose weight reaches top_p of the whole; the candidates are cut to it.
void CutToMass(std::vector<Candidate>& candidates, double top_p) {
  double whole = 0;
  for (const Candidate& c : candidates) whole += c.weight;
  double mass = 0;
  size_t kept = 0;
  for (size_t sorted = std::min(kFirstSorted, candidates.size());; sorted = std::min(4 * sorted, candidates.size())) {
    SortBest(candidates, sorted);
    for (mass = 0, kept = 0; kept < sorted;) {
      mass += candidates[kept++].weight;
      if (mass >= top_p * whole) break;
    }
    if (mass >= top_p * whole || sorted == candidates.size()) break;
  }
  candidates.resize(kept);
}

// ln Σ exp(logits), less the largest logit, which is returned in `largest`. Minus infinity everywhere: ln V, as if all
// were equal.
double LogSum(const float* logits, int64_t vocab, double* largest) {
  const float top = Clean(logits[Best(logits, vocab)]);
  *largest = top;
  double sum = 0;
  for (int64_t i = 0; i < vocab; ++i) {
    const float logit = Clean(logits[i]);
    sum += logit == top ? 1.0 : ExpNegative(static_cast<double>(logit) - top);
  }
  return std::log(sum);
}

double Logprob(float logit, double largest, double log_sum) {
  const double cleaned = Clean(logit);
  return (cleaned == largest ? 0.0 : cleaned - largest) - log_sum;
}

}  // namespace

ms_status AddSparse(ms_context*, float* logits, const int32_t* ids, const float* deltas, int64_t count) {
  for (int64_t i = 0; i < count; ++i) logits[ids[i]] += deltas[i];
  return MS_OK;
}

ms_status Argmax(ms_context*, const float* logits, int64_t vocab, int32_t* token) {
  *token = Best(logits, vocab);
  return MS_OK;
}

ms_status Sample(ms_context* ctx, const float* logits, int64_t vocab, double temperature, int64_t top_k, double top_p,
                 double uniform, int32_t* token) {
  const int32_t best = Best(logits, vocab);
  const double largest = Clean(logits[best]);
  *token = best;
  if (temperature == 0 || top_k == 1 || std::isinf(largest)) return MS_OK;
  std::vector<Candidate> candidates;
  try {
    candidates.reserve(static_cast<size_t>(vocab));
  } catch (const std::bad_alloc&) {
    return FailMemory(ctx, static_cast<size_t>(vocab) * sizeof(Candidate));
  }
  for (int64_t i = 0; i < vocab; ++i) {
    const double weight = ExpNegative((static_cast<double>(Clean(logits[i])) - largest) / temperature);
    if (weight > 0) candidates.push_back({weight, logits[i], static_cast<int32_t>(i)});
  }
  if (top_k > 0 && static_cast<size_t>(top_k) < candidates.size()) {
    SortBest(candidates, static_cast<size_t>(top_k));
    candidates.resize(static_cast<size_t>(top_k));
  }
  if (top_p < 1) CutToMass(candidates, top_p);
  double total = 0;
  for (const Candidate& c : candidates) total += c.weight;
  // Rounding may leave the last weight unreached: the last candidate takes what is left.
  double left = uniform * total;
  size_t drawn = 0;
  while (drawn + 1 < candidates.size() && left >= candidates[drawn].weight) left -= candidates[drawn++].weight;
  *token = candidates[drawn].id;
  return MS_OK;
}

ms_status Logprobs(ms_context*, const float* logits, int64_t vocab, const int32_t* ids, double* out, int64_t count) {
  double largest;
  const double log_sum = LogSum(logits, vocab, &largest);
  for (int64_t i = 0; i < count; ++i) out[i] = Logprob(logits[ids[i]], largest, log_sum);
  return MS_OK;
}

ms_status TopLogprobs(ms_context* ctx, const float* logits, int64_t vocab, int32_t* ids, double* out, int64_t count) {
  if (count == 0) return MS_OK;
  std::vector<Candidate> best;  // a heap whose front is the worst kept so far
  try {
    best.reserve(static_cast<size_t>(count) + 1);
  } catch (const std::bad_alloc&) {
    return FailMemory(ctx, static_cast<size_t>(count) * sizeof(Candidate));
  }
  for (int64_t i = 0; i < vocab; ++i) {
    const Candidate candidate{0, Clean(logits[i]), static_cast<int32_t>(i)};
    if (best.size() == static_cast<size_t>(count) && !Better(candidate, best.front())) continue;
    best.push_back(candidate);
    std::push_heap(best.begin(), best.end(), Better);
    if (best.size() <= static_cast<size_t>(count)) continue;
    std::pop_heap(best.begin(), best.end(), Better);
    best.pop_back();
  }
  std::sort_heap(best.begin(), best.end(), Better);
  double largest;
  const double log_sum = LogSum(logits, vocab, &largest);
  for (int64_t i = 0; i < count; ++i) {
    ids[i] = best[static_cast<size_t>(i)].id;
    out[i] = Logprob(best[static_cast<size_t>(i)].logit, largest, log_sum);
  }
  return MS_OK;
}

}  // namespace maskserve
