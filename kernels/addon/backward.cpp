// The differentiable ops of training: linear layers, RMSNorm, rotary embedding, attention, SiLU · up, the loss.

#include <algorithm>
#include <initializer_list>

#include "bindings.h"
#include "check.h"

namespace maskserve {

namespace {

constexpr auto kRead = Access::kRead;
constexpr auto kWrite = Access::kWrite;
constexpr auto kOptional = Presence::kOptional;

// A buffer that was read and checked, by its name.
struct Region {
  const char* name;
  const void* data;
  int64_t bytes;
};

void AllApart(const Call& call, std::initializer_list<Region> outputs, std::initializer_list<Region> inputs) {
  for (const Region* out = outputs.begin(); out != outputs.end(); ++out) {
    for (const Region* other = out + 1; other != outputs.end(); ++other) {
      call.Apart(out->name, out->data, out->bytes, other->name, other->data, other->bytes);
    }
    for (const Region& in : inputs) call.Apart(out->name, out->data, out->bytes, in.name, in.data, in.bytes);
  }
}

struct Weights {
  ms_weights w;
  Region region;
};

// w (N, K) at `at`, of the type named at `at` + 1.
Weights ReadWeights(Call& call, size_t at, int64_t n, int64_t k) {
  const std::string name = call.Text(at + 1, "type");
  if (name != "bf16" && name != "f32") {
    call.Fail(CallError::kRange, "expected type to be 'bf16' or 'f32' but received '" + name + "'");
  }
  const bool wide = name == "f32";
  const int64_t bytes = Product(n, k, wide ? 4 : 2);
  const void* data = call.Data<const void>(at, "w", kRead, bytes, wide ? "N·K·4" : "N·K·2", wide ? 4 : 2);
  return {{wide ? MS_F32 : MS_BF16, 0, data, nullptr}, {"w", data, bytes}};
}

napi_value Linear(Call& call) {
  const int64_t rows = call.Count(4, "rows"), n = call.Count(5, "n"), k = call.Count(6, "k");
  const int64_t y_bytes = Product(rows, n, 4), x_bytes = Product(rows, k, 4);
  auto* y = call.Data<float>(0, "y", kWrite, y_bytes, "rows·N·4");
  const auto* x = call.Data<const float>(1, "x", kRead, x_bytes, "rows·K·4");
  const Weights w = ReadWeights(call, 2, n, k);
  AllApart(call, {{"y", y, y_bytes}}, {{"x", x, x_bytes}, w.region});
  call.Check(call.ops().linear(call.context(), y, x, w.w, rows, n, k));
  return nullptr;
}

napi_value LinearBackwardInput(Call& call) {
  const int64_t rows = call.Count(4, "rows"), n = call.Count(5, "n"), k = call.Count(6, "k");
  const bool accumulate = call.Flag(7, "accumulate");
  const int64_t dx_bytes = Product(rows, k, 4), dy_bytes = Product(rows, n, 4);
  auto* dx = call.Data<float>(0, "dx", kWrite, dx_bytes, "rows·K·4");
  const auto* dy = call.Data<const float>(1, "dy", kRead, dy_bytes, "rows·N·4");
  const Weights w = ReadWeights(call, 2, n, k);
  AllApart(call, {{"dx", dx, dx_bytes}}, {{"dy", dy, dy_bytes}, w.region});
  call.Check(call.ops().linear_backward_input(call.context(), dx, dy, w.w, rows, n, k, accumulate));
  return nullptr;
}

napi_value LinearBackwardWeight(Call& call) {
  const int64_t rows = call.Count(3, "rows"), n = call.Count(4, "n"), k = call.Count(5, "k");
  const bool accumulate = call.Flag(6, "accumulate");
  const int64_t dw_bytes = Product(n, k, 4), dy_bytes = Product(rows, n, 4), x_bytes = Product(rows, k, 4);
  auto* dw = call.Data<float>(0, "dw", kWrite, dw_bytes, "N·K·4");
  const auto* dy = call.Data<const float>(1, "dy", kRead, dy_bytes, "rows·N·4");
  const auto* x = call.Data<const float>(2, "x", kRead, x_bytes, "rows·K·4");
  AllApart(call, {{"dw", dw, dw_bytes}}, {{"dy", dy, dy_bytes}, {"x", x, x_bytes}});
  call.Check(call.ops().linear_backward_weight(call.context(), dw, dy, x, rows, n, k, accumulate));
  return nullptr;
}

napi_value RmsNormBackward(Call& call) {
  const int64_t rows = call.Count(5, "rows"), dim = call.Count(6, "dim");
  const double eps = call.Number(7, "eps");
  call.Require(eps >= 0, "eps", "of at least 0", eps);
  const int64_t bytes = Product(rows, dim, 4), gain_bytes = Product(dim, 4);
  auto* dx = call.Data<float>(0, "dx", kWrite, bytes, "rows·D·4");
  auto* dgain = call.Data<float>(1, "dgain", kWrite, gain_bytes, "D·4", alignof(float), kOptional);
  const auto* dy = call.Data<const float>(2, "dy", kRead, bytes, "rows·D·4");
  const auto* x = call.Data<const float>(3, "x", kRead, bytes, "rows·D·4");
  const auto* gain = call.Data<const float>(4, "gain", kRead, gain_bytes, "D·4");
  AllApart(call, {{"dx", dx, bytes}, {"dgain", dgain, gain_bytes}},
           {{"dy", dy, bytes}, {"x", x, bytes}, {"gain", gain, gain_bytes}});
  call.Check(call.ops().rmsnorm_backward(call.context(), dx, dgain, dy, x, gain, rows, dim, eps));
  return nullptr;
}

napi_value RopeBatch(Call& call) {
  const int64_t batch = call.Count(3, "batch"), tokens = call.Count(4, "tokens");
  const int64_t heads = call.Count(5, "heads"), head_dim = call.Count(6, "headDim");
  const bool inverse = call.Flag(7, "inverse");
  call.Require(head_dim % 2 == 0, "headDim", "to be even", static_cast<double>(head_dim));
  const int64_t x_bytes = Product(Product(batch, tokens), heads, head_dim, 4);
  const int64_t table_bytes = Product(tokens, head_dim / 2, 4);
  auto* x = call.Data<float>(0, "x", kWrite, x_bytes, "B·T·heads·hd·4");
  const auto* cos = call.Data<const float>(1, "cos", kRead, table_bytes, "T·hd/2·4");
  const auto* sin = call.Data<const float>(2, "sin", kRead, table_bytes, "T·hd/2·4");
  AllApart(call, {{"x", x, x_bytes}}, {{"cos", cos, table_bytes}, {"sin", sin, table_bytes}});
  call.Check(call.ops().rope_batch(call.context(), x, cos, sin, batch, tokens, heads, head_dim, inverse));
  return nullptr;
}

struct AttentionSizes {
  ms_attention_shape shape;
  int64_t q_bytes, kv_bytes, lse_bytes;
};

// batch, tokens, heads, kvHeads, headDim, scale, window from argument `at` on.
AttentionSizes ReadAttention(Call& call, size_t at) {
  ms_attention_shape s;
  s.batch = call.Count(at, "batch");
  s.tokens = call.Count(at + 1, "tokens");
  s.heads = call.Count(at + 2, "heads");
  s.kv_heads = call.Count(at + 3, "kvHeads");
  s.head_dim = call.Count(at + 4, "headDim");
  s.scale = call.Number(at + 5, "scale");
  s.window = call.Index(at + 6, "window");
  if (s.heads % s.kv_heads != 0) {
    call.Fail(CallError::kRange, "expected heads to be a multiple of kvHeads but received " + std::to_string(s.heads) +
                                     " and " + std::to_string(s.kv_heads));
  }
  const int64_t rows = Product(s.batch, s.tokens, 4);
  return {s, Product(rows, s.heads, s.head_dim), Product(rows, s.kv_heads, s.head_dim), Product(rows, s.heads)};
}

napi_value AttentionForward(Call& call) {
  const AttentionSizes a = ReadAttention(call, 5);
  auto* out = call.Data<float>(0, "out", kWrite, a.q_bytes, "B·T·H·hd·4");
  auto* lse = call.Data<float>(1, "lse", kWrite, a.lse_bytes, "B·H·T·4");
  const auto* q = call.Data<const float>(2, "q", kRead, a.q_bytes, "B·T·H·hd·4");
  const auto* k = call.Data<const float>(3, "k", kRead, a.kv_bytes, "B·T·KV·hd·4");
  const auto* v = call.Data<const float>(4, "v", kRead, a.kv_bytes, "B·T·KV·hd·4");
  AllApart(call, {{"out", out, a.q_bytes}, {"lse", lse, a.lse_bytes}},
           {{"q", q, a.q_bytes}, {"k", k, a.kv_bytes}, {"v", v, a.kv_bytes}});
  call.Check(call.ops().attention_forward(call.context(), out, lse, q, k, v, a.shape));
  return nullptr;
}

napi_value AttentionBackward(Call& call) {
  const AttentionSizes a = ReadAttention(call, 9);
  auto* dq = call.Data<float>(0, "dq", kWrite, a.q_bytes, "B·T·H·hd·4");
  auto* dk = call.Data<float>(1, "dk", kWrite, a.kv_bytes, "B·T·KV·hd·4");
  auto* dv = call.Data<float>(2, "dv", kWrite, a.kv_bytes, "B·T·KV·hd·4");
  const auto* dout = call.Data<const float>(3, "dout", kRead, a.q_bytes, "B·T·H·hd·4");
  const auto* out = call.Data<const float>(4, "out", kRead, a.q_bytes, "B·T·H·hd·4");
  const auto* lse = call.Data<const float>(5, "lse", kRead, a.lse_bytes, "B·H·T·4");
  const auto* q = call.Data<const float>(6, "q", kRead, a.q_bytes, "B·T·H·hd·4");
  const auto* k = call.Data<const float>(7, "k", kRead, a.kv_bytes, "B·T·KV·hd·4");
  const auto* v = call.Data<const float>(8, "v", kRead, a.kv_bytes, "B·T·KV·hd·4");
  AllApart(call, {{"dq", dq, a.q_bytes}, {"dk", dk, a.kv_bytes}, {"dv", dv, a.kv_bytes}},
           {{"dout", dout, a.q_bytes},
            {"out", out, a.q_bytes},
            {"lse", lse, a.lse_bytes},
            {"q", q, a.q_bytes},
            {"k", k, a.kv_bytes},
            {"v", v, a.kv_bytes}});
  call.Check(call.ops().attention_backward(call.context(), dq, dk, dv, dout, out, lse, q, k, v, a.shape));
  return nullptr;
}

napi_value SiluMulBackward(Call& call) {
  const int64_t n = call.Count(5, "n"), bytes = Product(n, 4);
  auto* dgate = call.Data<float>(0, "dgate", kWrite, bytes, "n·4");
  auto* dup = call.Data<float>(1, "dup", kWrite, bytes, "n·4");
  const auto* dout = call.Data<const float>(2, "dout", kRead, bytes, "n·4");
  const auto* gate = call.Data<const float>(3, "gate", kRead, bytes, "n·4");
  const auto* up = call.Data<const float>(4, "up", kRead, bytes, "n·4");
  AllApart(call, {{"dgate", dgate, bytes}, {"dup", dup, bytes}}, {{"gate", gate, bytes}, {"up", up, bytes}});
  if (dgate != dout) call.Apart("dgate", dgate, bytes, "dout", dout, bytes);
  call.Apart("dup", dup, bytes, "dout", dout, bytes);
  call.Check(call.ops().silu_mul_backward(call.context(), dgate, dup, dout, gate, up, n));
  return nullptr;
}

void SetDouble(napi_env env, napi_value object, const char* name, double value) {
  napi_value number;
  napi_create_double(env, value, &number);
  napi_set_named_property(env, object, name, number);
}

napi_value LossBackward(Call& call) {
  const HostArray targets = call.Array(2, "targets", napi_int32_array);
  const int64_t rows = call.Count(3, "rows"), vocab = call.Count(4, "vocab");
  const double kl_weight = call.Number(5, "klWeight");
  const int64_t total_rows = call.Count(6, "totalRows");
  call.Require(kl_weight >= 0 && kl_weight <= 1, "klWeight", "in [0, 1]", kl_weight);
  if (static_cast<int64_t>(targets.length) != rows) {
    call.Fail(CallError::kRange, "expected targets of rows = " + std::to_string(rows) + " elements but received " +
                                     std::to_string(targets.length));
  }
  const auto* list = static_cast<const int32_t*>(targets.data);
  const auto* bad = std::find_if(list, list + rows, [&](int32_t id) { return id < 0 || id >= vocab; });
  if (bad != list + rows) {
    call.Fail(CallError::kRange, "expected targets in [0, V = " + std::to_string(vocab) + ") but received " +
                                     std::to_string(*bad) + " at " + std::to_string(bad - list));
  }
  const int64_t bytes = Product(rows, vocab, 4);
  auto* logits = call.Data<float>(0, "logits", kWrite, bytes, "rows·V·4");
  const auto* teacher = call.Data<const float>(1, "teacher", kRead, bytes, "rows·V·4", alignof(float),
                                               kl_weight > 0 ? Presence::kRequired : kOptional);
  call.Apart("logits", logits, bytes, "teacher", teacher, bytes);
  double lm = 0, kl = 0;
  call.Check(
      call.ops().loss_backward(call.context(), logits, teacher, list, rows, vocab, kl_weight, total_rows, &lm, &kl));
  napi_value losses;
  napi_create_object(call.env(), &losses);
  SetDouble(call.env(), losses, "lm", lm);
  SetDouble(call.env(), losses, "kl", kl);
  return losses;
}

}  // namespace

void ExportBackward(napi_env env, napi_value exports) {
  const Export list[] = {
      {"linear", Bind<Linear, 7>},
      {"linearBackwardInput", Bind<LinearBackwardInput, 8>},
      {"linearBackwardWeight", Bind<LinearBackwardWeight, 7>},
      {"rmsnormBackward", Bind<RmsNormBackward, 8>},
      {"ropeBatch", Bind<RopeBatch, 8>},
      {"attentionForward", Bind<AttentionForward, 12>},
      {"attentionBackward", Bind<AttentionBackward, 16>},
      {"siluMulBackward", Bind<SiluMulBackward, 6>},
      {"lossBackward", Bind<LossBackward, 7>},
  };
  ExportAll(env, exports, list, sizeof(list) / sizeof(list[0]));
}

}  // namespace maskserve
