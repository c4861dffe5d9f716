// What the two halves of the sanitizer test share: the backend, random inputs, and the check that threads change
// nothing.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

#include "../../kernels/cpu/cpu_backend.h"

extern const ms_backend* backend;
extern int failures;

// The ops of training (op_table_training.cpp).
void TrainingOps();

inline void Expect(bool holds, const char* what, int64_t a = 0, int64_t b = 0, int64_t c = 0) {
  if (holds) return;
  ++failures;
  std::fprintf(stderr, "%s: %s (%lld, %lld, %lld)\n", backend->isa, what, static_cast<long long>(a),
               static_cast<long long>(b), static_cast<long long>(c));
}

struct Random {
  uint64_t state;
  uint32_t Next() {
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    return static_cast<uint32_t>(state >> 33);
  }
  float Float() { return static_cast<float>(Next()) / 1073741824.0f - 1.0f; }
};

inline std::vector<float> Floats(Random& random, int64_t n) {
  std::vector<float> v(static_cast<size_t>(n));
  for (float& f : v) f = random.Float();
  return v;
}

// bf16 in [−1, 1), by truncation.
inline std::vector<uint16_t> Weights(Random& random, int64_t n) {
  std::vector<uint16_t> v(static_cast<size_t>(n));
  for (uint16_t& w : v) {
    const float f = random.Float();
    uint32_t bits;
    std::memcpy(&bits, &f, 4);
    w = static_cast<uint16_t>(bits >> 16);
  }
  return v;
}

inline std::vector<uint8_t> Metadata(Random& random, int64_t bytes) {
  static const uint8_t kNibbles[] = {4, 8, 12, 9, 13, 14};
  std::vector<uint8_t> v(static_cast<size_t>(bytes));
  for (uint8_t& b : v) b = static_cast<uint8_t>(kNibbles[random.Next() % 6] | kNibbles[random.Next() % 6] << 4);
  return v;
}

inline ms_weights Bf16(const std::vector<uint16_t>& v) {
  return {MS_BF16, 0, v.data(), nullptr};
}

class Context {
 public:
  explicit Context(int threads) : context_(backend->context_create()) { backend->set_threads(context_, threads); }
  ~Context() { backend->context_destroy(context_); }
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;
  operator ms_context*() { return context_; }

 private:
  ms_context* context_;
};

// Runs `body` on several numbers of threads; what it returns must be the same bits each time.
inline void SameOnAnyThreads(const char* what, const std::function<std::vector<float>(ms_context*)>& body) {
  std::vector<float> first;
  for (const int threads : {1, 2, 5}) {
    Context context(threads);
    for (int repeat = 0; repeat < 3; ++repeat) {
      const std::vector<float> result = body(context);
      if (first.empty()) first = result;
      Expect(std::memcmp(first.data(), result.data(), first.size() * sizeof(float)) == 0, what, threads, repeat);
    }
  }
}
