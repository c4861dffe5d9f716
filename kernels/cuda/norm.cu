// RMSNorm (Zhang & Sennrich 2019, arXiv 1910.07467) with its gradient, rotary embedding (arXiv 2104.09864, Hugging
// Face's half-split order), and the keys and values on their way into a cache.
//
// Bound by DRAM for many rows, by the launch for one: rmsnorm moves 8 bytes an element, its second read of x comes from
// the first-level cache. Rows up to 1,024 wide (a model's q and k norms) take a warp, wider ones a block.

#include "cache.cuh"
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

MS_DEVICE double InverseNorm(float squares, int64_t dim, double eps) {
  return 1.0 / sqrt(static_cast<double>(squares) / static_cast<double>(dim) + eps);
}

template <bool kOfWarp>
__global__ void __launch_bounds__(kThreads)
    RmsNorm(float* out, const float* x, const float* gain, int64_t rows, int64_t dim, double eps) {
  typedef RowThreads<kOfWarp> Threads;
  __shared__ float room[kThreads / kWarp];
  const int64_t row = Threads::Row();
  if (row >= rows) return;
  const float* from = x + row * dim;
  float squares = 0;
  for (int64_t i = Threads::First(); i < dim; i += Threads::kOfRow) squares = fmaf(from[i], from[i], squares);
  const float inverse = static_cast<float>(InverseNorm(Threads::Sum(squares, room), dim, eps));
  for (int64_t i = Threads::First(); i < dim; i += Threads::kOfRow) {
    out[row * dim + i] = from[i] * inverse * gain[i];
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
  const double inverse = InverseNorm(squares, p.dim, p.eps);
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
  if (dim <= kWarpWidth) {
    typedef RowThreads<true> Threads;
    Launch(RmsNorm<true>, Blocks(rows, Threads::kRows), Threads::kBlock, 0, stream, out, x, gain, rows, dim, eps);
  } else {
    Launch(RmsNorm<false>, Blocks(rows, 1), kThreads, 0, stream, out, x, gain, rows, dim, eps);
  }
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
