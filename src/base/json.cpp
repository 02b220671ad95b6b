#include "base/json.h"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <cmath>
#include <cstring>
#include <unordered_map>

namespace hadal::json {

// ---- values

Value::Value(bool value) : content_(value) {}
Value::Value(int value) : Value(static_cast<int64_t>(value)) {}
Value::Value(int64_t value) : content_(Number{std::to_string(value), true}) {}
Value::Value(const char* value) : content_(std::string(value)) {}
Value::Value(std::string value) : content_(std::move(value)) {}
Value::Value(std::string_view value) : content_(std::string(value)) {}
Value::Value(Array value) : content_(std::move(value)) {}
Value::Value(Object value) : content_(std::move(value)) {}

namespace {

// repr(float) of Python: the shortest digits that read back, exponent form outside 1e-4 <= |x| < 1e16.
std::string python_repr(double x) {
  if (std::isnan(x)) return "NaN";
  if (std::isinf(x)) return x < 0 ? "-Infinity" : "Infinity";
  char buffer[40];
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, x, std::chars_format::scientific).ptr;
  const std::string_view text(buffer, static_cast<size_t>(end - buffer));  // d[.ddd]e[+-]dd
  const size_t e = text.find('e');
  int exponent = 0;
  const char* digits_of_exponent = text.data() + e + (text[e + 1] == '+' ? 2 : 1);
  std::from_chars(digits_of_exponent, text.data() + text.size(), exponent);
  const bool negative = text[0] == '-';
  std::string digits;
  for (const char c : text.substr(0, e))
    if (c >= '0' && c <= '9') digits += c;
  std::string out = negative ? "-" : "";
  if (exponent < -4 || exponent >= 16) {
    out += digits[0];
    if (digits.size() > 1) out += "." + digits.substr(1);
    out += fmt::format("e{}{:02}", exponent < 0 ? '-' : '+', std::abs(exponent));
  } else if (exponent < 0) {
    out += "0." + std::string(static_cast<size_t>(-exponent - 1), '0') + digits;
  } else {
    const size_t whole = static_cast<size_t>(exponent) + 1;
    if (digits.size() < whole) digits.append(whole - digits.size(), '0');
    out += digits.substr(0, whole) + "." + (digits.size() > whole ? digits.substr(whole) : "0");
  }
  return out;
}

}  // namespace

Value::Value(double value) : content_(Number{python_repr(value), false}) {}

Value Value::number(std::string text, bool is_int) {
  Value value;
  value.content_ = Number{std::move(text), is_int};
  return value;
}

Value::Kind Value::kind() const {
  switch (content_.index()) {
    case 1:
      return Kind::kBool;
    case 2:
      return std::get<Number>(content_).is_int ? Kind::kInt : Kind::kFloat;
    case 3:
      return Kind::kString;
    case 4:
      return Kind::kArray;
    case 5:
      return Kind::kObject;
    default:
      return Kind::kNull;
  }
}

bool Value::as_bool() const {
  HADAL_CHECK(is_bool());
  return *std::get_if<bool>(&content_);
}

const std::string& Value::as_string() const {
  if (const Number* number = std::get_if<Number>(&content_)) return number->text;
  HADAL_CHECK(is_string());
  return *std::get_if<std::string>(&content_);
}

const Array& Value::as_array() const {
  HADAL_CHECK(is_array());
  return *std::get_if<Array>(&content_);
}
Array& Value::as_array() {
  HADAL_CHECK(is_array());
  return *std::get_if<Array>(&content_);
}
const Object& Value::as_object() const {
  HADAL_CHECK(is_object());
  return *std::get_if<Object>(&content_);
}
Object& Value::as_object() {
  HADAL_CHECK(is_object());
  return *std::get_if<Object>(&content_);
}

std::optional<int64_t> Value::to_int64() const {
  if (!is_number()) return std::nullopt;
  const std::string& text = as_string();
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error == std::errc() && end == text.data() + text.size()) return value;
  if (is_int()) return std::nullopt;
  const auto real = to_double();
  if (!real || !(std::abs(*real) < 9e15) || std::floor(*real) != *real) return std::nullopt;
  return static_cast<int64_t>(*real);
}

std::optional<double> Value::to_double() const {
  if (!is_number()) return std::nullopt;
  const std::string& text = as_string();
  if (text == "NaN") return std::nan("");
  if (text == "Infinity") return INFINITY;
  if (text == "-Infinity") return -INFINITY;
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error == std::errc::result_out_of_range)  // as Python: overflow is infinite, underflow zero
    return std::strtod(text.c_str(), nullptr);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

const Value* Value::find(std::string_view key) const {
  if (!is_object()) return nullptr;
  for (const Member& member : as_object())
    if (member.first == key) return &member.second;
  return nullptr;
}

Value* Value::find(std::string_view key) { return const_cast<Value*>(static_cast<const Value*>(this)->find(key)); }

void Value::set(std::string_view key, Value value) {
  if (Value* present = find(key)) {
    *present = std::move(value);
  } else {
    as_object().emplace_back(std::string(key), std::move(value));
  }
}

const char* Value::kind_name() const {
  static constexpr const char* kNames[] = {"null", "bool", "int", "float", "string", "array", "object"};
  return kNames[static_cast<int>(kind())];
}

bool Value::operator==(const Value& other) const { return content_ == other.content_; }

// ---- reading

namespace {

void append_utf8(std::string& out, uint32_t c) {  // surrogates too, as three bytes
  if (c < 0x80) {
    out += static_cast<char>(c);
  } else if (c < 0x800) {
    out += static_cast<char>(0xC0 | c >> 6);
    out += static_cast<char>(0x80 | (c & 63));
  } else if (c < 0x10000) {
    out += static_cast<char>(0xE0 | c >> 12);
    out += static_cast<char>(0x80 | (c >> 6 & 63));
    out += static_cast<char>(0x80 | (c & 63));
  } else {
    out += static_cast<char>(0xF0 | c >> 18);
    out += static_cast<char>(0x80 | (c >> 12 & 63));
    out += static_cast<char>(0x80 | (c >> 6 & 63));
    out += static_cast<char>(0x80 | (c & 63));
  }
}

// Length of the valid UTF-8 character at p, 0 if there is none.
int utf8_length(const unsigned char* p, const unsigned char* end) {
  const auto continues = [&](int i) { return p + i < end && (p[i] & 0xC0) == 0x80; };
  if (p[0] < 0x80) return 1;
  if (p[0] >= 0xC2 && p[0] <= 0xDF) return continues(1) ? 2 : 0;
  if ((p[0] & 0xF0) == 0xE0) {
    if (!continues(1) || !continues(2)) return 0;
    if (p[0] == 0xE0 && p[1] < 0xA0) return 0;
    if (p[0] == 0xED && p[1] >= 0xA0) return 0;
    return 3;
  }
  if (p[0] >= 0xF0 && p[0] <= 0xF4) {
    if (!continues(1) || !continues(2) || !continues(3)) return 0;
    if (p[0] == 0xF0 && p[1] < 0x90) return 0;
    if (p[0] == 0xF4 && p[1] >= 0x90) return 0;
    return 4;
  }
  return 0;
}

class Parser {
 public:
  Parser(std::string_view text, Duplicates duplicates)
      : begin_(text.data()), p_(text.data()), end_(text.data() + text.size()), duplicates_(duplicates) {}

  Result<Value> document() {
    Value value;
    skip_space();
    if (!parse_value(value, 0)) return error();
    skip_space();
    if (p_ != end_) {
      fail("expected the end");
      return error();
    }
    return value;
  }

 private:
  Error error() const { return {Code::kInvalid, fmt::format("JSON at byte {}: {}", error_at_ - begin_, message_)}; }
  bool fail(const char* message) { return fail_at(p_, message); }
  bool fail_at(const char* at, const char* message) {
    error_at_ = at;
    message_ = message;
    return false;
  }
  void skip_space() {
    while (p_ != end_ && (*p_ == ' ' || *p_ == '\n' || *p_ == '\t' || *p_ == '\r')) ++p_;
  }
  bool take(std::string_view word) {
    if (static_cast<size_t>(end_ - p_) < word.size() || std::memcmp(p_, word.data(), word.size()) != 0) return false;
    p_ += word.size();
    return true;
  }

  bool parse_value(Value& out, int depth) {
    if (depth > kMaxDepth) return fail("nested too deeply (limit 900)");
    if (p_ == end_) return fail("expected a value, found the end");
    switch (*p_) {
      case '{':
        return parse_object(out, depth);
      case '[':
        return parse_array(out, depth);
      case '"': {
        std::string text;
        if (!parse_string(text)) return false;
        out = Value(std::move(text));
        return true;
      }
      case 't':
        if (take("true")) return out = Value(true), true;
        break;
      case 'f':
        if (take("false")) return out = Value(false), true;
        break;
      case 'n':
        if (take("null")) return out = Value(), true;
        break;
      case 'N':
        if (take("NaN")) return out = Value::number("NaN", false), true;
        break;
      case 'I':
        if (take("Infinity")) return out = Value::number("Infinity", false), true;
        break;
      default:
        return parse_number(out);
    }
    return fail("expected a value");
  }

  bool parse_number(Value& out) {
    const char* start = p_;
    const auto digits = [&] {
      const char* from = p_;
      while (p_ != end_ && *p_ >= '0' && *p_ <= '9') ++p_;
      return p_ != from;
    };
    if (p_ != end_ && *p_ == '-') ++p_;
    if (p_ != start && take("Infinity")) return out = Value::number("-Infinity", false), true;
    if (p_ != end_ && *p_ == '0') {
      ++p_;
    } else if (!digits()) {
      return fail_at(start, "expected a value");
    }
    bool is_int = true;
    // As Python's scanner: a point or exponent that no digit follows is not part of the number.
    if (end_ - p_ >= 2 && *p_ == '.' && p_[1] >= '0' && p_[1] <= '9') {
      ++p_;
      digits();
      is_int = false;
    }
    if (p_ != end_ && (*p_ == 'e' || *p_ == 'E')) {
      const char* mark = p_++;
      if (p_ != end_ && (*p_ == '+' || *p_ == '-')) ++p_;
      if (digits()) {
        is_int = false;
      } else {
        p_ = mark;
      }
    }
    std::string text(start, p_);
    if (is_int) {
      out = Value::number(text == "-0" ? "0" : std::move(text), true);
    } else {
      out = Value(*Value::number(std::move(text), false).to_double());
    }
    return true;
  }

  bool parse_hex4(uint32_t& out) {
    if (end_ - p_ < 4) return fail("expected four hexadecimal digits");
    out = 0;
    for (int i = 0; i < 4; ++i, ++p_) {
      const char c = *p_;
      const int digit = c >= '0' && c <= '9'   ? c - '0'
                        : c >= 'a' && c <= 'f' ? c - 'a' + 10
                        : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                               : -1;
      if (digit < 0) return fail("expected four hexadecimal digits");
      out = out * 16 + static_cast<uint32_t>(digit);
    }
    return true;
  }

  bool parse_string(std::string& out) {
    ++p_;  // the quote
    for (;;) {
      const char* run = p_;
      while (p_ != end_ && static_cast<signed char>(*p_) >= 0x20 && *p_ != '"' && *p_ != '\\') ++p_;
      out.append(run, p_);
      if (p_ == end_) return fail("unterminated string");
      const unsigned char c = static_cast<unsigned char>(*p_);
      if (c == '"') return ++p_, true;
      if (c < 0x20) return fail("control character in a string");
      if (c >= 0x80) {
        const int n =
            utf8_length(reinterpret_cast<const unsigned char*>(p_), reinterpret_cast<const unsigned char*>(end_));
        if (n == 0) return fail("invalid UTF-8");
        out.append(p_, static_cast<size_t>(n));
        p_ += n;
        continue;
      }
      if (!parse_escape(out)) return false;
    }
  }

  bool parse_escape(std::string& out) {
    const char* start = p_++;
    if (p_ == end_) return fail("unterminated string");
    switch (*p_++) {
      case '"':
        out += '"';
        return true;
      case '\\':
        out += '\\';
        return true;
      case '/':
        out += '/';
        return true;
      case 'b':
        out += '\b';
        return true;
      case 'f':
        out += '\f';
        return true;
      case 'n':
        out += '\n';
        return true;
      case 'r':
        out += '\r';
        return true;
      case 't':
        out += '\t';
        return true;
      case 'u': {
        uint32_t c = 0;
        if (!parse_hex4(c)) return false;
        if (c >= 0xD800 && c < 0xDC00 && end_ - p_ >= 6 && p_[0] == '\\' && p_[1] == 'u') {
          const char* mark = p_;
          p_ += 2;
          uint32_t low = 0;
          if (!parse_hex4(low)) return false;
          if (low >= 0xDC00 && low < 0xE000) {
            c = 0x10000 + ((c - 0xD800) << 10) + (low - 0xDC00);
          } else {
            p_ = mark;
          }
        }
        append_utf8(out, c);
        return true;
      }
      default:
        return fail_at(start, "unknown escape");
    }
  }

  bool parse_array(Value& out, int depth) {
    ++p_;
    Array items;
    skip_space();
    if (p_ != end_ && *p_ == ']') return ++p_, out = Value(std::move(items)), true;
    for (;;) {
      skip_space();
      items.emplace_back();
      if (!parse_value(items.back(), depth + 1)) return false;
      skip_space();
      if (p_ == end_) return fail("unterminated array");
      if (*p_ == ']') break;
      if (*p_ != ',') return fail("expected ',' or ']'");
      ++p_;
    }
    ++p_;
    out = Value(std::move(items));
    return true;
  }

  bool parse_object(Value& out, int depth) {
    ++p_;
    Object members;
    std::unordered_map<std::string_view, size_t> places;  // only for objects with many keys
    skip_space();
    if (p_ != end_ && *p_ == '}') return ++p_, out = Value(std::move(members)), true;
    for (;;) {
      skip_space();
      if (p_ == end_ || *p_ != '"') return fail("expected a key");
      const char* at = p_;
      std::string key;
      if (!parse_string(key)) return false;
      skip_space();
      if (p_ == end_ || *p_ != ':') return fail("expected ':'");
      ++p_;
      skip_space();
      Value value;
      if (!parse_value(value, depth + 1)) return false;
      if (!add_member(members, places, std::move(key), std::move(value))) return fail_at(at, "the key appears twice");
      skip_space();
      if (p_ == end_) return fail("unterminated object");
      if (*p_ == '}') break;
      if (*p_ != ',') return fail("expected ',' or '}'");
      ++p_;
    }
    ++p_;
    out = Value(std::move(members));
    return true;
  }

  bool add_member(Object& members, std::unordered_map<std::string_view, size_t>& places, std::string key, Value value) {
    constexpr size_t kFew = 16;
    size_t found = members.size();
    if (members.size() < kFew) {
      for (size_t i = 0; i < members.size(); ++i)
        if (members[i].first == key) found = i;
    } else {
      // Keys are viewed where they stand; short ones move with their vector, so it is rebuilt when that grows.
      if (places.size() != members.size() || members.size() == members.capacity()) {
        if (members.size() == members.capacity()) members.reserve(2 * members.size());
        places.clear();
        for (size_t i = 0; i < members.size(); ++i) places.emplace(members[i].first, i);
      }
      const auto place = places.find(key);
      if (place != places.end()) found = place->second;
    }
    if (found < members.size()) {
      if (duplicates_ == Duplicates::kReject) return false;
      members[found].second = std::move(value);
      return true;
    }
    members.emplace_back(std::move(key), std::move(value));
    if (members.size() > kFew) places.emplace(members.back().first, members.size() - 1);
    return true;
  }

  const char* begin_;
  const char* p_;
  const char* end_;
  const char* error_at_ = nullptr;
  const char* message_ = "";
  Duplicates duplicates_;
};

}  // namespace

Result<Value> parse(std::string_view text, Duplicates duplicates) {
  if (text.starts_with("\xEF\xBB\xBF")) return Error{Code::kInvalid, "JSON at byte 0: a byte order mark"};
  return Parser(text, duplicates).document();
}

// ---- writing

namespace {

// Length of a surrogate's three bytes at p, 0 if there is none. No valid character has them.
int surrogate_length(const unsigned char* p, const unsigned char* end) {
  return end - p >= 3 && p[0] == 0xED && (p[1] & 0xE0) == 0xA0 && (p[2] & 0xC0) == 0x80 ? 3 : 0;
}

void append_quoted(std::string& out, std::string_view text, bool ascii, bool escape_surrogates) {
  out += '"';
  const unsigned char* p = reinterpret_cast<const unsigned char*>(text.data());
  const unsigned char* end = p + text.size();
  while (p != end) {
    const unsigned char* run = p;
    while (p != end && *p >= 0x20 && *p != '"' && *p != '\\' && (!ascii || *p < 0x80) &&
           !(escape_surrogates && surrogate_length(p, end)))
      ++p;
    out.append(reinterpret_cast<const char*>(run), static_cast<size_t>(p - run));
    if (p == end) break;
    switch (*p) {
      case '"':
        out += "\\\"";
        ++p;
        continue;
      case '\\':
        out += "\\\\";
        ++p;
        continue;
      case '\b':
        out += "\\b";
        ++p;
        continue;
      case '\f':
        out += "\\f";
        ++p;
        continue;
      case '\n':
        out += "\\n";
        ++p;
        continue;
      case '\r':
        out += "\\r";
        ++p;
        continue;
      case '\t':
        out += "\\t";
        ++p;
        continue;
      default:
        break;
    }
    if (*p < 0x20) {
      out += fmt::format("\\u{:04x}", *p++);
      continue;
    }
    // Escape the character, as surrogate pairs beyond the first plane; broken bytes become U+FFFD.
    uint32_t c = 0xFFFD;
    int n = utf8_length(p, end);
    if (n == 0) n = surrogate_length(p, end);
    if (n == 2) c = (p[0] & 31u) << 6 | (p[1] & 63u);
    if (n == 3) c = (p[0] & 15u) << 12 | (p[1] & 63u) << 6 | (p[2] & 63u);
    if (n == 4) c = (p[0] & 7u) << 18 | (p[1] & 63u) << 12 | (p[2] & 63u) << 6 | (p[3] & 63u);
    p += n == 0 ? 1 : n;
    if (c >= 0x10000) {
      out += fmt::format("\\u{:04x}\\u{:04x}", 0xD800 + ((c - 0x10000) >> 10), 0xDC00 + ((c - 0x10000) & 0x3FF));
    } else {
      out += fmt::format("\\u{:04x}", c);
    }
  }
  out += '"';
}

void append_value(std::string& out, const Value& value, const Style& style, int depth) {
  const auto new_line = [&](int level) {
    if (style.indent < 0) return;
    out += '\n';
    out.append(static_cast<size_t>(level * style.indent), ' ');
  };
  const std::string_view item = style.indent >= 0 ? "," : style.item;
  switch (value.kind()) {
    case Value::Kind::kNull:
      out += "null";
      return;
    case Value::Kind::kBool:
      out += value.as_bool() ? "true" : "false";
      return;
    case Value::Kind::kInt:
    case Value::Kind::kFloat:
      out += value.as_string();
      return;
    case Value::Kind::kString:
      append_quoted(out, value.as_string(), style.ascii, style.escape_surrogates);
      return;
    case Value::Kind::kArray: {
      const Array& items = value.as_array();
      out += '[';
      for (size_t i = 0; i < items.size(); ++i) {
        if (i) out += item;
        new_line(depth + 1);
        append_value(out, items[i], style, depth + 1);
      }
      if (!items.empty()) new_line(depth);
      out += ']';
      return;
    }
    case Value::Kind::kObject: {
      const Object& members = value.as_object();
      out += '{';
      for (size_t i = 0; i < members.size(); ++i) {
        if (i) out += item;
        new_line(depth + 1);
        append_quoted(out, members[i].first, style.ascii, style.escape_surrogates);
        out += style.key;
        append_value(out, members[i].second, style, depth + 1);
      }
      if (!members.empty()) new_line(depth);
      out += '}';
      return;
    }
  }
}

}  // namespace

std::string dump(const Value& value, const Style& style) {
  std::string out;
  append_value(out, value, style, 0);
  return out;
}

std::string quote(std::string_view text, bool ascii) {
  std::string out;
  append_quoted(out, text, ascii, false);
  return out;
}

}  // namespace hadal::json
