#include "constrain/schema.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <tuple>

#include "constrain/patterns.h"

namespace hadal::constrain {
namespace {

using json::Value;

constexpr int kMostNesting = 64;  // of a schema
constexpr int64_t kMostItems = 1000, kMostLength = 10000, kMostFactor = 10000, kMostWork = 2000000;

constexpr std::string_view kDecimals = "^(0|-?[1-9][0-9]{0,17}|-?(0|[1-9][0-9]{0,17})\\.[0-9]{1,15})$";

constexpr std::pair<std::string_view, unsigned> kTypes[] = {
    {"null", kNull},     {"boolean", kBoolean}, {"integer", kInteger}, {"number", kNumber | kInteger},
    {"string", kString}, {"array", kArray},     {"object", kObject}};

constexpr std::string_view kAnnotations[] = {
    "title",    "description", "default",         "examples",         "$schema", "$id",  "id",
    "$comment", "deprecated",  "readOnly",        "writeOnly",        "$defs",   "$def", "definitions",
    "strict",   "$anchor",     "contentEncoding", "contentMediaType", "example"};
constexpr std::string_view kKnown[] = {"type",
                                       "enum",
                                       "const",
                                       "properties",
                                       "required",
                                       "additionalProperties",
                                       "items",
                                       "prefixItems",
                                       "additionalItems",
                                       "minItems",
                                       "maxItems",
                                       "minLength",
                                       "maxLength",
                                       "pattern",
                                       "format",
                                       "minimum",
                                       "maximum",
                                       "exclusiveMinimum",
                                       "exclusiveMaximum",
                                       "multipleOf",
                                       "anyOf",
                                       "oneOf",
                                       "allOf",
                                       "$ref"};
template <size_t N>
bool among(const std::string_view (&names)[N], std::string_view name) {
  return std::find(std::begin(names), std::end(names), name) != std::end(names);
}

std::string unescaped(std::string_view part) {  // of a JSON pointer in a URI
  std::string out;
  for (size_t i = 0; i < part.size(); ++i) {
    const auto hex = [](char c) { return c <= '9' ? c - '0' : (c | 32) - 'a' + 10; };
    if (part[i] == '%' && i + 2 < part.size() && std::isxdigit(static_cast<unsigned char>(part[i + 1])) &&
        std::isxdigit(static_cast<unsigned char>(part[i + 2]))) {
      out += static_cast<char>(hex(part[i + 1]) * 16 + hex(part[i + 2]));
      i += 2;
    } else {
      out += part[i];
    }
  }
  for (const auto& [from, to] : {std::pair("~1", "/"), std::pair("~0", "~")})
    for (size_t at = out.find(from); at != std::string::npos; at = out.find(from, at + 1)) out.replace(at, 2, to);
  return out;
}

int64_t nodes_of(const Value& value) {
  int64_t n = 1;
  if (value.is_array())
    for (const Value& item : value.as_array()) n += nodes_of(item);
  if (value.is_object())
    for (const auto& [key, item] : value.as_object()) n += nodes_of(item);
  return n;
}

unsigned type_of(const Value& value) {
  switch (value.kind()) {
    case Value::Kind::kNull:
      return kNull;
    case Value::Kind::kBool:
      return kBoolean;
    case Value::Kind::kInt:
      return kInteger | kNumber;
    case Value::Kind::kFloat:
      return value.to_int64() ? kInteger | kNumber : kNumber;
    case Value::Kind::kString:
      return kString;
    case Value::Kind::kArray:
      return kArray;
    case Value::Kind::kObject:
      return kObject;
  }
  return 0;
}

}  // namespace

unsigned types_of(const Value& type) {
  unsigned all = 0;
  for (const Value& one : type.is_array() ? type.as_array() : json::Array{type})
    for (const auto& [name, bits] : kTypes)
      if (one.is_string() && one.as_string() == name) all |= bits;
  return all;
}

bool is_annotation(std::string_view keyword) { return among(kAnnotations, keyword); }

void SchemaCompiler::enter(const Value& root, bool strict, std::string where) {
  root_ = &root;
  strict_ = strict;
  where_ = std::move(where);
}

void SchemaCompiler::fail(const std::string& path, const std::string& what, Code code) {
  if (!error_) error_ = Error{code, fmt::format("{}{}: {}", where_, path.empty() ? "/" : path, what)};
}

void SchemaCompiler::unsupported(const std::string& path, std::string_view keyword, std::string_view why) {
  if (strict_) return fail(path, fmt::format("{} {}", keyword, why));
  const std::string name = fmt::format("{}{}/{}", where_, path, keyword);
  if (std::find(ignored_.begin(), ignored_.end(), name) == ignored_.end()) ignored_.push_back(name);
}

Rule SchemaCompiler::rule_of(const Value& schema, const std::string& path, int depth) {
  if (schema.is_bool() && schema.as_bool()) return json_.any_value();
  if (schema.is_object() && schema.as_object().empty()) return json_.any_value();
  const auto [place, is_new] = rules_.try_emplace({root_, &schema}, 0);
  if (!is_new) return place->second;
  const Rule rule = place->second = g().add_rule();
  value_into(rule, g().rule(rule).start, g().rule(rule).end, schema, kAnyType, false, path, depth);
  return rule;
}

const Value* SchemaCompiler::resolve(const Value& schema, const std::string& path) {
  const Value* target = schema.find("$ref");
  if (!target->is_string() || target->as_string().empty() || target->as_string()[0] != '#') {
    fail(path, "$ref: expected a reference inside the schema, #/...");
    return nullptr;
  }
  std::string_view rest = std::string_view(target->as_string()).substr(1);
  const Value* at = root_;
  while (at && !rest.empty()) {
    if (rest[0] != '/') at = nullptr;
    if (!at) break;
    rest.remove_prefix(1);
    const size_t n = std::min(rest.find('/'), rest.size());
    const std::string part = unescaped(rest.substr(0, n));
    rest.remove_prefix(n);
    if (at->is_array()) {
      size_t index = 0;
      const bool digits = !part.empty() && part.size() < 6 && part.find_first_not_of("0123456789") == std::string::npos;
      if (digits) index = std::stoul(part);
      at = digits && index < at->as_array().size() ? &at->as_array()[index] : nullptr;
    } else {
      at = at->find(part);
    }
  }
  if (!at || !(at->is_object() || at->is_bool())) {
    fail(path, fmt::format("$ref: {} is not there", target->as_string()), Code::kInvalid);
    return nullptr;
  }
  return at;
}

bool SchemaCompiler::spend(int64_t work, const std::string& path) {
  work_ += work;
  if (work_ > kMostWork) fail(path, "too large: its parts are joined too often");
  return work_ <= kMostWork;
}

std::optional<Value> SchemaCompiler::merged(const Value& a, const Value& b, const std::string& path, int depth) {
  if (depth > kMostNesting || !spend(nodes_of(a) + nodes_of(b), path)) return std::nullopt;
  if (a.is_bool()) return a.as_bool() ? b : a;
  if (b.is_bool()) return b.as_bool() ? a : b;
  if (!a.is_object() || !b.is_object()) return std::nullopt;
  for (const Value* one : {&a, &b})
    if (one->find("$ref")) {
      const Value* target = resolve(*one, path);
      if (!target) return std::nullopt;
      Value rest{json::Object{}};
      for (const auto& [key, value] : one->as_object())
        if (key != "$ref" && !is_annotation(key)) rest.set(key, value);
      const auto whole = rest.as_object().empty() ? std::optional(*target) : merged(*target, rest, path, depth + 1);
      if (!whole) return std::nullopt;
      return one == &a ? merged(*whole, b, path, depth + 1) : merged(a, *whole, path, depth + 1);
    }
  Value out = a;
  for (const auto& [key, theirs] : b.as_object()) {
    const Value* own = out.find(key);
    if (!own || *own == theirs || is_annotation(key)) {
      if (!own) out.set(key, theirs);
      continue;
    }
    const bool numbers = own->is_number() && theirs.is_number();
    const bool greater = numbers && theirs.to_double().value_or(0) > own->to_double().value_or(0);
    if (key == "required" && own->is_array() && theirs.is_array()) {
      json::Array all = own->as_array();
      for (const Value& name : theirs.as_array())
        if (std::find(all.begin(), all.end(), name) == all.end()) all.push_back(name);
      out.set(key, all);
    } else if (key == "properties" && own->is_object() && theirs.is_object()) {
      Value all = *own;
      for (const auto& [name, schema] : theirs.as_object()) {
        const Value* there = all.find(name);
        const auto one = there ? merged(*there, schema, path, depth + 1) : std::optional(schema);
        if (!one) return std::nullopt;
        all.set(name, *one);
      }
      out.set(key, all);
    } else if (key == "type") {
      json::Array both_types;
      for (const auto& [name, type] : kTypes)
        if (types_of(*own) & types_of(theirs) & (type == (kNumber | kInteger) ? kNumber : type))
          both_types.emplace_back(name);
      out.set(key, both_types);
    } else if (numbers && (key == "minimum" || key == "exclusiveMinimum" || key == "minLength" || key == "minItems")) {
      if (greater) out.set(key, theirs);
    } else if (numbers && (key == "maximum" || key == "exclusiveMaximum" || key == "maxLength" || key == "maxItems")) {
      if (!greater) out.set(key, theirs);
    } else if (key == "enum" && own->is_array() && theirs.is_array()) {
      json::Array shared;
      for (const Value& value : own->as_array())
        if (std::find(theirs.as_array().begin(), theirs.as_array().end(), value) != theirs.as_array().end())
          shared.push_back(value);
      out.set(key, shared);
    } else if (key == "items" || key == "additionalProperties") {
      const auto one = merged(*own, theirs, path, depth + 1);
      if (!one) return std::nullopt;
      out.set(key, *one);
    } else if (key == "const") {
      return Value(false);
    } else {
      return std::nullopt;
    }
  }
  // A schema that closes its objects closes them to what the other one declares.
  for (const auto& [closed, open] : {std::pair(&a, &b), std::pair(&b, &a)}) {
    const Value* rest = closed->find("additionalProperties");
    const Value* theirs = open->find("properties");
    if (!rest || (rest->is_bool() && rest->as_bool()) || !theirs) continue;
    const Value* own = closed->find("properties");
    for (const auto& [name, schema] : theirs->as_object()) {
      if (own && own->find(name)) continue;
      const auto one = merged(schema, *rest, path, depth + 1);
      if (!one) return std::nullopt;
      out.find("properties")->set(name, *one);
    }
  }
  return out;
}

void SchemaCompiler::value_into(Rule rule, State from, State to, const Value& schema, unsigned types, bool raw,
                                const std::string& path, int depth) {
  if (error_ || types == 0 || !spend(1, path)) return;
  if (depth > kMostNesting) return fail(path, "nested too deep");
  if (g().too_large()) return fail(path, fmt::format("too large: more than {} states", kMostStates));
  if (schema.is_bool()) {
    if (schema.as_bool()) plain_types(from, to, schema, types, raw, path, depth);
    return;
  }
  if (!schema.is_object()) return fail(path, "expected a schema, an object or a boolean", Code::kInvalid);
  if (schema.find("$ref")) {
    const Value* target = resolve(schema, path);
    if (!target) return;
    json::Object rest;
    for (const auto& [key, value] : schema.as_object())
      if (key != "$ref" && !is_annotation(key)) rest.emplace_back(key, value);
    if (!rest.empty()) {
      const auto all = merged(*target, keep(rest), path, depth + 1);
      if (!all) return fail(path, "$ref: cannot be joined with what stands beside it");
      return value_into(rule, from, to, keep(*all), types, raw, path, depth + 1);
    }
    if (types == kAnyType && !raw) return g().call(from, to, rule_of(*target, path + "/$ref", depth + 1));
    return value_into(rule, from, to, *target, types, raw, path, depth + 1);
  }
  for (const auto& [key, value] : schema.as_object())
    if (!among(kKnown, key) && !is_annotation(key)) unsupported(path, key);
  if (const Value* type = schema.find("type")) {
    const unsigned known = types_of(*type);
    const bool empty = type->is_array() && type->as_array().empty();
    if (known == 0 && !empty) return fail(path, "type: expected names of JSON types", Code::kInvalid);
    // kNumber: numbers are allowed; kInteger beside it: whole ones only.
    const unsigned whole = (types & kInteger) | (known & kNumber ? 0u : known & kInteger);
    const unsigned numbers = (types & kNumber) && (known & (kNumber | kInteger)) ? kNumber | whole : 0u;
    types = (types & known & ~(kNumber | kInteger)) | numbers;
  }
  for (const char* key : {"anyOf", "oneOf", "allOf"}) {
    const Value* branches = schema.find(key);
    if (!branches) continue;
    if (!branches->is_array() || branches->as_array().empty())
      return fail(path, fmt::format("{}: expected schemas", key), Code::kInvalid);
    if (!spend(nodes_of(schema), path)) return;
    Value base{json::Object{}};
    for (const auto& [other, value] : schema.as_object())
      if (other != key) base.set(other, value);
    const bool is_all = std::string_view(key) == "allOf";
    if (std::string_view(key) == "oneOf" && !exclusive(branches->as_array(), path)) {
      unsupported(path, key, "is supported only where its branches exclude each other");
      return value_into(rule, from, to, keep(base), types, raw, path, depth + 1);
    }
    std::optional<Value> all = base;
    for (size_t i = 0; i < branches->as_array().size(); ++i) {
      const Value& branch = branches->as_array()[i];
      const std::string own = fmt::format("{}/{}/{}", path, key, i);
      if (is_all) {
        const auto more = all ? merged(*all, branch, own, depth + 1) : std::nullopt;
        if (error_) return;
        if (!more) {
          unsupported(path, key, "cannot be merged");
          return value_into(rule, from, to, keep(base), types, raw, path, depth + 1);
        }
        all = more;
        continue;
      }
      const bool bare = std::all_of(base.as_object().begin(), base.as_object().end(),
                                    [](const auto& member) { return is_annotation(member.first); });
      if (bare) {
        value_into(rule, from, to, branch, types, raw, own, depth + 1);
        continue;
      }
      const auto one = merged(base, branch, own, depth + 1);
      if (error_) return;
      if (!one) return fail(path, fmt::format("{}: cannot be joined with what stands beside it", key));
      value_into(rule, from, to, keep(*one), types, raw, own, depth + 1);
    }
    if (is_all) value_into(rule, from, to, keep(*all), types, raw, path, depth + 1);
    return;
  }
  const Value* one = schema.find("const");
  const Value* some = schema.find("enum");
  if (!one && !some) return plain_types(from, to, schema, types, raw, path, depth);
  if (some && !some->is_array()) return fail(path, "enum: expected values", Code::kInvalid);
  std::vector<const Value*> values;
  if (one) values.push_back(one);
  if (!one)
    for (const Value& value : some->as_array()) values.push_back(&value);
  else if (some && std::find(some->as_array().begin(), some->as_array().end(), *one) == some->as_array().end())
    return;
  if (values.size() > 1000) return fail(path, "enum: expected at most 1000 values");
  constants(rule, from, to, schema, values, types, raw, path, depth);
}

void SchemaCompiler::constants(Rule rule, State from, State to, const Value& schema,
                               const std::vector<const Value*>& values, unsigned types, bool raw,
                               const std::string& path, int depth) {
  std::vector<std::string> texts;
  std::optional<Dfa> strings, numbers;
  for (const Value* value : values) {
    const unsigned type = type_of(*value);
    const bool fits =
        type & kNumber ? (types & kNumber) && (!(types & kInteger) || (type & kInteger)) : (types & type) != 0;
    if (!fits || (raw && type != kString)) continue;
    if (type == kString) {
      if (!strings) strings = strings_of(schema, false, path, true);
      if (!strings) return;
      const std::string& text = value->as_string();
      if (!strings->matches(text)) continue;
      if (raw && json_.holds_markup(text))
        return fail(path, "enum: a tool call cannot write a value that holds markup");
      texts.push_back(raw ? text : json::quote(text));
    } else if (type & kNumber) {
      if (!numbers) numbers = numbers_of(schema, (types & kInteger) != 0, path);
      if (!numbers) return;
      const std::string text =
          (type & kInteger) && value->to_int64() ? std::to_string(*value->to_int64()) : json::dump(*value);
      const bool bounded = std::any_of(schema.as_object().begin(), schema.as_object().end(), [](const auto& m) {
        return m.first.find("inimum") != std::string::npos || m.first.find("aximum") != std::string::npos ||
               m.first == "multipleOf";
      });
      if (bounded && !numbers->matches(text)) continue;
      texts.push_back(text);
    } else if (type == kArray || type == kObject) {
      // Their other keywords would have to be checked here.
      const char* beside[] = {"properties", "required", "additionalProperties", "items", "prefixItems",
                              "minItems",   "maxItems"};
      for (const char* key : beside)
        if (schema.find(key)) unsupported(path, key, "is not supported beside enum or const");
      exact(rule, from, to, *value, path, depth);
    } else {
      texts.push_back(json::dump(*value));
    }
  }
  if (!texts.empty()) json_.dfa_into(rule, from, to, one_of(texts), false, false, false);
}

void SchemaCompiler::exact(Rule rule, State from, State to, const Value& value, const std::string& path, int depth) {
  if (depth > kMostNesting) return fail(path, "nested too deep");
  if (!value.is_array() && !value.is_object()) return g().empty(g().text(from, json::dump(value)), to);
  const bool is_list = value.is_array();
  State at = g().text(from, is_list ? "[" : "{");
  bool first = true;
  const auto next = [&] {
    if (!first) at = g().text(at, ",");
    first = false;
    at = json_.blanks(rule, at);
  };
  const auto item = [&](const Value& inner) {
    const State after = g().add_state(rule);
    exact(rule, at, after, inner, path, depth + 1);
    at = after;
  };
  if (is_list) {
    for (const Value& inner : value.as_array()) {
      next();
      item(inner);
    }
  } else {
    for (const auto& [key, inner] : value.as_object()) {
      next();
      at = json_.colon(rule, g().text(at, json::quote(key)));
      item(inner);
    }
  }
  g().empty(g().text(json_.blanks(rule, at), is_list ? "]" : "}"), to);
}

bool SchemaCompiler::exclusive(const json::Array& branches, const std::string& path) {
  std::vector<const Value*> all;
  for (const Value& branch : branches) {
    const Value* one = &branch;
    for (int i = 0; i < 16 && one && one->find("$ref"); ++i) one = resolve(*one, path);
    if (!one) return false;
    all.push_back(one);
  }
  for (size_t i = 0; i < all.size(); ++i)
    for (size_t j = 0; j < i; ++j)
      if (!exclude(*all[i], *all[j], path, 0)) return false;
  return true;
}

bool SchemaCompiler::exclude(const Value& a, const Value& b, const std::string& path, int depth) {
  if ((a.is_bool() && !a.as_bool()) || (b.is_bool() && !b.as_bool())) return true;
  if (!a.is_object() || !b.is_object() || depth > 4) return false;
  const auto types = [](const Value& schema) {
    const Value* type = schema.find("type");
    return type ? types_of(*type) : kAnyType | kInteger;
  };
  if (!(types(a) & types(b))) return true;
  const auto constants = [](const Value& schema) -> std::optional<json::Array> {
    if (const Value* one = schema.find("const")) return json::Array{*one};
    if (const Value* some = schema.find("enum"); some && some->is_array()) return some->as_array();
    return std::nullopt;
  };
  const auto of_a = constants(a), of_b = constants(b);
  const int64_t work = of_a && of_b ? static_cast<int64_t>(of_a->size() * of_b->size()) : 1;
  if (!spend(work, path)) return false;
  if (of_a && of_b) {
    const auto differs = [&](const Value& x) {
      return (x.is_string() || x.is_bool() || x.is_int() || x.is_null()) &&
             std::none_of(of_b->begin(), of_b->end(),
                          [&](const Value& y) { return x == y || (x.is_number() && y.is_number()); });
    };
    if (std::all_of(of_a->begin(), of_a->end(), differs)) return true;
    const auto equal = [&](const Value& x) {
      return !x.is_int() ||
             std::any_of(of_b->begin(), of_b->end(), [&](const Value& y) { return !y.is_int() || x == y; });
    };
    if (std::none_of(of_a->begin(), of_a->end(), equal)) return true;
  }
  const bool objects = types(a) == kObject && types(b) == kObject;
  const Value *in_a = a.find("properties"), *in_b = b.find("properties");
  if (!objects || !in_a || !in_b || !in_a->is_object()) return false;
  const auto requires_it = [](const Value& schema, const std::string& name) {
    const Value* list = schema.find("required");
    return list && list->is_array() &&
           std::find(list->as_array().begin(), list->as_array().end(), Value(name)) != list->as_array().end();
  };
  for (const auto& [name, schema] : in_a->as_object())
    if (const Value* other = in_b->find(name); other && requires_it(a, name) && requires_it(b, name))
      if (exclude(schema, *other, path, depth + 1)) return true;
  return false;
}

void SchemaCompiler::plain_types(State from, State to, const Value& schema, unsigned types, bool raw,
                                 const std::string& path, int depth) {
  if (types & kString) strings(from, to, schema, raw, path);
  if (raw) return;
  if (types & kNull) g().empty(g().text(from, "null"), to);
  if (types & kBoolean)
    for (const char* word : {"true", "false"}) g().empty(g().text(from, word), to);
  if (types & kNumber) numbers(from, to, schema, (types & kInteger) != 0, path);
  if (types & kArray) arrays(from, to, schema, path, depth);
  if (types & kObject) objects(from, to, schema, path, depth);
}

std::optional<int64_t> SchemaCompiler::size_keyword(const Value& schema, const char* key, int64_t most,
                                                    const std::string& path) {
  const Value* value = schema.find(key);
  if (!value) return std::nullopt;
  const auto number = value->is_number() ? value->to_int64() : std::nullopt;
  if (!number || *number < 0) {
    fail(path, fmt::format("{}: expected a whole number from 0 on", key), Code::kInvalid);
    return std::nullopt;
  }
  if (*number > most) {
    const bool is_least = std::string_view(key).starts_with("min");
    if (is_least) fail(path, fmt::format("{}: expected at most {}", key, most));
    if (!is_least) unsupported(path, key, fmt::format("is supported up to {}", most));
    return std::nullopt;
  }
  return number;
}

std::optional<Dfa> SchemaCompiler::strings_of(const Value& schema, bool raw, const std::string& path,
                                              bool with_length) {
  std::optional<Dfa> dfa = raw ? json_.plain_dfa() : json_.text_dfa();
  const auto also = [&](const Result<Dfa>& more, std::string_view key) {
    if (!more.ok()) return unsupported(path, key, fmt::format("is not supported ({})", more.error().message));
    const auto joined = both(*dfa, more.value());
    if (!joined.ok()) return unsupported(path, key, "is too large");
    dfa = joined.value();
  };
  if (const Value* pattern = schema.find("pattern")) {
    if (pattern->is_string()) also(search(pattern->as_string()), "pattern");
    if (!pattern->is_string()) fail(path, "pattern: expected a string", Code::kInvalid);
  }
  if (const Value* format = schema.find("format"); format && format->is_string()) {
    const auto pattern = format_pattern(format->as_string());
    if (pattern) also(search(*pattern), "format");
    if (!pattern) unsupported(path, "format", fmt::format("\"{}\" is not supported", format->as_string()));
  }
  if (with_length) {
    const auto least = size_keyword(schema, "minLength", kMostLength, path);
    const auto most = size_keyword(schema, "maxLength", kMostLength, path);
    if (least || most) {
      const auto length = search(most ? fmt::format("^[^]{{{},{}}}$", least.value_or(0), *most)
                                      : fmt::format("^[^]{{{},}}$", least.value_or(0)));
      also(length, most ? "maxLength" : "minLength");
    }
  }
  if (error_) return std::nullopt;
  return dfa;
}

void SchemaCompiler::strings(State from, State to, const Value& schema, bool raw, const std::string& path) {
  const bool limited = schema.find("minLength") || schema.find("maxLength");
  if (schema.find("pattern") || schema.find("format")) {
    const auto dfa = strings_of(schema, raw, path, true);
    if (dfa) g().call(from, to, json_.string_rule(*dfa, raw, false));
  } else if (limited) {
    const auto least = size_keyword(schema, "minLength", kMostLength, path);
    const auto most = size_keyword(schema, "maxLength", kMostLength, path);
    g().call(from, to,
             json_.string_rule(raw ? json_.plain_dfa() : json_.text_dfa(), raw, !raw,
                               static_cast<int32_t>(least.value_or(0)), static_cast<int32_t>(most.value_or(kNoLimit))));
  } else {
    g().call(from, to, raw ? json_.plain_text() : json_.any_string());
  }
}

std::optional<Dfa> SchemaCompiler::numbers_of(const Value& schema, bool integer, const std::string& path) {
  const Value* factor = schema.find("multipleOf");
  const int64_t n = factor && factor->is_number() ? factor->to_int64().value_or(0) : 0;  // 0: none that is known
  // Digits times remainders are the states: with a large factor their number is left open.
  const bool any_length = n > 1000;
  Dfa dfa = search(!integer ? kDecimals : any_length ? "^(0|-?[1-9][0-9]*)$" : "^(0|-?[1-9][0-9]{0,17})$").value();
  const auto also = [&](const Result<Dfa>& more, std::string_view key) {
    const auto joined = more.ok() ? both(dfa, more.value()) : more;
    if (!joined.ok()) return unsupported(path, key, "is too large");
    dfa = joined.value();
  };
  for (const auto& [key, is_minimum, open] :
       {std::tuple("minimum", true, false), std::tuple("exclusiveMinimum", true, true),
        std::tuple("maximum", false, false), std::tuple("exclusiveMaximum", false, true)}) {
    const Value* value = schema.find(key);
    if (!value) continue;
    if (!value->is_number()) {
      fail(path, fmt::format("{}: expected a number", key), Code::kInvalid);
      return std::nullopt;
    }
    const auto pattern = bound_pattern(*value, is_minimum, open);
    if (!pattern) {
      unsupported(path, key, "is supported up to 1e18");
      continue;
    }
    also(search(*pattern), key);
  }
  if (factor) {
    if (!integer || n < 1 || n > kMostFactor) {
      unsupported(path, "multipleOf", fmt::format("is supported for integers, up to {}", kMostFactor));
    } else {
      also(multiples_of(static_cast<int>(n)), "multipleOf");
    }
  }
  if (error_) return std::nullopt;
  return dfa;
}

void SchemaCompiler::numbers(State from, State to, const Value& schema, bool integer, const std::string& path) {
  bool bounded = false;
  for (const char* key : {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"})
    bounded = bounded || schema.find(key);
  if (!bounded) return g().call(from, to, json_.number(integer));
  const auto dfa = numbers_of(schema, integer, path);
  if (!dfa) return;
  g().call(from, to, json_.string_rule(*dfa, true, false));
}

void SchemaCompiler::arrays(State from, State to, const Value& schema, const std::string& path, int depth) {
  const Value* items = schema.find("items");
  const Value* tuple = schema.find("prefixItems");
  const Value* rest = items;
  if (!tuple && items && items->is_array()) {  // as before 2020
    tuple = items;
    rest = schema.find("additionalItems");
  }
  const auto least = size_keyword(schema, "minItems", kMostItems, path);
  const auto most = size_keyword(schema, "maxItems", kMostItems, path);
  if (!rest && !tuple && !least && !most) return g().call(from, to, json_.any_array());
  if (tuple && !tuple->is_array()) return fail(path, "prefixItems: expected schemas", Code::kInvalid);
  const Rule rule = g().add_rule();
  g().call(from, to, rule);
  const bool closed = rest && rest->is_bool() && !rest->as_bool();
  std::vector<Rule> first;
  for (size_t i = 0; tuple && i < tuple->as_array().size(); ++i)
    first.push_back(rule_of(tuple->as_array()[i], fmt::format("{}/prefixItems/{}", path, i), depth + 1));
  json_.list_into(rule, first, static_cast<int32_t>(least.value_or(0)), static_cast<int32_t>(most.value_or(kNoLimit)),
                  [&]() -> std::optional<Rule> {
                    if (closed) return std::nullopt;
                    return rest ? rule_of(*rest, path + "/items", depth + 1) : json_.any_value();
                  });
}

void SchemaCompiler::objects(State from, State to, const Value& schema, const std::string& path, int depth) {
  const Value* given = schema.find("properties");
  const Value* needed = schema.find("required");
  const Value* more = schema.find("additionalProperties");
  if (!given && !needed && !more) {
    if (strict_ && schema.is_object() && schema.find("type")) fail(path, "additionalProperties: expected false");
    return g().call(from, to, json_.any_object());
  }
  if (given && !given->is_object()) return fail(path, "properties: expected schemas by name", Code::kInvalid);
  if (needed && !needed->is_array()) return fail(path, "required: expected names", Code::kInvalid);
  if (strict_ && !(more && more->is_bool() && !more->as_bool()))
    return fail(path, "additionalProperties: expected false");
  std::vector<std::string> required;
  if (needed)
    for (const Value& name : needed->as_array()) {
      if (!name.is_string()) return fail(path, "required: expected names", Code::kInvalid);
      required.push_back(name.as_string());
    }
  const auto is_required = [&](const std::string& name) {
    return std::find(required.begin(), required.end(), name) != required.end();
  };
  const bool closed = more && more->is_bool() && !more->as_bool();
  const auto rest_rule = [&] {
    return more ? rule_of(*more, path + "/additionalProperties", depth + 1) : json_.any_value();
  };
  std::vector<JsonGrammar::Property> properties;
  std::vector<std::string> names;
  if (given)
    for (const auto& [name, inner] : given->as_object()) {
      if (strict_ && !is_required(name)) return fail(path, fmt::format("required: expected \"{}\" too", name));
      properties.push_back(
          {name, rule_of(inner, fmt::format("{}/properties/{}", path, name), depth + 1), is_required(name)});
      names.push_back(json::quote(name));
      if (error_) return;
    }
  for (const std::string& name : required) {
    if (given && given->find(name)) continue;
    if (closed) return;  // what is required is forbidden: no object fits
    if (std::any_of(properties.begin(), properties.end(), [&](const auto& p) { return p.name == name; })) continue;
    properties.push_back({name, rest_rule(), true});
    names.push_back(json::quote(name));
  }
  const Rule rule = g().add_rule();
  g().call(from, to, rule);
  json_.members_into(rule, properties, [&]() -> std::optional<std::pair<Rule, Rule>> {
    if (closed) return std::nullopt;
    if (names.empty()) return std::pair(json_.any_string(), rest_rule());
    // Other keys than the declared ones.
    std::vector<std::string> plain;
    for (const auto& property : properties) plain.push_back(property.name);
    const auto others = both(json_.text_dfa(), one_of(plain), true);
    if (!others.ok()) {
      fail(path, "properties: too many");
      return std::nullopt;
    }
    return std::pair(json_.string_rule(others.value(), false, false), rest_rule());
  });
}

}  // namespace hadal::constrain
