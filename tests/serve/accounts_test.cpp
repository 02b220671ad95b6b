// Limits on a virtual clock, balances, keys that change while the server runs.

#include "serve/accounts.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <cmath>
#include <fstream>
#include <random>

#include "base/file.h"
#include "base/output_file.h"
#include "tests/support/shared.h"

namespace hadal::serve {
namespace {

using testing::temp_dir;

TEST(LastMinute, WaitsAsLongAsItMust) {
  LastMinute minute;
  EXPECT_EQ(minute.wait(1000.5, 3), 0);
  minute.add(1000.5, 1);
  minute.add(1010.0, 1);
  EXPECT_EQ(minute.wait(1010.0, 3), 0);
  minute.add(1020.9, 1);
  EXPECT_EQ(minute.wait(1020.9, 3), 41);  // until 1061: 1000.99 would count until 1060.99
  EXPECT_EQ(minute.wait(1060.9, 3), 1);
  EXPECT_EQ(minute.wait(1061.0, 3), 0);
  EXPECT_EQ(minute.wait(1061.0, 2), 10);
  EXPECT_EQ(minute.wait(1061.0, 1), 20);
  EXPECT_EQ(minute.wait(2000, 1), 0);
}

// Whoever comes when it was said to him is let in; no minute holds more than the limit and one amount.
TEST(LastMinute, HoldsItsLimitAndItsWord) {
  for (unsigned seed = 0; seed < 20; ++seed) {
    std::mt19937 draw(seed);
    const int64_t limit = 5 + draw() % 50, most = 1 + draw() % 10;
    LastMinute minute;
    std::vector<std::pair<double, int64_t>> let_in;
    double now = static_cast<double>(draw() % 1000);
    for (int i = 0; i < 2000; ++i) {
      now += static_cast<double>(draw() % 3000) / 1000;
      if (const int wait = minute.wait(now, limit)) {
        EXPECT_LE(wait, 61);
        LastMinute later = minute;
        EXPECT_GT(later.wait(now + wait - 1 - 1e-6, limit), 0) << "a second too many";
        now += wait;
        EXPECT_EQ(minute.wait(now, limit), 0);
      }
      const int64_t amount = 1 + draw() % most;
      minute.add(now, amount);
      let_in.emplace_back(now, amount);
      int64_t sum = 0;
      for (auto it = let_in.rbegin(); it != let_in.rend() && it->first > now - 60; ++it) sum += it->second;
      EXPECT_LT(sum, limit + most);
    }
  }
}

struct Files {
  const std::string directory = temp_dir("accounts");
  const std::string keys = directory + "/keys", prices = directory + "/prices", ledger = directory + "/ledger";
  void write_keys(const std::string& more_of_a) const {
    ASSERT_TRUE(write_file(keys, R"({"name": "a", "sha256": ")" + key_hash("secret of a") + "\"" + more_of_a + "}\n" +
                                     R"({"name": "b", "sha256": ")" + key_hash("secret of b") + "\"}\n")
                    .ok());
  }
  void write_prices() const {
    ASSERT_TRUE(
        write_file(prices, R"({"models": {"m": [{"from": "2020-01-01", "hit": 1, "miss": 10, "output": 100}]}})").ok());
  }
};
std::unique_ptr<Accounts> open(AccountOptions options) {
  if (options.model.empty()) options.model = "m";
  return Accounts::open(options).value();
}
HttpRequest with(const std::string& authorization, const std::string& x_api_key = "") {
  HttpRequest request;
  if (!authorization.empty()) request.headers["authorization"] = authorization;
  if (!x_api_key.empty()) request.headers["x-api-key"] = x_api_key;
  return request;
}
std::string name_or_error(const Accounts& accounts, const HttpRequest& request) {
  const auto name = accounts.name_of(request);
  if (const auto* error = std::get_if<ApiError>(&name)) {
    EXPECT_EQ(error->status, 401);
    EXPECT_EQ(error->type, "authentication_error");
    EXPECT_EQ(error->code, "invalid_request_error");
    return error->message;
  }
  return std::get<std::string>(name);
}
LedgerRow row(const std::string& key, int64_t prompt, int64_t hit, int64_t output) {
  return {.time_ms = 1789012800000,
          .key = key,
          .model = "m",
          .finish = "stop",
          .prompt_tokens = prompt,
          .hit_tokens = hit,
          .output_tokens = output};
}

TEST(Accounts, AnyValidKeyIsEnough) {
  const Files files;
  files.write_keys("");
  const auto accounts = open({.keys = files.keys});
  const std::string a = "secret of a", b = "secret of b";
  EXPECT_EQ(name_or_error(*accounts, with("Bearer " + a)), "a");
  EXPECT_EQ(name_or_error(*accounts, with("bearer   " + b)), "b");
  EXPECT_EQ(name_or_error(*accounts, with("", a)), "a");
  EXPECT_EQ(name_or_error(*accounts, with("Bearer wrong", b)), "b");
  EXPECT_EQ(name_or_error(*accounts, with("Bearer " + a, "wrong")), "a");
  const std::string format = "Authentication Fails (auth header format should be Bearer sk-...)";
  EXPECT_EQ(name_or_error(*accounts, with("")), format);
  EXPECT_EQ(name_or_error(*accounts, with("Bearer ")), format);
  EXPECT_EQ(name_or_error(*accounts, with("Basic " + a)), format);
  EXPECT_EQ(name_or_error(*accounts, with("Bearer sk-0123456789abcd")),
            "Authentication Fails, Your api key: ****abcd is invalid");
  EXPECT_EQ(name_or_error(*accounts, with("", "sk-0123456789ab\xC3\n")),
            "Authentication Fails, Your api key: ****ab?? is invalid");
  EXPECT_EQ(name_or_error(*accounts, with("Bearer abcd")), "Authentication Fails, Your api key: **** is invalid");
  EXPECT_EQ(name_or_error(*open({}), with("Bearer anything")), "");
}

TEST(Accounts, KeysAreReadAgainWhenTheyChange) {
  const Files files;
  files.write_keys("");
  const auto accounts = open({.keys = files.keys});
  const auto is_known = [&](const std::string& secret) {
    const auto name = accounts->name_of(with("Bearer " + secret));
    return std::holds_alternative<std::string>(name);
  };
  Key key;
  key.name = "c";
  key.hash = key_hash("secret of c");
  ASSERT_TRUE(add_key(files.keys, key).ok());
  EXPECT_FALSE(is_known("secret of c"));
  accounts->reload();
  EXPECT_TRUE(is_known("secret of c"));
  ASSERT_TRUE(remove_key(files.keys, "a").ok());
  accounts->reload();
  EXPECT_FALSE(is_known("secret of a"));
  ::testing::internal::CaptureStderr();
  std::ofstream(files.keys, std::ios::app) << "broken\n";
  for (int i = 0; i < 3; ++i) accounts->reload();
  EXPECT_TRUE(is_known("secret of c"));
  ASSERT_EQ(std::remove(files.keys.c_str()), 0);
  for (int i = 0; i < 3; ++i) accounts->reload();
  EXPECT_TRUE(is_known("secret of c"));
  const std::string said = ::testing::internal::GetCapturedStderr();
  EXPECT_TRUE(said.starts_with("hadal: " + files.keys + ": line 3: ")) << said;
  EXPECT_EQ(std::count(said.begin(), said.end(), '\n'), 2) << said;  // each once
  files.write_keys("");
  accounts->reload();
  EXPECT_TRUE(is_known("secret of a"));
  EXPECT_FALSE(is_known("secret of c"));
}

// A revoked key must not live on because the file could not be opened at the one moment when it had changed.
TEST(Accounts, KeysThatCannotBeReadAreReadLater) {
  const Files files;
  files.write_keys("");
  const auto accounts = open({.keys = files.keys});
  ASSERT_TRUE(remove_key(files.keys, "a").ok());
  const auto is_known = [&] {
    const auto name = accounts->name_of(with("Bearer secret of a"));
    return std::holds_alternative<std::string>(name);
  };
  ::testing::internal::CaptureStderr();
  rlimit limit{};
  ::getrlimit(RLIMIT_NOFILE, &limit);
  const rlimit none{0, limit.rlim_max};
  ::setrlimit(RLIMIT_NOFILE, &none);
  for (int i = 0; i < 3; ++i) accounts->reload();
  ::setrlimit(RLIMIT_NOFILE, &limit);
  EXPECT_TRUE(is_known());
  accounts->reload();
  EXPECT_FALSE(is_known());
  const std::string said = ::testing::internal::GetCapturedStderr();
  EXPECT_EQ(std::count(said.begin(), said.end(), '\n'), 1) << said;  // once
  EXPECT_NE(said.find("Too many open files; the keys stay what they were"), std::string::npos) << said;
}

TEST(Accounts, LimitsOfAMinuteAreThoseOfEachKey) {
  const Files files;
  files.write_keys(R"(, "requests_per_minute": 2, "tokens_per_minute": 100, "concurrent": 7)");
  const auto accounts = open({.keys = files.keys});
  EXPECT_EQ(accounts->concurrent("a"), 7);
  EXPECT_EQ(accounts->concurrent("b"), 0);
  for (int i = 0; i < 2; ++i) {
    EXPECT_FALSE(accounts->refusal("a", 500.25));
    accounts->started("a", 10, 500.25);
    accounts->started("b", 10000, 500.25);
  }
  auto refused = accounts->refusal("a", 500.25);
  ASSERT_TRUE(refused);
  EXPECT_EQ(refused->status, 429);
  EXPECT_EQ(refused->type, "rate_limit_error");
  EXPECT_EQ(refused->code, "rate_limit_exceeded");
  EXPECT_EQ(refused->message, "Rate limit reached: 2 requests per minute");
  EXPECT_EQ(refused->retry_after, 61);
  EXPECT_FALSE(accounts->refusal("b", 500.25));
  EXPECT_FALSE(accounts->refusal("a", 561.25));
  accounts->finished(row("a", 10, 0, 100), 570);  // what it said counts when it is said
  refused = accounts->refusal("a", 571);
  ASSERT_TRUE(refused);
  EXPECT_EQ(refused->message, "Rate limit reached: 100 tokens per minute");
  EXPECT_EQ(refused->retry_after, 60);
  EXPECT_FALSE(accounts->refusal("a", 631));
}

TEST(Accounts, BalancesOutliveTheServer) {
  const Files files;
  files.write_keys(R"(, "granted_usd": 0.002)");
  files.write_prices();
  const AccountOptions options{.keys = files.keys, .prices = files.prices, .ledger = files.ledger};
  const auto total = [](const Accounts& accounts, const std::string& name) {
    const json::Value balance = accounts.balance(name);
    return (balance.find("is_available")->as_bool() ? "" : "exhausted ") +
           balance.find("balance_infos")->as_array()[0].find("total_balance")->as_string();
  };
  {
    const auto accounts = open(options);
    EXPECT_EQ(json::dump(accounts->balance("a"), json::kCompact),
              R"({"is_available":true,"balance_infos":[{"currency":"USD","total_balance":"0.002",)"
              R"("granted_balance":"0.002","topped_up_balance":"0.00"}]})");
    EXPECT_EQ(total(*accounts, "b"), "0.00");                             // no balance is no limit
    EXPECT_EQ(accounts->finished(row("a", 100, 50, 10), 1), 1550000000);  // 50 + 500 + 1000 millionths
    EXPECT_EQ(total(*accounts, "a"), "0.00045");
    EXPECT_FALSE(accounts->refusal("a", 1));
    LedgerRow failed = row("a", 1000, 0, 1000);
    failed.finish = "error";
    EXPECT_EQ(accounts->finished(failed, 1, false), 0);  // ours to pay
    EXPECT_EQ(total(*accounts, "a"), "0.00045");
    EXPECT_EQ(usd_text(accounts->seen().cost.hit), "0.00005");
    EXPECT_EQ(usd_text(accounts->seen().cost.miss), "0.0005");
    EXPECT_EQ(usd_text(accounts->seen().cost.output), "0.001");
  }
  {
    const auto accounts = open(options);
    EXPECT_EQ(total(*accounts, "a"), "0.00045");
    EXPECT_EQ(accounts->seen().cost.total(), 0);
    accounts->finished(row("a", 0, 0, 10), 1);
    EXPECT_EQ(total(*accounts, "a"), "exhausted 0.00");
    const auto refused = accounts->refusal("a", 1);
    ASSERT_TRUE(refused);
    EXPECT_EQ(refused->status, 402);
    EXPECT_EQ(refused->type, "unknown_error");
    EXPECT_EQ(refused->code, "invalid_request_error");
    EXPECT_EQ(refused->message, "Insufficient Balance");
    EXPECT_FALSE(accounts->refusal("b", 1));
    files.write_keys(R"(, "granted_usd": 1)");  // more is granted
    accounts->reload();
    EXPECT_FALSE(accounts->refusal("a", 1));
    EXPECT_EQ(total(*accounts, "a"), "0.99745");
  }
  const auto file = LedgerFile::open_to_read(files.ledger).value();
  const auto sums = file.sums(LedgerFile::By::kKey).value();
  ASSERT_EQ(sums.size(), 1u);
  EXPECT_EQ(sums[0].requests, 3);
  EXPECT_EQ(usd_text(sums[0].cost), "0.00255");
}

// What runs at once never costs more than the grant; what ends, however, gives back what it did not cost.
TEST(Accounts, AGrantIsALimit) {
  const Files files;
  files.write_keys(R"(, "granted_usd": 0.5)");  // 5,000 tokens of answers
  files.write_prices();
  const auto accounts = open({.keys = files.keys, .prices = files.prices});
  const auto admit = [&](int64_t prompt, int64_t most, const std::string& name = "a") {
    auto admitted = accounts->admit(name, prompt, most, row("", 0, 0, 0).time_ms);
    if (const auto* error = std::get_if<ApiError>(&admitted)) {
      EXPECT_EQ(error->status, 402);
      EXPECT_EQ(error->message, "Insufficient Balance");
      return Accounts::Admission{};
    }
    return std::get<Accounts::Admission>(std::move(admitted));
  };
  std::vector<Accounts::Admission> in_flight;
  for (int i = 0; i < 40; ++i) {
    Accounts::Admission one = admit(1000, 1000);  // 0.01 and 0.1 at most
    if (one.hold) in_flight.push_back(std::move(one));
  }
  ASSERT_EQ(in_flight.size(), 4u);
  EXPECT_FALSE(accounts->refusal("a", 1));                    // nothing is spent yet
  EXPECT_EQ(admit(1000, 500).max_tokens, 500);                // 0.06 are left, and given back at once
  EXPECT_FALSE(admit(1000, 501).hold);                        // as asked for or not at all, below kLeastAnswer
  EXPECT_EQ(admit(0, 1'000'000, "b").max_tokens, 1'000'000);  // without a grant
  // One costs all it may, one nothing, one little, one is never told to have ended.
  accounts->finished(row("a", 1000, 0, 1000), 1, true, in_flight[0].hold.get());
  accounts->finished(row("a", 1000, 0, 1000), 1, false, in_flight[1].hold.get());
  accounts->finished(row("a", 1000, 1000, 10), 1, true, in_flight[2].hold.get());
  in_flight.clear();
  const auto rest = admit(1000, 1'000'000);  // 0.5 - 0.11 - 0.002, of which the prompt takes 0.01
  EXPECT_EQ(rest.max_tokens, 3780);
  EXPECT_FALSE(admit(0, 1).hold);
  accounts->finished(row("a", 1000, 0, 3780), 1, true, rest.hold.get());
  EXPECT_EQ(accounts->refusal("a", 1)->status, 402);
  EXPECT_FALSE(admit(0, 0).hold == nullptr);  // what costs nothing is paid for
}

TEST(Accounts, WhatWasDeliveredCostsHoweverItEnded) {
  const Files files;
  files.write_prices();
  const auto accounts = open({.prices = files.prices});
  LedgerRow failed = row("", 100, 50, 10);
  failed.finish = "error";
  EXPECT_EQ(accounts->finished(failed, 1, true), 1550000000);
  EXPECT_EQ(accounts->finished(failed, 1, false), 0);
}

// Clients choose what they call the model, not what it costs.
TEST(Accounts, ThePriceIsThatOfTheServedModel) {
  const Files files;
  const std::string table = R"({"models": {"Small": [{"from": "2020-01-01", "hit": 1, "miss": 10, "output": 100}],
                                           "large": [{"from": "2020-01-01", "hit": 2, "miss": 20, "output": 200}],
                                           "later": [{"from": "2200-01-01", "hit": 1, "miss": 1, "output": 1}]})";
  ASSERT_TRUE(write_file(files.prices, table + "}").ok());
  const auto cost = [&](const std::string& served, const std::string& price_as, const std::string& asked) {
    LedgerRow one = row("", 0, 0, 1);
    one.model = asked;
    return *open({.prices = files.prices, .model = served, .price_as = price_as})->finished(one, 1) / 1'000'000;
  };
  for (const char* asked : {"small", "large", "claude-x", "Small", "unpriced"}) {
    EXPECT_EQ(cost("sMALL", "", asked), 100);
    EXPECT_EQ(cost("large", "", asked), 200);
    EXPECT_EQ(cost("large", "SMALL", asked), 100);
    EXPECT_EQ(cost("mine", "large", asked), 200);
  }
  const auto refused = [&](const std::string& served, const std::string& price_as) {
    return Accounts::open({.prices = files.prices, .model = served, .price_as = price_as}).error().message;
  };
  const std::string names = "large, later, small";
  EXPECT_EQ(refused("mine", ""),
            files.prices + ": expected a price of mine that holds now, or --price-as with one of: " + names);
  EXPECT_EQ(refused("later", ""),
            files.prices + ": expected a price of later that holds now, or --price-as with one of: " + names);
  EXPECT_EQ(refused("small", "smal"), "--price-as smal: expected one of those in " + files.prices + ": " + names);
  ASSERT_TRUE(write_file(files.prices, table + R"(, "default": "small"})").ok());
  EXPECT_EQ(cost("mine", "", "large"), 100);
  EXPECT_EQ(refused("mine", "yours"), "--price-as yours: expected one of those in " + files.prices + ": " + names);
}

TEST(Accounts, MissingFilesAreNamed) {
  const Files files;
  EXPECT_EQ(Accounts::open({.keys = files.keys}).error().message,
            files.keys + ": no such file; hadal key add makes it");
  EXPECT_TRUE(Accounts::open({.prices = files.prices}).error().message.starts_with(files.prices + ": "));
  EXPECT_TRUE(Accounts::open({.ledger = "/nonexistent/l"}).error().message.starts_with("/nonexistent/l: cannot open"));
}

}  // namespace
}  // namespace hadal::serve
