// What goes to people: stderr, and only decoration when it is a terminal.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"

namespace hadal::cli {

int report_failure(const Error& error);  // "hadal: message" on stderr; returns exit status 1
bool stderr_is_terminal();
bool stdout_is_terminal();

// Text for a terminal: control characters, which a model can produce like any others, as U+FFFD.
std::string printable(std::string_view text);

// A line that is rewritten in place; silent when stderr is no terminal. Erased at the end.
class ProgressBar {
 public:
  explicit ProgressBar(std::string label) : label_(std::move(label)) {}
  ~ProgressBar() { clear(); }
  void update(int64_t done, int64_t total);
  void clear();

 private:
  std::string label_;
  bool shown_ = false;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now(), last_{};
};

}  // namespace hadal::cli
