// The cases of the CUDA kernels' host build: each compares a launcher of kernels/cuda/launch.h, run by the stand-in for
// the execution model, with the CPU backend or with a plain loop. main.cpp runs a case with the threads of a block in
// ascending and in shuffled order.
#pragma once

#include <cmath>
#include <cstdio>
#include <vector>

#include "../../../kernels/cpu/cpu_backend.h"
#include "../../../kernels/cuda/launch.h"
#include "../fuzz_codec.h"

extern const ms_backend* cpu;
extern ms_context* context;

struct Case {
  Case(const char* name, void (*run)());
  const char* name;
  void (*run)();
};
#define CASE(function, name)                  \
  void function();                            \
  const Case case_##function(name, function); \
  void function()

// Counts a failure and prints the first few.
void Expect(bool holds, const char* what, int64_t a = 0, int64_t b = 0, int64_t c = 0);

inline float UniformFloat(Random& random) {
  return static_cast<float>(random.Next()) * 0x1p-31f - 1.0f;
}
inline std::vector<float> Floats(Random& random, int64_t n, float scale = 1.0f) {
  std::vector<float> v(static_cast<size_t>(n));
  for (float& f : v) f = scale * UniformFloat(random);
  return v;
}
// bf16 in [−1, 1), by truncation.
inline std::vector<uint16_t> Weights(Random& random, int64_t n) {
  std::vector<uint16_t> v(static_cast<size_t>(n));
  for (uint16_t& w : v) {
    const float f = UniformFloat(random);
    uint32_t bits;
    std::memcpy(&bits, &f, 4);
    w = static_cast<uint16_t>(bits >> 16);
  }
  return v;
}
inline Bytes Metadata(Random& random, int64_t bytes) {
  Bytes v(static_cast<size_t>(bytes));
  for (uint8_t& b : v) b = static_cast<uint8_t>(kNibbles[random.Below(6)] | kNibbles[random.Below(6)] << 4);
  return v;
}
inline ms_weights Bf16(const std::vector<uint16_t>& v) {
  return {MS_BF16, 0, v.data(), nullptr};
}
// As bf16 holds it.
inline std::vector<float> Rounded(const std::vector<float>& x) {
  std::vector<uint16_t> bits(x.size());
  std::vector<float> rounded(x.size());
  cpu->ops.to_bf16(context, bits.data(), x.data(), MS_F32, static_cast<int64_t>(x.size()));
  cpu->ops.to_f32(context, rounded.data(), bits.data(), MS_BF16, static_cast<int64_t>(x.size()));
  return rounded;
}
template <typename T>
std::vector<T> Like(const std::vector<T>& v) {
  return std::vector<T>(v.size());
}

// ‖a − b‖ ≤ tolerance · ‖b‖ + tiny, with NaN and infinities in the same places.
void ExpectNear(const std::vector<float>& a, const std::vector<float>& b, double tolerance, const char* what,
                int64_t at = 0);
// The same bytes.
template <typename T>
void ExpectSame(const std::vector<T>& a, const std::vector<T>& b, const char* what, int64_t at = 0) {
  Expect(a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0), what, at);
}
