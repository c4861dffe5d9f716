// Products of a few tokens, 2:4 forms and patches against the CPU backend: forms byte by byte, products to fp32
// rounding, with the activations rounded to bf16 beforehand where the kernels round them.

#include "../../../kernels/cuda/host/execution.h"
#include "cases.h"

namespace {

using namespace maskserve::cuda;

constexpr double kRounding = 2e-6;

struct Shape {
  int64_t tokens, n, k;
};
const Shape kShapes[] = {{1, 1, 8},   {1, 37, 64},  {2, 5, 520},  {3, 64, 192}, {4, 33, 1024},
                         {5, 18, 72}, {9, 40, 128}, {16, 70, 64}, {19, 21, 320}};

// A matrix, a mask, and the two packed forms of it.
struct Matrix {
  int64_t n, k;
  std::vector<uint16_t> w;
  Bytes meta, device, host;

  Matrix(Random& random, int64_t n_, int64_t k_) : n(n_), k(k_), w(Weights(random, n * k)) {
    SetMask(Metadata(random, n * k / 8));
  }
  void SetMask(Bytes mask) {
    meta = std::move(mask);
    device.assign(static_cast<size_t>(n * k * 9 / 8), 0);
    host = device;
    uint64_t bad = UINT64_MAX;
    compress24(device.data(), w.data(), meta.data(), n, k, &bad, nullptr);
    Expect(bad == UINT64_MAX, "compress24 finds a bad row where there is none", n, k);
    cpu->ops.compress24(context, host.data(), Bf16(w), meta.data(), n, k);
  }
  ms_weights Packed() const { return {MS_BF16, 0, host.data(), nullptr}; }
};

// A mask that differs from another in one of `one_in` groups.
Bytes Changed(Random& random, const Bytes& meta, int64_t one_in) {
  Bytes changed = meta;
  for (int64_t g = 0; g < 2 * static_cast<int64_t>(meta.size()); ++g) {
    if (random.OneIn(one_in)) SetNibble(changed, g, kNibbles[random.Below(6)]);
  }
  return changed;
}

// fn(y, x, exact) on the device against reference(y, x), which computes in fp32.
template <typename Fn, typename Reference>
void Compare(const char* what, const std::vector<float>& x, const Shape& s, const Fn& fn, const Reference& reference) {
  for (const int exact : {0, 1}) {
    std::vector<float> y(static_cast<size_t>(s.tokens * s.n)), expected(y.size());
    fn(y.data(), x.data(), exact);
    cpu->set_exact(context, 1);
    const std::vector<float> multiplied = exact != 0 ? x : Rounded(x);
    reference(expected.data(), multiplied.data());
    cpu->set_exact(context, 0);
    ExpectNear(y, expected, kRounding, what, s.k);
  }
}

CASE(DenseProducts, "dense products of a few tokens are the CPU's") {
  Random random{21};
  for (const Shape& shape : kShapes) {
    for (const int64_t k : {shape.k, shape.k + 3}) {
      const Shape s = {shape.tokens, shape.n, k};
      const std::vector<float> x = Floats(random, s.tokens * k);
      const std::vector<uint16_t> w = Weights(random, s.n * k);
      Compare(
          "matmul", x, s,
          [&](float* y, const float* in, int exact) { matmul(y, in, w.data(), s.tokens, s.n, k, exact, nullptr); },
          [&](float* y, const float* in) { cpu->ops.matmul(context, y, in, Bf16(w), s.tokens, s.n, k); });
    }
  }
}

CASE(SparseProducts, "2:4 products of a few tokens are the CPU's, on CUDA cores and on sparse tensor cores") {
  Random random{22};
  for (const Shape& s : kShapes) {
    const Matrix m(random, s.n, s.k);
    std::vector<float> x = Floats(random, s.tokens * s.k);
    const auto reference = [&](float* y, const float* in) {
      cpu->ops.matmul24(context, y, in, m.Packed(), s.tokens, s.n, s.k);
    };
    for (const bool finite : {true, false}) {
      // Pruned in some rows, kept in others.
      if (!finite) x[static_cast<size_t>(random.Below(static_cast<int64_t>(x.size())))] = INFINITY;
      Compare(
          "gemv24", x, s,
          [&](float* y, const float* in, int exact) {
            gemv24(y, in, m.device.data(), s.tokens, s.n, s.k, exact, nullptr);
          },
          reference);
      Compare(
          "matmul24", x, s,
          [&](float* y, const float* in, int exact) {
            matmul24(y, in, m.device.data(), s.tokens, s.n, s.k, exact, nullptr);
          },
          reference);
      if (s.k % 64 != 0) continue;
      std::vector<float> y(static_cast<size_t>(s.tokens * s.n)), expected(y.size());
      mma24(y.data(), x.data(), m.device.data(), s.tokens, s.n, s.k, nullptr);
      cpu->set_exact(context, 1);
      reference(expected.data(), Rounded(x).data());
      cpu->set_exact(context, 0);
      ExpectNear(y, expected, kRounding, "mma24", s.k);
    }
  }
}

CASE(WideLayers, "a layer of many rows takes the wider tile of mma24, and so do layers that have as many together") {
  Random random{23};
  for (const int64_t tokens : {int64_t{7}, int64_t{13}}) {
    const int64_t n = 4100, k = 64;
    const Matrix m(random, n, k);
    const std::vector<float> x = Rounded(Floats(random, tokens * k));
    std::vector<float> y(static_cast<size_t>(tokens * n)), expected(y.size());
    mma24(y.data(), x.data(), m.device.data(), tokens, n, k, nullptr);
    cpu->set_exact(context, 1);
    cpu->ops.matmul24(context, expected.data(), x.data(), m.Packed(), tokens, n, k);
    cpu->set_exact(context, 0);
    ExpectNear(y, expected, kRounding, "mma24", n);
    // Together with another they take the wider tile, by itself neither does.
    const Matrix less(random, 4090, k), few(random, 6, k);
    std::vector<float> alone(static_cast<size_t>(tokens * less.n)), beside(alone.size());
    std::vector<float> alone_few(static_cast<size_t>(tokens * few.n)), beside_few(alone_few.size());
    mma24(alone.data(), x.data(), less.device.data(), tokens, less.n, k, nullptr);
    mma24(alone_few.data(), x.data(), few.device.data(), tokens, few.n, k, nullptr);
    const ms_product both[] = {{beside.data(), {MS_BF16, 0, less.device.data(), nullptr}, nullptr, less.n},
                               {beside_few.data(), {MS_BF16, 0, few.device.data(), nullptr}, nullptr, few.n}};
    mma24_fused(both, 2, x.data(), tokens, k, nullptr);
    ExpectSame(beside, alone, "rows of both tiles", tokens);
    ExpectSame(beside_few, alone_few, "rows of both tiles", tokens);
  }
}

CASE(MaskedProducts, "dense weights under a mask for each token give the CPU's products") {
  Random random{24};
  for (const Shape& s : kShapes) {
    std::vector<Matrix> tasks;
    for (int i = 0; i < 3; ++i) tasks.emplace_back(random, s.n, s.k);
    const std::vector<uint16_t>& w = tasks[0].w;
    std::vector<Bytes> codes;
    for (const Matrix& task : tasks) {
      codes.emplace_back(task.meta.size());
      cpu->ops.codes24(context, codes.back().data(), task.meta.data(), s.n, s.k);
    }
    std::vector<ms_mask24> device, host;
    for (int64_t t = 0; t < s.tokens; ++t) {
      const size_t i = static_cast<size_t>(t % 4);
      const bool packed = t % 3 == 1 && i < 3;
      device.push_back(i == 3 ? ms_mask24{nullptr, 0}
                              : ms_mask24{packed ? tasks[i].device.data() : tasks[i].meta.data(), packed});
      host.push_back(i == 3 ? ms_mask24{nullptr, 0}
                            : ms_mask24{packed ? tasks[i].host.data() : codes[i].data(), packed});
    }
    Compare(
        "matmul_masked", Floats(random, s.tokens * s.k), s,
        [&](float* y, const float* x, int exact) {
          matmul_masked(y, x, w.data(), device.data(), s.tokens, s.n, s.k, exact, nullptr);
        },
        [&](float* y, const float* x) {
          cpu->ops.matmul_masked(context, y, x, Bf16(w), host.data(), s.tokens, s.n, s.k);
        });
  }
}

// The mask that a patch of the device (cuda/patch24.cuh) makes of its parent's, swap by swap; the weights that it holds
// must be those of the swapped places.
Bytes Patched(const Matrix& m, const Bytes& patch) {
  const int64_t per_row = (m.k + (1 << 18) - 1) >> 18, sections = m.n * per_row;
  const auto read = [&](int64_t at, size_t bytes) {
    uint32_t value = 0;
    std::memcpy(&value, patch.data() + at, bytes);
    return value;
  };
  Bytes mask = m.meta;
  for (int64_t s = 0; s < sections; ++s) {
    const int64_t begin = read(32 + 4 * s, 4), end = read(36 + 4 * s, 4), count = (end - begin) * 2 / 13;
    const int64_t pairs = 32 + 4 * (sections + 1) + begin, groups = pairs + 4 * count, nibbles = groups + 2 * count;
    Expect(6 * count + (count + 1) / 2 == end - begin, "bytes of a section", s);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t group = (s / per_row * m.k + (s % per_row << 18)) / 4 + read(groups + 2 * i, 2);
      const uint32_t swap = read(nibbles + i / 2, 1) >> 4 * (i % 2) & 15, in = swap & 3, out = swap >> 2;
      const uint16_t* weights = m.w.data() + 4 * group;
      Expect(read(pairs + 4 * i, 4) == (weights[in] | (weights[out] ^ 0x8000u) << 16), "weights of a swap", s, i);
      uint32_t kept = 0;
      for (const unsigned at : {NibbleAt(mask, group) & 3, NibbleAt(mask, group) >> 2}) kept |= 1u << at;
      Expect((kept >> out & 1) != 0 && (kept >> in & 1) == 0, "a swap of what is not there", s, i);
      kept ^= 1u << in | 1u << out;
      const unsigned low = static_cast<unsigned>(__builtin_ctz(kept)),
                     high = 31u - static_cast<unsigned>(__builtin_clz(kept));
      SetNibble(mask, group, low | high << 2);
    }
  }
  return mask;
}

// The patch from m to `child`.
Bytes Patch(const Matrix& m, const Bytes& child) {
  const int64_t sections = m.n * ((m.k + (1 << 18) - 1) >> 18);
  std::vector<uint32_t> offsets(static_cast<size_t>(sections + 1));
  int64_t total = -1;
  uint64_t bad = UINT64_MAX;
  patch_offsets24(offsets.data(), &total, m.device.data(), child.data(), m.n, m.k, &bad, nullptr);
  Bytes patch(static_cast<size_t>(32 + 4 * (sections + 1) + total + 4));
  build_patch24(patch.data(), offsets.data(), m.device.data(), m.w.data(), child.data(), m.n, m.k, &bad, nullptr);
  Expect(bad == UINT64_MAX, "a bad row where there is none", m.n, m.k);
  ExpectSame(Patched(m, patch), child, "the patched mask", m.k);
  return patch;
}
Bytes PatchOnCpu(const Matrix& m, const Bytes& child) {
  int64_t bytes = 0;
  cpu->ops.patch_bytes24(context, m.Packed(), child.data(), m.n, m.k, &bytes);
  Bytes patch(static_cast<size_t>(bytes));
  cpu->ops.build_patch24(context, patch.data(), bytes, m.Packed(), Bf16(m.w), child.data(), m.n, m.k);
  return patch;
}

CASE(PatchedProducts, "patches hold the swaps to the child's mask, and correct a parent's product as on the CPU") {
  Random random{25};
  for (const Shape& s : kShapes) {
    const Matrix parent(random, s.n, s.k);
    std::vector<Bytes> patches, patches_cpu;
    for (const int64_t one_in : {2, 30, 1000000}) {
      const Bytes child = Changed(random, parent.meta, one_in);
      patches.push_back(Patch(parent, child));
      patches_cpu.push_back(PatchOnCpu(parent, child));
    }
    std::vector<ms_patch24> device, host;
    for (int64_t t = 0; t < s.tokens; ++t) {
      const size_t i = static_cast<size_t>(t % 4);
      const auto of = [i](const std::vector<Bytes>& all) {
        return i == 3 ? ms_patch24{nullptr, 0} : ms_patch24{all[i].data(), static_cast<int64_t>(all[i].size())};
      };
      device.push_back(of(patches));
      host.push_back(of(patches_cpu));
    }
    std::vector<float> x = Floats(random, s.tokens * s.k);
    for (const bool finite : {true, false}) {
      if (!finite) x[static_cast<size_t>(random.Below(static_cast<int64_t>(x.size())))] = INFINITY;
      Compare(
          "matmul24 and add_patches24", x, s,
          [&](float* y, const float* in, int exact) {
            matmul24(y, in, parent.device.data(), s.tokens, s.n, s.k, exact, nullptr, false);
            add_patches24(y, in, device.data(), parent.device.data(), s.tokens, s.n, s.k, exact, nullptr);
          },
          [&](float* y, const float* in) {
            cpu->ops.matmul24_patched(context, y, in, parent.Packed(), host.data(), s.tokens, s.n, s.k);
          });
    }
  }
}

CASE(FusedProducts, "products of one x in one launch, and their patches in another, have the bits of each") {
  Random random{29};
  for (const Shape& s : kShapes) {
    std::vector<Matrix> matrices;
    std::vector<std::vector<ms_patch24>> patches;
    std::vector<Bytes> patch_bytes;
    // The last has fewer rows than a block.
    for (const int64_t n : {s.n, s.n + 4, int64_t{3}}) {
      matrices.emplace_back(random, n, s.k);
      patch_bytes.push_back(Patch(matrices.back(), Changed(random, matrices.back().meta, 5)));
    }
    for (size_t i = 0; i < matrices.size(); ++i) {
      const ms_patch24 patch = {patch_bytes[i].data(), static_cast<int64_t>(patch_bytes[i].size())};
      patches.emplace_back(static_cast<size_t>(s.tokens), patch);
      patches.back()[i % patches.back().size()] = {nullptr, 0};
    }
    std::vector<float> values = Floats(random, s.tokens * s.k);
    const float* x = values.data();
    for (const bool finite : {true, false}) {
      if (!finite) values[static_cast<size_t>(random.Below(s.tokens * s.k))] = INFINITY;
      for (int64_t count = finite ? 1 : MS_MOST_PRODUCTS; count <= MS_MOST_PRODUCTS; ++count) {
        // fused(products): y of all; alone(product): of one.
        const auto compare = [&](const char* what, bool packed, const auto& fused, const auto& alone) {
          std::vector<std::vector<float>> y, expected;
          std::vector<ms_product> products;
          for (size_t i = 0; i < static_cast<size_t>(count); ++i) {
            const Matrix& m = matrices[i];
            const void* w = packed ? static_cast<const void*>(m.device.data()) : m.w.data();
            y.emplace_back(static_cast<size_t>(s.tokens * m.n), 1.0f);
            products.push_back({y[i].data(), {MS_BF16, 0, w, nullptr}, patches[i].data(), m.n});
          }
          expected = y;
          static int64_t launches;
          launches = 0;
          host::Submitter() = [](cudaStream_t, std::function<void()> launch) {
            ++launches;
            launch();
          };
          fused(products.data());
          host::Submitter() = nullptr;
          Expect(launches == 1, what, launches);
          for (size_t i = 0; i < y.size(); ++i) {
            products[i].y = expected[i].data();
            alone(products[i]);
            ExpectSame(y[i], expected[i], what, count);
          }
        };
        const int64_t tokens = s.tokens, k = s.k;
        for (const int exact : {0, 1}) {
          compare(
              "matmul_fused", false,
              [&](const ms_product* all) { matmul_fused(all, count, x, tokens, k, exact, nullptr); },
              [&](const ms_product& p) {
                matmul(p.y, x, static_cast<const uint16_t*>(p.w.values), tokens, p.n, k, exact, nullptr);
              });
          compare(
              "matmul24_fused", true,
              [&](const ms_product* all) { matmul24_fused(all, count, x, tokens, k, exact, nullptr); },
              [&](const ms_product& p) { matmul24(p.y, x, p.w.values, tokens, p.n, k, exact, nullptr); });
          compare(
              "add_patches24_fused", true,
              [&](const ms_product* all) { add_patches24_fused(all, count, x, tokens, k, exact, nullptr); },
              [&](const ms_product& p) {
                add_patches24(p.y, x, p.host_patches, p.w.values, tokens, p.n, k, exact, nullptr);
              });
        }
        if (k % 64 != 0) continue;
        compare(
            "mma24_fused", true, [&](const ms_product* all) { mma24_fused(all, count, x, tokens, k, nullptr); },
            [&](const ms_product& p) { mma24(p.y, x, p.w.values, tokens, p.n, k, nullptr); });
      }
    }
  }
}

CASE(LongRows, "patches of very long rows, of very many, and of weights that are not finite") {
  Random random{26};
  const Matrix parent(random, 2, (1 << 18) + 64);
  Patch(parent, Changed(random, parent.meta, 50));
  const Matrix tall(random, 2100, 8);
  Patch(tall, Changed(random, tall.meta, 3));
  Matrix infinite(random, 3, 64);
  for (uint16_t& w : infinite.w) w = 0x7f80;
  const Bytes child = Changed(random, infinite.meta, 1);
  std::vector<uint32_t> offsets(4);
  int64_t total = 0;
  uint64_t bad = UINT64_MAX;
  patch_offsets24(offsets.data(), &total, infinite.device.data(), child.data(), 3, 64, &bad, nullptr);
  Bytes patch(static_cast<size_t>(32 + 16 + total + 4));
  build_patch24(patch.data(), offsets.data(), infinite.device.data(), infinite.w.data(), child.data(), 3, 64, &bad,
                nullptr);
  Expect(bad == 0, "the first row whose outgoing weights are not finite", static_cast<int64_t>(bad));
}

CASE(Forms24, "2:4 forms are the CPU's selections, and a bad nibble is found in its row") {
  Random random{27};
  for (const Shape& s : kShapes) {
    const Matrix m(random, s.n, s.k);
    uint64_t bad = UINT64_MAX;
    ExpectSame(Bytes(m.device.begin() + static_cast<std::ptrdiff_t>(s.n * s.k), m.device.end()), m.meta, "nibbles");
    std::vector<uint16_t> device(m.w.size()), host(m.w.size());
    select24(device.data(), m.w.data(), m.meta.data(), s.n, s.k, &bad, nullptr);
    cpu->ops.select24(context, host.data(), Bf16(m.w), m.meta.data(), s.n, s.k);
    ExpectSame(device, host, "select24", s.k);
    const std::vector<float> floats = Floats(random, s.n * s.k);
    select24_f32(device.data(), floats.data(), m.meta.data(), s.n, s.k, &bad, nullptr);
    cpu->ops.select24_f32(context, host.data(), floats.data(), m.meta.data(), s.n, s.k);
    ExpectSame(device, host, "select24_f32", s.k);
    std::vector<float> kept = floats, kept_host = floats;
    keep24_f32(kept.data(), m.meta.data(), s.n, s.k, &bad, nullptr);
    cpu->ops.keep24_f32(context, kept_host.data(), m.meta.data(), s.n, s.k);
    ExpectSame(kept, kept_host, "keep24_f32", s.k);
    Expect(bad == UINT64_MAX, "a bad row where there is none", s.n, s.k);
    Bytes broken = m.meta, out(broken.size());
    const int64_t row = random.Below(s.n);
    for (int64_t r = row; r < s.n; ++r) SetNibble(broken, r * s.k / 4 + random.Below(s.k / 4), 5);
    check_meta24(out.data(), broken.data(), s.n, s.k, &bad, nullptr);
    Expect(bad == static_cast<uint64_t>(row), "the first bad row", static_cast<int64_t>(bad), row);
  }
}

CASE(Recompressed, "swapping changed groups in place is compressing anew") {
  Random random{28};
  Matrix m(random, 12, 136);
  const Bytes child = Changed(random, m.meta, 5);
  std::vector<uint32_t> positions(static_cast<size_t>(m.n * m.k / 4));
  Bytes codes(positions.size()), swapped = m.device;
  int64_t changes = 0;
  cpu->codec->find_changes(context, child.data(), m.meta.data(), m.n * m.k / 4, positions.data(), codes.data(),
                           &changes);
  Expect(changes > 0, "the masks differ");
  recompress24(swapped.data(), m.w.data(), positions.data(), codes.data(), changes, m.n, m.k, nullptr);
  m.SetMask(child);
  ExpectSame(swapped, m.device, "recompress24");
}

}  // namespace
