#include "constrain/shape.h"

#include <fmt/format.h>

#include "constrain/json_grammar.h"
#include "constrain/schema.h"
#include "constrain/tool_calls.h"

namespace hadal::constrain {

Result<Compiled> compile(const Shape& shape) {
  size_t bytes = json::dump(shape.schema).size();
  for (const Tool& tool : shape.tools)
    if (tool.strict) bytes += json::dump(tool.parameters).size();
  if (bytes > kMostSchemaBytes)
    return Error{Code::kUnsupported, fmt::format("/: expected at most {} bytes, found {}", kMostSchemaBytes, bytes)};

  Compiled out;
  Grammar& g = out.grammar;
  g.has_dsml = shape.has_dsml;
  g.has_think_close = shape.has_think_close;
  JsonGrammar any(g);
  SchemaCompiler schemas(any);
  const Rule root = g.add_rule();
  State at = g.rule(root).start;
  const State end = g.rule(root).end;
  if (shape.thinking) {
    const State thought = g.add_state(root);
    g.call(at, thought, any.plain_text());
    at = g.think_close(thought);
    if (shape.may_stop_thinking) g.empty(thought, end);
  }
  if (shape.answer == Shape::Answer::kText) {
    const State said = g.add_state(root);
    g.call(at, said, any.plain_text());
    g.empty(said, end);
    at = said;
  } else if (shape.answer == Shape::Answer::kObject) {
    g.call(at, end, any.any_object());
  } else if (shape.answer == Shape::Answer::kSchema) {
    schemas.enter(shape.schema, shape.strict, "");
    schemas.value_into(root, at, end, shape.schema, kAnyType, false, "", 0);
  }
  if (!shape.tools.empty()) calls_into(root, at, end, shape, any, schemas);
  if (schemas.error()) return *schemas.error();
  HADAL_TRY(g.finish(root));
  out.ignored = schemas.ignored();
  return out;
}

std::string key_of(const Shape& shape) {
  std::string key =
      fmt::format("{}{}{}{}{}{}{}", shape.has_dsml, shape.has_think_close, shape.thinking,
                  static_cast<int>(shape.answer), shape.strict, shape.many_calls, shape.may_stop_thinking);
  if (shape.answer == Shape::Answer::kSchema) key += json::dump(shape.schema);
  for (const Tool& tool : shape.tools)
    key += fmt::format("\n{}\n{}", tool.name, tool.strict ? json::dump(tool.parameters) : "free");
  return key;
}

}  // namespace hadal::constrain
