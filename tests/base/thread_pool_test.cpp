#include "base/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <vector>

namespace hadal {
namespace {

TEST(ThreadPool, RunsEveryTaskOnceAndReturnsWhenAllAreDone) {
  for (const int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.size(), threads);
    for (int call = 0; call < 300; ++call) {
      const int64_t n = call % 37;
      std::vector<int> done(static_cast<size_t>(n), 0);  // not atomic: each task has its own
      std::atomic<int> wrong_thread{0};
      pool.run(n, [&](int64_t task, int thread) {
        ++done[static_cast<size_t>(task)];
        if (thread < 0 || thread >= threads) ++wrong_thread;
      });
      for (const int times : done) EXPECT_EQ(times, 1);
      EXPECT_EQ(wrong_thread, 0);
    }
  }
}

TEST(ThreadPool, WorkersWakeAfterTheySlept) {
  ThreadPool pool(3);
  std::atomic<int64_t> sum{0};
  for (int call = 0; call < 5; ++call) {
    pool.run(1000, [&](int64_t task, int) { sum += task; });
    // Long enough for workers to fall asleep: a task of the caller alone.
    pool.run(1, [&](int64_t, int) {
      volatile int64_t spin = 0;
      for (int i = 0; i < 2'000'000; ++i) spin = spin + 1;
    });
  }
  EXPECT_EQ(sum, 5 * 1000 * 999 / 2);
}

TEST(ThreadPool, ManyMoreThreadsThanCoresAndTasksOfOneCall) {
  ThreadPool pool(40);
  for (int call = 0; call < 50; ++call) {
    std::atomic<int64_t> sum{0};
    pool.run(1 + call % 3, [&](int64_t task, int) { sum += task + 1; });
    const int64_t n = 1 + call % 3;
    EXPECT_EQ(sum, n * (n + 1) / 2);
  }
}

TEST(ThreadPool, ATaskThatRunsThePoolIsCaught) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(
      {
        ThreadPool pool(2);
        pool.run(2, [&](int64_t, int) { pool.run(2, [](int64_t, int) {}); });
      },
      "running_");
  ThreadPool alone(1);  // no workers: nothing to wait for
  int n = 0;
  alone.run(2, [&](int64_t, int) { alone.run(3, [&](int64_t, int) { ++n; }); });
  EXPECT_EQ(n, 6);
}

}  // namespace
}  // namespace hadal
