// One-shot masks: magnitude and Wanda scores, the statistics they need, SparseGPT.

#include "bindings.h"
#include "check.h"

namespace maskserve {

namespace {

constexpr auto kRead = Access::kRead;
constexpr auto kWrite = Access::kWrite;
constexpr auto kOptional = Presence::kOptional;

void MultipleOf8(const Call& call, int64_t k) {
  if (k % 8 != 0) call.Fail(CallError::kRange, "expected k to be a multiple of 8 but received " + std::to_string(k));
}

napi_value ScoreMask24(Call& call) {
  const int64_t n = call.Count(3, "n"), k = call.Count(4, "k");
  MultipleOf8(call, k);
  auto* meta = call.Data<uint8_t>(0, "meta", kWrite, Product(n, k / 8), "N·K/8");
  const auto* w = call.Data<const uint16_t>(1, "w", kRead, Product(n, k, 2), "N·K·2");
  const auto* scale = call.Data<const float>(2, "scale", kRead, Product(k, 4), "K·4", alignof(float), kOptional);
  call.Apart("meta", meta, n * (k / 8), "w", w, n * k * 2);
  call.Apart("meta", meta, n * (k / 8), "scale", scale, k * 4);
  call.Check(call.ops().score_mask24(call.context(), meta, {MS_BF16, 0, w, nullptr}, scale, n, k));
  return nullptr;
}

napi_value SumSquares(Call& call) {
  const int64_t tokens = call.Count(2, "tokens"), k = call.Count(3, "k");
  auto* sums = call.Data<double>(0, "sums", kWrite, Product(k, 8), "K·8");
  const auto* x = call.Data<const float>(1, "x", kRead, Product(tokens, k, 4), "T·K·4");
  call.Apart("sums", sums, k * 8, "x", x, tokens * k * 4);
  call.Check(call.ops().sum_squares(call.context(), sums, x, tokens, k));
  return nullptr;
}

napi_value Gram(Call& call) {
  const int64_t tokens = call.Count(2, "tokens"), k = call.Count(3, "k");
  auto* gram = call.Data<double>(0, "gram", kWrite, Product(k, k, 8), "K·K·8");
  const auto* x = call.Data<const float>(1, "x", kRead, Product(tokens, k, 4), "T·K·4");
  call.Apart("gram", gram, k * k * 8, "x", x, tokens * k * 4);
  call.Check(call.ops().gram(call.context(), gram, x, tokens, k));
  return nullptr;
}

napi_value SparseGpt24(Call& call) {
  const int64_t tokens = call.Count(4, "tokens"), n = call.Count(5, "n"), k = call.Count(6, "k");
  const double damp = call.Number(7, "damp");
  MultipleOf8(call, k);
  if (damp < 0) call.Fail(CallError::kRange, "expected damp of at least 0 but received " + std::to_string(damp));
  const int64_t meta_bytes = Product(n, k / 8), w_bytes = Product(n, k, 2), gram_bytes = Product(k, k, 8);
  auto* meta = call.Data<uint8_t>(0, "meta", kWrite, meta_bytes, "N·K/8");
  auto* updated = call.Data<uint16_t>(1, "updated", kWrite, w_bytes, "N·K·2", alignof(uint16_t), kOptional);
  const auto* w = call.Data<const uint16_t>(2, "w", kRead, w_bytes, "N·K·2");
  const auto* gram = call.Data<const double>(3, "gram", kRead, gram_bytes, "K·K·8");
  call.Apart("meta", meta, meta_bytes, "w", w, w_bytes);
  call.Apart("meta", meta, meta_bytes, "gram", gram, gram_bytes);
  call.Apart("meta", meta, meta_bytes, "updated", updated, w_bytes);
  if (updated != w) call.Apart("updated", updated, w_bytes, "w", w, w_bytes);
  call.Apart("updated", updated, w_bytes, "gram", gram, gram_bytes);
  call.Check(call.ops().sparsegpt24(call.context(), meta, updated, {MS_BF16, 0, w, nullptr}, gram, tokens, n, k, damp));
  return nullptr;
}

}  // namespace

void ExportPrune(napi_env env, napi_value exports) {
  const Export list[] = {
      {"scoreMask24", Bind<ScoreMask24, 5>},
      {"sumSquares", Bind<SumSquares, 4>},
      {"gram", Bind<Gram, 4>},
      {"sparsegpt24", Bind<SparseGpt24, 8>},
  };
  ExportAll(env, exports, list, sizeof(list) / sizeof(list[0]));
}

}  // namespace maskserve
