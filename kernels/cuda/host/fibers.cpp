#include "fibers.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace maskserve {
namespace cuda {
namespace host {
namespace {

void (*fiber_entry)(const void*);
const void* fiber_arg;
bool ended[kMaxFibers];
int current;

char* StackOf(int i) {
  static char* const stacks = [] {
    void* memory = mmap(nullptr, kFiberStackBytes * kMaxFibers, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
      perror("mmap of the fibers' stacks");
      abort();
    }
    return static_cast<char*>(memory);
  }();
  return stacks + static_cast<size_t>(i) * kFiberStackBytes;
}

#if defined(__x86_64__)

// ucontext's switch makes a system call; this one saves what the System V ABI asks a callee to keep.
extern "C" void maskserve_switch_stack(void** save, void* load);
asm(R"(
.text
.type maskserve_switch_stack, @function
maskserve_switch_stack:
  push %rbp
  push %rbx
  push %r12
  push %r13
  push %r14
  push %r15
  mov %rsp, (%rdi)
  mov %rsi, %rsp
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbx
  pop %rbp
  ret
.size maskserve_switch_stack, . - maskserve_switch_stack
)");

void* outside;
void* saved[kMaxFibers];

void Leave() {
  maskserve_switch_stack(&saved[current], outside);
}

void Start() {
  fiber_entry(fiber_arg);
  ended[current] = true;
  Leave();
  abort();
}

void Prepare(int i) {
  void** top = reinterpret_cast<void**>(StackOf(i) + kFiberStackBytes - 16);
  // A return address for Start, which never returns, keeps the stack aligned as after a call.
  *--top = nullptr;
  *--top = reinterpret_cast<void*>(Start);
  for (int r = 0; r < 6; ++r) *--top = nullptr;
  saved[i] = top;
}

void Enter(int i) {
  maskserve_switch_stack(&outside, saved[i]);
}

#else

ucontext_t outside;
ucontext_t saved[kMaxFibers];

void Leave() {
  swapcontext(&saved[current], &outside);
}

void Start() {
  fiber_entry(fiber_arg);
  ended[current] = true;
  Leave();
}

void Prepare(int i) {
  getcontext(&saved[i]);
  saved[i].uc_stack.ss_sp = StackOf(i);
  saved[i].uc_stack.ss_size = kFiberStackBytes;
  saved[i].uc_link = nullptr;
  makecontext(&saved[i], Start, 0);
}

void Enter(int i) {
  swapcontext(&outside, &saved[i]);
}

#endif

}  // namespace

const void* FiberStacks() {
  return StackOf(0);
}

void MakeFibers(int count, void (*entry)(const void*), const void* arg) {
  fiber_entry = entry;
  fiber_arg = arg;
  for (int i = 0; i < count; ++i) {
    ended[i] = false;
    Prepare(i);
  }
}

bool Resume(int i) {
  current = i;
  Enter(i);
  return ended[i];
}

void Park() {
  Leave();
}

}  // namespace host
}  // namespace cuda
}  // namespace maskserve
