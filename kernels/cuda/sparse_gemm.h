// 2:4 products of many tokens by cuSPARSELt, and the form of a matrix that it multiplies.
#pragma once

#include <map>
#include <memory>
#include <tuple>

#include "choices.h"
#include "cusparselt.h"
#include "op.h"

namespace maskserve {
namespace cuda {

// What of cuSPARSELt's form lies in a packed matrix. Its buffer is the values, row after row, and metadata in an order
// of its own; where a start-up self-test proves that (compress a random matrix both ways, compare), the values are
// shared: 1/16 of the dense bytes more. Where not, cuSPARSELt is not used, unless MASKSERVE_CUSPARSELT_COPY=1 pays for
// a whole form of its own (9/16).
enum class Form { kNone, kShared, kOwnCopy };

// Of this process, from the self-test; and of one matrix, which cuSPARSELt must be able to take.
Form ProvenForm();
Form FormOf(int64_t n, int64_t k);
// Why cuSPARSELt is found and not used, or is used with doubts; empty otherwise.
const std::string& FormRemark();

// Bytes of a packed matrix with its form, and where in it the form begins.
int64_t PackedBytes(int64_t n, int64_t k);
const void* FormIn(const void* packed, int64_t n, int64_t k);

// One a context.
class SparseGemm {
 public:
  // NULL: there is no cuSPARSELt, or it does not start.
  static std::unique_ptr<SparseGemm> Open();
  ~SparseGemm();

  // Completes a packed matrix whose values and nibbles are there. Throws Failure.
  void MakeForm(Op& op, void* packed, int64_t n, int64_t k);
  // y (T, N) bf16 ← x (T, K) bf16 · wᵀ, w by its form; `tokens` is a multiple of 8. `algorithm` NULL: cuSPARSELt's own
  // choice. False where it has nothing for the shape.
  bool Multiply(Op& op, uint16_t* y, const uint16_t* x, const void* form, int64_t tokens, int64_t n, int64_t k,
                const SparseAlgorithm* algorithm);
  // The fastest algorithm for a shape, by its own search; overwrites y. False where there is none.
  bool Search(Op& op, uint16_t* y, const uint16_t* x, const void* form, int64_t tokens, int64_t n, int64_t k,
              SparseAlgorithm* algorithm);
  // (size of the compressed form, size of its working buffer), or false.
  bool CompressedSize(int64_t n, int64_t k, size_t* bytes, size_t* buffer_bytes);
  // cuSPARSELt's form of a dense masked matrix. Throws Failure.
  void Compress(Op& op, void* compressed, const uint16_t* dense, int64_t n, int64_t k);

 private:
  struct Plan;

  explicit SparseGemm(const sparselt::Api* api);
  const sparselt::MatDescriptor* Weights(int64_t n, int64_t k);
  Plan* PlanOf(int64_t tokens, int64_t n, int64_t k, const SparseAlgorithm* algorithm);
  std::unique_ptr<Plan> MakePlan(int64_t tokens, int64_t n, int64_t k, const SparseAlgorithm* algorithm);

  const sparselt::Api& api_;
  sparselt::Handle handle_;
  bool started_ = false;  // the handle may be used, and has to be given back
  std::map<std::pair<int64_t, int64_t>, std::unique_ptr<sparselt::MatDescriptor>> weights_;
  std::map<std::tuple<int64_t, int64_t, int64_t>, std::unique_ptr<Plan>> plans_;
};

}  // namespace cuda
}  // namespace maskserve
