// Products of many tokens and their gradients against the CPU backend in fp32, on CUDA cores and on tensor cores.

#include "cases.h"

namespace {

using namespace maskserve::cuda;

constexpr double kRounding = 2e-6;

CASE(Layers, "a layer of many tokens and its gradients are the CPU's") {
  Random random{61};
  cpu->set_exact(context, 1);
  struct Shape {
    int64_t rows, n, k;
  };
  for (const Shape& s : {Shape{70, 65, 33}, Shape{1, 3, 130}, Shape{64, 128, 64}}) {
    const std::vector<float> x = Floats(random, s.rows * s.k), dy = Floats(random, s.rows * s.n);
    const std::vector<float> floats = Floats(random, s.n * s.k);
    const std::vector<uint16_t> w = Weights(random, s.n * s.k);
    for (const int exact : {0, 1}) {
      const std::vector<float> in = exact != 0 ? x : Rounded(x), out = exact != 0 ? dy : Rounded(dy);
      const std::vector<float> weights = exact != 0 ? floats : Rounded(floats);
      for (const ms_value_type type : {MS_BF16, MS_F32}) {
        const ms_weights of = type == MS_BF16 ? Bf16(w) : ms_weights{MS_F32, 0, weights.data(), nullptr};
        const void* values = type == MS_BF16 ? static_cast<const void*>(w.data()) : floats.data();
        std::vector<float> y = Like(dy), y_cpu = y;
        linear(y.data(), x.data(), values, type, s.rows, s.n, s.k, exact, nullptr);
        cpu->ops.linear(context, y_cpu.data(), in.data(), of, s.rows, s.n, s.k);
        ExpectNear(y, y_cpu, kRounding, "linear", s.k);
        for (const int accumulate : {0, 1}) {
          std::vector<float> dx = Floats(random, s.rows * s.k), dx_cpu = dx;
          linear_backward_input(dx.data(), dy.data(), values, type, s.rows, s.n, s.k, accumulate, exact, nullptr);
          cpu->ops.linear_backward_input(context, dx_cpu.data(), out.data(), of, s.rows, s.n, s.k, accumulate);
          ExpectNear(dx, dx_cpu, kRounding, "linear_backward_input", s.k);
          std::vector<float> dw = Floats(random, s.n * s.k), dw_cpu = dw;
          linear_backward_weight(dw.data(), dy.data(), x.data(), s.rows, s.n, s.k, accumulate, exact, nullptr);
          cpu->ops.linear_backward_weight(context, dw_cpu.data(), out.data(), in.data(), s.rows, s.n, s.k, accumulate);
          ExpectNear(dw, dw_cpu, kRounding, "linear_backward_weight", s.k);
        }
      }
    }
  }
  cpu->set_exact(context, 0);
}

}  // namespace
