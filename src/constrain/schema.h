// JSON Schemas to grammars. Which keywords are enforced: shape.h.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "constrain/grammar.h"
#include "constrain/json_grammar.h"
#include "constrain/regex.h"

namespace hadal::constrain {

// Sets of JSON types. kNumber: numbers are allowed; kInteger beside it: whole ones only.
enum Type : unsigned { kNull = 1, kBoolean = 2, kInteger = 4, kNumber = 8, kString = 16, kArray = 32, kObject = 64 };
inline constexpr unsigned kAnyType = kNull | kBoolean | kNumber | kString | kArray | kObject;

unsigned types_of(const json::Value& type);    // the value of the keyword `type`; 0: it names none
bool is_annotation(std::string_view keyword);  // no value is refused because of it

class SchemaCompiler {
 public:
  explicit SchemaCompiler(JsonGrammar& json) : json_(json) {}

  // What follows is about this schema, which must outlive the compiler: references are looked up in it, messages name
  // places in it behind `where`.
  void enter(const json::Value& root, bool strict, std::string where);

  // Adds what the schema allows, of these types, between two states. raw: only strings, as tool calls write them.
  void value_into(Rule rule, State from, State to, const json::Value& schema, unsigned types, bool raw,
                  const std::string& path, int depth);
  // What its $ref refers to; null: an error is told.
  const json::Value* resolve(const json::Value& schema, const std::string& path);

  void fail(const std::string& path, const std::string& what, Code code = Code::kUnsupported);
  const std::optional<Error>& error() const { return error_; }          // the first
  const std::vector<std::string>& ignored() const { return ignored_; }  // keywords that are not enforced, each once

 private:
  Grammar& g() { return json_.grammar(); }
  void unsupported(const std::string& path, std::string_view keyword, std::string_view why = "is not supported");
  // Schemas are copied and looked at again and again: what a few kilobytes of them could cost has no end else.
  // false: too much, and an error is told.
  bool spend(int64_t work, const std::string& path);
  const json::Value& keep(json::Value value) { return made_.emplace_back(std::move(value)); }

  // A schema of its own rule, made once; recursion comes back to it.
  Rule rule_of(const json::Value& schema, const std::string& path, int depth);
  // What both schemas allow, as one; null when it cannot be said so.
  std::optional<json::Value> merged(const json::Value& a, const json::Value& b, const std::string& path, int depth);
  // No value fits two of the branches: their types differ, or their constants, or those of a required property.
  bool exclusive(const json::Array& branches, const std::string& path);
  bool exclude(const json::Value& a, const json::Value& b, const std::string& path, int depth);

  void constants(Rule rule, State from, State to, const json::Value& schema,
                 const std::vector<const json::Value*>& values, unsigned types, bool raw, const std::string& path,
                 int depth);
  // One value as it stands, blanks free.
  void exact(Rule rule, State from, State to, const json::Value& value, const std::string& path, int depth);
  void plain_types(State from, State to, const json::Value& schema, unsigned types, bool raw, const std::string& path,
                   int depth);
  // A whole number from 0 on; nullopt: absent. Others are refused.
  std::optional<int64_t> size_keyword(const json::Value& schema, const char* key, int64_t most,
                                      const std::string& path);
  // pattern and format as one automaton; lengths too when with_length. nullopt: an error is told.
  std::optional<Dfa> strings_of(const json::Value& schema, bool raw, const std::string& path, bool with_length);
  void strings(State from, State to, const json::Value& schema, bool raw, const std::string& path);
  std::optional<Dfa> numbers_of(const json::Value& schema, bool integer, const std::string& path);
  void numbers(State from, State to, const json::Value& schema, bool integer, const std::string& path);
  void arrays(State from, State to, const json::Value& schema, const std::string& path, int depth);
  void objects(State from, State to, const json::Value& schema, const std::string& path, int depth);

  JsonGrammar& json_;
  std::vector<std::string> ignored_;
  std::optional<Error> error_;
  int64_t work_ = 0;
  bool strict_ = false;
  std::string where_;                  // of messages: which tool
  const json::Value* root_ = nullptr;  // of references
  std::deque<json::Value> made_;       // schemas by merging, which rules_ knows by address
  std::map<std::pair<const json::Value*, const json::Value*>, Rule> rules_;
};

}  // namespace hadal::constrain
