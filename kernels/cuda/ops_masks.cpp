// 2:4 forms and patches. What they leave may be read by another thread: they wait for it.

#include <vector>

#include "launch.h"
#include "memory.h"
#include "ops.h"
#include "patch_header.h"
#include "sparse_gemm.h"

namespace maskserve {
namespace cuda {

namespace {

constexpr char kBadNibbles[] =
    "expected nibbles idx0 | idx1 << 2 with idx0 < idx1 in meta but received another in row %llu";
constexpr char kBadWeights[] =
    "expected finite weights where the patch takes some out but received another in row %llu; compact this mask "
    "instead";

ms_status Select24(ms_context* ctx, void* out, ms_weights w, const uint8_t* meta, int64_t n, int64_t k) {
  return Run(ctx, [&](Op& op) {
    uint64_t* bad = op.Bad();
    select24(static_cast<uint16_t*>(out), Bf16Of(w, "select24"), meta, n, k, bad, op.stream());
    op.RequireGood(bad, kBadNibbles);
  });
}

ms_status Nibbles24(ms_context* ctx, uint8_t* meta, ms_weights packed, int64_t n, int64_t k) {
  return Run(ctx, [&](Op& op) {
    const void* from = packed24_meta(static_cast<const void*>(Bf16Of(packed, "nibbles24")), n, k);
    Require(cudaMemcpyAsync(meta, from, static_cast<size_t>(n * (k / 8)), cudaMemcpyDeviceToDevice, op.stream()),
            "a copy on the GPU");
    Require(cudaStreamSynchronize(op.stream()), "nibbles24");
  });
}

ms_status Codes24(ms_context* ctx, uint8_t* codes, const uint8_t* meta, int64_t n, int64_t k) {
  return Run(ctx, [&](Op& op) {
    uint64_t* bad = op.Bad();
    check_meta24(codes, meta, n, k, bad, op.stream());
    op.RequireGood(bad, kBadNibbles);
  });
}

// Offsets of all sections on the device; the whole patch's size.
int64_t Offsets(Op& op, uint32_t* offsets, const void* packed, const uint8_t* meta, int64_t n, int64_t k) {
  auto* total = op.Take<int64_t>(1);
  uint64_t* bad = op.Bad();
  patch_offsets24(offsets, total, packed, meta, n, k, bad, op.stream());
  op.RequireGood(bad, kBadNibbles);
  int64_t swap_bytes = 0;
  op.Fetch(&swap_bytes, total, sizeof(swap_bytes));
  if (swap_bytes > static_cast<int64_t>(UINT32_MAX)) {
    throw Failure{MS_BAD_DATA, "expected a patch of less than 4 GiB for one matrix but received changes of " +
                                   std::to_string(swap_bytes) + " bytes; compact this mask instead"};
  }
  return PatchBytes(n, k, swap_bytes);
}

int64_t BytesOfPatch(Op& op, const void* packed, const uint8_t* meta, int64_t n, int64_t k) {
  return Offsets(op, op.Take<uint32_t>(PatchSections(n, k) + 1), packed, meta, n, k);
}

// `sizing`: the function that says how large a patch is.
void Build(Op& op, void* patch, int64_t bytes, const void* packed, const uint16_t* w, const uint8_t* meta, int64_t n,
           int64_t k, const char* sizing) {
  auto* offsets = op.Take<uint32_t>(PatchSections(n, k) + 1);
  const int64_t needed = Offsets(op, offsets, packed, meta, n, k);
  if (needed != bytes) {
    throw Failure{MS_BAD_DATA, "expected patch of exactly " + std::string(sizing) + " = " + std::to_string(needed) +
                                   " bytes but received " + std::to_string(bytes)};
  }
  uint64_t* bad = op.Bad();
  build_patch24(patch, offsets, packed, w, meta, n, k, bad, op.stream());
  try {
    op.RequireGood(bad, kBadWeights);
  } catch (const Failure&) {
    op.Zero(patch, sizeof(PatchHeader));  // names no matrix
    throw;
  }
  RememberPatch(patch, {n, k, bytes});
}

ms_status PatchBytes24(ms_context* ctx, ms_weights packed, const uint8_t* meta, int64_t n, int64_t k,
                       int64_t* host_bytes) {
  return Run(ctx, [&](Op& op) { *host_bytes = BytesOfPatch(op, Bf16Of(packed, "patchBytes24"), meta, n, k); });
}

ms_status BuildPatch24(ms_context* ctx, void* patch, int64_t bytes, ms_weights packed, ms_weights w,
                       const uint8_t* meta, int64_t n, int64_t k) {
  return Run(ctx, [&](Op& op) {
    Build(op, patch, bytes, Bf16Of(packed, "buildPatch24"), Bf16Of(w, "buildPatch24"), meta, n, k, "patchBytes24");
  });
}

// The child's nibbles, for as long as the op runs.
const uint8_t* ChildOf(Op& op, const void* packed, const ms_changes24& changes, int64_t n, int64_t k) {
  const int64_t groups = n * (k / 4);
  // What was checked is what is used, though the array be shared with another thread.
  const std::vector<uint32_t> changed(changes.groups, changes.groups + changes.count);
  for (size_t i = 0; i < changed.size(); ++i) {
    if (changed[i] < groups && (i == 0 || changed[i - 1] < changed[i])) continue;
    throw Failure{MS_BAD_DATA, "expected changed groups to ascend below " + std::to_string(groups) + " but received " +
                                   std::to_string(changed[i]) + " at " + std::to_string(i)};
  }
  auto* child = op.Take<uint8_t>(groups / 2);
  apply_changes(child, packed24_meta(packed, n, k), groups, op.Upload(changed.data(), changes.count),
                op.Upload(changes.codes, changes.count), changes.count, op.stream());
  return child;
}

ms_status ChangesBytes24(ms_context* ctx, ms_weights packed, ms_changes24 host_changes, int64_t n, int64_t k,
                         int64_t* host_bytes) {
  return Run(ctx, [&](Op& op) {
    const void* parent = Bf16Of(packed, "changesBytes24");
    *host_bytes = BytesOfPatch(op, parent, ChildOf(op, parent, host_changes, n, k), n, k);
  });
}

ms_status BuildChanges24(ms_context* ctx, void* patch, int64_t bytes, ms_weights packed, ms_weights w,
                         ms_changes24 host_changes, int64_t n, int64_t k) {
  return Run(ctx, [&](Op& op) {
    const void* parent = Bf16Of(packed, "buildChanges24");
    const uint8_t* child = ChildOf(op, parent, host_changes, n, k);
    Build(op, patch, bytes, parent, Bf16Of(w, "buildChanges24"), child, n, k, "changesBytes24");
  });
}

ms_status Select24F32(ms_context* ctx, uint16_t* out, const float* w, const uint8_t* meta, int64_t n, int64_t k) {
  return Run(ctx, [&](Op& op) {
    uint64_t* bad = op.Bad();
    select24_f32(out, w, meta, n, k, bad, op.stream());
    op.RequireGood(bad, kBadNibbles);
  });
}

ms_status Keep24F32(ms_context* ctx, float* x, const uint8_t* meta, int64_t n, int64_t k) {
  return Run(ctx, [&](Op& op) {
    uint64_t* bad = op.Bad();
    keep24_f32(x, meta, n, k, bad, op.stream());
    op.RequireGood(bad, kBadNibbles);
  });
}

}  // namespace

void CompressInto(Op& op, void* packed, const uint16_t* w, const uint8_t* meta, int64_t n, int64_t k, uint64_t* bad) {
  compress24(packed, w, meta, n, k, bad, op.stream());
  if (FormOf(n, k) == Form::kNone) return;
  std::unique_ptr<SparseGemm>& sparse = op.context()->sparse;
  if (sparse == nullptr) sparse = SparseGemm::Open();
  if (sparse == nullptr) throw Failure{MS_UNSUPPORTED, "cuSPARSELt started once and does not start again"};
  const Arena::Scope scope(op.context()->arena);
  sparse->MakeForm(op, packed, n, k);
}

void RequirePatterns(Op& op, const uint64_t* bad) {
  op.RequireGood(bad, kBadNibbles);
}

ms_status Compress24(ms_context* ctx, void* packed, ms_weights w, const uint8_t* meta, int64_t n, int64_t k) {
  return Run(ctx, [&](Op& op) {
    uint64_t* bad = op.Bad();
    CompressInto(op, packed, Bf16Of(w, "compress24"), meta, n, k, bad);
    RequirePatterns(op, bad);
  });
}

void AddMaskOps(ms_ops* ops) {
  ops->compress24 = Compress24;
  ops->select24 = Select24;
  ops->nibbles24 = Nibbles24;
  ops->codes24 = Codes24;
  ops->patch_bytes24 = PatchBytes24;
  ops->build_patch24 = BuildPatch24;
  ops->changes_bytes24 = ChangesBytes24;
  ops->build_changes24 = BuildChanges24;
  ops->select24_f32 = Select24F32;
  ops->keep24_f32 = Keep24F32;
}

}  // namespace cuda
}  // namespace maskserve
