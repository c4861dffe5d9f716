#include "draws.h"

#include <cmath>

namespace maskserve {

namespace {

constexpr int64_t kSettings = 4;

ms_draw DrawOf(Call& call, const double* settings) {
  const double temperature = settings[0], top_k = settings[1], top_p = settings[2], uniform = settings[3];
  call.Require(std::isfinite(temperature) && temperature >= 0, "temperature", "of at least 0", temperature);
  call.Require(top_k >= 0 && top_k <= INT32_MAX && top_k == std::floor(top_k), "topK", "to be a whole number from 0",
               top_k);
  call.Require(top_p > 0 && top_p <= 1, "topP", "in (0, 1]", top_p);
  call.Require(uniform >= 0 && uniform < 1, "uniform", "in [0, 1)", uniform);
  return {temperature, top_p, uniform, static_cast<int64_t>(top_k), nullptr, nullptr, 0};
}

}  // namespace

std::vector<ms_draw> Draws(Call& call, size_t at, int64_t rows) {
  const HostArray settings = call.Array(at, "settings", napi_float64_array);
  call.Require(static_cast<int64_t>(settings.length) == kSettings * rows, "settings", "of four numbers a row",
               static_cast<double>(settings.length));
  // A copy: what was checked is what is used, though the array be shared with another thread.
  const auto* begin = static_cast<const double*>(settings.data);
  const std::vector<double> numbers(begin, begin + settings.length);
  std::vector<ms_draw> draws;
  for (int64_t r = 0; r < rows; ++r) draws.push_back(DrawOf(call, numbers.data() + kSettings * r));
  return draws;
}

}  // namespace maskserve
