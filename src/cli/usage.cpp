// hadal usage: what a ledger of hadal serve adds up to.

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>

#include "base/json.h"
#include "base/utc.h"
#include "cli/commands.h"
#include "cli/terminal.h"
#include "serve/ledger.h"

namespace hadal::cli {
namespace {

using serve::LedgerFile;
using By = LedgerFile::By;

struct UsageOptions {
  std::string ledger, since, until, by = "key", format = "table";
};

std::string grouped(int64_t n) {  // 1,234,567
  std::string digits = std::to_string(n);
  for (int64_t i = static_cast<int64_t>(digits.size()) - 3; i > 0; i -= 3) digits.insert(static_cast<size_t>(i), ",");
  return digits;
}

Result<int64_t> time_of(const std::string& option, const std::string& text, int64_t absent) {
  if (text.empty()) return absent;
  const auto seconds = parse_utc(text);
  if (!seconds)
    return Error{Code::kInvalid, fmt::format("{} {}: expected 2026-09-10 or 2026-09-10T04:00:00Z", option, text)};
  return *seconds * 1000;
}

// 80 columns, up to ten thousand millions of tokens. A name that is too long for its column has a line for itself.
void print_table(const std::string& by, const std::vector<LedgerFile::Sum>& sums, const LedgerFile::Sum& total) {
  const auto row = [](const std::string& name, const std::string& requests, const std::string& prompt,
                      const std::string& hit, const std::string& output, const std::string& usd) {
    constexpr size_t kName = 17;
    if (name.size() > kName) fmt::print("{}\n", name);
    fmt::print("{:<{}} {:>8} {:>13} {:>13} {:>13} {:>11}\n", name.size() > kName ? "" : name, kName, requests, prompt,
               hit, output, usd);
  };
  const auto line = [&](const LedgerFile::Sum& sum) {
    const double usd = serve::as_usd(sum.cost);
    row(sum.name.empty() ? "(no key)" : printable(sum.name), grouped(sum.requests), grouped(sum.prompt_tokens),
        grouped(sum.hit_tokens), grouped(sum.output_tokens), fmt::format("{:.{}f}", usd, usd < 1000 ? 6 : 2));
  };
  row(by, "requests", "prompt", "of it cached", "output", "USD");
  for (const auto& sum : sums) line(sum);
  if (sums.size() != 1) line(total);
}

void print_csv(const std::string& by, const std::vector<LedgerFile::Sum>& sums) {
  fmt::print("{},requests,prompt_tokens,hit_tokens,output_tokens,reasoning_tokens,cost_usd\n", by);
  for (const auto& sum : sums) {
    std::string name = sum.name;
    if (name.find_first_of(",\"\r\n") != std::string::npos) {
      for (size_t at = 0; (at = name.find('"', at)) != std::string::npos; at += 2) name.insert(at, 1, '"');
      name = '"' + name + '"';
    }
    fmt::print("{},{},{},{},{},{},{}\n", name, sum.requests, sum.prompt_tokens, sum.hit_tokens, sum.output_tokens,
               sum.reasoning_tokens, serve::usd_text(sum.cost));
  }
}

json::Value to_json(const std::string& by, const LedgerFile::Sum& sum) {
  json::Object all;
  if (!by.empty()) all.emplace_back(by, sum.name);
  for (const auto& [name, value] :
       {std::pair{"requests", sum.requests}, std::pair{"prompt_tokens", sum.prompt_tokens},
        std::pair{"hit_tokens", sum.hit_tokens}, std::pair{"output_tokens", sum.output_tokens},
        std::pair{"reasoning_tokens", sum.reasoning_tokens}})
    all.emplace_back(name, value);
  all.emplace_back("cost_usd", json::Value::number(serve::usd_text(sum.cost), false));
  return all;
}

Result<int> usage(const UsageOptions& options) {
  const int64_t since = HADAL_TRY(time_of("--since", options.since, INT64_MIN));
  const int64_t until = HADAL_TRY(time_of("--until", options.until, INT64_MAX));
  const By by = options.by == "key"     ? By::kKey
                : options.by == "day"   ? By::kDay
                : options.by == "model" ? By::kModel
                                        : By::kEndpoint;
  const auto file = HADAL_TRY(LedgerFile::open_to_read(options.ledger));
  const auto sums = HADAL_TRY(file.sums(by, since, until));
  LedgerFile::Sum total{.name = "total"};
  for (const auto& sum : sums) {
    total.requests += sum.requests;
    total.prompt_tokens += sum.prompt_tokens;
    total.hit_tokens += sum.hit_tokens;
    total.output_tokens += sum.output_tokens;
    total.reasoning_tokens += sum.reasoning_tokens;
    total.cost += sum.cost;
  }
  if (options.format == "table") {
    print_table(options.by, sums, total);
  } else if (options.format == "csv") {
    print_csv(options.by, sums);
  } else {
    json::Array rows;
    for (const auto& sum : sums) rows.push_back(to_json(options.by, sum));
    const json::Object all{{"rows", std::move(rows)}, {"total", to_json("", total)}};
    fmt::print("{}\n", json::dump(all, json::kCompact));
  }
  return 0;
}

}  // namespace

void add_usage(CLI::App& app, int& exit_status) {
  CLI::App* command = app.add_subcommand("usage", "Sums of a ledger of hadal serve");
  auto options = std::make_shared<UsageOptions>();
  command->add_option("--ledger", options->ledger, "what serve --ledger wrote")->required()->type_name("FILE");
  command->add_option("--since", options->since, "the first day or second (UTC)")->type_name("DATE");
  command->add_option("--until", options->until, "the first one that no longer counts")->type_name("DATE");
  command->add_option("--by", options->by, "key, day, model or endpoint (key)")
      ->type_name("WHAT")
      ->check(CLI::IsMember({"key", "day", "model", "endpoint"}).description(""));
  command->add_option("--format", options->format, "table, csv or json (table)")
      ->type_name("FORM")
      ->check(CLI::IsMember({"table", "csv", "json"}).description(""));
  command->callback([options, &exit_status] {
    const auto status = usage(*options);
    exit_status = status.ok() ? status.value() : report_failure(status.error());
  });
}

}  // namespace hadal::cli
