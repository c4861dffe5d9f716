// RMSNorm (Zhang & Sennrich 2019, arXiv 1910.07467) with its gradient, rotary embedding (arXiv 2104.09864, Hugging
// Face's half-split order), and the keys and values on their way into a cache.
//
// Bound by DRAM for many rows, by latency for one: rmsnorm moves 8 bytes an element. A thread loads two vectors of its
// row and of the gain at once and keeps them until the sum is there, so that a row of up to 8,192 is one round of
// loads, a sum over the block, one square root and one round of stores. Rows up to 256 wide (a model's q and k norms)
// take a warp, wider ones a block of as many threads as they need, whatever the number of rows: so their bits don't
// depend on it. The gradient and what follows take an element a thread.

#include "cache.cuh"
#include "quads.cuh"
#include "reduce.cuh"

namespace maskserve {
namespace cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kWarpWidth = 1024;
constexpr int64_t kGainBlock = 64;  // rows whose gain gradients are summed together first

// Threads that share a row: a warp of a block of four, or the block.
template <bool kOfWarp>
struct RowThreads {
  static constexpr int kOfRow = kOfWarp ? kWarp : kThreads;
  static constexpr int kBlock = kOfWarp ? 4 * kWarp : kThreads;
  static constexpr int kRows = kBlock / kOfRow;

  MS_METHOD int64_t Row() { return static_cast<int64_t>(blockIdx.x) * kRows + threadIdx.x / kOfRow; }
  MS_METHOD int64_t First() { return threadIdx.x % kOfRow; }
  MS_METHOD float Sum(float v, float* room) { return kOfWarp ? WarpSum(v) : BlockSum<kBlock>(v, room); }
};

MS_DEVICE double InverseNorm(float squares, double mean, double eps) {
  return rsqrt(static_cast<double>(squares) * mean + eps);
}

constexpr int kKept = 2;  // vectors of a row that a thread keeps
constexpr int kMostOfRow = 1024;

template <int kOfRow>
struct NormThreads {
  static constexpr int kBlock = kOfRow < 4 * kWarp ? 4 * kWarp : kOfRow;
  static constexpr int kRows = kBlock / kOfRow;
};

// In all threads of a row: 1 / sqrt(mean(x²) + eps). fp64 is one warp's work, not every thread's.
template <int kOfRow>
MS_DEVICE float InverseOfRow(float squares, double mean, double eps, float* room) {
  constexpr int kWarps = kOfRow / kWarp;
  squares = WarpSum(squares);
  if (kWarps == 1) return static_cast<float>(InverseNorm(squares, mean, eps));
  if (Lane() == 0) room[WarpOfBlock()] = squares;
  __syncthreads();
  if (WarpOfBlock() == 0) {
    squares = WarpSum<kWarps>(Lane() < kWarps ? room[Lane()] : 0.0f);
    if (Lane() == 0) room[kWarps] = static_cast<float>(InverseNorm(squares, mean, eps));
  }
  __syncthreads();
  return room[kWarps];
}

MS_DEVICE float SquaresOf(const float4& v, float sum) {
  return fmaf(v.w, v.w, fmaf(v.z, v.z, fmaf(v.y, v.y, fmaf(v.x, v.x, sum))));
}
MS_DEVICE float4 Normed(const float4& x, float inverse, const float4& gain) {
  return make_float4(x.x * inverse * gain.x, x.y * inverse * gain.y, x.z * inverse * gain.z, x.w * inverse * gain.w);
}

// `mean`: 1 / dim. kWhole: rows are whole vectors, in the same order.
template <int kOfRow, bool kWhole>
__global__ void __launch_bounds__(NormThreads<kOfRow>::kBlock)
    RmsNorm(float* out, const float* x, const float* gain, int64_t rows, int64_t dim, double mean, double eps) {
  __shared__ float room[kOfRow / kWarp + 1];
  const int64_t row = static_cast<int64_t>(blockIdx.x) * NormThreads<kOfRow>::kRows + threadIdx.x / kOfRow;
  LetNextBegin();
  AwaitFront();
  if (row >= rows) return;
  constexpr int kStep = kOfRow * kQuad;
  const int width = static_cast<int>(dim), first = static_cast<int>(threadIdx.x) % kOfRow * kQuad;
  const float* from = x + row * dim;
  float* to = out + row * dim;
  float4 kept[kKept], gains[kKept];
#pragma unroll
  for (int i = 0; i < kKept; ++i) kept[i] = LoadQuad<kWhole>(from + first + i * kStep, width - first - i * kStep);
#pragma unroll
  for (int i = 0; i < kKept; ++i) gains[i] = LoadQuad<kWhole>(gain + first + i * kStep, width - first - i * kStep);
  float squares = 0;
#pragma unroll
  for (int i = 0; i < kKept; ++i) squares = SquaresOf(kept[i], squares);
    // Of a row that is wider than its threads keep, as only the widest are.
#pragma unroll 1
  for (int at = first + kKept * kStep; kOfRow == kMostOfRow && at < width; at += kStep) {
    squares = SquaresOf(LoadQuad<kWhole>(from + at, width - at), squares);
  }
  const float inverse = InverseOfRow<kOfRow>(squares, mean, eps, room);
#pragma unroll
  for (int i = 0; i < kKept; ++i) {
    StoreQuad<kWhole>(to + first + i * kStep, width - first - i * kStep, Normed(kept[i], inverse, gains[i]));
  }
#pragma unroll 1
  for (int at = first + kKept * kStep; kOfRow == kMostOfRow && at < width; at += kStep) {
    StoreQuad<kWhole>(
        to + at, width - at,
        Normed(LoadQuad<kWhole>(from + at, width - at), inverse, LoadQuad<kWhole>(gain + at, width - at)));
  }
}

struct NormGradient {
  float* dx;
  float* inverses;  // (rows), or NULL
  const float *dy, *x, *gain;
  int64_t rows, dim;
  double eps;
};

// With r = 1 / sqrt(mean(x²) + eps) and g = gain ∘ dy: dx += r · g − x · r³ · (g · x) / D.
template <bool kOfWarp>
__global__ void __launch_bounds__(kThreads) RmsNormBackward(NormGradient p) {
  typedef RowThreads<kOfWarp> Threads;
  __shared__ float room[2][kThreads / kWarp];
  const int64_t row = Threads::Row();
  if (row >= p.rows) return;
  const float *x = p.x + row * p.dim, *dy = p.dy + row * p.dim;
  float squares = 0, products = 0;
  for (int64_t i = Threads::First(); i < p.dim; i += Threads::kOfRow) {
    squares = fmaf(x[i], x[i], squares);
    products = fmaf(dy[i] * p.gain[i], x[i], products);
  }
  squares = Threads::Sum(squares, room[0]);
  products = Threads::Sum(products, room[1]);
  const double inverse = InverseNorm(squares, 1 / static_cast<double>(p.dim), p.eps);
  const double along = inverse * inverse * inverse * static_cast<double>(products) / static_cast<double>(p.dim);
  const float r = static_cast<float>(inverse), towards = static_cast<float>(-along);
  float* dx = p.dx + row * p.dim;
  for (int64_t i = Threads::First(); i < p.dim; i += Threads::kOfRow) {
    dx[i] = fmaf(x[i], towards, fmaf(dy[i] * p.gain[i], r, dx[i]));
  }
  if (p.inverses != nullptr && Threads::First() == 0) p.inverses[row] = r;
}

// partial (blocks, D): Σ dy ∘ x · r over the rows of a block; a thread a column.
__global__ void __launch_bounds__(kThreads) GainGradients(float* partial, NormGradient p) {
  const int64_t column = GlobalIndex(), first = static_cast<int64_t>(blockIdx.y) * kGainBlock;
  if (column >= p.dim) return;
  float sum = 0;
  for (int64_t row = first; row < Min(p.rows, first + kGainBlock); ++row) {
    sum = fmaf(p.dy[row * p.dim + column] * p.x[row * p.dim + column], p.inverses[row], sum);
  }
  partial[blockIdx.y * p.dim + column] = sum;
}
__global__ void __launch_bounds__(kThreads) AddGains(float* dgain, const float* partial, int64_t blocks, int64_t dim) {
  const int64_t column = GlobalIndex();
  if (column >= dim) return;
  float sum = dgain[column];
  for (int64_t block = 0; block < blocks; ++block) sum += partial[block * dim + column];
  dgain[column] = sum;
}

struct Rotation {
  const float *cos, *sin;
  int64_t start, tokens, heads, half;  // token t of a sequence is at start + t mod tokens
  float sign;
};

// A thread a pair of elements.
__global__ void __launch_bounds__(kThreads) Rotate(float* x, Rotation r, int64_t pairs) {
  const int64_t i = GlobalIndex();
  if (i >= pairs) return;
  const int64_t element = i % r.half, head = i / r.half;
  const int64_t at = (r.start + head / r.heads % r.tokens) * r.half + element;
  const float c = r.cos[at], s = r.sin[at] * r.sign;
  float* pair = x + head * 2 * r.half + element;
  const float2 rotated = RotatePair(pair[0], pair[r.half], c, s);
  pair[0] = rotated.x;
  pair[r.half] = rotated.y;
}

template <typename T>
__global__ void __launch_bounds__(kThreads) KvWrite(T* cache, const float* x, int64_t start, int64_t count,
                                                    int64_t kv_heads, int64_t head_dim, int64_t capacity) {
  const int64_t i = GlobalIndex();
  if (i >= count) return;
  const int64_t d = i % head_dim, h = i / head_dim % kv_heads, t = i / head_dim / kv_heads;
  Store(cache + (h * capacity + start + t) * head_dim + d, x[i]);
}

}  // namespace

void rmsnorm(float* out, const float* x, const float* gain, int64_t rows, int64_t dim, double eps,
             cudaStream_t stream) {
  const bool whole = dim % kQuad == 0 && IsAligned(out) && IsAligned(x) && IsAligned(gain);
  const auto launch = [&](auto threads, auto whole_kernel, auto kernel) {
    typedef decltype(threads) Threads;
    LaunchOverlapped(whole ? whole_kernel : kernel, Blocks(rows, Threads::kRows), Threads::kBlock, 0, stream, out, x,
                     gain, rows, dim, 1 / static_cast<double>(dim), eps);
  };
  constexpr int64_t kOfThread = kKept * kQuad;
  if (dim <= 32 * kOfThread) return launch(NormThreads<32>{}, RmsNorm<32, true>, RmsNorm<32, false>);
  if (dim <= 256 * kOfThread) return launch(NormThreads<256>{}, RmsNorm<256, true>, RmsNorm<256, false>);
  if (dim <= 512 * kOfThread) return launch(NormThreads<512>{}, RmsNorm<512, true>, RmsNorm<512, false>);
  launch(NormThreads<kMostOfRow>{}, RmsNorm<kMostOfRow, true>, RmsNorm<kMostOfRow, false>);
}

void rope(float* x, const float* cos, const float* sin, int64_t start, int64_t tokens, int64_t heads, int64_t head_dim,
          cudaStream_t stream) {
  const int64_t pairs = tokens * heads * head_dim / 2;
  const Rotation rotation = {cos, sin, start, tokens, heads, head_dim / 2, 1.0f};
  Launch(Rotate, Blocks(pairs, kThreads), kThreads, 0, stream, x, rotation, pairs);
}

void rope_batch(float* x, const float* cos, const float* sin, int64_t batch, int64_t tokens, int64_t heads,
                int64_t head_dim, int32_t inverse, cudaStream_t stream) {
  const int64_t pairs = batch * tokens * heads * head_dim / 2;
  const Rotation rotation = {cos, sin, 0, tokens, heads, head_dim / 2, inverse ? -1.0f : 1.0f};
  Launch(Rotate, Blocks(pairs, kThreads), kThreads, 0, stream, x, rotation, pairs);
}

void kv_write(void* cache, ms_value_type type, const float* x, int64_t start, int64_t tokens, int64_t kv_heads,
              int64_t head_dim, int64_t capacity, cudaStream_t stream) {
  const int64_t count = tokens * kv_heads * head_dim;
  WithCacheType(type, [&](auto element) {
    typedef decltype(element) T;
    Launch(KvWrite<T>, Blocks(count, kThreads), kThreads, 0, stream, static_cast<T*>(cache), x, start, count, kv_heads,
           head_dim, capacity);
  });
}

size_t rmsnorm_backward_workspace(int64_t rows, int64_t dim) {
  return static_cast<size_t>(rows + CeilDiv(rows, kGainBlock) * dim) * sizeof(float);
}

void rmsnorm_backward(float* dx, float* dgain, const float* dy, const float* x, const float* gain, int64_t rows,
                      int64_t dim, double eps, void* workspace, cudaStream_t stream) {
  float* inverses = dgain == nullptr ? nullptr : static_cast<float*>(workspace);
  const NormGradient p = {dx, inverses, dy, x, gain, rows, dim, eps};
  if (dim <= kWarpWidth) {
    typedef RowThreads<true> Threads;
    Launch(RmsNormBackward<true>, Blocks(rows, Threads::kRows), Threads::kBlock, 0, stream, p);
  } else {
    Launch(RmsNormBackward<false>, Blocks(rows, 1), kThreads, 0, stream, p);
  }
  if (dgain == nullptr || rows == 0) return;
  const int64_t blocks = CeilDiv(rows, kGainBlock);
  float* partial = inverses + rows;
  Launch(GainGradients, dim3(Blocks(dim, kThreads), static_cast<unsigned>(blocks)), kThreads, 0, stream, partial, p);
  Launch(AddGains, Blocks(dim, kThreads), kThreads, 0, stream, dgain, partial, blocks, dim);
}

}  // namespace cuda
}  // namespace maskserve
