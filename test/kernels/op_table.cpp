// The CPU backend's op table under sanitizers (make -C kernels asan-test, tsan-test): every op at awkward shapes, on
// exactly sized heap buffers and several threads, so that a read past a tail or a race is caught. Results are checked
// for what needs no reference: the same bits for every number of threads, and 2:4 products equal to dense ones.
// Accuracy is tested in *.test.ts.

#include "op_table.h"

#include <algorithm>
#include <cmath>
#include <thread>

const ms_backend* backend;
int failures = 0;

namespace {

using maskserve::OpenCpuBackend;

void Products(int64_t tokens, int64_t n, int64_t k) {
  Random random{static_cast<uint64_t>(tokens * 7919 + n * 31 + k)};
  const auto x = Floats(random, tokens * k);
  const auto w = Weights(random, n * k);
  const auto meta = Metadata(random, n * k / 8);
  for (const int exact : {0, 1}) {
    SameOnAnyThreads("matmul", [&](ms_context* ctx) {
      backend->set_exact(ctx, exact);
      std::vector<float> y(static_cast<size_t>(tokens * n));
      Expect(backend->ops.matmul(ctx, y.data(), x.data(), Bf16(w), tokens, n, k) == MS_OK, "matmul", tokens, n, k);
      return y;
    });
    if (k % 8 != 0) continue;
    SameOnAnyThreads("matmul24", [&](ms_context* ctx) {
      backend->set_exact(ctx, exact);
      std::vector<uint8_t> packed(static_cast<size_t>(n * k * 9 / 8));
      std::vector<uint16_t> selected(static_cast<size_t>(n * k));
      std::vector<float> y(static_cast<size_t>(tokens * n)), dense(y.size());
      Expect(backend->ops.compress24(ctx, packed.data(), Bf16(w), meta.data(), n, k) == MS_OK, "compress24", n, k);
      Expect(backend->ops.select24(ctx, selected.data(), Bf16(w), meta.data(), n, k) == MS_OK, "select24", n, k);
      backend->ops.matmul24(ctx, y.data(), x.data(), {MS_BF16, 0, packed.data(), nullptr}, tokens, n, k);
      backend->ops.matmul(ctx, dense.data(), x.data(), Bf16(selected), tokens, n, k);
      for (size_t i = 0; i < y.size(); ++i) {
        Expect(std::fabs(y[i] - dense[i]) < 1e-4f * std::sqrt(static_cast<float>(k)), "matmul24 = matmul", tokens, n,
               k);
      }
      return y;
    });
  }
}

// Three matrices at once, of n, n + 8 and 1 rows: the bits of one after another.
void FusedProducts(int64_t tokens, int64_t n, int64_t k) {
  Random random{static_cast<uint64_t>(tokens + n * 31 + k * 7)};
  const int64_t rows[MS_MOST_PRODUCTS] = {n, n + 8, 1};
  const auto x = Floats(random, tokens * k);
  for (const int exact : {0, 1}) {
    SameOnAnyThreads("fused products", [&](ms_context* ctx) {
      backend->set_exact(ctx, exact);
      Random same = random;
      std::vector<float> all, alone;
      for (const bool sparse : {false, true}) {
        std::vector<std::vector<uint16_t>> w;
        std::vector<std::vector<uint8_t>> packed;
        std::vector<std::vector<float>> y;
        ms_product products[MS_MOST_PRODUCTS];
        for (int i = 0; i < MS_MOST_PRODUCTS; ++i) {
          w.push_back(Weights(same, rows[i] * k));
          packed.emplace_back(static_cast<size_t>(rows[i] * k * 9 / 8));
          y.emplace_back(static_cast<size_t>(tokens * rows[i]));
          const auto meta = Metadata(same, rows[i] * k / 8);
          backend->ops.compress24(ctx, packed.back().data(), Bf16(w.back()), meta.data(), rows[i], k);
          const ms_weights weights = {
              MS_BF16, 0, sparse ? static_cast<const void*>(packed.back().data()) : w.back().data(), nullptr};
          (sparse ? backend->ops.matmul24 : backend->ops.matmul)(ctx, y.back().data(), x.data(), weights, tokens,
                                                                 rows[i], k);
          alone.insert(alone.end(), y.back().begin(), y.back().end());
          std::fill(y.back().begin(), y.back().end(), 0.0f);
          products[i] = {y.back().data(), weights, nullptr, rows[i]};
        }
        const ms_ops& ops = backend->ops;
        const ms_status status =
            sparse ? ops.matmul24_fused(ctx, products, MS_MOST_PRODUCTS, x.data(), tokens, k, MS_PANEL_TOKENS)
                   : ops.matmul_fused(ctx, products, MS_MOST_PRODUCTS, x.data(), tokens, k);
        Expect(status == MS_OK, "fused", tokens, n, k);
        for (const auto& part : y) all.insert(all.end(), part.begin(), part.end());
      }
      Expect(std::memcmp(all.data(), alone.data(), all.size() * sizeof(float)) == 0, "fused = each", tokens, n, k);
      return all;
    });
  }
}

// The patch from one mask to another, made of the list of groups that differ.
std::vector<uint8_t> PatchOfChanges(ms_context* ctx, ms_weights parent, const std::vector<uint16_t>& w,
                                    const std::vector<uint8_t>& from, const std::vector<uint8_t>& to, int64_t n,
                                    int64_t k) {
  std::vector<uint32_t> groups;
  std::vector<uint8_t> nibbles;
  for (size_t group = 0; group < 2 * to.size(); ++group) {
    const int shift = group % 2 == 0 ? 0 : 4;
    const int now = to[group / 2] >> shift & 15;
    if (now == (from[group / 2] >> shift & 15)) continue;
    groups.push_back(static_cast<uint32_t>(group));
    nibbles.push_back(static_cast<uint8_t>(now));
  }
  const ms_changes24 changes = {groups.data(), nibbles.data(), static_cast<int64_t>(groups.size())};
  int64_t bytes = 0;
  Expect(backend->ops.changes_bytes24(ctx, parent, changes, n, k, &bytes) == MS_OK, "changes_bytes24", n, k);
  std::vector<uint8_t> patch(static_cast<size_t>(bytes));
  Expect(backend->ops.build_changes24(ctx, patch.data(), bytes, parent, Bf16(w), changes, n, k) == MS_OK,
         "build_changes24", n, k);
  return patch;
}

// A batch of three tasks and the parent itself: by patches, and by masks of the dense weights.
void Batches(int64_t tokens, int64_t n, int64_t k) {
  Random random{static_cast<uint64_t>(tokens * 31 + n * 7 + k)};
  const auto x = Floats(random, tokens * k);
  const auto w = Weights(random, n * k);
  std::vector<std::vector<uint8_t>> metas;
  for (int task = 0; task < 4; ++task) metas.push_back(Metadata(random, n * k / 8));
  for (const int exact : {0, 1}) {
    SameOnAnyThreads("batches", [&](ms_context* ctx) {
      backend->set_exact(ctx, exact);
      std::vector<std::vector<uint8_t>> packed, patches, codes;
      for (const auto& meta : metas) {
        packed.emplace_back(static_cast<size_t>(n * k * 9 / 8));
        backend->ops.compress24(ctx, packed.back().data(), Bf16(w), meta.data(), n, k);
        const ms_weights parent = {MS_BF16, 0, packed[0].data(), nullptr};
        int64_t bytes = 0;
        backend->ops.patch_bytes24(ctx, parent, meta.data(), n, k, &bytes);
        patches.emplace_back(static_cast<size_t>(bytes));
        Expect(
            backend->ops.build_patch24(ctx, patches.back().data(), bytes, parent, Bf16(w), meta.data(), n, k) == MS_OK,
            "build_patch24", n, k, bytes);
        const std::vector<uint8_t> listed = PatchOfChanges(ctx, parent, w, metas[0], meta, n, k);
        Expect(listed == patches.back(), "build_changes24 = build_patch24", n, k, bytes);
        codes.emplace_back(meta.size());
        Expect(backend->ops.codes24(ctx, codes.back().data(), meta.data(), n, k) == MS_OK, "codes24", n, k);
        std::vector<uint8_t> nibbles(meta.size());
        backend->ops.nibbles24(ctx, nibbles.data(), {MS_BF16, 0, packed.back().data(), nullptr}, n, k);
        Expect(nibbles == meta, "nibbles24", n, k);
      }
      std::vector<ms_patch24> patch;
      std::vector<ms_mask24> mask;
      std::vector<float> patched(static_cast<size_t>(tokens * n)), masked(patched.size()), single(patched.size());
      for (int64_t t = 0; t < tokens; ++t) {
        const size_t task = static_cast<size_t>(t % 4);
        patch.push_back({task == 0 ? nullptr : patches[task].data(), static_cast<int64_t>(patches[task].size())});
        mask.push_back({t % 3 == 0 ? packed[task].data() : codes[task].data(), t % 3 == 0});
        backend->ops.matmul24(ctx, single.data() + t * n, x.data() + t * k, {MS_BF16, 0, packed[task].data(), nullptr},
                              1, n, k);
      }
      Expect(backend->ops.matmul24_patched(ctx, patched.data(), x.data(), {MS_BF16, 0, packed[0].data(), nullptr},
                                           patch.data(), tokens, n, k) == MS_OK,
             "matmul24_patched", tokens, n, k);
      Expect(backend->ops.matmul_masked(ctx, masked.data(), x.data(), Bf16(w), mask.data(), tokens, n, k) == MS_OK,
             "matmul_masked", tokens, n, k);
      for (size_t i = 0; i < single.size(); ++i) {
        const float close = 1e-4f * std::sqrt(static_cast<float>(k));
        Expect(std::fabs(patched[i] - single[i]) < close, "matmul24_patched = matmul24", tokens, n, k);
        Expect(std::fabs(masked[i] - single[i]) < close, "matmul_masked = matmul24", tokens, n, k);
      }
      patched.insert(patched.end(), masked.begin(), masked.end());
      return patched;
    });
  }
}

void Attention(int64_t start, int64_t tokens, int64_t heads, int64_t kv_heads, int64_t head_dim, int64_t window) {
  Random random{static_cast<uint64_t>(start + 17 * tokens + head_dim)};
  const int64_t capacity = start + tokens;
  const auto q = Floats(random, tokens * heads * head_dim), table = Floats(random, capacity * head_dim / 2);
  const auto kv = Floats(random, tokens * kv_heads * head_dim), old = Floats(random, kv_heads * capacity * head_dim);
  SameOnAnyThreads("attention", [&](ms_context* ctx) {
    std::vector<float> out(q.size()), query = q, cache = old;
    if (head_dim % 2 == 0) {
      backend->ops.rope(ctx, query.data(), table.data(), table.data(), start, tokens, heads, head_dim);
    }
    std::vector<float> results;
    std::vector<uint16_t> rounded(cache.size());
    backend->ops.to_bf16(ctx, rounded.data(), cache.data(), MS_F32, static_cast<int64_t>(cache.size()));
    for (const ms_value_type type : {MS_F32, MS_BF16}) {
      void* data = type == MS_F32 ? static_cast<void*>(cache.data()) : rounded.data();
      backend->ops.kv_write(ctx, data, type, kv.data(), start, tokens, kv_heads, head_dim, capacity);
      backend->ops.attention(ctx, out.data(), query.data(), data, data, type, start, tokens, heads, kv_heads, head_dim,
                             capacity, 0.3, window);
      for (const float f : out) Expect(std::isfinite(f), "attention is finite", start, tokens, head_dim);
      results.insert(results.end(), out.begin(), out.end());
      if (head_dim % 2 != 0) continue;
      std::vector<float> key(static_cast<size_t>(kv_heads * head_dim));
      const ms_cache_row row = {data, data, start, capacity};
      backend->ops.attend_rows(ctx, out.data(), query.data(), key.data(), kv.data(), table.data(), table.data(), &row,
                               type, 1, heads, kv_heads, head_dim, 0.3, window);
      results.insert(results.end(), out.begin(), out.begin() + heads * head_dim);
    }
    return results;
  });
}

void Elementwise(int64_t n) {
  Random random{static_cast<uint64_t>(n)};
  const auto x = Floats(random, n), y = Floats(random, n);
  const auto table = Weights(random, 3 * n);
  SameOnAnyThreads("elementwise", [&](ms_context* ctx) {
    std::vector<float> out(x.size());
    std::vector<uint16_t> half(x.size());
    backend->ops.silu_mul(ctx, out.data(), x.data(), y.data(), n);
    backend->ops.add(ctx, out.data(), y.data(), n);
    backend->ops.add_bias(ctx, out.data(), x.data(), 1, n);
    backend->ops.rmsnorm(ctx, out.data(), out.data(), y.data(), 1, n, 1e-5);
    std::vector<char> crooked(x.size() * 4 + 1);
    std::memcpy(crooked.data() + 1, out.data(), x.size() * 4);
    for (const ms_value_type type : {MS_BF16, MS_F16, MS_F32}) {
      backend->ops.to_bf16(ctx, half.data(), crooked.data() + 1, type, n);
    }
    std::vector<float> row(x.size());
    const int32_t id = 2;
    backend->ops.embed(ctx, row.data(), Bf16(table), &id, 1, n);
    backend->ops.to_f32(ctx, out.data(), half.data(), MS_BF16, n);
    backend->ops.add(ctx, out.data(), row.data(), n);
    return out;
  });
}

void Sampling(int64_t vocab) {
  Random random{static_cast<uint64_t>(vocab)};
  auto logits = Floats(random, vocab);
  logits[0] = NAN;
  Context ctx(1);
  int32_t token;
  for (const double top_p : {1.0, 0.9, 1e-9}) {
    for (const int64_t top_k : {int64_t{0}, int64_t{1}, vocab / 2, 2 * vocab}) {
      const ms_draw draw{0.7, top_p, 0.999, top_k, nullptr, nullptr, 0};
      backend->ops.sample(ctx, logits.data(), &draw, 1, vocab, &token);
      Expect(token >= 0 && token < vocab, "sample", vocab, top_k, token);
    }
  }
  std::vector<int32_t> ids(static_cast<size_t>(vocab));
  std::vector<double> out(ids.size());
  backend->ops.argmax(ctx, logits.data(), vocab, &token);
  backend->ops.top_logprobs(ctx, logits.data(), vocab, ids.data(), out.data(), vocab);
  Expect(ids[0] == token, "the likeliest is the argmax", vocab);
  backend->ops.logprobs(ctx, logits.data(), vocab, ids.data(), out.data(), vocab);
  const float delta = -100;
  const ms_draw without{0, 1, 0, 0, &token, &delta, 1};
  const float before = logits[static_cast<size_t>(token)];
  int32_t other;
  backend->ops.sample(ctx, logits.data(), &without, 1, vocab, &other);
  Expect(other != token || vocab < 3, "a bias", vocab);
  Expect(logits[static_cast<size_t>(token)] == before, "logits stay", vocab);
}

void Pruning(int64_t tokens, int64_t n, int64_t k) {
  Random random{static_cast<uint64_t>(tokens + n + k)};
  const auto x = Floats(random, tokens * k), scale = Floats(random, k);
  const auto w = Weights(random, n * k);
  SameOnAnyThreads("pruning", [&](ms_context* ctx) {
    std::vector<uint8_t> meta(static_cast<size_t>(n * k / 8));
    std::vector<uint16_t> updated(w.size());
    std::vector<double> gram(static_cast<size_t>(k * k)), sums(static_cast<size_t>(k));
    backend->ops.score_mask24(ctx, meta.data(), Bf16(w), nullptr, n, k);
    backend->ops.score_mask24(ctx, meta.data(), Bf16(w), scale.data(), n, k);
    backend->ops.sum_squares(ctx, sums.data(), x.data(), tokens, k);
    backend->ops.gram(ctx, gram.data(), x.data(), tokens, k);
    const ms_status status =
        backend->ops.sparsegpt24(ctx, meta.data(), updated.data(), Bf16(w), gram.data(), tokens, n, k, 0.01);
    Expect(status == MS_OK, backend->last_error(ctx), tokens, n, k);
    std::vector<float> result(meta.begin(), meta.end());
    result.insert(result.end(), updated.begin(), updated.end());
    result.insert(result.end(), sums.begin(), sums.end());
    return result;
  });
}

void BadData() {
  Context ctx(3);
  const int64_t n = 2000, k = 512;
  std::vector<uint16_t> w(static_cast<size_t>(n * k));
  std::vector<uint8_t> meta(w.size() / 8, 0x44), packed(w.size() / 8 * 9);
  meta[static_cast<size_t>(1234 * (k / 8))] = 0x45;
  Expect(backend->ops.compress24(ctx, packed.data(), Bf16(w), meta.data(), n, k) == MS_BAD_DATA, "a bad nibble");
  Expect(std::strstr(backend->last_error(ctx), "row 1234") != nullptr, "its row");
  const ms_weights unknown = {MS_I4, 32, w.data(), nullptr};
  Expect(backend->ops.compress24(ctx, packed.data(), unknown, meta.data(), n, k) == MS_UNSUPPORTED, "an unknown type");
}

// Contexts of different threads share nothing: both pools at work at once.
void TwoCallers() {
  std::thread other([] {
    for (int i = 0; i < 5; ++i) Products(5, 700, 512);
  });
  for (int i = 0; i < 5; ++i) Products(7, 600, 640);
  other.join();
}

}  // namespace

// With --list: what the machine runs, for the loop over MASKSERVE_ISA.
int main(int argc, char** argv) {
  const char* reason = "";
  backend = OpenCpuBackend(MS_ABI_VERSION, &reason);
  if (backend == nullptr) {
    std::fprintf(stderr, "%s\n", reason);
    return 1;
  }
  if (argc > 1 && std::strcmp(argv[1], "--list") == 0) {
    std::printf("%s\n", backend->available);
    return 0;
  }
  const char* none = nullptr;
  Expect(OpenCpuBackend(MS_ABI_VERSION + 1, &none) == nullptr && none != nullptr, "another ABI version is refused");
  for (const int64_t k : {1, 8, 24, 63, 72, 136, 1000}) {
    for (const int64_t tokens : {1, 2, 3, 5, 13}) Products(tokens, 11, k);
  }
  Products(1, 43, 2120);  // long rows: two groups of a 2:4 matrix at a time
  Products(3, 300, 4160);
  Products(8, 300, 4160);
  Products(640, 290, 3400);  // an x so large that a task has several panels of weights at a time
  for (const int64_t k : {8, 72, 1000}) FusedProducts(3, 17, k);
  FusedProducts(1, 64, 256);
  FusedProducts(70, 40, 328);
  for (const int64_t k : {8, 64, 72, 200, 1000}) Batches(5, 13, k);
  Batches(9, 300, 16448);
  for (const int64_t head_dim : {1, 6, 20, 64, 80}) {
    Attention(0, 1, 3, 1, head_dim, 0);
    Attention(61, 9, 4, 2, head_dim, 0);
    Attention(70, 40, 4, 2, head_dim, 13);
  }
  Attention(300, 33, 40, 1, 32, 0);
  for (const int64_t n : {1, 3, 7, 9, 17, 31, 65, 70001}) Elementwise(n);
  for (const int64_t vocab : {2, 15, 33, 1001}) Sampling(vocab);
  Pruning(5, 3, 8);
  Pruning(300, 21, 136);
  Pruning(40, 9, 264);
  BadData();
  TwoCallers();
  TrainingOps();
  std::printf("%s: %s\n", backend->isa, failures == 0 ? "clean" : "FAILED");
  return failures == 0 ? 0 : 1;
}
