// MaskLLM's soft mask and its gradient (arXiv 2409.17481, Eq. 6 to 8), fused: logits → W ∘ M̃, and ∂loss/∂(W ∘ M̃) →
// ∂loss/∂logits, recomputing the probabilities instead of keeping them.
//
// The noise of pattern i of group g is g = −ln(−ln u), u = (x >> 8) · 2⁻²⁴ clamped to [1e-9, 1 − 2⁻²³], where x is word
// i mod 4 of Philox4x32-10 with key `seed` and counter (g mod 2³², ⌊g / 2³²⌋ · 256 + ⌊i / 4⌋, tensor, step). So it
// depends on nothing else, u has the same bits on every instruction set, and the backward pass finds the same noise.
//
// Groups are worked on in blocks, pattern by pattern: a lane is a group.

#include "exp_log.h"
#include "ops.h"
#include "patterns.h"
#include "philox.h"

namespace maskserve {
namespace {

constexpr int kLanes = kPhiloxLanes;  // groups of a block
constexpr int64_t kBlocksOfTask = 32;
static_assert(kLanes % W == 0, "a block is whole registers");

// What is computed for a block of groups; a row is a pattern or a position.
struct Block {
  alignas(64) float probability[kMaxPatterns][kLanes];
  alignas(64) float position[kMaxGroup][kLanes];
  alignas(64) float element[kLanes * kMaxGroup];  // (groups, m), as weights lie
};

struct Input {
  const float* logits;  // (groups, P)
  const float* noise;   // (groups, P), or NULL
  ms_gumbel s;
  Patterns patterns;
};

// rows[i][lane] ← in (count, rows of the block), zero beyond count.
template <int N>
MS_INLINE void ToLanes(float (*rows)[N], const float* in, int64_t height, int64_t count) {
  if (count < N) memset(rows, 0, static_cast<size_t>(height * N) * sizeof(float));
  for (int64_t lane = 0; lane < count; ++lane) {
    for (int64_t i = 0; i < height; ++i) rows[i][lane] = in[lane * height + i];
  }
}

template <int N>
MS_INLINE void FromLanes(float* out, const float (*rows)[N], int64_t height, int64_t count) {
  for (int64_t lane = 0; lane < count; ++lane) {
    for (int64_t i = 0; i < height; ++i) out[lane * height + i] = rows[i][lane];
  }
}

// −ln(−ln u) of the words of four patterns, added to up to four rows.
void AddNoise(float (*rows)[kLanes], int64_t count, const Input& in, int64_t group, int64_t quad) {
  PhiloxBlock block;
  for (int lane = 0; lane < kLanes; ++lane) {
    const uint64_t g = static_cast<uint64_t>(group) + static_cast<uint64_t>(lane);
    block.word[0][lane] = static_cast<uint32_t>(g);
    block.word[1][lane] = static_cast<uint32_t>(g >> 32 << 8) | static_cast<uint32_t>(quad);
    block.word[2][lane] = in.s.tensor;
    block.word[3][lane] = in.s.step;
  }
  Philox(&block, in.s.seed);
  for (int64_t i = 0; i < count; ++i) {
    alignas(64) float uniform[kLanes];
    for (int lane = 0; lane < kLanes; ++lane) {
      uniform[lane] = static_cast<float>(static_cast<int32_t>(block.word[i][lane] >> 8)) * 0x1p-24f;
    }
    for (int lane = 0; lane < kLanes; lane += W) {
      const VF u = Larger(Set(1e-9f), Smaller(Set(1.0f - 0x1p-23f), Load(uniform + lane)));
      const VF exponential = Sub(Zero(), Log(u));
      Store(rows[i] + lane, Sub(Load(rows[i] + lane), Log(exponential)));
    }
  }
}

// probability ← softmax over patterns of (π · scale + noise) / temperature.
void Probabilities(Block* b, const Input& in, int64_t group, int64_t count) {
  const int64_t height = in.patterns.count;
  const VF scale = Set(static_cast<float>(in.s.scale)), inverse = Set(static_cast<float>(1.0 / in.s.temperature));
  float(*rows)[kLanes] = b->probability;
  ToLanes(rows, in.logits + group * height, height, count);
  for (int64_t i = 0; i < height; ++i) {
    for (int lane = 0; lane < kLanes; lane += W) Store(rows[i] + lane, Mul(Load(rows[i] + lane), scale));
  }
  if (in.noise != NULL) {
    for (int64_t lane = 0; lane < count; ++lane) {
      for (int64_t i = 0; i < height; ++i) rows[i][lane] += in.noise[(group + lane) * height + i];
    }
  } else {
    for (int64_t i = 0; i < height; i += 4) AddNoise(rows + i, Min(4, height - i), in, group, i / 4);
  }
  for (int lane = 0; lane < kLanes; lane += W) {
    VF largest = Load(rows[0] + lane), total = Zero();
    for (int64_t i = 1; i < height; ++i) largest = Larger(largest, Load(rows[i] + lane));
    for (int64_t i = 0; i < height; ++i) {
      const VF e = Exp(Mul(Sub(Load(rows[i] + lane), largest), inverse));
      Store(rows[i] + lane, e);
      total = Add(total, e);
    }
    const VF share = Div(Set(1.0f), total);
    for (int64_t i = 0; i < height; ++i) Store(rows[i] + lane, Mul(Load(rows[i] + lane), share));
  }
}

// position, element ← M̃: the sum of the probabilities of the patterns that keep a position.
void SoftMask(Block* b, const Input& in, int64_t group, int64_t count) {
  Probabilities(b, in, group, count);
  for (int64_t j = 0; j < in.patterns.group; ++j) {
    for (int lane = 0; lane < kLanes; lane += W) {
      VF sum = Zero();
      for (int64_t i = 0; i < in.patterns.count; ++i) {
        if (in.patterns.kept[i] >> j & 1) sum = Add(sum, Load(b->probability[i] + lane));
      }
      Store(b->position[j] + lane, sum);
    }
  }
  FromLanes(b->element, b->position, in.patterns.group, count);
}

// element ← w ∘ element; returns Σ element².
double MaskWeights(float* element, const uint16_t* w, int64_t n) {
  VF squares = Zero();
  for (int64_t i = 0; i < n; i += W) {
    const int64_t some = Min(W, n - i);
    const VF masked = Mul(LoadBf16Part(w + i, some), LoadPart(element + i, some));
    StorePart(element + i, masked, some);
    squares = Fma(masked, masked, squares);
  }
  return static_cast<double>(Sum(squares));
}

// position ← ∂/∂M̃ of loss − regularisation · Σ(w ∘ M̃)² = w · dw − 2 · regularisation · w² · M̃, from element = M̃.
void MaskGradient(Block* b, const uint16_t* w, const float* dw, int64_t group_size, int64_t count, float twice) {
  const int64_t n = count * group_size;
  for (int64_t i = 0; i < n; i += W) {
    const int64_t some = Min(W, n - i);
    const VF wi = LoadBf16Part(w + i, some);
    const VF pull = Mul(Set(twice), Mul(wi, LoadPart(b->element + i, some)));
    StorePart(b->element + i, Mul(wi, Sub(LoadPart(dw + i, some), pull)), some);
  }
  ToLanes(b->position, b->element, group_size, count);
}

// probability ← ∂/∂π: with a_i the sum of `position` over pattern i, p_i · (a_i − Σ p a) · slope.
void LogitGradient(Block* b, const Patterns& patterns, float slope) {
  for (int lane = 0; lane < kLanes; lane += W) {
    alignas(64) float along[kMaxPatterns][W];
    VF mean = Zero();
    for (int64_t i = 0; i < patterns.count; ++i) {
      VF sum = Zero();
      for (int64_t j = 0; j < patterns.group; ++j) {
        if (patterns.kept[i] >> j & 1) sum = Add(sum, Load(b->position[j] + lane));
      }
      Store(along[i], sum);
      mean = Fma(sum, Load(b->probability[i] + lane), mean);
    }
    for (int64_t i = 0; i < patterns.count; ++i) {
      const VF p = Load(b->probability[i] + lane);
      Store(b->probability[i] + lane, Mul(Mul(p, Sub(Load(along[i]), mean)), Set(slope)));
    }
  }
}

// body(block, first group, count, index of the block) over all blocks of groups.
template <typename Body>
MS_INLINE void EachBlock(ms_context* ctx, int64_t groups, const Body& body) {
  auto range = [&](int64_t begin, int64_t end, int) {
    Block block;
    for (int64_t i = begin; i < end; ++i) body(&block, i * kLanes, Min(kLanes, groups - i * kLanes), i);
  };
  ParallelRanges(ctx, CeilDiv(groups, kLanes), kBlocksOfTask, range);
}

void StoreWeights(void* out, ms_value_type type, const float* element, int64_t at, int64_t n) {
  if (type == MS_F32) {
    memcpy(static_cast<float*>(out) + at, element, static_cast<size_t>(n) * sizeof(float));
  } else {
    uint16_t* to = static_cast<uint16_t*>(out) + at;
    for (int64_t i = 0; i < n; ++i) to[i] = Bf16OfFloat(element[i]);
  }
}

}  // namespace

namespace ISA {

ms_status GumbelMask(ms_context* ctx, void* out, ms_value_type type, ms_weights w, const float* logits,
                     const float* noise, ms_gumbel settings, double* squares) {
  if (w.type != MS_BF16) return FailType(ctx, "w", w.type);
  if (type != MS_BF16 && type != MS_F32) return FailType(ctx, "out", type);
  const Input in = {logits, noise, settings, MakePatterns(settings.n, settings.m)};
  const uint16_t* values = static_cast<const uint16_t*>(w.values);
  const int64_t blocks = CeilDiv(settings.groups, kLanes);
  const size_t bytes = static_cast<size_t>(blocks) * sizeof(double);
  double* sums = static_cast<double*>(Scratch(ctx, bytes));
  if (sums == NULL) return FailMemory(ctx, bytes);
  EachBlock(ctx, settings.groups, [&](Block* block, int64_t group, int64_t count, int64_t index) {
    const int64_t at = group * settings.m, n = count * settings.m;
    SoftMask(block, in, group, count);
    sums[index] = MaskWeights(block->element, values + at, n);
    StoreWeights(out, type, block->element, at, n);
  });
  *squares = 0;
  for (int64_t i = 0; i < blocks; ++i) *squares += sums[i];
  return MS_OK;
}

ms_status GumbelMaskBackward(ms_context* ctx, float* dlogits, const float* dw, ms_weights w, const float* logits,
                             const float* noise, ms_gumbel settings, double regularisation) {
  if (w.type != MS_BF16) return FailType(ctx, "w", w.type);
  const Input in = {logits, noise, settings, MakePatterns(settings.n, settings.m)};
  const uint16_t* values = static_cast<const uint16_t*>(w.values);
  const float twice = static_cast<float>(2 * regularisation);
  const float slope = static_cast<float>(settings.scale / settings.temperature);
  EachBlock(ctx, settings.groups, [&](Block* block, int64_t group, int64_t count, int64_t) {
    const int64_t at = group * settings.m;
    SoftMask(block, in, group, count);
    MaskGradient(block, values + at, dw + at, settings.m, count, twice);
    LogitGradient(block, in.patterns, slope);
    FromLanes(dlogits + group * in.patterns.count, block->probability, in.patterns.count, count);
  });
  return MS_OK;
}

}  // namespace ISA
}  // namespace maskserve
