// hadal encode: messages to prompt text, one JSON line each.

#include <CLI/CLI.hpp>
#include <iostream>
#include <memory>

#include "cli/commands.h"
#include "cli/json_lines.h"
#include "text/encode_prompt.h"

namespace hadal::cli {
namespace {

using json::Value;

Result<Value> encode_line(const Value& line, text::Encoding encoding) {
  const auto wrong = [](const char* key, const char* expected) {
    return Error{Code::kInvalid, std::string(key) + ": expected " + expected};
  };
  const Value* messages = line.find("messages");
  if (!messages || !messages->is_array()) return wrong("messages", "a list of messages");
  text::EncodeOptions options;
  options.encoding = encoding;
  if (const Value* name = line.find("encoding"); name && !name->is_null()) {
    if (!name->is_string()) return wrong("encoding", "a string");
    options.encoding = HADAL_TRY(text::encoding_by_name(name->as_string()));
  }
  if (const Value* given = line.find("options"); given && !given->is_null()) {
    if (!given->is_object()) return wrong("options", "an object");
    for (const auto& [key, value] : given->as_object()) {
      if (key == "thinking_mode") {
        if (!value.is_string()) return wrong("options.thinking_mode", "a string");
        options.thinking_mode = value.as_string();
      } else if (key == "drop_thinking" || key == "add_default_bos_token") {
        if (!value.is_bool()) return wrong(("options." + key).c_str(), "true or false");
        (key == "drop_thinking" ? options.drop_thinking : options.add_default_bos_token) = value.as_bool();
      } else if (key == "reasoning_effort") {
        options.reasoning_effort = value;
      } else if (key == "context") {
        if (!value.is_array() && !value.is_null()) return wrong("options.context", "a list of messages");
        if (value.is_array()) options.context = value.as_array();
      } else {
        return Error{Code::kInvalid, "options." + key + ": not an option of the encoder"};
      }
    }
  }
  const auto encoded = text::encode_prompt(messages->as_array(), options);
  if (const auto* error = std::get_if<text::EncodeError>(&encoded)) return json_error(error->kind, error->message);
  return Value(json::Object{{"prompt", std::get<text::EncodedPrompt>(encoded).text}});
}

}  // namespace

void add_encode(CLI::App& app, int& exit_status) {
  CLI::App* command = app.add_subcommand("encode", "Messages to prompt text (JSON lines on stdin)");
  auto encoding = std::make_shared<std::string>("v4");
  command->add_option("--encoding", *encoding, "v4 or v4-0731; a line's own \"encoding\" wins")
      ->check(CLI::IsMember({"v4", "v4-0731"}))
      ->capture_default_str();
  command->callback([encoding, &exit_status] {
    const text::Encoding fallback = text::encoding_by_name(*encoding).value();
    exit_status =
        for_each_json_line(std::cin, std::cout, [&](const Value& line) { return encode_line(line, fallback); });
  });
}

}  // namespace hadal::cli
