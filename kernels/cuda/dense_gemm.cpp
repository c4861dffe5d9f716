#include "dense_gemm.h"

#include <initializer_list>

namespace maskserve {
namespace cuda {

namespace {

// What NVIDIA asks for on Hopper.
constexpr size_t kWorkspaceBytes = size_t{32} << 20;
// Shapes of a model times lengths of prompts: more than that is forgotten together.
constexpr size_t kMostPlans = 4096;
constexpr uintptr_t kAlignment = 256;

}  // namespace

DenseGemm* DenseGemm::Of(Op& op) {
  static const bool there = blaslt::Load() != nullptr;
  auto& gemm = op.context()->dense;
  if (there && gemm == nullptr) gemm = Open();
  return gemm.get();
}

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
    for (const blaslt::MatrixLayout layout : {entry.second.a, entry.second.b, entry.second.c}) {
      if (layout != nullptr) api_.MatrixLayoutDestroy(layout);
    }
  }
  plans_.clear();
}

DenseGemm::~DenseGemm() {
  Forget();
  if (preference_ != nullptr) api_.MatmulPreferenceDestroy(preference_);
  for (const blaslt::MatmulDesc product : products_) {
    if (product != nullptr) api_.MatmulDescDestroy(product);
  }
  api_.Destroy(handle_);
}

// cuBLASLt's matrices are column-major, and a row-major matrix is its transpose's: cᵀ (N, M) = bᵀ (N, K) · aᵀ (K, M).
// So b is cuBLASLt's first operand, transposed where its rows are N, and a its second, transposed where its rows are K.
bool DenseGemm::Describe() {
  for (int form = 0; form < kForms; ++form) {
    const int32_t first = form == DenseProduct::kLayer ? blaslt::kTranspose : blaslt::kNoTranspose;
    const int32_t second = form == DenseProduct::kWeightGradient ? blaslt::kTranspose : blaslt::kNoTranspose;
    blaslt::MatmulDesc& product = products_[form];
    if (api_.MatmulDescCreate(&product, blaslt::kCompute32F, blaslt::kF32) != 0 ||
        api_.MatmulDescSetAttribute(product, blaslt::kDescTransA, &first, sizeof(first)) != 0 ||
        api_.MatmulDescSetAttribute(product, blaslt::kDescTransB, &second, sizeof(second)) != 0) {
      return false;
    }
  }
  const size_t workspace = kWorkspaceBytes;
  return api_.MatmulPreferenceCreate(&preference_) == 0 &&
         api_.MatmulPreferenceSetAttribute(preference_, blaslt::kPreferenceMaxWorkspace, &workspace,
                                           sizeof(workspace)) == 0;
}

const DenseGemm::Plan& DenseGemm::PlanOf(const DenseProduct& product) {
  const auto key = std::make_tuple(static_cast<int>(product.form), product.m, product.n, product.k);
  const auto known = plans_.find(key);
  if (known != plans_.end()) return known->second;
  if (plans_.size() == kMostPlans) Forget();
  Plan plan{};
  // A row-major (rows, columns) matrix.
  const auto layout = [&](blaslt::MatrixLayout* out, int type, int64_t rows, int64_t columns) {
    return api_.MatrixLayoutCreate(out, type, static_cast<uint64_t>(columns), static_cast<uint64_t>(rows), columns) ==
           0;
  };
  const int64_t m = product.m, n = product.n, k = product.k;
  const bool a_of_columns = product.form == DenseProduct::kWeightGradient,
             b_of_rows = product.form == DenseProduct::kLayer;
  int found = 0;
  plan.usable = layout(&plan.a, blaslt::kBf16, a_of_columns ? k : m, a_of_columns ? m : k) &&
                layout(&plan.b, blaslt::kBf16, b_of_rows ? n : k, b_of_rows ? k : n) &&
                layout(&plan.c, blaslt::kF32, m, n) &&
                api_.MatmulAlgoGetHeuristic(handle_, products_[product.form], plan.b, plan.a, plan.c, plan.c,
                                            preference_, 1, &plan.best, &found) == 0 &&
                found > 0 && plan.best.state == 0;
  return plans_.emplace(key, plan).first->second;
}

bool DenseGemm::Multiply(Op& op, const DenseProduct& product) {
  // What heuristics take for granted.
  const auto aligned = [](const void* p) { return reinterpret_cast<uintptr_t>(p) % kAlignment == 0; };
  if (!aligned(product.a) || !aligned(product.b) || !aligned(product.c)) return false;
  const Plan& plan = PlanOf(product);
  if (!plan.usable) return false;
  const float one = 1, before = product.accumulate ? 1.0f : 0.0f;
  void* workspace = op.TakeBytes(kWorkspaceBytes);
  return api_.Matmul(handle_, products_[product.form], &one, product.b, plan.b, product.a, plan.a, &before, product.c,
                     plan.c, product.c, plan.c, &plan.best.algo, workspace, kWorkspaceBytes, op.stream()) == 0;
}

}  // namespace cuda
}  // namespace maskserve
