// Bodies of Chat Completions requests (api.md 1.3 to 1.7, as settled in 8).
#pragma once

#include <string>
#include <variant>

#include "base/json.h"
#include "serve/turn.h"

namespace hadal::serve {

struct RequestRules {
  std::string model = "hadal-nano";  // the id of the model that is served
  bool strict = false;               // --strict-compat: refuse what the original service refuses
  bool any_model = false, repair_history = false, clamp_max_tokens = false;
};

inline constexpr int64_t kMostOutput = 393216;
inline constexpr size_t kMostTools = 128, kMostStops = 16, kMostStopBytes = 16384;

std::variant<Turn, ApiError> read_chat_request(const json::Value& body, const RequestRules& rules);

// Effort names of every wire format: none, minimal, low, medium, high, xhigh, max, ultra. nullopt: no such name.
std::optional<Effort> effort_by_name(std::string_view name);
// Text of a content that may be a string, null or a list of parts; what is not text becomes "[Unsupported type]".
std::string content_text(const json::Value* content, std::string_view between);

}  // namespace hadal::serve
