#include "text/parse_completion.h"

#include <initializer_list>
#include <map>
#include <unordered_set>

#include "text/templates.h"
#include "text/unicode.h"

namespace hadal::text {

json::Value to_json(const AssistantMessage& message) {
  json::Array calls;
  for (const ToolCall& call : message.tool_calls)
    calls.push_back(json::Object{{"type", "function"},
                                 {"function", json::Object{{"name", call.name}, {"arguments", call.arguments}}}});
  return json::Object{{"role", "assistant"},
                      {"content", message.content},
                      {"reasoning_content", message.reasoning},
                      {"tool_calls", std::move(calls)}};
}

namespace dsml {

bool parse_invoke_line(std::string_view line, std::string& name) {
  for (;;) {  // blanks as Python's \s: Unicode white space and the four information separators
    if (line.empty()) return false;
    const Utf8Char c = decode_utf8(line.data(), line.data() + line.size());
    const bool is_blank = c.code_point != kInvalidByte &&
                          ((unicode_classes(c.code_point) & kSpace) || (c.code_point >= 0x1C && c.code_point <= 0x1F));
    if (!is_blank) break;
    line.remove_prefix(static_cast<size_t>(c.size));
  }
  constexpr std::string_view kBegin = "name=\"", kEnd = "\">\n";
  if (!line.starts_with(kBegin)) return false;
  line.remove_prefix(kBegin.size());
  // One extra newline is tolerated, as `$` does in the official expression; the name is as short as possible.
  for (const std::string_view end : {std::string_view("\">\n\n"), kEnd}) {
    if (!line.ends_with(end)) continue;
    name = line.substr(0, line.size() - end.size());
    return true;
  }
  return false;
}

bool parse_parameter_header(std::string_view text, ParameterHeader& header) {
  if (!text.starts_with(kHeaderBegin)) return false;
  // Where the first of the two ends stands: found by their common beginning, so that a value is not searched.
  constexpr std::string_view kCommon = "\" string=\"";
  for (size_t at = text.find(kCommon, kHeaderBegin.size()); at != std::string_view::npos;
       at = text.find(kCommon, at + 1)) {
    header.is_string = text.substr(at).starts_with(kHeaderTrue);
    if (!header.is_string && !text.substr(at).starts_with(kHeaderFalse)) continue;
    header.key = text.substr(kHeaderBegin.size(), at - kHeaderBegin.size());
    header.value_begin = at + (header.is_string ? kHeaderTrue : kHeaderFalse).size();
    return true;
  }
  return false;
}

}  // namespace dsml

namespace {

class Parser {
 public:
  Parser(std::string_view text, bool thinking) : text_(text), thinking_(thinking) {}

  std::variant<AssistantMessage, ParseError> parse() {
    AssistantMessage message;
    if (thinking_) {
      message.reasoning = read_until({kThinkClose, dsml::kCallsOpen});
      if (stop_ != kThinkClose) return error("missing_think_close", "expected </think> before the answer");
    }
    message.content = read_until({kEos, dsml::kCallsOpen});
    if (stop_ == dsml::kCallsOpen) {
      if (!tool_calls(message)) return error_;
      if (!read_until({kEos}).empty()) return error("text_after_tools", "expected the end after the tool calls");
    } else if (stop_ != kEos) {
      return error("missing_eos", "expected the end-of-sentence token");
    }
    if (index_ != text_.size()) return error("text_after_eos", "expected nothing after the end-of-sentence token");
    for (const std::string_view special : {std::string_view(kBos), std::string_view(kEos), std::string_view(kThinkOpen),
                                           std::string_view(kThinkClose), std::string_view(kDsml)})
      if (message.content.find(special) != std::string::npos || message.reasoning.find(special) != std::string::npos)
        return error("special_token_in_content",
                     "expected no special token in content or reasoning, found " + std::string(special));
    return message;
  }

 private:
  // Text up to the first of the stops, which is consumed and left in stop_ (empty: none, text to the end).
  std::string read_until(std::initializer_list<std::string_view> stops) {
    size_t best = std::string_view::npos;
    stop_ = {};
    for (const std::string_view stop : stops) {
      const size_t at = next(stop);
      if (at < best) {
        best = at;
        stop_ = stop;
      }
    }
    std::string read(text_.substr(index_, best == std::string_view::npos ? best : best - index_));
    index_ = best == std::string_view::npos ? text_.size() : best + stop_.size();
    return read;
  }

  // Where the stop stands next; found once, however often it is asked for on the way there.
  size_t next(std::string_view stop) {
    const auto [place, is_new] = next_.try_emplace(stop, 0);
    if (is_new || place->second < index_) place->second = text_.find(stop, index_);
    return place->second;
  }

  ParseError error(std::string kind, std::string message) { return {std::move(kind), std::move(message)}; }
  bool fail(std::string kind, std::string message) {
    error_ = {std::move(kind), std::move(message)};
    return false;
  }

  bool tool_calls(AssistantMessage& message) {
    while (index_ < text_.size()) {
      const std::string between = read_until({dsml::kInvokeOpen, dsml::kCallsClose});
      if (between != ">\n")
        return fail("tool_block_format", "expected '>' and a newline before the next tag of the tool calls");
      if (stop_ == dsml::kCallsClose) return true;
      if (stop_.empty()) return fail("tool_block_truncated", "expected an invoke or the end of the tool calls");
      const std::string line = read_until({dsml::kParameterOpen, dsml::kInvokeClose});
      ToolCall call;
      if (!dsml::parse_invoke_line(line, call.name))
        return fail("tool_name_format", "expected name=\"...\"> and a newline after invoke");
      if (!arguments(call)) return false;
      message.tool_calls.push_back(std::move(call));
    }
    return true;
  }

  bool arguments(ToolCall& call) {
    std::unordered_set<std::string> keys;
    call.arguments = "{";
    while (stop_ == dsml::kParameterOpen) {
      const std::string parameter = read_until({dsml::kParameterEnd});
      dsml::ParameterHeader header;
      // The value ends at "<", one newline after it tolerated.
      size_t end = parameter.size();
      if (end > 0 && parameter[end - 1] == '\n' && end > 1 && parameter[end - 2] == '<') --end;
      const bool closes = end > 0 && parameter[end - 1] == '<';
      if (!closes || !dsml::parse_parameter_header(std::string_view(parameter).substr(0, end - 1), header))
        return fail("param_format", "expected name=\"...\" string=\"true|false\"> and a value closed by '<'");
      const std::string key(header.key);
      if (keys.contains(key)) return fail("duplicate_param", "parameter " + key + " appears twice");
      const std::string value = parameter.substr(header.value_begin, end - 1 - header.value_begin);
      call.arguments +=
          (keys.empty() ? "" : ", ") + json::quote(key) + ": " + (header.is_string ? json::quote(value) : value);
      keys.insert(key);
      if (read_until({dsml::kParameterOpen, dsml::kInvokeClose}) != ">\n")
        return fail("param_close_format", "expected '>' and a newline after a parameter");
    }
    call.arguments += "}";
    return true;
  }

  std::string_view text_;
  bool thinking_;
  size_t index_ = 0;
  std::string_view stop_;
  std::map<std::string_view, size_t> next_;  // by stop; npos: no more
  ParseError error_;
};

}  // namespace

std::variant<AssistantMessage, ParseError> parse_completion(std::string_view text, bool thinking) {
  return Parser(text, thinking).parse();
}

}  // namespace hadal::text
