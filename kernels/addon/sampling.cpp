// Ops over one row of logits.

#include "bindings.h"
#include "check.h"

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

napi_value AddSparse(Call& call) {
  const Row row = LogitsRow(call, Access::kWrite);
  const std::vector<int32_t> ids = call.Ids(3, row.vocab);
  const HostArray deltas = call.Array(4, "deltas", napi_float32_array);
  SameLength(call, ids.size(), deltas, "deltas");
  call.Check(call.ops().add_sparse(call.context(), row.logits, ids.data(), static_cast<const float*>(deltas.data),
                                   static_cast<int64_t>(ids.size())));
  return nullptr;
}

napi_value Argmax(Call& call) {
  const Row row = LogitsRow(call, Access::kRead);
  int32_t token = 0;
  call.Check(call.ops().argmax(call.context(), row.logits, row.vocab, &token));
  return Integer(call.env(), token);
}

// temperature 0 is the limit: the largest logit.
napi_value Sample(Call& call) {
  const Row row = LogitsRow(call, Access::kRead);
  const double temperature = call.Number(3, "temperature");
  const int64_t top_k = call.Index(4, "topK");
  const double top_p = call.Number(5, "topP"), uniform = call.Number(6, "uniform");
  if (temperature < 0) {
    call.Fail(CallError::kRange, "expected temperature of at least 0 but received " + std::to_string(temperature));
  }
  if (top_p <= 0 || top_p > 1) {
    call.Fail(CallError::kRange, "expected topP in (0, 1] but received " + std::to_string(top_p));
  }
  if (uniform < 0 || uniform >= 1) {
    call.Fail(CallError::kRange, "expected uniform in [0, 1) but received " + std::to_string(uniform));
  }
  int32_t token = 0;
  call.Check(call.ops().sample(call.context(), row.logits, row.vocab, temperature, top_k, top_p, uniform, &token));
  return Integer(call.env(), token);
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
      {"addSparse", Bind<AddSparse, 5>}, {"argmax", Bind<Argmax, 3>},           {"sample", Bind<Sample, 7>},
      {"logprobs", Bind<Logprobs, 5>},   {"topLogprobs", Bind<TopLogprobs, 5>},
  };
  ExportAll(env, exports, list, sizeof(list) / sizeof(list[0]));
}

}  // namespace maskserve
