// Dense products of many tokens by cuBLASLt.
#pragma once

#include <map>
#include <memory>
#include <tuple>

#include "cublaslt.h"
#include "launch.h"
#include "op.h"

namespace maskserve {
namespace cuda {

// One a context: cuBLASLt's plans are made once for each shape.
class DenseGemm {
 public:
  // NULL: there is no cuBLASLt, or it does not start; then gemm.cu multiplies.
  static std::unique_ptr<DenseGemm> Open();
  ~DenseGemm();

  // y (T, N) f32 ← x (T, K) bf16 · wᵀ, w (N, K) bf16. False where cuBLASLt has nothing for the shape.
  bool Multiply(Op& op, float* y, const uint16_t* x, const uint16_t* w, int64_t tokens, int64_t n, int64_t k);

 private:
  struct Plan {
    blaslt::MatrixLayout w, x, y;
    blaslt::HeuristicResult best;
    bool usable;
  };

  DenseGemm(const blaslt::Api* api, blaslt::Handle handle) : api_(*api), handle_(handle) {}
  bool Describe();
  void Forget();
  const Plan& PlanOf(int64_t tokens, int64_t n, int64_t k);

  const blaslt::Api& api_;
  blaslt::Handle handle_;
  blaslt::MatmulDesc product_ = nullptr;
  blaslt::Preference preference_ = nullptr;
  std::map<std::tuple<int64_t, int64_t, int64_t>, Plan> plans_;
};

}  // namespace cuda
}  // namespace maskserve
