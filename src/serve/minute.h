// How much of something came within the last minute, counted by the second. Time comes from the caller, in seconds of
// any clock that does not go back.
#pragma once

#include <cmath>
#include <cstdint>
#include <deque>

namespace hadal::serve {

class LastMinute {
 public:
  void add(double now, int64_t amount) {
    forget(now);
    const auto second = static_cast<int64_t>(std::floor(now));
    if (slots_.empty() || slots_.back().second < second) slots_.push_back({second, 0});
    slots_.back().amount += amount;
    sum_ += amount;
  }

  // Whole seconds until the sum is below the limit if nothing is added; 0: it is.
  int wait(double now, int64_t limit) {
    forget(now);
    int64_t sum = sum_;
    double until = now;
    for (auto slot = slots_.begin(); sum >= limit && slot != slots_.end(); ++slot) {
      sum -= slot->amount;
      until = gone(*slot);
    }
    return static_cast<int>(std::ceil(until - now));
  }

 private:
  struct Slot {
    int64_t second, amount;
  };
  void forget(double now) {
    while (!slots_.empty() && gone(slots_.front()) <= now) {
      sum_ -= slots_.front().amount;
      slots_.pop_front();
    }
  }
  // The end of its second may be what counts: a minute after that.
  static double gone(const Slot& slot) { return static_cast<double>(slot.second + 61); }

  std::deque<Slot> slots_;
  int64_t sum_ = 0;
};

}  // namespace hadal::serve
