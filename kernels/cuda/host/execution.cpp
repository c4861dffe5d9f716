#include "execution.h"

#include <stdio.h>
#include <stdlib.h>

#include <deque>
#include <initializer_list>
#include <vector>

#include "fibers.h"
#if !defined(MASKSERVE_CHECKED)
#include "no_checker.h"
#endif

dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace maskserve {
namespace cuda {
namespace host {
namespace {

enum class State { kReady, kAtBlock, kAtWarp, kEnded };

struct Thread {
  dim3 index;
  State state;
  Operation operation;
  uint32_t mask, present;  // present: the lanes that came to the last operation
  const unsigned char* gathered;
};

// What lanes gave to an operation is copied when the last one has come: a lane may give to the next before another has
// read. No lane sleeps while its warp completes kKept operations.
constexpr int kKept = 64;
struct Warp {
  unsigned char given[32][kPayload];
  unsigned char gathered[kKept][32][kPayload];
  unsigned next;
};

struct Copy {
  void* to;
  uint4 value;
  unsigned group;
};
// Of a thread: what has not been written, and how many groups are committed.
struct Copies {
  std::deque<Copy> left;
  unsigned groups;
};

// CUDA's own, of every GPU that this is compiled for; shared memory of sm_86 and sm_89.
constexpr unsigned kMostX = 0x7fffffffu, kMostYOrZ = 65535;
constexpr size_t kMostShared = size_t{99} << 10;

Thread threads[kMaxFibers];
Warp warps[kMaxFibers / 32];
Copies copies[kMaxFibers];
int thread_count, current;
std::vector<unsigned char> shared_memory;
std::vector<int> order, warp_order;
uint64_t order_state;
bool shuffled;

[[noreturn]] void Stop(const char* what, int thread) {
  fprintf(stderr, "block (%u, %u, %u), thread (%u, %u, %u): %s\n", blockIdx.x, blockIdx.y, blockIdx.z,
          threads[thread].index.x, threads[thread].index.y, threads[thread].index.z, what);
  abort();
}

// splitmix64
uint64_t NextRandom() {
  uint64_t z = order_state += 0x9e3779b97f4a7c15ull;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ z >> 27) * 0x94d049bb133111ebull;
  return z ^ z >> 31;
}

void Shuffle(std::vector<int>& list) {
  for (size_t i = list.size(); i > 1; --i) std::swap(list[i - 1], list[NextRandom() % i]);
}

// The order in which warps get ahead of others, drawn anew at every barrier.
void DrawWarps() {
  warp_order.resize(static_cast<size_t>((thread_count + 31) / 32));
  for (size_t w = 0; w < warp_order.size(); ++w) warp_order[w] = static_cast<int>(w);
  if (shuffled) Shuffle(warp_order);
}

void AddThreads(int begin, int end) {
  for (int i = begin; i < end; ++i) {
    if (threads[i].state == State::kReady) order.push_back(i);
  }
}

// The threads that run next: all that are ready, or, shuffled, those of the first warp that has any, so that a warp
// goes on to the next barrier before another has begun.
void MakeOrder() {
  order.clear();
  if (!shuffled) return AddThreads(0, thread_count);
  for (size_t w = 0; w < warp_order.size() && order.empty(); ++w) {
    AddThreads(32 * warp_order[w], std::min(thread_count, 32 * warp_order[w] + 32));
  }
  Shuffle(order);
}

bool ReleaseBlock() {
  bool any = false;
  for (int i = 0; i < thread_count; ++i) {
    if (threads[i].state != State::kAtBlock && threads[i].state != State::kEnded) return false;
    any |= threads[i].state == State::kAtBlock;
  }
  for (int i = 0; any && i < thread_count; ++i) {
    if (threads[i].state == State::kAtBlock) threads[i].state = State::kReady;
  }
  if (any) {
    DrawWarps();
    CheckBlockMet();
  }
  return any;
}

// Lets the lanes go that `first`'s operation waits for, if all are there.
bool ReleaseLanes(int first) {
  const uint32_t mask = threads[first].mask;
  const int base = first & ~31;
  uint32_t present = 0;
  for (int lane = 0; lane < 32; ++lane) {
    if ((mask >> lane & 1) == 0) continue;
    const int i = base + lane;
    if (i >= thread_count) Stop("names a lane beyond the block in a warp operation", first);
    if (threads[i].state == State::kEnded) continue;
    if (threads[i].state != State::kAtWarp) return false;
    if (threads[i].mask != mask || threads[i].operation != threads[first].operation) {
      Stop("meets another warp operation in one of its lanes", first);
    }
    present |= 1u << lane;
  }
  Warp& warp = warps[base / 32];
  unsigned char(*gathered)[kPayload] = warp.gathered[warp.next++ % kKept];
  for (int lane = 0; lane < 32; ++lane) {
    if ((present >> lane & 1) == 0) continue;
    memcpy(gathered[lane], warp.given[lane], kPayload);
    Thread& thread = threads[base + lane];
    thread.state = State::kReady;
    thread.present = present;
    thread.gathered = gathered[0];
  }
  if (threads[first].operation == Operation::kSyncWarp) CheckLanesMet(base, present);
  return true;
}

bool ReleaseAny() {
  bool any = ReleaseBlock();
  for (int i = 0; i < thread_count; ++i) {
    if (threads[i].state == State::kAtWarp) any |= ReleaseLanes(i);
  }
  return any;
}

void RunBlock(void (*thread)(const void*), const void* arg) {
  MakeFibers(thread_count, thread, arg);
  for (int left = thread_count; left > 0;) {
    bool ran = false;
    MakeOrder();
    for (const int i : order) {
      current = i;
      threadIdx = threads[i].index;
      ran = true;
      CheckThread(i);
      const bool ended = Resume(i);
      CheckThread(-1);
      if (ended) {
        CheckEnded(i);
        if (!copies[i].left.empty()) Stop("ends before its copies to shared memory", i);
        threads[i].state = State::kEnded;
        --left;
      }
    }
    if (left == 0 || ReleaseAny() || ran) continue;
    for (int i = 0; i < thread_count; ++i) {
      if (threads[i].state != State::kEnded) Stop("waits for threads that never come", i);
    }
  }
}

void StartBlock(dim3 block) {
  thread_count = static_cast<int>(block.x * block.y * block.z);
  for (int i = 0; i < thread_count; ++i) {
    const unsigned at = static_cast<unsigned>(i);
    threads[i] = {dim3(at % block.x, at / block.x % block.y, at / block.x / block.y),
                  State::kReady,
                  Operation::kSyncBlock,
                  0,
                  0,
                  nullptr};
    copies[i].left.clear();
    copies[i].groups = 0;
  }
  DrawWarps();
  std::fill(shared_memory.begin(), shared_memory.end(), static_cast<unsigned char>(0xa5));
}

}  // namespace

void SetOrder(Order wanted, uint64_t seed) {
  shuffled = wanted == Order::kShuffled;
  order_state = seed;
}

SubmitFn& Submitter() {
  static SubmitFn submit = nullptr;
  return submit;
}

void RunGrid(dim3 grid, dim3 block, size_t shared_bytes, bool overlapped, void (*thread)(const void*),
             const void* arg) {
  const bool fits = block.x * block.y * block.z <= kMaxFibers && block.x * block.y * block.z > 0 && grid.x <= kMostX &&
                    grid.y <= kMostYOrZ && grid.z <= kMostYOrZ && shared_bytes <= kMostShared;
  if (!fits) {
    fprintf(stderr, "a grid of %u x %u x %u blocks of %u x %u x %u threads and %zu bytes is beyond a GPU's limits\n",
            grid.x, grid.y, grid.z, block.x, block.y, block.z, shared_bytes);
    abort();
  }
  static const bool excepted = [] {
    CheckExcept(FiberStacks(), kFiberStackBytes * kMaxFibers);
    for (const dim3* index : {&threadIdx, &blockIdx, &blockDim, &gridDim}) CheckExcept(index, sizeof(*index));
    CheckExcept(warps, sizeof(warps));
    return true;
  }();
  (void)excepted;
  gridDim = grid;
  blockDim = block;
  shared_memory.resize(shared_bytes + 16);
  CheckLaunch(overlapped);
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        blockIdx = dim3(x, y, z);
        StartBlock(block);
        CheckBlock(SharedMemory(), shared_bytes);
        RunBlock(thread, arg);
      }
    }
  }
}

void* SharedMemory() {
  return reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(shared_memory.data()) + 15) & ~uintptr_t{15});
}

void AwaitFront() {
  CheckAwaited(current);
}

int Lane() {
  return current & 31;
}

void SyncBlock() {
  const int self = current;
  threads[self].state = State::kAtBlock;
  Park();
}

const unsigned char* Exchange(Operation operation, uint32_t mask, const void* payload, size_t bytes) {
  const int self = current, lane = self & 31;
  if ((mask >> lane & 1) == 0) Stop("is not in the mask of its own warp operation", self);
  Thread& thread = threads[self];
  if (bytes != 0) memcpy(warps[self >> 5].given[lane], payload, bytes);
  thread.state = State::kAtWarp;
  thread.operation = operation;
  thread.mask = mask;
  Park();
  return thread.gathered;
}

void DeferCopy(void* to, const uint4& value) {
  copies[current].left.push_back({to, value, copies[current].groups});
}

void CommitCopies() {
  ++copies[current].groups;
}

bool NextCopy(int left, void** to, uint4* value) {
  Copies& mine = copies[current];
  if (mine.left.empty() || mine.left.front().group + static_cast<unsigned>(left) >= mine.groups) return false;
  *to = mine.left.front().to;
  *value = mine.left.front().value;
  mine.left.pop_front();
  return true;
}

void RequireLane(int lane) {
  if ((threads[current].present >> lane & 1) == 0) Stop("shuffles from a lane that did not take part", current);
}

}  // namespace host
}  // namespace cuda
}  // namespace maskserve
