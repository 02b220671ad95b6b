// Before a model is loaded: does it fit, and what happens if not; and the warm-up of its maps.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>

#include "checkpoint/checkpoint.h"
#include "checkpoint/summary.h"

namespace hadal::checkpoint {

// Memory this process may still use without swapping: MemAvailable, or less where its control group or one above
// limits it. Page cache counts as available, the mapped weights' own included. root: where /proc and /sys lie (tests).
int64_t available_memory(const std::string& root = "");

struct Plan {
  enum class Verdict { kFits, kPages, kRefuse };
  Verdict verdict = Verdict::kFits;
  int64_t weight_bytes = 0;
  int64_t working_bytes = 0;  // states and buffers: must be resident
  int64_t available_bytes = 0;
  double seconds_per_token = 0;  // kPages: reading what does not stay, at kAssumedDiskRate
  std::string sentence;          // one line for people
};

inline constexpr double kAssumedDiskRate = 1e9;  // bytes per second

Plan make_plan(const Summary& summary, int64_t working_bytes, int64_t available_bytes);

std::string human_bytes(int64_t bytes);  // "3.43 GiB"

// Faults the maps in, in large steps: a cold map touched page by page reads at a quarter of the disk's speed.
// Stops after max_bytes, or when *cancel is set. progress(done, total) in bytes.
void warm_up(const Checkpoint& checkpoint, int64_t max_bytes, const std::atomic<bool>* cancel,
             const std::function<void(int64_t, int64_t)>& progress);

}  // namespace hadal::checkpoint
