// Ops on single elements: a thread four of them, neighbours beside each other, in one access each where addresses allow
// it. Bound by DRAM, 4 to 12 bytes an element; by the launch and one round of loads for the few of a decoded token.

#include "quads.cuh"

namespace maskserve {
namespace cuda {
namespace {

constexpr int kThreads = 256;

// op(i) for all i in [0, n); kWhole: op.Four(i), for four at once.
template <bool kWhole, typename Op>
__global__ void __launch_bounds__(kThreads) Each(Op op, int64_t n) {
  LetNextBegin();
  const int64_t i = GlobalIndex() * kQuad;
  AwaitFront();
  if (kWhole && i + kQuad <= n) return op.Four(i);
  for (int64_t j = i; j < Min(n, i + kQuad); ++j) op(j);
}
template <typename Op>
void LaunchEach(const Op& op, bool whole, int64_t n, cudaStream_t stream) {
  LaunchOverlapped(whole ? Each<true, Op> : Each<false, Op>, Blocks(n, kThreads * kQuad), kThreads, 0, stream, op, n);
}

// Whether four elements of `bytes` from `p` on, or from any multiple of four, are aligned to their size.
bool IsWhole(const void* p, uintptr_t bytes) {
  return reinterpret_cast<uintptr_t>(p) % (kQuad * bytes) == 0;
}
MS_DEVICE float4 FourAt(const float* p) {
  return *reinterpret_cast<const float4*>(p);
}
MS_DEVICE float4& FourAt(float* p) {
  return *reinterpret_cast<float4*>(p);
}
// Of bf16.
MS_DEVICE float4 FourAt(const uint16_t* p) {
  const uint2 bits = *reinterpret_cast<const uint2*>(p);
  return make_float4(LowOfPair(bits.x), HighOfPair(bits.x), LowOfPair(bits.y), HighOfPair(bits.y));
}

uintptr_t BytesOf(ms_value_type type) {
  return type == MS_F32 ? 4 : 2;
}
MS_DEVICE float ElementOf(const void* in, ms_value_type type, int64_t i) {
  if (type == MS_F32) return static_cast<const float*>(in)[i];
  const uint16_t bits = static_cast<const uint16_t*>(in)[i];
  return type == MS_F16 ? FloatOfF16(bits) : FloatOfBf16(bits);
}
MS_DEVICE float4 FourOf(const void* in, ms_value_type type, int64_t i) {
  if (type == MS_F32) return FourAt(static_cast<const float*>(in) + i);
  const uint16_t* at = static_cast<const uint16_t*>(in) + i;
  if (type == MS_BF16) return FourAt(at);
  const uint2 bits = *reinterpret_cast<const uint2*>(at);
  return make_float4(
      FloatOfF16(static_cast<uint16_t>(bits.x & 0xffff)), FloatOfF16(static_cast<uint16_t>(bits.x >> 16)),
      FloatOfF16(static_cast<uint16_t>(bits.y & 0xffff)), FloatOfF16(static_cast<uint16_t>(bits.y >> 16)));
}

struct ToBf16 {
  uint16_t* out;
  const void* in;
  ms_value_type type;
  __device__ void operator()(int64_t i) const {
    out[i] = type == MS_BF16 ? static_cast<const uint16_t*>(in)[i]
                             : static_cast<uint16_t>(Bf16OfFloat(ElementOf(in, type, i)));
  }
  __device__ void Four(int64_t i) const {
    uint2* to = reinterpret_cast<uint2*>(out + i);
    if (type == MS_BF16) {
      *to = *reinterpret_cast<const uint2*>(static_cast<const uint16_t*>(in) + i);
      return;
    }
    const float4 v = FourOf(in, type, i);
    to->x = PairOfFloats(v.x, v.y);
    to->y = PairOfFloats(v.z, v.w);
  }
};
struct ToF32 {
  float* out;
  const void* in;
  ms_value_type type;
  __device__ void operator()(int64_t i) const { out[i] = ElementOf(in, type, i); }
  __device__ void Four(int64_t i) const { FourAt(out + i) = FourOf(in, type, i); }
};
MS_DEVICE float SiluTimes(float gate, float up) {
  return gate / (1.0f + expf(-gate)) * up;
}
struct SiluMul {
  float* out;
  const float *gate, *up;
  __device__ void operator()(int64_t i) const { out[i] = SiluTimes(gate[i], up[i]); }
  __device__ void Four(int64_t i) const {
    const float4 a = FourAt(gate + i), b = FourAt(up + i);
    FourAt(out + i) = make_float4(SiluTimes(a.x, b.x), SiluTimes(a.y, b.y), SiluTimes(a.z, b.z), SiluTimes(a.w, b.w));
  }
};
struct Add {
  float* x;
  const float* y;
  __device__ void operator()(int64_t i) const { x[i] += y[i]; }
  __device__ void Four(int64_t i) const {
    const float4 a = FourAt(x + i), b = FourAt(y + i);
    FourAt(x + i) = make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
  }
};
struct AddBias {
  float* x;
  const float* bias;
  int64_t n;
  __device__ void operator()(int64_t i) const { x[i] += bias[i % n]; }
  __device__ void Four(int64_t i) const { Add{x + i, bias + i % n}.Four(0); }
};
struct ScaleBy {
  float* x;
  float factor;
  __device__ void operator()(int64_t i) const { x[i] *= factor; }
  __device__ void Four(int64_t i) const {
    const float4 a = FourAt(x + i);
    FourAt(x + i) = make_float4(a.x * factor, a.y * factor, a.z * factor, a.w * factor);
  }
};
struct MulBf16 {
  float* out;
  const float* a;
  const uint16_t* b;
  __device__ void operator()(int64_t i) const { out[i] = a[i] * FloatOfBf16(b[i]); }
  __device__ void Four(int64_t i) const {
    const float4 x = FourAt(a + i), y = FourAt(b + i);
    FourAt(out + i) = make_float4(x.x * y.x, x.y * y.y, x.z * y.z, x.w * y.w);
  }
};

// A row of the grid's blocks a token.
template <bool kWhole>
__global__ void __launch_bounds__(kThreads) Embed(float* out, const uint16_t* table, const int32_t* ids, int64_t dim) {
  const int64_t i = (static_cast<int64_t>(blockIdx.y) * kThreads + threadIdx.x) * kQuad;
  const ToF32 row = {out + blockIdx.x * dim, table + ids[blockIdx.x] * dim, MS_BF16};
  if (kWhole && i < dim) return row.Four(i);
  for (int64_t j = i; j < Min(dim, i + kQuad); ++j) row(j);
}

__global__ void __launch_bounds__(kThreads) ReadThrough(uint64_t* out, const uint64_t* words, int64_t count) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kThreads;
  uint64_t sum = 0;
  for (int64_t i = GlobalIndex(); i < count; i += stride) sum ^= words[i];
#pragma unroll
  for (int bit = kWarp / 2; bit > 0; bit /= 2) sum ^= __shfl_xor_sync(kWholeWarp, sum, bit);
  if (Lane() == 0) {
    atomicXor(reinterpret_cast<unsigned long long*>(out), static_cast<unsigned long long>(sum));
  }
}

}  // namespace

void read_through(uint64_t* out, const void* data, int64_t bytes, cudaStream_t stream) {
  const int64_t words = bytes / 8;
  Launch(ReadThrough, Min(4096u, Blocks(words, kThreads)), kThreads, 0, stream, out, static_cast<const uint64_t*>(data),
         words);
}

void to_bf16(uint16_t* out, const void* in, ms_value_type type, int64_t n, cudaStream_t stream) {
  LaunchEach(ToBf16{out, in, type}, IsWhole(out, 2) && IsWhole(in, BytesOf(type)), n, stream);
}

void to_f32(float* out, const void* in, ms_value_type type, int64_t n, cudaStream_t stream) {
  LaunchEach(ToF32{out, in, type}, IsWhole(out, 4) && IsWhole(in, BytesOf(type)), n, stream);
}

void embed(float* out, const uint16_t* table, const int32_t* ids, int64_t tokens, int64_t dim, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(tokens), Blocks(dim, kThreads * kQuad));
  const bool whole = dim % kQuad == 0 && IsWhole(out, 4) && IsWhole(table, 2);
  Launch(whole ? Embed<true> : Embed<false>, grid, kThreads, 0, stream, out, table, ids, dim);
}

void silu_mul(float* out, const float* gate, const float* up, int64_t n, cudaStream_t stream) {
  LaunchEach(SiluMul{out, gate, up}, IsWhole(out, 4) && IsWhole(gate, 4) && IsWhole(up, 4), n, stream);
}

void add(float* x, const float* y, int64_t n, cudaStream_t stream) {
  LaunchEach(Add{x, y}, IsWhole(x, 4) && IsWhole(y, 4), n, stream);
}

void add_bias(float* x, const float* bias, int64_t rows, int64_t n, cudaStream_t stream) {
  LaunchEach(AddBias{x, bias, n}, n % kQuad == 0 && IsWhole(x, 4) && IsWhole(bias, 4), rows * n, stream);
}

void scale_by(float* x, double factor, int64_t n, cudaStream_t stream) {
  LaunchEach(ScaleBy{x, static_cast<float>(factor)}, IsWhole(x, 4), n, stream);
}

void mul_bf16(float* out, const float* a, const uint16_t* b, int64_t n, cudaStream_t stream) {
  LaunchEach(MulBf16{out, a, b}, IsWhole(out, 4) && IsWhole(a, 4) && IsWhole(b, 2), n, stream);
}

}  // namespace cuda
}  // namespace maskserve
