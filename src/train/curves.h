// The curves of a run as one HTML page that needs nothing else: inline SVG, no script.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace hadal::train {

struct Series {
  std::string name;
  std::vector<double> x, y;
};

struct Chart {
  std::string title;
  std::vector<Series> series;  // at most 8
  bool log_y = false;          // values <= 0 are left out
};

// One chart, 640 x 260. Long series are drawn as means over equal stretches of x.
std::string svg(const Chart& chart, std::string_view x_label);

// The page of a log (docs/training.md, "The log"): a chart per quantity that the log holds.
// kCorrupt: no step in it.
Result<std::string> curves_page(std::string_view log, std::string_view title);

}  // namespace hadal::train
