// What a server did, for Prometheus (text format 0.0.4): our names with the label `model`, and beside them those that
// dashboards made for vLLM look for, with `model_name` (api.md 3.2).
//
// Threads: any.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <utility>

#include "serve/accounts.h"
#include "serve/scheduler.h"

namespace hadal::serve {

// Seconds of one answer, from the arrival of its request; negative: it did not come so far.
struct Timing {
  double started = -1, first_token = -1, last_token = -1, done = -1;
};

class Metrics {
 public:
  void request(const std::string& endpoint, int status);
  void token_after(double seconds);  // since the one before it in its answer
  // reason: stop, length, tool_calls, error, cancelled.
  void finished(const std::string& reason, const Timing& timing, int64_t reasoning_tokens, int64_t tool_calls,
                int64_t repaired);

  struct Now {
    Counters counters;
    std::string model;
    int64_t state_bytes_limit = 0, resident_bytes = 0;
    std::optional<cache::StoreCounters> store;
    Accounts::Seen accounts{};
  };
  std::string text(const Now& now) const;

 private:
  static constexpr std::array kBounds{.001, .0025, .005, .01, .025, .05, .1,   .25,  .5,
                                      1.,   2.5,   5.,   10., 25.,  50., 100., 250., 500.};
  struct Histogram {
    std::array<int64_t, kBounds.size() + 1> counts{};
    double sum = 0;
    void add(double seconds);
  };
  enum Kind { kQueue, kPrefill, kDecode, kFirstToken, kBetween, kWhole, kKinds };

  mutable std::mutex mutex_;
  std::map<std::pair<std::string, int>, int64_t> requests_;
  std::map<std::string, int64_t> finished_;
  std::array<Histogram, kKinds> times_;
  int64_t reasoning_tokens_ = 0, tool_calls_ = 0, repaired_ = 0;
};

}  // namespace hadal::serve
