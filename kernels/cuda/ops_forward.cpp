// Conversion, and the forward pass but for its products.

#include <cstdint>

#include "launch.h"
#include "ops.h"

namespace maskserve {
namespace cuda {

namespace {

constexpr int64_t kMmaQueries = 32;

size_t ElementBytes(ms_value_type type) {
  return type == MS_F32 ? 4 : 2;
}

// The input of a conversion may begin anywhere; kernels read whole elements.
const void* Aligned(Op& op, const void* in, ms_value_type type, int64_t n) {
  const size_t element = ElementBytes(type);
  if (reinterpret_cast<uintptr_t>(in) % element == 0) return in;
  const size_t bytes = static_cast<size_t>(n) * element;
  void* copy = op.TakeBytes(bytes);
  Require(cudaMemcpyAsync(copy, in, bytes, cudaMemcpyDeviceToDevice, op.stream()), "a copy on the GPU");
  return copy;
}

void RequireHeadDim(int64_t head_dim) {
  if (head_dim <= kMaxHeadDim && head_dim % 4 == 0) return;
  throw Failure{MS_UNSUPPORTED, "expected heads of at most 256 values, a multiple of 4, on the GPU but received " +
                                    std::to_string(head_dim) + "; use --backend cpu"};
}

ms_status ReadThrough(ms_context* ctx, const void* data, int64_t bytes, uint64_t* host_xor) {
  return Run(ctx, [&](Op& op) {
    auto* sum = op.Take<uint64_t>(1);
    op.Zero(sum, sizeof(*sum));
    read_through(sum, data, bytes, op.stream());
    op.Fetch(host_xor, sum, sizeof(*sum));
  });
}

ms_status ToBf16(ms_context* ctx, uint16_t* out, const void* in, ms_value_type type, int64_t n) {
  return Run(ctx, [&](Op& op) { to_bf16(out, Aligned(op, in, type, n), type, n, op.stream()); });
}

ms_status ToF32(ms_context* ctx, float* out, const void* in, ms_value_type type, int64_t n) {
  return Run(ctx, [&](Op& op) { to_f32(out, Aligned(op, in, type, n), type, n, op.stream()); });
}

ms_status Embed(ms_context* ctx, float* out, ms_weights table, const int32_t* host_ids, int64_t tokens, int64_t dim) {
  return Run(ctx, [&](Op& op) {
    embed(out, Bf16Of(table, "embed"), op.UploadIds(host_ids, tokens), tokens, dim, op.stream());
  });
}

ms_status RmsNorm(ms_context* ctx, float* out, const float* x, const float* gain, int64_t rows, int64_t dim,
                  double eps) {
  return Run(ctx, [&](Op& op) { rmsnorm(out, x, gain, rows, dim, eps, op.stream()); });
}

ms_status Rope(ms_context* ctx, float* x, const float* cos, const float* sin, int64_t start, int64_t tokens,
               int64_t heads, int64_t head_dim) {
  return Run(ctx, [&](Op& op) { rope(x, cos, sin, start, tokens, heads, head_dim, op.stream()); });
}

void RequireCache(ms_value_type type) {
  if (type == MS_F32 || type == MS_BF16) return;
  throw Failure{MS_UNSUPPORTED, "expected key-value caches of f32 or bf16 but received type " + std::to_string(type)};
}

ms_status KvWrite(ms_context* ctx, void* cache, ms_value_type type, const float* x, int64_t start, int64_t tokens,
                  int64_t kv_heads, int64_t head_dim, int64_t capacity) {
  return Run(ctx, [&](Op& op) {
    RequireCache(type);
    kv_write(cache, type, x, start, tokens, kv_heads, head_dim, capacity, op.stream());
  });
}

ms_status Attention(ms_context* ctx, float* out, const float* q, const void* k_cache, const void* v_cache,
                    ms_value_type type, int64_t start, int64_t tokens, int64_t heads, int64_t kv_heads,
                    int64_t head_dim, int64_t capacity, double scale, int64_t window) {
  return Run(ctx, [&](Op& op) {
    RequireHeadDim(head_dim);
    RequireCache(type);
    // Half a block of queries is worth a tensor core's tiles, where bf16 is allowed.
    const bool by_tiles = op.exact() == 0 && tokens >= kMmaQueries && head_dim <= kMaxMmaHeadDim && head_dim % 16 == 0;
    (by_tiles ? attention_mma : attention)(out, q, k_cache, v_cache, type, start, tokens, heads, kv_heads, head_dim,
                                           capacity, scale, window, op.stream());
  });
}

ms_status AttendRows(ms_context* ctx, float* out, float* q, float* k, const float* v, const float* cos,
                     const float* sin, const ms_cache_row* host_rows, ms_value_type type, int64_t rows, int64_t heads,
                     int64_t kv_heads, int64_t head_dim, double scale, int64_t window) {
  return Run(ctx, [&](Op& op) {
    RequireHeadDim(head_dim);
    RequireCache(type);
    int64_t last = 0;
    const auto* caches =
        op.UploadRows(host_rows, rows, kv_heads * head_dim * static_cast<int64_t>(ElementBytes(type)), &last);
    // As much as the next step needs where it is recorded: then there is no more to be had.
    const int64_t most = ctx->recording != nullptr ? last : RecordedPosition(last + 1);
    void* workspace = op.TakeBytes(attend_rows_workspace(rows, heads, kv_heads, head_dim, most));
    attend_rows(out, q, k, v, cos, sin, caches, type, rows, heads, kv_heads, head_dim, scale, window, last, workspace,
                op.stream());
  });
}

ms_status SiluMul(ms_context* ctx, float* out, const float* gate, const float* up, int64_t n) {
  return Run(ctx, [&](Op& op) { silu_mul(out, gate, up, n, op.stream()); });
}

ms_status Add(ms_context* ctx, float* x, const float* y, int64_t n) {
  return Run(ctx, [&](Op& op) { add(x, y, n, op.stream()); });
}

ms_status AddBias(ms_context* ctx, float* x, const float* bias, int64_t rows, int64_t n) {
  // A product's input is not its output: what was rounded stays.
  return Run(ctx, Op::Rounded::kKept, [&](Op& op) { add_bias(x, bias, rows, n, op.stream()); });
}

}  // namespace

const uint16_t* Bf16Of(const ms_weights& w, const char* op) {
  if (w.type == MS_BF16) return static_cast<const uint16_t*>(w.values);
  throw Failure{MS_UNSUPPORTED, std::string("expected ") + op + " of bf16 weights on the GPU but received type " +
                                    std::to_string(w.type)};
}

void AddForwardOps(ms_ops* ops) {
  ops->read_through = ReadThrough;
  ops->to_bf16 = ToBf16;
  ops->to_f32 = ToF32;
  ops->embed = Embed;
  ops->rmsnorm = RmsNorm;
  ops->rope = Rope;
  ops->kv_write = KvWrite;
  ops->attention = Attention;
  ops->attend_rows = AttendRows;
  ops->silu_mul = SiluMul;
  ops->add = Add;
  ops->add_bias = AddBias;
}

}  // namespace cuda
}  // namespace maskserve
