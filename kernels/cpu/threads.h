// The thread pool of one calling thread.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace maskserve {

// Cores this process may use: the affinity mask, cut to the cgroup's CPU quota.
int UsableCores();

// threads − 1 persistent workers beside the caller, or as many as the system gives. Idle workers spin for some tens of
// microseconds (the gap between two ops of a forward pass), then park. Tasks are handed out one by one; what a task
// computes must not depend on who runs it.
class Pool {
 public:
  using Fn = void (*)(void* arg, int64_t task, int worker);

  explicit Pool(int threads);
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }
  // Returns when every task has run. Called by the owning thread only, never from inside a task.
  void Run(int64_t tasks, Fn fn, void* arg);

 private:
  void Work(int worker);
  void RunClaimed(uint32_t epoch, int worker);
  bool WaitForEpoch(uint32_t seen);

  // epoch << 32 | next task. Claiming is a compare-and-swap on the whole word, so that a worker that wakes late can't
  // take a task of a newer job with an older job's arguments. Odd epochs are "being written": nothing can be claimed.
  std::atomic<uint64_t> ticket_{0};
  std::atomic<Fn> fn_{nullptr};
  std::atomic<void*> arg_{nullptr};
  std::atomic<uint32_t> tasks_{0};
  alignas(64) std::atomic<uint32_t> done_{0};
  alignas(64) std::atomic<int> parked_{0};
  std::atomic<bool> stop_{false};
  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<std::thread> workers_;
};

}  // namespace maskserve
