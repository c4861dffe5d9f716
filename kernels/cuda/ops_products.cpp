// The products of the forward pass: which kernel multiplies, by the number of tokens and by what was measured.

#include <algorithm>
#include <vector>

#include "choices.h"
#include "device.h"
#include "expand24.h"
#include "launch.h"
#include "memory.h"
#include "ops.h"
#include "patch_header.h"
#include "rounded.h"
#include "sparse_gemm.h"

namespace maskserve {
namespace cuda {

namespace {

constexpr int kRuns = 3;

struct Shape {
  int64_t tokens, n, k;
};

SparseGemm* SparseOf(Op& op, const Shape& s) {
  if (FormOf(s.n, s.k) == Form::kNone) return nullptr;
  auto& gemm = op.context()->sparse;
  if (gemm == nullptr) gemm = SparseGemm::Open();
  return gemm.get();
}

// Tokens that a cuSPARSELt plan is made for, so that prompts of all lengths share few plans.
int64_t Padded(int64_t tokens) {
  const int64_t step = tokens <= 256 ? 32 : 256;
  return (tokens + step - 1) / step * step;
}

void Dense(Op& op, float* y, const float* x, const uint16_t* w, const Shape& s) {
  if (s.tokens <= kGemvTokens) return matmul(y, x, w, s.tokens, s.n, s.k, op.exact(), op.stream());
  MultiplyLayer(op, y, x, {MS_BF16, 0, w, nullptr}, s.tokens, s.n, s.k);
}

bool BySparse(Op& op, float* y, const float* x, const void* packed, const Shape& s, const SparseAlgorithm& algorithm) {
  SparseGemm* gemm = SparseOf(op, s);
  if (gemm == nullptr) return false;
  const int64_t padded = Padded(s.tokens);
  const uint16_t* rounded = Round(op, x, s.tokens, padded, s.k);
  auto* product = op.Take<uint16_t>(padded * s.n);
  if (!gemm->Multiply(op, product, rounded, FormIn(packed, s.n, s.k), padded, s.n, s.k, &algorithm)) return false;
  to_f32(y, product, MS_BF16, s.tokens * s.n, op.stream());
  return true;
}

bool ByDense(Op& op, float* y, const float* x, const void* packed, const Shape& s) {
  auto* dense = op.Take<uint16_t>(s.n * s.k);
  expand24(dense, packed, s.n, s.k, false, op.stream());
  Dense(op, y, x, dense, s);
  return true;
}

// Not to be spread: what is not finite, where AddPatches follows, which knows what each token's mask prunes.
bool ByOwn(Op& op, float* y, const float* x, const void* packed, const Shape& s, bool spread = true) {
  matmul24(y, x, packed, s.tokens, s.n, s.k, op.exact(), op.stream(), spread);
  return true;
}

// Microseconds of a product that has been run before, the best of a few; −1 where it can't be had. Weights come from
// memory, as in a model that no cache holds: before each run the second-level cache is filled with something else. Each
// run has the working memory of the one before, which is done with it on the same stream: a context keeps what it once
// needed.
template <typename Product>
double Time(Op& op, Product&& measured) {
  Arena& arena = op.context()->arena;
  const std::vector<size_t> taken = arena.Taken();
  const auto product = [&] {
    const bool done = measured();
    arena.GoBack(taken);
    return done;
  };
  if (!product()) return -1;
  const size_t cache_bytes = 2 * FindDevice().device.cache_bytes;
  cudaEvent_t begin = nullptr, end = nullptr;
  Require(cudaEventCreateWithFlags(&begin, 0), "an event");
  Require(cudaEventCreateWithFlags(&end, 0), "an event");
  float best = -1;
  for (int run = 0; run < kRuns; ++run) {
    op.Zero(op.TakeBytes(cache_bytes), cache_bytes);
    arena.GoBack(taken);
    Require(cudaEventRecord(begin, op.stream()), "an event");
    product();
    Require(cudaEventRecord(end, op.stream()), "an event");
    Require(cudaEventSynchronize(end), "a product");
    float ms = 0;
    Require(cudaEventElapsedTime(&ms, begin, end), "an event");
    best = run == 0 ? ms : std::min(best, ms);
  }
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  return static_cast<double>(best) * 1000;
}

// Leaves the product in y, whichever wins.
Choice Measure(Op& op, float* y, const float* x, const void* packed, const Shape& s) {
  if (op.context()->recording != nullptr) throw Failure{MS_UNSUPPORTED, "a recorded step measures nothing"};
  Choice choice{Kernel::kOwn, {}, 0, -1, -1};
  choice.own_us = Time(op, [&] { return ByOwn(op, y, x, packed, s); });
  SparseGemm* gemm = SparseOf(op, s);
  if (gemm != nullptr) {
    const int64_t padded = Padded(s.tokens);
    const uint16_t* rounded = Round(op, x, s.tokens, padded, s.k);
    const std::vector<size_t> taken = op.context()->arena.Taken();
    auto* room = op.Take<uint16_t>(padded * s.n);
    const bool found = gemm->Search(op, room, rounded, FormIn(packed, s.n, s.k), padded, s.n, s.k, &choice.algorithm);
    op.context()->arena.GoBack(taken);
    if (found) choice.sparse_us = Time(op, [&] { return BySparse(op, y, x, packed, s, choice.algorithm); });
  }
  choice.dense_us = Time(op, [&] { return ByDense(op, y, x, packed, s); });
  double best = choice.own_us;
  if (choice.sparse_us >= 0 && choice.sparse_us < best) {
    choice.kernel = Kernel::kSparse;
    best = choice.sparse_us;
  }
  if (choice.dense_us >= 0 && choice.dense_us < best) choice.kernel = Kernel::kDense;
  return choice;
}

// Whether products of so many tokens are always ours, so that several of them are one launch.
bool IsOwn(const ms_context* ctx, int64_t tokens) {
  return tokens <= kSparseMmaTokens || ctx->exact != 0;
}

void Sparse(Op& op, float* y, const float* x, const void* packed, const Shape& s, bool spread = true) {
  if (IsOwn(op.context(), s.tokens)) {
    ByOwn(op, y, x, packed, s, spread);
    return;
  }
  Choice choice{};
  if (!Choices::Get().Find(s.n, s.k, s.tokens, &choice)) {
    choice = Measure(op, y, x, packed, s);
    Choices::Get().Add(s.n, s.k, s.tokens, choice);
  }
  if (choice.kernel == Kernel::kSparse && BySparse(op, y, x, packed, s, choice.algorithm)) return;
  // Also where cuSPARSELt won, in a process whose matrices have its form, and is not to be had in this one.
  const bool dense_is_faster = choice.dense_us >= 0 && choice.dense_us < choice.own_us;
  if (choice.kernel == Kernel::kDense || (choice.kernel == Kernel::kSparse && dense_is_faster)) {
    ByDense(op, y, x, packed, s);
  } else {
    ByOwn(op, y, x, packed, s, spread);
  }
}

const void* PackedOf(const ms_weights& w, const char* name) {
  return Bf16Of(w, name);
}

ms_status Matmul(ms_context* ctx, float* y, const float* x, ms_weights w, int64_t tokens, int64_t n, int64_t k) {
  return Run(ctx, Op::Rounded::kKept, [&](Op& op) {
    const Shape shape{tokens, n, k};
    DropIfWritten(op, y, tokens * n);
    Dense(op, y, x, Bf16Of(w, "matmul"), shape);
  });
}

ms_status Matmul24(ms_context* ctx, float* y, const float* x, ms_weights w, int64_t tokens, int64_t n, int64_t k) {
  return Run(ctx, Op::Rounded::kKept, [&](Op& op) {
    const Shape shape{tokens, n, k};
    DropIfWritten(op, y, tokens * n);
    Sparse(op, y, x, PackedOf(w, "matmul24"), shape);
  });
}

// What build_patch24 wrote for another matrix, or nothing of its, is refused.
void RequirePatch(Op& op, const ms_patch24& patch, int64_t n, int64_t k) {
  KnownPatch known{};
  if (!RecallPatch(patch.data, &known)) {
    PatchHeader header{};
    if (patch.bytes >= static_cast<int64_t>(sizeof(header))) op.Fetch(&header, patch.data, sizeof(header));
    if (header.magic == kPatchMagic) known = {header.n, header.k, PatchBytes(header.n, header.k, header.bytes)};
  }
  if (known.n == n && known.k == k && known.bytes > 0 && patch.bytes >= known.bytes) return;
  throw Failure{MS_BAD_DATA, "expected patches that buildPatch24 made for a matrix of " + std::to_string(n) + " x " +
                                 std::to_string(k) + " but received another"};
}

void RequirePatches(Op& op, const ms_product& p, int64_t tokens, int64_t k) {
  for (int64_t t = 0; p.host_patches != nullptr && t < tokens; ++t) {
    const ms_patch24& patch = p.host_patches[t];
    const bool again = t > 0 && patch.data == p.host_patches[t - 1].data;
    if (patch.data != nullptr && !again) RequirePatch(op, patch, p.n, k);
  }
}

bool AnyPatched(const ms_product* host_products, int64_t count) {
  return std::any_of(host_products, host_products + count,
                     [](const ms_product& p) { return p.host_patches != nullptr; });
}

// To all of the products, whose matmul24 has not spread what is not finite, in one launch.
void AddPatches(Op& op, const ms_product* host_products, int64_t count, const float* x, int64_t tokens, int64_t k) {
  std::vector<ms_product> patched(host_products, host_products + count);
  std::vector<ms_patch24> patches(static_cast<size_t>(count * tokens), ms_patch24{nullptr, 0});
  for (int64_t i = 0; i < count; ++i) {
    const ms_patch24* of_this = host_products[i].host_patches;
    if (of_this != nullptr) std::copy(of_this, of_this + tokens, patches.begin() + i * tokens);
  }
  const ms_patch24* of_next = op.Upload(patches.data(), static_cast<int64_t>(patches.size()));
  for (ms_product& p : patched) {
    p.host_patches = of_next;
    of_next += tokens;
  }
  add_patches24_fused(patched.data(), static_cast<int64_t>(patched.size()), x, tokens, k, op.exact(), op.stream());
}

ms_status Matmul24Patched(ms_context* ctx, float* y, const float* x, ms_weights w, const ms_patch24* host_patches,
                          int64_t tokens, int64_t n, int64_t k) {
  return Run(ctx, Op::Rounded::kKept, [&](Op& op) {
    const ms_product product{y, w, host_patches, n};
    DropIfWritten(op, y, tokens * n);
    const void* packed = PackedOf(w, "matmul24Patched");
    RequirePatches(op, product, tokens, k);
    Sparse(op, y, x, packed, {tokens, n, k}, false);
    AddPatches(op, &product, 1, x, tokens, k);
  });
}

// Each as an op of its own, until one fails.
template <typename Product>
ms_status OneByOne(const ms_product* host_products, int64_t count, Product&& product) {
  ms_status status = MS_OK;
  for (int64_t i = 0; i < count && status == MS_OK; ++i) status = product(host_products[i]);
  return status;
}

ms_status MatmulFused(ms_context* ctx, const ms_product* host_products, int64_t count, const float* x, int64_t tokens,
                      int64_t k) {
  if (tokens > kGemvTokens) {
    return OneByOne(host_products, count,
                    [&](const ms_product& p) { return Matmul(ctx, p.y, x, p.w, tokens, p.n, k); });
  }
  return Run(ctx, Op::Rounded::kKept, [&](Op& op) {
    for (const ms_product* p = host_products; p < host_products + count; ++p) {
      DropIfWritten(op, p->y, tokens * p->n);
      Bf16Of(p->w, "matmulFused");
    }
    matmul_fused(host_products, count, x, tokens, k, op.exact(), op.stream());
  });
}

ms_status Matmul24Fused(ms_context* ctx, const ms_product* host_products, int64_t count, const float* x, int64_t tokens,
                        int64_t k, int64_t) {
  if (!IsOwn(ctx, tokens)) {
    return OneByOne(host_products, count, [&](const ms_product& p) {
      return p.host_patches == nullptr ? Matmul24(ctx, p.y, x, p.w, tokens, p.n, k)
                                       : Matmul24Patched(ctx, p.y, x, p.w, p.host_patches, tokens, p.n, k);
    });
  }
  return Run(ctx, Op::Rounded::kKept, [&](Op& op) {
    for (const ms_product* p = host_products; p < host_products + count; ++p) {
      DropIfWritten(op, p->y, tokens * p->n);
      PackedOf(p->w, "matmul24Fused");
      RequirePatches(op, *p, tokens, k);
    }
    const bool patched = AnyPatched(host_products, count);
    matmul24_fused(host_products, count, x, tokens, k, op.exact(), op.stream(), !patched);
    if (patched) AddPatches(op, host_products, count, x, tokens, k);
  });
}

ms_status MatmulMasked(ms_context* ctx, float* y, const float* x, ms_weights w, const ms_mask24* host_masks,
                       int64_t tokens, int64_t n, int64_t k) {
  return Run(ctx, Op::Rounded::kKept, [&](Op& op) {
    DropIfWritten(op, y, tokens * n);
    // A packed matrix's nibbles are the canonical ones.
    std::vector<ms_mask24> masks(host_masks, host_masks + tokens);
    for (ms_mask24& mask : masks) {
      if (mask.nibbles != nullptr && mask.packed != 0) mask = {packed24_meta(mask.nibbles, n, k), 0};
    }
    matmul_masked(y, x, Bf16Of(w, "matmulMasked"), op.Upload(masks.data(), tokens), tokens, n, k, op.exact(),
                  op.stream());
  });
}

}  // namespace

void AddProductOps(ms_ops* ops) {
  ops->matmul = Matmul;
  ops->matmul24 = Matmul24;
  ops->matmul24_patched = Matmul24Patched;
  ops->matmul_fused = MatmulFused;
  ops->matmul24_fused = Matmul24Fused;
  ops->matmul_masked = MatmulMasked;
}

}  // namespace cuda
}  // namespace maskserve
