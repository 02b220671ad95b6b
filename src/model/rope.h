// Rotary position embedding (architecture report A.4, A.14): frequency tables with YaRN per layer kind, and
// the cosines and sines of positions. Everything follows the official precision: float32 frequencies, float32
// angle product; cos and sin of that angle in double, rounded once.
#pragma once

#include <cstdint>
#include <vector>

#include "checkpoint/config.h"

namespace hadal::model {

class RopeTable {
 public:
  // compressed: layers with ratio != 0 (base compress_rope_theta, YaRN); else base rope_theta, no YaRN.
  static RopeTable make(const checkpoint::ModelConfig& config, bool compressed);

  int n_pairs() const { return static_cast<int>(frequencies_.size()); }
  const std::vector<float>& frequencies() const { return frequencies_; }
  void angles(int64_t position, float* cos, float* sin) const;  // n_pairs() each

 private:
  std::vector<float> frequencies_;
};

}  // namespace hadal::model
