// Ops over one row of logits.

#include "launch.h"
#include "ops.h"

namespace maskserve {
namespace cuda {

namespace {

constexpr int64_t kMostSampled = int64_t{1} << 17;

ms_status AddSparse(ms_context* ctx, float* logits, const int32_t* host_ids, const float* host_deltas, int64_t count) {
  return Run(ctx, [&](Op& op) {
    add_sparse(logits, op.Upload(host_ids, count), op.Upload(host_deltas, count), count, op.stream());
  });
}

ms_status Argmax(ms_context* ctx, const float* logits, int64_t vocab, int32_t* host_token) {
  return Run(ctx, [&](Op& op) {
    auto* token = op.Take<int32_t>(1);
    argmax(token, logits, 1, vocab, op.stream());
    op.Fetch(host_token, token, sizeof(*token));
  });
}

ms_status Sample(ms_context* ctx, const float* logits, int64_t vocab, double temperature, int64_t top_k, double top_p,
                 double uniform, int32_t* host_token) {
  return Run(ctx, [&](Op& op) {
    auto* token = op.Take<int32_t>(1);
    if (temperature == 0) {
      argmax(token, logits, 1, vocab, op.stream());
    } else {
      if (vocab > kMostSampled) {
        throw Failure{MS_UNSUPPORTED,
                      "expected a vocabulary of at most 131072 to sample from on the GPU but received " +
                          std::to_string(vocab) + "; use temperature 0, or --backend cpu"};
      }
      const SampleRow row{temperature, top_p, uniform, top_k};
      sample(token, logits, op.Upload(&row, 1), 1, vocab, op.TakeBytes(sample_workspace(1, vocab)), op.stream());
    }
    op.Fetch(host_token, token, sizeof(*token));
  });
}

ms_status Logprobs(ms_context* ctx, const float* logits, int64_t vocab, const int32_t* host_ids, double* host_out,
                   int64_t count) {
  return Run(ctx, [&](Op& op) {
    auto* out = op.Take<double>(count);
    logprobs(out, op.Upload(host_ids, count), logits, vocab, count, op.stream());
    op.Fetch(host_out, out, static_cast<size_t>(count) * sizeof(*out));
  });
}

ms_status TopLogprobs(ms_context* ctx, const float* logits, int64_t vocab, int32_t* host_ids, double* host_out,
                      int64_t count) {
  return Run(ctx, [&](Op& op) {
    auto* ids = op.Take<int32_t>(count);
    auto* out = op.Take<double>(count);
    top_logprobs(ids, out, logits, vocab, count, op.stream());
    op.Fetch(host_ids, ids, static_cast<size_t>(count) * sizeof(*ids));
    op.Fetch(host_out, out, static_cast<size_t>(count) * sizeof(*out));
  });
}

}  // namespace

void AddSamplingOps(ms_ops* ops) {
  ops->add_sparse = AddSparse;
  ops->argmax = Argmax;
  ops->sample = Sample;
  ops->logprobs = Logprobs;
  ops->top_logprobs = TopLogprobs;
}

}  // namespace cuda
}  // namespace maskserve
