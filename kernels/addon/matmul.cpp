// Matrix products, and the 2:4 form of weights.

#include "bindings.h"
#include "check.h"

namespace maskserve {

namespace {

constexpr auto kRead = Access::kRead;
constexpr auto kWrite = Access::kWrite;

void MultipleOf8(const Call& call, int64_t k) {
  if (k % 8 != 0) call.Fail(CallError::kRange, "expected k to be a multiple of 8 but received " + std::to_string(k));
}

napi_value Matmul(Call& call) {
  const int64_t tokens = call.Count(3, "tokens"), n = call.Count(4, "n"), k = call.Count(5, "k");
  const int64_t y_bytes = Product(tokens, n, 4), x_bytes = Product(tokens, k, 4), w_bytes = Product(n, k, 2);
  auto* y = call.Data<float>(0, "y", kWrite, y_bytes, "T·N·4");
  const auto* x = call.Data<const float>(1, "x", kRead, x_bytes, "T·K·4");
  const auto* w = call.Data<const uint16_t>(2, "w", kRead, w_bytes, "N·K·2");
  call.Apart("y", y, y_bytes, "x", x, x_bytes);
  call.Apart("y", y, y_bytes, "w", w, w_bytes);
  call.Check(call.ops().matmul(call.context(), y, x, {MS_BF16, 0, w, nullptr}, tokens, n, k));
  return nullptr;
}

napi_value Matmul24(Call& call) {
  const int64_t tokens = call.Count(4, "tokens"), n = call.Count(5, "n"), k = call.Count(6, "k");
  MultipleOf8(call, k);
  const int64_t y_bytes = Product(tokens, n, 4), x_bytes = Product(tokens, k, 4);
  const int64_t values_bytes = Product(n, k), meta_bytes = Product(n, k / 8);
  auto* y = call.Data<float>(0, "y", kWrite, y_bytes, "T·N·4");
  const auto* x = call.Data<const float>(1, "x", kRead, x_bytes, "T·K·4");
  const auto* values = call.Data<const uint16_t>(2, "values", kRead, values_bytes, "N·K/2·2");
  const auto* meta = call.Data<const uint8_t>(3, "meta", kRead, meta_bytes, "N·K/8");
  call.Apart("y", y, y_bytes, "x", x, x_bytes);
  call.Apart("y", y, y_bytes, "values", values, values_bytes);
  call.Apart("y", y, y_bytes, "meta", meta, meta_bytes);
  call.Check(call.ops().matmul24(call.context(), y, x, {MS_BF16, 0, values, nullptr}, meta, tokens, n, k));
  return nullptr;
}

napi_value Compress24(Call& call) {
  const int64_t n = call.Count(3, "n"), k = call.Count(4, "k");
  MultipleOf8(call, k);
  const int64_t values_bytes = Product(n, k), w_bytes = Product(n, k, 2), meta_bytes = Product(n, k / 8);
  auto* values = call.Data<uint16_t>(0, "values", kWrite, values_bytes, "N·K/2·2");
  const auto* w = call.Data<const uint16_t>(1, "w", kRead, w_bytes, "N·K·2");
  const auto* meta = call.Data<const uint8_t>(2, "meta", kRead, meta_bytes, "N·K/8");
  call.Apart("values", values, values_bytes, "w", w, w_bytes);
  call.Apart("values", values, values_bytes, "meta", meta, meta_bytes);
  call.Check(call.ops().compress24(call.context(), values, {MS_BF16, 0, w, nullptr}, meta, n, k));
  return nullptr;
}

napi_value Select24(Call& call) {
  const int64_t n = call.Count(3, "n"), k = call.Count(4, "k");
  MultipleOf8(call, k);
  const int64_t w_bytes = Product(n, k, 2), meta_bytes = Product(n, k / 8);
  auto* out = call.Data<uint16_t>(0, "out", kWrite, w_bytes, "N·K·2");
  const auto* w = call.Data<const uint16_t>(1, "w", kRead, w_bytes, "N·K·2");
  const auto* meta = call.Data<const uint8_t>(2, "meta", kRead, meta_bytes, "N·K/8");
  if (out != w) call.Apart("out", out, w_bytes, "w", w, w_bytes);
  call.Apart("out", out, w_bytes, "meta", meta, meta_bytes);
  call.Check(call.ops().select24(call.context(), out, {MS_BF16, 0, w, nullptr}, meta, n, k));
  return nullptr;
}

}  // namespace

void ExportMatmul(napi_env env, napi_value exports) {
  const Export list[] = {
      {"matmul", Bind<Matmul, 6>},
      {"matmul24", Bind<Matmul24, 7>},
      {"compress24", Bind<Compress24, 5>},
      {"select24", Bind<Select24, 5>},
  };
  ExportAll(env, exports, list, sizeof(list) / sizeof(list[0]));
}

}  // namespace maskserve
