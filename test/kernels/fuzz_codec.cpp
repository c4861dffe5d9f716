// The native codec under sanitizers (make -C kernels fuzz-native): mutated chunks of every coder, decoded on every
// instruction set that this machine has. An input passes if no sanitizer complains, all sets agree on what became of it
// and on the result, and what is accepted encodes to the same bytes again: a sequence of symbols has one chunk.
//
//   fuzz_codec [--iterations N] [--seed N] [--first N] [--target NAME]      N inputs for each target

#include "fuzz_codec.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>

namespace {

constexpr int64_t kCorpus = 48;
constexpr size_t kPatchRoom = 32;

struct Target {
  const char* name;
  uint32_t coder;
};
const Target kTargets[] = {
    {"uniform-ac", MS_CODER_UNIFORM_AC},
    {"uniform", MS_CODER_UNIFORM},
    {"static", MS_CODER_STATIC},
    {"parent", MS_CODER_PARENT},
    {"weights", MS_CODER_WEIGHTS},
    {"scaled-weights", MS_CODER_SCALED_WEIGHTS},
    {"parent+weights", MS_CODER_PARENT_WEIGHTS},
    {"patch", MS_CODER_PATCH},
    {"patch+weights", MS_CODER_PATCH_WEIGHTS},
};

struct Isa {
  const char* name;
  const ms_codec_ops* ops;
};

std::vector<Isa> AvailableIsas() {
  std::vector<Isa> isas;
#if defined(MASKSERVE_HAS_avx512)
  if (__builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vbmi")) {
    isas.push_back({"avx512", &maskserve::avx512::kCodecOps});
  }
#endif
#if defined(MASKSERVE_HAS_avx2)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    isas.push_back({"avx2", &maskserve::avx2::kCodecOps});
  }
#endif
  isas.push_back({"scalar", &maskserve::scalar::kCodecOps});
  return isas;
}

const std::vector<Isa> isas = AvailableIsas();
ms_context* context;
int64_t iteration;

[[noreturn]] void Violation(const char* target, const char* what) {
  std::fprintf(stderr, "VIOLATION %s, input %lld: %s\n", target, static_cast<long long>(iteration), what);
  std::abort();
}

bool IsPatch(uint32_t coder) {
  return coder == MS_CODER_PATCH || coder == MS_CODER_PATCH_WEIGHTS;
}

// In the tables of patches the parent's own pattern has no frequency (FORMAT.md §5), another one always has.
void ExcludeOwn(uint32_t* counts, int64_t own) {
  counts[own] = 0;
  if (std::all_of(counts, counts + 6, [](uint32_t count) { return count == 0; })) counts[own == 0 ? 1 : 0] = 1;
}

void FitSymbols(Entry& entry, const ms_codec_ops& ops, uint32_t coder) {
  const int64_t contexts = entry.tensors.front()->view.contexts;
  std::vector<uint32_t> counts(static_cast<size_t>(8 * contexts));
  for (const ms_mask_tensor& view : entry.Views()) {
    int32_t bad = 0;
    ms_mask_tensor dense = view;
    if (coder == MS_CODER_PATCH) dense.coder = MS_CODER_PARENT;
    if (coder == MS_CODER_PATCH_WEIGHTS) dense.coder = MS_CODER_PARENT_WEIGHTS;
    ops.count_symbols(context, &dense, counts.data(), &bad);
    if (bad != 0) Violation("corpus", "a mask that is none");
  }
  std::vector<uint16_t> starts;
  for (int64_t c = 0; c < contexts; ++c) {
    if (IsPatch(coder)) ExcludeOwn(counts.data() + 8 * c, coder == MS_CODER_PATCH ? c : c / 10);
    const std::vector<uint16_t> table = FittedStarts(counts.data() + 8 * c, 6, 8);
    starts.insert(starts.end(), table.begin(), table.end());
  }
  for (auto& tensor : entry.tensors) tensor->starts = starts;
}

// Every gap likely but for a few that are certain not to occur.
std::vector<uint16_t> RandomGaps(Random& random) {
  uint32_t counts[64];
  for (uint32_t& count : counts) count = static_cast<uint32_t>(1 + random.Below(100));
  return FittedStarts(counts, 64, 65);
}

struct Outcome {
  int32_t status;
  Bytes mask;  // of all tensors, if the status is MS_CHUNK_OK
};

ms_mask_chunk ChunkOf(const Bytes& bytes, const ms_codec_ops& ops) {
  const int64_t length = static_cast<int64_t>(bytes.size());
  return {bytes.data(), length, ops.crc32c(bytes.data(), length), -1};
}

void Append(Bytes& to, const Bytes& from) {
  to.insert(to.end(), from.begin(), from.end());
}

Outcome DecodePatch(Entry& entry, const Bytes& bytes, const ms_codec_ops& ops, const char* target) {
  std::vector<ms_mask_tensor> views = entry.Views();
  std::vector<std::vector<uint32_t>> positions;
  std::vector<Bytes> codes;
  for (ms_mask_tensor& view : views) {
    positions.emplace_back(static_cast<size_t>(view.changes));
    codes.emplace_back(static_cast<size_t>(view.changes));
    view.positions = positions.back().data();
    view.codes = codes.back().data();
  }
  ms_mask_chunk chunk = ChunkOf(bytes, ops);
  const int64_t first[] = {0, static_cast<int64_t>(views.size())};
  ops.decode_patches(context, views.data(), first, entry.gaps.data(), &chunk, 1);
  Outcome outcome{chunk.status, {}};
  for (size_t t = 0; chunk.status == MS_CHUNK_OK && t < views.size(); ++t) {
    const ms_mask_tensor& view = views[t];
    Bytes mask(entry.tensors[t]->parent.size());
    ops.apply_changes(context, mask.data(), view.parent, view.groups, view.positions, view.codes, view.changes);
    std::vector<uint32_t> found(static_cast<size_t>(view.groups));
    Bytes found_codes(found.size());
    int64_t changes = 0;
    ops.find_changes(context, mask.data(), view.parent, view.groups, found.data(), found_codes.data(), &changes);
    found.resize(static_cast<size_t>(changes));
    if (found != positions[t]) Violation(target, "other changes are found than were applied");
    Append(outcome.mask, mask);
  }
  if (chunk.status != MS_CHUNK_OK) return outcome;
  Bytes again(bytes.size() + 10 * outcome.mask.size() + 8 * kPatchRoom * views.size());
  ms_mask_output output{again.data(), static_cast<int64_t>(again.size()), 0, 0, -1};
  ops.encode_patches(context, views.data(), first, entry.gaps.data(), &output, 1);
  again.resize(static_cast<size_t>(output.length));
  if (output.status == MS_CHUNK_OK && again != bytes) Violation(target, "accepted bytes encode to others");
  return outcome;
}

// uniform-ac by its definition (FORMAT.md §8.4), bit by bit.
Bytes EncodeUniformAc(const Bytes& mask, int64_t groups) {
  uint64_t low = 0, high = (1ull << 31) - 1, pending = 0;
  std::vector<bool> bits;
  const auto write = [&](bool bit) {
    bits.push_back(bit);
    for (; pending > 0; --pending) bits.push_back(!bit);
  };
  for (int64_t i = 0; i < groups; ++i) {
    const unsigned nibble = NibbleAt(mask, i);
    uint64_t symbol = 0;
    while (kNibbles[symbol] != nibble) ++symbol;
    const uint64_t range = high - low + 1;
    high = low + range * (symbol + 1) / 6 - 1;
    low += range * symbol / 6;
    for (; (low >> 30 & 1) == (high >> 30 & 1); low = low << 1 & 0x7fffffff, high = (high << 1 & 0x7fffffff) | 1) {
      write((low >> 30 & 1) != 0);
    }
    for (; (low >> 29 & 1) == 1 && (high >> 29 & 1) == 0; ++pending) {
      low = 2 * low - (1ull << 30);
      high = 2 * high - (1ull << 30) + 1;
    }
  }
  pending = 0;
  write(true);
  Bytes bytes(
      std::max<size_t>((bits.size() + 7) / 8, static_cast<size_t>(std::max<int64_t>(1, groups * 2584 / 8000 - 8))));
  for (size_t i = 0; i < bits.size(); ++i) bytes[i / 8] = static_cast<uint8_t>(bytes[i / 8] | bits[i] << (7 - i % 8));
  return bytes;
}

Outcome DecodeSymbols(Entry& entry, const Bytes& bytes, const ms_codec_ops& ops, const char* target) {
  std::vector<ms_mask_tensor> views = entry.Views();
  std::vector<Bytes> masks;
  for (size_t t = 0; t < views.size(); ++t) {
    masks.emplace_back(entry.tensors[t]->mask.size());
    views[t].mask = masks.back().data();
  }
  const int64_t count = static_cast<int64_t>(views.size());
  ms_mask_chunk chunk = ChunkOf(bytes, ops);
  if (views[0].coder == MS_CODER_UNIFORM_AC) {
    ops.decode_uniform_ac(context, views.data(), 2 * views[0].groups, &chunk, 1);
  } else {
    ops.decode_masks(context, views.data(), count, entry.chunk_steps, 0, &chunk, 1);
  }
  Outcome outcome{chunk.status, {}};
  if (chunk.status != MS_CHUNK_OK) return outcome;
  for (const Bytes& mask : masks) Append(outcome.mask, mask);
  if (views[0].coder == MS_CODER_UNIFORM_AC) {
    if (EncodeUniformAc(masks[0], views[0].groups) != bytes) Violation(target, "accepted bytes encode to others");
    return outcome;
  }
  Bytes again(static_cast<size_t>(128 + 64 * entry.chunk_steps));
  ms_mask_output output{again.data(), static_cast<int64_t>(again.size()), 0, 0, -1};
  ops.encode_masks(context, views.data(), count, entry.chunk_steps, 0, &output, 1);
  again.resize(static_cast<size_t>(output.length));
  if (output.status != MS_CHUNK_OK || again != bytes) Violation(target, "accepted bytes encode to others");
  return outcome;
}

Outcome Decode(Entry& entry, const Bytes& bytes, const ms_codec_ops& ops, const Target& target) {
  return IsPatch(target.coder) ? DecodePatch(entry, bytes, ops, target.name)
                               : DecodeSymbols(entry, bytes, ops, target.name);
}

Entry MakeEntry(Random& random, const Target& target) {
  Entry entry = RandomEntry(random, target.coder);
  const ms_codec_ops& ops = *isas.back().ops;
  if (target.coder == MS_CODER_UNIFORM_AC) {
    entry.tensors.resize(1);
    entry.chunk = EncodeUniformAc(entry.tensors[0]->mask, entry.tensors[0]->view.groups);
    return entry;
  }
  FitSymbols(entry, ops, target.coder);
  entry.gaps = RandomGaps(random);
  std::vector<ms_mask_tensor> views = entry.Views();
  const int64_t count = static_cast<int64_t>(views.size());
  size_t room = static_cast<size_t>(128 + 64 * entry.chunk_steps);
  for (const ms_mask_tensor& view : views) room += kPatchRoom + 10 * static_cast<size_t>(view.changes);
  entry.chunk.resize(room);
  ms_mask_output output{entry.chunk.data(), static_cast<int64_t>(room), 0, 0, -1};
  const int64_t first[] = {0, count};
  if (IsPatch(target.coder))
    ops.encode_patches(context, views.data(), first, entry.gaps.data(), &output, 1);
  else
    ops.encode_masks(context, views.data(), count, entry.chunk_steps, 0, &output, 1);
  if (output.status != MS_CHUNK_OK) Violation(target.name, "the corpus does not encode");
  entry.chunk.resize(static_cast<size_t>(output.length));
  for (const Isa& isa : isas) {
    if (Decode(entry, entry.chunk, *isa.ops, target).status != MS_CHUNK_OK)
      Violation(target.name, "the corpus is refused");
  }
  return entry;
}

void Fuzz(const Target& target, int64_t iterations, uint64_t seed, int64_t first) {
  std::vector<Entry> corpus;
  Random of_corpus{seed * 1000003 + target.coder};
  iteration = -1;
  for (int64_t i = 0; i < kCorpus; ++i) corpus.push_back(MakeEntry(of_corpus, target));
  int64_t outcomes[4] = {};
  for (iteration = first; iteration < first + iterations; ++iteration) {
    Random random{(seed * 0x9e3779b97f4a7c15ull + target.coder) ^
                  static_cast<uint64_t>(iteration) * 0xbf58476d1ce4e5b9ull};
    Entry& entry = corpus[static_cast<size_t>(random.Below(kCorpus))];
    const Bytes& own = random.OneIn(16) ? corpus[static_cast<size_t>(random.Below(kCorpus))].chunk : entry.chunk;
    const Bytes damaged = Damaged(random, own);
    // A copy of its own size: nothing beyond the bytes can be read unseen.
    const Bytes bytes(damaged.begin(), damaged.end());
    const size_t chosen = static_cast<size_t>(random.Below(static_cast<int64_t>(isas.size())));
    const Outcome outcome = Decode(entry, bytes, *isas[chosen].ops, target);
    if (outcome.status < 0 || outcome.status > MS_CHUNK_POSITION) Violation(target.name, "a status that is none");
    ++outcomes[outcome.status];
    if (iteration % 4 != 0) continue;
    for (const Isa& isa : isas) {
      const Outcome other = Decode(entry, bytes, *isa.ops, target);
      if (other.status != outcome.status || other.mask != outcome.mask) Violation(target.name, isa.name);
    }
  }
  std::printf("%-15s %lld executions, seed %llu: %lld accepted, %lld overrun, %lld beyond their tensor\n", target.name,
              static_cast<long long>(iterations), static_cast<unsigned long long>(seed),
              static_cast<long long>(outcomes[MS_CHUNK_OK]), static_cast<long long>(outcomes[MS_CHUNK_OVERRUN]),
              static_cast<long long>(outcomes[MS_CHUNK_POSITION]));
  std::fflush(stdout);
}

struct Options {
  int64_t iterations = 1000000, first = 0;
  uint64_t seed = 1;
  const char* target = nullptr;
};

Options ReadOptions(int count, char** words) {
  Options options;
  for (int i = 1; i + 1 < count; i += 2) {
    if (std::strcmp(words[i], "--iterations") == 0)
      options.iterations = std::atoll(words[i + 1]);
    else if (std::strcmp(words[i], "--seed") == 0)
      options.seed = static_cast<uint64_t>(std::atoll(words[i + 1]));
    else if (std::strcmp(words[i], "--first") == 0)
      options.first = std::atoll(words[i + 1]);
    else if (std::strcmp(words[i], "--target") == 0)
      options.target = words[i + 1];
    else
      count = 0;
  }
  if (count % 2 != 0 && options.iterations > 0) return options;
  std::fprintf(stderr, "expected [--iterations N] [--seed N] [--first N] [--target NAME]\n");
  std::exit(2);
}

}  // namespace

int main(int count, char** words) {
  const Options options = ReadOptions(count, words);
  context = maskserve::ContextCreate();
  maskserve::ContextSetThreads(context, 1);
  int64_t targets = 0;
  for (const Target& target : kTargets) {
    if (options.target != nullptr && std::strcmp(options.target, target.name) != 0) continue;
    Fuzz(target, options.iterations, options.seed, options.first);
    ++targets;
  }
  maskserve::ContextDestroy(context);
  if (targets > 0) {
    std::printf("%lld targets, %lld mutated inputs each, no violation\n", static_cast<long long>(targets),
                static_cast<long long>(options.iterations));
    return 0;
  }
  std::fprintf(stderr, "expected --target to be a coder's name, got %s\n", options.target);
  return 2;
}
