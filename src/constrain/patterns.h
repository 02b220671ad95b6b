// Regular expressions for what JSON Schema says in other ways: formats, and bounds of numbers.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "base/json.h"

namespace hadal::constrain {

// The whole text is such a one. nullopt: an unknown format.
std::optional<std::string> format_pattern(std::string_view name);
// Plain decimals (no exponent) on one side of a number, itself included unless open. nullopt: 1e18 and beyond.
std::optional<std::string> bound_pattern(const json::Value& number, bool is_minimum, bool open);

}  // namespace hadal::constrain
