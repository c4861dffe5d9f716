// RMSNorm (Zhang & Sennrich 2019, arXiv 1910.07467): out = x / sqrt(mean(x²) + eps) · gain.

#include "ops.h"

namespace maskserve {
namespace {

void NormRow(float* out, const float* x, const float* gain, int64_t dim, double eps) {
  VF squares = Zero();
  int64_t i = 0;
  for (; i + W <= dim; i += W) squares = Fma(Load(x + i), Load(x + i), squares);
  if (i < dim) {
    const VF rest = LoadPart(x + i, dim - i);
    squares = Fma(rest, rest, squares);
  }
  const VF inverse =
      Set(static_cast<float>(1.0 / sqrt(static_cast<double>(Sum(squares)) / static_cast<double>(dim) + eps)));
  for (i = 0; i + W <= dim; i += W) Store(out + i, Mul(Mul(Load(x + i), inverse), Load(gain + i)));
  if (i < dim) {
    StorePart(out + i, Mul(Mul(LoadPart(x + i, dim - i), inverse), LoadPart(gain + i, dim - i)), dim - i);
  }
}

}  // namespace

namespace ISA {

ms_status RmsNorm(ms_context* ctx, float* out, const float* x, const float* gain, int64_t rows, int64_t dim,
                  double eps) {
  auto body = [&](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; ++r) NormRow(out + r * dim, x + r * dim, gain, dim, eps);
  };
  constexpr int64_t kGrain = 65536;  // floats a task
  ParallelRanges(ctx, rows, Max(1, kGrain / dim), body);
  return MS_OK;
}

}  // namespace ISA
}  // namespace maskserve
