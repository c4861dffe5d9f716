// Tiles of attention on tensor cores: rows of bf16 in shared memory, read as fragments by ldmatrix.
//
// A row is kStride elements; its chunk c of 16 bytes lies at c ^ row % 8, so that the eight rows that ldmatrix reads of
// one column of chunks lie in all banks, and so do the chunks that neighbouring threads write: no access conflicts.
#pragma once

#include "cache.cuh"
#include "reduce.cuh"

namespace maskserve {
namespace cuda {
namespace {

constexpr int kMmaWarps = 4;
constexpr int kMmaThreads = kMmaWarps * kWarp;
constexpr int kTileRows = 64;  // of what a block goes over

// kDims: columns there is room for, a multiple of 16, at most 128.
template <int kDims>
struct MmaTile {
  static constexpr int kStride = kDims <= 64 ? 64 : 128;
  static constexpr int kChunks = kStride / 8;
  static __host__ __device__ constexpr int Elements(int rows) { return rows * kStride; }
};

// Rows of one head of T: row i at data + i · stride.
template <typename T>
struct MmaRows {
  const T* data;
  int64_t stride;
};

MS_DEVICE uint4 EightAt(const float* p) {
  const float4 low = *reinterpret_cast<const float4*>(p), high = *reinterpret_cast<const float4*>(p + 4);
  return {PairOfFloats(low.x, low.y), PairOfFloats(low.z, low.w), PairOfFloats(high.x, high.y),
          PairOfFloats(high.z, high.w)};
}

// tile ← the first `left` rows as bf16, zeros from there and from column head_dim on. Of bf16 a group of copies, to be
// waited for; fp32 is rounded on the way.
template <int kDims, int kRows, typename T>
MS_DEVICE void LoadRows(uint16_t* tile, const MmaRows<T>& rows, int left, int head_dim) {
  typedef MmaTile<kDims> Tile;
  constexpr int kStep = kMmaThreads / Tile::kChunks;
  static_assert(kStep % 8 == 0 && kRows % kStep == 0, "a thread writes one place of each of its rows");
  const int row = static_cast<int>(threadIdx.x) / Tile::kChunks, chunk = static_cast<int>(threadIdx.x) % Tile::kChunks;
  if (8 * chunk >= head_dim) left = 0;
  uint16_t* to = tile + row * Tile::kStride + (chunk ^ row % 8) * 8;
  const T* from = rows.data + row * rows.stride + 8 * chunk;
  // Of fp32, 128 bytes a thread are on their way at once.
  [[maybe_unused]] constexpr int kTogether = sizeof(T) == 2 ? kRows / kStep : 4;
#pragma unroll kTogether
  for (int i = 0; i < kRows; i += kStep) {
    const bool there = row + i < left;
    const T* at = from + i * rows.stride;
    if constexpr (sizeof(T) == 2) {
      CopyAsync(to + i * Tile::kStride, at, there);
    } else {
      *reinterpret_cast<uint4*>(to + i * Tile::kStride) = there ? EightAt(at) : uint4{};
    }
  }
  if constexpr (sizeof(T) == 2) CommitCopies();
}

// Where a lane's row of a 16 × 16 block is for ldmatrix, the block at row 0 and column 0 of a tile.
struct LaneRow {
  int row, chunk;
};
// As a of mma: to[0] rows 0–7, to[1] rows 8–15, to[2], to[3] the columns 8 on. Transposed, with rows as k, as the b of
// columns 0–7 (to[0], to[1]) and of columns 8–15.
MS_DEVICE LaneRow LaneRowOfA() {
  return {Lane() % 16, Lane() / 16};
}
// As b of mma, with columns as k: of rows 0–7 (to[0], to[1]) and of rows 8–15.
MS_DEVICE LaneRow LaneRowOfB() {
  return {Lane() % 8 + Lane() / 16 * 8, Lane() / 8 % 2};
}
// The lane's row of the block of 16 columns c; rows follow 16 · kStride elements on.
template <int kDims>
MS_DEVICE const uint16_t* AtColumns(const uint16_t* tile, const LaneRow& lane, int c) {
  return tile + lane.row * MmaTile<kDims>::kStride + ((2 * c) ^ (lane.chunk ^ lane.row % 8)) * 8;
}

// sums[m][n] += a of 16 rows (each of kM) times b: two mma for the two halves of a block of ldmatrix.
template <int kM, int kN>
MS_DEVICE void MmaBlock(float (&sums)[kM][kN][4], const uint32_t (&a)[kM][4], const uint32_t (&b)[4], int n) {
  const uint32_t low[2] = {b[0], b[1]}, high[2] = {b[2], b[3]};
#pragma unroll
  for (int m = 0; m < kM; ++m) {
    Mma16816(sums[m][n], a[m], low);
    Mma16816(sums[m][n + 1], a[m], high);
  }
}

// products += the warp's 16 · kM rows of one tile times the kTileRows of another, over their columns.
template <int kM, int kDims>
MS_DEVICE void MultiplyRows(float (&products)[kM][kTileRows / 8][4], const uint16_t* rows, const uint16_t* tile) {
  constexpr int kNext = 16 * MmaTile<kDims>::kStride;
#pragma unroll
  for (int c = 0; c < kDims / 16; ++c) {
    uint32_t a[kM][4];
    const uint16_t *of_row = AtColumns<kDims>(rows, LaneRowOfA(), c),
                   *of_tile = AtColumns<kDims>(tile, LaneRowOfB(), c);
#pragma unroll
    for (int m = 0; m < kM; ++m) LoadMatrices(a[m], of_row + m * kNext);
#pragma unroll
    for (int n = 0; n < kTileRows / 16; ++n) {
      uint32_t b[4];
      LoadMatrices(b, of_tile + n * kNext);
      MmaBlock(products, a, b, 2 * n);
    }
  }
}

// Weights of a tile's rows, as a of mma: those of 16 rows each.
template <int kM>
using Weights = uint32_t[kTileRows / 16][kM][4];
// Of the tile's rows 8n + 2t and 8n + 2t + 1: the first two of the warp's row g of 16, the others of row g + 8.
template <int kM>
MS_DEVICE void SetWeights(Weights<kM>& weights, int m, int n, const float (&four)[4]) {
  weights[n / 2][m][n % 2 * 2] = PairOfFloats(four[0], four[1]);
  weights[n / 2][m][n % 2 * 2 + 1] = PairOfFloats(four[2], four[3]);
}
// sums += weights times a tile's rows.
template <int kM, int kVectors>
MS_DEVICE void Combine(float (&sums)[kM][kVectors][4], const Weights<kM>& weights, const uint16_t* tile) {
  constexpr int kDims = 8 * kVectors;
#pragma unroll
  for (int c = 0; c < kTileRows / 16; ++c) {
#pragma unroll
    for (int n = 0; n < kDims / 16; ++n) {
      uint32_t b[4];
      LoadTransposed(b, AtColumns<kDims>(tile, LaneRowOfA(), n) + 16 * c * MmaTile<kDims>::kStride);
      MmaBlock(sums, weights[c], b, 2 * n);
    }
  }
}

}  // namespace
}  // namespace cuda
}  // namespace maskserve
