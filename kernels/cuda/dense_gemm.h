// Dense products of many tokens by cuBLASLt, and the gradients of training.
#pragma once

#include <map>
#include <memory>
#include <tuple>

#include "cublaslt.h"
#include "launch.h"
#include "op.h"

namespace maskserve {
namespace cuda {

// c (M, N) f32 ← or += a · b of bf16, all of them row-major and 256-byte aligned.
struct DenseProduct {
  // How a and b lie: of a layer y = x wᵀ, of its input's gradient dy w, of its weight's gradient dyᵀ x.
  enum Form {
    kLayer,           // a (M, K), b (N, K)
    kInputGradient,   // a (M, K), b (K, N)
    kWeightGradient,  // a (K, M), b (K, N)
  };
  Form form;
  float* c;
  const uint16_t *a, *b;
  int64_t m, n, k;
  bool accumulate;
};

// One a context: cuBLASLt's plans are made once for each shape.
class DenseGemm {
 public:
  // The context's; NULL: there is no cuBLASLt, or it does not start; then gemm.cu multiplies.
  static DenseGemm* Of(Op& op);
  ~DenseGemm();

  // False where cuBLASLt has nothing for the shape, or an operand is not aligned.
  bool Multiply(Op& op, const DenseProduct& product);

 private:
  static constexpr int kForms = 3;
  struct Plan {
    blaslt::MatrixLayout a, b, c;
    blaslt::HeuristicResult best;
    bool usable;
  };

  DenseGemm(const blaslt::Api* api, blaslt::Handle handle) : api_(*api), handle_(handle) {}
  static std::unique_ptr<DenseGemm> Open();
  bool Describe();
  void Forget();
  const Plan& PlanOf(const DenseProduct& product);

  const blaslt::Api& api_;
  blaslt::Handle handle_;
  blaslt::MatmulDesc products_[kForms] = {};
  blaslt::Preference preference_ = nullptr;
  std::map<std::tuple<int, int64_t, int64_t, int64_t>, Plan> plans_;
};

}  // namespace cuda
}  // namespace maskserve
