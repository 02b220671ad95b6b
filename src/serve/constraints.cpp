#include "serve/constraints.h"

#include <algorithm>

#include "constrain/shape.h"
#include "text/templates.h"

namespace hadal::serve {
namespace {

constexpr size_t kMostKnown = 32;

constrain::Shape shape_of(const Turn& turn, const Prompt& prompt, const text::Tokenizer& tokenizer) {
  constrain::Shape shape;
  shape.has_dsml = tokenizer.id_of(text::kDsml).has_value();
  shape.has_think_close = tokenizer.id_of(text::kThinkClose).has_value();
  shape.thinking = prompt.thinking_open;
  const ToolChoice& choice = turn.tool_choice;
  const bool is_named = choice.kind == ToolChoice::Kind::kNamed;
  const bool is_forced = is_named || choice.kind == ToolChoice::Kind::kRequired;
  if (choice.kind != ToolChoice::Kind::kNone)
    for (const json::Value& function : turn.tools) {
      const std::string& name = function.find("name")->as_string();
      if (is_named && name != choice.name) continue;
      const json::Value* parameters = function.find("parameters");
      const json::Value* strict = function.find("strict");
      const bool is_strict =
          (strict && strict->is_bool() && strict->as_bool()) ||
          std::find(turn.strict_tools.begin(), turn.strict_tools.end(), name) != turn.strict_tools.end();
      shape.tools.push_back({name, parameters ? *parameters : json::Value(json::Object{}), is_strict});
    }
  shape.many_calls = turn.parallel_calls && !is_named;
  if (is_forced) {
    shape.answer = constrain::Shape::Answer::kNone;
  } else if (turn.format.kind == OutputFormat::Kind::kJsonObject) {
    shape.answer = constrain::Shape::Answer::kObject;
  } else if (turn.format.kind == OutputFormat::Kind::kJsonSchema) {
    shape.answer = constrain::Shape::Answer::kSchema;
    shape.schema = turn.format.schema;
    shape.strict = turn.format.strict;
  } else {
    // A call inside the reasoning is found after the fact, and would escape what these demand.
    shape.may_stop_thinking = shape.many_calls && std::none_of(shape.tools.begin(), shape.tools.end(),
                                                               [](const auto& tool) { return tool.strict; });
  }
  return shape;
}

}  // namespace

std::variant<Demand, ApiError> Constraints::of(const Turn& turn, const Prompt& prompt) {
  if (prompt.raw) return Demand{};
  constrain::Shape shape = shape_of(turn, prompt, tokenizer_);
  using Answer = constrain::Shape::Answer;
  if (shape.answer == Answer::kText && shape.tools.empty()) return Demand{};
  std::string key = constrain::key_of(shape);
  auto known = std::find_if(known_.begin(), known_.end(), [&](const Known& one) { return one.key == key; });
  if (known == known_.end()) {
    auto compiled = constrain::compile(shape);
    std::vector<std::string> given_up;
    const bool any_strict = shape.strict || std::any_of(shape.tools.begin(), shape.tools.end(),
                                                        [](const auto& tool) { return tool.strict; });
    if (!compiled.ok() && compiled.error().code == Code::kUnsupported && shape.answer == Answer::kSchema &&
        !any_strict) {  // not even in part: then it is JSON
      given_up.push_back(compiled.error().message);
      shape.schema = true;
      compiled = constrain::compile(shape);
    }
    if (!compiled.ok()) {
      const std::string& why = compiled.error().message;
      const bool of_format = why.starts_with("/");
      return invalid((of_format ? "Invalid response_format schema : " : "Invalid tool parameters schema : ") + why,
                     of_format ? "response_format" : "tools");
    }
    if (!vocabulary_) vocabulary_ = std::make_shared<const constrain::Vocabulary>(tokenizer_, ends_);
    auto [grammar, ignored] = std::move(compiled).value();
    ignored.insert(ignored.end(), given_up.begin(), given_up.end());
    known_.push_front({std::move(key), std::make_shared<const constrain::Automaton>(std::move(grammar), vocabulary_),
                       std::move(ignored)});
    if (known_.size() > kMostKnown) known_.pop_back();
  } else {
    known_.splice(known_.begin(), known_, known);
  }
  const auto matcher = std::make_shared<constrain::Matcher>(known_.front().automaton);
  // A prefix is the beginning of the answer; where that is text, it changes nothing.
  const json::Value* last = turn.messages.empty() ? nullptr : &turn.messages.back();
  const json::Value* prefix = last ? last->find("prefix") : nullptr;
  const json::Value* said = last ? last->find("content") : nullptr;
  if (prefix && prefix->is_bool() && prefix->as_bool() && said && said->is_string() && !prompt.thinking_open &&
      shape.answer != Answer::kText)
    if (!matcher->accept_text(said->as_string()))
      return invalid("Invalid prefix: no answer of the response_format or tool_choice begins with it", "messages");
  return Demand{matcher, known_.front().ignored};
}

}  // namespace hadal::serve
