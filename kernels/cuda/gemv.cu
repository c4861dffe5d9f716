// Dense products of a few tokens, and dense weights under a mask for each token, on CUDA cores.
//
// Dense, T = 1: bound by DRAM, 2 bytes a weight; 1 unpack and 1 FFMA a weight. T = 4: 2 instructions a weight and token
// are 60% of an H100's issue rate at full bandwidth. Masked: 2 bytes a weight once for four tokens and ⅛ byte for each
// mask; 3¼ instructions a weight and token, so from T = 4 on issue is the bound. The CPU's counterparts:
// cpu/matmul.cpp, cpu/multimask.cpp.

#include "gemv.cuh"
#include "group24.cuh"

namespace maskserve {
namespace cuda {
namespace {

struct EightFloats {
  float at[8];
};

// 8 activations, rounded as they will be multiplied; zeros beyond `left`.
template <bool kExact, bool kWhole>
MS_DEVICE EightFloats ReadEight(const float* x, int64_t left) {
  EightFloats v;
  if (kWhole) {
    const float4 a = *reinterpret_cast<const float4*>(x), b = *reinterpret_cast<const float4*>(x + 4);
    v = {{a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w}};
  } else {
#pragma unroll
    for (int i = 0; i < 8; ++i) v.at[i] = i < left ? x[i] : 0.0f;
  }
#pragma unroll
  for (int i = 0; i < 8; ++i) v.at[i] = kExact ? v.at[i] : RoundToBf16(v.at[i]);
  return v;
}

MS_DEVICE float DotEight(const uint4& w, const EightFloats& x) {
  float sum = LowOfPair(w.x) * x.at[0];
  sum = fmaf(HighOfPair(w.x), x.at[1], sum);
  sum = fmaf(LowOfPair(w.y), x.at[2], sum);
  sum = fmaf(HighOfPair(w.y), x.at[3], sum);
  sum = fmaf(LowOfPair(w.z), x.at[4], sum);
  sum = fmaf(HighOfPair(w.z), x.at[5], sum);
  sum = fmaf(LowOfPair(w.w), x.at[6], sum);
  return fmaf(HighOfPair(w.w), x.at[7], sum);
}

// kWhole: K is a multiple of 8, so that rows start at 16 bytes.
template <bool kExact, bool kWhole>
struct Dense {
  static constexpr int kColumns = 8;
  static constexpr bool kSpreads = false;
  typedef uint4 Weights;
  typedef EightFloats Activations;
  const uint16_t* w;
  int64_t k;
  int32_t spread;

  __device__ void Ask(int64_t row, int64_t column) const { AskFor(w + row * k + column); }
  __device__ Weights Load(int64_t row, int64_t column) const {
    const uint16_t* from = w + row * k + column;
    if constexpr (kWhole) {
      return LoadStream(from);
    } else {
      uint32_t words[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const uint32_t low = column + 2 * i < k ? from[2 * i] : 0, high = column + 2 * i + 1 < k ? from[2 * i + 1] : 0;
        words[i] = low | high << 16;
      }
      return make_uint4(words[0], words[1], words[2], words[3]);
    }
  }
  MS_METHOD Activations Read(const float* x, int64_t left) {
    return ReadEight<kExact, kWhole>(x, left);
  }
  MS_METHOD float Nonfinite(const Activations&) {
    return 0.0f;
  }
  __device__ float Step(const Weights& weights, const Activations& x, int64_t, int64_t, int64_t) const {
    return DotEight(weights, x);
  }
  __device__ bool Spreads(int64_t, int64_t, const float*) const {
    return false;
  }
};

// Dense weights, zero where token t's mask prunes: 0 · ∞ is NaN here as it is there.
template <bool kExact>
struct Masked {
  static constexpr int kColumns = 8;
  static constexpr bool kSpreads = false;
  typedef uint4 Weights;
  typedef EightFloats Activations;
  const uint16_t* w;
  const ms_mask24* masks;
  int64_t k, meta_offset;  // of a packed matrix
  int32_t spread;

  __device__ void Ask(int64_t row, int64_t column) const { AskFor(w + row * k + column); }
  __device__ Weights Load(int64_t row, int64_t column) const { return LoadStream(w + row * k + column); }
  MS_METHOD Activations Read(const float* x, int64_t left) { return ReadEight<kExact, true>(x, left); }
  MS_METHOD float Nonfinite(const Activations&) { return 0.0f; }
  __device__ float Step(const Weights& weights, const Activations& x, int64_t t, int64_t row, int64_t column) const {
    const ms_mask24 mask = masks[t];
    if (mask.nibbles == nullptr) return DotEight(weights, x);
    const uint8_t* nibbles = static_cast<const uint8_t*>(mask.nibbles) + (mask.packed != 0 ? meta_offset : 0);
    const uint32_t byte = nibbles[(row * k + column) / 8];
    const uint2 first = KeptHalves(byte & 15), second = KeptHalves(byte >> 4);
    return DotEight(make_uint4(weights.x & first.x, weights.y & first.y, weights.z & second.x, weights.w & second.y),
                    x);
  }
  __device__ bool Spreads(int64_t, int64_t, const float*) const { return false; }
};

// What reads one product's weights.
template <bool kExact, bool kWhole>
struct DenseOf {
  int64_t k;
  Dense<kExact, kWhole> operator()(const ms_product& p) const {
    return {static_cast<const uint16_t*>(p.w.values), k, 0};
  }
};
template <bool kExact>
struct MaskedOf {
  const ms_mask24* masks;
  int64_t k;
  Masked<kExact> operator()(const ms_product& p) const {
    return {static_cast<const uint16_t*>(p.w.values), masks, k, packed24_meta_offset(p.n, k), 0};
  }
};

}  // namespace

void matmul(float* y, const float* x, const uint16_t* w, int64_t tokens, int64_t n, int64_t k, int32_t exact,
            cudaStream_t stream) {
  const ms_product product = {y, {MS_BF16, 0, w, nullptr}, nullptr, n};
  matmul_fused(&product, 1, x, tokens, k, exact, stream);
}

void matmul_fused(const ms_product* host_products, int64_t count, const float* x, int64_t tokens, int64_t k,
                  int32_t exact, cudaStream_t stream) {
  const GemvProducts p = {host_products, count, x, tokens, k};
  const bool whole = k % 8 == 0;
  ForCount(count, [&](auto most) {
    constexpr int kMost = decltype(most)::value;
    if (exact && whole)
      LaunchGemv<kMost, 1>(p, DenseOf<true, true>{k}, stream);
    else if (exact)
      LaunchGemv<kMost, 1>(p, DenseOf<true, false>{k}, stream);
    else if (!whole)
      LaunchGemv<kMost, 1>(p, DenseOf<false, false>{k}, stream);
    else
      LaunchTiles<kMost>(p, DenseOf<false, true>{k}, stream);
  });
}

void matmul_masked(float* y, const float* x, const uint16_t* w, const ms_mask24* masks, int64_t tokens, int64_t n,
                   int64_t k, int32_t exact, cudaStream_t stream) {
  const ms_product product = {y, {MS_BF16, 0, w, nullptr}, nullptr, n};
  const GemvProducts p = {&product, 1, x, tokens, k};
  if (exact)
    LaunchGemv<1, 1>(p, MaskedOf<true>{masks, k}, stream);
  else
    LaunchTiles<1>(p, MaskedOf<false>{masks, k}, stream);
}

}  // namespace cuda
}  // namespace maskserve
