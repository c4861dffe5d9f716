#include "choices.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <fstream>

#include "cublaslt.h"
#include "cusparselt.h"
#include "device.h"

namespace maskserve {
namespace cuda {

namespace {

constexpr int64_t kLeastBucket = 32;

std::string Environment(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr ? value : "";
}

std::string FilePath() {
  if (const char* named = std::getenv("MASKSERVE_CUDA_CHOICES")) return named;
  std::string folder = Environment("XDG_CACHE_HOME");
  if (folder.empty()) {
    const std::string home = Environment("HOME");
    if (home.empty()) return "";
    folder = home + "/.cache";
  }
  mkdir(folder.c_str(), 0755);
  folder += "/maskserve";
  mkdir(folder.c_str(), 0755);
  return folder + "/cuda-choices.tsv";
}

// What a measurement holds for, as the beginning of its line.
std::string Machine() {
  std::string name = FindDevice().device.name;
  for (char& c : name) {
    if (c == '\t' || c == '\n') c = ' ';
  }
  return name + "\t" + FindDevice().driver_version + "\t" + sparselt::Find().version + "\t" + blaslt::Find().version +
         "\t";
}

}  // namespace

int64_t BucketOf(int64_t tokens) {
  int64_t bucket = kLeastBucket;
  while (bucket < tokens) bucket *= 2;
  return bucket;
}

Choices& Choices::Get() {
  static Choices& choices = *new Choices;
  return choices;
}

Choices::Choices() : file_(FilePath()), machine_(Machine()) {
  if (!file_.empty()) Read();
}

void Choices::Read() {
  std::ifstream file(file_);
  std::string line;
  while (std::getline(file, line)) {
    if (line.compare(0, machine_.size(), machine_) != 0) continue;
    int64_t n = 0, k = 0, bucket = 0;
    int kernel = -1;
    Choice c{};
    SparseAlgorithm& a = c.algorithm;
    const int read = std::sscanf(line.c_str() + machine_.size(),
                                 "%" SCNd64 "\t%" SCNd64 "\t%" SCNd64 "\t%d\t%" SCNd32 "\t%" SCNd32 "\t%" SCNd32
                                 "\t%" SCNd32 "\t%lf\t%lf\t%lf",
                                 &n, &k, &bucket, &kernel, &a.config, &a.split_k, &a.split_k_mode, &a.split_k_buffers,
                                 &c.own_us, &c.sparse_us, &c.dense_us);
    if (read != 11 || kernel < 0 || kernel > static_cast<int>(Kernel::kDense)) continue;
    c.kernel = static_cast<Kernel>(kernel);
    known_[std::make_tuple(n, k, bucket)] = c;
  }
}

bool Choices::Find(int64_t n, int64_t k, int64_t tokens, Choice* choice) {
  std::lock_guard<std::mutex> lock(mutex_);
  const auto known = known_.find(std::make_tuple(n, k, BucketOf(tokens)));
  if (known == known_.end()) return false;
  *choice = known->second;
  return true;
}

void Choices::Add(int64_t n, int64_t k, int64_t tokens, const Choice& choice) {
  std::lock_guard<std::mutex> lock(mutex_);
  known_[std::make_tuple(n, k, BucketOf(tokens))] = choice;
  if (file_.empty()) return;
  const SparseAlgorithm& a = choice.algorithm;
  char rest[256];
  std::snprintf(rest, sizeof(rest), "%" PRId64 "\t%" PRId64 "\t%" PRId64 "\t%d\t%d\t%d\t%d\t%d\t%.2f\t%.2f\t%.2f\n", n,
                k, BucketOf(tokens), static_cast<int>(choice.kernel), a.config, a.split_k, a.split_k_mode,
                a.split_k_buffers, choice.own_us, choice.sparse_us, choice.dense_us);
  const std::string line = machine_ + rest;
  const int file = open(file_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (file < 0) return;
  const ssize_t written = write(file, line.data(), line.size());
  close(file);
  // Half a line is passed over by the next reader, and takes the line after it along.
  if (written != static_cast<ssize_t>(line.size())) file_.clear();
}

}  // namespace cuda
}  // namespace maskserve
