// hadal tokenize: text to ids or back, one JSON line each.

#include <CLI/CLI.hpp>
#include <iostream>
#include <memory>

#include "cli/commands.h"
#include "cli/json_lines.h"
#include "cli/terminal.h"
#include "text/tokenizer.h"

namespace hadal::cli {
namespace {

using json::Value;

Result<Value> encode_line(const text::Tokenizer& tokenizer, const Value& line) {
  const Value* text = line.find("text");
  if (!text || !text->is_string()) return Error{Code::kInvalid, "text: expected a string"};
  json::Array ids;
  for (const TokenId id : tokenizer.encode(text->as_string())) ids.emplace_back(static_cast<int>(id));
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
    bool decode = false;
  };
  auto options = std::make_shared<Options>();
  command->add_option("--tokenizer", options->tokenizer, "tokenizer.json, or a directory that holds one")->required();
  command->add_flag("--decode", options->decode, "{\"ids\"} to {\"text\"}");
  command->callback([options, &exit_status] {
    const auto tokenizer = text::Tokenizer::load(options->tokenizer);
    if (!tokenizer.ok()) {
      exit_status = report_failure(tokenizer.error());
      return;
    }
    exit_status = for_each_json_line(std::cin, std::cout, [&](const Value& line) {
      return options->decode ? decode_line(tokenizer.value(), line) : encode_line(tokenizer.value(), line);
    });
  });
}

}  // namespace hadal::cli
