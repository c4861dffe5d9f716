// The native codec under sanitizers (make -C kernels fuzz-native): mutated chunks of every coder, and what is made of
// them, on every instruction set that this machine has. Checksums are right, so that every input is decoded. An input
// passes if no sanitizer complains, it ends, all sets agree on what became of it and on the result, and what is
// accepted encodes to the same bytes again: a sequence of symbols has one chunk. fuzz_codec_*.cpp say what else each
// target promises.
//
//   fuzz_codec [--iterations N] [--seed N] [--first N] [--target NAME]      N inputs for each target

#include <sys/time.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <ctime>

#include "fuzz_codec_harness.h"

// Short histories of small blocks: what was freed lately is enough.
extern "C" const char* __asan_default_options() {
  return "quarantine_size_mb=4:malloc_context_size=4:detect_leaks=0";
}

namespace {

constexpr int64_t kInputsPerWatch = 256;
constexpr int kMostSeconds = 30;

struct NamedTarget {
  const char* name;
  std::unique_ptr<Target> (*make)(Random&);
};

template <uint32_t kCoder>
std::unique_ptr<Target> Masks(Random& random) {
  return MakeSymbolTarget(random, kCoder, false);
}
template <uint32_t kCoder>
std::unique_ptr<Target> Compressed(Random& random) {
  return MakeSymbolTarget(random, kCoder, true);
}
template <uint32_t kCoder>
std::unique_ptr<Target> Patches(Random& random) {
  return MakePatchTarget(random, kCoder);
}

const NamedTarget kTargets[] = {
    {"uniform-ac", MakeUniformAcTarget},
    {"uniform", Masks<MS_CODER_UNIFORM>},
    {"static", Masks<MS_CODER_STATIC>},
    {"parent", Masks<MS_CODER_PARENT>},
    {"weights", Masks<MS_CODER_WEIGHTS>},
    {"scaled-weights", Masks<MS_CODER_SCALED_WEIGHTS>},
    {"parent+weights", Masks<MS_CODER_PARENT_WEIGHTS>},
    {"scales", MakeScalesTarget},
    {"compressed-uniform", Compressed<MS_CODER_UNIFORM>},
    {"compressed-static", Compressed<MS_CODER_STATIC>},
    {"compressed-parent", Compressed<MS_CODER_PARENT>},
    {"compressed-weights", Compressed<MS_CODER_WEIGHTS>},
    {"compressed-scaled-weights", Compressed<MS_CODER_SCALED_WEIGHTS>},
    {"compressed-parent+weights", Compressed<MS_CODER_PARENT_WEIGHTS>},
    {"patch", Patches<MS_CODER_PATCH>},
    {"patch+weights", Patches<MS_CODER_PATCH_WEIGHTS>},
    {"changes", MakeChangesTarget},
    {"encode", MakeEncodeTarget},
};

std::vector<Isa> AvailableIsas() {
  std::vector<Isa> sets;
#if defined(MASKSERVE_HAS_avx512)
  if (__builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vbmi")) {
    sets.push_back({"avx512", &maskserve::avx512::kCodecOps});
  }
#endif
#if defined(MASKSERVE_HAS_avx2)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    sets.push_back({"avx2", &maskserve::avx2::kCodecOps});
  }
#endif
  sets.push_back({"scalar", &maskserve::scalar::kCodecOps});
  return sets;
}

const char* target_name = "";
int64_t input = -1;  // that of a corpus

// Seconds of this process: a machine may be busy.
void WatchFor(int seconds) {
  const itimerval timer = {{0, 0}, {seconds, 0}};
  setitimer(ITIMER_PROF, &timer, nullptr);
}

void ReportHang(int) {
  Violation("it hangs");
}

void Fuzz(const NamedTarget& named, int64_t iterations, uint64_t seed, int64_t first) {
  target_name = named.name;
  uint64_t salt = seed;
  for (const char* at = named.name; *at != 0; ++at) salt = salt * 1000003 + static_cast<uint8_t>(*at);
  Random of_corpus{salt};
  input = -1;
  const std::unique_ptr<Target> target = named.make(of_corpus);
  const std::clock_t started = std::clock();
  int64_t outcomes[4] = {};
  for (input = first; input < first + iterations; ++input) {
    if ((input - first) % kInputsPerWatch == 0) WatchFor(kMostSeconds);
    Random random{salt ^ static_cast<uint64_t>(input) * 0xbf58476d1ce4e5b9ull};
    const int32_t status = target->Run(random);
    Require(status >= 0 && status <= MS_CHUNK_POSITION, "a status that is none");
    ++outcomes[status];
  }
  WatchFor(0);
  std::printf("%-25s %lld executions, seed %llu: %lld accepted, %lld overrun, %lld beyond their tensor; %.0f s\n",
              named.name, static_cast<long long>(iterations), static_cast<unsigned long long>(seed),
              static_cast<long long>(outcomes[MS_CHUNK_OK]), static_cast<long long>(outcomes[MS_CHUNK_OVERRUN]),
              static_cast<long long>(outcomes[MS_CHUNK_POSITION]),
              static_cast<double>(std::clock() - started) / CLOCKS_PER_SEC);
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

const std::vector<Isa> isas = AvailableIsas();
ms_context* context;

void Violation(const char* what) {
  std::fprintf(stderr, "VIOLATION %s, input %lld: %s\n", target_name, static_cast<long long>(input), what);
  std::abort();
}

int main(int count, char** words) {
  const Options options = ReadOptions(count, words);
  std::signal(SIGPROF, ReportHang);
  context = maskserve::ContextCreate();
  maskserve::ContextSetThreads(context, 1);
  int64_t targets = 0;
  for (const NamedTarget& target : kTargets) {
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
  std::fprintf(stderr, "expected --target to be one of");
  for (const NamedTarget& target : kTargets) std::fprintf(stderr, " %s", target.name);
  std::fprintf(stderr, ", got %s\n", options.target);
  return 2;
}
