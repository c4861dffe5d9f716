// Several products of one x in one launch: blocks of rows of one matrix after another along grid.x, each matrix from a
// block of its own on, so that every block does what it does where its matrix is alone, to the same bits.
#pragma once

#include <type_traits>

#include "device.cuh"

namespace maskserve {
namespace cuda {
namespace {

// A kernel's argument. `Matrix`: what differs from one product to the next, among it y and n. Alone (kMost = 1), it
// costs what a plain argument does.
template <typename Matrix, int kMost>
struct Matrices {
  Matrix at[kMost];
  unsigned first[kMost];  // block
  unsigned blocks;
};

// `of` makes a Matrix of each of the 1 … kMost products, of which a block takes `rows` rows.
template <int kMost, typename Of>
inline auto MatricesOf(const ms_product* products, int64_t count, int64_t rows, Of&& of) {
  Matrices<decltype(of(*products)), kMost> all = {};
  for (int64_t i = 0; i < kMost; ++i) {
    all.first[i] = all.blocks;
    if (i >= count) continue;
    all.at[i] = of(products[i]);
    all.blocks += Blocks(products[i].n, rows);
  }
  return all;
}

// This block's matrix, and which of the matrix's blocks it is. By compares: an argument that is indexed by what is
// known at run time is first copied to local memory.
template <typename Matrix, int kMost>
MS_DEVICE Matrix MatrixOfBlock(const Matrices<Matrix, kMost>& all, unsigned* block) {
  Matrix mine = all.at[0];
  unsigned first = 0;
#pragma unroll
  for (int i = 1; i < kMost; ++i) {
    if (blockIdx.x < all.first[i]) continue;
    mine = all.at[i];
    first = all.first[i];
  }
  *block = blockIdx.x - first;
  return mine;
}

// `launch` of how many matrices the kernel is to be made for, as a constant: one, or as many as there may be.
template <typename Launcher>
inline void ForCount(int64_t count, Launcher&& launch) {
  if (count == 1)
    launch(std::integral_constant<int, 1>{});
  else
    launch(std::integral_constant<int, MS_MOST_PRODUCTS>{});
}

}  // namespace
}  // namespace cuda
}  // namespace maskserve
