// What the bodies of all wire formats have in common. Each function reads its fields into the Turn; what is wrong goes
// to the Body.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "serve/body.h"
#include "serve/catalog.h"
#include "serve/chat_request.h"
#include "serve/turn.h"

namespace hadal::serve {

std::optional<ModelName> read_model(Body& body, const RequestRules& rules, Turn& turn);
void read_sampling(Body& body, const RequestRules& rules, Turn& turn);  // after what decides whether it thinks
void read_limit(Body& body, std::string_view key, int64_t most, const RequestRules& rules, Turn& turn);
void read_usage(Body& body, Turn& turn);  // "usage": {"include": true}
void read_stop(Body& body, std::string_view key, Turn& turn);
// One more function: {"name", "description"?, "parameters"?}, as it is shown to the model.
void add_tool(Body& body, const json::Value& function, const std::string& path, Turn& turn);
bool has_tool(const Turn& turn, std::string_view name);
void check_choice(Body& body, const RequestRules& rules, Turn& turn);  // after the tools
std::optional<Effort> read_effort(Body& body, std::string_view key);

// Effort names of every wire format: none, minimal, low, medium, high, xhigh, max, ultra. nullopt: no such name.
std::optional<Effort> effort_by_name(std::string_view name);
std::string word_of(const json::Value& object, std::string_view key);  // "" where there is no string
// Text of a content that may be a string, null or a list of parts; what is not text becomes "[Unsupported type]".
std::string content_text(const json::Value* content, std::string_view between);
// A name of a user that may be anything, of any length, as 32 digits.
std::string namespace_of(const std::string& name);

}  // namespace hadal::serve
