// Shares with their uncertainty.
#pragma once

#include <cmath>
#include <cstdint>

namespace hadal::eval {

// Successes among trials, with the 95 % interval of Wilson's score: honest for small n and for shares near 0 and 1.
struct Share {
  int64_t hits = 0, n = 0;

  void count(bool hit) {
    hits += hit;
    ++n;
  }
  double value() const { return n ? static_cast<double>(hits) / static_cast<double>(n) : 0.0; }
  double low() const { return bound(-1); }
  double high() const { return bound(1); }

 private:
  double bound(int side) const {
    if (n == 0) return side < 0 ? 0.0 : 1.0;
    constexpr double z = 1.959963984540054;
    const double count = static_cast<double>(n), p = value();
    const double centre = p + z * z / (2 * count),
                 half = z * std::sqrt(p * (1 - p) / count + z * z / (4 * count * count));
    return (centre + side * half) / (1 + z * z / count);
  }
};

}  // namespace hadal::eval
