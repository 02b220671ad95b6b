#include "sample/stop.h"

#include <algorithm>

namespace hadal::sample {

StopMatcher::StopMatcher(std::vector<std::string> stops) {
  for (std::string& text : stops) {
    if (text.empty()) continue;
    std::vector<size_t> shorter(text.size() + 1, 0);
    for (size_t n = 1, k = 0; n < text.size(); ++n) {
      while (k > 0 && text[n] != text[k]) k = shorter[k];
      if (text[n] == text[k]) ++k;
      shorter[n + 1] = k;
    }
    stops_.push_back({std::move(text), std::move(shorter)});
  }
}

std::string StopMatcher::feed(std::string_view text) {
  if (stopped()) return "";
  if (stops_.empty()) return std::string(text);
  held_ += text;
  size_t keep = 0;  // the longest suffix that begins some stop
  for (size_t i = held_.size() - text.size(); i < held_.size(); ++i) {
    const Stop* longest = nullptr;  // of the stops that end here, the one that began first
    keep = 0;
    for (Stop& stop : stops_) {
      size_t& n = stop.matched;
      while (n > 0 && held_[i] != stop.text[n]) n = stop.shorter[n];
      if (held_[i] == stop.text[n]) ++n;
      if (n == stop.text.size() && (!longest || n > longest->text.size())) longest = &stop;
      keep = std::max(keep, n);
    }
    if (longest) {
      matched_ = longest->text;
      std::string out = held_.substr(0, i + 1 - matched_.size());
      held_.clear();
      return out;
    }
  }
  if (text.empty()) return "";
  std::string out = held_.substr(0, held_.size() - keep);
  held_.erase(0, out.size());
  return out;
}

std::string StopMatcher::finish() {
  std::string rest;
  std::swap(rest, held_);
  for (Stop& stop : stops_) stop.matched = 0;
  return stopped() ? "" : rest;
}

}  // namespace hadal::sample
