#include "model/rope.h"

#include <algorithm>
#include <cmath>

namespace hadal::model {

RopeTable RopeTable::make(const checkpoint::ModelConfig& config, bool compressed) {
  const int dim = config.rope_head_dim, n = dim / 2;
  const double base = compressed ? config.compress_rope_theta : config.rope_theta;
  RopeTable table;
  table.frequencies_.resize(static_cast<size_t>(n));
  float low = 0, high = 0;
  const bool yarn = compressed && config.original_seq_len > 0;
  if (yarn) {
    const auto correction_dim = [&](double rotations) {
      return dim * std::log(static_cast<double>(config.original_seq_len) / (rotations * 2 * M_PI)) /
             (2 * std::log(base));
    };
    const double lo = std::max(std::floor(correction_dim(config.beta_fast)), 0.0);
    double hi = std::min(std::ceil(correction_dim(config.beta_slow)), static_cast<double>(dim - 1));
    if (lo == hi) hi += 0.001;
    low = static_cast<float>(lo);
    high = static_cast<float>(hi - lo);  // the ramp's length
  }
  for (int i = 0; i < n; ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(dim);
    float f = 1.0f / static_cast<float>(std::pow(base, static_cast<double>(exponent)));
    if (yarn) {
      const float ramp = std::clamp((static_cast<float>(i) - low) / high, 0.0f, 1.0f);
      const float smooth = 1.0f - ramp;
      f = f / static_cast<float>(config.rope_factor) * (1.0f - smooth) + f * smooth;
    }
    table.frequencies_[static_cast<size_t>(i)] = f;
  }
  return table;
}

void RopeTable::angles(int64_t position, float* cos, float* sin) const {
  for (size_t i = 0; i < frequencies_.size(); ++i) {
    const float angle = static_cast<float>(position) * frequencies_[i];
    cos[i] = static_cast<float>(std::cos(static_cast<double>(angle)));
    sin[i] = static_cast<float>(std::sin(static_cast<double>(angle)));
  }
}

}  // namespace hadal::model
