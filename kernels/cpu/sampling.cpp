#include "sampling.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <new>
#include <vector>

#include "context.h"

namespace maskserve {

namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
constexpr int64_t kFirstSorted = 256;  // candidates put in order before more are needed for topP
constexpr int64_t kLanes = 16;

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
  return logit == logit ? logit : kMinusInfinity;
}

// eˣ for x ≤ 0 and for minus infinity, in plain fp64 arithmetic without branches: the C library's exp has variants per
// CPU whose last bits may differ, and this one runs in vector registers. x = n·ln 2 + r with ln 2 in two parts; eʳ by
// its Taylor series to degree 13 (|r| ≤ 0.35: remainder below 2⁻⁵⁵); 2ⁿ from the low bits of n + 1.5·2⁵². Below −708
// the result is 0.
double ExpNegative(double x) {
  const double bounded = x > -708.0 ? x : -708.0;
  const double magic = 6755399441055744.0;  // 1.5 · 2⁵²
  const double shifted = bounded * 1.4426950408889634 + magic;
  const double n = shifted - magic;
  const double r = (bounded - n * 0.693147180369123816490) - n * 1.90821492927058770002e-10;
  double p = 1.0 / 6227020800;
  p = p * r + 1.0 / 479001600;
  p = p * r + 1.0 / 39916800;
  p = p * r + 1.0 / 3628800;
  p = p * r + 1.0 / 362880;
  p = p * r + 1.0 / 40320;
  p = p * r + 1.0 / 5040;
  p = p * r + 1.0 / 720;
  p = p * r + 1.0 / 120;
  p = p * r + 1.0 / 24;
  p = p * r + 1.0 / 6;
  p = p * r + 0.5;
  p = p * r + 1.0;
  p = p * r + 1.0;
  uint64_t bits;
  std::memcpy(&bits, &shifted, sizeof(bits));
  bits = (bits + 1023) << 52;
  double power;
  std::memcpy(&power, &bits, sizeof(power));
  return x > -708.0 ? p * power : 0.0;
}

// Minus infinity when all are NaN. The lanes make it a vector loop; a maximum does not depend on its order.
float Largest(const float* logits, int64_t vocab) {
  float lanes[kLanes];
  for (float& lane : lanes) lane = kMinusInfinity;
  int64_t i = 0;
  for (; i + kLanes <= vocab; i += kLanes) {
    for (int64_t j = 0; j < kLanes; ++j) lanes[j] = logits[i + j] > lanes[j] ? logits[i + j] : lanes[j];
  }
  for (; i < vocab; ++i) lanes[0] = logits[i] > lanes[0] ? logits[i] : lanes[0];
  return *std::max_element(lanes, lanes + kLanes);
}

// The lowest id of the largest logit; 0 when none is above minus infinity.
int32_t Best(const float* logits, int64_t vocab, float largest) {
  const float* found = std::find(logits, logits + vocab, largest);
  return found == logits + vocab ? 0 : static_cast<int32_t>(found - logits);
}

// weights (V) = exp((logits − largest) / temperature).
void Weights(double* weights, const float* logits, int64_t vocab, double largest, double temperature) {
  for (int64_t i = 0; i < vocab; ++i) {
    weights[i] = ExpNegative((static_cast<double>(Clean(logits[i])) - largest) / temperature);
  }
}

// Puts the best `count` of [begin, end) first, in order.
void SortBest(Candidate* begin, Candidate* end, int64_t count) {
  if (count < end - begin) std::nth_element(begin, begin + count, end, Better);
  std::sort(begin, begin + count, Better);
}

// The end of the smallest leading set whose weight reaches top_p of the whole. What weighs less than an even share of
// the rest, (1 − top_p) · whole / n, can't be needed: all such together weigh less than the rest.
Candidate* CutToMass(Candidate* begin, Candidate* end, double top_p) {
  double whole = 0;
  for (const Candidate* c = begin; c != end; ++c) whole += c->weight;
  const double least = (1 - top_p) * whole / static_cast<double>(end - begin);
  end = std::remove_if(begin, end, [least](const Candidate& c) { return c.weight < least; });
  const int64_t count = end - begin;
  for (int64_t sorted = std::min(kFirstSorted, count);; sorted = std::min(4 * sorted, count)) {
    SortBest(begin, end, sorted);
    double mass = 0;
    for (Candidate* c = begin; c != begin + sorted; ++c) {
      mass += c->weight;
      if (mass >= top_p * whole) return c + 1;
    }
    if (sorted == count) return end;
  }
}

// Inverse cdf over [begin, end). Rounding may leave the last weight unreached: the last candidate takes what is left.
int32_t Draw(const Candidate* begin, const Candidate* end, double uniform) {
  double total = 0;
  for (const Candidate* c = begin; c != end; ++c) total += c->weight;
  double left = uniform * total;
  for (; begin + 1 < end && left >= begin->weight; ++begin) left -= begin->weight;
  return begin->id;
}

// ln Σ exp(logits − largest).
double LogSum(const float* logits, int64_t vocab, double largest) {
  constexpr int64_t kPart = 512;
  double weights[kPart], sum = 0;
  for (int64_t i = 0; i < vocab; i += kPart) {
    const int64_t n = std::min(kPart, vocab - i);
    Weights(weights, logits + i, n, largest, 1.0);
    for (int64_t j = 0; j < n; ++j) sum += weights[j];
  }
  return std::log(sum);
}

// ln of a token's probability. A row without a finite maximum is uniform over its largest logits: infinity less itself
// counts as 0.
double Logprob(float logit, double largest, double log_sum) {
  const double cleaned = Clean(logit);
  return (cleaned == largest ? 0.0 : cleaned - largest) - log_sum;
}

struct Row {
  double largest, log_sum;
};

Row Normalise(const float* logits, int64_t vocab) {
  const float largest = Largest(logits, vocab);
  if (!std::isinf(largest)) return {largest, LogSum(logits, vocab, largest)};
  int64_t equal = 0;
  for (int64_t i = 0; i < vocab; ++i) equal += Clean(logits[i]) == largest;
  return {largest, std::log(static_cast<double>(equal))};
}

// A row of logits with a draw's deltas, for as long as this lives.
class Adjusted {
 public:
  Adjusted(float* logits, const ms_draw& draw) : logits_(logits), draw_(draw) {
    if (draw.count == 0) return;
    before_.reset(new (std::nothrow) float[static_cast<size_t>(draw.count)]);
    if (!done()) return;
    for (int64_t i = 0; i < draw.count; ++i) {
      float& logit = logits[draw.ids[i]];
      before_[i] = logit;
      logit += draw.deltas[i];
    }
  }
  ~Adjusted() {
    if (!done()) return;
    for (int64_t i = 0; i < draw_.count; ++i) logits_[draw_.ids[i]] = before_[i];
  }
  Adjusted(const Adjusted&) = delete;
  Adjusted& operator=(const Adjusted&) = delete;

  // False: memory is short, and nothing was added.
  bool done() const { return draw_.count == 0 || before_ != nullptr; }

 private:
  float* logits_;
  const ms_draw& draw_;
  std::unique_ptr<float[]> before_;
};

ms_status Choose(ms_context* ctx, const float* logits, const ms_draw& draw, int64_t vocab, int32_t* token) {
  const float largest = Largest(logits, vocab);
  *token = Best(logits, vocab, largest);
  if (draw.temperature == 0 || draw.top_k == 1 || std::isinf(largest)) return MS_OK;
  const size_t bytes = static_cast<size_t>(vocab) * (sizeof(Candidate) + sizeof(double));
  auto* begin = static_cast<Candidate*>(Scratch(ctx, bytes));
  if (begin == nullptr) return FailMemory(ctx, bytes);
  auto* weights = reinterpret_cast<double*>(begin + vocab);
  Weights(weights, logits, vocab, largest, draw.temperature);
  Candidate* end = begin;
  for (int64_t i = 0; i < vocab; ++i) {
    if (weights[i] > 0) *end++ = {weights[i], logits[i], static_cast<int32_t>(i)};
  }
  if (draw.top_k > 0 && draw.top_k < end - begin) {
    SortBest(begin, end, draw.top_k);
    end = begin + draw.top_k;
  }
  if (draw.top_p < 1) end = CutToMass(begin, end, draw.top_p);
  *token = Draw(begin, end, draw.uniform);
  return MS_OK;
}

}  // namespace

ms_status Argmax(ms_context*, const float* logits, int64_t vocab, int32_t* token) {
  *token = Best(logits, vocab, Largest(logits, vocab));
  return MS_OK;
}

ms_status Sample(ms_context* ctx, float* logits, const ms_draw* draws, int64_t rows, int64_t vocab, int32_t* tokens) {
  for (int64_t r = 0; r < rows; ++r) {
    const Adjusted row(logits + r * vocab, draws[r]);
    if (!row.done()) return FailMemory(ctx, static_cast<size_t>(draws[r].count) * sizeof(float));
    const ms_status status = Choose(ctx, logits + r * vocab, draws[r], vocab, tokens + r);
    if (status != MS_OK) return status;
  }
  return MS_OK;
}

ms_status Logprobs(ms_context*, const float* logits, int64_t vocab, const int32_t* ids, double* out, int64_t count) {
  const Row row = Normalise(logits, vocab);
  for (int64_t i = 0; i < count; ++i) out[i] = Logprob(logits[ids[i]], row.largest, row.log_sum);
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
  const Row row = Normalise(logits, vocab);
  for (int64_t i = 0; i < count; ++i) {
    ids[i] = best[static_cast<size_t>(i)].id;
    out[i] = Logprob(best[static_cast<size_t>(i)].logit, row.largest, row.log_sum);
  }
  return MS_OK;
}

}  // namespace maskserve
