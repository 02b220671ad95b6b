// Any bytes as JSON lines of `hadal encode`, with options and context, and of `hadal parse`: every line is
// answered by one line that is JSON again, and none crashes.
#include <algorithm>
#include <cstdlib>
#include <sstream>
#include <string>

#include "cli/json_lines.h"
#include "text/encode_prompt.h"
#include "text/parse_completion.h"

namespace {

using namespace hadal;

Result<json::Value> answer(const json::Value& line) {
  if (const json::Value* text = line.find("text"); text && text->is_string()) {
    const auto parsed = text::parse_completion(text->as_string(), line.find("thinking") != nullptr);
    if (const auto* message = std::get_if<text::AssistantMessage>(&parsed)) return text::to_json(*message);
    return cli::json_error(std::get<text::ParseError>(parsed).kind, std::get<text::ParseError>(parsed).message);
  }
  const json::Value* messages = line.is_array() ? &line : line.find("messages");
  if (!messages || !messages->is_array()) return Error{Code::kInvalid, "messages"};
  text::EncodeOptions options;
  if (const json::Value* mode = line.find("mode"); mode && mode->is_string()) options.thinking_mode = mode->as_string();
  if (line.find("0731")) options.encoding = text::Encoding::kV4_0731;
  if (line.find("keep")) options.drop_thinking = false;
  if (const json::Value* effort = line.find("effort")) options.reasoning_effort = *effort;
  if (const json::Value* context = line.find("context"); context && context->is_array())
    options.context = context->as_array();
  const auto encoded = text::encode_prompt(messages->as_array(), options);
  if (const auto* error = std::get_if<text::EncodeError>(&encoded)) return cli::json_error(error->kind, error->message);
  const auto& prompt = std::get<text::EncodedPrompt>(encoded);
  if (prompt.header_begin > prompt.text.size()) std::abort();
  return json::Value(prompt.text);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, size_t size) {
  const std::string bytes(reinterpret_cast<const char*>(data), size);
  std::istringstream in(bytes);
  std::ostringstream out;
  (void)cli::for_each_json_line(in, out, answer);
  const std::string written = out.str();
  const bool unfinished = !bytes.empty() && bytes.back() != '\n';
  if (std::count(written.begin(), written.end(), '\n') != std::count(bytes.begin(), bytes.end(), '\n') + unfinished)
    std::abort();
  std::istringstream lines(written);
  for (std::string line; std::getline(lines, line);)
    if (!json::parse(line).ok()) std::abort();
  return 0;
}
