#include "dense_gemm.h"

#include <initializer_list>

namespace maskserve {
namespace cuda {

namespace {

// What NVIDIA asks for on Hopper.
constexpr size_t kWorkspaceBytes = size_t{32} << 20;
// Shapes of a model times lengths of prompts: more than that is forgotten together.
constexpr size_t kMostPlans = 4096;

}  // namespace

std::unique_ptr<DenseGemm> DenseGemm::Open() {
  const blaslt::Api* api = blaslt::Load();
  blaslt::Handle handle = nullptr;
  if (api == nullptr || api->Create(&handle) != 0) return nullptr;
  std::unique_ptr<DenseGemm> gemm(new DenseGemm(api, handle));
  if (!gemm->Describe()) return nullptr;
  return gemm;
}

void DenseGemm::Forget() {
  for (auto& entry : plans_) {
    for (const blaslt::MatrixLayout layout : {entry.second.w, entry.second.x, entry.second.y}) {
      if (layout != nullptr) api_.MatrixLayoutDestroy(layout);
    }
  }
  plans_.clear();
}

DenseGemm::~DenseGemm() {
  Forget();
  if (preference_ != nullptr) api_.MatmulPreferenceDestroy(preference_);
  if (product_ != nullptr) api_.MatmulDescDestroy(product_);
  api_.Destroy(handle_);
}

// cuBLASLt's matrices are column-major: yᵀ (N, T) = w (K, N)ᵀ · xᵀ (K, T).
bool DenseGemm::Describe() {
  const int32_t transposed = blaslt::kTranspose, plain = blaslt::kNoTranspose;
  const size_t workspace = kWorkspaceBytes;
  return api_.MatmulDescCreate(&product_, blaslt::kCompute32F, blaslt::kF32) == 0 &&
         api_.MatmulDescSetAttribute(product_, blaslt::kDescTransA, &transposed, sizeof(transposed)) == 0 &&
         api_.MatmulDescSetAttribute(product_, blaslt::kDescTransB, &plain, sizeof(plain)) == 0 &&
         api_.MatmulPreferenceCreate(&preference_) == 0 &&
         api_.MatmulPreferenceSetAttribute(preference_, blaslt::kPreferenceMaxWorkspace, &workspace,
                                           sizeof(workspace)) == 0;
}

const DenseGemm::Plan& DenseGemm::PlanOf(int64_t tokens, int64_t n, int64_t k) {
  const auto key = std::make_tuple(tokens, n, k);
  const auto known = plans_.find(key);
  if (known != plans_.end()) return known->second;
  if (plans_.size() == kMostPlans) Forget();
  Plan plan{};
  const uint64_t columns = static_cast<uint64_t>(k), rows = static_cast<uint64_t>(n);
  const uint64_t count = static_cast<uint64_t>(tokens);
  int found = 0;
  plan.usable = api_.MatrixLayoutCreate(&plan.w, blaslt::kBf16, columns, rows, k) == 0 &&
                api_.MatrixLayoutCreate(&plan.x, blaslt::kBf16, columns, count, k) == 0 &&
                api_.MatrixLayoutCreate(&plan.y, blaslt::kF32, rows, count, n) == 0 &&
                api_.MatmulAlgoGetHeuristic(handle_, product_, plan.w, plan.x, plan.y, plan.y, preference_, 1,
                                            &plan.best, &found) == 0 &&
                found > 0 && plan.best.state == 0;
  return plans_.emplace(key, plan).first->second;
}

bool DenseGemm::Multiply(Op& op, float* y, const uint16_t* x, const uint16_t* w, int64_t tokens, int64_t n, int64_t k) {
  const Plan& plan = PlanOf(tokens, n, k);
  if (!plan.usable) return false;
  const float one = 1, zero = 0;
  void* workspace = op.TakeBytes(kWorkspaceBytes);
  return api_.Matmul(handle_, product_, &one, w, plan.w, x, plan.x, &zero, y, plan.y, y, plan.y, &plan.best.algo,
                     workspace, kWorkspaceBytes, op.stream()) == 0;
}

}  // namespace cuda
}  // namespace maskserve
