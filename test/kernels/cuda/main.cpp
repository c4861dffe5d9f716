// maskserve_cuda_host --list | NAME: the cases by name, one a line; one case.

#include "../../../kernels/cuda/host/execution.h"
#include "cases.h"

const ms_backend* cpu;
ms_context* context;

namespace {

int failures = 0;
const char* order_name = "";

std::vector<Case>& Cases() {
  static std::vector<Case> cases;
  return cases;
}

double Norm(const std::vector<float>& v) {
  double sum = 0;
  for (const float f : v) sum += std::isfinite(f) ? static_cast<double>(f) * static_cast<double>(f) : 0;
  return std::sqrt(sum);
}

}  // namespace

Case::Case(const char* name_, void (*run_)()) : name(name_), run(run_) {
  Cases().push_back(*this);
}

void Expect(bool holds, const char* what, int64_t a, int64_t b, int64_t c) {
  if (holds || ++failures > 10) return;
  std::fprintf(stderr, "%s, threads in %s order (%lld, %lld, %lld)\n", what, order_name, static_cast<long long>(a),
               static_cast<long long>(b), static_cast<long long>(c));
}

void ExpectNear(const std::vector<float>& a, const std::vector<float>& b, double tolerance, const char* what,
                int64_t at) {
  Expect(a.size() == b.size(), what, at);
  std::vector<float> difference(a.size());
  for (size_t i = 0; i < a.size(); ++i) {
    const bool alike = std::isnan(a[i]) == std::isnan(b[i]) && std::isinf(a[i]) == std::isinf(b[i]);
    Expect(alike, "NaN or infinity in another place", at, static_cast<int64_t>(i));
    difference[i] = alike && std::isfinite(a[i]) ? a[i] - b[i] : 0.0f;
  }
  const double error = Norm(difference), limit = tolerance * Norm(b) + 1e-12;
  if (!(error <= limit)) std::fprintf(stderr, "error %.3g of %.3g allowed: ", error, limit);
  Expect(error <= limit, what, at);
}

int main(int argc, char** argv) {
  using maskserve::cuda::host::Order;
  if (argc != 2) {
    std::fprintf(stderr, "usage: %s --list | NAME\n", argv[0]);
    return 2;
  }
  if (std::strcmp(argv[1], "--list") == 0) {
    for (const Case& c : Cases()) std::printf("%s\n", c.name);
    return 0;
  }
  const char* reason = "";
  cpu = maskserve::OpenCpuBackend(MS_ABI_VERSION, &reason);
  if (cpu == nullptr) {
    std::fprintf(stderr, "%s\n", reason);
    return 1;
  }
  context = cpu->context_create();
  cpu->set_threads(context, 1);
  bool found = false;
  for (const Case& c : Cases()) {
    if (std::strcmp(c.name, argv[1]) != 0) continue;
    found = true;
    for (const Order order : {Order::kAscending, Order::kShuffled}) {
      order_name = order == Order::kAscending ? "ascending" : "shuffled";
      maskserve::cuda::host::SetOrder(order, 7);
      c.run();
    }
  }
  if (!found) std::fprintf(stderr, "no case is called %s\n", argv[1]);
  cpu->context_destroy(context);
  return found && failures == 0 ? 0 : 1;
}
