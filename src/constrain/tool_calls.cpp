#include "constrain/tool_calls.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <string>

namespace hadal::constrain {
namespace {

using json::Value;

class ToolCalls {
 public:
  ToolCalls(JsonGrammar& json, SchemaCompiler& schemas) : json_(json), schemas_(schemas) {}

  void calls_into(Rule root, State from, State to, const Shape& shape) {
    State at = g().markup(from, "\n\n<｜DSML｜tool_calls>\n");
    const State loop = g().add_state(root), after = g().add_state(root);
    g().empty(at, loop);
    for (const Tool& tool : shape.tools) {
      const Rule rule = g().add_rule();
      g().call(loop, after, rule);
      schemas_.enter(tool.parameters, tool.strict, tool.name + ": ");
      const State head = g().markup(g().rule(rule).start, "<｜DSML｜invoke name=\"" + tool.name + "\">\n");
      const State body = g().add_state(rule);
      if (tool.strict) {
        strict_parameters(rule, head, body, tool.parameters);
      } else {
        free_parameters(rule, head, body);
      }
      g().empty(g().markup(body, "\n</｜DSML｜invoke>"), g().rule(rule).end);
      if (schemas_.error()) return;
    }
    if (shape.many_calls) g().empty(g().text(after, "\n"), loop);
    g().empty(g().markup(after, "\n</｜DSML｜tool_calls>"), to);
  }

 private:
  Grammar& g() { return json_.grammar(); }

  void free_parameters(Rule rule, State from, State to) {
    g().empty(from, to);
    if (!free_parameter_) {
      free_parameter_ = g().add_rule();
      const State start = g().rule(*free_parameter_).start, end = g().rule(*free_parameter_).end;
      const State key = g().markup(start, "<｜DSML｜parameter name=\""), named = g().add_state(*free_parameter_);
      const Dfa keys = both(json_.plain_dfa(), search("^[^\"\\n<>]+$").value()).value();
      g().call(key, named, json_.string_rule(keys, true, false));
      parameter_value(*free_parameter_, named, end, Value(true), "");
    }
    const State after = g().add_state(rule), again = g().add_state(rule);
    g().call(from, after, *free_parameter_);
    g().empty(after, to);
    g().empty(g().text(after, "\n"), again);
    g().call(again, after, *free_parameter_);
  }

  // From behind the key: both forms of a value, as the schema allows.
  void parameter_value(Rule rule, State from, State to, const Value& schema, const std::string& path) {
    const State close = g().add_state(rule);
    schemas_.value_into(rule, g().text(from, "\" string=\"true\">"), close, schema, kString, true, path, 0);
    schemas_.value_into(rule, g().text(from, "\" string=\"false\">"), close, schema, kAnyType & ~kString, false, path,
                        0);
    g().empty(g().markup(close, "</｜DSML｜parameter>"), to);
  }

  void strict_parameters(Rule rule, State from, State to, const Value& given) {
    const Value* schema = &given;
    for (int i = 0; i < 16 && schema && schema->find("$ref"); ++i) schema = schemas_.resolve(*schema, "");
    if (!schema) return;
    if (schema->is_null() || (schema->is_object() && schema->as_object().empty())) return g().empty(from, to);
    const Value* type = schema->find("type");
    if (!schema->is_object() || (type && types_of(*type) != kObject)) return schemas_.fail("", "expected type object");
    for (const auto& [key, value] : schema->as_object())
      if (!is_annotation(key) && key != "type" && key != "properties" && key != "required" &&
          key != "additionalProperties")
        return schemas_.fail("", key + " is not supported");
    const Value* more = schema->find("additionalProperties");
    const Value* properties = schema->find("properties");
    const Value* needed = schema->find("required");
    const bool closed = more && more->is_bool() && !more->as_bool();
    if (!closed && properties && !properties->as_object().empty())
      return schemas_.fail("", "additionalProperties: expected false");
    if (properties && !properties->is_object()) return schemas_.fail("", "properties: expected schemas by name");
    State at = from;
    bool first = true;
    if (properties)
      for (const auto& [name, inner] : properties->as_object()) {
        const bool required =
            needed && needed->is_array() &&
            std::find(needed->as_array().begin(), needed->as_array().end(), Value(name)) != needed->as_array().end();
        if (!required) return schemas_.fail("", fmt::format("required: expected \"{}\" too", name));
        if (name.empty() || name.find_first_of("\"\n<>") != std::string::npos || json_.holds_markup(name))
          return schemas_.fail("/properties/" + name, "a tool call cannot write this name");
        if (!first) at = g().text(at, "\n");
        first = false;
        const State after = g().add_state(rule);
        parameter_value(rule, g().markup(at, "<｜DSML｜parameter name=\"" + name), after, inner, "/properties/" + name);
        at = after;
      }
    g().empty(at, to);
  }

  JsonGrammar& json_;
  SchemaCompiler& schemas_;
  std::optional<Rule> free_parameter_;
};

}  // namespace

void calls_into(Rule rule, State from, State to, const Shape& shape, JsonGrammar& json, SchemaCompiler& schemas) {
  ToolCalls(json, schemas).calls_into(rule, from, to, shape);
}

}  // namespace hadal::constrain
