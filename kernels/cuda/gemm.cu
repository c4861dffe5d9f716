// Products of many tokens in tiles of 64 × 64: a layer, its input gradient and its weight gradient, as one kernel over
// operands with any two strides. bf16 on tensor cores (mma.m16n8k16) or fp32 on CUDA cores, fp32 sums in ascending k.
//
// What is left where no cuBLASLt is: 8 instructions of 4,096 FMAs for 14 shared loads a warp and 16 columns, no
// asynchronous copies; shared memory and the latency of its loads bound it.

#include "device.cuh"

namespace maskserve {
namespace cuda {
namespace {

constexpr int kTile = 64;

// Element (i, j) at data[i · row + j · column].
struct Operand {
  const void* data;
  int64_t row, column;
  bool bf16;
};

MS_DEVICE float ElementAt(const Operand& o, int64_t i, int64_t j) {
  const int64_t at = i * o.row + j * o.column;
  return o.bf16 ? FloatOfBf16(static_cast<const uint16_t*>(o.data)[at]) : static_cast<const float*>(o.data)[at];
}

// c (M, N) ← or += a (M, K) · bᵀ, b (N, K) by its strides.
struct Product {
  float* c;
  Operand a, b;
  int64_t m, n, k;
  bool accumulate;
};

// Place i of a tile of `rows` × `columns`: neighbours in the direction in which the operand is contiguous.
struct Place {
  int row, column;
};
MS_DEVICE Place PlaceOf(const Operand& o, int i, int rows, int columns) {
  return o.column == 1 ? Place{i / columns, i % columns} : Place{i % rows, i / rows};
}

MS_DEVICE void Store(const Product& p, int64_t i, int64_t j, float sum) {
  if (i >= p.m || j >= p.n) return;
  float* to = p.c + i * p.n + j;
  *to = p.accumulate ? *to + sum : sum;
}

// ---- fp32: 256 threads, 4 × 4 sums each ----

constexpr int kFloatThreads = 256;
constexpr int kFloatK = 16;

MS_DEVICE void LoadFloats(float (&tile)[kFloatK][kTile + 4], const Operand& o, int64_t first, int64_t end, int64_t k,
                          int64_t k_end) {
  for (int i = static_cast<int>(threadIdx.x); i < kTile * kFloatK; i += kFloatThreads) {
    const Place at = PlaceOf(o, i, kTile, kFloatK);
    const bool there = first + at.row < end && k + at.column < k_end;
    tile[at.column][at.row] = there ? ElementAt(o, first + at.row, k + at.column) : 0.0f;
  }
}

__global__ void __launch_bounds__(kFloatThreads) FloatProduct(Product p) {
  __shared__ float a[kFloatK][kTile + 4], b[kFloatK][kTile + 4];
  const int64_t row = static_cast<int64_t>(blockIdx.y) * kTile, column = static_cast<int64_t>(blockIdx.x) * kTile;
  const int i = static_cast<int>(threadIdx.x) / 16 * 4, j = static_cast<int>(threadIdx.x) % 16 * 4;
  float acc[4][4] = {};
  for (int64_t k = 0; k < p.k; k += kFloatK) {
    LoadFloats(a, p.a, row, p.m, k, p.k);
    LoadFloats(b, p.b, column, p.n, k, p.k);
    __syncthreads();
#pragma unroll
    for (int s = 0; s < kFloatK; ++s) {
#pragma unroll
      for (int r = 0; r < 4; ++r) {
#pragma unroll
        for (int c = 0; c < 4; ++c) acc[r][c] = fmaf(a[s][i + r], b[s][j + c], acc[r][c]);
      }
    }
    __syncthreads();
  }
#pragma unroll
  for (int r = 0; r < 4; ++r) {
#pragma unroll
    for (int c = 0; c < 4; ++c) Store(p, row + i + r, column + j + c, acc[r][c]);
  }
}

// ---- bf16: 4 warps of 32 × 32 sums ----

constexpr int kPairThreads = 128;
constexpr int kPairs = 16;           // 32 columns of k
constexpr int kStride = kPairs + 4;  // words: rows of a fragment lie in different banks

MS_DEVICE void LoadPairs(uint32_t (&tile)[kTile][kStride], const Operand& o, int64_t first, int64_t end, int64_t k,
                         int64_t k_end) {
  for (int i = static_cast<int>(threadIdx.x); i < kTile * kPairs; i += kPairThreads) {
    const Place at = PlaceOf(o, i, kTile, kPairs);
    const int64_t row = first + at.row, column = k + 2 * at.column;
    const float low = row < end && column < k_end ? ElementAt(o, row, column) : 0.0f;
    const float high = row < end && column + 1 < k_end ? ElementAt(o, row, column + 1) : 0.0f;
    tile[at.row][at.column] = PairOfFloats(low, high);
  }
}

__global__ void __launch_bounds__(kPairThreads) TensorProduct(Product p) {
  __shared__ uint32_t a[kTile][kStride], b[kTile][kStride];
  const int64_t row = static_cast<int64_t>(blockIdx.y) * kTile, column = static_cast<int64_t>(blockIdx.x) * kTile;
  const int g = Lane() / 4, t = Lane() % 4, i = WarpOfBlock() / 2 * 32, j = WarpOfBlock() % 2 * 32;
  float acc[2][4][4] = {};
  for (int64_t k = 0; k < p.k; k += 2 * kPairs) {
    LoadPairs(a, p.a, row, p.m, k, p.k);
    LoadPairs(b, p.b, column, p.n, k, p.k);
    __syncthreads();
#pragma unroll
    for (int s = 0; s < kPairs; s += 8) {
      uint32_t of_a[2][4], of_b[4][2];
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int at = i + 16 * r + g;
        of_a[r][0] = a[at][s + t];
        of_a[r][1] = a[at + 8][s + t];
        of_a[r][2] = a[at][s + t + 4];
        of_a[r][3] = a[at + 8][s + t + 4];
      }
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        of_b[c][0] = b[j + 8 * c + g][s + t];
        of_b[c][1] = b[j + 8 * c + g][s + t + 4];
      }
#pragma unroll
      for (int r = 0; r < 2; ++r) {
#pragma unroll
        for (int c = 0; c < 4; ++c) Mma16816(acc[r][c], of_a[r], of_b[c]);
      }
    }
    __syncthreads();
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
#pragma unroll
    for (int c = 0; c < 4; ++c) {
#pragma unroll
      for (int q = 0; q < 4; ++q) {
        Store(p, row + i + 16 * r + g + 8 * (q / 2), column + j + 8 * c + 2 * t + q % 2, acc[r][c][q]);
      }
    }
  }
}

void Multiply(const Product& p, int32_t exact, cudaStream_t stream) {
  const dim3 grid(Blocks(p.n, kTile), Blocks(p.m, kTile));
  if (exact)
    Launch(FloatProduct, grid, kFloatThreads, 0, stream, p);
  else
    Launch(TensorProduct, grid, kPairThreads, 0, stream, p);
}

}  // namespace

void linear(float* y, const float* x, const void* w, ms_value_type type, int64_t rows, int64_t n, int64_t k,
            int32_t exact, cudaStream_t stream) {
  Multiply({y, {x, k, 1, false}, {w, k, 1, type == MS_BF16}, rows, n, k, false}, exact, stream);
}

void linear_backward_input(float* dx, const float* dy, const void* w, ms_value_type type, int64_t rows, int64_t n,
                           int64_t k, int32_t accumulate, int32_t exact, cudaStream_t stream) {
  Multiply({dx, {dy, n, 1, false}, {w, 1, k, type == MS_BF16}, rows, k, n, accumulate != 0}, exact, stream);
}

void linear_backward_weight(float* dw, const float* dy, const float* x, int64_t rows, int64_t n, int64_t k,
                            int32_t accumulate, int32_t exact, cudaStream_t stream) {
  Multiply({dw, {dy, 1, n, false}, {x, 1, k, false}, n, k, rows, accumulate != 0}, exact, stream);
}

}  // namespace cuda
}  // namespace maskserve
