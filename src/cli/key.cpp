// hadal key: who may use a server.

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <ctime>
#include <memory>

#include "base/utc.h"
#include "cli/commands.h"
#include "cli/terminal.h"
#include "serve/keys.h"

namespace hadal::cli {
namespace {

struct KeyOptions {
  std::string file, name;
  serve::Key limits;
  double granted = -1;
};

Result<int> add(const KeyOptions& options) {
  serve::Key key = options.limits;
  key.name = options.name;
  const std::string secret = serve::new_key();
  key.hash = serve::key_hash(secret);
  key.created = utc_date(std::time(nullptr));
  if (options.granted >= 0) key.granted = serve::millionths(options.granted).value() * (serve::kUsd / 1'000'000);
  HADAL_TRY(serve::add_key(options.file, key));
  fmt::print("{}\n", secret);
  if (stderr_is_terminal()) fmt::print(stderr, "This is the key of {}. It is not kept anywhere.\n", key.name);
  return 0;
}

Result<int> list(const KeyOptions& options) {
  const auto keys = HADAL_TRY(serve::read_keys(options.file));
  const auto limit = [](int64_t n) { return n > 0 ? std::to_string(n) : "-"; };
  fmt::print("{:<24}{:>11}{:>11}{:>13}{:>13}\n", "name", "concurrent", "req/min", "tokens/min", "granted USD");
  for (const serve::Key& key : keys) {
    // A name that is too long for its column has a line for itself.
    if (key.name.size() > 23) fmt::print("{}\n", key.name);
    fmt::print("{:<24}{:>11}{:>11}{:>13}{:>13}\n", key.name.size() > 23 ? "" : key.name, limit(key.concurrent),
               limit(key.requests_per_minute), limit(key.tokens_per_minute),
               key.granted ? serve::usd_text(*key.granted) : "-");
  }
  return 0;
}

Result<int> remove(const KeyOptions& options) {
  HADAL_TRY(serve::remove_key(options.file, options.name));
  return 0;
}

}  // namespace

void add_key(CLI::App& app, int& exit_status) {
  CLI::App* command = app.add_subcommand("key", "API keys of hadal serve: add, list, remove");
  command->require_subcommand(1);
  auto options = std::make_shared<KeyOptions>();
  const auto subcommand = [&](const char* name, const char* help, Result<int> (*call)(const KeyOptions&)) {
    CLI::App* sub = command->add_subcommand(name, help);
    sub->add_option("FILE", options->file, "the keys, as hashes")->required()->type_name("");
    sub->callback([options, call, &exit_status] {
      const auto status = call(*options);
      exit_status = status.ok() ? status.value() : report_failure(status.error());
    });
    return sub;
  };
  const CLI::Validator is_name(
      [](std::string& name) -> std::string {
        return serve::is_key_name(name) ? "" : "expected 1 to 64 letters, digits, '.', '_' or '-'";
      },
      "");
  const CLI::Validator is_amount(
      [](std::string& text) -> std::string {
        double usd = -1;
        return CLI::detail::lexical_cast(text, usd) && serve::millionths(usd)
                   ? ""
                   : "expected USD, at most 1000000, with at most six decimals";
      },
      "");
  CLI::App* adding = subcommand("add", "Make a key and print it: only its hash is kept", add);
  adding->add_option("NAME", options->name, "whose it is")->required()->type_name("")->check(is_name);
  const auto limit = [&](const char* name, int64_t& value, const char* help) {
    adding->add_option(name, value, help)->type_name("N")->check(CLI::Range(1, 1'000'000'000));
  };
  limit("--concurrent", options->limits.concurrent, "answers at once");
  limit("--requests-per-minute", options->limits.requests_per_minute, "requests within any minute");
  limit("--tokens-per-minute", options->limits.tokens_per_minute, "of prompts and answers");
  adding->add_option("--granted", options->granted, "what it may cost in all")
      ->type_name("USD")
      ->check(is_amount)
      ->default_str("");
  subcommand("list", "Names and limits", list);
  subcommand("remove", "Take a key back", remove)
      ->add_option("NAME", options->name, "whose it is")
      ->required()
      ->type_name("");
}

}  // namespace hadal::cli
