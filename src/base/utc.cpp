#include "base/utc.h"

#include <fmt/format.h>

#include <chrono>

namespace hadal {
namespace {

// The digits at `at`; -1: something else is among them.
int number(std::string_view text, size_t at, size_t digits) {
  int value = 0;
  for (const char c : text.substr(at, digits)) {
    if (c < '0' || c > '9') return -1;
    value = 10 * value + (c - '0');
  }
  return value;
}

}  // namespace

std::optional<int64_t> parse_utc(std::string_view text) {
  constexpr std::string_view kDate = "0000-00-00", kTime = "0000-00-00T00:00:00Z";
  if (text.size() != kDate.size() && text.size() != kTime.size()) return std::nullopt;
  for (size_t i = 0; i < text.size(); ++i)
    if (kTime[i] != '0' && text[i] != kTime[i]) return std::nullopt;
  const int year = number(text, 0, 4), month = number(text, 5, 2), day = number(text, 8, 2);
  if (year < 0 || month < 0 || day < 0) return std::nullopt;
  const std::chrono::year_month_day date{std::chrono::year(year), std::chrono::month(static_cast<unsigned>(month)),
                                         std::chrono::day(static_cast<unsigned>(day))};
  if (!date.ok()) return std::nullopt;
  const int64_t midnight = std::chrono::sys_days(date).time_since_epoch().count() * kSecondsOfDay;
  if (text.size() == kDate.size()) return midnight;
  const int hour = number(text, 11, 2), minute = number(text, 14, 2), second = number(text, 17, 2);
  if (hour < 0 || hour > 23 || minute < 0 || minute > 59 || second < 0 || second > 59) return std::nullopt;
  return midnight + hour * 3600 + minute * 60 + second;
}

std::string utc_date(int64_t seconds) {
  using namespace std::chrono;
  const year_month_day date(floor<days>(sys_seconds(std::chrono::seconds(seconds))));
  return fmt::format("{:04}-{:02}-{:02}", static_cast<int>(date.year()), static_cast<unsigned>(date.month()),
                     static_cast<unsigned>(date.day()));
}

int weekday_of_day(int64_t days) {
  constexpr int64_t kThursday = 3;  // 1970-01-01
  return static_cast<int>(((days + kThursday) % 7 + 7) % 7);
}

}  // namespace hadal
