#include "base/thread_pool.h"

#include <sched.h>

#include <algorithm>
#include <chrono>

#include "base/check.h"

namespace hadal {
namespace {

constexpr auto kSpin = std::chrono::microseconds(40);

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// Waits until `value` differs from `old`: spins a little, then sleeps in the kernel. Threads past the number of
// cores do not spin: they would keep a core from the very thread that they wait for.
void wait_for_change(std::atomic<uint32_t>& value, uint32_t old, int thread) {
  static const int n_cores = ThreadPool::default_threads();
  const auto limit = std::chrono::steady_clock::now() + (thread < n_cores ? kSpin : std::chrono::microseconds(0));
  do {
    for (int i = 0; i < 64; ++i) {
      if (value.load(std::memory_order_acquire) != old) return;
      pause();
    }
  } while (std::chrono::steady_clock::now() < limit);
  value.wait(old, std::memory_order_acquire);
}

}  // namespace

int ThreadPool::default_threads() {
  cpu_set_t cores;
  CPU_ZERO(&cores);
  if (sched_getaffinity(0, sizeof cores, &cores) == 0) return std::max(1, CPU_COUNT(&cores));
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

ThreadPool::ThreadPool(int n_threads) {
  HADAL_CHECK(n_threads >= 1);
  for (int i = 1; i < n_threads; ++i) workers_.emplace_back([this, i] { work(i); });
}

ThreadPool::~ThreadPool() {
  stop_.store(true);
  generation_.fetch_add(1);
  generation_.notify_all();
  for (auto& worker : workers_) worker.join();
}

void ThreadPool::take_tasks(int thread) {
  for (;;) {
    const int64_t task = next_.fetch_add(1, std::memory_order_relaxed);
    if (task >= n_tasks_) return;
    call_(body_, task, thread);
  }
}

void ThreadPool::run_erased(int64_t n_tasks, Call call, const void* body) {
  if (n_tasks <= 0) return;
  if (workers_.empty() || n_tasks == 1) {
    for (int64_t task = 0; task < n_tasks; ++task) call(body, task, 0);
    return;
  }
  HADAL_CHECK(running_.load(std::memory_order_relaxed) == 0);  // a body that runs the pool itself would wait for itself
  n_tasks_ = n_tasks;
  call_ = call;
  body_ = body;
  next_.store(0, std::memory_order_relaxed);
  running_.store(static_cast<uint32_t>(workers_.size()), std::memory_order_relaxed);
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
  take_tasks(0);
  for (uint32_t left; (left = running_.load(std::memory_order_acquire)) != 0;)
    wait_for_change(running_, left, size() - 1);
}

void ThreadPool::work(int thread) {
  uint32_t seen = 0;
  for (;;) {
    wait_for_change(generation_, seen, thread);
    seen = generation_.load(std::memory_order_acquire);
    if (stop_.load()) return;
    take_tasks(thread);
    if (running_.fetch_sub(1, std::memory_order_acq_rel) == 1) running_.notify_one();
  }
}

}  // namespace hadal
