// The start-up self-test that says whether cuSPARSELt's form can share a packed matrix's values, and whether its
// products are right on this device.

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "launch.h"
#include "sparse_gemm.h"

namespace maskserve {
namespace cuda {

namespace {

constexpr int64_t kRows = 256, kCols = 256, kTokens = 64;
constexpr double kTolerance = 0.02;  // bf16 products of 256 terms, rounded to bf16

struct Proof {
  Form form = Form::kNone;
  std::string remark;
};

struct Random {
  uint32_t state = 1;
  uint32_t Next() { return state = state * 1664525u + 1013904223u; }
};

struct Sample {
  std::vector<uint16_t> w, x;
  std::vector<uint8_t> meta;

  Sample() : w(kRows * kCols), x(kTokens * kCols), meta(kRows * kCols / 8) {
    constexpr uint8_t kNibbles[] = {4, 8, 12, 9, 13, 14};
    Random random;
    // ±1 … ±2: nothing is small beside the rest, and nothing zero, whose place a compressor could choose.
    for (uint16_t& v : w) v = static_cast<uint16_t>(0x3f80u | (random.Next() >> 16 & 0x807fu));
    for (uint16_t& v : x) v = static_cast<uint16_t>(0x3f80u | (random.Next() >> 16 & 0x807fu));
    for (uint8_t& m : meta) {
      const uint8_t low = kNibbles[(random.Next() >> 16) % 6];
      m = static_cast<uint8_t>(low | kNibbles[(random.Next() >> 16) % 6] << 4);
    }
  }
};

float Float(uint16_t bits) {
  const uint32_t word = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &word, sizeof(value));
  return value;
}

// ‖sparse − own‖ / ‖own‖ of a product of both.
double Difference(const std::vector<uint16_t>& sparse, const std::vector<float>& own) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < own.size(); ++i) {
    const double d = static_cast<double>(Float(sparse[i])) - own[i];
    difference += d * d;
    norm += static_cast<double>(own[i]) * own[i];
  }
  return std::sqrt(difference / norm);
}

Proof Prove(Op& op, SparseGemm& gemm) {
  Proof proof;
  const Sample sample;
  const int64_t values = kRows * kCols;
  size_t bytes = 0, buffer_bytes = 0;
  if (!gemm.CompressedSize(kRows, kCols, &bytes, &buffer_bytes)) {
    proof.remark = "not used: it takes no bf16 matrix of 256 x 256";
    return proof;
  }
  // Room for the form behind, wherever it will be.
  auto* packed = op.Take<char>(values / 8 * 9);
  auto* dense = op.Take<uint16_t>(values);
  const auto* w = op.Upload(sample.w.data(), values);
  const auto* meta = op.Upload(sample.meta.data(), values / 8);
  compress24(packed, w, meta, kRows, kCols, op.Bad(), op.stream());
  select24(dense, w, meta, kRows, kCols, op.Bad(), op.stream());
  auto* form = op.Take<char>(static_cast<int64_t>(bytes));
  gemm.Compress(op, form, dense, kRows, kCols);
  std::vector<char> mine(static_cast<size_t>(values)), theirs(mine.size());
  op.Fetch(mine.data(), packed, mine.size());
  op.Fetch(theirs.data(), form, theirs.size());
  const bool shared =
      bytes == static_cast<size_t>(values / 8 * 9) && std::memcmp(mine.data(), theirs.data(), mine.size()) == 0;
  const auto* x = op.Upload(sample.x.data(), kTokens * kCols);
  auto* y = op.Take<uint16_t>(kTokens * kRows);
  auto* x32 = op.Take<float>(kTokens * kCols);
  auto* y32 = op.Take<float>(kTokens * kRows);
  to_f32(x32, x, MS_BF16, kTokens * kCols, op.stream());
  matmul24(y32, x32, packed, kTokens, kRows, kCols, 1, op.stream());
  if (!gemm.Multiply(op, y, x, form, kTokens, kRows, kCols, nullptr)) {
    proof.remark = "not used: it does not multiply bf16 on this GPU";
    return proof;
  }
  std::vector<uint16_t> product(static_cast<size_t>(kTokens * kRows));
  std::vector<float> expected(product.size());
  op.Fetch(product.data(), y, product.size() * sizeof(uint16_t));
  op.Fetch(expected.data(), y32, expected.size() * sizeof(float));
  const double difference = Difference(product, expected);
  const char* copy = std::getenv("MASKSERVE_CUSPARSELT_COPY");
  if (!(difference < kTolerance)) {
    proof.remark = "not used: its product differs from ours by " + std::to_string(difference) + " in the self-test";
  } else if (shared) {
    proof.form = Form::kShared;
  } else if (copy != nullptr && std::strcmp(copy, "1") == 0) {
    proof.form = Form::kOwnCopy;
    proof.remark = "its form does not share our values on this GPU: a task takes 18/16 of its dense matrices";
  } else {
    proof.remark =
        "not used: its form does not share our values on this GPU; MASKSERVE_CUSPARSELT_COPY=1 pays 9/16 more for it";
  }
  return proof;
}

Proof ProveOnce() {
  Proof proof;
  std::unique_ptr<SparseGemm> gemm = SparseGemm::Open();
  if (gemm == nullptr) {
    if (sparselt::Load() != nullptr) proof.remark = "not used: it does not start on this GPU";
    return proof;
  }
  try {
    ms_context context;
    const ms_status status = Run(&context, [&](Op& op) { proof = Prove(op, *gemm); });
    if (status != MS_OK) proof = {Form::kNone, "not used: " + context.error};
  } catch (const Failure& failure) {
    // Of the context itself; the backend's caller knows no such exception.
    proof = {Form::kNone, "not used: " + failure.line};
  }
  return proof;
}

const Proof& Proven() {
  static const Proof& proof = *[] {
    auto* proven = new Proof(ProveOnce());
    packed24_shares_values() = proven->form == Form::kShared;
    return proven;
  }();
  return proof;
}

}  // namespace

Form ProvenForm() {
  return Proven().form;
}

const std::string& FormRemark() {
  return Proven().remark;
}

Form FormOf(int64_t n, int64_t k) {
  return packed24_takes_form(n, k) ? ProvenForm() : Form::kNone;
}

const void* FormIn(const void* packed, int64_t n, int64_t k) {
  return FormOf(n, k) == Form::kShared ? packed : static_cast<const char*>(packed) + 9 * n * (k / 8);
}

int64_t PackedBytes(int64_t n, int64_t k) {
  const int64_t eighth = n * (k / 8);
  switch (FormOf(n, k)) {
    case Form::kShared:
      return 10 * eighth;
    case Form::kOwnCopy:
      return 18 * eighth;
    default:
      return 9 * eighth;
  }
}

}  // namespace cuda
}  // namespace maskserve
