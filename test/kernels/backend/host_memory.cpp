#include "host_memory.h"

#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>

#if defined(MASKSERVE_CHECKED)
#include "../../../kernels/cuda/host/checker.h"
#endif

namespace host_gpu {

namespace {

// Allocations begin a page of their own, and one is free between two.
constexpr size_t kPage = 4096;
// Addresses for each byte that there is: what is given back leaves holes.
constexpr size_t kAddresses = 8;

char* begin;
size_t addresses, used = 0;
std::map<char*, size_t>& Given() {
  static auto& given = *new std::map<char*, size_t>;
  return given;
}
int working = 0;
struct sigaction before;

size_t Pages(size_t bytes) {
  return (bytes + kPage - 1) / kPage * kPage;
}

[[noreturn]] void Stop(const char* what, const void* memory, size_t bytes) {
  std::fprintf(stderr, "the GPU that the host stands in for: %s %zu bytes at %p, which it has not given out\n", what,
               bytes, memory);
  std::abort();
}

void OnFault(int, siginfo_t* info, void*) {
  if (IsGpus(info->si_addr)) {
    static const char line[] = "the host touches the GPU's memory, which it can't where there is a GPU\n";
    (void)!write(STDERR_FILENO, line, sizeof(line) - 1);
  }
  // Whatever it was, it happens again on return.
  sigaction(SIGSEGV, &before, nullptr);
}

void Reserve() {
  if (begin != nullptr) return;
  addresses = Pages(TotalBytes()) * kAddresses;
  void* memory = mmap(nullptr, addresses, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    std::perror("mmap of the GPU's memory");
    std::abort();
  }
  begin = static_cast<char*>(memory);
  struct sigaction action = {};
  action.sa_sigaction = OnFault;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigaction(SIGSEGV, &action, &before);
}

// The first place with room for so many bytes and a page behind them.
char* PlaceFor(size_t bytes) {
  char* at = begin;
  for (const auto& given : Given()) {
    if (given.first >= at + Pages(bytes) + kPage) return at;
    at = given.first + Pages(given.second) + kPage;
  }
  return at + Pages(bytes) <= begin + addresses ? at : nullptr;
}

}  // namespace

size_t TotalBytes() {
  const char* bytes = std::getenv("MASKSERVE_HOST_GPU_BYTES");
  return bytes != nullptr ? std::strtoull(bytes, nullptr, 10) : size_t{1} << 30;
}

size_t FreeBytes() {
  return TotalBytes() - used;
}

void* Give(size_t bytes) {
  Reserve();
  char* at = bytes <= FreeBytes() ? PlaceFor(bytes) : nullptr;
  if (at == nullptr) return nullptr;
  Given()[at] = bytes;
  used += bytes;
#if defined(MASKSERVE_CHECKED)
  maskserve::cuda::host::CheckedMemoryGiven(at, bytes);
#endif
  const Work work;
  std::memset(at, 0xa5, bytes);
  return at;
}

void Take(void* memory) {
  const auto given = Given().find(static_cast<char*>(memory));
  if (given == Given().end()) Stop("gives back", memory, 0);
#if defined(MASKSERVE_CHECKED)
  maskserve::cuda::host::CheckedMemoryTaken(memory);
#endif
  used -= given->second;
  madvise(memory, Pages(given->second), MADV_DONTNEED);
  Given().erase(given);
}

void RequireGiven(const void* memory, size_t bytes, const char* what) {
  const auto* at = static_cast<const char*>(memory);
  auto given = Given().upper_bound(const_cast<char*>(at));
  if (given != Given().begin()) {
    --given;
    if (at + bytes <= given->first + given->second) return;
  }
  Stop(what, memory, bytes);
}

bool IsGpus(const void* memory) {
  const auto* at = static_cast<const char*>(memory);
  return begin != nullptr && at >= begin && at < begin + addresses;
}

Work::Work() {
  Reserve();
  if (working++ == 0) mprotect(begin, addresses, PROT_READ | PROT_WRITE);
}

Work::~Work() {
  if (--working == 0) mprotect(begin, addresses, PROT_NONE);
}

}  // namespace host_gpu
