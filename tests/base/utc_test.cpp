#include "base/utc.h"

#include <gtest/gtest.h>

namespace hadal {
namespace {

TEST(Utc, ReadsDatesAndTimes) {
  EXPECT_EQ(parse_utc("1970-01-01"), 0);
  EXPECT_EQ(parse_utc("1970-01-01T00:00:01Z"), 1);
  EXPECT_EQ(parse_utc("2026-09-10T04:00:00Z"), 1789012800);
  EXPECT_EQ(parse_utc("2024-02-29"), 1709164800);
  EXPECT_EQ(parse_utc("1969-12-31T23:59:59Z"), -1);
  for (const char* wrong : {"", "2026", "2026-9-10", "2026-02-29", "2026-13-01", "2026-00-10", "2026-09-10T24:00:00Z",
                            "2026-09-10T04:60:00Z", "2026-09-10 04:00:00Z", "2026-09-10T04:00:00", "2026-09-1x",
                            "2026-09-10T04:00:00+", "+026-09-10", "2026-09-10T-4:00:00Z"})
    EXPECT_EQ(parse_utc(wrong), std::nullopt) << wrong;
}

TEST(Utc, KnowsDatesAndWeekdays) {
  for (const char* date : {"1969-12-31", "1970-01-01", "2000-02-29", "2026-11-28"})
    EXPECT_EQ(utc_date(*parse_utc(date)), date);
  EXPECT_EQ(utc_date(*parse_utc("2026-11-28T23:59:59Z")), "2026-11-28");
  EXPECT_EQ(weekday_of_day(0), 3);  // a Thursday
  EXPECT_EQ(weekday_of_day(-4), 6);
  EXPECT_EQ(weekday_of_day(*parse_utc("2026-11-28") / kSecondsOfDay), 5);  // a Saturday
}

}  // namespace
}  // namespace hadal
