// What the live view of the page shows beside the scheduler's counters.
#pragma once

#include <cstdint>
#include <deque>

namespace hadal::serve {

// A count that grows, as a rate over the last seconds. One thread.
class Rate {
 public:
  void sample(double now, int64_t total);
  double per_second() const;

 private:
  struct Sample {
    double at;
    int64_t total;
  };
  std::deque<Sample> samples_;
};

int64_t resident_bytes();  // of this process; 0 where the system does not tell

}  // namespace hadal::serve
