// Tiles of attention in shared memory: kRows rows of queries against kRows rows of keys, a quad of lanes a row. A lane
// of the quad takes every fourth row of the other tile for scores, and every fourth vector of four columns for sums, so
// that a row's softmax stays within its quad.
#pragma once

#include <type_traits>

#include "cache.cuh"
#include "reduce.cuh"

namespace maskserve {
namespace cuda {
namespace {

// kDims: columns there is room for in registers; head dimensions are at most that.
template <int kDims>
struct Tiles {
  static constexpr int kRows = kDims <= 128 ? 32 : 16;
  static constexpr int kThreads = 4 * kRows;
  static constexpr int kScores = kRows / 4;    // a lane's
  static constexpr int kVectors = kDims / 16;  // a lane's
  static constexpr int kWeightStride = kRows + 1;

  // Floats of a tile of rows, and of one of weights.
  static __host__ __device__ int Stride(int64_t head_dim) { return static_cast<int>(head_dim) + 4; }
  static __host__ __device__ size_t Floats(int64_t head_dim) { return static_cast<size_t>(kRows * Stride(head_dim)); }
  static constexpr size_t kWeightFloats = (kRows * kWeightStride + 3) / 4 * 4;
};

// A sequence's rows of one head: token t at data + t · stride.
template <typename T>
struct HeadRows {
  T* data;
  int64_t stride;
};

// tile ← rows [first, first + kRows), zeros from `end` on.
template <int kDims, typename Element>
MS_DEVICE void LoadTile(float* tile, const HeadRows<Element>& rows, int64_t first, int64_t end, int64_t head_dim) {
  typedef Tiles<kDims> T;
  typedef typename CacheFour<std::remove_const_t<Element>>::Type Four;
  const int vectors = static_cast<int>(head_dim / 4);
  for (int i = static_cast<int>(threadIdx.x); i < T::kRows * vectors; i += T::kThreads) {
    const int row = i / vectors, column = 4 * (i % vectors);
    const int64_t t = first + row;
    const float4 v = t < end ? Widened(*reinterpret_cast<const Four*>(rows.data + t * rows.stride + column))
                             : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    *reinterpret_cast<float4*>(tile + row * T::Stride(head_dim) + column) = v;
  }
}

// scores[j] ← row `row` of a times row part + 4j of b.
template <int kDims>
MS_DEVICE void Scores(float (&scores)[Tiles<kDims>::kScores], const float* a, const float* b, int row, int part,
                      int64_t head_dim) {
  typedef Tiles<kDims> T;
  const int stride = T::Stride(head_dim), dims = static_cast<int>(head_dim);
#pragma unroll
  for (int j = 0; j < T::kScores; ++j) scores[j] = 0;
  for (int d = 0; d < dims; d += 4) {
    const float4 x = *reinterpret_cast<const float4*>(a + row * stride + d);
#pragma unroll
    for (int j = 0; j < T::kScores; ++j) {
      const float4 y = *reinterpret_cast<const float4*>(b + (part + 4 * j) * stride + d);
      scores[j] = fmaf(x.x, y.x, fmaf(x.y, y.y, fmaf(x.z, y.z, fmaf(x.w, y.w, scores[j]))));
    }
  }
}

// A lane's part of a row of sums: vectors part, part + 4, …
template <int kDims>
struct RowSums {
  float4 at[Tiles<kDims>::kVectors];
};

template <int kDims>
MS_DEVICE void Clear(RowSums<kDims>& sums) {
#pragma unroll
  for (int j = 0; j < Tiles<kDims>::kVectors; ++j) sums.at[j] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
}

// sums += weights (kRows) times the rows of a tile.
template <int kDims>
MS_DEVICE void Accumulate(RowSums<kDims>& sums, const float* weights, const float* tile, int part, int64_t head_dim) {
  typedef Tiles<kDims> T;
  const int stride = T::Stride(head_dim), dims = static_cast<int>(head_dim);
  for (int i = 0; i < T::kRows; ++i) {
    const float w = weights[i];
#pragma unroll
    for (int j = 0; j < T::kVectors; ++j) {
      const int d = 4 * part + 16 * j;
      if (d >= dims) break;
      const float4 v = *reinterpret_cast<const float4*>(tile + i * stride + d);
      sums.at[j] = make_float4(fmaf(w, v.x, sums.at[j].x), fmaf(w, v.y, sums.at[j].y), fmaf(w, v.z, sums.at[j].z),
                               fmaf(w, v.w, sums.at[j].w));
    }
  }
}

template <int kDims>
MS_DEVICE void ScaleSums(RowSums<kDims>& sums, float by) {
#pragma unroll
  for (int j = 0; j < Tiles<kDims>::kVectors; ++j) {
    const float4 v = sums.at[j];
    sums.at[j] = make_float4(v.x * by, v.y * by, v.z * by, v.w * by);
  }
}

template <int kDims>
MS_DEVICE void StoreRow(float* out, const RowSums<kDims>& sums, int part, int64_t head_dim) {
#pragma unroll
  for (int j = 0; j < Tiles<kDims>::kVectors; ++j) {
    const int d = 4 * part + 16 * j;
    if (d < static_cast<int>(head_dim)) *reinterpret_cast<float4*>(out + d) = sums.at[j];
  }
}

// launcher.Run<kDims>() for a head dimension.
template <typename Launcher>
void WithDims(int64_t head_dim, const Launcher& launcher) {
  if (head_dim <= 64)
    launcher.template Run<64>();
  else if (head_dim <= 128)
    launcher.template Run<128>();
  else
    launcher.template Run<256>();
}

}  // namespace
}  // namespace cuda
}  // namespace maskserve
