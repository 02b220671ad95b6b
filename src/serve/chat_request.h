// Bodies of requests, of every wire format: Chat Completions (api.md 1.3 to 1.7), FIM completions (1.8), Messages
// (1.10), Responses (1.11), as settled in 8.
#pragma once

#include <optional>
#include <string>
#include <variant>

#include "base/json.h"
#include "serve/formats.h"
#include "serve/turn.h"

namespace hadal::serve {

struct RequestRules {
  std::string model = "hadal-nano";  // the id of the model that is served
  bool strict = false;               // --strict-compat: refuse what the original service refuses
  bool any_model = false, repair_history = false, clamp_max_tokens = false;
};

inline constexpr int64_t kMostOutput = 393216, kMostCompletion = 4096;
inline constexpr size_t kMostTools = 128, kMostStops = 16, kMostStopBytes = 16384;

std::variant<Turn, ApiError> read_chat_request(const json::Value& body, const RequestRules& rules);
// counts_only: for count_tokens, which has no max_tokens.
std::variant<Turn, ApiError> read_messages_request(const json::Value& body, const RequestRules& rules,
                                                   bool counts_only = false);

struct ResponsesRequest {
  Turn turn;
  ResponseEcho echo;
};
std::variant<ResponsesRequest, ApiError> read_responses_request(const json::Value& body, const RequestRules& rules);

struct CompletionRequest {
  Turn turn;  // without messages
  std::string prompt;
  std::optional<std::string> suffix;  // given: fill in the middle
  bool echo = false;
};
std::variant<CompletionRequest, ApiError> read_completion_request(const json::Value& body, const RequestRules& rules);

}  // namespace hadal::serve
