// Ops over rows of logits.

#include <vector>

#include "launch.h"
#include "ops.h"

namespace maskserve {
namespace cuda {

namespace {

ms_status Argmax(ms_context* ctx, const float* logits, int64_t vocab, int32_t* host_token) {
  return Run(ctx, [&](Op& op) {
    auto* token = op.Take<int32_t>(1);
    argmax(token, logits, 1, vocab, op.TakeBytes(argmax_workspace(1, vocab)), op.stream());
    op.Fetch(host_token, token, sizeof(*token));
  });
}

// Draws as the device reads them: their ids and deltas, of all rows together, are copied there.
std::vector<ms_draw> DeviceDraws(Op& op, const ms_draw* host_draws, int64_t rows) {
  std::vector<ms_draw> draws(host_draws, host_draws + rows);
  std::vector<int32_t> ids;
  std::vector<float> deltas;
  for (const ms_draw& draw : draws) {
    ids.insert(ids.end(), draw.ids, draw.ids + draw.count);
    deltas.insert(deltas.end(), draw.deltas, draw.deltas + draw.count);
  }
  if (ids.empty()) return draws;
  if (op.context()->recording != nullptr) throw Failure{MS_UNSUPPORTED, "a recorded step draws without deltas"};
  const auto count = static_cast<int64_t>(ids.size());
  const int32_t* device_ids = op.Upload(ids.data(), count);
  const float* device_deltas = op.Upload(deltas.data(), count);
  for (ms_draw& draw : draws) {
    draw.ids = device_ids;
    draw.deltas = device_deltas;
    device_ids += draw.count;
    device_deltas += draw.count;
  }
  return draws;
}

ms_status Sample(ms_context* ctx, float* logits, const ms_draw* host_draws, int64_t rows, int64_t vocab,
                 int32_t* host_tokens) {
  return Run(ctx, [&](Op& op) {
    if (vocab > kMostSampled) {
      throw Failure{MS_UNSUPPORTED, "expected a vocabulary of at most " + std::to_string(kMostSampled) +
                                        " to sample from on the GPU but received " + std::to_string(vocab) +
                                        "; use --backend cpu"};
    }
    const std::vector<ms_draw> draws = DeviceDraws(op, host_draws, rows);
    int32_t* tokens = op.TakeTokens(rows);
    sample(tokens, logits, op.UploadDraws(draws.data(), rows), rows, vocab, op.TakeBytes(sample_workspace(rows, vocab)),
           op.stream());
    if (ctx->recording == nullptr) op.Fetch(host_tokens, tokens, static_cast<size_t>(rows) * sizeof(*tokens));
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
  ops->argmax = Argmax;
  ops->sample = Sample;
  ops->logprobs = Logprobs;
  ops->top_logprobs = TopLogprobs;
}

}  // namespace cuda
}  // namespace maskserve
