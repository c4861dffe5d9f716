// Ops over rows of logits.

#include <algorithm>

#include "bindings.h"
#include "check.h"
#include "draws.h"

namespace maskserve {

namespace {

struct Row {
  float* logits;  // (V)
  int64_t vocab;
};

// Arguments 0 to 2: logits, row, vocab.
Row LogitsRow(Call& call, Access access) {
  const int64_t row = call.Index(1, "row"), vocab = call.Count(2, "vocab");
  call.AtMost("vocab", vocab, "2³¹ − 1", INT32_MAX);
  // Reading casts the const away and gives it back: the ops that read take const float*.
  auto* logits = call.Data<float>(0, "logits", access, Product(row + 1, vocab, 4), "(row + 1)·V·4");
  return {logits + row * vocab, vocab};
}

void SameLength(Call& call, size_t ids, const HostArray& other, const char* name) {
  if (ids == other.length) return;
  call.Fail(CallError::kRange, std::string("expected ") + name + " as long as ids = " + std::to_string(ids) +
                                   " but received " + std::to_string(other.length));
}

napi_value Integer(napi_env env, int32_t value) {
  napi_value number;
  napi_create_int32(env, value, &number);
  return number;
}

napi_value Argmax(Call& call) {
  const Row row = LogitsRow(call, Access::kRead);
  int32_t token = 0;
  call.Check(call.ops().argmax(call.context(), row.logits, row.vocab, &token));
  return Integer(call.env(), token);
}

// Draws with their deltas: ids (counts[r] of row r, one after the other) and deltas.
void AddDeltas(Call& call, std::vector<ms_draw>& draws, const std::vector<int32_t>& counts,
               const std::vector<int32_t>& ids, const float* deltas) {
  int64_t first = 0;
  std::vector<int32_t> sorted;
  for (size_t r = 0; r < draws.size(); ++r) {
    const int64_t count = counts[r], left = static_cast<int64_t>(ids.size()) - first;
    call.AtMost("counts", count, "the ids that are left", left);
    sorted.assign(ids.begin() + first, ids.begin() + first + count);
    std::sort(sorted.begin(), sorted.end());
    const auto twice = std::adjacent_find(sorted.begin(), sorted.end());
    call.Require(twice == sorted.end(), "ids", "to name a token once a row", twice == sorted.end() ? 0 : *twice);
    draws[r].ids = ids.data() + first;
    draws[r].deltas = deltas + first;
    draws[r].count = count;
    first += count;
  }
  call.Require(first == static_cast<int64_t>(ids.size()), "ids", "to be as many as counts say", double(ids.size()));
}

// logits, vocab, settings, counts, ids, deltas, tokens: a row for each of tokens.
napi_value Sample(Call& call) {
  const int64_t vocab = call.Count(1, "vocab");
  call.AtMost("vocab", vocab, "2³¹ − 1", INT32_MAX);
  const HostArray tokens = call.Array(6, "tokens", napi_int32_array);
  const int64_t rows = static_cast<int64_t>(tokens.length);
  const std::vector<int32_t> counts = call.Counts(3, "counts", 0);
  call.Require(rows > 0 && static_cast<int64_t>(counts.size()) == rows, "counts", "one at least, as many as tokens",
               static_cast<double>(counts.size()));
  auto* logits = call.Data<float>(0, "logits", Access::kWrite, Product(rows, vocab, 4), "tokens.length·V·4");
  std::vector<ms_draw> draws = Draws(call, 2, rows);
  const std::vector<int32_t> ids = call.Ids(4, vocab);
  const HostArray deltas = call.Array(5, "deltas", napi_float32_array);
  SameLength(call, ids.size(), deltas, "deltas");
  AddDeltas(call, draws, counts, ids, static_cast<const float*>(deltas.data));
  call.Check(call.ops().sample(call.context(), logits, draws.data(), rows, vocab, static_cast<int32_t*>(tokens.data)));
  return nullptr;
}

napi_value Logprobs(Call& call) {
  const Row row = LogitsRow(call, Access::kRead);
  const std::vector<int32_t> ids = call.Ids(3, row.vocab);
  const HostArray out = call.Array(4, "out", napi_float64_array);
  SameLength(call, ids.size(), out, "out");
  call.Check(call.ops().logprobs(call.context(), row.logits, row.vocab, ids.data(), static_cast<double*>(out.data),
                                 static_cast<int64_t>(ids.size())));
  return nullptr;
}

napi_value TopLogprobs(Call& call) {
  const Row row = LogitsRow(call, Access::kRead);
  const HostArray ids = call.Array(3, "ids", napi_int32_array), out = call.Array(4, "out", napi_float64_array);
  SameLength(call, ids.length, out, "out");
  call.AtMost("ids.length", static_cast<int64_t>(ids.length), "vocab", row.vocab);
  call.Check(call.ops().top_logprobs(call.context(), row.logits, row.vocab, static_cast<int32_t*>(ids.data),
                                     static_cast<double*>(out.data), static_cast<int64_t>(ids.length)));
  return nullptr;
}

}  // namespace

void ExportSampling(napi_env env, napi_value exports) {
  const Export list[] = {
      {"argmax", Bind<Argmax, 3>},
      {"sample", Bind<Sample, 7>},
      {"logprobs", Bind<Logprobs, 5>},
      {"topLogprobs", Bind<TopLogprobs, 5>},
  };
  ExportAll(env, exports, list, sizeof(list) / sizeof(list[0]));
}

}  // namespace maskserve
