// Stop strings across token borders: text goes in piece by piece; what cannot be part of a stop any more comes
// out. The first stop that is complete ends the text, just before it; of two that end together, the one that
// began first.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace hadal::sample {

class StopMatcher {
 public:
  explicit StopMatcher(std::vector<std::string> stops);  // empty strings are dropped

  std::string feed(std::string_view text);  // text that is certain by now
  std::string finish();  // what was held back, when the text ends without a stop; the next is another text
  bool stopped() const { return !matched_.empty(); }
  const std::string& matched() const { return matched_; }

 private:
  // A stop, and for every length of its beginning the longest shorter one that this ends in (Knuth, Morris, Pratt):
  // work is linear in the text, whatever the stops.
  struct Stop {
    std::string text;
    std::vector<size_t> shorter;
    size_t matched = 0;  // how much of it the text ends in
  };
  std::vector<Stop> stops_;
  std::string held_;  // a suffix of the text that some stop begins with
  std::string matched_;
};

}  // namespace hadal::sample
