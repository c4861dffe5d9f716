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

// Bytes of a packed 2:4 matrix; −1, as Product's, where no backend could hold it.
int64_t PackedBytes(const Call& call, int64_t n, int64_t k) {
  return Product(n, k, 9) < 0 ? -1 : call.backend().packed_bytes(n, k);
}

napi_value PackedBytesOf(Call& call) {
  const int64_t n = call.Count(0, "n"), k = call.Count(1, "k");
  MultipleOf8(call, k);
  napi_value bytes;
  napi_create_int64(call.env(), PackedBytes(call, n, k), &bytes);
  return bytes;
}

// Arguments of a product y (T, N) = x (T, K) wᵀ: y, x and w come first; T, N and K from argument `sizes` on.
struct ProductArguments {
  int64_t tokens, n, k, y_bytes;
  float* y;
  const float* x;
  ms_weights w;
};

ProductArguments ReadProduct(Call& call, size_t sizes, bool is_packed) {
  const int64_t tokens = call.Count(sizes, "tokens"), n = call.Count(sizes + 1, "n"), k = call.Count(sizes + 2, "k");
  if (is_packed) MultipleOf8(call, k);
  const int64_t y_bytes = Product(tokens, n, 4), x_bytes = Product(tokens, k, 4),
                w_bytes = is_packed ? PackedBytes(call, n, k) : Product(n, k, 2);
  const char* name = is_packed ? "packed" : "w";
  auto* y = call.Data<float>(0, "y", kWrite, y_bytes, "T·N·4");
  const auto* x = call.Data<const float>(1, "x", kRead, x_bytes, "T·K·4");
  const auto* w = call.Data<const uint16_t>(2, name, kRead, w_bytes, is_packed ? "packedBytes(N, K)" : "N·K·2");
  call.Apart("y", y, y_bytes, "x", x, x_bytes);
  call.Apart("y", y, y_bytes, name, w, w_bytes);
  return {tokens, n, k, y_bytes, y, x, {MS_BF16, 0, w, nullptr}};
}

napi_value Matmul(Call& call) {
  const ProductArguments p = ReadProduct(call, 3, false);
  call.Check(call.ops().matmul(call.context(), p.y, p.x, p.w, p.tokens, p.n, p.k));
  return nullptr;
}

napi_value Matmul24(Call& call) {
  const ProductArguments p = ReadProduct(call, 3, true);
  call.Check(call.ops().matmul24(call.context(), p.y, p.x, p.w, p.tokens, p.n, p.k));
  return nullptr;
}

napi_value Compress24(Call& call) {
  const int64_t n = call.Count(3, "n"), k = call.Count(4, "k");
  MultipleOf8(call, k);
  const int64_t packed_bytes = PackedBytes(call, n, k), w_bytes = Product(n, k, 2), meta_bytes = Product(n, k / 8);
  auto* packed = call.Data<uint16_t>(0, "packed", kWrite, packed_bytes, "packedBytes(N, K)");
  const auto* w = call.Data<const uint16_t>(1, "w", kRead, w_bytes, "N·K·2");
  const auto* meta = call.Data<const uint8_t>(2, "meta", kRead, meta_bytes, "N·K/8");
  call.Apart("packed", packed, packed_bytes, "w", w, w_bytes);
  call.Apart("packed", packed, packed_bytes, "meta", meta, meta_bytes);
  call.Check(call.ops().compress24(call.context(), packed, {MS_BF16, 0, w, nullptr}, meta, n, k));
  return nullptr;
}

napi_value Matmul24Patched(Call& call) {
  const ProductArguments p = ReadProduct(call, 4, true);
  std::vector<ms_patch24> patches;
  for (const Buffer& patch : call.Buffers(3, "patches", "tokens", p.tokens)) {
    call.Apart("y", p.y, p.y_bytes, "patches", patch.data, static_cast<int64_t>(patch.bytes));
    patches.push_back({patch.data, static_cast<int64_t>(patch.bytes)});
  }
  call.Check(call.ops().matmul24_patched(call.context(), p.y, p.x, p.w, patches.data(), p.tokens, p.n, p.k));
  return nullptr;
}

napi_value MatmulMasked(Call& call) {
  const ProductArguments p = ReadProduct(call, 4, false);
  MultipleOf8(call, p.k);
  const int64_t packed_bytes = PackedBytes(call, p.n, p.k), codes_bytes = Product(p.n, p.k / 8);
  std::vector<ms_mask24> masks;
  for (const Buffer& mask : call.Buffers(3, "masks", "tokens", p.tokens)) {
    const int64_t bytes = static_cast<int64_t>(mask.bytes);
    if (mask.data != nullptr && bytes != packed_bytes && bytes != codes_bytes) {
      call.Fail(CallError::kRange, "expected masks of exactly N·K/8 = " + std::to_string(codes_bytes) +
                                       " bytes (codes24) or packedBytes(N, K) = " + std::to_string(packed_bytes) +
                                       " (compress24) but received " + std::to_string(bytes));
    }
    call.Apart("y", p.y, p.y_bytes, "masks", mask.data, bytes);
    masks.push_back({mask.data, bytes == packed_bytes});
  }
  call.Check(call.ops().matmul_masked(call.context(), p.y, p.x, p.w, masks.data(), p.tokens, p.n, p.k));
  return nullptr;
}

// Products of an x: y, w and n of each, three arguments that begin at 3; a second or third y of 0 ends them.
struct FusedArguments {
  int64_t count, tokens, k;
  const float* x;
  ms_product products[MS_MOST_PRODUCTS];
  int64_t y_bytes[MS_MOST_PRODUCTS];
};

FusedArguments ReadFused(Call& call, bool is_packed) {
  static constexpr const char* kNames[MS_MOST_PRODUCTS][3] = {
      {"y0", "w0", "n0"}, {"y1", "w1", "n1"}, {"y2", "w2", "n2"}};
  FusedArguments f{};
  f.tokens = call.Count(1, "tokens");
  f.k = call.Count(2, "k");
  if (is_packed) MultipleOf8(call, f.k);
  const auto is_there = [&](int64_t i) {
    const size_t at = static_cast<size_t>(3 + 3 * i);
    return call.Data<float>(at, kNames[i][0], kWrite, 0, "0", alignof(float), Presence::kOptional) != nullptr;
  };
  f.count = 1;
  while (f.count < MS_MOST_PRODUCTS && is_there(f.count)) ++f.count;
  const int64_t x_bytes = Product(f.tokens, f.k, 4);
  f.x = call.Data<const float>(0, "x", kRead, x_bytes, "T·K·4");
  int64_t w_bytes[MS_MOST_PRODUCTS];
  for (int64_t i = 0; i < f.count; ++i) {
    const size_t at = static_cast<size_t>(3 + 3 * i);
    const auto& names = kNames[i];
    const int64_t n = call.Count(at + 2, names[2]);
    f.y_bytes[i] = Product(f.tokens, n, 4);
    w_bytes[i] = is_packed ? PackedBytes(call, n, f.k) : Product(n, f.k, 2);
    auto* y = call.Data<float>(at, names[0], kWrite, f.y_bytes[i], "T·N·4");
    const auto* w =
        call.Data<const uint16_t>(at + 1, names[1], kRead, w_bytes[i], is_packed ? "packedBytes(N, K)" : "N·K·2");
    f.products[i] = {y, {MS_BF16, 0, w, nullptr}, nullptr, n};
  }
  for (int64_t i = 0; i < f.count; ++i) {
    call.Apart(kNames[i][0], f.products[i].y, f.y_bytes[i], "x", f.x, x_bytes);
    for (int64_t j = 0; j < f.count; ++j) {
      call.Apart(kNames[i][0], f.products[i].y, f.y_bytes[i], kNames[j][1], f.products[j].w.values, w_bytes[j]);
      if (j < i) call.Apart(kNames[i][0], f.products[i].y, f.y_bytes[i], kNames[j][0], f.products[j].y, f.y_bytes[j]);
    }
  }
  return f;
}

napi_value MatmulFused(Call& call) {
  const FusedArguments f = ReadFused(call, false);
  const ms_ops& ops = call.ops();
  if (ops.matmul_fused != nullptr) {
    call.Check(ops.matmul_fused(call.context(), f.products, f.count, f.x, f.tokens, f.k));
    return nullptr;
  }
  for (int64_t i = 0; i < f.count; ++i) {
    const ms_product& p = f.products[i];
    call.Check(ops.matmul(call.context(), p.y, f.x, p.w, f.tokens, p.n, f.k));
  }
  return nullptr;
}

napi_value Matmul24Fused(Call& call) {
  constexpr size_t kPatches = 3 + 3 * MS_MOST_PRODUCTS;
  FusedArguments f = ReadFused(call, true);
  const bool none = call.Array(kPatches, "patches", napi_float64_array).length == 0;
  std::vector<ms_patch24> patches;
  for (const Buffer& patch : call.Buffers(kPatches, "patches", "products · tokens", none ? 0 : f.count * f.tokens)) {
    const int64_t bytes = static_cast<int64_t>(patch.bytes);
    for (int64_t i = 0; i < f.count; ++i) {
      call.Apart("y", f.products[i].y, f.y_bytes[i], "patches", patch.data, bytes);
    }
    patches.push_back({patch.data, bytes});
  }
  for (int64_t i = 0; i < f.count && !none; ++i) f.products[i].host_patches = patches.data() + i * f.tokens;
  const int64_t panel_tokens = call.Count(kPatches + 1, "panelTokens");
  call.AtMost("panelTokens", panel_tokens, "MS_PANEL_TOKENS", MS_PANEL_TOKENS);
  const ms_ops& ops = call.ops();
  if (ops.matmul24_fused != nullptr) {
    call.Check(ops.matmul24_fused(call.context(), f.products, f.count, f.x, f.tokens, f.k, panel_tokens));
    return nullptr;
  }
  for (int64_t i = 0; i < f.count; ++i) {
    const ms_product& p = f.products[i];
    call.Check(none ? ops.matmul24(call.context(), p.y, f.x, p.w, f.tokens, p.n, f.k)
                    : ops.matmul24_patched(call.context(), p.y, f.x, p.w, p.host_patches, f.tokens, p.n, f.k));
  }
  return nullptr;
}

napi_value Nibbles24(Call& call) {
  const int64_t n = call.Count(2, "n"), k = call.Count(3, "k");
  MultipleOf8(call, k);
  const int64_t packed_bytes = PackedBytes(call, n, k), meta_bytes = Product(n, k / 8);
  auto* meta = call.Data<uint8_t>(0, "meta", kWrite, meta_bytes, "N·K/8");
  const auto* packed = call.Data<const uint16_t>(1, "packed", kRead, packed_bytes, "packedBytes(N, K)");
  call.Apart("meta", meta, meta_bytes, "packed", packed, packed_bytes);
  call.Check(call.ops().nibbles24(call.context(), meta, {MS_BF16, 0, packed, nullptr}, n, k));
  return nullptr;
}

napi_value Codes24(Call& call) {
  const int64_t n = call.Count(2, "n"), k = call.Count(3, "k");
  MultipleOf8(call, k);
  const int64_t bytes = Product(n, k / 8);
  auto* codes = call.Data<uint8_t>(0, "codes", kWrite, bytes, "N·K/8");
  const auto* meta = call.Data<const uint8_t>(1, "meta", kRead, bytes, "N·K/8");
  call.Apart("codes", codes, bytes, "meta", meta, bytes);
  call.Check(call.ops().codes24(call.context(), codes, meta, n, k));
  return nullptr;
}

napi_value PatchBytes24(Call& call) {
  const int64_t n = call.Count(2, "n"), k = call.Count(3, "k");
  MultipleOf8(call, k);
  const auto* packed = call.Data<const uint16_t>(0, "packed", kRead, PackedBytes(call, n, k), "packedBytes(N, K)");
  const auto* meta = call.Data<const uint8_t>(1, "meta", kRead, Product(n, k / 8), "N·K/8");
  int64_t bytes = 0;
  call.Check(call.ops().patch_bytes24(call.context(), {MS_BF16, 0, packed, nullptr}, meta, n, k, &bytes));
  napi_value result;
  napi_create_int64(call.env(), bytes, &result);
  return result;
}

napi_value BuildPatch24(Call& call) {
  const int64_t n = call.Count(4, "n"), k = call.Count(5, "k");
  MultipleOf8(call, k);
  const int64_t packed_bytes = PackedBytes(call, n, k), w_bytes = Product(n, k, 2), meta_bytes = Product(n, k / 8);
  auto* patch = call.Data<uint32_t>(0, "patch", kWrite, 4, "4");
  const auto* packed = call.Data<const uint16_t>(1, "packed", kRead, packed_bytes, "packedBytes(N, K)");
  const auto* w = call.Data<const uint16_t>(2, "w", kRead, w_bytes, "N·K·2");
  const auto* meta = call.Data<const uint8_t>(3, "meta", kRead, meta_bytes, "N·K/8");
  const int64_t bytes = static_cast<int64_t>(call.Handle(0, "patch").bytes);
  call.Apart("patch", patch, bytes, "packed", packed, packed_bytes);
  call.Apart("patch", patch, bytes, "w", w, w_bytes);
  call.Apart("patch", patch, bytes, "meta", meta, meta_bytes);
  call.Check(call.ops().build_patch24(call.context(), patch, bytes, {MS_BF16, 0, packed, nullptr},
                                      {MS_BF16, 0, w, nullptr}, meta, n, k));
  return nullptr;
}

// Arguments `at` and `at` + 1: changed groups and their codes. The backend checks what they hold.
ms_changes24 Changes(Call& call, size_t at) {
  const HostArray groups = call.Array(at, "groups", napi_uint32_array);
  const HostArray codes = call.Array(at + 1, "codes", napi_uint8_array);
  const int64_t count = static_cast<int64_t>(groups.length);
  call.Require(codes.length == groups.length, "codes", "to be as many as groups", static_cast<double>(codes.length));
  return {static_cast<const uint32_t*>(groups.data), static_cast<const uint8_t*>(codes.data), count};
}

void RequireListedChanges(const Call& call) {
  if (call.ops().changes_bytes24 != nullptr) return;
  call.Fail(CallError::kPlain, "this backend makes patches of whole masks only: buildPatch24");
}

napi_value ChangesBytes24(Call& call) {
  RequireListedChanges(call);
  const int64_t n = call.Count(3, "n"), k = call.Count(4, "k");
  MultipleOf8(call, k);
  const auto* packed = call.Data<const uint16_t>(0, "packed", kRead, PackedBytes(call, n, k), "packedBytes(N, K)");
  const ms_changes24 changes = Changes(call, 1);
  int64_t bytes = 0;
  call.Check(call.ops().changes_bytes24(call.context(), {MS_BF16, 0, packed, nullptr}, changes, n, k, &bytes));
  napi_value result;
  napi_create_int64(call.env(), bytes, &result);
  return result;
}

napi_value BuildChanges24(Call& call) {
  RequireListedChanges(call);
  const int64_t n = call.Count(5, "n"), k = call.Count(6, "k");
  MultipleOf8(call, k);
  const int64_t packed_bytes = PackedBytes(call, n, k), w_bytes = Product(n, k, 2);
  auto* patch = call.Data<uint32_t>(0, "patch", kWrite, 4, "4");
  const auto* packed = call.Data<const uint16_t>(1, "packed", kRead, packed_bytes, "packedBytes(N, K)");
  const auto* w = call.Data<const uint16_t>(2, "w", kRead, w_bytes, "N·K·2");
  const ms_changes24 changes = Changes(call, 3);
  const int64_t bytes = static_cast<int64_t>(call.Handle(0, "patch").bytes);
  call.Apart("patch", patch, bytes, "packed", packed, packed_bytes);
  call.Apart("patch", patch, bytes, "w", w, w_bytes);
  call.Check(call.ops().build_changes24(call.context(), patch, bytes, {MS_BF16, 0, packed, nullptr},
                                        {MS_BF16, 0, w, nullptr}, changes, n, k));
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
      {"matmul24", Bind<Matmul24, 6>},
      {"matmul24Patched", Bind<Matmul24Patched, 7>},
      {"matmulMasked", Bind<MatmulMasked, 7>},
      {"matmulFused", Bind<MatmulFused, 12>},
      {"matmul24Fused", Bind<Matmul24Fused, 14>},
      {"compress24", Bind<Compress24, 5>},
      {"select24", Bind<Select24, 5>},
      {"packedBytes", Bind<PackedBytesOf, 2>},
      {"nibbles24", Bind<Nibbles24, 4>},
      {"codes24", Bind<Codes24, 4>},
      {"patchBytes24", Bind<PatchBytes24, 4>},
      {"buildPatch24", Bind<BuildPatch24, 6>},
      {"changesBytes24", Bind<ChangesBytes24, 5>},
      {"buildChanges24", Bind<BuildChanges24, 7>},
  };
  ExportAll(env, exports, list, sizeof(list) / sizeof(list[0]));
}

}  // namespace maskserve
