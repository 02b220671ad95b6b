// Prices at every edge of their history, as models/prices.json has it; tables that are refused; exact sums.

#include "serve/prices.h"

#include <gtest/gtest.h>

#include "base/utc.h"

namespace hadal::serve {
namespace {

const PriceTable& table() {
  static const PriceTable kTable = PriceTable::load(HADAL_SOURCE_DIR "/models/prices.json").value();
  return kTable;
}

// hit/miss/output in USD per million tokens
std::string price(const std::string& model, const std::string& time) {
  const auto price = table().at(model, parse_utc(time).value());
  if (!price) return "none";
  return usd_text(price->hit * 1'000'000) + "/" + usd_text(price->miss * 1'000'000) + "/" +
         usd_text(price->output * 1'000'000);
}

TEST(Prices, ChangeAtTheirSecond) {
  const std::string flash = "deepseek-v4-flash", pro = "deepseek-v4-pro";
  EXPECT_EQ(price(flash, "2026-04-23T23:59:59Z"), "none");
  EXPECT_EQ(price(flash, "2026-04-24T00:00:00Z"), "0.028/0.14/0.28");
  EXPECT_EQ(price(flash, "2026-04-26T12:14:59Z"), "0.028/0.14/0.28");
  EXPECT_EQ(price(flash, "2026-04-26T12:15:00Z"), "0.0028/0.14/0.28");
  EXPECT_EQ(price(flash, "2026-08-16T15:59:59Z"), "0.0028/0.14/0.28");
  EXPECT_EQ(price(flash, "2026-08-16T16:00:00Z"), "0.007/0.22/0.66");
  EXPECT_EQ(price(flash, "2026-09-10T03:59:59Z"), "0.014/0.44/1.32");  // the last peak of the old prices
  EXPECT_EQ(price(flash, "2026-09-10T04:00:00Z"), "0.003/0.15/0.60");
  // What was charged, not the list price.
  EXPECT_EQ(price(pro, "2026-04-24T00:00:00Z"), "0.03625/0.435/0.87");
  EXPECT_EQ(price(pro, "2026-04-26T12:14:59Z"), "0.03625/0.435/0.87");
  EXPECT_EQ(price(pro, "2026-04-26T12:15:00Z"), "0.003625/0.435/0.87");
  EXPECT_EQ(price(pro, "2026-05-31T15:59:00Z"), "0.003625/0.435/0.87");
  EXPECT_EQ(price(pro, "2026-08-16T15:59:59Z"), "0.003625/0.435/0.87");
  EXPECT_EQ(price(pro, "2026-08-16T16:00:00Z"), "0.022/0.66/1.98");
}

TEST(Prices, PeaksHaveEdges) {
  const std::string normal = "0.007/0.22/0.66", peak = "0.014/0.44/1.32";
  for (const auto& [time, expected] : std::vector<std::pair<std::string, std::string>>{{"00:59:59", normal},
                                                                                       {"01:00:00", peak},
                                                                                       {"03:59:59", peak},
                                                                                       {"04:00:00", normal},
                                                                                       {"05:59:59", normal},
                                                                                       {"06:00:00", peak},
                                                                                       {"09:59:59", peak},
                                                                                       {"10:00:00", normal},
                                                                                       {"23:59:59", normal},
                                                                                       {"00:00:00", normal}}) {
    EXPECT_EQ(price("deepseek-v4-flash", "2026-08-20T" + time + "Z"), expected) << time;  // a Thursday
    EXPECT_EQ(price("deepseek-v4-flash", "2026-08-22T" + time + "Z"), expected) << time;  // a Saturday: daily then
  }
}

TEST(Prices, WeekendsAndHolidaysHaveNoPeakSinceSeptember) {
  const std::string normal = "0.003/0.15/0.60", peak = "0.006/0.30/1.20";
  for (const auto& [date, expected] :
       std::vector<std::pair<std::string, std::string>>{{"2026-09-10", peak},  // a Thursday, at 06:00
                                                        {"2026-09-11", peak},
                                                        {"2026-09-12", normal},  // Friday, Saturday
                                                        {"2026-09-13", normal},
                                                        {"2026-09-14", peak},  // Sunday, Monday
                                                        {"2026-09-24", peak},
                                                        {"2026-09-25", normal},  // the middle of autumn
                                                        {"2026-09-28", peak},
                                                        {"2026-09-30", peak},
                                                        {"2026-10-01", normal},
                                                        {"2026-10-07", normal},
                                                        {"2026-10-08", peak}}) {  // national days
    EXPECT_EQ(price("deepseek-v4-flash", date + "T06:00:00Z"), expected) << date;
    EXPECT_EQ(price("deepseek-flash", date + "T09:59:59Z"), expected) << date;
    EXPECT_EQ(price("deepseek-flash", date + "T10:00:00Z"), normal) << date;
  }
  EXPECT_EQ(price("deepseek-v4-pro", "2026-09-12T02:00:00Z"), "0.022/0.66/1.98");
  EXPECT_EQ(price("deepseek-v4-pro", "2026-09-14T02:00:00Z"), "0.044/1.32/3.96");
}

TEST(Prices, NamesLeadToPrices) {
  EXPECT_EQ(price("DeepSeek-Pro", "2026-05-01"), price("deepseek-v4-pro", "2026-05-01"));
  EXPECT_EQ(price("deepseek-chat", "2026-04-23T23:59:59Z"), "0.028/0.28/0.42");
  EXPECT_EQ(price("deepseek-chat", "2026-04-24T00:00:00Z"), "0.028/0.14/0.28");
  EXPECT_EQ(price("deepseek-chat", "2025-09-28T23:59:59Z"), "0.014/0.14/0.28");
  // Retired elsewhere, served here: at Flash's price, and at that of its day.
  EXPECT_EQ(price("deepseek-reasoner", "2026-07-24T15:59:00Z"), "0.0028/0.14/0.28");
  EXPECT_EQ(price("deepseek-reasoner", "2026-11-20T07:00:00Z"), "0.006/0.30/1.20");
  EXPECT_EQ(price("hadal-nano", "2026-05-01"), "none");  // it is no model of DeepSeek's
  EXPECT_EQ(price("deepseek-flash", "2026-09-10T03:59:59Z"), "none");
}

TEST(Prices, WhatHasNoRowYetHasTheDefault) {
  const auto table = PriceTable::parse(R"({"default": "A", "models": {
      "a": [{"from": "2026-01-01", "hit": 1, "miss": 2, "output": 3}],
      "b": [{"from": "2026-03-01", "hit": 4, "miss": 5, "output": 6}]}})",
                                       "f")
                         .value();
  const auto miss = [&](const char* model, const char* time) {
    const auto price = table.at(model, parse_utc(time).value());
    return price ? price->miss / 1'000'000 : -1;
  };
  EXPECT_EQ(miss("B", "2026-03-01"), 5);
  EXPECT_EQ(miss("b", "2026-02-01"), 2);
  EXPECT_EQ(miss("other", "2026-03-01"), 2);
  EXPECT_EQ(miss("other", "2025-12-31"), -1);
  EXPECT_TRUE(table.has("A"));
  EXPECT_FALSE(table.has("other"));
  EXPECT_EQ(table.names(), "a, b");
}

TEST(Prices, CostsAreExact) {
  const Price pro = table().at("deepseek-v4-pro", parse_utc("2026-06-01").value()).value();
  const Cost cost = pro.of(1000, 128, 77);
  EXPECT_EQ(usd_text(cost.hit), "0.000000464");
  EXPECT_EQ(usd_text(cost.miss), "0.00037932");
  EXPECT_EQ(usd_text(cost.output), "0.00006699");
  EXPECT_EQ(usd_text(cost.total()), "0.000446774");
  EXPECT_EQ(pro.of(1'000'000, 0, 0).total(), kUsd * 435 / 1000);
  PicoUsd sum = 0;
  for (int i = 0; i < 1'000'000; ++i) sum += pro.of(1, 1, 0).total();
  EXPECT_EQ(usd_text(sum), "0.003625");
  EXPECT_EQ(usd_text(0), "0.00");
  EXPECT_EQ(usd_text(1), "0.000000000001");
  EXPECT_EQ(usd_text(5 * kUsd), "5.00");
  EXPECT_EQ(usd_text(-kUsd / 4), "-0.25");
}

TEST(Prices, WrongTablesSayWhere) {
  const std::string row = R"("hit": 1, "miss": 2, "output": 3)";
  const auto models = [](const std::string& rows) { return R"({"models": {"m": [)" + rows + "]}}"; };
  const auto from = [](const std::string& time, const std::string& rest) {
    return R"({"from": ")" + time + R"(", )" + rest + "}";
  };
  for (const auto& [text, expected] : std::vector<std::pair<std::string, std::string>>{
           {"{", "f: "},
           {"[]", "f: models: expected an object, found nothing"},
           {R"({"models": {"m": 3}})", "f: models.m: expected a list of rows, found 3"},
           {models("3"), "f: models.m[0].from: expected a time like \"2026-09-10T04:00:00Z\", found nothing"},
           {models(from("2026-02-30", row)), "found \"2026-02-30\""},
           {models(from("2026-01-02", row) + "," + from("2026-01-02", row)), "f: models.m[1].from: expected a later"},
           {models(from("2026-01-02", R"("hit": 1, "miss": 2)")), "f: models.m[0].output: expected USD"},
           {models(from("2026-01-02", R"("hit": -1, "miss": 2, "output": 3)")), "f: models.m[0].hit: "},
           {models(from("2026-01-02", R"("hit": "1", "miss": 2, "output": 3)")), "found \"1\""},
           {models(from("2026-01-02", R"("hit": 0.0000001, "miss": 2, "output": 3)")), "at most six decimals"},
           {models(from("2026-01-02", R"("hit": 1e-10, "miss": 2, "output": 3)")), "at most six decimals"},
           {models(from("2026-01-02", R"("hit": NaN, "miss": 2, "output": 3)")), "f: models.m[0].hit: "},
           {models(from("2026-01-02", R"("hit": 1e300, "miss": 2, "output": 3)")), "f: models.m[0].hit: "},
           {models(from("2026-01-02", row + R"(, "charged": {"hit": 1})")), "f: models.m[0].charged.miss: "},
           {models(from("2026-01-02", row + R"(, "peak": {"hit": 1})")), "f: models.m[0].peak.miss: "},
           {models(from("2026-01-02", row + R"(, "schedule": "x", "peak": {)" + row + "}")), "one of the schedules"},
           {models(from("2026-01-02", R"("alias_of": "n")")), "with prices of its own, found \"n\""},
           {models(from("2026-01-02", R"("alias_of": "m")")), "with prices of its own, found \"m\""},
           {R"({"models": {}, "default": "x"})", "f: default: expected the name of a model of the table, found \"x\""},
           {R"({"models": {}, "currency": "CNY"})", "f: currency: expected \"USD\", found \"CNY\""},
           {R"({"models": {}, "holidays": ["2026-1-1"]})", "f: holidays: expected dates"},
           {R"({"models": {}, "schedules": {"s": {"peak_utc": [["04:00", "01:00"]], "days": "all"}}})",
            "f: schedules.s.peak_utc: expected two times of one day, in order"},
           {R"({"models": {}, "schedules": {"s": {"peak_utc": [["01:00", "25:00"]], "days": "all"}}})", "peak_utc"},
           {R"({"models": {}, "schedules": {"s": {"peak_utc": [], "days": "Fri-Mon"}}})", "f: schedules.s.days: "}}) {
    const auto parsed = PriceTable::parse(text, "f");
    ASSERT_FALSE(parsed.ok()) << text;
    EXPECT_TRUE(parsed.error().message.starts_with("f: ")) << parsed.error().message;
    EXPECT_NE(parsed.error().message.find(expected), std::string::npos) << parsed.error().message;
    EXPECT_EQ(parsed.error().message.find('\n'), std::string::npos);
  }
}

}  // namespace
}  // namespace hadal::serve
