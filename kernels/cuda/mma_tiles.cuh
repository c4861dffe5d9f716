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

}  // namespace
}  // namespace cuda
}  // namespace maskserve
