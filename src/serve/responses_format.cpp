// Responses (api.md 1.11.3, 1.11.4): the answer as a list of items, each with a life of its own in the stream.
#include <fmt/format.h>

#include <ctime>

#include "serve/formats.h"

namespace hadal::serve {
namespace {

std::string compact(const json::Value& value) { return json::dump(value, json::kCompact); }

class ResponsesFormat final : public Format {
 public:
  ResponsesFormat(const Turn& turn, const FormatContext& context, ResponseEcho echo)
      : tokenizer_(*context.tokenizer),
        logprobs_(turn.logprobs),
        id_("resp_" + random_hex(32)),
        model_(turn.model),
        created_(std::time(nullptr)),
        echo_(std::move(echo)) {}

  std::string open(const Answer&) override {
    std::string bytes = event("response.created", {{"response", response("in_progress", {}, {})}});
    return bytes + event("response.in_progress", {{"response", response("in_progress", {}, {})}});
  }

  std::string text(Answer& answer, bool is_reasoning, const std::string& piece) override {
    const State wanted = is_reasoning ? State::kReasoning : State::kMessage;
    std::string bytes;
    if (state_ != wanted) {
      bytes = end_item(answer);
      state_ = wanted;
      said_.clear();
      said_logprobs_.clear();
      item_id_ = (is_reasoning ? "rs_" : "msg_") + random_hex(32);
      bytes += event("response.output_item.added",
                     {{"output_index", static_cast<int64_t>(items_.size())}, {"item", text_item("in_progress", {})}});
      bytes += event("response.content_part.added", at_part({{"part", part("")}}));
    }
    said_ += piece;
    json::Object fields = at_part({{"delta", piece}});
    if (!is_reasoning) fields.emplace_back("logprobs", take_logprobs(answer));
    return bytes +
           event(is_reasoning ? "response.reasoning_text.delta" : "response.output_text.delta", std::move(fields));
  }

  std::string call(Answer& answer, size_t index) override {
    std::string bytes = end_item(answer);
    state_ = State::kCall;
    call_ = index;
    item_id_ = item_id_of(answer.calls[index]);
    return bytes + event("response.output_item.added", {{"output_index", static_cast<int64_t>(items_.size())},
                                                        {"item", call_item(answer.calls[index], "in_progress")}});
  }

  std::string arguments(Answer& answer, size_t index, const std::string& piece) override {
    if (kind_of(answer.calls[index]) != Kind::kFunction) return "";  // told when it is whole
    return event("response.function_call_arguments.delta", at_item({{"delta", piece}}));
  }

  std::string close(Answer& answer) override {
    std::string bytes = end_item(answer, true);
    const bool is_cut = answer.ending == Ending::kLength;
    return bytes + event(is_cut ? "response.incomplete" : "response.completed",
                         {{"response", response(is_cut ? "incomplete" : "completed", items_, usage_of(answer))}});
  }

  std::string failed(const Answer& answer, const ApiError& error) override {
    std::string bytes;
    if (sequence_ == 0) bytes = open(answer);
    json::Object all = response("failed", items_, usage_of(answer));
    for (auto& [key, value] : all)
      if (key == "error") value = json::Object{{"code", error.code}, {"message", error.message}};
    return bytes + event("response.failed", {{"response", std::move(all)}});
  }

  std::string whole(Answer& answer) override {
    json::Array items;
    if (!answer.reasoning.empty()) {
      state_ = State::kReasoning;
      item_id_ = "rs_" + random_hex(32);
      items.emplace_back(text_item("completed", answer.reasoning));
    }
    if (!answer.content.empty()) {
      state_ = State::kMessage;
      take_logprobs(answer);
      item_id_ = "msg_" + random_hex(32);
      items.emplace_back(text_item("completed", answer.content));
    }
    for (const Call& call : answer.calls) {
      item_id_ = item_id_of(call);
      items.emplace_back(call_item(call, "completed"));
    }
    return compact(
        response(answer.ending == Ending::kLength ? "incomplete" : "completed", std::move(items), usage_of(answer)));
  }

 private:
  enum class State { kNone, kReasoning, kMessage, kCall };
  enum class Kind { kFunction, kCustom, kSearch };

  Kind kind_of(const Call& call) const {
    const auto it = echo_.origins.find(call.name);
    if (it == echo_.origins.end()) return Kind::kFunction;
    return it->second.is_custom ? Kind::kCustom : it->second.is_search ? Kind::kSearch : Kind::kFunction;
  }
  std::string item_id_of(const Call& call) const {
    return (kind_of(call) == Kind::kCustom ? "ctc_" : kind_of(call) == Kind::kSearch ? "tsc_" : "fc_") + random_hex(32);
  }

  std::string event(const char* type, json::Object fields) {
    fields.insert(fields.begin(), {{"type", type}, {"sequence_number", sequence_++}});
    return std::string("event: ") + type + "\ndata: " + compact(fields) + "\n\n";
  }
  json::Object at_item(json::Object fields) const {
    fields.insert(fields.begin(), {{"item_id", item_id_}, {"output_index", static_cast<int64_t>(items_.size())}});
    return fields;
  }
  json::Object at_part(json::Object fields) const {
    fields.insert(fields.begin(), {"content_index", 0});
    return at_item(std::move(fields));
  }
  json::Object part(const std::string& text) const {
    if (state_ == State::kReasoning) return {{"type", "reasoning_text"}, {"text", text}};
    return {{"type", "output_text"},
            {"text", text},
            {"annotations", json::Array{}},
            {"logprobs", text.empty() ? json::Array{} : said_logprobs_}};
  }
  // Of the text since the last time.
  json::Array take_logprobs(Answer& answer) {
    if (!logprobs_) return {};
    json::Array entries = take_entries(tokenizer_, answer.content_choices);
    said_logprobs_.insert(said_logprobs_.end(), entries.begin(), entries.end());
    return entries;
  }
  // nullopt: nothing said yet.
  json::Object text_item(const char* status, const std::optional<std::string>& text) const {
    json::Array content;
    if (text) content.emplace_back(part(*text));
    if (state_ == State::kReasoning)
      return {{"type", "reasoning"},
              {"id", item_id_},
              {"summary", json::Array{}},
              {"content", std::move(content)},
              {"encrypted_content", json::Value()},
              {"status", status}};
    return {{"type", "message"},
            {"id", item_id_},
            {"status", status},
            {"role", "assistant"},
            {"content", std::move(content)}};
  }
  // The one string of a custom tool's arguments; what is none stays as it was written.
  static std::string input_of(const Call& call) {
    const auto arguments = json::parse(call.arguments);
    const json::Value* input = arguments.ok() ? arguments.value().find("input") : nullptr;
    return input && input->is_string() ? input->as_string() : call.arguments;
  }
  json::Object call_item(const Call& call, const char* status) const {
    const bool begins = std::string_view(status) == "in_progress";
    const auto it = echo_.origins.find(call.name);
    const std::string name = call_name(call);
    switch (kind_of(call)) {
      case Kind::kCustom:
        return {{"type", "custom_tool_call"},
                {"id", item_id_},
                {"call_id", call.id},
                {"name", name},
                {"input", begins ? "" : input_of(call)},
                {"status", status}};
      case Kind::kSearch: {
        auto arguments = json::parse(begins ? "{}" : call.arguments);
        return {{"type", "tool_search_call"},
                {"id", item_id_},
                {"call_id", call.id},
                {"execution", "client"},
                {"arguments", arguments.ok() ? arguments.value() : json::Value(json::Object{})},
                {"status", status}};
      }
      case Kind::kFunction:
        break;
    }
    json::Object item{{"type", "function_call"}, {"id", item_id_}, {"call_id", call.id}, {"name", name}};
    if (it != echo_.origins.end() && !it->second.space.empty()) item.emplace_back("namespace", it->second.space);
    item.emplace_back("arguments", begins ? "" : call.arguments);
    item.emplace_back("status", status);
    return item;
  }

  // Closes the item that is open: its done events, and a place in the output.
  std::string end_item(const Answer& answer, bool is_last = false) {
    std::string bytes;
    json::Object item;
    switch (state_) {
      case State::kNone:
        return "";
      case State::kReasoning:
      case State::kMessage: {
        const bool is_reasoning = state_ == State::kReasoning;
        json::Object fields = at_part({{"text", said_}});
        if (!is_reasoning) fields.emplace_back("logprobs", said_logprobs_);
        bytes = event(is_reasoning ? "response.reasoning_text.done" : "response.output_text.done", std::move(fields));
        bytes += event("response.content_part.done", at_part({{"part", part(said_)}}));
        item = text_item("completed", said_);
        break;
      }
      case State::kCall: {
        const Call& call = answer.calls[call_];
        // Only the last one can have no end, and nobody may run it.
        item = call_item(call, is_last && !call.is_whole ? "incomplete" : "completed");
        if (kind_of(call) == Kind::kFunction) {
          bytes = event("response.function_call_arguments.done",
                        at_item({{"name", call_name(call)}, {"arguments", call.arguments}}));
        } else if (kind_of(call) == Kind::kCustom) {
          bytes = event("response.custom_tool_call_input.delta", at_item({{"delta", input_of(call)}}));
          bytes += event("response.custom_tool_call_input.done", at_item({{"input", input_of(call)}}));
        }
        break;
      }
    }
    bytes +=
        event("response.output_item.done", {{"output_index", static_cast<int64_t>(items_.size())}, {"item", item}});
    items_.emplace_back(std::move(item));
    state_ = State::kNone;
    return bytes;
  }
  std::string call_name(const Call& call) const {
    const auto it = echo_.origins.find(call.name);
    return it == echo_.origins.end() ? call.name : it->second.name;
  }

  json::Object response(const char* status, json::Array output, json::Value usage) const {
    const bool is_cut = std::string_view(status) == "incomplete";
    json::Object all{
        {"id", id_},
        {"object", "response"},
        {"created_at", created_},
        {"status", status},
        {"background", false},
        {"error", json::Value()},
        {"incomplete_details", is_cut ? json::Value(json::Object{{"reason", "max_output_tokens"}}) : json::Value()},
        {"model", model_},
        {"output", std::move(output)}};
    all.insert(all.end(), echo_.fields.begin(), echo_.fields.end());
    all.emplace_back("usage", std::move(usage));
    return all;
  }
  static json::Value usage_of(const Answer& answer) {
    json::Object usage{{"input_tokens", answer.prompt_tokens},
                       {"input_tokens_details", json::Object{{"cached_tokens", answer.reused_tokens}}},
                       {"output_tokens", answer.tokens},
                       {"output_tokens_details", json::Object{{"reasoning_tokens", answer.reasoning_tokens}}},
                       {"total_tokens", answer.prompt_tokens + answer.tokens}};
    if (answer.cost_usd) usage.emplace_back("cost_usd", *answer.cost_usd);
    return usage;
  }

  const text::Tokenizer& tokenizer_;
  const bool logprobs_;
  const std::string id_, model_;
  const int64_t created_;
  const ResponseEcho echo_;
  json::Array items_;  // whole
  State state_ = State::kNone;
  std::string item_id_, said_;  // of the open item
  json::Array said_logprobs_;   // of its text
  size_t call_ = 0;
  int64_t sequence_ = 0;
};

}  // namespace

std::unique_ptr<Format> responses_format(const Turn& turn, const FormatContext& context, ResponseEcho echo) {
  return std::make_unique<ResponsesFormat>(turn, context, std::move(echo));
}

}  // namespace hadal::serve
