// What tokens cost: prices by model and time, as a file gives them (docs/serving.md), and sums of money that are exact.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/json.h"
#include "base/result.h"

namespace hadal::serve {

// Money, in 10^-12 USD. A price per million tokens with up to six decimals is a whole number of them per token.
using PicoUsd = int64_t;
inline constexpr PicoUsd kUsd = 1'000'000'000'000;
// A number of USD, 10^6 at most, in millionths of one. nullopt: it has more than six decimals, or is no such number.
std::optional<int64_t> millionths(double usd);
inline double as_usd(PicoUsd amount) { return static_cast<double>(amount) / static_cast<double>(kUsd); }
std::string usd_text(PicoUsd amount);  // "12.50", "0.0000123": all the decimals it has, at least two

struct Cost {
  PicoUsd hit = 0, miss = 0, output = 0;
  PicoUsd total() const { return hit + miss + output; }
};

struct Price {  // of one token
  PicoUsd hit = 0, miss = 0, output = 0;
  Cost of(int64_t prompt_tokens, int64_t hit_tokens, int64_t output_tokens) const {
    return {hit * hit_tokens, miss * (prompt_tokens - hit_tokens), output * output_tokens};
  }
  bool operator==(const Price&) const = default;
};

class PriceTable {
 public:
  // Errors begin with `where`, the name of the file.
  static Result<PriceTable> parse(std::string_view text, const std::string& where);
  static Result<PriceTable> load(const std::string& path);

  // Of a model, for a request that came at `time` (seconds since 1970); names are the same in any case. Those without a
  // price of their own then have that of the table's "default". nullopt: there is none either.
  std::optional<Price> at(std::string_view model, int64_t time) const;
  bool has(std::string_view model) const;  // a row of its own
  std::string names() const;               // of all models: "a, b, c"

 private:
  struct Schedule {
    std::vector<std::pair<int, int>> peaks;  // seconds of the day: from the first until before the second
    std::array<bool, 7> days{};              // Monday first
    bool skips_holidays = false;
  };
  struct Row {
    int64_t from = 0;  // until the next one
    std::string alias;
    Price price;
    std::optional<Price> peak;
    std::string schedule;  // of the peak
  };

  std::optional<Price> own_price(const std::string& model, int64_t time) const;
  bool is_peak(const Schedule& schedule, int64_t time) const;
  Status read_rows(const std::string& model, const json::Value& rows, const std::string& where);
  Status read_schedule(const std::string& name, const json::Value& schedule, const std::string& where);

  std::map<std::string, std::vector<Row>> models_;  // rows by time
  std::map<std::string, Schedule> schedules_;
  std::set<int64_t> holidays_;  // days since 1970
  std::string default_;
};

}  // namespace hadal::serve
