#include "sparse_gemm.h"

#include "expand24.h"
#include "launch.h"

namespace maskserve {
namespace cuda {

using sparselt::Api;

namespace {

constexpr uint32_t kAlignment = 16;
constexpr size_t kMostPlans = 1024;

}  // namespace

// yᵀ (N, T) column-major = w (N, K) row-major · xᵀ (K, T) column-major.
struct SparseGemm::Plan {
  const Api& api;
  sparselt::MatDescriptor x, y;
  sparselt::MatmulDescriptor product;
  sparselt::AlgSelection selection;
  sparselt::Plan plan;
  size_t workspace = 0;
  bool has_x = false, has_y = false, has_selection = false, has_plan = false;

  explicit Plan(const Api& of) : api(of) {}
  ~Plan() {
    if (has_plan) api.MatmulPlanDestroy(&plan);
    if (has_selection) api.MatmulAlgSelectionDestroy(&selection);
    if (has_y) api.MatDescriptorDestroy(&y);
    if (has_x) api.MatDescriptorDestroy(&x);
  }
};

SparseGemm::SparseGemm(const Api* api) : api_(*api) {}

std::unique_ptr<SparseGemm> SparseGemm::Open() {
  const Api* api = sparselt::Load();
  if (api == nullptr) return nullptr;
  std::unique_ptr<SparseGemm> gemm(new SparseGemm(api));
  gemm->started_ = api->Init(&gemm->handle_) == 0;
  if (!gemm->started_) return nullptr;
  return gemm;
}

SparseGemm::~SparseGemm() {
  plans_.clear();
  for (auto& entry : weights_) api_.MatDescriptorDestroy(entry.second.get());
  if (started_) api_.Destroy(&handle_);
}

const sparselt::MatDescriptor* SparseGemm::Weights(int64_t n, int64_t k) {
  auto& known = weights_[{n, k}];
  if (known != nullptr) return known.get();
  std::unique_ptr<sparselt::MatDescriptor> made(new sparselt::MatDescriptor);
  if (api_.StructuredDescriptorInit(&handle_, made.get(), n, k, k, kAlignment, sparselt::kBf16, sparselt::kRow,
                                    sparselt::kSparsity50) != 0) {
    weights_.erase({n, k});
    return nullptr;
  }
  known = std::move(made);
  return known.get();
}

bool SparseGemm::CompressedSize(int64_t n, int64_t k, size_t* bytes, size_t* buffer_bytes) {
  const sparselt::MatDescriptor* weights = Weights(n, k);
  return weights != nullptr && api_.SpMMACompressedSize2(&handle_, weights, bytes, buffer_bytes) == 0;
}

void SparseGemm::Compress(Op& op, void* compressed, const uint16_t* dense, int64_t n, int64_t k) {
  size_t bytes = 0, buffer_bytes = 0;
  if (!CompressedSize(n, k, &bytes, &buffer_bytes)) {
    throw Failure{MS_UNSUPPORTED, "cuSPARSELt takes no matrix of " + std::to_string(n) + " x " + std::to_string(k)};
  }
  void* buffer = op.TakeBytes(buffer_bytes);
  const int status =
      api_.SpMMACompress2(&handle_, Weights(n, k), 1, sparselt::kNoTranspose, dense, compressed, buffer, op.stream());
  if (status != 0) {
    throw Failure{MS_UNSUPPORTED, std::string("cuSPARSELt does not compress: ") + api_.GetErrorString(status)};
  }
}

void SparseGemm::MakeForm(Op& op, void* packed, int64_t n, int64_t k) {
  auto* dense = op.Take<uint16_t>(n * k);
  // Where only metadata are taken, they must name every kept place, also of a zero.
  expand24(dense, packed, n, k, FormOf(n, k) == Form::kShared, op.stream());
  size_t bytes = 0, buffer_bytes = 0;
  CompressedSize(n, k, &bytes, &buffer_bytes);
  auto* form = static_cast<char*>(op.TakeBytes(bytes));
  Compress(op, form, dense, n, k);
  // The part that is not there yet: its metadata, or all of it.
  const size_t shared = FormOf(n, k) == Form::kShared ? static_cast<size_t>(n * k) : 0;
  char* to = static_cast<char*>(const_cast<void*>(FormIn(packed, n, k))) + shared;
  Require(cudaMemcpyAsync(to, form + shared, bytes - shared, cudaMemcpyDeviceToDevice, op.stream()), "a copy");
}

std::unique_ptr<SparseGemm::Plan> SparseGemm::MakePlan(int64_t tokens, int64_t n, int64_t k,
                                                       const SparseAlgorithm* algorithm) {
  const sparselt::MatDescriptor* w = Weights(n, k);
  std::unique_ptr<Plan> plan(new Plan(api_));
  if (w == nullptr) return nullptr;
  plan->has_x =
      api_.DenseDescriptorInit(&handle_, &plan->x, k, tokens, k, kAlignment, sparselt::kBf16, sparselt::kCol) == 0;
  plan->has_y = plan->has_x && api_.DenseDescriptorInit(&handle_, &plan->y, n, tokens, n, kAlignment, sparselt::kBf16,
                                                        sparselt::kCol) == 0;
  if (!plan->has_y ||
      api_.MatmulDescriptorInit(&handle_, &plan->product, sparselt::kNoTranspose, sparselt::kNoTranspose, w, &plan->x,
                                &plan->y, &plan->y, sparselt::kCompute32F) != 0) {
    return nullptr;
  }
  plan->has_selection =
      api_.MatmulAlgSelectionInit(&handle_, &plan->selection, &plan->product, sparselt::kAlgDefault) == 0;
  if (!plan->has_selection) return nullptr;
  if (algorithm != nullptr) {
    const auto set = [&](sparselt::AlgAttribute attribute, const int32_t& value) {
      return api_.MatmulAlgSetAttribute(&handle_, &plan->selection, attribute, &value, sizeof(value)) == 0;
    };
    if (!set(sparselt::kConfigId, algorithm->config)) return nullptr;
    // Not every algorithm takes every one of these; what it was found with is what it is left with.
    set(sparselt::kSplitK, algorithm->split_k);
    if (algorithm->split_k_mode != 0) set(sparselt::kSplitKMode, algorithm->split_k_mode);
    if (algorithm->split_k_buffers != 0) set(sparselt::kSplitKBuffers, algorithm->split_k_buffers);
  }
  plan->has_plan = api_.MatmulPlanInit(&handle_, &plan->plan, &plan->product, &plan->selection) == 0;
  if (!plan->has_plan || api_.MatmulGetWorkspace(&handle_, &plan->plan, &plan->workspace) != 0) return nullptr;
  return plan;
}

SparseGemm::Plan* SparseGemm::PlanOf(int64_t tokens, int64_t n, int64_t k, const SparseAlgorithm* algorithm) {
  const auto key = std::make_tuple(tokens, n, k);
  const auto known = plans_.find(key);
  if (known != plans_.end()) return known->second.get();
  if (plans_.size() == kMostPlans) plans_.clear();
  return (plans_[key] = MakePlan(tokens, n, k, algorithm)).get();
}

bool SparseGemm::Multiply(Op& op, uint16_t* y, const uint16_t* x, const void* form, int64_t tokens, int64_t n,
                          int64_t k, const SparseAlgorithm* algorithm) {
  Plan* plan = PlanOf(tokens, n, k, algorithm);
  if (plan == nullptr) return false;
  const float one = 1, zero = 0;
  cudaStream_t stream = op.stream();
  void* workspace = op.TakeBytes(plan->workspace);
  return api_.Matmul(&handle_, &plan->plan, &one, form, x, &zero, y, y, workspace, &stream, 1) == 0;
}

bool SparseGemm::Search(Op& op, uint16_t* y, const uint16_t* x, const void* form, int64_t tokens, int64_t n, int64_t k,
                        SparseAlgorithm* algorithm) {
  std::unique_ptr<Plan> plan = MakePlan(tokens, n, k, nullptr);
  if (plan == nullptr) return false;
  const float one = 1, zero = 0;
  cudaStream_t stream = op.stream();
  const int status =
      api_.MatmulSearch(&handle_, &plan->plan, &one, form, x, &zero, y, y, op.TakeBytes(plan->workspace), &stream, 1);
  if (status != 0) return false;
  const auto get = [&](sparselt::AlgAttribute attribute, int32_t* value) {
    return api_.MatmulAlgGetAttribute(&handle_, &plan->selection, attribute, value, sizeof(*value)) == 0;
  };
  SparseAlgorithm found;
  if (!get(sparselt::kConfigId, &found.config)) return false;
  get(sparselt::kSplitK, &found.split_k);
  get(sparselt::kSplitKMode, &found.split_k_mode);
  get(sparselt::kSplitKBuffers, &found.split_k_buffers);
  *algorithm = found;
  return true;
}

}  // namespace cuda
}  // namespace maskserve
