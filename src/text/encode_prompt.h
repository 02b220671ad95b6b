// Messages to prompt text, byte for byte as DeepSeek's own encoder (encoding_dsv4.py) writes it.
//
// Messages are JSON objects in the normal form of that encoder: role (system, user, assistant, tool, developer,
// latest_reminder), content, and where they apply reasoning_content, tool_calls, tool_call_id, tools,
// response_format, task, wo_eos. Consecutive user and tool messages become one user turn; tool results follow
// the order of the calls; in thinking mode earlier reasoning is dropped unless tools are in play.
//
// Pure functions; any thread.
#pragma once

#include <string>
#include <string_view>
#include <variant>

#include "base/json.h"
#include "base/result.h"

namespace hadal::text {

// The revisions of the encoder differ in reasoning effort only.
enum class Encoding { kV4, kV4_0731 };
const char* encoding_name(Encoding encoding);  // "v4", "v4-0731"
Result<Encoding> encoding_by_name(std::string_view name);
// Of a checkpoint: what encoding/encoding.json says ({"encoding": "v4"}, ours), else from the official script beside it
// (encoding/encoding_dsv4.py), else DSpark keys in its config.json mean the 0731 revision, else the preview.
// kCorrupt: an encoding.json that names none of them.
Result<Encoding> encoding_of_checkpoint(const std::string& directory);

struct EncodeOptions {
  Encoding encoding = Encoding::kV4;
  std::string thinking_mode = "thinking";  // or "chat"
  bool drop_thinking = true;
  bool add_default_bos_token = true;
  json::Value reasoning_effort;  // null or a string
  json::Array context;           // earlier messages, not rendered again; suppress BOS
};

struct EncodedPrompt {
  std::string text;
  size_t header_begin = 0;  // where the last assistant header starts (text.size() if there is none): the state
                            // up to here serves the next turn too
};

// Kinds: unknown_role, invalid_task, invalid_effort, invalid_thinking_mode, empty_developer, bad_tool_schema,
// missing_arguments, arguments_not_object, bad_content_type, bad_message.
struct EncodeError {
  std::string kind, message;
};

std::variant<EncodedPrompt, EncodeError> encode_prompt(const json::Array& messages, const EncodeOptions& options);

}  // namespace hadal::text
