// Which kernel multiplies a 2:4 matrix by how many tokens: measured once for each device, library version, shape and
// bucket of tokens, and kept in a file between processes.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <tuple>

namespace maskserve {
namespace cuda {

enum class Kernel { kOwn, kSparse, kDense };

// cuSPARSELt's algorithm as its search left it.
struct SparseAlgorithm {
  int32_t config = 0, split_k = 1, split_k_mode = 0, split_k_buffers = 0;
};

struct Choice {
  Kernel kernel;
  SparseAlgorithm algorithm;
  double own_us, sparse_us, dense_us;  // as measured; below 0: not to be had
};

// Tokens whose choices are shared: the next power of two, from 32.
int64_t BucketOf(int64_t tokens);

class Choices {
 public:
  // Those of this device and these versions in the file MASKSERVE_CUDA_CHOICES, or maskserve/cuda-choices.tsv in the
  // user's cache folder; "" keeps none. Lines that can't be read are passed over.
  static Choices& Get();

  bool Find(int64_t n, int64_t k, int64_t tokens, Choice* choice);
  // Also to the file, in one write; a file that can't be written loses nothing but time.
  void Add(int64_t n, int64_t k, int64_t tokens, const Choice& choice);

 private:
  Choices();
  void Read();

  std::string file_, machine_;
  std::mutex mutex_;
  std::map<std::tuple<int64_t, int64_t, int64_t>, Choice> known_;
};

}  // namespace cuda
}  // namespace maskserve
