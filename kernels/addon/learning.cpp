// What training learns: soft masks and their logits, masks from scores, masked fp32 weights, AdamW.

#include "bindings.h"
#include "check.h"

namespace maskserve {

namespace {

constexpr auto kRead = Access::kRead;
constexpr auto kWrite = Access::kWrite;
constexpr auto kOptional = Presence::kOptional;

void MultipleOf8(const Call& call, int64_t k) {
  call.Require(k % 8 == 0, "k", "to be a multiple of 8", static_cast<double>(k));
}

napi_value Double(const Call& call, double value) {
  napi_value number;
  napi_create_double(call.env(), value, &number);
  return number;
}

struct Gumbel {
  ms_gumbel settings;
  int64_t weights, logits_bytes;  // elements of w; bytes of (groups, P)
};

// n, m, groups, scale, temperature, seed, step, tensor from argument `at` on.
Gumbel ReadGumbel(Call& call, size_t at) {
  ms_gumbel s;
  s.n = call.Count(at, "n");
  s.m = call.Count(at + 1, "m");
  s.groups = call.Count(at + 2, "groups");
  s.scale = call.Number(at + 3, "scale");
  s.temperature = call.Number(at + 4, "temperature");
  s.seed = static_cast<uint64_t>(call.Index(at + 5, "seed"));
  const int64_t step = call.Index(at + 6, "step"), tensor = call.Index(at + 7, "tensor");
  const int64_t patterns = s.n == 1 && s.m == 4 ? 4 : s.n == 2 && s.m == 4 ? 6 : s.n == 4 && s.m == 8 ? 70 : 0;
  if (patterns == 0) {
    call.Fail(CallError::kRange,
              "expected n:m to be 1:4, 2:4 or 4:8 but received " + std::to_string(s.n) + ":" + std::to_string(s.m));
  }
  call.Require(s.temperature > 0, "temperature", "above 0", s.temperature);
  call.AtMost("step", step, "2³² − 1", UINT32_MAX);
  call.AtMost("tensor", tensor, "2³² − 1", UINT32_MAX);
  s.step = static_cast<uint32_t>(step);
  s.tensor = static_cast<uint32_t>(tensor);
  return {s, Product(s.groups, s.m), Product(s.groups, patterns, 4)};
}

napi_value GumbelMask(Call& call) {
  const std::string type = call.Text(1, "type");
  if (type != "bf16" && type != "f32") {
    call.Fail(CallError::kRange, "expected type to be 'bf16' or 'f32' but received '" + type + "'");
  }
  const Gumbel g = ReadGumbel(call, 5);
  const bool wide = type == "f32";
  const int64_t out_bytes = Product(g.weights, wide ? 4 : 2), w_bytes = Product(g.weights, 2);
  auto* out = call.Data<void>(0, "out", kWrite, out_bytes, wide ? "groups·m·4" : "groups·m·2", wide ? 4 : 2);
  const auto* w = call.Data<const uint16_t>(2, "w", kRead, w_bytes, "groups·m·2");
  const auto* logits = call.Data<const float>(3, "logits", kRead, g.logits_bytes, "groups·P·4");
  const auto* noise =
      call.Data<const float>(4, "noise", kRead, g.logits_bytes, "groups·P·4", alignof(float), kOptional);
  call.Apart("out", out, out_bytes, "w", w, w_bytes);
  call.Apart("out", out, out_bytes, "logits", logits, g.logits_bytes);
  call.Apart("out", out, out_bytes, "noise", noise, g.logits_bytes);
  double squares = 0;
  call.Check(call.ops().gumbel_mask(call.context(), out, wide ? MS_F32 : MS_BF16, {MS_BF16, 0, w, nullptr}, logits,
                                    noise, g.settings, &squares));
  return Double(call, squares);
}

napi_value GumbelMaskBackward(Call& call) {
  const Gumbel g = ReadGumbel(call, 5);
  const double regularisation = call.Number(13, "regularisation");
  const int64_t dw_bytes = Product(g.weights, 4), w_bytes = Product(g.weights, 2);
  auto* dlogits = call.Data<float>(0, "dlogits", kWrite, g.logits_bytes, "groups·P·4");
  const auto* dw = call.Data<const float>(1, "dw", kRead, dw_bytes, "groups·m·4");
  const auto* w = call.Data<const uint16_t>(2, "w", kRead, w_bytes, "groups·m·2");
  const auto* logits = call.Data<const float>(3, "logits", kRead, g.logits_bytes, "groups·P·4");
  const auto* noise =
      call.Data<const float>(4, "noise", kRead, g.logits_bytes, "groups·P·4", alignof(float), kOptional);
  call.Apart("dlogits", dlogits, g.logits_bytes, "dw", dw, dw_bytes);
  call.Apart("dlogits", dlogits, g.logits_bytes, "w", w, w_bytes);
  call.Apart("dlogits", dlogits, g.logits_bytes, "logits", logits, g.logits_bytes);
  call.Apart("dlogits", dlogits, g.logits_bytes, "noise", noise, g.logits_bytes);
  call.Check(call.ops().gumbel_mask_backward(call.context(), dlogits, dw, {MS_BF16, 0, w, nullptr}, logits, noise,
                                             g.settings, regularisation));
  return nullptr;
}

napi_value ArgmaxPatterns(Call& call) {
  const int64_t groups = call.Count(2, "groups"), patterns = call.Count(3, "patterns");
  call.AtMost("patterns", patterns, "the number of symbols", 255);
  const int64_t logits_bytes = Product(groups, patterns, 4);
  auto* symbols = call.Data<uint8_t>(0, "symbols", kWrite, groups, "groups");
  const auto* logits = call.Data<const float>(1, "logits", kRead, logits_bytes, "groups·P·4");
  call.Apart("symbols", symbols, groups, "logits", logits, logits_bytes);
  call.Check(call.ops().argmax_patterns(call.context(), symbols, logits, groups, patterns));
  return nullptr;
}

napi_value TopTwo(Call& call) {
  const int64_t groups = call.Count(2, "groups"), scores_bytes = Product(groups, 16);
  call.Require(groups % 2 == 0, "groups", "to be even", static_cast<double>(groups));
  auto* meta = call.Data<uint8_t>(0, "meta", kWrite, groups / 2, "groups/2");
  const auto* scores = call.Data<const float>(1, "scores", kRead, scores_bytes, "groups·4·4");
  call.Apart("meta", meta, groups / 2, "scores", scores, scores_bytes);
  call.Check(call.ops().top_two(call.context(), meta, scores, groups));
  return nullptr;
}

napi_value MulBf16(Call& call) {
  const int64_t n = call.Count(3, "n"), bytes = Product(n, 4), b_bytes = Product(n, 2);
  auto* out = call.Data<float>(0, "out", kWrite, bytes, "n·4");
  const auto* a = call.Data<const float>(1, "a", kRead, bytes, "n·4");
  const auto* b = call.Data<const uint16_t>(2, "b", kRead, b_bytes, "n·2");
  if (out != a) call.Apart("out", out, bytes, "a", a, bytes);
  call.Apart("out", out, bytes, "b", b, b_bytes);
  call.Check(call.ops().mul_bf16(call.context(), out, a, {MS_BF16, 0, b, nullptr}, n));
  return nullptr;
}

napi_value Select24F32(Call& call) {
  const int64_t n = call.Count(3, "n"), k = call.Count(4, "k");
  MultipleOf8(call, k);
  const int64_t out_bytes = Product(n, k, 2), w_bytes = Product(n, k, 4), meta_bytes = Product(n, k / 8);
  auto* out = call.Data<uint16_t>(0, "out", kWrite, out_bytes, "N·K·2");
  const auto* w = call.Data<const float>(1, "w", kRead, w_bytes, "N·K·4");
  const auto* meta = call.Data<const uint8_t>(2, "meta", kRead, meta_bytes, "N·K/8");
  call.Apart("out", out, out_bytes, "w", w, w_bytes);
  call.Apart("out", out, out_bytes, "meta", meta, meta_bytes);
  call.Check(call.ops().select24_f32(call.context(), out, w, meta, n, k));
  return nullptr;
}

napi_value Keep24F32(Call& call) {
  const int64_t n = call.Count(2, "n"), k = call.Count(3, "k");
  MultipleOf8(call, k);
  const int64_t x_bytes = Product(n, k, 4), meta_bytes = Product(n, k / 8);
  auto* x = call.Data<float>(0, "x", kWrite, x_bytes, "N·K·4");
  const auto* meta = call.Data<const uint8_t>(1, "meta", kRead, meta_bytes, "N·K/8");
  call.Apart("x", x, x_bytes, "meta", meta, meta_bytes);
  call.Check(call.ops().keep24_f32(call.context(), x, meta, n, k));
  return nullptr;
}

napi_value SumOfSquares(Call& call) {
  const int64_t n = call.Count(1, "n");
  const auto* x = call.Data<const float>(0, "x", kRead, Product(n, 4), "n·4");
  double sum = 0;
  call.Check(call.ops().sum_of_squares(call.context(), x, n, &sum));
  return Double(call, sum);
}

napi_value ScaleBy(Call& call) {
  const double factor = call.Number(1, "factor");
  const int64_t n = call.Count(2, "n");
  auto* x = call.Data<float>(0, "x", kWrite, Product(n, 4), "n·4");
  call.Check(call.ops().scale_by(call.context(), x, factor, n));
  return nullptr;
}

ms_adamw ReadAdamW(Call& call, size_t at) {
  const auto number = [&](const char* name) { return call.Property(at, "settings", name); };
  const double step = number("step");
  const ms_adamw s = {number("learningRate"),  number("beta1"),       number("beta2"),
                      number("epsilon"),       number("weightDecay"), static_cast<int64_t>(step),
                      number("gradientScale"), number("threshold"),   number("curvature")};
  constexpr double kLargestStep = 9007199254740991.0;  // 2⁵³ − 1
  call.Require(step >= 1 && step <= kLargestStep && step == static_cast<double>(s.step), "settings.step",
               "to be an integer of at least 1", step);
  call.Require(s.beta1 >= 0 && s.beta1 < 1, "settings.beta1", "in [0, 1)", s.beta1);
  call.Require(s.beta2 >= 0 && s.beta2 < 1, "settings.beta2", "in [0, 1)", s.beta2);
  call.Require(s.epsilon > 0, "settings.epsilon", "above 0", s.epsilon);
  call.Require(s.threshold >= 0, "settings.threshold", "to be at least 0", s.threshold);
  call.Require(s.curvature >= 0, "settings.curvature", "to be at least 0", s.curvature);
  return s;
}

napi_value AdamW(Call& call) {
  const int64_t n = call.Count(4, "n"), bytes = Product(n, 4);
  const ms_adamw settings = ReadAdamW(call, 5);
  auto* parameters = call.Data<float>(0, "parameters", kWrite, bytes, "n·4");
  const auto* gradients = call.Data<const float>(1, "gradients", kRead, bytes, "n·4");
  const auto presence = settings.beta1 > 0 ? Presence::kRequired : kOptional;
  auto* first = call.Data<float>(2, "firstMoments", kWrite, bytes, "n·4", alignof(float), presence);
  auto* second = call.Data<float>(3, "secondMoments", kWrite, bytes, "n·4");
  call.Apart("parameters", parameters, bytes, "gradients", gradients, bytes);
  call.Apart("parameters", parameters, bytes, "firstMoments", first, bytes);
  call.Apart("parameters", parameters, bytes, "secondMoments", second, bytes);
  call.Apart("firstMoments", first, bytes, "gradients", gradients, bytes);
  call.Apart("firstMoments", first, bytes, "secondMoments", second, bytes);
  call.Apart("secondMoments", second, bytes, "gradients", gradients, bytes);
  call.Check(call.ops().adamw(call.context(), parameters, gradients, first, second, n, settings));
  return nullptr;
}

}  // namespace

void ExportLearning(napi_env env, napi_value exports) {
  const Export list[] = {
      {"gumbelMask", Bind<GumbelMask, 13>},
      {"gumbelMaskBackward", Bind<GumbelMaskBackward, 14>},
      {"argmaxPatterns", Bind<ArgmaxPatterns, 4>},
      {"topTwo", Bind<TopTwo, 3>},
      {"mulBf16", Bind<MulBf16, 4>},
      {"select24F32", Bind<Select24F32, 5>},
      {"keep24F32", Bind<Keep24F32, 4>},
      {"sumOfSquares", Bind<SumOfSquares, 2>},
      {"scaleBy", Bind<ScaleBy, 3>},
      {"adamw", Bind<AdamW, 6>},
  };
  ExportAll(env, exports, list, sizeof(list) / sizeof(list[0]));
}

}  // namespace maskserve
