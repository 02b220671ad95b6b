// hadal tokenize: text to ids or back, one JSON line each.

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <ctime>
#include <iostream>
#include <memory>

#include "cli/commands.h"
#include "cli/json_lines.h"
#include "cli/terminal.h"
#include "text/tokenizer.h"

namespace hadal::cli {
namespace {

using json::Value;

struct Work {  // of encoding alone, without the JSON around it
  double bytes = 0, tokens = 0, seconds = 0;
};

Result<Value> encode_line(const text::Tokenizer& tokenizer, const Value& line, Work& work) {
  const Value* text = line.find("text");
  if (!text || !text->is_string()) return Error{Code::kInvalid, "text: expected a string"};
  const std::clock_t begin = std::clock();
  const std::vector<TokenId> tokens = tokenizer.encode(text->as_string());
  work.seconds += static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC;
  work.bytes += static_cast<double>(text->as_string().size());
  work.tokens += static_cast<double>(tokens.size());
  json::Array ids;
  for (const TokenId id : tokens) ids.emplace_back(static_cast<int>(id));
  return Value(json::Object{{"ids", std::move(ids)}});
}

Result<Value> decode_line(const text::Tokenizer& tokenizer, const Value& line) {
  const Value* list = line.find("ids");
  if (!list || !list->is_array()) return Error{Code::kInvalid, "ids: expected a list of token ids"};
  std::vector<TokenId> ids;
  for (const Value& value : list->as_array()) {
    const auto id = value.is_int() ? value.to_int64() : std::nullopt;
    if (!id || *id < 0 || *id > INT32_MAX) return Error{Code::kInvalid, "ids: expected token ids, found " + json::dump(value)};
    ids.push_back(static_cast<TokenId>(*id));
  }
  return Value(json::Object{{"text", tokenizer.decode(ids)}});
}

}  // namespace

void add_tokenize(CLI::App& app, int& exit_status) {
  CLI::App* command = app.add_subcommand("tokenize", "Text to token ids, or back (JSON lines on stdin)");
  struct Options {
    std::string tokenizer;
    bool decode = false, time = false;
  };
  auto options = std::make_shared<Options>();
  command->add_option("--tokenizer", options->tokenizer, "tokenizer.json, or a directory that holds one")->required();
  command->add_flag("--decode", options->decode, "{\"ids\"} to {\"text\"}");
  command->add_flag("--time", options->time, "afterwards, how fast the texts were encoded (to stderr)")->excludes("--decode");
  command->callback([options, &exit_status] {
    const auto tokenizer = text::Tokenizer::load(options->tokenizer);
    if (!tokenizer.ok()) {
      exit_status = report_failure(tokenizer.error());
      return;
    }
    Work work;
    exit_status = for_each_json_line(std::cin, std::cout, [&](const Value& line) {
      return options->decode ? decode_line(tokenizer.value(), line) : encode_line(tokenizer.value(), line, work);
    });
    if (options->time)
      fmt::print(stderr, "{:.1f} MB, {:.0f} tokens, {:.1f} MB/s on one thread (CPU time)\n", work.bytes / 1e6, work.tokens,
                 work.seconds > 0 ? work.bytes / 1e6 / work.seconds : 0.0);
  });
}

}  // namespace hadal::cli
