// Ops on single elements: a thread an element, neighbours beside each other. Bound by DRAM, 4 to 12 bytes an element.

#include "device.cuh"

namespace maskserve {
namespace cuda {
namespace {

constexpr int kThreads = 256;

// op(i) for all i in [0, n).
template <typename Op>
__global__ void __launch_bounds__(kThreads) Each(Op op, int64_t n) {
  LetNextBegin();
  const int64_t i = GlobalIndex();
  AwaitFront();
  if (i < n) op(i);
}
template <typename Op>
void LaunchEach(const Op& op, int64_t n, cudaStream_t stream) {
  LaunchOverlapped(Each<Op>, Blocks(n, kThreads), kThreads, 0, stream, op, n);
}

MS_DEVICE float ElementOf(const void* in, ms_value_type type, int64_t i) {
  if (type == MS_F32) return static_cast<const float*>(in)[i];
  const uint16_t bits = static_cast<const uint16_t*>(in)[i];
  return type == MS_F16 ? FloatOfF16(bits) : FloatOfBf16(bits);
}

struct ToBf16 {
  uint16_t* out;
  const void* in;
  ms_value_type type;
  __device__ void operator()(int64_t i) const {
    out[i] = type == MS_BF16 ? static_cast<const uint16_t*>(in)[i]
                             : static_cast<uint16_t>(Bf16OfFloat(ElementOf(in, type, i)));
  }
};
struct ToF32 {
  float* out;
  const void* in;
  ms_value_type type;
  __device__ void operator()(int64_t i) const { out[i] = ElementOf(in, type, i); }
};
struct Embed {
  float* out;
  const uint16_t* table;
  const int32_t* ids;
  int64_t dim;
  __device__ void operator()(int64_t i) const { out[i] = FloatOfBf16(table[ids[i / dim] * dim + i % dim]); }
};
struct SiluMul {
  float* out;
  const float *gate, *up;
  __device__ void operator()(int64_t i) const { out[i] = gate[i] / (1.0f + expf(-gate[i])) * up[i]; }
};
struct Add {
  float* x;
  const float* y;
  __device__ void operator()(int64_t i) const { x[i] += y[i]; }
};
struct AddBias {
  float* x;
  const float* bias;
  int64_t n;
  __device__ void operator()(int64_t i) const { x[i] += bias[i % n]; }
};
struct ScaleBy {
  float* x;
  float factor;
  __device__ void operator()(int64_t i) const { x[i] *= factor; }
};
struct MulBf16 {
  float* out;
  const float* a;
  const uint16_t* b;
  __device__ void operator()(int64_t i) const { out[i] = a[i] * FloatOfBf16(b[i]); }
};

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
  LaunchEach(ToBf16{out, in, type}, n, stream);
}

void to_f32(float* out, const void* in, ms_value_type type, int64_t n, cudaStream_t stream) {
  LaunchEach(ToF32{out, in, type}, n, stream);
}

void embed(float* out, const uint16_t* table, const int32_t* ids, int64_t tokens, int64_t dim, cudaStream_t stream) {
  LaunchEach(Embed{out, table, ids, dim}, tokens * dim, stream);
}

void silu_mul(float* out, const float* gate, const float* up, int64_t n, cudaStream_t stream) {
  LaunchEach(SiluMul{out, gate, up}, n, stream);
}

void add(float* x, const float* y, int64_t n, cudaStream_t stream) {
  LaunchEach(Add{x, y}, n, stream);
}

void add_bias(float* x, const float* bias, int64_t rows, int64_t n, cudaStream_t stream) {
  LaunchEach(AddBias{x, bias, n}, rows * n, stream);
}

void scale_by(float* x, double factor, int64_t n, cudaStream_t stream) {
  LaunchEach(ScaleBy{x, static_cast<float>(factor)}, n, stream);
}

void mul_bf16(float* out, const float* a, const uint16_t* b, int64_t n, cudaStream_t stream) {
  LaunchEach(MulBf16{out, a, b}, n, stream);
}

}  // namespace cuda
}  // namespace maskserve
