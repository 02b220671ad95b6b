#include "serve/prices.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/file.h"
#include "base/utc.h"

namespace hadal::serve {
namespace {

using json::Value;

constexpr double kMostUsd = 1e6;

Error wrong(const std::string& where, const std::string& expected, const Value* found) {
  return {Code::kInvalid, fmt::format("{}: expected {}, found {}", where, expected,
                                      found ? json::dump(*found, json::kCompact).substr(0, 60) : "nothing")};
}

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return out;
}

Result<Price> read_price(const Value& row, const std::string& where) {
  Price price;
  for (const auto& [key, out] :
       {std::pair{"hit", &price.hit}, std::pair{"miss", &price.miss}, std::pair{"output", &price.output}}) {
    const Value* value = row.find(key);
    const auto usd = value ? value->to_double() : std::nullopt;
    const auto pico = millionths(usd.value_or(-1));  // per token, then
    if (!pico) return wrong(where + "." + key, "USD per million tokens with at most six decimals", value);
    *out = *pico;
  }
  return price;
}

// "09:30", and "24:00" for the end of a day; -1: neither.
int seconds_of(const Value& text) {
  if (!text.is_string() || text.as_string().size() != 5) return -1;
  if (text.as_string() == "24:00") return static_cast<int>(kSecondsOfDay);
  const auto time = parse_utc("1970-01-01T" + text.as_string() + ":00Z");
  return time ? static_cast<int>(*time) : -1;
}

int day_of(std::string_view name) {
  static constexpr std::string_view kDays[] = {"mon", "tue", "wed", "thu", "fri", "sat", "sun"};
  return static_cast<int>(std::find(std::begin(kDays), std::end(kDays), lower(name)) - std::begin(kDays));
}

}  // namespace

std::optional<int64_t> millionths(double usd) {
  if (!(usd >= 0 && usd <= kMostUsd)) return std::nullopt;
  const double rounded = std::round(usd * 1e6);
  if (rounded / 1e6 != usd) return std::nullopt;  // a number of six decimals is the double nearest to this quotient
  return static_cast<int64_t>(rounded);
}

std::string usd_text(PicoUsd amount) {
  const auto size = amount < 0 ? 0 - static_cast<uint64_t>(amount) : static_cast<uint64_t>(amount);
  std::string text = fmt::format("{}{}.{:012}", amount < 0 ? "-" : "", size / kUsd, size % kUsd);
  const size_t least = text.find('.') + 3;
  while (text.size() > least && text.back() == '0') text.pop_back();
  return text;
}

Result<PriceTable> PriceTable::load(const std::string& path) {
  const std::string text = HADAL_TRY(read_file(path, 16 << 20));
  return parse(text, path);
}

Result<PriceTable> PriceTable::parse(std::string_view text, const std::string& where) {
  const auto parsed = json::parse(text, json::Duplicates::kReject);
  if (!parsed.ok()) return Error{Code::kInvalid, where + ": " + parsed.error().message};
  const Value& root = parsed.value();
  PriceTable table;
  if (const Value* currency = root.find("currency"); currency && *currency != Value("USD"))
    return wrong(where + ": currency", "\"USD\"", currency);
  if (const Value* holidays = root.find("holidays")) {
    if (!holidays->is_array()) return wrong(where + ": holidays", "a list of dates", holidays);
    for (const Value& date : holidays->as_array()) {
      const auto time = date.is_string() && date.as_string().size() == 10 ? parse_utc(date.as_string()) : std::nullopt;
      if (!time) return wrong(where + ": holidays", "dates like \"2026-10-01\"", &date);
      table.holidays_.insert(*time / kSecondsOfDay);
    }
  }
  if (const Value* schedules = root.find("schedules")) {
    if (!schedules->is_object()) return wrong(where + ": schedules", "an object", schedules);
    for (const auto& [name, schedule] : schedules->as_object())
      HADAL_TRY(table.read_schedule(name, schedule, fmt::format("{}: schedules.{}", where, name)));
  }
  const Value* models = root.find("models");
  if (!models || !models->is_object()) return wrong(where + ": models", "an object", models);
  for (const auto& [name, rows] : models->as_object())
    HADAL_TRY(table.read_rows(lower(name), rows, fmt::format("{}: models.{}", where, name)));

  const auto has_prices = [&](const std::string& name) {
    const auto it = table.models_.find(name);
    return it != table.models_.end() &&
           std::all_of(it->second.begin(), it->second.end(), [](const Row& row) { return row.alias.empty(); });
  };
  for (const auto& [name, rows] : table.models_)
    for (const Row& row : rows)
      if (!row.alias.empty() && !has_prices(row.alias))
        return Error{Code::kInvalid, fmt::format("{}: models.{}: alias_of: expected a model with prices of its own, "
                                                 "found \"{}\"",
                                                 where, name, row.alias)};
  if (const Value* fallback = root.find("default")) {
    if (!fallback->is_string() || !table.models_.contains(lower(fallback->as_string())))
      return wrong(where + ": default", "the name of a model of the table", fallback);
    table.default_ = lower(fallback->as_string());
  }
  return table;
}

Status PriceTable::read_schedule(const std::string& name, const Value& schedule, const std::string& where) {
  Schedule out;
  const Value* peaks = schedule.find("peak_utc");
  if (!peaks || !peaks->is_array()) return wrong(where + ".peak_utc", "a list of [\"01:00\", \"04:00\"]", peaks);
  for (const Value& peak : peaks->as_array()) {
    const bool is_pair = peak.is_array() && peak.as_array().size() == 2;
    const int begin = is_pair ? seconds_of(peak.as_array()[0]) : -1,
              end = is_pair ? seconds_of(peak.as_array()[1]) : -1;
    if (begin < 0 || end <= begin) return wrong(where + ".peak_utc", "two times of one day, in order", &peak);
    out.peaks.emplace_back(begin, end);
  }
  // "all", or "Mon-Fri" and then holidays have no peak; what follows a comma is a remark.
  const Value* days = schedule.find("days");
  const std::string said = days && days->is_string() ? days->as_string() : "";
  const std::string span = said.substr(0, said.find(','));
  const size_t dash = span.find('-');
  if (span == "all") {
    out.days.fill(true);
  } else {
    const int first = day_of(span.substr(0, dash)),
              last = dash == std::string::npos ? 7 : day_of(span.substr(dash + 1));
    if (first > 6 || last > 6 || last < first) return wrong(where + ".days", "\"all\" or days like \"Mon-Fri\"", days);
    std::fill(out.days.begin() + first, out.days.begin() + last + 1, true);
    out.skips_holidays = true;
  }
  schedules_[name] = std::move(out);
  return {};
}

Status PriceTable::read_rows(const std::string& model, const Value& rows, const std::string& where) {
  if (!rows.is_array()) return wrong(where, "a list of rows", &rows);
  std::vector<Row> out;
  std::optional<int64_t> before;
  for (size_t i = 0; i < rows.as_array().size(); ++i) {
    const Value& given = rows.as_array()[i];
    const std::string at = fmt::format("{}[{}]", where, i);
    Row row;
    const Value* from = given.find("from");
    const auto time = from && from->is_string() ? parse_utc(from->as_string()) : std::nullopt;
    if (!time) return wrong(at + ".from", "a time like \"2026-09-10T04:00:00Z\"", from);
    if (before && *time <= *before) return wrong(at + ".from", "a later time than that of the row before", from);
    before = row.from = *time;
    // The name is no longer served elsewhere; here it is, at what it cost last.
    if (const Value* retired = given.find("retired"); retired && *retired == Value(true)) continue;
    if (const Value* alias = given.find("alias_of")) {
      if (!alias->is_string()) return wrong(at + ".alias_of", "the name of a model", alias);
      row.alias = lower(alias->as_string());
    } else {
      const Value* charged = given.find("charged");  // the list price is then history only
      row.price = HADAL_TRY(charged ? read_price(*charged, at + ".charged") : read_price(given, at));
      if (const Value* peak = given.find("peak")) {
        row.peak = HADAL_TRY(read_price(*peak, at + ".peak"));
        const Value* schedule = given.find("schedule");
        row.schedule = schedule && schedule->is_string() ? schedule->as_string() : "";
        if (!schedules_.contains(row.schedule)) return wrong(at + ".schedule", "one of the schedules", schedule);
      }
    }
    out.push_back(std::move(row));
  }
  models_[model] = std::move(out);
  return {};
}

bool PriceTable::is_peak(const Schedule& schedule, int64_t time) const {
  const int64_t day = time / kSecondsOfDay, second = time % kSecondsOfDay;
  if (!schedule.days[static_cast<size_t>(weekday_of_day(day))]) return false;
  if (schedule.skips_holidays && holidays_.contains(day)) return false;
  return std::any_of(schedule.peaks.begin(), schedule.peaks.end(),
                     [&](const auto& peak) { return second >= peak.first && second < peak.second; });
}

std::optional<Price> PriceTable::own_price(const std::string& model, int64_t time) const {
  const auto it = models_.find(model);
  if (it == models_.end()) return std::nullopt;
  const auto after = std::upper_bound(it->second.begin(), it->second.end(), time,
                                      [](int64_t t, const Row& row) { return t < row.from; });
  if (after == it->second.begin()) return std::nullopt;
  const Row& row = *std::prev(after);
  if (!row.alias.empty()) return own_price(row.alias, time);
  return row.peak && is_peak(schedules_.at(row.schedule), time) ? *row.peak : row.price;
}

std::optional<Price> PriceTable::at(std::string_view model, int64_t time) const {
  if (const auto price = own_price(lower(model), time)) return price;
  return default_.empty() ? std::nullopt : own_price(default_, time);
}

bool PriceTable::has(std::string_view model) const { return models_.contains(lower(model)); }

std::string PriceTable::names() const {
  std::string all;
  for (const auto& [name, rows] : models_) all += (all.empty() ? "" : ", ") + name;
  return all;
}

}  // namespace hadal::serve
