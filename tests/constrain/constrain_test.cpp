// Constrained decoding: what a grammar lets through is valid, what is valid it lets through, and masks are what feeding
// every token byte by byte gives. The validator here knows nothing of the compiler.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>
#include <random>
#include <regex>
#include <sstream>

#include "constrain/matcher.h"
#include "constrain/regex.h"
#include "constrain/shape.h"
#include "tests/support/shared.h"
#include "text/parse_completion.h"
#include "text/templates.h"
#include "text/tokenizer_json.h"
#include "text/unicode.h"

namespace hadal::constrain {
namespace {

using json::Value;

Value parse(const std::string& text) {
  auto value = json::parse(text);
  EXPECT_TRUE(value.ok()) << text;
  return value.ok() ? std::move(value).value() : Value();
}

// Bytes, and merges that cross what grammars care for: quotes, separators, tags, half characters.
const text::Tokenizer& tokenizer() {
  static const text::Tokenizer kTokenizer = [] {
    text::Merges merges;
    for (const std::string word :
         {"\": \"",      "\", \"", "\"},",     "\"}",       "\n  ",  "\n    ", "true",  "false",
          "null",        "name",   "123",      "-1",        "[[",    "]]",     "{\"",   "}]",
          "\n\n<",       "</",     "\">\n",    "string=\"", " = ",   "\\u00",  "\\\"",  "\xE4\xBD\xA0\xE5\xA5\xBD",
          "\xBD\xA0",    "abc",    ".5",       "e+1",       "\",\n", "0.",     "red\"", "a\"b",
          "tool_calls>", "invoke", "parameter"})
      for (size_t n = 2; n <= word.size(); ++n) merges.emplace_back(word.substr(0, n - 1), word.substr(n - 1, 1));
    return text::Tokenizer::parse(json::dump(text::tokenizer_json(merges, false)), "test").value();
  }();
  return kTokenizer;
}
std::shared_ptr<const Vocabulary> vocabulary() {
  static const auto kVocabulary =
      std::make_shared<const Vocabulary>(tokenizer(), std::vector<TokenId>{*tokenizer().id_of(text::kEos)});
  return kVocabulary;
}

std::shared_ptr<const Automaton> automaton_of(const Shape& shape) {
  auto compiled = compile(shape);
  EXPECT_TRUE(compiled.ok()) << (compiled.ok() ? "" : compiled.error().message);
  if (!compiled.ok()) return nullptr;
  return std::make_shared<const Automaton>(std::move(compiled).value().grammar, vocabulary());
}
Shape of_schema(const Value& schema, bool strict = false) {
  Shape shape;
  shape.answer = Shape::Answer::kSchema;
  shape.schema = schema;
  shape.strict = strict;
  return shape;
}
std::shared_ptr<const Automaton> automaton_of(const std::string& schema) {
  return automaton_of(of_schema(parse(schema)));
}
bool accepts(const std::shared_ptr<const Automaton>& automaton, const std::string& text) {
  Matcher matcher(automaton);
  return matcher.accept_text(text) && matcher.may_end();
}

std::vector<uint64_t> words() { return std::vector<uint64_t>((static_cast<size_t>(tokenizer().size()) + 63) / 64); }
bool has(const std::vector<uint64_t>& bits, TokenId id) {
  return bits[static_cast<size_t>(id) / 64] >> (static_cast<size_t>(id) % 64) & 1;
}

// --- A validator of its own

size_t code_points(const std::string& text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}
bool is_type(const Value& value, const std::string& type) {
  if (type == "null") return value.is_null();
  if (type == "boolean") return value.is_bool();
  if (type == "string") return value.is_string();
  if (type == "array") return value.is_array();
  if (type == "object") return value.is_object();
  if (type == "number") return value.is_number();
  return type == "integer" && value.is_number() && std::floor(*value.to_double()) == *value.to_double();
}
bool equal(const Value& a, const Value& b) {
  if (a.is_number() && b.is_number()) return *a.to_double() == *b.to_double();
  if (a.kind() != b.kind()) return false;
  if (a.is_array())
    return std::equal(a.as_array().begin(), a.as_array().end(), b.as_array().begin(), b.as_array().end(), equal);
  if (!a.is_object()) return a == b;
  return a.as_object().size() == b.as_object().size() &&
         std::all_of(a.as_object().begin(), a.as_object().end(), [&](const auto& member) {
           const Value* other = b.find(member.first);
           return other && equal(member.second, *other);
         });
}
bool valid(const Value& value, const Value& schema, const Value& root) {
  if (schema.is_bool()) return schema.as_bool();
  if (const Value* ref = schema.find("$ref")) {
    const Value* at = &root;
    std::stringstream parts(ref->as_string().substr(1));
    for (std::string part; std::getline(parts, part, '/');)
      if (!part.empty()) at = at->find(part);
    return valid(value, *at, root);
  }
  const auto list = [&](const char* key) { return schema.find(key) ? schema.find(key)->as_array() : json::Array{}; };
  const auto number = [&](const char* key, double otherwise) {
    return schema.find(key) ? *schema.find(key)->to_double() : otherwise;
  };
  if (const Value* type = schema.find("type")) {
    bool any = false;
    for (const Value& one : type->is_array() ? type->as_array() : json::Array{*type})
      any = any || is_type(value, one.as_string());
    if (!any) return false;
  }
  if (const Value* one = schema.find("const"); one && !equal(*one, value)) return false;
  if (schema.find("enum")) {
    bool any = false;
    for (const Value& one : list("enum")) any = any || equal(one, value);
    if (!any) return false;
  }
  if (schema.find("anyOf")) {
    bool any = false;
    for (const Value& one : list("anyOf")) any = any || valid(value, one, root);
    if (!any) return false;
  }
  for (const Value& one : list("allOf"))
    if (!valid(value, one, root)) return false;
  if (value.is_number()) {
    const double x = *value.to_double();
    if (x < number("minimum", -INFINITY) || x > number("maximum", INFINITY)) return false;
    if (x <= number("exclusiveMinimum", -INFINITY) || x >= number("exclusiveMaximum", INFINITY)) return false;
    if (const Value* factor = schema.find("multipleOf")) {
      if (const auto whole = value.to_int64(); !whole || *whole % *factor->to_int64() != 0) return false;
    }
  }
  if (value.is_string()) {
    const auto n = static_cast<double>(code_points(value.as_string()));
    if (n < number("minLength", 0) || n > number("maxLength", INFINITY)) return false;
    if (const Value* pattern = schema.find("pattern"))
      if (!std::regex_search(value.as_string(), std::regex(pattern->as_string()))) return false;
  }
  if (value.is_array()) {
    const auto& items = value.as_array();
    const auto n = static_cast<double>(items.size());
    if (n < number("minItems", 0) || n > number("maxItems", INFINITY)) return false;
    const json::Array tuple = list("prefixItems");
    for (size_t i = 0; i < items.size(); ++i) {
      const Value* one = i < tuple.size() ? &tuple[i] : schema.find("items");
      if (one && !valid(items[i], *one, root)) return false;
    }
  }
  if (value.is_object()) {
    for (const Value& name : list("required"))
      if (!value.find(name.as_string())) return false;
    for (const auto& [key, inner] : value.as_object()) {
      const Value* properties = schema.find("properties");
      const Value* one = properties ? properties->find(key) : nullptr;
      if (!one) one = schema.find("additionalProperties");
      if (one && !valid(inner, *one, root)) return false;
    }
  }
  return true;
}

// --- Random schemas and random walks

Value random_schema(std::mt19937_64& random, int depth) {
  const auto below = [&](size_t n) { return static_cast<int>(random() % n); };
  json::Object schema;
  switch (below(depth > 0 ? 11 : 8)) {
    case 0:
      return json::Object{{"type", "boolean"}};
    case 1:
      schema = {{"type", "integer"}};
      if (below(2)) schema.emplace_back(below(2) ? "minimum" : "exclusiveMinimum", below(400) - 200);
      if (below(2)) schema.emplace_back(below(2) ? "maximum" : "exclusiveMaximum", 210 + below(2000));
      if (below(3) == 0) schema.emplace_back("multipleOf", 1 + below(12));
      return schema;
    case 2:
      schema = {{"type", "number"}};
      if (below(2)) schema.emplace_back(below(2) ? "minimum" : "exclusiveMinimum", (below(400) - 200) / 8.0);
      if (below(2)) schema.emplace_back(below(2) ? "maximum" : "exclusiveMaximum", 26 + below(4000) / 16.0);
      return schema;
    case 3:
      schema = {{"type", "string"}};
      if (below(2)) schema.emplace_back("minLength", below(6));
      if (below(2)) schema.emplace_back("maxLength", 6 + below(9));
      return schema;
    case 4: {
      static const char* const kPatterns[] = {"^[a-z]{2,5}$", "^(ab|cd)+x?$",       "[0-9]{3}",  "^a",
                                              "b$",           "^\\d+(\\.\\d{2})?$", "^[^\"x]*$", "^\\w+ \\w+$"};
      return json::Object{{"type", "string"}, {"pattern", kPatterns[below(std::size(kPatterns))]}};
    }
    case 5:
      return json::Object{{"enum", json::Array{"red", "a\"b", 12, -1.5, Value(), true, json::Array{1, "x"}}}};
    case 6:
      return json::Object{{"type", json::Array{"string", "null"}}};
    case 7:
      return json::Object{{"const", below(2) ? Value("ab\ncd") : Value(json::Object{{"k", 1}})}};
    case 8: {
      schema = {{"type", "array"}};
      if (below(2)) schema.emplace_back("items", random_schema(random, depth - 1));
      if (below(3) == 0)
        schema.emplace_back("prefixItems", json::Array{random_schema(random, depth - 1), random_schema(random, 0)});
      if (below(2)) schema.emplace_back("minItems", below(3));
      if (below(2)) schema.emplace_back("maxItems", 3 + below(3));
      return schema;
    }
    case 9: {
      json::Object properties;
      json::Array required;
      for (int i = 0, n = below(4); i < n; ++i) {
        const std::string name = std::string(1, static_cast<char>('a' + i)) + (i == 2 ? "\"q" : "");
        properties.emplace_back(name, random_schema(random, depth - 1));
        if (below(2)) required.emplace_back(name);
      }
      schema = {{"type", "object"}, {"properties", properties}, {"required", required}};
      if (below(3)) schema.emplace_back("additionalProperties", below(3) ? Value(false) : random_schema(random, 0));
      return schema;
    }
    default:
      return json::Object{{"anyOf", json::Array{random_schema(random, depth - 1), random_schema(random, 0)}}};
  }
}

// A random path that the masks allow; after `patience` tokens it prefers what ends things. "" and a failure when a mask
// is empty.
std::string walk(const std::shared_ptr<const Automaton>& automaton, std::mt19937_64& random, size_t patience,
                 bool check_masks = false) {
  Matcher matcher(automaton);
  std::string text;
  auto bits = words();
  for (size_t n = 0; n < patience + 3000; ++n) {
    matcher.mask(bits);
    std::vector<TokenId> allowed;
    for (TokenId id = 0; id < tokenizer().size(); ++id)
      if (has(bits, id)) allowed.push_back(id);
    if (allowed.empty()) {
      ADD_FAILURE() << "nothing is allowed after: " << text;
      return text;
    }
    if (check_masks && n < 60)
      for (TokenId id = 0; id < tokenizer().size(); ++id) {
        bool expected = false;
        if (vocabulary()->is_text(id)) {
          Matcher copy = matcher;
          expected = copy.accept_text(tokenizer().piece(id));
        } else if (id == vocabulary()->ends()[0]) {
          expected = matcher.may_end();
        } else if (tokenizer().piece(id) == text::kDsml || tokenizer().piece(id) == text::kThinkClose) {
          Matcher copy = matcher;
          copy.accept(id);
          expected = !copy.dead();
        }
        EXPECT_EQ(has(bits, id), expected) << "token " << tokenizer().piece(id) << " after " << text;
      }
    const TokenId end = vocabulary()->ends()[0];
    TokenId token = allowed[random() % allowed.size()];
    if (n > patience) {  // the way out
      if (has(bits, end)) return text;
      const std::string first = n % 64 < 12                                   ? "0"
                                : n % 4 == 0                                  ? "b"
                                : text.ends_with("<")                         ? "/"
                                : text.find("parameter") != std::string::npos ? "<"
                                                                              : "\"";
      const std::vector<std::string> closing = {first, "\"", "]", "}", "0", "1", ">", "<", "/", "\n", "b", "a"};
      size_t best = closing.size();
      for (const TokenId id : allowed)
        for (size_t i = 0; i < best && random() % 3; ++i)
          if (tokenizer().piece(id) == closing[i]) {
            best = i;
            token = id;
          }
      for (const TokenId id : allowed)
        if (tokenizer().is_added(id)) token = id;
    }
    if (token == end) return text;
    text += tokenizer().piece(token);
    matcher.accept(token);
  }
  ADD_FAILURE() << "no end: " << text.substr(0, 300);
  return text;
}

class RandomSchema : public ::testing::TestWithParam<int> {};

TEST_P(RandomSchema, WalksAreValidAndMasksAreExact) {
  std::mt19937_64 random(static_cast<uint64_t>(GetParam()));
  const Value schema = random_schema(random, 3);
  SCOPED_TRACE(json::dump(schema));
  auto compiled = compile(of_schema(schema));
  if (!compiled.ok()) {
    EXPECT_NE(compiled.error().message.find("no value fits"), std::string::npos) << compiled.error().message;
    return;
  }
  const std::vector<std::string> ignored = compiled.value().ignored;
  EXPECT_TRUE(ignored.empty()) << ignored[0];
  const auto automaton = std::make_shared<const Automaton>(std::move(compiled).value().grammar, vocabulary());
  for (int i = 0; i < 6; ++i) {
    const std::string text = walk(automaton, random, 1 + random() % 40, i == 0);
    const auto value = json::parse(text);
    ASSERT_TRUE(value.ok()) << text << ": " << value.error().message;
    EXPECT_TRUE(valid(value.value(), schema, schema)) << text;
    // Its own canonical form is allowed, whatever the tokens; numbers have more than one form.
    const bool plain = text.find_first_of("{eE.") == std::string::npos;
    if (plain) {
      EXPECT_TRUE(accepts(automaton, json::dump(value.value()))) << text;
    }
  }
}
INSTANTIATE_TEST_SUITE_P(Seeds, RandomSchema, ::testing::Range(0, 150));

// --- No dead ends

// As random_schema(), at its bounds: as few as many, tuples that end before, at and behind them, what no value fits.
Value exact_schema(std::mt19937_64& random, int depth) {
  const auto below = [&](size_t n) { return static_cast<int>(random() % n); };
  const auto bound = [&](json::Object& schema, const char* least, const char* most, int n) {
    const int kind = below(4);
    if (kind != 0) schema.emplace_back(most, n);
    if (kind == 1 || kind == 0) schema.emplace_back(least, n);
    if (kind == 2 && n > 0) schema.emplace_back(least, n - 1);
  };
  json::Object schema;
  switch (below(depth > 0 ? 8 : 4)) {
    case 0: {
      const int n = below(2000) - 1000;
      return json::Object{{"type", below(2) ? "integer" : "number"}, {"minimum", n}, {"maximum", n + below(3)}};
    }
    case 1:
      schema = {{"type", "string"}};
      bound(schema, "minLength", "maxLength", below(5));
      if (below(3) == 0) schema.emplace_back("pattern", below(2) ? "^[\\u00e9\"\\n\\u4f60\U0001F600]*$" : "^.*$");
      return schema;
    case 2:
      return json::Object{{"enum", below(4) ? json::Array{true, "a\"b", -1, json::Array{1}} : json::Array{}}};
    case 3:
      return random_schema(random, 0);
    case 4:
    case 5:
    case 6: {
      schema = {{"type", "array"}};
      if (below(2)) schema.emplace_back("items", below(4) ? exact_schema(random, depth - 1) : Value(false));
      json::Array tuple;
      for (int n = below(2) * below(4); n > 0; --n) tuple.push_back(exact_schema(random, depth - 1));
      if (!tuple.empty()) schema.emplace_back("prefixItems", std::move(tuple));
      bound(schema, "minItems", "maxItems", below(5));
      return schema;
    }
    default: {
      json::Object properties;
      json::Array required;
      for (int i = 0, n = below(4); i < n; ++i) {
        const std::string name(1, static_cast<char>('a' + i));
        properties.emplace_back(name, exact_schema(random, depth - 1));
        if (below(2)) required.emplace_back(name);
      }
      schema = {{"type", "object"}, {"properties", properties}, {"required", required}};
      if (below(3)) schema.emplace_back("additionalProperties", below(3) ? Value(false) : exact_schema(random, 0));
      return schema;
    }
  }
}

// Goes on wherever it can: the end comes only where nothing else is allowed, and what begins something (a next item,
// an escape, a long character, a sign) is preferred. Some token, or the end, is allowed in every state it comes to.
void go_on(const std::shared_ptr<const Automaton>& automaton, std::mt19937_64& random, int steps) {
  Matcher matcher(automaton);
  std::string text;
  auto bits = words();
  const TokenId end = vocabulary()->ends()[0];
  for (int n = 0; n < steps; ++n) {
    matcher.mask(bits);
    std::vector<TokenId> begins, others;
    for (TokenId id = 0; id < tokenizer().size(); ++id) {
      if (!has(bits, id) || id == end) continue;
      const auto first = static_cast<unsigned char>(tokenizer().piece(id)[0]);
      (first >= 0xC0 || std::string_view(",\\-.eu").find(static_cast<char>(first)) != std::string_view::npos ? begins
                                                                                                             : others)
          .push_back(id);
    }
    if (begins.empty() && others.empty()) {
      EXPECT_TRUE(has(bits, end)) << "nothing is allowed after: " << text;
      return;
    }
    const auto& from = others.empty() || (!begins.empty() && random() % 4 != 0) ? begins : others;
    const TokenId token = from[random() % from.size()];
    text += tokenizer().piece(token);
    matcher.accept(token);
    ASSERT_FALSE(matcher.dead()) << "allowed, and refused: " << text;
  }
}

class NoDeadEnd : public ::testing::TestWithParam<int> {};

TEST_P(NoDeadEnd, HoweverLongItGoesOn) {
  std::mt19937_64 random(static_cast<uint64_t>(GetParam()));
  for (int i = 0; i < 10; ++i) {
    const Value schema = exact_schema(random, 2);
    SCOPED_TRACE(fmt::format("seed {}: {}", GetParam(), json::dump(schema)));
    auto compiled = compile(of_schema(schema));
    if (!compiled.ok()) {
      EXPECT_NE(compiled.error().message.find("no value fits"), std::string::npos) << compiled.error().message;
      continue;
    }
    const auto automaton = std::make_shared<const Automaton>(std::move(compiled).value().grammar, vocabulary());
    for (int walks = 0; walks < 4; ++walks) go_on(automaton, random, 120);
    if (HasFailure()) return;
  }
}
INSTANTIATE_TEST_SUITE_P(Seeds, NoDeadEnd, ::testing::Range(0, 60));

// Values that have to be tall, and may be left out, in objects that may nest: at no depth does a comma call for one
// that cannot be ended there.
TEST(Schema, WhatIsTallIsNotBegunTooDeep) {
  json::Object defs, properties;
  constexpr int kLinks = 25, kAll = 9 * kLinks;  // a chain in parts, each compiled before what leads to it
  for (int i = kAll; i > 0; --i) {
    const Value next = i == kAll ? Value(json::Object{{"type", "null"}})
                                 : Value(json::Object{{"$ref", "#/$defs/" + std::to_string(i + 1)}});
    defs.emplace_back(std::to_string(i),
                      json::Object{{"type", "array"}, {"items", next}, {"minItems", 1}, {"maxItems", 1}});
    if (i % kLinks != 1) continue;
    const json::Object tall{{"a", json::Object{{"type", "null"}}},
                            {"t", json::Object{{"$ref", "#/$defs/" + std::to_string(i)}}}};
    properties.emplace_back(std::to_string(9 - i / kLinks),
                            json::Object{{"type", "object"}, {"properties", tall}, {"additionalProperties", false}});
  }
  properties.emplace_back("d", json::Object{{"$ref", "#"}});
  const auto automaton = automaton_of(of_schema(
      json::Object{{"type", "object"}, {"properties", properties}, {"additionalProperties", false}, {"$defs", defs}}));
  ASSERT_TRUE(automaton);
  auto bits = words();
  int begun = 0, refused = 0;
  for (int deep = 0; deep < 300; deep += 10)
    for (char part = '1'; part <= '9'; ++part) {
      std::string wish;
      for (int i = 0; i < deep; ++i) wish += "{\"d\":";
      wish = wish + "{\"" + part + "\":{\"a\":null,\"t\":[[";
      Matcher matcher(automaton);
      const bool went = std::all_of(wish.begin(), wish.end(), [&](char c) {
        matcher.mask(bits);
        for (TokenId id = 0; id < tokenizer().size(); ++id)
          if (has(bits, id) && tokenizer().piece(id) == std::string_view(&c, 1)) {
            matcher.accept(id);
            EXPECT_FALSE(matcher.dead()) << "at depth " << deep << ", part " << part;
            return !matcher.dead();
          }
        return false;
      });
      ++(went ? begun : refused);
    }
  EXPECT_GT(begun, 50);
  EXPECT_GT(refused, 50);
}

TEST(Schema, ListsEndAtTheirBounds) {
  const auto begins = [](const char* schema, const char* text) {
    return Matcher(automaton_of(schema)).accept_text(text);
  };
  const char* one = R"({"type":"array","items":{"type":"boolean"},"minItems":1,"maxItems":1})";
  EXPECT_TRUE(accepts(automaton_of(one), "[true]"));
  EXPECT_FALSE(begins(one, "[]"));
  EXPECT_FALSE(begins(one, "[true,"));
  EXPECT_FALSE(begins(R"({"prefixItems":[{"type":"boolean"},{"type":"null"}],"type":"array","maxItems":1})", "[true,"));
  const char* three = R"({"prefixItems":[{"type":"boolean"}],"type":"array","items":{"type":"null"},"minItems":3,
      "maxItems":3})";
  EXPECT_TRUE(accepts(automaton_of(three), "[true,null,null]"));
  EXPECT_FALSE(begins(three, "[true,null]"));
  EXPECT_FALSE(begins(three, "[true,null,null,"));
  EXPECT_FALSE(begins(R"({"type":"array","maxItems":0})", "[1"));
  EXPECT_TRUE(accepts(automaton_of(R"({"type":"array","items":{"enum":[]}})"), "[]"));
  // No item can come where one has to: no value at all.
  for (const char* none : {R"({"type":"array","items":{"enum":[]},"prefixItems":[{"type":"null"}],"minItems":2})",
                           R"({"type":"array","items":{"$ref":"#"},"prefixItems":[{"type":"null"}],"minItems":2})",
                           R"({"type":"array","minItems":2,"maxItems":1})"}) {
    const auto compiled = compile(of_schema(parse(none)));
    EXPECT_FALSE(compiled.ok()) << none;
  }
}

TEST(Json, AnyObject) {
  Shape shape;
  shape.answer = Shape::Answer::kObject;
  const auto automaton = automaton_of(shape);
  for (const char* good :
       {"{}", "{\"a\": 1}", "{\"a\":[1,-2.5e+3,\"\\u00e9\\ud83d\\ude00\",null,{}],\"b\":{\"c\":true}}",
        "{\n  \"a\": [\n    1,\n    2\n  ]\n}", "{\"\":\"\xE4\xBD\xA0\"}"})
    EXPECT_TRUE(accepts(automaton, good)) << good;
  for (const char* bad :
       {" {}", "[]", "{\"a\":01}", "{\"a\":1,}", "{\"a\":\"\n\"}", "{\"a\":\"\\ud83d\"}", "{a:1}", "{} ", "{\n\n}",
        "{\"a\"  :1}", "{\"a\":\"\xE4\xBD\"}", "{\"a\":\"\xED\xA0\x80\"}", "{\"a\":.5}"})
    EXPECT_FALSE(accepts(automaton, bad)) << bad;
  std::mt19937_64 random(7);
  for (int i = 0; i < 20; ++i) {
    const std::string text = walk(automaton, random, 60, i < 2);
    EXPECT_TRUE(json::parse(text).ok()) << text;
  }
}

TEST(Json, DepthIsBoundedAndNeverADeadEnd) {
  const auto automaton = automaton_of(R"({"$ref":"#/$defs/n","$defs":{"n":{"type":"object","properties":
      {"n":{"anyOf":[{"type":"null"},{"$ref":"#/$defs/n"}]},"l":{"type":"array"}},"required":["n","l"],
      "additionalProperties":false}}})");
  Matcher matcher(automaton);
  auto bits = words();
  std::string text;
  const auto choose = [&](const std::string& wish) {  // the wish, byte by byte, or what is allowed instead
    for (const char c : wish) {
      matcher.mask(bits);
      TokenId token = -1;
      for (TokenId id = 0; id < tokenizer().size(); ++id)
        if (has(bits, id) && tokenizer().piece(id) == std::string_view(&c, 1)) token = id;
      if (token < 0) return false;
      matcher.accept(token);
      text += c;
    }
    return true;
  };
  int depth = 0;
  while (depth < 10000 && choose("{\"n\":")) ++depth;
  EXPECT_GT(depth, 60);
  EXPECT_LT(depth, 1000);
  ASSERT_TRUE(choose("null"));
  for (int i = 0; i < depth; ++i) ASSERT_TRUE(choose(",\"l\":[]}")) << i << " of " << depth;
  EXPECT_TRUE(matcher.may_end());
  EXPECT_TRUE(json::parse(text).ok());
}

TEST(Schema, ErrorsNameTheirPlace) {
  const struct {
    const char *schema, *expected;
    bool strict;
  } cases[] = {
      {R"({"type":"string","not":{}})", "/: not is not supported", true},
      {R"({"type":"object","properties":{"a":{"type":"string","patternProperties":{}}},"required":["a"],
           "additionalProperties":false})",
       "/properties/a: patternProperties", true},
      {R"({"type":"object","properties":{"a":{}},"required":["a"]})", "additionalProperties: expected false", true},
      {R"({"type":"object","properties":{"a":{}},"additionalProperties":false})", "required: expected \"a\"", true},
      {R"j({"type":"string","pattern":"(?=a)"})j", "pattern is not supported (pattern: look-around", true},
      {R"({"type":"string","pattern":"a\\b"})", "\\b", true},
      {R"({"type":"string","format":"iri"})", "format \"iri\"", true},
      {R"({"type":"number","multipleOf":0.1})", "multipleOf is supported for integers", true},
      {R"({"oneOf":[{"type":"string"},{"minLength":2}]})", "oneOf", true},
      {R"({"$ref":"#/$defs/x"})", "#/$defs/x is not there", false},
      {R"({"$ref":"#"})", "no value fits", false},
      {R"({"anyOf":[{"$ref":"#"},{"type":"null"}]})", "refers to itself", false},
      {R"({"$ref":"other.json"})", "expected a reference inside", false},
      {R"({"type":"string","minLength":3,"maxLength":2})", "no value fits", false},
      {R"({"type":"string","minLength":3,"pattern":"^a$"})", "no value fits", false},
      {R"({"type":"array","items":false,"minItems":1})", "no value fits", false},
      {R"({"type":"integer","minimum":3,"maximum":2})", "no value fits", false},
      {R"({"enum":[]})", "no value fits", false},
      {R"({"type":"object","properties":{"a":{"$ref":"#"}},"required":["a"]})", "no value fits", false},
      {R"({"type":"text"})", "type: expected names", false},
      {R"(3)", "expected a schema", false},
  };
  for (const auto& c : cases) {
    const auto compiled = compile(of_schema(parse(c.schema), c.strict));
    ASSERT_FALSE(compiled.ok()) << c.schema;
    EXPECT_NE(compiled.error().message.find(c.expected), std::string::npos) << compiled.error().message;
  }
  const auto lenient = compile(of_schema(parse(R"j({"type":"string","not":{},"format":"iri","pattern":"(?!a)"})j")));
  ASSERT_TRUE(lenient.ok());
  EXPECT_EQ(lenient.value().ignored, (std::vector<std::string>{"/not", "/pattern", "/format"}));
}

TEST(Schema, SizeAndTimeAreBounded) {
  const auto seconds = [](const Value& schema) {
    const auto start = std::chrono::steady_clock::now();
    const auto compiled = compile(of_schema(schema));
    const std::string message = compiled.ok() ? "" : compiled.error().message;
    const double took = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    EXPECT_LT(took, 20) << json::dump(schema).substr(0, 100);  // a busy machine, a sanitizer
    return message;
  };
  Value deep = json::Object{{"type", "string"}};
  for (int i = 0; i < 200; ++i) deep = json::Object{{"type", "array"}, {"items", deep}};
  EXPECT_NE(seconds(deep).find("nested too deep"), std::string::npos);
  json::Object many;
  for (int i = 0; i < 6000; ++i) many.emplace_back("property_" + std::to_string(i), json::Object{{"type", "string"}});
  EXPECT_NE(seconds(json::Object{{"type", "object"}, {"properties", many}}), "");
  many.resize(200);
  EXPECT_EQ(seconds(json::Object{{"type", "object"}, {"properties", many}}), "");
  EXPECT_NE(seconds(json::Object{{"type", "string"}, {"description", std::string(300000, 'x')}}), "");
  // Doubling by reference: two branches each, to the same next one.
  json::Object defs;
  for (int i = 0; i < 60; ++i) {
    const Value next = json::Object{{"$ref", "#/$defs/d" + std::to_string(i + 1)}, {"minLength", 1}};
    defs.emplace_back("d" + std::to_string(i), json::Object{{"anyOf", json::Array{next, next}}});
  }
  defs.emplace_back("d60", json::Object{{"type", "string"}});
  EXPECT_NE(seconds(json::Object{{"$ref", "#/$defs/d0"}, {"$defs", defs}}), "");
  const auto of_pattern = [](const char* pattern) { return json::Object{{"type", "string"}, {"pattern", pattern}}; };
  for (const char* evil : {"((a{1,100}){1,100}){1,100}", "(a|b)*a(a|b){30}", "^(([a-z])+.)+[A-Z]([a-z])+$",
                           "((((a*)*)*)*)*", ".{1000}.{1000}.{1000}.{1000}.{1000}.{1000}"})
    seconds(of_pattern(evil));
}

TEST(Regex, SearchesAsJsonSchemaDoes) {
  const struct {
    const char *pattern, *text;
    bool matches;
  } cases[] = {
      {"a", "xay", true},
      {"^a", "xa", false},
      {"a$", "ab", false},
      {"^$", "", true},
      {"^$", "a", false},
      {"^a|b$", "xb", true},
      {"^(a|bc){2,3}$", "abc", true},
      {"^(a|bc){2,3}$", "a", false},
      {"^(a|bc){2,3}$", "abcabc", false},
      {"^.$", "\xE4\xBD\xA0", true},
      {"^.$", "\n", false},
      {"^[^a-c]+$", "xyz\xE4\xBD\xA0", true},
      {"^[^a-c]+$", "xbz", false},
      {"^\\d{3}-\\w+$", "123-a_9", true},
      {"^[\\d-]+$", "1-2", true},
      {"^[\xC3\xA0-\xC3\xBF]$", "\xC3\xA9", true},
      {"^\\u00e9$", "\xC3\xA9", true},
      {"^a{0}b$", "b", true},
      {"^a+?$", "aaa", true},
      {"^[]$", "", false},
      {"^\\.$", ".", true},
      {"^\\.$", "x", false},
      {"^(?:ab)*$", "abab", true},
      {"^a{,2}$", "a{,2}", true},
      {"^\xF0\x9F\x98\x80?$", "\xF0\x9F\x98\x80", true},
  };
  for (const auto& c : cases) {
    const auto dfa = search(c.pattern);
    ASSERT_TRUE(dfa.ok()) << c.pattern << ": " << dfa.error().message;
    EXPECT_EQ(dfa.value().matches(c.text), c.matches) << c.pattern << " on " << c.text;
  }
  for (const char* bad : {"(", ")", "[a", "*", "a**", "\\", "\\1", "(?<x>a)", "(?=a)", "\\p{L}", "\\bx", "a{2,1}",
                          "a{1001}", "[b-a]", "\\ud800"})
    EXPECT_FALSE(search(bad).ok()) << bad;
}

TEST(Schema, LargeFactors) {
  const auto automaton = automaton_of(R"({"type":"integer","multipleOf":9999})");
  EXPECT_TRUE(accepts(automaton, "-19998"));
  EXPECT_FALSE(accepts(automaton, "19999"));
  EXPECT_TRUE(accepts(automaton_of(R"({"type":"integer","multipleOf":1000,"minimum":1,"maximum":999999999})"), "5000"));
}

TEST(Schema, Formats) {
  const struct {
    const char* format;
    std::vector<const char*> good, bad;
  } cases[] = {
      {"date",
       {"2024-02-29", "2000-02-29", "1999-12-31"},
       {"2023-02-29", "1900-02-29", "2024-13-01", "2024-04-31", "24-1-1"}},
      {"time", {"08:30:06Z", "23:59:59.123+01:00"}, {"24:00:00Z", "08:30:06", "08:60:00Z"}},
      {"date-time", {"2024-02-29T12:00:00Z"}, {"2024-02-29 12:00:00Z", "2024-02-29"}},
      {"duration", {"P1Y2M3DT4H5M6S", "PT36H", "P3W", "P1D"}, {"P", "PT", "P1YT", "1D"}},
      {"email", {"joe.bloggs@example.com"}, {"2962", "joe@", "@x", ".a@b"}},
      {"hostname", {"www.example.com", "a-b.c"}, {"-a.b", "a-.b", "a..b", "a_b"}},
      {"ipv4", {"192.168.0.1", "0.0.0.0"}, {"256.1.1.1", "127.0.0", "01.1.1.1"}},
      {"ipv6",
       {"::", "::1", "1::", "::abef", "1:2:3:4:5:6:7:8", "1::8", "1:2::8", "::ffff:192.168.0.1", "1:2:3:4:5:6:1.2.3.4",
        "1:2:3:4:5:6:7::", "::2:3:4:5:6:7:8"},
       {"12345::", "1:1:1:1:1:1:1:1:1", "1:2:3:4:5:6:7:8::", "::laptop", "1:2:3", "1::2::3"}},
      {"uuid", {"2EB8AA08-aa98-11ea-b4aa-73b441d16380"}, {"2eb8aa08-aa98-11ea-b4aa73b441d16380", "x"}},
      {"uri", {"https://a.b/c?d=%20#e", "urn:x:y"}, {"//a.b", "a b", "\\\\x"}},
  };
  for (const auto& c : cases) {
    const auto automaton = automaton_of(fmt::format(R"({{"type":"string","format":"{}"}})", c.format));
    for (const char* good : c.good) EXPECT_TRUE(accepts(automaton, json::quote(good))) << c.format << " " << good;
    for (const char* bad : c.bad) EXPECT_FALSE(accepts(automaton, json::quote(bad))) << c.format << " " << bad;
  }
}

// --- Debian's JSON-Schema-Test-Suite, draft 7

// In the order of the schema, which is the order that is offered; whole numbers as such.
Value canonical(const Value& value, const Value& schema, const Value& root) {
  const Value* at = &schema;
  if (const Value* ref = schema.find("$ref"); ref && ref->is_string() && ref->as_string().starts_with("#/")) {
    const Value* target = &root;
    std::stringstream parts(ref->as_string().substr(2));
    for (std::string part; target && std::getline(parts, part, '/');) target = target->find(part);
    if (target) at = target;
  } else if (ref) {
    at = &root;
  }
  if (value.is_number() && value.to_int64()) return Value(*value.to_int64());
  if (value.is_array()) {
    json::Array items;
    for (const Value& item : value.as_array()) {
      const Value* inner = at->find("items");
      items.push_back(canonical(item, inner ? *inner : Value(), root));
    }
    return items;
  }
  if (!value.is_object()) return value;
  json::Object out;
  const auto add = [&](const std::string& key, const Value& inner) {
    if (const Value* own = value.find(key); own && !Value(out).find(key))
      out.emplace_back(key, canonical(*own, inner, root));
  };
  const std::function<void(const Value&)> declared = [&](const Value& one) {
    if (const Value* properties = one.find("properties"); properties && properties->is_object())
      for (const auto& [key, inner] : properties->as_object()) add(key, inner);
    if (const Value* all = one.find("allOf"); all && all->is_array())
      for (const Value& branch : all->as_array()) declared(branch);
    for (const char* key : {"anyOf", "oneOf"})
      if (const Value* some = one.find(key); some && some->is_array())
        for (const Value& branch : some->as_array()) declared(branch);
  };
  declared(*at);
  if (const Value* required = at->find("required"); required && required->is_array())
    for (const Value& name : required->as_array()) add(name.as_string(), Value());
  for (const auto& [key, inner] : value.as_object())
    add(key, at->find("additionalProperties") ? *at->find("additionalProperties") : Value());
  return out;
}

TEST(Schema, TestSuiteOfDraft7) {
  const std::filesystem::path folder = "/usr/share/json-schema-test-suite/tests/draft7";
  if (!std::filesystem::exists(folder)) GTEST_SKIP() << "Debian's json-schema-test-suite is not installed";
  // Where this compiler means something else on purpose: $ref with siblings is their conjunction, as since 2019;
  // a constant object is offered with its keys in their order.
  const std::vector<std::string> others = {"ref overrides any sibling keywords",
                                           "$ref prevents a sibling $id from changing the base uri",
                                           "const with object"};
  int groups = 0, skipped = 0, instances = 0;
  std::string names;
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(folder))
    if (entry.is_regular_file()) files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  for (const auto& file : files) {
    std::ifstream in(file);
    const std::string text{std::istreambuf_iterator<char>(in), {}};
    const Value all = parse(text);
    for (const Value& group : all.as_array()) {
      ++groups;
      const std::string name = file.stem().string() + ": " + group.find("description")->as_string();
      const Value& schema = *group.find("schema");
      const auto compiled = compile(of_schema(schema));
      const bool impossible = !compiled.ok() && compiled.error().message.find("no value fits") != std::string::npos;
      const bool other =
          std::find(others.begin(), others.end(), group.find("description")->as_string()) != others.end();
      if (other || (!compiled.ok() && !impossible) || (compiled.ok() && !compiled.value().ignored.empty())) {
        ++skipped;
        names += "\n  " + name + (compiled.ok() ? "" : " (" + compiled.error().message + ")");
        continue;
      }
      const auto automaton =
          compiled.ok() ? std::make_shared<const Automaton>(compiled.value().grammar, vocabulary()) : nullptr;
      for (const Value& test : group.find("tests")->as_array()) {
        ++instances;
        const bool expected = test.find("valid")->as_bool();
        const std::string instance = json::dump(canonical(*test.find("data"), schema, schema));
        EXPECT_EQ(automaton && accepts(automaton, instance), expected)
            << name << ": " << test.find("description")->as_string() << "\n"
            << instance << "\n"
            << json::dump(schema);
      }
    }
  }
  std::printf("%d groups, %d instances checked; %d groups skipped:%s\n", groups, instances, skipped, names.c_str());
  EXPECT_GT(groups - skipped, 60);
}

// --- Tool calls

const char kWeather[] = R"({"type":"object","properties":{"city":{"type":"string"},"days":{"type":"integer","minimum":1,
    "maximum":14},"unit":{"enum":["C","F",null]},"more":{"anyOf":[{"type":"string","pattern":"^[a-z]+$"},{"type":"array",
    "items":{"type":"number"}}]}},"required":["city","days","unit","more"],"additionalProperties":false})";

TEST(Tools, StrictCallsAreParsedAndFit) {
  Shape shape;
  shape.answer = Shape::Answer::kNone;
  shape.tools = {{"weather", parse(kWeather), true}, {"now", parse(R"({"type":"object","properties":{}})"), true}};
  const auto automaton = automaton_of(shape);
  std::mt19937_64 random(3);
  int n_weather = 0;
  for (int i = 0; i < 60; ++i) {
    const std::string text = walk(automaton, random, random() % 80, i == 0);
    const auto parsed = text::parse_completion(text + text::kEos, false);
    const auto* message = std::get_if<text::AssistantMessage>(&parsed);
    ASSERT_TRUE(message) << std::get<text::ParseError>(parsed).message << "\n" << text;
    EXPECT_EQ(message->content, "");
    ASSERT_FALSE(message->tool_calls.empty());
    for (const auto& call : message->tool_calls) {
      const Value arguments = parse(call.arguments);
      if (call.name == "now") {
        EXPECT_EQ(call.arguments, "{}");
      } else {
        ++n_weather;
        EXPECT_EQ(call.name, "weather");
        EXPECT_TRUE(valid(arguments, parse(kWeather), parse(kWeather))) << call.arguments;
      }
    }
  }
  EXPECT_GT(n_weather, 5);
}

TEST(Tools, OneCallOnlyAndOnlyThatTool) {
  Shape shape;
  shape.answer = Shape::Answer::kNone;
  shape.many_calls = false;
  shape.tools = {{"now", parse("{}"), false}};
  const auto automaton = automaton_of(shape);
  std::mt19937_64 random(4);
  for (int i = 0; i < 20; ++i) {
    const std::string text = walk(automaton, random, random() % 60, i == 0);
    const auto parsed = text::parse_completion(text + text::kEos, false);
    const auto* message = std::get_if<text::AssistantMessage>(&parsed);
    if (!message) {  // a free call may name a parameter twice, which the parser refuses
      EXPECT_EQ(std::get<text::ParseError>(parsed).kind, "duplicate_param") << text;
      continue;
    }
    ASSERT_EQ(message->tool_calls.size(), 1u);
    EXPECT_EQ(message->tool_calls[0].name, "now");
    parse(message->tool_calls[0].arguments);
  }
}

// The marker comes as its token; plain tokens that spell it are text, and no structure.
TEST(Tools, MarkupComesFromItsTokenOnly) {
  Shape shape;
  shape.thinking = true;
  shape.tools = {{"now", parse("{}"), false}};
  shape.may_stop_thinking = true;
  const auto automaton = automaton_of(shape);
  const auto feed = [&](const std::vector<std::string>& parts) {
    Matcher matcher(automaton);
    for (const std::string& part : parts) {
      if (part == text::kDsml || part == text::kThinkClose) {
        matcher.accept(*tokenizer().id_of(part));
      } else {
        matcher.accept_text(part);
      }
    }
    return std::pair(!matcher.dead(), matcher.may_end());
  };
  using P = std::pair<bool, bool>;
  EXPECT_EQ(feed({"hm"}), P(true, true));
  EXPECT_EQ(feed({"hm < 3 ", "</think>", "It is"}), P(true, true));
  EXPECT_EQ(feed({"hm </thi", "nk>"}), P(true, true));  // text about markup
  EXPECT_EQ(feed({"", "</think>", "a ｜DSM", "L｜ \n\n<｜DSML｜tool_calls>"}), P(true, true));
  EXPECT_EQ(feed({"", "</think>", "a ", "｜DSML｜"}), P(false, false));
  const std::vector<std::string> call = {
      "</think>", "so\n\n<",     "｜DSML｜", "tool_calls>\n<", "｜DSML｜", "invoke name=\"now\">\n\n</",
      "｜DSML｜", "invoke>\n</", "｜DSML｜", "tool_calls>"};
  EXPECT_EQ(feed(call), P(true, true));
  auto longer = call;
  longer.push_back(" ");
  EXPECT_EQ(feed(longer), P(false, false));
  auto half = call;
  half.resize(7);
  EXPECT_EQ(feed(half), P(true, false));
}

TEST(Tools, WhatACallCannotWriteIsRefused) {
  Shape shape;
  shape.answer = Shape::Answer::kNone;
  const auto message = [&](const char* parameters) {
    shape.tools = {{"t", parse(parameters), true}};
    const auto compiled = compile(shape);
    return compiled.ok() ? "" : compiled.error().message;
  };
  EXPECT_NE(message(R"({"type":"object","properties":{"a":{"enum":["x</｜DSML｜parameter>"]}},"required":["a"],
      "additionalProperties":false})")
                .find("t: /properties/a: enum"),
            std::string::npos);
  EXPECT_NE(message(R"({"type":"object","properties":{"a":{"type":"string"}},"required":["a"]})")
                .find("t: /: additionalProperties"),
            std::string::npos);
  EXPECT_NE(message(R"({"type":"array"})").find("type object"), std::string::npos);
  EXPECT_EQ(message(R"({"type":"object","properties":{}})"), "");
}

// --- Speed, with the real vocabulary

TEST(Speed, MasksOfTheRealVocabulary) {
  HADAL_NEEDS_SHARED("golden/tokenizer");
  const auto real = text::Tokenizer::load(testing::shared_path("golden/tokenizer"));
  ASSERT_TRUE(real.ok());
  const text::Tokenizer& words_of = real.value();
  using Clock = std::chrono::steady_clock;
  const auto begin = Clock::now();
  const auto all = std::make_shared<const Vocabulary>(words_of, std::vector<TokenId>{*words_of.id_of(text::kEos)});
  std::printf("vocabulary: %zu nodes, %.0f ms\n", all->tree().nodes().size(),
              std::chrono::duration<double, std::milli>(Clock::now() - begin).count());
  Shape any, schema, tools;
  any.answer = Shape::Answer::kObject;
  schema = of_schema(parse(R"({"type":"object","properties":{"name":{"type":"string","maxLength":40},"age":{"type":
      "integer","minimum":0,"maximum":150},"tags":{"type":"array","items":{"enum":["red","green","blue"]},"maxItems":5},
      "when":{"type":"string","format":"date-time"},"next":{"anyOf":[{"type":"null"},{"$ref":"#"}]}},
      "required":["name","age","tags","when","next"],"additionalProperties":false})"));
  tools.tools = {{"weather", parse(kWeather), true}, {"now", parse("{}"), false}};
  const std::string person =
      R"({"name": "Ada Lovelace", "age": 36, "tags": ["red", "blue"], "when": "2024-02-29T12:00:00Z", "next": )";
  const struct {
    const char* name;
    const Shape& shape;
    std::string text;
  } cases[] = {
      {"any object", any,
       R"({"title": "A walk in the woods", "pages": [1, 2, 3.5, {"x": null}], "text": "It was a dark and stormy night; the rain fell in torrents.", "ok": true})"},
      {"schema", schema, person + person + "null}}"},
      {"text and tools", tools,
       "I will look that up for you, one moment please.\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"weather\">\n"
       "<｜DSML｜parameter name=\"city\" string=\"true\">Paris, in the north of France</｜DSML｜parameter>\n"
       "<｜DSML｜parameter name=\"days\" string=\"false\">7</｜DSML｜parameter>\n"
       "<｜DSML｜parameter name=\"unit\" string=\"true\">C</｜DSML｜parameter>\n"
       "<｜DSML｜parameter name=\"more\" "
       "string=\"true\">wind</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>"},
  };
  std::vector<uint64_t> bits((static_cast<size_t>(words_of.size()) + 63) / 64);
  for (const auto& c : cases) {
    const auto started = Clock::now();
    const auto automaton = std::make_shared<const Automaton>(compile(c.shape).value().grammar, all);
    const double compiling = std::chrono::duration<double, std::milli>(Clock::now() - started).count();
    const std::vector<TokenId> ids = words_of.encode(c.text);
    double cold = 0, warm = 0, worst_cold = 0, worst_warm = 0;
    const int rounds = 20;
    for (int round = 0; round <= rounds; ++round) {
      Matcher matcher(automaton);
      for (const TokenId id : ids) {
        const auto before = Clock::now();
        matcher.mask(bits);
        const bool allowed = bits[static_cast<size_t>(id) / 64] >> (static_cast<size_t>(id) % 64) & 1;
        matcher.accept(id);
        const double took = std::chrono::duration<double, std::micro>(Clock::now() - before).count();
        ASSERT_TRUE(allowed) << c.name << ": " << words_of.piece(id);
        (round == 0 ? cold : warm) += took;
        (round == 0 ? worst_cold : worst_warm) = std::max(round == 0 ? worst_cold : worst_warm, took);
      }
      EXPECT_TRUE(matcher.may_end()) << c.name;
    }
    std::printf(
        "%-15s compile %6.1f ms, %3zu tokens; us per token: warm %6.1f (most %7.1f), first time %8.1f (most %9.1f)\n",
        c.name, compiling, ids.size(), warm / rounds / static_cast<double>(ids.size()), worst_warm,
        cold / static_cast<double>(ids.size()), worst_cold);
  }
}

}  // namespace
}  // namespace hadal::constrain
