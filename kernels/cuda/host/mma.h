// The tensor-core instructions on the host, from the fragment tables of the PTX manual (ISA 8.7, "Matrix fragments for
// mma.m16n8k16 with floating point type" and "… for sparse mma.m16n8k32 with .f16 and .bf16 types"): a wrong lane
// mapping or metadata order gives wrong sums here, not only on a GPU. Included by device.cuh. Registers are no memory:
// only the rows that ldmatrix reads are looked at.
#pragma once

namespace maskserve {
namespace cuda {
namespace {

struct MmaOperands {
  uint32_t a[4], b[4], meta;
};

// Word `word` of the operands that a lane gave.
MS_UNCHECKED MS_DEVICE uint32_t WordOf(const unsigned char* all, int lane, int word) {
  uint32_t value;
  memcpy(&value, all + host::kPayload * static_cast<size_t>(lane) + sizeof(value) * static_cast<size_t>(word),
         sizeof(value));
  return value;
}

MS_UNCHECKED MS_DEVICE float ElementOfPair(uint32_t pair, int i) {
  return i == 0 ? LowOfPair(pair) : HighOfPair(pair);
}

// Element (row, column) of the 16 × 16 values that the lanes hold as a.
MS_UNCHECKED MS_DEVICE float ElementOfA(const unsigned char* all, int row, int column) {
  const int lane = row % 8 * 4 + column % 8 / 2;
  return ElementOfPair(WordOf(all, lane, row / 8 + column / 8 * 2), column % 2);
}
// Element (row, column) of b: 16 or 32 rows, 8 columns.
MS_UNCHECKED MS_DEVICE float ElementOfB(const unsigned char* all, int row, int column) {
  return ElementOfPair(WordOf(all, column * 4 + row % 8 / 2, 4 + row / 8), row % 2);
}
// The nibble of group `group` of row `row`, from the two lanes of a quad that sparsity selector 0 names.
MS_UNCHECKED MS_DEVICE uint32_t NibbleOfRow(const unsigned char* all, int row, int group) {
  const uint32_t meta = WordOf(all, row % 8 * 4 + group / 4, 8);
  return meta >> (16 * (row / 8) + 4 * (group % 4)) & 15;
}

// An element of one of the four 8 × 8 matrices whose rows the lanes gave ("Warp-level matrix load: ldmatrix").
MS_UNCHECKED MS_DEVICE uint32_t ElementOfMatrix(const unsigned char* all, int matrix, int row, int column) {
  uint16_t elements[8];
  memcpy(elements, all + host::kPayload * static_cast<size_t>(8 * matrix + row), sizeof(elements));
  return elements[column];
}
MS_DEVICE void LoadMatrices(uint32_t (&to)[4], const uint16_t* row) {
  const uint4 mine = *reinterpret_cast<const uint4*>(row);
  const unsigned char* all = host::Exchange(host::Operation::kLoadMatrices, kWholeWarp, &mine, sizeof(mine));
  const int g = host::Lane() / 4, t = host::Lane() % 4;
  for (int j = 0; j < 4; ++j) {
    to[j] = ElementOfMatrix(all, j, g, 2 * t) | ElementOfMatrix(all, j, g, 2 * t + 1) << 16;
  }
}
MS_DEVICE void LoadTransposed(uint32_t (&to)[4], const uint16_t* row) {
  const uint4 mine = *reinterpret_cast<const uint4*>(row);
  const unsigned char* all = host::Exchange(host::Operation::kLoadTransposed, kWholeWarp, &mine, sizeof(mine));
  const int g = host::Lane() / 4, t = host::Lane() % 4;
  for (int j = 0; j < 4; ++j) {
    to[j] = ElementOfMatrix(all, j, 2 * t, g) | ElementOfMatrix(all, j, 2 * t + 1, g) << 16;
  }
}

// d[i] is element (g + 8 · (i / 2), 2t + i % 2).
template <typename Product>
MS_UNCHECKED MS_DEVICE void EachSum(float (&d)[4], const Product& product) {
  const int g = host::Lane() / 4, t = host::Lane() % 4;
  for (int i = 0; i < 4; ++i) d[i] += product(g + 8 * (i / 2), 2 * t + i % 2);
}

MS_UNCHECKED MS_DEVICE void Mma16816(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  const MmaOperands mine = {{a[0], a[1], a[2], a[3]}, {b[0], b[1], 0, 0}, 0};
  const unsigned char* all = host::Exchange(host::Operation::kMma, kWholeWarp, &mine, sizeof(mine));
  EachSum(d, [all](int row, int column) MS_UNCHECKED {
    float sum = 0;
    for (int k = 0; k < 16; ++k) sum += ElementOfA(all, row, k) * ElementOfB(all, k, column);
    return sum;
  });
}

MS_UNCHECKED MS_DEVICE void SparseMma16832(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[4],
                                           uint32_t meta) {
  const MmaOperands mine = {{a[0], a[1], a[2], a[3]}, {b[0], b[1], b[2], b[3]}, meta};
  const unsigned char* all = host::Exchange(host::Operation::kSparseMma, kWholeWarp, &mine, sizeof(mine));
  EachSum(d, [all](int row, int column) MS_UNCHECKED {
    float sum = 0;
    for (int kept = 0; kept < 16; ++kept) {
      const uint32_t nibble = NibbleOfRow(all, row, kept / 2);
      // Ordered metadata: the hardware's result is not defined otherwise.
      if ((nibble & 3) >= nibble >> 2) return NAN;
      const int k = kept / 2 * 4 + static_cast<int>(kept % 2 == 0 ? nibble & 3 : nibble >> 2);
      sum += ElementOfA(all, row, kept) * ElementOfB(all, k, column);
    }
    return sum;
  });
}

}  // namespace
}  // namespace cuda
}  // namespace maskserve
