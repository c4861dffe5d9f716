#include "recording.h"

#include <algorithm>
#include <cstring>

#include "op.h"

using maskserve::cuda::Failure;
using maskserve::cuda::Require;

namespace {

// 64 rows of 80 layers, and their patches.
constexpr size_t kChangingBytes = size_t{512} << 10, kStayingBytes = size_t{1536} << 10, kAligned = 16;
// A recording is good for so many positions at least before it is made anew.
constexpr int64_t kPositionStep = 1024;

// A row whose `keys` are where its caches begin → keys and values of the attend_rows of this number.
void PlaceCaches(ms_cache_row* row, size_t number, int64_t position_bytes) {
  const int64_t part = row->capacity * position_bytes;
  char* keys = static_cast<char*>(row->keys) + 2 * static_cast<int64_t>(number) * part;
  row->keys = keys;
  row->values = keys + part;
}

}  // namespace

ms_recording::ms_recording() {
  void* memory = nullptr;
  Require(cudaMalloc(&memory, kChangingBytes + kStayingBytes), "a recorded step");
  device_ = static_cast<char*>(memory);
}

ms_recording::~ms_recording() {
  if (exec_ != nullptr) cudaGraphExecDestroy(exec_);
  cudaFree(device_);
}

void* ms_recording::At(std::vector<char>& part, size_t begin, size_t most, const void* host, size_t bytes) {
  const size_t at = (part.size() + kAligned - 1) / kAligned * kAligned;
  if (at + bytes > most) throw Failure{MS_UNSUPPORTED, "a recorded step takes more from the host than it has room for"};
  part.resize(at + bytes);
  if (host != nullptr && bytes > 0) std::memcpy(part.data() + at, host, bytes);
  return device_ + begin + at;
}

void* ms_recording::Keep(const void* host, size_t bytes) {
  return At(staying_, kChangingBytes, kStayingBytes, host, bytes);
}

const int32_t* ms_recording::KeepIds(const int32_t* host_ids, int64_t rows) {
  if (!changing_.empty()) throw Failure{MS_UNSUPPORTED, "a recorded step begins with the only ids that it embeds"};
  rows_ = rows;
  return static_cast<int32_t*>(At(changing_, 0, kChangingBytes, host_ids, static_cast<size_t>(rows) * sizeof(int32_t)));
}

const ms_cache_row* ms_recording::KeepRows(const ms_cache_row* host_rows, int64_t rows, int64_t most_position,
                                           int64_t position_bytes) {
  if (rows != rows_) throw Failure{MS_UNSUPPORTED, "a recorded step attends to other rows than it embeds"};
  most_position_ = std::min(most_position_, most_position);
  const size_t bytes = static_cast<size_t>(rows) * sizeof(ms_cache_row);
  auto* table = static_cast<char*>(At(changing_, 0, kChangingBytes, host_rows, bytes));
  tables_.push_back(static_cast<size_t>(table - device_));
  if (tables_.size() == 1) position_bytes_ = position_bytes;
  bool in_order = position_bytes == position_bytes_;
  for (int64_t r = 0; r < rows; ++r) {
    ms_cache_row expected = host_rows[r];
    expected.keys = Table(0)[r].keys;
    PlaceCaches(&expected, tables_.size() - 1, position_bytes_);
    in_order = in_order && expected.keys == host_rows[r].keys && expected.values == host_rows[r].values;
  }
  if (!in_order) throw Failure{MS_UNSUPPORTED, "a recorded step's caches lie one behind the other"};
  return reinterpret_cast<const ms_cache_row*>(table);
}

const ms_draw* ms_recording::KeepDraws(const ms_draw* host_draws, int64_t rows) {
  if (rows != rows_ || draws_ != 0) throw Failure{MS_UNSUPPORTED, "a recorded step draws other tokens than its rows'"};
  auto* draws =
      static_cast<char*>(At(changing_, 0, kChangingBytes, host_draws, static_cast<size_t>(rows) * sizeof(ms_draw)));
  draws_ = static_cast<size_t>(draws - device_);
  return reinterpret_cast<const ms_draw*>(draws);
}

int32_t* ms_recording::KeepTokens(int64_t rows) {
  tokens_ = static_cast<int32_t*>(Keep(nullptr, static_cast<size_t>(rows) * sizeof(int32_t)));
  return tokens_;
}

void ms_recording::Finish(cudaGraph_t graph, cudaStream_t stream) {
  const cudaError_t error = cudaGraphInstantiate(&exec_, graph, 0);
  cudaGraphDestroy(graph);
  Require(error, "recording a step");
  if (staying_.empty()) return;
  Require(cudaMemcpyAsync(device_ + kChangingBytes, staying_.data(), staying_.size(), cudaMemcpyHostToDevice, stream),
          "a copy to the GPU");
  Require(cudaStreamSynchronize(stream), "a copy to the GPU");
}

bool ms_recording::Update(const int32_t* host_ids, const ms_cache_row* host_caches, const ms_draw* host_draws,
                          int64_t rows) {
  if ((host_draws != nullptr) != (draws_ != 0)) {
    throw Failure{MS_BAD_DATA, draws_ != 0 ? "expected draws for a step that was recorded with them"
                                           : "expected no draws for a step that was recorded without"};
  }
  if (rows != rows_) {
    throw Failure{MS_BAD_DATA,
                  "expected ids and caches of " + std::to_string(rows_) + " rows but received " + std::to_string(rows)};
  }
  const auto beyond = [&](const ms_cache_row& row) { return row.position > most_position_; };
  if (std::any_of(host_caches, host_caches + rows, beyond)) return false;
  std::memcpy(changing_.data(), host_ids, static_cast<size_t>(rows) * sizeof(int32_t));
  if (draws_ != 0) std::memcpy(changing_.data() + draws_, host_draws, static_cast<size_t>(rows) * sizeof(ms_draw));
  for (int64_t r = 0; r < rows; ++r) {
    const ms_cache_row& row = host_caches[r];
    const int64_t bytes = static_cast<char*>(row.values) - static_cast<char*>(row.keys);
    const int64_t needed = 2 * static_cast<int64_t>(tables_.size()) * row.capacity * position_bytes_;
    if (row.position < 0 || row.position >= row.capacity || bytes < needed) {
      throw Failure{MS_BAD_DATA, "expected caches of " + std::to_string(needed) + " bytes and a position below " +
                                     std::to_string(row.capacity) + " but received " + std::to_string(bytes) + " and " +
                                     std::to_string(row.position) + " in row " + std::to_string(r)};
    }
  }
  for (size_t table = 0; table < tables_.size(); ++table) {
    for (int64_t r = 0; r < rows; ++r) {
      Table(table)[r] = host_caches[r];
      PlaceCaches(&Table(table)[r], table, position_bytes_);
    }
  }
  return true;
}

void ms_recording::Launch(cudaStream_t stream) {
  // Pageable memory has been read when the call returns.
  Require(cudaMemcpyAsync(device_, changing_.data(), changing_.size(), cudaMemcpyHostToDevice, stream),
          "a copy to the GPU");
  Require(cudaGraphLaunch(exec_, stream), "a recorded step");
}

namespace maskserve {
namespace cuda {

std::recursive_mutex& RecordingMutex() {
  static auto& mutex = *new std::recursive_mutex;
  return mutex;
}

namespace {

uint64_t MovesOf(const ms_context& ctx) {
  return ctx.arena.moves() + ctx.rounded.moves;
}

ms_status RecordBegin(ms_context* ctx) {
  return Run(ctx, [&](Op& op) {
    if (ctx->recording != nullptr) throw Failure{MS_BAD_DATA, "expected no recording but one has begun"};
    auto recording = std::make_unique<ms_recording>();
    recording->moves = MovesOf(*ctx);
    recording->exact = ctx->exact;
    recording->alone.lock();
    // Other threads load tasks meanwhile: what they ask the device for is no part of it.
    Require(cudaStreamBeginCapture(op.stream(), cudaStreamCaptureModeRelaxed), "recording a step");
    ctx->arena.Freeze(true);
    ctx->recording = std::move(recording);
  });
}

ms_status RecordEnd(ms_context* ctx, ms_recording** host_recording) {
  *host_recording = nullptr;
  if (ctx->recording == nullptr) {
    ctx->error = "expected a recording but none has begun";
    return MS_BAD_DATA;
  }
  std::unique_ptr<ms_recording> recorded = std::move(ctx->recording);
  ctx->arena.Freeze(false);
  cudaGraph_t graph = nullptr;
  const cudaError_t error = cudaStreamEndCapture(ctx->stream, &graph);
  recorded->alone.unlock();
  if (error != cudaSuccess || recorded->failed) {
    cudaGetLastError();
    if (graph != nullptr) cudaGraphDestroy(graph);
    ctx->rounded.x = nullptr;  // was to be rounded, and was not
    return MS_OK;
  }
  return Run(ctx, [&](Op& op) {
    recorded->Finish(graph, op.stream());
    *host_recording = recorded.release();
  });
}

ms_status Replay(ms_context* ctx, ms_recording* recording, const int32_t* host_ids, const ms_cache_row* host_caches,
                 const ms_draw* host_draws, int64_t rows, int32_t* host_tokens, int32_t* host_done) {
  *host_done = 0;
  return Run(ctx, [&](Op& op) {
    if (recording->moves != MovesOf(*ctx) || recording->exact != ctx->exact) return;
    if (!recording->Update(host_ids, host_caches, host_draws, rows)) return;
    recording->Launch(op.stream());
    if (host_draws != nullptr) {
      op.Fetch(host_tokens, recording->tokens(), static_cast<size_t>(rows) * sizeof(int32_t));
    }
    *host_done = 1;
  });
}

void RecordingFree(ms_context* ctx, ms_recording* recording) {
  cudaStreamSynchronize(ctx->stream);
  delete recording;
}

}  // namespace

int64_t RecordedPosition(int64_t last) {
  return (last / kPositionStep + 1) * kPositionStep - 1;
}

void AddRecording(ms_backend* backend) {
  backend->record_begin = RecordBegin;
  backend->record_end = RecordEnd;
  backend->replay = Replay;
  backend->recording_free = RecordingFree;
}

}  // namespace cuda
}  // namespace maskserve
