// Anthropic Messages (api.md 1.10.2 to 1.10.4).
#include <openssl/evp.h>

#include "serve/formats.h"

namespace hadal::serve {
namespace {

std::string compact(const json::Value& value) { return json::dump(value, json::kCompact); }

// Named, so that exact text can be found again if a client trims it; nobody checks it.
std::string signature_of(const std::string& thinking) {
  unsigned char digest[32], text[32];
  unsigned int size = 0;
  EVP_Digest(thinking.data(), thinking.size(), digest, &size, EVP_sha256(), nullptr);
  const int length = EVP_EncodeBlock(text, digest, 16);
  std::string base64(reinterpret_cast<const char*>(text), static_cast<size_t>(length));
  while (!base64.empty() && base64.back() == '=') base64.pop_back();
  for (char& c : base64) c = c == '+' ? '-' : c == '/' ? '_' : c;
  return "hd1." + base64;
}

const char* stop_reason(Ending ending) {
  switch (ending) {
    case Ending::kStop:
    case Ending::kGivenUp:  // an error here
      return "end_turn";
    case Ending::kStopString:
      return "stop_sequence";
    case Ending::kLength:
      return "max_tokens";
    case Ending::kToolCalls:
      return "tool_use";
  }
  return "end_turn";
}
json::Value stop_sequence(const Answer& answer) {
  return answer.ending == Ending::kStopString ? json::Value(answer.stop_string) : json::Value();
}

json::Object usage_of(const Answer& answer) {
  json::Object usage{{"input_tokens", answer.prompt_tokens - answer.reused_tokens},
                     {"cache_creation_input_tokens", 0},
                     {"cache_read_input_tokens", answer.reused_tokens},
                     {"output_tokens", answer.tokens}};
  if (answer.cost_usd) usage.emplace_back("cost_usd", *answer.cost_usd);
  return usage;
}

std::string event(const char* type, json::Object fields) {
  fields.insert(fields.begin(), {"type", type});
  return std::string("event: ") + type + "\ndata: " + compact(fields) + "\n\n";
}

class MessagesFormat final : public Format {
 public:
  MessagesFormat(const Turn& turn, const FormatContext& context)
      : request_id_(context.request_id), id_(uuid()), model_(turn.model) {}

  ErrorStyle style() const override { return ErrorStyle::kAnthropic; }

  std::string open(const Answer& answer) override {
    Answer before = {};
    before.prompt_tokens = answer.prompt_tokens;
    before.reused_tokens = answer.reused_tokens;
    return event("message_start", {{"message", message({}, json::Value(), json::Value(), usage_of(before))}});
  }
  std::string text(Answer&, bool is_reasoning, const std::string& piece) override {
    std::string bytes;
    if (is_reasoning) {
      if (block_ != Block::kThinking)
        bytes = begin(Block::kThinking, {{"type", "thinking"}, {"thinking", ""}, {"signature", ""}});
      thinking_ += piece;
      return bytes + delta({{"type", "thinking_delta"}, {"thinking", piece}});
    }
    if (block_ != Block::kText) bytes = begin(Block::kText, {{"type", "text"}, {"text", ""}});
    return bytes + delta({{"type", "text_delta"}, {"text", piece}});
  }
  std::string call(Answer& answer, size_t index) override {
    const Call& call = answer.calls[index];
    return begin(Block::kTool, {{"type", "tool_use"}, {"id", call.id}, {"name", call.name}, {"input", json::Object{}}});
  }
  std::string arguments(Answer&, size_t, const std::string& piece) override {
    return delta({{"type", "input_json_delta"}, {"partial_json", piece}});
  }
  std::string close(Answer& answer) override {
    std::string bytes;
    if (index_ < 0) bytes = begin(Block::kText, {{"type", "text"}, {"text", ""}});  // never no content
    bytes += end();
    bytes += event(
        "message_delta",
        {{"delta", json::Object{{"stop_reason", stop_reason(answer.ending)}, {"stop_sequence", stop_sequence(answer)}}},
         {"usage", usage_of(answer)}});
    return bytes + event("message_stop", {});
  }
  std::string failed(const Answer&, const ApiError& error) override {
    return "event: error\ndata: " + error_body(error, style(), request_id_) + "\n\n";
  }
  std::string whole(Answer& answer) override {
    json::Array content;
    if (!answer.reasoning.empty())
      content.push_back(json::Object{
          {"type", "thinking"}, {"thinking", answer.reasoning}, {"signature", signature_of(answer.reasoning)}});
    if (!answer.content.empty() || answer.calls.empty())
      content.push_back(json::Object{{"type", "text"}, {"text", answer.content}});
    for (const Call& call : answer.calls) {
      auto input = json::parse(call.arguments);
      const bool is_object = input.ok() && input.value().is_object();
      content.push_back(
          json::Object{{"type", "tool_use"},
                       {"id", call.id},
                       {"name", call.name},
                       {"input", is_object ? input.value() : json::Object{{"arguments", call.arguments}}}});
    }
    return compact(message(std::move(content), stop_reason(answer.ending), stop_sequence(answer), usage_of(answer)));
  }

 private:
  enum class Block { kNone, kThinking, kText, kTool };

  json::Object message(json::Array content, json::Value reason, json::Value sequence, json::Object usage) const {
    usage.emplace_back("service_tier", "standard");
    return {{"id", id_},
            {"type", "message"},
            {"role", "assistant"},
            {"model", model_},
            {"content", std::move(content)},
            {"stop_reason", std::move(reason)},
            {"stop_sequence", std::move(sequence)},
            {"usage", std::move(usage)}};
  }
  std::string begin(Block block, json::Object content_block) {
    std::string bytes = end();
    block_ = block;
    ++index_;
    return bytes + event("content_block_start", {{"index", index_}, {"content_block", std::move(content_block)}});
  }
  std::string delta(json::Object fields) {
    return event("content_block_delta", {{"index", index_}, {"delta", std::move(fields)}});
  }
  std::string end() {
    if (block_ == Block::kNone) return "";
    std::string bytes;
    if (block_ == Block::kThinking)
      bytes = delta({{"type", "signature_delta"}, {"signature", signature_of(std::exchange(thinking_, {}))}});
    block_ = Block::kNone;
    return bytes + event("content_block_stop", {{"index", index_}});
  }

  const std::string request_id_, id_, model_;
  std::string thinking_;  // of the block that is open
  Block block_ = Block::kNone;
  int index_ = -1;
};

}  // namespace

std::unique_ptr<Format> messages_format(const Turn& turn, const FormatContext& context) {
  return std::make_unique<MessagesFormat>(turn, context);
}

}  // namespace hadal::serve
