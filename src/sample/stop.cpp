#include "sample/stop.h"

#include <algorithm>

namespace hadal::sample {

StopMatcher::StopMatcher(std::vector<std::string> stops) : stops_(std::move(stops)) {
  std::erase(stops_, "");
}

std::string StopMatcher::feed(std::string_view text) {
  if (stopped()) return "";
  if (stops_.empty()) return std::string(text);
  std::string out;
  for (const char c : text) {
    held_ += c;
    const std::string* longest = nullptr;  // of the stops that end here, the one that began first
    for (const std::string& stop : stops_)
      if (held_.ends_with(stop) && (!longest || stop.size() > longest->size())) longest = &stop;
    if (longest) {
      matched_ = *longest;
      out.append(held_, 0, held_.size() - longest->size());
      held_.clear();
      return out;
    }
    // Keep the longest suffix that begins some stop.
    size_t keep = 0;
    for (const std::string& stop : stops_)
      for (size_t n = std::min(stop.size() - 1, held_.size()); n > keep; --n)
        if (std::string_view(held_).substr(held_.size() - n) == std::string_view(stop).substr(0, n)) {
          keep = n;
          break;
        }
    out.append(held_, 0, held_.size() - keep);
    held_.erase(0, held_.size() - keep);
  }
  return out;
}

std::string StopMatcher::finish() {
  std::string rest;
  std::swap(rest, held_);
  return stopped() ? "" : rest;
}

}  // namespace hadal::sample
