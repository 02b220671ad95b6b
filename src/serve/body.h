// Fields of a JSON body, read in turn; the first thing that is wrong becomes the error, in the words of the original
// service (api.md 1.2). null counts as absent, unknown fields are nobody's business.
#pragma once

#include <fmt/format.h>

#include <optional>
#include <string>
#include <string_view>

#include "base/json.h"
#include "serve/turn.h"

namespace hadal::serve {

class Body {
 public:
  // The object must outlive the Body.
  Body(const json::Value& object, std::string path) : object_(object), path_(std::move(path)) {
    if (!object.is_object()) mistype("", object, "an object");
  }

  const std::optional<ApiError>& error() const { return error_; }
  std::string path(std::string_view key) const {
    return path_.empty() || key.empty() ? path_ + std::string(key) : fmt::format("{}.{}", path_, key);
  }
  void fail(ApiError error) {
    if (!error_) error_ = std::move(error);
  }
  // "Failed to deserialize the JSON body into the target type: messages[0].role: unknown variant ..."
  void refuse(std::string_view key, const std::string& reason) {
    const std::string where = path(key);
    fail(invalid(fmt::format("Failed to deserialize the JSON body into the target type: {}{}{}", where,
                             where.empty() ? "" : ": ", reason),
                 where));
  }
  void mistype(std::string_view key, const json::Value& found, const char* expected) {
    const std::string text =
        found.is_string() || found.is_number() || found.is_bool() ? " `" + shorten(found) + "`" : "";
    const char* kind = found.is_array() ? "sequence" : found.is_object() ? "map" : found.kind_name();
    refuse(key, fmt::format("invalid type: {}{}, expected {}", kind, text, expected));
  }

  const json::Value* find(std::string_view key) const {
    const json::Value* value = object_.find(key);
    return value && !value->is_null() ? value : nullptr;
  }
  const json::Value* require(std::string_view key) {
    const json::Value* value = find(key);
    if (!value) refuse("", fmt::format("missing field `{}`", key));
    return value;
  }
  std::optional<std::string> text(std::string_view key) {
    const json::Value* value = find(key);
    if (!value) return std::nullopt;
    if (value->is_string()) return value->as_string();
    mistype(key, *value, "a string");
    return std::nullopt;
  }
  std::optional<bool> flag(std::string_view key) {
    const json::Value* value = find(key);
    if (!value) return std::nullopt;
    if (value->is_bool()) return value->as_bool();
    mistype(key, *value, "a boolean");
    return std::nullopt;
  }
  std::optional<double> number(std::string_view key) {
    const json::Value* value = find(key);
    if (!value) return std::nullopt;
    if (const auto number = value->is_number() ? value->to_double() : std::nullopt) return number;
    mistype(key, *value, "a number");
    return std::nullopt;
  }
  std::optional<int64_t> integer(std::string_view key) {
    const json::Value* value = find(key);
    if (!value) return std::nullopt;
    if (const auto number = value->is_number() ? value->to_int64() : std::nullopt) return number;
    mistype(key, *value, "an integer");
    return std::nullopt;
  }
  const json::Array* list(std::string_view key) {
    const json::Value* value = find(key);
    if (!value) return nullptr;
    if (value->is_array()) return &value->as_array();
    mistype(key, *value, "a sequence");
    return nullptr;
  }
  const json::Value* object(std::string_view key) {
    const json::Value* value = find(key);
    if (!value || value->is_object()) return value;
    mistype(key, *value, "a map");
    return nullptr;
  }

 private:
  static std::string shorten(const json::Value& value) {
    const std::string text = value.is_string() ? value.as_string() : json::dump(value);
    if (text.size() <= 40) return text;
    size_t end = 37;  // not inside a character
    while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
    return text.substr(0, end) + "...";
  }

  const json::Value& object_;
  std::string path_;
  std::optional<ApiError> error_;
};

}  // namespace hadal::serve
