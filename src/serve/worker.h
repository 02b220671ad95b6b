// A thread for what would hold up the connections: jobs one after another, as they come.
//
// Threads: any.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <utility>

namespace hadal::serve {

class Worker {
 public:
  // most: bytes that may wait.
  explicit Worker(size_t most) : most_(most), thread_([this] { run(); }) {}
  ~Worker() {  // the job that runs is waited for, those that wait are dropped
    {
      const std::lock_guard lock(mutex_);
      over_ = true;
    }
    work_.notify_one();
    thread_.join();
  }
  Worker(const Worker&) = delete;

  // false: too much waits already. What comes to an idle worker never is.
  bool give(size_t bytes, std::function<void()> job) {
    {
      const std::lock_guard lock(mutex_);
      if (bytes_ > 0 && bytes_ + bytes > most_) return false;
      bytes_ += bytes;
      jobs_.emplace_back(bytes, std::move(job));
    }
    work_.notify_one();
    return true;
  }
  bool is_idle() const {
    const std::lock_guard lock(mutex_);
    return jobs_.empty();
  }
  bool is_here() const { return std::this_thread::get_id() == thread_.get_id(); }

 private:
  void run() {
    std::unique_lock lock(mutex_);
    while (true) {
      work_.wait(lock, [this] { return over_ || !jobs_.empty(); });
      if (over_) return;
      std::function<void()> job = std::move(jobs_.front().second);
      lock.unlock();
      job();
      job = nullptr;  // with what it holds
      lock.lock();
      bytes_ -= jobs_.front().first;  // it counts until it is done
      jobs_.pop_front();
    }
  }

  const size_t most_;
  mutable std::mutex mutex_;  // of what follows
  std::condition_variable work_;
  std::deque<std::pair<size_t, std::function<void()>>> jobs_;
  size_t bytes_ = 0;
  bool over_ = false;
  std::thread thread_;  // last: it uses the others
};

}  // namespace hadal::serve
