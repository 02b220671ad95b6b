// JSON as Python's json module reads and writes it, because prompts hold re-serialised JSON and must match
// the official encoder byte for byte. One reader and one writer for everything: configs, safetensors
// headers, tokenizer.json, JSON lines.
//
// Reading keeps what Python keeps: the order of keys, integers of any size, floats as their repr (2.50 is 2.5,
// 1e3 is 1000.0), NaN and Infinity, lone surrogates of \uD8xx escapes (held as three bytes each). A repeated key keeps
// its first place and takes the last value, as a dict does; kRejectDuplicates makes it an error instead (headers and
// configs). Refused: a byte order mark, raw control characters in strings, anything after the value, nesting deeper
// than kMaxDepth, invalid UTF-8. Errors name the byte offset.
//
// Thread-safe as values are. Memory: a few times the text.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "base/result.h"

namespace hadal::json {

inline constexpr int kMaxDepth = 900;  // Python gives up a little later

class Value;
using Array = std::vector<Value>;
using Member = std::pair<std::string, Value>;
using Object = std::vector<Member>;

class Value {
 public:
  enum class Kind { kNull, kBool, kInt, kFloat, kString, kArray, kObject };

  Value() = default;                                   // null
  Value(bool value);                                   // NOLINT: implicit, so that objects read as written
  Value(int value);                                    // NOLINT
  Value(int64_t value);                                // NOLINT
  Value(double value);                                 // NOLINT: written as Python's repr
  Value(const char* value);                            // NOLINT
  Value(std::string value);                            // NOLINT
  Value(std::string_view value);                       // NOLINT
  Value(Array value);                                  // NOLINT
  Value(Object value);                                 // NOLINT
  static Value number(std::string text, bool is_int);  // text printed as it stands

  Kind kind() const;
  bool is_null() const { return kind() == Kind::kNull; }
  bool is_bool() const { return kind() == Kind::kBool; }
  bool is_int() const { return kind() == Kind::kInt; }
  bool is_number() const { return kind() == Kind::kInt || kind() == Kind::kFloat; }
  bool is_string() const { return kind() == Kind::kString; }
  bool is_array() const { return kind() == Kind::kArray; }
  bool is_object() const { return kind() == Kind::kObject; }

  // Each requires its kind.
  bool as_bool() const;
  const std::string& as_string() const;  // kString; for numbers, their text
  const Array& as_array() const;
  Array& as_array();
  const Object& as_object() const;
  Object& as_object();
  // Integers that fit; floats only if they are whole. nullopt otherwise.
  std::optional<int64_t> to_int64() const;
  std::optional<double> to_double() const;  // any number

  // Object access: nullptr when this is no object or has no such key.
  const Value* find(std::string_view key) const;
  Value* find(std::string_view key);
  void set(std::string_view key, Value value);  // replaces in place or appends; requires kObject

  const char* kind_name() const;  // "null", "bool", "int", ... for messages

  bool operator==(const Value& other) const;  // same kind, same content, same key order; numbers by text

 private:
  struct Number {
    std::string text;
    bool is_int = true;
    bool operator==(const Number&) const = default;
  };
  std::variant<std::monostate, bool, Number, std::string, Array, Object> content_;
};

enum class Duplicates { kKeepLast, kReject };
Result<Value> parse(std::string_view text, Duplicates duplicates = Duplicates::kKeepLast);

struct Style {
  bool ascii = false;              // json.dumps(ensure_ascii=...)
  bool escape_surrogates = false;  // lone ones, which cannot be written as UTF-8, as \ud8xx; with ascii they always are
  const char* item = ", ";         // separators=(item, key)
  const char* key = ": ";
  int indent = -1;  // >= 0: one item per line, as json.dumps(indent=n); item separator trimmed
};
std::string dump(const Value& value, const Style& style = {});
// One line for another program: valid UTF-8 whatever the strings hold.
inline constexpr Style kCompact{.ascii = false, .escape_surrogates = true, .item = ",", .key = ":", .indent = -1};

std::string quote(std::string_view text, bool ascii = false);  // "…" with escapes

}  // namespace hadal::json
