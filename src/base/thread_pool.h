// Fork-join over N threads: run(n, body) calls body(task, thread) once for every task in [0, n), on the
// caller's thread and N-1 workers, and returns when all are done. Which thread takes a task is not fixed, so
// a body's result must not depend on it.
//
// Workers spin for some tens of microseconds between calls (a decode step has hundreds of joins), then sleep:
// an unbounded spin starves everybody else on a small machine. One caller at a time; run() does not nest.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <type_traits>
#include <vector>

namespace hadal {

class ThreadPool {
 public:
  explicit ThreadPool(int n_threads);  // >= 1
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return static_cast<int>(workers_.size()) + 1; }
  static int default_threads();  // the cores this process may use

  template <class Body>
  void run(int64_t n_tasks, const Body& body) {
    run_erased(
        n_tasks, [](const void* b, int64_t task, int thread) { (*static_cast<const Body*>(b))(task, thread); }, &body);
  }

 private:
  using Call = void (*)(const void* body, int64_t task, int thread);
  void run_erased(int64_t n_tasks, Call call, const void* body);
  void work(int thread);
  void take_tasks(int thread);

  std::vector<std::thread> workers_;
  alignas(64) std::atomic<uint32_t> generation_{0};  // bumped to start a call; workers wait on it
  alignas(64) std::atomic<int64_t> next_{0};         // next task to take
  alignas(64) std::atomic<uint32_t> running_{0};     // workers not yet done with this call
  std::atomic<bool> stop_{false};
  int64_t n_tasks_ = 0;
  Call call_ = nullptr;
  const void* body_ = nullptr;
};

}  // namespace hadal
