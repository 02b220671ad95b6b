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

// The engine, with conversations side by side in its batch.
class EngineAnswerer final : public Answerer {
 public:
  EngineAnswerer(engine::Engine& engine, const text::Tokenizer& tokenizer, text::Encoding encoding,
                 const RunOptions& options)
      : tokenizer_(tokenizer), encoding_(encoding), options_(options), batch_(engine, options.rows_per_step) {
    for (const char* name : text::kTurnStarts)
      if (const auto id = tokenizer.id_of(name)) turn_starts_.push_back(*id);
  }

  void ask(int conversation, const data::Task&, data::Mode mode, const json::Array& messages) override {
    Lane& lane = lanes_[conversation];
    lane.mode = mode;
    const auto refuse = [&](std::string reason) {
      refused_.push_back({conversation, Refused{std::move(reason)}, lane.prompt_tokens, 0});
    };
    text::EncodeOptions encode = data::encode_options(mode);
    encode.encoding = encoding_;
    const auto encoded = text::encode_prompt(messages, encode);
    if (const auto* error = std::get_if<text::EncodeError>(&encoded)) return refuse("prompt: " + error->message);
    std::vector<TokenId> ids = tokenizer_.encode(std::get<text::EncodedPrompt>(encoded).text);
    lane.prompt_tokens = static_cast<int64_t>(ids.size());
    // With tools the reasoning stays in the prompt, so that it continues what was generated.
    if (lane.context && (lane.context->ids.size() >= ids.size() ||
                         !std::equal(lane.context->ids.begin(), lane.context->ids.end(), ids.begin())))
      lane.context.reset();
    const auto id = batch_.add({.prompt = std::move(ids),
                                .start = std::exchange(lane.context, std::nullopt),
                                .sampling = options_.sampling,
                                .max_tokens = options_.max_tokens});
    if (!id.ok()) return refuse(id.error().message);
    asked_[id.value()] = conversation;
  }

  Result<std::vector<Answer>> answers() override {
    std::vector<Answer> answers = std::exchange(refused_, {});
    std::vector<engine::Event> events;
    while (answers.empty() && !asked_.empty()) {
      HADAL_TRY(batch_.step(events));
      for (const engine::Event& event : events) {
        if (event.kind == engine::Event::Kind::kToken && is_turn_start(event.choice.token))
          batch_.stop(event.id, engine::Finish::kStop);
        if (event.kind != engine::Event::Kind::kDone) continue;
        if (!event.error.ok()) return event.error.error();
        answers.push_back(hear(event.id));
      }
    }
    return answers;
  }
  void end(int conversation) override { lanes_.erase(conversation); }

 private:
  struct Lane {
    data::Mode mode = data::Mode::kPlain;
    std::optional<engine::Context> context;  // of the last answer
    int64_t prompt_tokens = 0;
  };
  bool is_turn_start(TokenId id) const {
    return std::find(turn_starts_.begin(), turn_starts_.end(), id) != turn_starts_.end();
  }

  Answer hear(int request) {
    const int conversation = asked_.extract(request).mapped();
    Lane& lane = lanes_.at(conversation);
    engine::Finished finished = batch_.take(request);
    const std::vector<TokenId>& tokens = finished.completion.tokens;
    const bool ended =
        finished.completion.finish == engine::Finish::kStop && (tokens.empty() || !is_turn_start(tokens.back()));
    const std::string text = tokenizer_.decode(tokens);
    Answer answer{conversation, Refused{}, lane.prompt_tokens, static_cast<int64_t>(tokens.size())};
    lane.context = std::move(finished.context);
    auto parsed = text::parse_completion(ended ? text + text::kEos : text, lane.mode != data::Mode::kPlain);
    if (const auto* error = std::get_if<text::ParseError>(&parsed)) {
      answer.said = Malformed{finished.completion.finish == engine::Finish::kLength ? "no end within the token limit"
                                                                                    : "malformed: " + error->message,
                              text};
    } else {
      answer.said = std::get<text::AssistantMessage>(std::move(parsed));
    }
    return answer;
  }

  const text::Tokenizer& tokenizer_;
  const text::Encoding encoding_;
  const RunOptions& options_;
  engine::Batch batch_;
  std::vector<TokenId> turn_starts_;
  std::map<int, Lane> lanes_;  // by conversation
  std::map<int, int> asked_;   // conversations by request
  std::vector<Answer> refused_;
};

class Runner {
 public:
  Runner(Answerer& answerer, const std::vector<Trial>& trials, const RunOptions& options)
      : answerer_(answerer), trials_(trials), options_(options), outcomes_(trials.size()) {}

  Result<std::vector<Outcome>> run() {
    size_t next = 0, done = 0;
    const size_t width = static_cast<size_t>(std::max(1, options_.side_by_side));
    while (next < trials_.size() || !episodes_.empty()) {
      for (; next < trials_.size() && episodes_.size() < width; ++next) {
        const int conversation = static_cast<int>(next);
        episodes_[conversation] = std::make_unique<data::Episode>(trials_[next].task);
        ask(conversation);
      }
      for (const Answer& answer : HADAL_TRY(answerer_.answers())) {
        if (hear(answer)) {
          ask(answer.conversation);
          continue;
        }
        answerer_.end(answer.conversation);
        episodes_.erase(answer.conversation);
        ++done;
        if (options_.progress) options_.progress(static_cast<int64_t>(done), static_cast<int64_t>(trials_.size()));
      }
    }
    return std::move(outcomes_);
  }

 private:
  void ask(int conversation) {
    const Trial& trial = trials_[static_cast<size_t>(conversation)];
    answerer_.ask(conversation, trial.task, trial.mode, episodes_.at(conversation)->messages());
  }

  // Takes the answer. true: the conversation goes on.
  bool hear(const Answer& answer) {
    const Trial& trial = trials_[static_cast<size_t>(answer.conversation)];
    Outcome& out = outcomes_[static_cast<size_t>(answer.conversation)];
    data::Episode& episode = *episodes_.at(answer.conversation);
    const auto end = [&](std::string reason) {
      out.reason = std::move(reason);
      out.transcript = episode.messages();
      return false;
    };
    if (answer.prompt_tokens > 0) out.prompt_tokens = answer.prompt_tokens;
    if (const auto* refused = std::get_if<Refused>(&answer.said)) return end(refused->reason);
    ++out.messages;
    out.completion_tokens += answer.completion_tokens;
    if (const auto* malformed = std::get_if<Malformed>(&answer.said)) {
      end(malformed->reason);
      out.transcript.push_back(json::Object{{"role", "assistant"}, {"content", malformed->text}});
      return false;
    }
    const auto& message = std::get<text::AssistantMessage>(answer.said);
    ++out.well_formed;
    out.reasoning_bytes += static_cast<int64_t>(message.reasoning.size());
    out.content_bytes += static_cast<int64_t>(message.content.size());
    for (const text::ToolCall& call : message.tool_calls) {
      ++out.calls;
      out.valid_calls += is_valid_call(trial.task.tools, call);
    }
    if (message.tool_calls.empty() && episode.expected().kind == data::Expectation::Kind::kJson) {
      ++out.json_answers;
      out.valid_json += data::has_shape(episode.expected(), message.content);
    }
    episode.answer(message);
    if (!episode.done()) return true;
    const data::Verdict verdict = episode.verdict();
    out.solved = verdict.pass;
    return end(verdict.reason);  // "" when solved
  }

  Answerer& answerer_;
  const std::vector<Trial>& trials_;
  const RunOptions& options_;
  std::vector<Outcome> outcomes_;
  std::map<int, std::unique_ptr<data::Episode>> episodes_;  // by trial: conversations on their way
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
  EngineAnswerer answerer(engine, tokenizer, encoding, options);
  return run_trials(answerer, trials, options);
}
Result<std::vector<Outcome>> run_trials(Answerer& answerer, const std::vector<Trial>& trials,
                                        const RunOptions& options) {
  return Runner(answerer, trials, options).run();
}

}  // namespace hadal::eval
