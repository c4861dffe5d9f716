// Which instruction sets this machine runs, and the op table for the chosen one.

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string>

#include "context.h"
#include "cpu_backend.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace maskserve {

namespace {

struct IsaChoice {
  const char* name;
  bool (*runs_here)();
  const ms_ops* ops;
  const ms_codec_ops* codec;
};

#if defined(__x86_64__)

struct Leaf {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
};

Leaf Cpuid(unsigned leaf, unsigned subleaf) {
  Leaf r;
  if (__get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx) == 0) return Leaf{};
  return r;
}

bool Bit(unsigned word, int bit) {
  return ((word >> bit) & 1u) != 0;
}

// The register state that the operating system saves (XCR0): without it, AVX faults however capable the CPU is.
uint64_t SavedState() {
  if (!Bit(Cpuid(1, 0).ecx, 27)) return 0;  // OSXSAVE
  unsigned low, high;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return static_cast<uint64_t>(high) << 32 | low;
}

bool RunsAvx2() {
  constexpr uint64_t kXmmYmm = 0x6;
  const Leaf one = Cpuid(1, 0);
  const bool fma = Bit(one.ecx, 12), avx = Bit(one.ecx, 28), f16c = Bit(one.ecx, 29);
  const bool avx2 = Bit(Cpuid(7, 0).ebx, 5);
  return (SavedState() & kXmmYmm) == kXmmYmm && avx && fma && f16c && avx2;
}

[[maybe_unused]] bool RunsAvx512() {
  constexpr uint64_t kXmmYmmZmm = 0xe6;
  const Leaf seven = Cpuid(7, 0);
  const bool f = Bit(seven.ebx, 16), dq = Bit(seven.ebx, 17), bw = Bit(seven.ebx, 30), vl = Bit(seven.ebx, 31);
  const bool vbmi = Bit(seven.ecx, 1), bf16 = Bit(Cpuid(7, 1).eax, 5);
  return RunsAvx2() && (SavedState() & kXmmYmmZmm) == kXmmYmmZmm && f && dq && bw && vl && vbmi && bf16;
}

#endif

bool Always() {
  return true;
}

// Best first.
const IsaChoice kChoices[] = {
#if defined(MASKSERVE_HAS_avx512)
    {"avx512", RunsAvx512, &avx512::kOps, &avx512::kCodecOps},
#endif
#if defined(MASKSERVE_HAS_avx2)
    {"avx2", RunsAvx2, &avx2::kOps, &avx2::kCodecOps},
#endif
    {"scalar", Always, &scalar::kOps, &scalar::kCodecOps},
};

std::string Available() {
  std::string names;
  for (const IsaChoice& choice : kChoices) {
    if (choice.runs_here()) names += (names.empty() ? "" : ",") + std::string(choice.name);
  }
  return names;
}

const IsaChoice* Choose(const char* wanted) {
  for (const IsaChoice& choice : kChoices) {
    if (wanted != nullptr && std::strcmp(wanted, choice.name) != 0) continue;
    if (choice.runs_here()) return &choice;
  }
  return nullptr;
}

// The two objects are leaked on purpose: they live as long as the library.
const ms_backend* MakeBackend(const IsaChoice& choice) {
  static const std::string& available = *new std::string(Available());
  auto* backend = new ms_backend{};
  backend->abi_version = MS_ABI_VERSION;
  backend->bytes = sizeof(ms_backend);
  backend->name = "cpu";
  backend->isa = choice.name;
  backend->available = available.c_str();
  backend->device = nullptr;
  backend->host_memory = 1;
  backend->memory = MemoryBytes;
  backend->alloc = AllocateBytes;
  backend->release = ReleaseBytes;
  backend->upload = CopyBytes;
  backend->download = CopyBytes;
  backend->copy = CopyBytes;
  backend->zero = ZeroBytes;
  backend->context_create = ContextCreate;
  backend->context_destroy = ContextDestroy;
  backend->set_threads = ContextSetThreads;
  backend->threads = ContextThreads;
  backend->set_exact = ContextSetExact;
  backend->synchronize = [](ms_context*) -> ms_status { return MS_OK; };
  backend->last_error = ContextLastError;
  backend->packed_bytes = [](int64_t n, int64_t k) { return n * (k / 8) * 9; };
  backend->ops = *choice.ops;
  backend->codec = choice.codec;
  return backend;
}

struct Opened {
  const ms_backend* backend = nullptr;
  std::string reason;
};

Opened Open() {
  const char* env = std::getenv("MASKSERVE_ISA");
  const char* wanted = env != nullptr && env[0] != '\0' ? env : nullptr;
  const IsaChoice* choice = Choose(wanted);
  if (choice != nullptr) return {MakeBackend(*choice), ""};
  return {nullptr, "expected MASKSERVE_ISA to name an instruction set of this machine (" + Available() +
                       ") but received '" + std::string(wanted) + "'; unset it to use the best one"};
}

}  // namespace

const ms_backend* OpenCpuBackend(uint32_t abi_version, const char** reason) {
  static const Opened& opened = *new Opened(Open());
  if (abi_version != MS_ABI_VERSION) {
    *reason = "the CPU backend and the addon were built from different versions; run make in kernels/ again";
    return nullptr;
  }
  *reason = opened.reason.c_str();
  return opened.backend;
}

}  // namespace maskserve
