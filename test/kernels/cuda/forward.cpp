// The forward pass between the products: elements, normalisation, positions, attention, against the CPU backend.

#include <algorithm>
#include <cstddef>

#include "cases.h"

namespace {

using namespace maskserve::cuda;

constexpr double kRounding = 1e-6;
// AVX-512 multiplies keys of bf16 by a query that is a sum of two bf16s, 2⁻¹⁷ off.
constexpr double kQueryInParts = 1e-5;
constexpr ms_value_type kCacheTypes[] = {MS_F32, MS_BF16};

// A cache's elements in its own type, in the order of `values`.
std::vector<float> CacheOf(const std::vector<float>& values, ms_value_type type) {
  if (type == MS_F32) return values;
  std::vector<float> cache(values.size());
  cpu->ops.to_bf16(context, reinterpret_cast<uint16_t*>(cache.data()), values.data(), MS_F32,
                   static_cast<int64_t>(values.size()));
  return cache;
}

float FloatOf(uint16_t bits) {
  float value;
  cpu->ops.to_f32(context, &value, &bits, MS_BF16, 1);
  return value;
}
std::vector<float> Tail(const std::vector<float>& v, size_t offset, int64_t n) {
  const auto first = v.begin() + static_cast<std::ptrdiff_t>(offset);
  return std::vector<float>(first, first + n);
}

CASE(Elements, "conversions, embedding, SiLU and sums are the CPU's") {
  Random random{31};
  const int64_t n = 1000, dim = 40, rows = n / dim;
  const std::vector<float> x = Floats(random, n, 8), y = Floats(random, n), bias = Floats(random, dim);
  const std::vector<uint16_t> table = Weights(random, n);
  std::vector<uint16_t> halves(static_cast<size_t>(n)), bits = halves, bits_cpu = halves;
  for (uint16_t& h : halves) {
    h = static_cast<uint16_t>(random.Next());
    if ((h & 0x7c00) == 0x7c00) h = static_cast<uint16_t>(h & ~0x3ff);
  }
  const void* inputs[] = {table.data(), halves.data(), x.data()};
  for (ms_value_type type = MS_BF16; type <= MS_F32; ++type) {
    std::vector<float> device = Like(x), host = device;
    to_f32(device.data(), inputs[type - 1], type, n, nullptr);
    cpu->ops.to_f32(context, host.data(), inputs[type - 1], type, n);
    ExpectSame(device, host, "to_f32", type);
    to_bf16(bits.data(), inputs[type - 1], type, n, nullptr);
    cpu->ops.to_bf16(context, bits_cpu.data(), inputs[type - 1], type, n);
    ExpectSame(bits, bits_cpu, "to_bf16", type);
  }
  std::vector<int32_t> ids;
  for (int64_t t = 0; t < 7; ++t) ids.push_back(static_cast<int32_t>(random.Below(rows)));
  std::vector<float> device(static_cast<size_t>(7 * dim)), host = device;
  embed(device.data(), table.data(), ids.data(), 7, dim, nullptr);
  cpu->ops.embed(context, host.data(), Bf16(table), ids.data(), 7, dim);
  ExpectSame(device, host, "embed");
  device = x;
  host = x;
  silu_mul(device.data(), device.data(), y.data(), n, nullptr);
  cpu->ops.silu_mul(context, host.data(), host.data(), y.data(), n);
  ExpectNear(device, host, kRounding, "silu_mul");
  add(device.data(), y.data(), n, nullptr);
  cpu->ops.add(context, host.data(), y.data(), n);
  add_bias(device.data(), bias.data(), rows, dim, nullptr);
  cpu->ops.add_bias(context, host.data(), bias.data(), rows, dim);
  scale_by(device.data(), 0.3, n, nullptr);
  cpu->ops.scale_by(context, host.data(), 0.3, n);
  ExpectNear(device, host, kRounding, "add, add_bias, scale_by");
  mul_bf16(device.data(), x.data(), table.data(), n, nullptr);
  cpu->ops.mul_bf16(context, host.data(), x.data(), Bf16(table), n);
  ExpectSame(device, host, "mul_bf16");
  uint64_t all = 0, expected = 0;
  read_through(&all, x.data(), 4 * n - 5, nullptr);
  cpu->ops.read_through(context, x.data(), 4 * n - 5, &expected);
  Expect(all == expected, "read_through");
}

CASE(Tails, "elements of any number, anywhere in memory, are the CPU's") {
  Random random{37};
  for (const int64_t n : {int64_t{1}, int64_t{3}, int64_t{4}, int64_t{1023}, int64_t{1024}, int64_t{2050}}) {
    for (const size_t offset : {size_t{0}, size_t{1}, size_t{2}}) {
      const auto room = static_cast<size_t>(n) + offset + 1;
      const std::vector<float> y = Floats(random, static_cast<int64_t>(room), 4);
      const std::vector<uint16_t> table = Weights(random, static_cast<int64_t>(3 * room));
      std::vector<float> device = Floats(random, static_cast<int64_t>(room)), host = device;
      std::vector<uint16_t> bits(room), bits_cpu(room);
      silu_mul(device.data() + offset, device.data() + offset, y.data(), n, nullptr);
      cpu->ops.silu_mul(context, host.data() + offset, host.data() + offset, y.data(), n);
      add(device.data() + offset, y.data() + 1, n, nullptr);
      cpu->ops.add(context, host.data() + offset, y.data() + 1, n);
      add_bias(device.data() + offset, y.data() + offset, 1, n, nullptr);
      cpu->ops.add_bias(context, host.data() + offset, y.data() + offset, 1, n);
      scale_by(device.data() + offset, 0.7, n, nullptr);
      cpu->ops.scale_by(context, host.data() + offset, 0.7, n);
      ExpectNear(device, host, kRounding, "silu_mul, add, add_bias, scale_by", n);
      to_bf16(bits.data() + offset, y.data() + offset, MS_F32, n, nullptr);
      cpu->ops.to_bf16(context, bits_cpu.data() + offset, y.data() + offset, MS_F32, n);
      ExpectSame(bits, bits_cpu, "to_bf16", n);
      const std::vector<uint16_t> part(table.begin() + static_cast<std::ptrdiff_t>(offset), table.end());
      mul_bf16(device.data() + offset, y.data(), table.data() + offset, n, nullptr);
      cpu->ops.mul_bf16(context, host.data() + offset, y.data(), Bf16(part), n);
      ExpectSame(Tail(device, offset, n), Tail(host, offset, n), "mul_bf16", n);
      const int32_t id = 2;
      embed(device.data() + offset, table.data() + offset, &id, 1, n, nullptr);
      for (int64_t i = 0; i < n; ++i) {
        Expect(device[offset + static_cast<size_t>(i)] == FloatOf(table[offset + static_cast<size_t>(2 * n + i)]),
               "embed", n, i);
      }
    }
  }
}

CASE(Norms, "RMSNorm is the CPU's, of narrow and of wide rows, in place too; a row's bits are its own") {
  Random random{32};
  const int64_t dims[] = {1, 6, 64, 255, 256, 1024, 1500, 2049, 4096, 6001, 8196, 9001};
  for (const int64_t dim : dims) {
    const int64_t rows = 5;
    const std::vector<float> x = Floats(random, rows * dim), gain = Floats(random, dim);
    std::vector<float> device = x, host = x;
    rmsnorm(device.data(), device.data(), gain.data(), rows, dim, 1e-5, nullptr);
    cpu->ops.rmsnorm(context, host.data(), x.data(), gain.data(), rows, dim, 1e-5);
    ExpectNear(device, host, kRounding, "rmsnorm", dim);
    // By itself, and where no vector is aligned.
    std::vector<float> crooked(static_cast<size_t>(dim) + 1), one(static_cast<size_t>(dim));
    std::copy(x.begin() + 3 * dim, x.begin() + 4 * dim, crooked.begin() + 1);
    rmsnorm(one.data(), crooked.data() + 1, gain.data(), 1, dim, 1e-5, nullptr);
    ExpectSame(one, std::vector<float>(device.begin() + 3 * dim, device.begin() + 4 * dim), "a row by itself", dim);
  }
}

CASE(Positions, "rotary embedding and cache writes are the CPU's") {
  Random random{33};
  const int64_t heads = 3, hd = 12, tokens = 5, start = 7, positions = 16;
  const std::vector<float> cos = Floats(random, positions * hd / 2), sin = Floats(random, positions * hd / 2);
  std::vector<float> device = Floats(random, tokens * heads * hd), host = device;
  rope(device.data(), cos.data(), sin.data(), start, tokens, heads, hd, nullptr);
  cpu->ops.rope(context, host.data(), cos.data(), sin.data(), start, tokens, heads, hd);
  ExpectNear(device, host, kRounding, "rope");
  for (const ms_value_type type : kCacheTypes) {
    std::vector<float> cache(static_cast<size_t>(heads * positions * hd)), cache_cpu = cache;
    kv_write(cache.data(), type, host.data(), start, tokens, heads, hd, positions, nullptr);
    cpu->ops.kv_write(context, cache_cpu.data(), type, host.data(), start, tokens, heads, hd, positions);
    ExpectSame(cache, cache_cpu, "kv_write", type);
  }
  for (const int32_t inverse : {0, 1}) {
    std::vector<float> batch = Floats(random, 2 * tokens * heads * hd), batch_cpu = batch;
    rope_batch(batch.data(), cos.data(), sin.data(), 2, tokens, heads, hd, inverse, nullptr);
    cpu->ops.rope_batch(context, batch_cpu.data(), cos.data(), sin.data(), 2, tokens, heads, hd, inverse);
    ExpectNear(batch, batch_cpu, kRounding, "rope_batch", inverse);
  }
}

struct Heads {
  int64_t heads, kv_heads, head_dim;
};
const Heads kHeads[] = {{2, 2, 32}, {6, 2, 20}, {8, 1, 64}, {3, 3, 128}, {2, 1, 256}};

CASE(Prefill, "attention of many queries is the CPU's, with and without a window") {
  Random random{34};
  for (const Heads& h : kHeads) {
    const int64_t capacity = 90, tokens = 41;
    const std::vector<float> q = Floats(random, tokens * h.heads * h.head_dim);
    const std::vector<float> keys = Floats(random, h.kv_heads * capacity * h.head_dim),
                             values = Floats(random, static_cast<int64_t>(keys.size()));
    for (const int64_t start : {int64_t{0}, int64_t{33}}) {
      for (const int64_t window : {int64_t{0}, int64_t{1}, int64_t{19}}) {
        const ms_value_type type = kCacheTypes[(start + window) % 2];
        const std::vector<float> k = CacheOf(keys, type), v = CacheOf(values, type);
        std::vector<float> device = Like(q), host = device;
        attention(device.data(), q.data(), k.data(), v.data(), type, start, tokens, h.heads, h.kv_heads, h.head_dim,
                  capacity, 0.4, window, nullptr);
        cpu->ops.attention(context, host.data(), q.data(), k.data(), v.data(), type, start, tokens, h.heads, h.kv_heads,
                           h.head_dim, capacity, 0.4, window);
        ExpectNear(device, host, type == MS_BF16 ? kQueryInParts : kRounding, "attention", h.head_dim);
      }
    }
  }
}

// One call of attention_mma, against the CPU's attention.
void CompareTensorPrefill(Random& random, const Heads& h, ms_value_type type, int64_t start, int64_t tokens,
                          int64_t window, int64_t capacity) {
  const int64_t size = h.kv_heads * capacity * h.head_dim;
  const std::vector<float> q = Rounded(Floats(random, tokens * h.heads * h.head_dim));
  const std::vector<float> k = CacheOf(Rounded(Floats(random, size)), type),
                           v = CacheOf(Rounded(Floats(random, size)), type);
  std::vector<float> device = Like(q), host = device;
  attention_mma(device.data(), q.data(), k.data(), v.data(), type, start, tokens, h.heads, h.kv_heads, h.head_dim,
                capacity, 0.4, window, nullptr);
  cpu->ops.attention(context, host.data(), q.data(), k.data(), v.data(), type, start, tokens, h.heads, h.kv_heads,
                     h.head_dim, capacity, 0.4, window);
  // A probability is rounded to 2⁻⁹; with a window of 1 it is 1.
  ExpectNear(device, host, window == 1 ? 1e-6 : 0x1p-9, "attention_mma", h.head_dim);
}

CASE(TensorPrefill, "attention on tensor cores is the CPU's to the rounding of probabilities") {
  Random random{36};
  for (const Heads& h : {Heads{2, 2, 16}, Heads{4, 2, 48}, Heads{3, 1, 64}, Heads{2, 1, 96}, Heads{2, 1, 128}}) {
    for (const int64_t start : {int64_t{0}, int64_t{61}}) {
      for (const int64_t window : {int64_t{0}, int64_t{1}, int64_t{40}}) {
        CompareTensorPrefill(random, h, kCacheTypes[(start + window) % 2], start, 83, window, 151);
      }
    }
  }
}

// Heads enough for blocks of 128 queries.
CASE(WideTensorPrefill, "attention on tensor cores of many heads, in blocks of more queries, is the CPU's") {
  Random random{37};
  CompareTensorPrefill(random, {132, 2, 16}, MS_BF16, 33, 41, 0, 75);
  CompareTensorPrefill(random, {66, 2, 32}, MS_BF16, 150, 130, 70, 281);
  CompareTensorPrefill(random, {132, 1, 80}, MS_BF16, 0, 35, 0, 35);
  CompareTensorPrefill(random, {132, 33, 128}, MS_BF16, 70, 33, 80, 111);
}

CASE(ChunkedTensorPrefill, "a query's attention on tensor cores does not depend on the others of its call") {
  Random random{38};
  const int64_t heads = 66, hd = 16, tokens = 135, capacity = 180, start = 33;
  const std::vector<float> q = Floats(random, tokens * heads * hd);
  const std::vector<float> k = CacheOf(Floats(random, capacity * hd), MS_BF16),
                           v = CacheOf(Floats(random, capacity * hd), MS_BF16);
  for (const int64_t window : {int64_t{0}, int64_t{50}}) {
    std::vector<float> whole = Like(q), parts = whole;
    const auto attend = [&](std::vector<float>& out, int64_t first, int64_t count) {
      const int64_t at = first * heads * hd;
      attention_mma(out.data() + at, q.data() + at, k.data(), v.data(), MS_BF16, start + first, count, heads, 1, hd,
                    capacity, 0.4, window, nullptr);
    };
    attend(whole, 0, tokens);
    for (int64_t first = 0; first < tokens; first += 77) attend(parts, first, std::min<int64_t>(77, tokens - first));
    ExpectSame(whole, parts, "chunks", window);
  }
}

// Sequences at several positions, a copy of them for each backend.
struct Batch {
  std::vector<std::vector<float>> keys, values;
  std::vector<ms_cache_row> rows;

  Batch(Random random, const Heads& h, const std::vector<int64_t>& positions, int64_t capacity, ms_value_type type) {
    const int64_t floats = h.kv_heads * capacity * h.head_dim;
    for (size_t r = 0; r < positions.size(); ++r) {
      keys.push_back(CacheOf(Floats(random, floats), type));
      values.push_back(CacheOf(Floats(random, floats), type));
    }
    for (size_t r = 0; r < positions.size(); ++r) {
      rows.push_back({keys[r].data(), values[r].data(), positions[r], capacity});
    }
  }
};

// attend_rows of some rows on both sides; the outputs of the device.
std::vector<float> CompareDecode(const Heads& h, const std::vector<int64_t>& positions, int64_t capacity,
                                 ms_value_type type, int64_t window, int64_t max_position) {
  Random random{35};
  const int64_t rows = static_cast<int64_t>(positions.size());
  const std::vector<float> cos = Floats(random, capacity * h.head_dim / 2),
                           sin = Floats(random, capacity * h.head_dim / 2);
  const std::vector<float> v = Floats(random, rows * h.kv_heads * h.head_dim);
  std::vector<float> q_device = Floats(random, rows * h.heads * h.head_dim), q_host = q_device;
  std::vector<float> k_device = Floats(random, rows * h.kv_heads * h.head_dim), k_host = k_device;
  Batch device(random, h, positions, capacity, type), host(random, h, positions, capacity, type);
  std::vector<float> out = Like(q_device), out_host = out;
  std::vector<float> workspace(attend_rows_workspace(rows, h.heads, h.kv_heads, h.head_dim, max_position) /
                               sizeof(float));
  attend_rows(out.data(), q_device.data(), k_device.data(), v.data(), cos.data(), sin.data(), device.rows.data(), type,
              rows, h.heads, h.kv_heads, h.head_dim, 0.4, window, max_position, workspace.data(), nullptr);
  cpu->ops.attend_rows(context, out_host.data(), q_host.data(), k_host.data(), v.data(), cos.data(), sin.data(),
                       host.rows.data(), type, rows, h.heads, h.kv_heads, h.head_dim, 0.4, window);
  ExpectNear(q_device, q_host, kRounding, "q", h.head_dim);
  ExpectNear(k_device, k_host, kRounding, "k", h.head_dim);
  ExpectNear(out, out_host, type == MS_BF16 ? kQueryInParts : kRounding, "attend_rows", h.head_dim);
  for (size_t r = 0; r < positions.size(); ++r) {
    ExpectNear(device.keys[r], host.keys[r], kRounding, "keys", positions[r]);
    ExpectSame(device.values[r], host.values[r], "values", positions[r]);
  }
  return out;
}

CASE(Decode, "a token of each sequence attends to its own cache as on the CPU") {
  for (const Heads& h : kHeads) {
    for (const ms_value_type type : kCacheTypes) {
      for (const int64_t window : {0, 100}) CompareDecode(h, {0, 5, 255, 256, 600}, 611, type, window, 610);
    }
  }
}

// 5 · 66 and 5 · 27 blocks a split: none need more than 256 keys, and 128; one head of one row: 64, and more splits
// than are joined at once.
CASE(DecodeSplits, "splits of every length, and many of them, give the CPU's attention") {
  for (const int64_t heads : {66, 27}) {
    CompareDecode({heads, heads, 16}, {0, 127, 128, 256, 517}, 520, MS_BF16, 0, 519);
    CompareDecode({heads, heads, 16}, {3, 255, 257, 300, 513}, 515, MS_F32, 140, 514);
  }
  // Rows of bf16 that are not aligned to 16 bytes, in 32 lanes.
  for (const ms_value_type type : kCacheTypes) CompareDecode({5, 1, 132}, {3, 70}, 73, type, 0, 72);
  for (const int64_t window : {0, 2100}) CompareDecode({3, 1, 32}, {2200}, 2203, MS_BF16, window, 2200);
}

CASE(DecodeAlone, "a row's attention depends neither on the other rows nor on the largest position expected") {
  const Heads h = {8, 2, 32};
  const size_t row = static_cast<size_t>(h.heads * h.head_dim);
  for (const int64_t window : {0, 300}) {
    const std::vector<float> a = CompareDecode(h, {700, 3}, 1100, MS_BF16, window, 700);
    const std::vector<float> b = CompareDecode(h, {700, 1000}, 1100, MS_BF16, window, 1023);
    ExpectSame(std::vector<float>(a.begin(), a.begin() + static_cast<std::ptrdiff_t>(row)),
               std::vector<float>(b.begin(), b.begin() + static_cast<std::ptrdiff_t>(row)), "a row", window);
  }
}

}  // namespace
