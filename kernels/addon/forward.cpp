// Conversion, and the forward pass but for its matrix products.

#include "bindings.h"
#include "check.h"

namespace maskserve {

namespace {

constexpr auto kRead = Access::kRead;
constexpr auto kWrite = Access::kWrite;

struct Source {
  const void* data;
  ms_value_type type;
  int64_t element_bytes, n;
};

// The input of a conversion: any alignment, because a safetensors file may begin its data anywhere.
Source ConversionSource(Call& call) {
  const std::string name = call.Text(2, "type");
  const int64_t n = call.Count(3, "n");
  ms_value_type type = MS_BF16;
  if (name == "f16") {
    type = MS_F16;
  } else if (name == "f32") {
    type = MS_F32;
  } else if (name != "bf16") {
    call.Fail(CallError::kRange, "expected type to be 'bf16', 'f16' or 'f32' but received '" + name + "'");
  }
  const int64_t element_bytes = type == MS_F32 ? 4 : 2;
  const char* formula = type == MS_F32 ? "n·4" : "n·2";
  const void* data = call.Data<const void>(1, "input", kRead, Product(n, element_bytes), formula, 1);
  return {data, type, element_bytes, n};
}

napi_value ToBf16(Call& call) {
  const Source in = ConversionSource(call);
  auto* out = call.Data<uint16_t>(0, "out", kWrite, Product(in.n, 2), "n·2");
  call.Apart("out", out, in.n * 2, "input", in.data, in.n * in.element_bytes);
  call.Check(call.ops().to_bf16(call.context(), out, in.data, in.type, in.n));
  return nullptr;
}

napi_value ToF32(Call& call) {
  const Source in = ConversionSource(call);
  auto* out = call.Data<float>(0, "out", kWrite, Product(in.n, 4), "n·4");
  call.Apart("out", out, in.n * 4, "input", in.data, in.n * in.element_bytes);
  call.Check(call.ops().to_f32(call.context(), out, in.data, in.type, in.n));
  return nullptr;
}

napi_value Embed(Call& call) {
  const int64_t vocab = call.Count(3, "vocab"), dim = call.Count(4, "dim");
  const std::vector<int32_t> ids = call.Ids(2, vocab);
  const int64_t tokens = static_cast<int64_t>(ids.size());
  auto* out = call.Data<float>(0, "out", kWrite, Product(tokens, dim, 4), "T·D·4");
  const auto* table = call.Data<const uint16_t>(1, "table", kRead, Product(vocab, dim, 2), "V·D·2");
  call.Check(call.ops().embed(call.context(), out, {MS_BF16, 0, table, nullptr}, ids.data(), tokens, dim));
  return nullptr;
}

napi_value RmsNorm(Call& call) {
  const int64_t rows = call.Count(3, "rows"), dim = call.Count(4, "dim");
  const double eps = call.Number(5, "eps");
  if (eps < 0) call.Fail(CallError::kRange, "expected eps of at least 0 but received " + std::to_string(eps));
  auto* out = call.Data<float>(0, "out", kWrite, Product(rows, dim, 4), "rows·D·4");
  const auto* x = call.Data<const float>(1, "x", kRead, Product(rows, dim, 4), "rows·D·4");
  const auto* gain = call.Data<const float>(2, "gain", kRead, Product(dim, 4), "D·4");
  if (out != x) call.Apart("out", out, rows * dim * 4, "x", x, rows * dim * 4);
  call.Apart("out", out, rows * dim * 4, "gain", gain, dim * 4);
  call.Check(call.ops().rmsnorm(call.context(), out, x, gain, rows, dim, eps));
  return nullptr;
}

napi_value Rope(Call& call) {
  const int64_t start = call.Index(3, "start"), tokens = call.Count(4, "tokens");
  const int64_t heads = call.Count(5, "heads"), head_dim = call.Count(6, "headDim");
  if (head_dim % 2 != 0) {
    call.Fail(CallError::kRange, "expected an even headDim but received " + std::to_string(head_dim));
  }
  const int64_t table_bytes = Product(start + tokens, head_dim / 2, 4), x_bytes = Product(tokens, heads, head_dim, 4);
  auto* x = call.Data<float>(0, "x", kWrite, x_bytes, "T·heads·hd·4");
  const auto* cos = call.Data<const float>(1, "cos", kRead, table_bytes, "(start + T)·hd/2·4");
  const auto* sin = call.Data<const float>(2, "sin", kRead, table_bytes, "(start + T)·hd/2·4");
  call.Apart("x", x, x_bytes, "cos", cos, table_bytes);
  call.Apart("x", x, x_bytes, "sin", sin, table_bytes);
  call.Check(call.ops().rope(call.context(), x, cos, sin, start, tokens, heads, head_dim));
  return nullptr;
}

// What keys and values are held as.
struct CacheType {
  ms_value_type type;
  int64_t element_bytes;
  const char* formula;
};

CacheType ReadCacheType(Call& call, size_t at) {
  const std::string name = call.Text(at, "type");
  if (name == "f32") return {MS_F32, 4, "KV·capacity·hd·4"};
  if (name == "bf16") return {MS_BF16, 2, "KV·capacity·hd·2"};
  call.Fail(CallError::kRange, "expected type to be 'f32' or 'bf16' but received '" + name + "'");
}

napi_value KvWrite(Call& call) {
  const int64_t start = call.Index(2, "start"), tokens = call.Count(3, "tokens");
  const int64_t kv_heads = call.Count(4, "kvHeads"), head_dim = call.Count(5, "headDim");
  const int64_t capacity = call.Count(6, "capacity");
  call.AtMost("start + tokens", start + tokens, "capacity", capacity);
  const CacheType type = ReadCacheType(call, 7);
  const int64_t cache_bytes = Product(kv_heads, capacity, head_dim, type.element_bytes),
                x_bytes = Product(tokens, kv_heads, head_dim, 4);
  auto* cache = call.Data<float>(0, "cache", kWrite, cache_bytes, type.formula);
  const auto* x = call.Data<const float>(1, "x", kRead, x_bytes, "T·KV·hd·4");
  call.Apart("cache", cache, cache_bytes, "x", x, x_bytes);
  call.Check(call.ops().kv_write(call.context(), cache, type.type, x, start, tokens, kv_heads, head_dim, capacity));
  return nullptr;
}

napi_value Attention(Call& call) {
  const int64_t start = call.Index(4, "start"), tokens = call.Count(5, "tokens");
  const int64_t heads = call.Count(6, "heads"), kv_heads = call.Count(7, "kvHeads");
  const int64_t head_dim = call.Count(8, "headDim"), capacity = call.Count(9, "capacity");
  const double scale = call.Number(10, "scale");
  const int64_t window = call.Index(11, "window");
  if (heads % kv_heads != 0) {
    call.Fail(CallError::kRange, "expected heads to be a multiple of kvHeads but received " + std::to_string(heads) +
                                     " and " + std::to_string(kv_heads));
  }
  call.AtMost("start + tokens", start + tokens, "capacity", capacity);
  const CacheType type = ReadCacheType(call, 12);
  const int64_t cache_bytes = Product(kv_heads, capacity, head_dim, type.element_bytes),
                q_bytes = Product(tokens, heads, head_dim, 4);
  auto* out = call.Data<float>(0, "out", kWrite, q_bytes, "T·H·hd·4");
  const auto* q = call.Data<const float>(1, "q", kRead, q_bytes, "T·H·hd·4");
  const auto* k = call.Data<const float>(2, "kCache", kRead, cache_bytes, type.formula);
  const auto* v = call.Data<const float>(3, "vCache", kRead, cache_bytes, type.formula);
  call.Apart("out", out, q_bytes, "q", q, q_bytes);
  call.Apart("out", out, q_bytes, "kCache", k, cache_bytes);
  call.Apart("out", out, q_bytes, "vCache", v, cache_bytes);
  call.Check(call.ops().attention(call.context(), out, q, k, v, type.type, start, tokens, heads, kv_heads, head_dim,
                                  capacity, scale, window));
  return nullptr;
}

// The caches of one kind (keys or values) of a batch: every one there, writable and long enough.
std::vector<char*> CachesOf(Call& call, size_t at, const char* name, const CacheType& type,
                            const std::vector<int32_t>& capacities, int64_t kv_heads, int64_t head_dim) {
  std::vector<char*> caches;
  const std::vector<Buffer> buffers = call.Buffers(at, name, "rows", static_cast<int64_t>(capacities.size()));
  for (size_t r = 0; r < buffers.size(); ++r) {
    const Buffer& buffer = buffers[r];
    const int64_t bytes = Product(kv_heads, capacities[r], head_dim, type.element_bytes);
    if (buffer.data == nullptr || !buffer.writable) {
      call.Fail(CallError::kType, std::string("expected ") + name + " to name writable buffers");
    }
    if (bytes < 0 || static_cast<uint64_t>(bytes) > buffer.bytes || reinterpret_cast<uintptr_t>(buffer.data) % 4 != 0) {
      call.Fail(CallError::kRange, std::string("expected ") + name + " of at least " + type.formula + " = " +
                                       std::to_string(bytes) + " aligned bytes but received " +
                                       std::to_string(buffer.bytes));
    }
    caches.push_back(buffer.data);
  }
  return caches;
}

napi_value AttendRows(Call& call) {
  const std::vector<int32_t> positions = call.Counts(8, "positions", 0), capacities = call.Counts(9, "capacities", 1);
  const int64_t heads = call.Count(10, "heads"), kv_heads = call.Count(11, "kvHeads");
  const int64_t head_dim = call.Count(12, "headDim");
  const double scale = call.Number(13, "scale");
  const int64_t window = call.Index(14, "window"), rows = static_cast<int64_t>(positions.size());
  if (rows == 0 || capacities.size() != positions.size()) {
    call.Fail(CallError::kRange, "expected as many capacities as positions, and at least one, but received " +
                                     std::to_string(capacities.size()) + " and " + std::to_string(rows));
  }
  if (head_dim % 2 != 0) {
    call.Fail(CallError::kRange, "expected an even headDim but received " + std::to_string(head_dim));
  }
  if (heads % kv_heads != 0) {
    call.Fail(CallError::kRange, "expected heads to be a multiple of kvHeads but received " + std::to_string(heads) +
                                     " and " + std::to_string(kv_heads));
  }
  int64_t last = 0;
  for (size_t r = 0; r < positions.size(); ++r) {
    call.AtMost("positions", positions[r], "capacity − 1", capacities[r] - 1);
    last = positions[r] > last ? positions[r] : last;
  }
  const int64_t q_bytes = Product(rows, heads, head_dim, 4), kv_bytes = Product(rows, kv_heads, head_dim, 4);
  const int64_t table_bytes = Product(last + 1, head_dim / 2, 4);
  auto* out = call.Data<float>(0, "out", kWrite, q_bytes, "rows·H·hd·4");
  auto* q = call.Data<float>(1, "q", kWrite, q_bytes, "rows·H·hd·4");
  auto* k = call.Data<float>(2, "k", kWrite, kv_bytes, "rows·KV·hd·4");
  const auto* v = call.Data<const float>(3, "v", kRead, kv_bytes, "rows·KV·hd·4");
  const auto* cos = call.Data<const float>(4, "cos", kRead, table_bytes, "(position + 1)·hd/2·4");
  const auto* sin = call.Data<const float>(5, "sin", kRead, table_bytes, "(position + 1)·hd/2·4");
  const CacheType type = ReadCacheType(call, 15);
  const std::vector<char*> keys = CachesOf(call, 6, "keys", type, capacities, kv_heads, head_dim);
  const std::vector<char*> values = CachesOf(call, 7, "values", type, capacities, kv_heads, head_dim);
  call.Apart("out", out, q_bytes, "q", q, q_bytes);
  call.Apart("out", out, q_bytes, "k", k, kv_bytes);
  call.Apart("out", out, q_bytes, "v", v, kv_bytes);
  call.Apart("q", q, q_bytes, "k", k, kv_bytes);
  std::vector<ms_cache_row> caches;
  for (size_t r = 0; r < positions.size(); ++r) {
    const int64_t bytes = kv_heads * capacities[r] * head_dim * type.element_bytes;
    for (char* cache : {keys[r], values[r]}) {
      call.Apart("out", out, q_bytes, "keys or values", cache, bytes);
      call.Apart("q", q, q_bytes, "keys or values", cache, bytes);
      call.Apart("k", k, kv_bytes, "keys or values", cache, bytes);
      call.Apart("v", v, kv_bytes, "keys or values", cache, bytes);
    }
    caches.push_back({keys[r], values[r], positions[r], capacities[r]});
  }
  call.Check(call.ops().attend_rows(call.context(), out, q, k, v, cos, sin, caches.data(), type.type, rows, heads,
                                    kv_heads, head_dim, scale, window));
  return nullptr;
}

napi_value SiluMul(Call& call) {
  const int64_t n = call.Count(3, "n"), bytes = Product(n, 4);
  auto* out = call.Data<float>(0, "out", kWrite, bytes, "n·4");
  const auto* gate = call.Data<const float>(1, "gate", kRead, bytes, "n·4");
  const auto* up = call.Data<const float>(2, "up", kRead, bytes, "n·4");
  if (out != gate) call.Apart("out", out, bytes, "gate", gate, bytes);
  if (out != up) call.Apart("out", out, bytes, "up", up, bytes);
  call.Check(call.ops().silu_mul(call.context(), out, gate, up, n));
  return nullptr;
}

napi_value Add(Call& call) {
  const int64_t n = call.Count(2, "n"), bytes = Product(n, 4);
  auto* x = call.Data<float>(0, "x", kWrite, bytes, "n·4");
  const auto* y = call.Data<const float>(1, "y", kRead, bytes, "n·4");
  if (x != y) call.Apart("x", x, bytes, "y", y, bytes);
  call.Check(call.ops().add(call.context(), x, y, n));
  return nullptr;
}

napi_value AddBias(Call& call) {
  const int64_t rows = call.Count(2, "rows"), n = call.Count(3, "n"), bytes = Product(rows, n, 4);
  auto* x = call.Data<float>(0, "x", kWrite, bytes, "rows·N·4");
  const auto* bias = call.Data<const float>(1, "bias", kRead, Product(n, 4), "N·4");
  call.Apart("x", x, bytes, "bias", bias, n * 4);
  call.Check(call.ops().add_bias(call.context(), x, bias, rows, n));
  return nullptr;
}

}  // namespace

void ExportForward(napi_env env, napi_value exports) {
  const Export list[] = {
      {"toBf16", Bind<ToBf16, 4>},
      {"toF32", Bind<ToF32, 4>},
      {"embed", Bind<Embed, 5>},
      {"rmsnorm", Bind<RmsNorm, 6>},
      {"rope", Bind<Rope, 7>},
      {"kvWrite", Bind<KvWrite, 8>},
      {"attention", Bind<Attention, 13>},
      {"attendRows", Bind<AttendRows, 16>},
      {"siluMul", Bind<SiluMul, 4>},
      {"add", Bind<Add, 3>},
      {"addBias", Bind<AddBias, 4>},
  };
  ExportAll(env, exports, list, sizeof(list) / sizeof(list[0]));
}

}  // namespace maskserve
