#include "threads.h"

#include <sched.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <system_error>

namespace maskserve {

namespace {

constexpr auto kSpin = std::chrono::microseconds(40);
constexpr int kPausesPerClock = 64;

void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// cgroup v2's cpu.max is "quota period" or "max period", in microseconds.
int QuotaCores() {
  FILE* file = std::fopen("/sys/fs/cgroup/cpu.max", "r");
  if (file == nullptr) return 0;
  double quota = 0, period = 0;
  const int fields = std::fscanf(file, "%lf %lf", &quota, &period);
  std::fclose(file);
  return fields == 2 && period > 0 ? std::max(1, static_cast<int>(std::ceil(quota / period))) : 0;
}

}  // namespace

int UsableCores() {
  cpu_set_t set;
  int cores = static_cast<int>(std::thread::hardware_concurrency());
  if (sched_getaffinity(0, sizeof(set), &set) == 0) cores = CPU_COUNT(&set);
  const int quota = QuotaCores();
  if (quota > 0) cores = std::min(cores, quota);
  return std::max(1, cores);
}

Pool::Pool(int threads) {
  workers_.reserve(static_cast<size_t>(threads - 1));
  try {
    for (int worker = 1; worker < threads; ++worker) {
      workers_.emplace_back([this, worker] { Work(worker); });
    }
  } catch (const std::system_error&) {
    // The system gives no more threads: those that run do the work.
  }
}

Pool::~Pool() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stop_.store(true);
  }
  wake_.notify_all();
  for (auto& worker : workers_) worker.join();
}

void Pool::Run(int64_t tasks, Fn fn, void* arg) {
  if (tasks <= 1 || workers_.empty()) {
    for (int64_t task = 0; task < tasks; ++task) fn(arg, task, 0);
    return;
  }
  const uint32_t epoch = static_cast<uint32_t>(ticket_.load(std::memory_order_relaxed) >> 32) + 2;
  // Release, field by field: whoever reads one of the new fields also sees that the old ticket is gone.
  ticket_.store(static_cast<uint64_t>(epoch - 1) << 32, std::memory_order_seq_cst);
  fn_.store(fn, std::memory_order_release);
  arg_.store(arg, std::memory_order_release);
  tasks_.store(static_cast<uint32_t>(tasks), std::memory_order_release);
  done_.store(0, std::memory_order_relaxed);
  ticket_.store(static_cast<uint64_t>(epoch) << 32, std::memory_order_seq_cst);
  if (const int parked = parked_.load(std::memory_order_seq_cst); parked > 0) {
    std::lock_guard<std::mutex> lock(mutex_);
    for (int64_t i = std::min<int64_t>(parked, tasks - 1); i > 0; --i) wake_.notify_one();
  }
  RunClaimed(epoch, 0);
  for (int spins = 0; done_.load(std::memory_order_acquire) != static_cast<uint32_t>(tasks); ++spins) {
    if (spins < 4096) {
      Pause();
    } else {
      sched_yield();
    }
  }
}

void Pool::RunClaimed(uint32_t epoch, int worker) {
  for (;;) {
    uint64_t ticket = ticket_.load(std::memory_order_seq_cst);
    const Fn fn = fn_.load(std::memory_order_seq_cst);
    void* arg = arg_.load(std::memory_order_seq_cst);
    const uint32_t tasks = tasks_.load(std::memory_order_seq_cst);
    if (static_cast<uint32_t>(ticket >> 32) != epoch) return;
    const uint32_t task = static_cast<uint32_t>(ticket);
    if (task >= tasks) return;
    // Success proves that the job was not replaced while its fields were read: the word would have changed.
    if (!ticket_.compare_exchange_weak(ticket, ticket + 1, std::memory_order_seq_cst)) continue;
    fn(arg, task, worker);
    done_.fetch_add(1, std::memory_order_release);
  }
}

void Pool::Work(int worker) {
  uint32_t seen = 0;
  while (WaitForEpoch(seen)) {
    const uint32_t epoch = static_cast<uint32_t>(ticket_.load(std::memory_order_seq_cst) >> 32);
    if (epoch & 1) continue;
    RunClaimed(epoch, worker);
    seen = epoch;
  }
}

// False when the pool stops.
bool Pool::WaitForEpoch(uint32_t seen) {
  const auto changed = [&] { return static_cast<uint32_t>(ticket_.load(std::memory_order_seq_cst) >> 32) != seen; };
  const auto deadline = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < kPausesPerClock; ++i) {
      if (changed()) return !stop_.load();
      Pause();
    }
  } while (std::chrono::steady_clock::now() < deadline);
  std::unique_lock<std::mutex> lock(mutex_);
  parked_.fetch_add(1, std::memory_order_seq_cst);
  wake_.wait(lock, [&] { return stop_.load() || changed(); });
  parked_.fetch_sub(1, std::memory_order_seq_cst);
  return !stop_.load();
}

}  // namespace maskserve
