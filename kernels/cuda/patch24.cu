// Patches of a packed parent: the products that they correct, and how they are made.
//
// Correcting is bound by latency and by the launch: 6½ bytes a swap and two gathered activations; at 1% changed groups
// a row of 4,096 has ten swaps, one round of eight lanes. Making one reads ⅛ byte of parent and child a group of 8
// weights, and the weights of changed groups only.

#include "matrices.cuh"
#include "patch24.cuh"
#include "reduce.cuh"

namespace maskserve {
namespace cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kLanesOfRow = 8;
constexpr int kRowsOfBlock = kThreads / kLanesOfRow;

struct Correction {
  float* y;
  const ms_patch24* patches;
  const uint8_t* meta;
  int64_t n;
};

template <bool kExact>
MS_DEVICE float Activation(const float* x, int64_t column) {
  return kExact ? x[column] : FloatOfBf16(Bf16OfFloat(x[column]));
}

// Whether the block's token has an activation that is not finite.
MS_DEVICE bool AnyNonfinite(const float* x, int64_t k) {
  __shared__ int found;
  if (threadIdx.x == 0) found = 0;
  __syncthreads();
  bool mine = false;
  for (int64_t c = threadIdx.x; c < k; c += kThreads) mine |= !Finite(x[c]);
  if (mine) found = 1;
  __syncthreads();
  return found != 0;
}

// A block: 32 rows of one token, eight lanes a row.
template <bool kExact, int kMost>
__global__ void __launch_bounds__(kThreads) Correct(Matrices<Correction, kMost> all, const float* xs, int64_t k) {
  LetNextBegin();
  unsigned block;
  const Correction c = MatrixOfBlock(all, &block);
  AwaitFront();
  const int64_t token = blockIdx.y, first = static_cast<int64_t>(block) * kRowsOfBlock;
  const int64_t row = first + threadIdx.x / kLanesOfRow, sections = SectionsOf(k);
  const int lane = static_cast<int>(threadIdx.x % kLanesOfRow);
  const float* x = xs + token * k;
  const void* patch = c.patches[token].data;
  float in = 0, out = 0;
  for (int64_t s = 0; patch != nullptr && row < c.n && s < sections; ++s) {
    const Swaps swaps = SwapsOf(patch, c.n * sections, row * sections + s);
    const float* from = x + s * kSectionColumns;
    for (int64_t i = lane; i < swaps.count; i += kLanesOfRow) {
      const Swap swap = SwapAt(swaps, i);
      in = fmaf(swap.in, Activation<kExact>(from, swap.in_column), in);
      out = fmaf(swap.out, Activation<kExact>(from, swap.out_column), out);
    }
  }
  const float sum = WarpSum<kLanesOfRow>(in + out);
  if (patch != nullptr && lane == 0 && row < c.n) c.y[token * c.n + row] += sum;
  if (!AnyNonfinite(x, k)) return;
  for (int64_t r = first; r < Min(first + kRowsOfBlock, c.n); ++r) {
    if (SpreadsRow(c.meta + r * (k / 8), patch, c.n * sections, r * sections, x, k)) {
      c.y[token * c.n + r] = __uint_as_float(0x7fc00000u);
    }
  }
}

// A parent's nibble that names no pattern, which compress24 never writes, may keep less than two.
MS_DEVICE int SwapsOfNibble(uint32_t parent, uint32_t child) {
  const uint32_t from = KeptBits(parent), to = KeptBits(child);
  return Min(__popc(to & ~from), __popc(from & ~to));
}
MS_DEVICE int SwapsOfByte(uint32_t parent, uint32_t child) {
  if (parent == child) return 0;
  return SwapsOfNibble(parent & 15, child & 15) + SwapsOfNibble(parent >> 4, child >> 4);
}

struct PatchShape {
  const uint8_t *parent, *child;  // (N, K/8)
  int64_t n, k;
};

// The bytes of metadata of one section of a row.
struct SectionBytesOf {
  int64_t begin, end, row;
};
MS_DEVICE SectionBytesOf BytesOfSection(const PatchShape& s, int64_t section) {
  const int64_t per_row = SectionsOf(s.k), row = section / per_row, column = section % per_row * kSectionColumns;
  return {(row * s.k + column) / 8, (row * s.k + Min(s.k, column + kSectionColumns)) / 8, row};
}

// A warp a section: offsets[section + 1] ← its bytes.
__global__ void __launch_bounds__(kThreads) CountSwaps(uint32_t* offsets, PatchShape s, uint64_t* bad) {
  const int64_t section = static_cast<int64_t>(blockIdx.x) * (kThreads / kWarp) + WarpOfBlock();
  if (section >= s.n * SectionsOf(s.k)) return;
  const SectionBytesOf bytes = BytesOfSection(s, section);
  int swaps = 0;
  for (int64_t at = bytes.begin + Lane(); at < bytes.end; at += kWarp) {
    const uint32_t child = s.child[at];
    if (NoPattern(child & 15) || NoPattern(child >> 4)) ReportBad(bad, bytes.row);
    swaps += SwapsOfByte(s.parent[at], child);
  }
  swaps = WarpSum(swaps);
  if (Lane() == 0) offsets[section + 1] = static_cast<uint32_t>(SectionBytes(swaps));
}

// One block: sizes at offsets[1] … to running sums; offsets[0] ← 0.
constexpr int kScanThreads = 1024;
__global__ void __launch_bounds__(kScanThreads) ScanOffsets(uint32_t* offsets, int64_t* total, int64_t count) {
  __shared__ uint64_t warps[kScanThreads / kWarp];
  uint64_t before = 0;
  if (threadIdx.x == 0) offsets[0] = 0;
  for (int64_t first = 0; first < count; first += kScanThreads) {
    const int64_t at = first + threadIdx.x;
    uint64_t sum = at < count ? offsets[at + 1] : 0;
#pragma unroll
    for (int step = 1; step < kWarp; step *= 2) {
      const uint64_t other = __shfl_up_sync(kWholeWarp, sum, static_cast<unsigned>(step));
      if (Lane() >= step) sum += other;
    }
    if (Lane() == kWarp - 1) warps[WarpOfBlock()] = sum;
    __syncthreads();
    uint64_t all = 0;
    for (int w = 0; w < kScanThreads / kWarp; ++w) {
      if (w == WarpOfBlock()) sum += all;
      all += warps[w];
    }
    if (at < count) offsets[at + 1] = static_cast<uint32_t>(before + sum);
    before += all;
    __syncthreads();
  }
  if (threadIdx.x == 0) *total = static_cast<int64_t>(before);
}

// Where a section's swaps are written.
struct SwapWriter {
  uint8_t *pairs, *groups, *nibbles;
};

MS_DEVICE void StoreBytes(uint8_t* out, uint32_t value, int bytes) {
  for (int i = 0; i < bytes; ++i) out[i] = static_cast<uint8_t>(value >> 8 * i);
}

// The swaps of one group; false when a weight that goes out is not finite.
__device__ bool WriteGroup(const SwapWriter& out, int64_t& i, const uint16_t* group, int64_t place, uint32_t parent,
                           uint32_t child) {
  uint32_t in = KeptBits(child) & ~KeptBits(parent), gone = KeptBits(parent) & ~KeptBits(child);
  bool finite = true;
  for (; in != 0 && gone != 0; in &= in - 1, gone &= gone - 1, ++i) {
    const uint32_t to = static_cast<uint32_t>(__ffs(in)) - 1, from = static_cast<uint32_t>(__ffs(gone)) - 1;
    const uint32_t minus = group[from] ^ 0x8000u;
    StoreBytes(out.pairs + 4 * i, group[to] | minus << 16, 4);
    StoreBytes(out.groups + 2 * i, static_cast<uint32_t>(place), 2);
    const uint32_t nibble = to | from << 2;
    uint8_t* byte = out.nibbles + i / 2;
    *byte = static_cast<uint8_t>(i % 2 == 0 ? nibble : (*byte & 15u) | nibble << 4);
    finite = finite && (minus & 0x7f80u) != 0x7f80u;
  }
  return finite;
}

// A warp a section: lanes find changes together and write theirs in turn, since two swaps share a byte of nibbles.
__global__ void __launch_bounds__(kThreads)
    WriteSwaps(uint8_t* patch, const uint32_t* offsets, PatchShape s, const uint16_t* w, uint64_t* bad) {
  const int64_t sections = s.n * SectionsOf(s.k);
  const int64_t section = static_cast<int64_t>(blockIdx.x) * (kThreads / kWarp) + WarpOfBlock();
  if (section >= sections) return;
  const SectionBytesOf bytes = BytesOfSection(s, section);
  const Swaps room = SwapsAt(offsets, patch + kPatchHeader + 4 * (sections + 1), section);
  const SwapWriter out = {const_cast<uint8_t*>(room.pairs), const_cast<uint8_t*>(room.groups),
                          const_cast<uint8_t*>(room.nibbles)};
  int64_t i = 0;
  for (int64_t first = bytes.begin; first < bytes.end; first += kWarp) {
    const int64_t at = first + Lane();
    const uint32_t parent = at < bytes.end ? s.parent[at] : 0, child = at < bytes.end ? s.child[at] : 0;
    for (uint32_t left = __ballot_sync(kWholeWarp, parent != child); left != 0; left &= left - 1) {
      const int turn = __ffs(left) - 1;
      if (Lane() == turn) {
        const int64_t place = 2 * (at - bytes.begin);
        bool finite = WriteGroup(out, i, w + 8 * at, place, parent & 15, child & 15);
        finite = WriteGroup(out, i, w + 8 * at + 4, place + 1, parent >> 4, child >> 4) && finite;
        if (!finite) ReportBad(bad, bytes.row);
      }
      i = __shfl_sync(kWholeWarp, i, turn);
      __syncwarp();
    }
  }
}

// The header last, and the offsets: magic, n, k, bytes of the swaps.
__global__ void __launch_bounds__(kThreads)
    WriteHeader(uint8_t* patch, const uint32_t* offsets, int64_t sections, int64_t n, int64_t k) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i <= sections) reinterpret_cast<uint32_t*>(patch + kPatchHeader)[i] = offsets[i];
  if (i != 0) return;
  uint64_t* header = reinterpret_cast<uint64_t*>(patch);
  header[0] = kPatchMagic;
  header[1] = static_cast<uint64_t>(n);
  header[2] = static_cast<uint64_t>(k);
  header[3] = offsets[sections];
}

unsigned BlocksOfSections(int64_t sections) {
  return Blocks(sections, kThreads / kWarp);
}

}  // namespace

void add_patches24(float* y, const float* x, const ms_patch24* patches, const void* packed, int64_t tokens, int64_t n,
                   int64_t k, int32_t exact, cudaStream_t stream) {
  const ms_product product = {y, {MS_BF16, 0, packed, nullptr}, patches, n};
  add_patches24_fused(&product, 1, x, tokens, k, exact, stream);
}

void add_patches24_fused(const ms_product* host_products, int64_t count, const float* x, int64_t tokens, int64_t k,
                         int32_t exact, cudaStream_t stream) {
  ForCount(count, [&](auto most) {
    constexpr int kMost = decltype(most)::value;
    const auto all = MatricesOf<kMost>(host_products, count, kRowsOfBlock, [&](const ms_product& p) {
      return Correction{p.y, p.host_patches, packed24_meta(p.w.values, p.n, k), p.n};
    });
    const dim3 grid(all.blocks, static_cast<unsigned>(tokens));
    LaunchOverlapped(exact ? Correct<true, kMost> : Correct<false, kMost>, grid, kThreads, 0, stream, all, x, k);
  });
}

void patch_offsets24(uint32_t* offsets, int64_t* total, const void* packed, const uint8_t* meta, int64_t n, int64_t k,
                     uint64_t* bad, cudaStream_t stream) {
  const PatchShape s = {packed24_meta(packed, n, k), meta, n, k};
  const int64_t sections = n * SectionsOf(k);
  Launch(CountSwaps, BlocksOfSections(sections), kThreads, 0, stream, offsets, s, bad);
  Launch(ScanOffsets, 1, kScanThreads, 0, stream, offsets, total, sections);
}

void build_patch24(void* patch, const uint32_t* offsets, const void* packed, const uint16_t* w, const uint8_t* meta,
                   int64_t n, int64_t k, uint64_t* bad, cudaStream_t stream) {
  const PatchShape s = {packed24_meta(packed, n, k), meta, n, k};
  const int64_t sections = n * SectionsOf(k);
  uint8_t* out = static_cast<uint8_t*>(patch);
  Launch(WriteSwaps, BlocksOfSections(sections), kThreads, 0, stream, out, offsets, s, w, bad);
  Launch(WriteHeader, Blocks(sections + 1, kThreads), kThreads, 0, stream, out, offsets, sections, n, k);
}

}  // namespace cuda
}  // namespace maskserve
