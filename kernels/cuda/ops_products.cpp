// The products of the forward pass: which kernel multiplies, by the number of tokens and by what was measured.

#include <algorithm>
#include <vector>

#include "choices.h"
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

bool ByOwn(Op& op, float* y, const float* x, const void* packed, const Shape& s) {
  matmul24(y, x, packed, s.tokens, s.n, s.k, op.exact(), op.stream());
  return true;
}

// Microseconds of a product that has been run before, the best of a few; −1 where it can't be had. Each run has the
// working memory of the one before, which is done with it on the same stream: a context keeps what it once needed.
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
  cudaEvent_t begin = nullptr, end = nullptr;
  Require(cudaEventCreateWithFlags(&begin, 0), "an event");
  Require(cudaEventCreateWithFlags(&end, 0), "an event");
  float best = -1;
  for (int run = 0; run < kRuns; ++run) {
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

void Sparse(Op& op, float* y, const float* x, const void* packed, const Shape& s) {
  if (s.tokens <= kSparseMmaTokens || op.exact() != 0) {
    ByOwn(op, y, x, packed, s);
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
    ByOwn(op, y, x, packed, s);
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

ms_status Matmul24Patched(ms_context* ctx, float* y, const float* x, ms_weights w, const ms_patch24* host_patches,
                          int64_t tokens, int64_t n, int64_t k) {
  return Run(ctx, Op::Rounded::kKept, [&](Op& op) {
    const Shape shape{tokens, n, k};
    DropIfWritten(op, y, tokens * n);
    const void* packed = PackedOf(w, "matmul24Patched");
    for (int64_t t = 0; t < tokens; ++t) {
      const bool again = t > 0 && host_patches[t].data == host_patches[t - 1].data;
      if (host_patches[t].data != nullptr && !again) RequirePatch(op, host_patches[t], n, k);
    }
    Sparse(op, y, x, packed, shape);
    const ms_patch24* patches = op.Upload(host_patches, tokens);
    add_patches24(y, x, patches, packed, tokens, n, k, op.exact(), op.stream());
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
  ops->matmul_masked = MatmulMasked;
}

}  // namespace cuda
}  // namespace maskserve
