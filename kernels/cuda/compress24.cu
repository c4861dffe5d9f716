// Dense weights to 2:4 form, and weights under a mask. A thread takes a byte of metadata, two groups: since values,
// nibbles and weights are all plain row-major, it reads 16 bytes of weights and writes 8 of values wherever it is.
//
// Bound by DRAM: 2 bytes of weights in, 1⅛ out a weight, one PRMT a group; a 7B shape (13.5 GB in, 7.6 GB out) takes
// some 7 ms at 3 TB/s.

#include "group24.cuh"

namespace maskserve {
namespace cuda {
namespace {

constexpr int kThreads = 256;

// `row_bytes` is K/8.
MS_DEVICE uint32_t CheckedByte(const uint8_t* meta, int64_t at, int64_t row_bytes, uint64_t* bad) {
  const uint32_t byte = meta[at];
  if (NoPattern(byte & 15) || NoPattern(byte >> 4)) ReportBad(bad, at / row_bytes);
  return byte;
}

__global__ void __launch_bounds__(kThreads)
    Compress(uint2* values, uint8_t* nibbles, const uint16_t* w, const uint8_t* meta, int64_t bytes, int64_t row_bytes,
             uint64_t* bad) {
  const int64_t at = GlobalIndex();
  if (at >= bytes) return;
  const uint4 in = LoadStream(w + 8 * at);
  const uint32_t byte = CheckedByte(meta, at, row_bytes, bad);
  uint2 kept;
  kept.x = PickPair(in.x, in.y, byte & 15);
  kept.y = PickPair(in.z, in.w, byte >> 4);
  values[at] = kept;
  nibbles[at] = static_cast<uint8_t>(byte);
}

__global__ void __launch_bounds__(kThreads)
    Select(uint4* out, const uint16_t* w, const uint8_t* meta, int64_t bytes, int64_t row_bytes, uint64_t* bad) {
  const int64_t at = GlobalIndex();
  if (at >= bytes) return;
  const uint4 in = LoadStream(w + 8 * at);
  const uint32_t byte = CheckedByte(meta, at, row_bytes, bad);
  const uint2 first = KeptHalves(byte & 15), second = KeptHalves(byte >> 4);
  out[at] = make_uint4(in.x & first.x, in.y & first.y, in.z & second.x, in.w & second.y);
}

// 0 where the nibble does not keep the float, whatever it is.
MS_DEVICE float4 KeepFloats(const float4& x, uint32_t nibble) {
  const uint32_t bits = KeptBits(nibble);
  return make_float4((bits & 1) != 0 ? x.x : 0.0f, (bits & 2) != 0 ? x.y : 0.0f, (bits & 4) != 0 ? x.z : 0.0f,
                     (bits & 8) != 0 ? x.w : 0.0f);
}

__global__ void __launch_bounds__(kThreads)
    SelectFloats(uint4* out, const float4* w, const uint8_t* meta, int64_t bytes, int64_t row_bytes, uint64_t* bad) {
  const int64_t at = GlobalIndex();
  if (at >= bytes) return;
  const uint32_t byte = CheckedByte(meta, at, row_bytes, bad);
  const float4 a = KeepFloats(w[2 * at], byte & 15), b = KeepFloats(w[2 * at + 1], byte >> 4);
  out[at] = make_uint4(PairOfFloats(a.x, a.y), PairOfFloats(a.z, a.w), PairOfFloats(b.x, b.y), PairOfFloats(b.z, b.w));
}

__global__ void __launch_bounds__(kThreads)
    Keep(float4* x, const uint8_t* meta, int64_t bytes, int64_t row_bytes, uint64_t* bad) {
  const int64_t at = GlobalIndex();
  if (at >= bytes) return;
  const uint32_t byte = CheckedByte(meta, at, row_bytes, bad);
  x[2 * at] = KeepFloats(x[2 * at], byte & 15);
  x[2 * at + 1] = KeepFloats(x[2 * at + 1], byte >> 4);
}

__global__ void __launch_bounds__(kThreads)
    Check(uint8_t* out, const uint8_t* meta, int64_t bytes, int64_t row_bytes, uint64_t* bad) {
  const int64_t at = GlobalIndex();
  if (at < bytes) out[at] = static_cast<uint8_t>(CheckedByte(meta, at, row_bytes, bad));
}

// A thread a change: the group's value word and its nibble.
__global__ void __launch_bounds__(kThreads)
    Recompress(uint32_t* values, uint8_t* nibbles, const uint16_t* w, const uint32_t* positions, const uint8_t* codes,
               int64_t changes) {
  const int64_t i = GlobalIndex();
  if (i >= changes) return;
  const uint32_t group = positions[i];
  const uint2 in = *reinterpret_cast<const uint2*>(w + 4 * static_cast<int64_t>(group));
  values[group] = PickPair(in.x, in.y, codes[i]);
  ApplyChange(nibbles, positions, codes, i, changes);
}

}  // namespace

void compress24(void* packed, const uint16_t* w, const uint8_t* meta, int64_t n, int64_t k, uint64_t* bad,
                cudaStream_t stream) {
  const int64_t bytes = n * k / 8;
  Launch(Compress, Blocks(bytes, kThreads), kThreads, 0, stream, static_cast<uint2*>(packed),
         packed24_meta(packed, n, k), w, meta, bytes, k / 8, bad);
}

void select24(uint16_t* out, const uint16_t* w, const uint8_t* meta, int64_t n, int64_t k, uint64_t* bad,
              cudaStream_t stream) {
  const int64_t bytes = n * k / 8;
  Launch(Select, Blocks(bytes, kThreads), kThreads, 0, stream, reinterpret_cast<uint4*>(out), w, meta, bytes, k / 8,
         bad);
}

void select24_f32(uint16_t* out, const float* w, const uint8_t* meta, int64_t n, int64_t k, uint64_t* bad,
                  cudaStream_t stream) {
  const int64_t bytes = n * k / 8;
  Launch(SelectFloats, Blocks(bytes, kThreads), kThreads, 0, stream, reinterpret_cast<uint4*>(out),
         reinterpret_cast<const float4*>(w), meta, bytes, k / 8, bad);
}

void keep24_f32(float* x, const uint8_t* meta, int64_t n, int64_t k, uint64_t* bad, cudaStream_t stream) {
  const int64_t bytes = n * k / 8;
  Launch(Keep, Blocks(bytes, kThreads), kThreads, 0, stream, reinterpret_cast<float4*>(x), meta, bytes, k / 8, bad);
}

void check_meta24(uint8_t* out, const uint8_t* meta, int64_t n, int64_t k, uint64_t* bad, cudaStream_t stream) {
  const int64_t bytes = n * k / 8;
  Launch(Check, Blocks(bytes, kThreads), kThreads, 0, stream, out, meta, bytes, k / 8, bad);
}

void recompress24(void* packed, const uint16_t* w, const uint32_t* positions, const uint8_t* codes, int64_t changes,
                  int64_t n, int64_t k, cudaStream_t stream) {
  Launch(Recompress, Blocks(changes, kThreads), kThreads, 0, stream, static_cast<uint32_t*>(packed),
         packed24_meta(packed, n, k), w, positions, codes, changes);
}

}  // namespace cuda
}  // namespace maskserve
