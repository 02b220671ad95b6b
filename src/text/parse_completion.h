// Completion text to message, as DeepSeek's own parser (parse_message_from_completion_text) reads it, for both
// revisions of the encoding. Strict: it reports what is wrong and repairs nothing.
//
//   thinking   reasoning </think> content [calls] EOS          chat   content [calls] EOS
//   calls      \n\n<｜DSML｜tool_calls> with invokes of string="true" (raw) and string="false" (JSON) parameters
#pragma once

#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/json.h"

namespace hadal::text {

struct ToolCall {
  std::string name;
  std::string arguments;  // {"key": value, ...}; values of string="false" are pasted unchecked
  bool operator==(const ToolCall&) const = default;
};

struct AssistantMessage {
  std::string reasoning, content;
  std::vector<ToolCall> tool_calls;
  bool operator==(const AssistantMessage&) const = default;
};
json::Value to_json(const AssistantMessage& message);  // role, content, reasoning_content, tool_calls

// Kinds: missing_think_close, missing_eos, tool_block_format, tool_block_truncated, tool_name_format, param_format,
// param_close_format, duplicate_param, text_after_tools, text_after_eos, special_token_in_content.
struct ParseError {
  std::string kind, message;
};

std::variant<AssistantMessage, ParseError> parse_completion(std::string_view text, bool thinking);

// The pieces that the strict and the streaming parser share.
namespace dsml {
inline constexpr std::string_view kCallsOpen = "\n\n<｜DSML｜tool_calls";
inline constexpr std::string_view kCallsClose = "</｜DSML｜tool_calls>";
inline constexpr std::string_view kInvokeOpen = "<｜DSML｜invoke";
inline constexpr std::string_view kInvokeClose = "</｜DSML｜invoke";
inline constexpr std::string_view kParameterOpen = "<｜DSML｜parameter";
inline constexpr std::string_view kParameterEnd = "/｜DSML｜parameter";  // its '<' belongs to the value's pattern

// `name="NAME">` and a newline, blanks before it allowed.
bool parse_invoke_line(std::string_view line, std::string& name);
// Header of ` name="KEY" string="true|false">VALUE`; value_begin is where VALUE starts. false: not (yet) there.
inline constexpr std::string_view kHeaderBegin = " name=\"", kHeaderTrue = "\" string=\"true\">",
                                  kHeaderFalse = "\" string=\"false\">";
struct ParameterHeader {
  std::string_view key;
  bool is_string = false;
  size_t value_begin = 0;
};
bool parse_parameter_header(std::string_view text, ParameterHeader& header);
}  // namespace dsml

}  // namespace hadal::text
