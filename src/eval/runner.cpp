#include "eval/runner.h"

#include <algorithm>
#include <map>
#include <memory>

#include "text/parse_completion.h"
#include "text/templates.h"

namespace hadal::eval {
namespace {

bool has_type(const json::Value& value, const std::string& type) {
  if (type == "string") return value.is_string();
  if (type == "integer") return value.to_int64().has_value();
  if (type == "number") return value.is_number();
  if (type == "boolean") return value.is_bool();
  if (type == "array") return value.is_array();
  if (type == "object") return value.is_object();
  return true;  // a type that we do not know is not checked
}

bool matches(const json::Value* parameters, const json::Value& arguments) {
  if (!parameters) return arguments.as_object().empty();
  const json::Value* properties = parameters->find("properties");
  for (const auto& [name, value] : arguments.as_object()) {
    const json::Value* property = properties ? properties->find(name) : nullptr;
    if (!property) return false;
    const json::Value* type = property->find("type");
    if (type && type->is_string() && !has_type(value, type->as_string())) return false;
    const json::Value* choices = property->find("enum");
    if (choices && choices->is_array() &&
        std::find(choices->as_array().begin(), choices->as_array().end(), value) == choices->as_array().end())
      return false;
  }
  if (const json::Value* required = parameters->find("required"); required && required->is_array())
    for (const json::Value& name : required->as_array())
      if (name.is_string() && !arguments.find(name.as_string())) return false;
  return true;
}

// One conversation on its way.
struct Lane {
  size_t trial = 0;
  std::unique_ptr<data::Episode> episode;
  std::optional<engine::Context> context;  // of the last answer
  int request = -1;
};

class Runner {
 public:
  Runner(engine::Engine& engine, const text::Tokenizer& tokenizer, text::Encoding encoding,
         const std::vector<Trial>& trials, const RunOptions& options)
      : tokenizer_(tokenizer),
        encoding_(encoding),
        trials_(trials),
        options_(options),
        batch_(engine, options.rows_per_step),
        outcomes_(trials.size()) {
    for (const char* name : text::kTurnStarts)
      if (const auto id = tokenizer.id_of(name)) turn_starts_.push_back(*id);
  }

  Result<std::vector<Outcome>> run() {
    size_t next = 0, done = 0;
    std::vector<engine::Event> events;
    const size_t width = static_cast<size_t>(std::max(1, options_.side_by_side));
    while (next < trials_.size() || !lanes_.empty()) {
      while (next < trials_.size() && lanes_.size() < width) {
        Lane lane{.trial = next,
                  .episode = std::make_unique<data::Episode>(trials_[next].task),
                  .context = {},
                  .request = -1};
        ++next;
        if (ask(lane)) {
          lanes_.emplace(lane.request, std::move(lane));
        } else {
          ++done;
        }
      }
      HADAL_TRY(batch_.step(events));
      for (const engine::Event& event : events) {
        if (event.kind == engine::Event::Kind::kToken && is_turn_start(event.choice.token))
          batch_.stop(event.id, engine::Finish::kStop);
        if (event.kind != engine::Event::Kind::kDone) continue;
        if (!event.error.ok()) return event.error.error();
        Lane lane = std::move(lanes_.extract(event.id).mapped());
        if (hear(lane) && ask(lane)) {
          lanes_.emplace(lane.request, std::move(lane));
        } else if (++done; options_.progress) {
          options_.progress(static_cast<int64_t>(done), static_cast<int64_t>(trials_.size()));
        }
      }
    }
    return std::move(outcomes_);
  }

 private:
  bool is_turn_start(TokenId id) const {
    return std::find(turn_starts_.begin(), turn_starts_.end(), id) != turn_starts_.end();
  }
  Outcome& outcome(const Lane& lane) { return outcomes_[lane.trial]; }
  data::Mode mode(const Lane& lane) const { return trials_[lane.trial].mode; }

  bool fail(const Lane& lane, std::string reason) {
    outcome(lane).reason = std::move(reason);
    outcome(lane).transcript = lane.episode->messages();
    return false;
  }

  // Submits the prompt of the next answer. false: it cannot be asked.
  bool ask(Lane& lane) {
    text::EncodeOptions encode = data::encode_options(mode(lane));
    encode.encoding = encoding_;
    const auto encoded = text::encode_prompt(lane.episode->messages(), encode);
    if (const auto* error = std::get_if<text::EncodeError>(&encoded)) return fail(lane, "prompt: " + error->message);
    std::vector<TokenId> ids = tokenizer_.encode(std::get<text::EncodedPrompt>(encoded).text);
    outcome(lane).prompt_tokens = static_cast<int64_t>(ids.size());
    // With tools the reasoning stays in the prompt, so that it continues what was generated.
    if (lane.context && (lane.context->ids.size() >= ids.size() ||
                         !std::equal(lane.context->ids.begin(), lane.context->ids.end(), ids.begin())))
      lane.context.reset();
    auto id = batch_.add({.prompt = std::move(ids),
                          .start = std::exchange(lane.context, std::nullopt),
                          .sampling = options_.sampling,
                          .max_tokens = options_.max_tokens});
    if (!id.ok()) return fail(lane, id.error().message);
    lane.request = id.value();
    return true;
  }

  // Takes the answer. true: the conversation goes on.
  bool hear(Lane& lane) {
    engine::Finished finished = batch_.take(lane.request);
    Outcome& out = outcome(lane);
    const std::vector<TokenId>& tokens = finished.completion.tokens;
    const bool ended =
        finished.completion.finish == engine::Finish::kStop && (tokens.empty() || !is_turn_start(tokens.back()));
    const std::string text = tokenizer_.decode(tokens);
    ++out.messages;
    out.completion_tokens += static_cast<int64_t>(tokens.size());
    lane.context = std::move(finished.context);
    const auto parsed = text::parse_completion(ended ? text + text::kEos : text, mode(lane) != data::Mode::kPlain);
    if (const auto* error = std::get_if<text::ParseError>(&parsed)) {
      fail(lane, finished.completion.finish == engine::Finish::kLength ? "no end within the token limit"
                                                                       : "malformed: " + error->message);
      out.transcript.push_back(json::Object{{"role", "assistant"}, {"content", text}});
      return false;
    }
    const auto& message = std::get<text::AssistantMessage>(parsed);
    ++out.well_formed;
    out.reasoning_bytes += static_cast<int64_t>(message.reasoning.size());
    out.content_bytes += static_cast<int64_t>(message.content.size());
    for (const text::ToolCall& call : message.tool_calls) {
      ++out.calls;
      out.valid_calls += is_valid_call(trials_[lane.trial].task.tools, call);
    }
    if (message.tool_calls.empty() && lane.episode->expected().kind == data::Expectation::Kind::kJson) {
      ++out.json_answers;
      out.valid_json += data::has_shape(lane.episode->expected(), message.content);
    }
    lane.episode->answer(message);
    if (!lane.episode->done()) return true;
    const data::Verdict verdict = lane.episode->verdict();
    out.solved = verdict.pass;
    return fail(lane, verdict.reason);  // "" when solved
  }

  const text::Tokenizer& tokenizer_;
  text::Encoding encoding_;
  const std::vector<Trial>& trials_;
  const RunOptions& options_;
  engine::Batch batch_;
  std::vector<Outcome> outcomes_;
  std::vector<TokenId> turn_starts_;
  std::map<int, Lane> lanes_;  // by request
};

}  // namespace

bool is_valid_call(const json::Value& tools, const text::ToolCall& call) {
  if (!tools.is_array()) return false;
  for (const json::Value& tool : tools.as_array()) {
    const json::Value* function = tool.find("function");
    const json::Value* name = function ? function->find("name") : nullptr;
    if (!name || !name->is_string() || name->as_string() != call.name) continue;
    const auto arguments = json::parse(call.arguments);
    return arguments.ok() && arguments.value().is_object() && matches(function->find("parameters"), arguments.value());
  }
  return false;
}

Result<std::vector<Outcome>> run_trials(engine::Engine& engine, const text::Tokenizer& tokenizer,
                                        text::Encoding encoding, const std::vector<Trial>& trials,
                                        const RunOptions& options) {
  return Runner(engine, tokenizer, encoding, trials, options).run();
}

}  // namespace hadal::eval
