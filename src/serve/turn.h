// What a request asks for, whatever wire format it came in (api.md 1.3, 1.10, 1.11): the endpoints read their bodies
// into a Turn, and everything behind them knows Turns only.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "base/json.h"
#include "sample/sampler.h"

namespace hadal::serve {

// An answer that is an error. The endpoint gives it the shape of its wire format.
struct ApiError {
  int status = 400;
  std::string type = "invalid_request_error", code = "invalid_request_error", message;
  std::string param;    // path of the field; empty: null
  int retry_after = 5;  // seconds; told where it may get better
};
inline ApiError invalid(std::string message, std::string param = "") {
  return {.message = std::move(message), .param = std::move(param)};
}

enum class Effort { kOff, kLow, kHigh, kMax };

struct ToolChoice {
  enum class Kind { kAuto, kNone, kRequired, kNamed };
  Kind kind = Kind::kAuto;
  std::string name;  // kNamed
};

// What the visible answer must look like.
struct OutputFormat {
  enum class Kind { kText, kJsonObject, kJsonSchema };
  Kind kind = Kind::kText;
  json::Value schema;  // kJsonSchema
  bool strict = false;
};

struct Turn {
  std::string model;           // as it was asked for, and is echoed
  std::string_view retired{};  // since when the original service refuses that name; empty: it does not
  // Chat messages: role (system, user, assistant, tool, latest_reminder), content (string), and where they apply
  // reasoning_content, tool_calls, tool_call_id, prefix, task. normalise() makes the encoder's form of them.
  json::Array messages;
  json::Array tools;  // function objects as they are rendered: name, description, parameters, ...
  ToolChoice tool_choice;
  bool parallel_calls = true;
  bool legacy_call = false;  // `functions` were given: the answer has a `function_call`, for which there is one place
  Effort effort = Effort::kHigh;
  OutputFormat format;
  std::vector<std::string> strict_tools;  // names of tools whose calls must fit their schema
  sample::Options sampling;
  bool seeded = false;                // else every answer draws its own
  std::optional<int64_t> max_tokens;  // not given: the default of the effort
  std::vector<std::string> stop;
  bool stream = false, include_usage = false;
  bool logprobs = false;
  bool with_cost = false;  // in its usage
  std::string user;        // namespace of fairness and of caches, beside the key

  bool thinks() const { return effort != Effort::kOff; }
};

}  // namespace hadal::serve
