// Gradients of the ops between the matrix products: RMSNorm, rotary embedding, SiLU · up.

#include "exp_log.h"
#include "ops.h"

namespace maskserve {
namespace {

constexpr int64_t kGrain = 32768;   // floats a task
constexpr int64_t kGainBlock = 64;  // rows whose gain gradients are summed together first

// With r = 1 / sqrt(mean(x²) + eps) and g = gain ∘ dy: dx += r · g − x · r³ · (g · x) / D, dgain += dy ∘ x · r.
void NormRowBackward(float* dx, float* dgain, const float* dy, const float* x, const float* gain, int64_t dim,
                     double eps) {
  VF squares = Zero(), products = Zero();
  for (int64_t i = 0; i < dim; i += W) {
    const int64_t n = Min(W, dim - i);
    const VF xi = LoadPart(x + i, n);
    squares = Fma(xi, xi, squares);
    products = Fma(Mul(LoadPart(dy + i, n), LoadPart(gain + i, n)), xi, products);
  }
  const double count = static_cast<double>(dim);
  const double inverse = 1.0 / sqrt(static_cast<double>(Sum(squares)) / count + eps);
  const double along = inverse * inverse * inverse * static_cast<double>(Sum(products)) / count;
  const VF r = Set(static_cast<float>(inverse)), towards = Set(static_cast<float>(-along));
  for (int64_t i = 0; i < dim; i += W) {
    const int64_t n = Min(W, dim - i);
    const VF xi = LoadPart(x + i, n), dyi = LoadPart(dy + i, n);
    const VF direct = Fma(Mul(dyi, LoadPart(gain + i, n)), r, LoadPart(dx + i, n));
    StorePart(dx + i, Fma(xi, towards, direct), n);
    if (dgain != NULL) StorePart(dgain + i, Fma(Mul(dyi, xi), r, LoadPart(dgain + i, n)), n);
  }
}

void AddRow(float* x, const float* y, int64_t n) {
  for (int64_t i = 0; i < n; i += W) {
    const int64_t some = Min(W, n - i);
    StorePart(x + i, Add(LoadPart(x + i, some), LoadPart(y + i, some)), some);
  }
}

// sign 1: forwards; −1: back.
void RotateHead(float* x, const float* cos, const float* sin, int64_t half, float sign) {
  for (int64_t i = 0; i < half; i += W) {
    const int64_t n = Min(W, half - i);
    const VF c = LoadPart(cos + i, n), s = Mul(LoadPart(sin + i, n), Set(sign));
    const VF a = LoadPart(x + i, n), b = LoadPart(x + half + i, n);
    StorePart(x + i, Sub(Mul(a, c), Mul(b, s)), n);
    StorePart(x + half + i, Add(Mul(b, c), Mul(a, s)), n);
  }
}

// silu(g) = g · σ(g), so its derivative is σ · (1 + g · (1 − σ)).
MS_INLINE void SiluMulBackwardAt(float* dgate, float* dup, const float* dout, const float* gate, const float* up,
                                 int64_t n) {
  const VF g = LoadPart(gate, n), d = LoadPart(dout, n), one = Set(1.0f);
  const VF sigmoid = Div(one, Add(one, Exp(Sub(Zero(), g))));
  const VF slope = Mul(sigmoid, Fma(g, Sub(one, sigmoid), one));
  const VF to_gate = Mul(Mul(d, LoadPart(up, n)), slope);
  StorePart(dup, Mul(d, Mul(g, sigmoid)), n);
  StorePart(dgate, to_gate, n);
}

}  // namespace

namespace ISA {

ms_status RmsNormBackward(ms_context* ctx, float* dx, float* dgain, const float* dy, const float* x, const float* gain,
                          int64_t rows, int64_t dim, double eps) {
  const int64_t blocks = CeilDiv(rows, kGainBlock);
  const size_t bytes = static_cast<size_t>(blocks * dim) * sizeof(float);
  float* partial = dgain == NULL ? NULL : static_cast<float*>(Scratch(ctx, bytes));
  if (dgain != NULL && partial == NULL) return FailMemory(ctx, bytes);
  auto body = [&](int64_t begin, int64_t end, int) {
    for (int64_t block = begin; block < end; ++block) {
      float* sums = partial == NULL ? NULL : partial + block * dim;
      if (sums != NULL) memset(sums, 0, static_cast<size_t>(dim) * sizeof(float));
      for (int64_t r = block * kGainBlock; r < Min(rows, (block + 1) * kGainBlock); ++r) {
        NormRowBackward(dx + r * dim, sums, dy + r * dim, x + r * dim, gain, dim, eps);
      }
    }
  };
  ParallelRanges(ctx, blocks, Max(1, kGrain / (kGainBlock * dim)), body);
  for (int64_t block = 0; partial != NULL && block < blocks; ++block) AddRow(dgain, partial + block * dim, dim);
  return MS_OK;
}

ms_status RopeBatch(ms_context* ctx, float* x, const float* cos, const float* sin, int64_t batch, int64_t tokens,
                    int64_t heads, int64_t head_dim, int32_t inverse) {
  const int64_t half = head_dim / 2;
  const float sign = inverse ? -1.0f : 1.0f;
  auto body = [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t at = row % tokens * half;
      for (int64_t h = 0; h < heads; ++h) RotateHead(x + (row * heads + h) * head_dim, cos + at, sin + at, half, sign);
    }
  };
  ParallelRanges(ctx, batch * tokens, Max(1, kGrain / (heads * head_dim)), body);
  return MS_OK;
}

ms_status SiluMulBackward(ms_context* ctx, float* dgate, float* dup, const float* dout, const float* gate,
                          const float* up, int64_t n) {
  auto body = [&](int64_t begin, int64_t end, int) {
    int64_t i = begin;
    for (; i + W <= end; i += W) SiluMulBackwardAt(dgate + i, dup + i, dout + i, gate + i, up + i, W);
    if (i < end) SiluMulBackwardAt(dgate + i, dup + i, dout + i, gate + i, up + i, end - i);
  };
  ParallelRanges(ctx, n, kGrain, body);
  return MS_OK;
}

}  // namespace ISA
}  // namespace maskserve
