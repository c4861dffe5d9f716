// What compute-sanitizer's memcheck, racecheck and (for shared memory) initcheck do, for kernels on the host: those
// compiled with MASKSERVE_CHECKED and -fsanitize=thread, whose calls at every access end in checker.cpp and not in
// ThreadSanitizer. The process ends with a line, and where in the source, at the first
//
//   access outside the GPU's memory: of the host's, beyond an allocation, of one that was given back
//   access that is not aligned to its size
//   race: two threads of a launch, at least one of which writes (another value), with nothing that orders them.
//     __syncthreads orders the threads of a block, __syncwarp the lanes that take part; shuffles, ballots and tensor
//     cores order nothing (CUDA C++ Programming Guide, "Warp Shuffle Functions": no memory barrier is implied), and
//     nothing orders blocks. Atomics race with plain accesses only.
//   read of shared memory that nothing of its block has written
//   access to the GPU's memory by a thread of an overlapped launch that has not awaited the kernel in front, or its end
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace maskserve {
namespace cuda {
namespace host {

// The GPU's memory, as the runtime gives it out. Without any, all memory of the process is the GPU's: native cases.
void CheckedMemoryGiven(const void* memory, size_t bytes);
void CheckedMemoryTaken(const void* memory);

// What execution.cpp tells: a launch begins, overlapped or not; a block begins, whose dynamic shared memory this is;
// thread `i` of the block goes on, or none; thread `i` has awaited the kernel in front, or has ended; all threads of a
// block have met, or those lanes of the warp that begins with thread `first`.
void CheckLaunch(bool overlapped);
void CheckBlock(const void* shared, size_t bytes);
void CheckThread(int i);
void CheckAwaited(int i);
void CheckEnded(int i);
void CheckBlockMet();
void CheckLanesMet(int first, uint32_t lanes);
// This is the stand-in's own: kernels may read it.
void CheckExcept(const void* memory, size_t bytes);

void CheckAtomic(const void* at, size_t bytes, const void* code);

}  // namespace host
}  // namespace cuda
}  // namespace maskserve
