// hadal parse: completion text to message, one JSON line each; strict.

#include <CLI/CLI.hpp>
#include <iostream>

#include "cli/commands.h"
#include "cli/json_lines.h"
#include "text/parse_completion.h"

namespace hadal::cli {
namespace {

using json::Value;

Result<Value> parse_line(const Value& line) {
  const Value* completion = line.find("text");
  if (!completion || !completion->is_string()) return Error{Code::kInvalid, "text: expected a string"};
  const Value* mode = line.find("thinking_mode");
  const bool thinking = mode && *mode == Value("thinking");
  if (!thinking && (!mode || *mode != Value("chat")))
    return Error{Code::kInvalid, "thinking_mode: expected \"thinking\" or \"chat\""};
  const auto parsed = text::parse_completion(completion->as_string(), thinking);
  if (const auto* error = std::get_if<text::ParseError>(&parsed)) return json_error(error->kind, error->message);
  return Value(json::Object{{"message", text::to_json(std::get<text::AssistantMessage>(parsed))}});
}

}  // namespace

void add_parse(CLI::App& app, int& exit_status) {
  CLI::App* command = app.add_subcommand("parse", "Completion text to message, strictly (JSON lines on stdin)");
  command->callback([&exit_status] { exit_status = for_each_json_line(std::cin, std::cout, parse_line); });
}

}  // namespace hadal::cli
