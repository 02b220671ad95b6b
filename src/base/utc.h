// Times as people and files write them, in UTC: "2026-09-10" (its first second) and "2026-09-10T04:00:00Z".
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace hadal {

inline constexpr int64_t kSecondsOfDay = 86400;

std::optional<int64_t> parse_utc(std::string_view text);  // seconds since 1970; nullopt: neither form, or no such date
std::string utc_date(int64_t seconds);                    // "2026-09-10"
int weekday_of_day(int64_t days);                         // days since 1970; 0: Monday

}  // namespace hadal
