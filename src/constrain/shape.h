// Grammars of answers: JSON of any shape or of a JSON Schema, and V4's tool calls.
//
// Schema keywords that are enforced: type, enum, const, properties, required, additionalProperties, items, prefixItems,
// additionalItems, minItems, maxItems, minLength, maxLength, pattern, format (email, hostname, ipv4, ipv6, uuid, date,
// time, date-time, duration, uri), minimum, maximum, exclusiveMinimum, exclusiveMaximum, multipleOf of integers, anyOf,
// oneOf of branches that exclude each other, allOf that can be merged, $ref with $defs and definitions, true and false.
// What cannot be enforced is refused by name when `strict`, else ignored and listed. A text that the grammar accepts is
// valid in all that is not listed.
//
// JSON is offered in one form: keys in the schema's order, others after them; between tokens nothing, a space, or a
// newline and up to 32 spaces; whole numbers without fraction where the type is integer, bounded numbers without
// exponent, none with more than 40 digits. Objects that a schema leaves open may repeat a key of their own.
#pragma once

#include <string>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "constrain/grammar.h"

namespace hadal::constrain {

struct Tool {
  std::string name;
  json::Value parameters;  // its schema; used when strict
  bool strict = false;
};

struct Shape {
  bool has_dsml = true, has_think_close = true;  // tokens that the tokenizer has
  bool thinking = false;                         // reasoning comes first, free up to </think>
  // The visible answer is one of these:
  enum class Answer { kText, kObject, kSchema, kNone } answer = Answer::kText;
  json::Value schema;       // kSchema
  bool strict = false;      // of it
  std::vector<Tool> tools;  // kText: calls may follow the text; else they stand instead of the answer
  bool many_calls = true;
  bool may_stop_thinking = false;  // the answer may end inside its reasoning, as a free one can
};

struct Compiled {
  Grammar grammar;
  std::vector<std::string> ignored;  // "/properties/a/not"; of a tool: "name:/..."
};

inline constexpr size_t kMostSchemaBytes = size_t{256} << 10;

// Errors name the place: "/properties/a: not is not supported", of a tool "name: /...".
Result<Compiled> compile(const Shape& shape);
// What two shapes have in common if and only if their grammars are the same.
std::string key_of(const Shape& shape);

}  // namespace hadal::constrain
