// One fiber for each thread of a block, all on the calling thread: control passes only where a fiber gives it back.
#pragma once

#include <stddef.h>

namespace maskserve {
namespace cuda {
namespace host {

constexpr int kMaxFibers = 1024;
constexpr size_t kFiberStackBytes = 64 << 10;

// Makes fibers 0 … count − 1, each of which will run entry(arg).
void MakeFibers(int count, void (*entry)(const void* arg), const void* arg);
// Where all their stacks are, one behind the other.
const void* FiberStacks();
// Runs fiber i until it parks or ends; true when it has ended. Called from outside of fibers.
bool Resume(int i);
// Gives control back to who resumed the fiber that runs.
void Park();

}  // namespace host
}  // namespace cuda
}  // namespace maskserve
