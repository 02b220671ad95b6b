#include "serve/stats.h"

#include <unistd.h>

#include <fstream>

namespace hadal::serve {
namespace {

constexpr double kSpan = 3;  // seconds

}  // namespace

void Rate::sample(double now, int64_t total) {
  samples_.push_back({now, total});
  while (samples_.size() > 2 && samples_[1].at <= now - kSpan) samples_.pop_front();
}

double Rate::per_second() const {
  if (samples_.size() < 2) return 0;
  const Sample &first = samples_.front(), &last = samples_.back();
  return last.at > first.at ? static_cast<double>(last.total - first.total) / (last.at - first.at) : 0;
}

int64_t resident_bytes() {
  std::ifstream file("/proc/self/statm");
  int64_t size = 0, resident = 0;
  if (!(file >> size >> resident)) return 0;
  return resident * sysconf(_SC_PAGESIZE);
}

}  // namespace hadal::serve
