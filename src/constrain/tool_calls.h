// The grammar of V4's tool calls, in DSML.
#pragma once

#include "constrain/json_grammar.h"
#include "constrain/schema.h"
#include "constrain/shape.h"

namespace hadal::constrain {

// Adds a block of calls of the shape's tools, with its line breaks before, between two states of a rule. Errors are
// the compiler's.
void calls_into(Rule rule, State from, State to, const Shape& shape, JsonGrammar& json, SchemaCompiler& schemas);

}  // namespace hadal::constrain
