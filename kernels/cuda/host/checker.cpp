#include "checker.h"

#include <limits.h>
#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <map>
#include <memory>
#include <unordered_map>
#include <vector>

#include "execution.h"
#include "fibers.h"

namespace maskserve {
namespace cuda {
namespace host {
namespace {

struct Range {
  uintptr_t begin, end;
  bool Has(uintptr_t at) const { return at >= begin && at < end; }
};

// When an access was: in which block, after how many of its barriers and of its thread's warp barriers since.
struct Stamp {
  uint32_t block;  // from 1; 0: never
  uint16_t met, local;
  uint16_t thread;
  bool atomic;
};

// The last accesses of a piece of memory, in the launch of this number: the last write, and the last reads of two
// threads, so that one of them is not the writer's own.
struct Cell {
  uint64_t launch;
  Stamp write, reads[2];
  bool split;  // its bytes have cells of their own as well
};

// Of 4 KiB: a cell for each word, and one for each byte where some are accessed by themselves.
constexpr uintptr_t kPageBytes = 4096;
struct Page {
  Cell words[kPageBytes / 4];
  std::unique_ptr<Cell[]> bytes;
};

struct Access {
  const char* what;
  bool writes, atomic;
  const void* code;
};

// A write over another thread's is a race if it changes anything, which shows when the thread goes on.
struct Overwritten {
  const unsigned char* at = nullptr;
  unsigned char before[4];
  size_t bytes;
  Stamp earlier;
  Access access;
};

std::map<uintptr_t, size_t> memory;
bool knows_memory = false;
Range last_allocation;
std::unordered_map<uintptr_t, Page> pages;
uintptr_t last_page_number = ~uintptr_t{0};
Page* last_page;
std::vector<Range> except, writable, constant;
Range dynamic_shared;
uint64_t launch;
uint32_t block;
bool overlapped, awaited[kMaxFibers];
uint16_t met, local[kMaxFibers], seen[kMaxFibers][32];
// Whose accesses are looked at; none of a host's thread that runs no grid, but may be in instrumented code.
__attribute__((tls_model("initial-exec"))) thread_local int thread = -1;
Overwritten overwritten;

void FindSegments() {
  dl_iterate_phdr(
      [](dl_phdr_info* object, size_t, void*) {
        const auto self = reinterpret_cast<uintptr_t>(&FindSegments);
        std::vector<Range> of[2];
        bool mine = false;
        for (int i = 0; i < object->dlpi_phnum; ++i) {
          const ElfW(Phdr)& part = object->dlpi_phdr[i];
          if (part.p_type != PT_LOAD) continue;
          const uintptr_t begin = object->dlpi_addr + part.p_vaddr;
          of[(part.p_flags & PF_W) != 0].push_back({begin, begin + part.p_memsz});
          mine |= of[(part.p_flags & PF_W) != 0].back().Has(self);
        }
        if (mine) constant = of[0], writable = of[1];
        return mine ? 1 : 0;
      },
      nullptr);
}

bool In(const std::vector<Range>& ranges, uintptr_t at) {
  for (const Range& range : ranges) {
    if (range.Has(at)) return true;
  }
  return false;
}

void PrintPlace(const void* code) {
  dl_iterate_phdr(
      [](dl_phdr_info* object, size_t, void* at) {
        const auto address = reinterpret_cast<uintptr_t>(at);
        for (int i = 0; i < object->dlpi_phnum; ++i) {
          const ElfW(Phdr)& part = object->dlpi_phdr[i];
          const uintptr_t begin = object->dlpi_addr + part.p_vaddr;
          if (part.p_type != PT_LOAD || address < begin || address >= begin + part.p_memsz) continue;
          char command[PATH_MAX + 64], program[PATH_MAX] = "";
          if (readlink("/proc/self/exe", program, sizeof(program) - 1) < 0) program[0] = 0;
          // The address is behind the call.
          snprintf(command, sizeof(command), "addr2line -Cfipe '%s' 0x%zx >&2",
                   object->dlpi_name[0] != 0 ? object->dlpi_name : program, address - object->dlpi_addr - 1);
          fflush(stderr);
          return system(command) + 1;
        }
        return 0;
      },
      const_cast<void*>(code));
}

[[noreturn]] void Stop(const char* what, const Access& access, uintptr_t at, size_t bytes,
                       const Stamp* other = nullptr) {
  fprintf(stderr, "block (%u, %u, %u), thread (%u, %u, %u) %s %zu bytes at %#zx: %s", blockIdx.x, blockIdx.y,
          blockIdx.z, threadIdx.x, threadIdx.y, threadIdx.z, access.what, bytes, at, what);
  if (other != nullptr && other->block == block) fprintf(stderr, " thread %u of its block", other->thread);
  if (other != nullptr && other->block != block) {
    fprintf(stderr, " thread %u, %u blocks before", other->thread, block - other->block);
  }
  fprintf(stderr, "\n");
  thread = -1;
  PrintPlace(access.code);
  abort();
}

bool Unordered(const Stamp& other) {
  if (other.block == 0 || other.thread == thread) return other.block != 0 && other.block != block;
  if (other.block != block) return true;
  if (other.met != met) return false;
  return other.thread / 32 != thread / 32 || other.local >= seen[thread][other.thread % 32];
}

void SettleOverwritten() {
  const unsigned char* at = overwritten.at;
  overwritten.at = nullptr;
  if (at == nullptr || memcmp(at, overwritten.before, overwritten.bytes) == 0) return;
  Stop("nothing orders it behind another value written by", overwritten.access, reinterpret_cast<uintptr_t>(at),
       overwritten.bytes, &overwritten.earlier);
}

void Look(Cell& cell, uintptr_t at, size_t bytes, const Access& access, bool shared) {
  if (cell.launch != launch) {
    const bool split = cell.split;
    cell = Cell{};
    cell.launch = launch;
    cell.split = split;
  }
  if (shared && !access.writes && cell.write.block != block) {
    Stop("its block has not written there", access, at, bytes);
  }
  const auto races = [&access](const Stamp& other) { return Unordered(other) && !(other.atomic && access.atomic); };
  // Memory that blocks use one after another is each one's own.
  const auto counts = [shared](const Stamp& other) { return !shared || other.block == block; };
  if (counts(cell.write) && races(cell.write)) {
    if (!access.writes || access.atomic) Stop("nothing orders it behind a write of", access, at, bytes, &cell.write);
    overwritten = {reinterpret_cast<const unsigned char*>(at), {}, bytes, cell.write, access};
    memcpy(overwritten.before, overwritten.at, bytes);
  }
  const Stamp now = {block, met, local[thread], static_cast<uint16_t>(thread), access.atomic};
  if (access.writes) {
    for (const Stamp& read : cell.reads) {
      if (counts(read) && races(read)) Stop("nothing orders it behind a read of", access, at, bytes, &read);
    }
    cell.write = now;
  } else {
    Stamp& last = cell.reads[0];
    if (last.block != block || last.thread != now.thread) cell.reads[1] = last;
    last = now;
  }
}

Page& PageOf(uintptr_t at) {
  const uintptr_t number = at / kPageBytes;
  if (number != last_page_number) {
    last_page = &pages[number];
    last_page_number = number;
  }
  return *last_page;
}

// A word, or a part of one.
void LookAt(uintptr_t at, size_t bytes, const Access& access, bool shared) {
  Page& page = PageOf(at);
  Cell& word = page.words[at % kPageBytes / 4];
  if (bytes == 4 && !word.split) return Look(word, at, bytes, access, shared);
  if (!word.split) {
    if (page.bytes == nullptr) page.bytes.reset(new Cell[kPageBytes]());
    for (uintptr_t i = at % kPageBytes & ~uintptr_t{3}, end = i + 4; i < end; ++i) page.bytes[i] = word;
    word.split = true;
  }
  for (size_t i = 0; i < bytes; ++i) Look(page.bytes[at % kPageBytes + i], at + i, 1, access, shared);
}

void RequireMemory(uintptr_t at, size_t bytes, const Access& access) {
  if (last_allocation.Has(at) && at + bytes <= last_allocation.end) return;
  auto of = memory.upper_bound(at);
  if (of != memory.begin()) {
    --of;
    last_allocation = {of->first, of->first + of->second};
    if (last_allocation.Has(at) && at + bytes <= last_allocation.end) return;
  }
  Stop("it is not the GPU's memory", access, at, bytes);
}

void Check(uintptr_t at, size_t bytes, const Access& access) {
  if (thread < 0) return;
  if (overwritten.at != nullptr) SettleOverwritten();
  if (In(except, at)) return;
  bool shared = dynamic_shared.Has(at);
  if (!shared && In(constant, at)) {
    if (access.writes) Stop("it is constant", access, at, bytes);
    return;
  }
  if (!shared) shared = In(writable, at);
  if (!shared && overlapped && !awaited[thread]) Stop("it has not awaited the kernel in front", access, at, bytes);
  if (!shared && knows_memory) RequireMemory(at, bytes, access);
  if (at % bytes != 0) Stop("that is not aligned to their size", access, at, bytes);
  const size_t piece = bytes < 4 ? bytes : 4;
  for (size_t i = 0; i < bytes; i += piece) LookAt(at + i, piece, access, shared);
}

}  // namespace

void CheckedMemoryGiven(const void* given, size_t bytes) {
  knows_memory = true;
  memory[reinterpret_cast<uintptr_t>(given)] = bytes;
}

void CheckedMemoryTaken(const void* taken) {
  const auto of = memory.find(reinterpret_cast<uintptr_t>(taken));
  if (of == memory.end()) return;
  for (uintptr_t page = of->first / kPageBytes; page <= (of->first + of->second) / kPageBytes; ++page) {
    pages.erase(page);
  }
  last_page_number = ~uintptr_t{0};
  last_allocation = {};
  memory.erase(of);
}

void CheckLaunch(bool overlaps) {
  overlapped = overlaps;
  if (writable.empty()) FindSegments();
  ++launch;
  block = 0;
}

void CheckAwaited(int i) {
  awaited[i] = true;
}

void CheckEnded(int i) {
  if (!overlapped || awaited[i]) return;
  fprintf(stderr, "block (%u, %u, %u), thread %d: ended, and has not awaited the kernel in front\n", blockIdx.x,
          blockIdx.y, blockIdx.z, i);
  abort();
}

void CheckBlock(const void* shared, size_t bytes) {
  memset(awaited, 0, sizeof(awaited));
  ++block;
  met = 0;
  memset(local, 0, sizeof(local));
  memset(seen, 0, sizeof(seen));
  dynamic_shared = {reinterpret_cast<uintptr_t>(shared), reinterpret_cast<uintptr_t>(shared) + bytes};
}

void CheckThread(int i) {
  if (overwritten.at != nullptr) SettleOverwritten();
  thread = i;
}

void CheckBlockMet() {
  ++met;
  memset(local, 0, sizeof(local));
  memset(seen, 0, sizeof(seen));
}

void CheckLanesMet(int first, uint32_t lanes) {
  uint16_t joined[32] = {};
  for (int lane = 0; lane < 32; ++lane) {
    if ((lanes >> lane & 1) == 0) continue;
    const int i = first + lane;
    seen[i][lane] = static_cast<uint16_t>(++local[i]);
    for (int of = 0; of < 32; ++of) joined[of] = std::max(joined[of], seen[i][of]);
  }
  for (int lane = 0; lane < 32; ++lane) {
    if ((lanes >> lane & 1) != 0) memcpy(seen[first + lane], joined, sizeof(joined));
  }
}

void CheckExcept(const void* begin, size_t bytes) {
  except.push_back({reinterpret_cast<uintptr_t>(begin), reinterpret_cast<uintptr_t>(begin) + bytes});
}

void CheckAtomic(const void* at, size_t bytes, const void* code) {
  Check(reinterpret_cast<uintptr_t>(at), bytes, {"changes", true, true, code});
}

}  // namespace host
}  // namespace cuda
}  // namespace maskserve

// What GCC calls where it was told to instrument for ThreadSanitizer.
#define MS_HOOK extern "C" __attribute__((visibility("hidden")))
#define MS_ACCESS(bytes)                                                                \
  MS_HOOK void __tsan_read##bytes(void* at) {                                           \
    maskserve::cuda::host::Check(reinterpret_cast<uintptr_t>(at), bytes,                \
                                 {"reads", false, false, __builtin_return_address(0)}); \
  }                                                                                     \
  MS_HOOK void __tsan_write##bytes(void* at) {                                          \
    maskserve::cuda::host::Check(reinterpret_cast<uintptr_t>(at), bytes,                \
                                 {"writes", true, false, __builtin_return_address(0)}); \
  }
MS_ACCESS(1)
MS_ACCESS(2)
MS_ACCESS(4)
MS_ACCESS(8)
MS_ACCESS(16)

namespace {
// Copies of structs and of packed fields, byte by byte.
void CheckBytes(const void* at, size_t bytes, const maskserve::cuda::host::Access& access) {
  for (size_t i = 0; i < bytes; ++i) maskserve::cuda::host::Check(reinterpret_cast<uintptr_t>(at) + i, 1, access);
}
}  // namespace
#define MS_UNALIGNED(bytes)                                                      \
  MS_HOOK void __tsan_unaligned_read##bytes(void* at) {                          \
    CheckBytes(at, bytes, {"reads", false, false, __builtin_return_address(0)}); \
  }                                                                              \
  MS_HOOK void __tsan_unaligned_write##bytes(void* at) {                         \
    CheckBytes(at, bytes, {"writes", true, false, __builtin_return_address(0)}); \
  }
MS_UNALIGNED(2)
MS_UNALIGNED(4)
MS_UNALIGNED(8)
MS_UNALIGNED(16)
MS_HOOK void __tsan_read_range(void* at, size_t bytes) {
  CheckBytes(at, bytes, {"reads", false, false, __builtin_return_address(0)});
}
MS_HOOK void __tsan_write_range(void* at, size_t bytes) {
  CheckBytes(at, bytes, {"writes", true, false, __builtin_return_address(0)});
}
// UndefinedBehaviorSanitizer's word about a pointer that is not aligned to its type; other such words need flags that
// are not given. `data`: where in the source.
MS_HOOK void __ubsan_handle_type_mismatch_v1_abort(void* data, uintptr_t at) {
  struct Place {
    const char* file;
    uint32_t line, column;
  };
  const auto* place = static_cast<const Place*>(data);
  fprintf(stderr, "%s:%u: %#zx is not aligned to its type\n", place->file, place->line, at);
  abort();
}
MS_HOOK void __tsan_func_entry(void*) {}
MS_HOOK void __tsan_func_exit() {}
MS_HOOK void __tsan_vptr_update(void*, void*) {}
MS_HOOK void __tsan_init() {}
