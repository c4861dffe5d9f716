// 2:4 products of a few tokens on CUDA cores (kernels.md §3, design 1): one PRMT a group and token picks the two
// activations that the packed pair of weights multiplies.
//
// Bound by DRAM at T = 1: 4½ bytes a group of four (9/16 of dense), 4 instructions for the selector, 1 PRMT, 4 unpacks
// and 2 FFMA: 2¾ a weight that is read, some 40% of an H200's issue rate at full bandwidth; T = 4 adds 5 a group and
// token and stays below it.

#include "gemv.cuh"
#include "group24.cuh"
#include "patch24.cuh"

namespace maskserve {
namespace cuda {
namespace {

// kGroups groups of a row: their packed pairs and nibbles.
template <int kGroups>
struct Groups24 {
  uint32_t pairs[kGroups];
  uint32_t nibbles;
};

// The parts that both precisions share. kGroups: 4 where K is a multiple of 16 and rows of values start at 16 bytes,
// else 2.
template <int kGroups>
struct Packed24 {
  static constexpr int kColumns = 4 * kGroups;
  static constexpr bool kSpreads = true;
  typedef Groups24<kGroups> Weights;
  const uint8_t* values;
  const uint8_t* meta;
  int64_t k;
  int32_t spread;

  __device__ void Ask(int64_t row, int64_t column) const {
    AskFor(values + row * k + column);
    AskFor(meta + (row * k + column) / 8);
  }
  __device__ Weights Load(int64_t row, int64_t column) const {
    const uint8_t* from = values + row * k + column;
    const uint8_t* nibbles = meta + (row * k + column) / 8;
    Weights weights;
    if (kGroups == 4) {
      const uint4 v = LoadStream(from);
      const uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
      for (int i = 0; i < kGroups; ++i) weights.pairs[i] = words[i];
      weights.nibbles = *reinterpret_cast<const uint16_t*>(nibbles);
    } else {
      const uint2 v = *reinterpret_cast<const uint2*>(from);
      weights.pairs[0] = v.x;
      weights.pairs[1] = v.y;
      weights.nibbles = *nibbles;
    }
    return weights;
  }
  __device__ bool Spreads(int64_t, int64_t row, const float* x) const {
    return SpreadsRow(meta + row * (k / 8), nullptr, 0, 0, x, k);
  }
};

// Activations rounded to bf16, in pairs.
template <int kGroups>
struct Rounded24 : Packed24<kGroups> {
  struct Activations {
    uint32_t pairs[2 * kGroups];
  };
  MS_METHOD Activations Read(const float* x, int64_t) {
    Activations a;
#pragma unroll
    for (int i = 0; i < kGroups; ++i) {
      const float4 v = reinterpret_cast<const float4*>(x)[i];
      a.pairs[2 * i] = PairOfFloats(v.x, v.y);
      a.pairs[2 * i + 1] = PairOfFloats(v.z, v.w);
    }
    return a;
  }
  MS_METHOD float Nonfinite(const Activations& a) {
    uint32_t zeros = 0;
#pragma unroll
    for (int i = 0; i < 2 * kGroups; ++i) zeros = FmaPairs(a.pairs[i], 0, zeros);
    return LowOfPair(zeros) + HighOfPair(zeros);
  }
  __device__ float Step(const Groups24<kGroups>& w, const Activations& a, int64_t, int64_t, int64_t) const {
    float sum = 0;
#pragma unroll
    for (int i = 0; i < kGroups; i += 2) {
      const uint32_t selectors = PickSelectors(w.nibbles >> 4 * i & 255);
#pragma unroll
      for (int j = i; j < i + 2; ++j) {
        const uint32_t x = __byte_perm(a.pairs[2 * j], a.pairs[2 * j + 1], j == i ? selectors : selectors >> 16);
        sum = fmaf(LowOfPair(w.pairs[j]), LowOfPair(x), sum);
        sum = fmaf(HighOfPair(w.pairs[j]), HighOfPair(x), sum);
      }
    }
    return sum;
  }
};

// Activations in fp32.
template <int kGroups>
struct Exact24 : Packed24<kGroups> {
  struct Activations {
    float4 groups[kGroups];
  };
  MS_METHOD Activations Read(const float* x, int64_t) {
    Activations a;
#pragma unroll
    for (int i = 0; i < kGroups; ++i) a.groups[i] = reinterpret_cast<const float4*>(x)[i];
    return a;
  }
  MS_METHOD float Nonfinite(const Activations& a) {
    float zeros = 0;
#pragma unroll
    for (int i = 0; i < kGroups; ++i) {
      zeros += 0.0f * a.groups[i].x + 0.0f * a.groups[i].y + 0.0f * a.groups[i].z + 0.0f * a.groups[i].w;
    }
    return zeros;
  }
  __device__ float Step(const Groups24<kGroups>& w, const Activations& a, int64_t, int64_t, int64_t) const {
    float sum = 0;
#pragma unroll
    for (int i = 0; i < kGroups; ++i) {
      const uint32_t nibble = w.nibbles >> 4 * i & 15;
      sum = fmaf(LowOfPair(w.pairs[i]), PickFloat(a.groups[i], nibble & 3), sum);
      sum = fmaf(HighOfPair(w.pairs[i]), PickFloat(a.groups[i], nibble >> 2), sum);
    }
    return sum;
  }
};

// What reads one product's weights.
template <typename Product>
struct ProductOf {
  int64_t k;
  bool spread;
  Product operator()(const ms_product& p) const {
    Product product;
    product.values = static_cast<const uint8_t*>(p.w.values);
    product.meta = packed24_meta(p.w.values, p.n, k);
    product.k = k;
    product.spread = spread;
    return product;
  }
};

void Gemv24(const ms_product* products, int64_t count, const float* x, int64_t tokens, int64_t k, int32_t exact,
            cudaStream_t stream, bool spread) {
  const GemvProducts p = {products, count, x, tokens, k};
  ForCount(count, [&](auto most) {
    constexpr int kMost = decltype(most)::value;
    if (exact && k % 16 == 0)
      LaunchGemv<kMost, 1>(p, ProductOf<Exact24<4>>{k, spread}, stream);
    else if (exact)
      LaunchGemv<kMost, 1>(p, ProductOf<Exact24<2>>{k, spread}, stream);
    else if (k % 16 == 0)
      LaunchTiles<kMost>(p, ProductOf<Rounded24<4>>{k, spread}, stream);
    else
      LaunchTiles<kMost>(p, ProductOf<Rounded24<2>>{k, spread}, stream);
  });
}

}  // namespace

void gemv24(float* y, const float* x, const void* packed, int64_t tokens, int64_t n, int64_t k, int32_t exact,
            cudaStream_t stream, bool spread) {
  const ms_product product = {y, {MS_BF16, 0, packed, nullptr}, nullptr, n};
  Gemv24(&product, 1, x, tokens, k, exact, stream, spread);
}

void matmul24(float* y, const float* x, const void* packed, int64_t tokens, int64_t n, int64_t k, int32_t exact,
              cudaStream_t stream, bool spread) {
  const ms_product product = {y, {MS_BF16, 0, packed, nullptr}, nullptr, n};
  matmul24_fused(&product, 1, x, tokens, k, exact, stream, spread);
}

void matmul24_fused(const ms_product* host_products, int64_t count, const float* x, int64_t tokens, int64_t k,
                    int32_t exact, cudaStream_t stream, bool spread) {
  if (tokens <= kGemvTokens || exact || k % 64 != 0)
    Gemv24(host_products, count, x, tokens, k, exact, stream, spread);
  else
    mma24_fused(host_products, count, x, tokens, k, stream, spread);
}

}  // namespace cuda
}  // namespace maskserve
