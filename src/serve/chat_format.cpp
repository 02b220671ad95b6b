// Chat Completions (api.md 1.4, 1.13) and FIM completions (1.8); what all formats share.
#include <fmt/format.h>

#include <ctime>
#include <random>

#include "serve/formats.h"

namespace hadal::serve {
namespace {

std::string compact(const json::Value& value) { return json::dump(value, json::kCompact); }

const char* finish_name(Ending ending) {
  switch (ending) {
    case Ending::kLength:
      return "length";
    case Ending::kToolCalls:
      return "tool_calls";
    case Ending::kGivenUp:
      return "insufficient_system_resource";
    case Ending::kStop:
    case Ending::kStopString:
      break;
  }
  return "stop";
}

json::Object usage_of(const Answer& answer, bool thinks) {
  json::Object usage{{"prompt_tokens", answer.prompt_tokens},
                     {"completion_tokens", answer.tokens},
                     {"total_tokens", answer.prompt_tokens + answer.tokens},
                     {"prompt_tokens_details", json::Object{{"cached_tokens", answer.reused_tokens}}}};
  if (thinks)
    usage.emplace_back("completion_tokens_details", json::Object{{"reasoning_tokens", answer.reasoning_tokens}});
  usage.emplace_back("prompt_cache_hit_tokens", answer.reused_tokens);
  usage.emplace_back("prompt_cache_miss_tokens", answer.prompt_tokens - answer.reused_tokens);
  if (answer.cost_usd) usage.emplace_back("cost_usd", *answer.cost_usd);
  return usage;
}

// Markup in a list of tokens cannot be taken for markup: its bars are doubled.
std::string token_text(const text::Tokenizer& tokenizer, TokenId id) {
  std::string text = tokenizer.decode(std::span(&id, 1));
  if (!tokenizer.is_added(id)) return text;
  constexpr std::string_view kBar = "｜";
  for (size_t at = text.find(kBar); at != std::string::npos; at = text.find(kBar, at + 2 * kBar.size()))
    text.insert(at, kBar);
  return text;
}

class ChatFormat final : public Format {
 public:
  ChatFormat(const Turn& turn, const FormatContext& context)
      : context_(context),
        id_(uuid()),
        model_(turn.model),
        created_(std::time(nullptr)),
        thinks_(turn.thinks()),
        logprobs_(turn.logprobs),
        include_usage_(turn.include_usage),
        legacy_call_(turn.legacy_call) {}

  bool knows_giving_up() const override { return true; }
  std::string open(const Answer&) override {
    json::Object delta{{"role", "assistant"}};
    if (thinks_) {
      delta.emplace_back("content", json::Value());
      delta.emplace_back("reasoning_content", "");
    } else {
      delta.emplace_back("content", "");
    }
    return chunk(nullptr, std::move(delta), nullptr);
  }
  std::string text(Answer& answer, bool is_reasoning, const std::string& piece) override {
    if (is_reasoning) return chunk(&answer, {{"content", json::Value()}, {"reasoning_content", piece}}, nullptr);
    if (thinks_) return chunk(&answer, {{"content", piece}, {"reasoning_content", json::Value()}}, nullptr);
    return chunk(&answer, {{"content", piece}}, nullptr);
  }
  std::string call(Answer& answer, size_t index) override {
    const Call& call = answer.calls[index];
    if (legacy_call_)
      return chunk(&answer, {{"function_call", json::Object{{"name", call.name}, {"arguments", ""}}}}, nullptr);
    return chunk(
        &answer,
        {{"tool_calls", json::Array{json::Object{{"index", static_cast<int64_t>(index)},
                                                 {"id", call.id},
                                                 {"type", "function"},
                                                 {"function", json::Object{{"name", call.name}, {"arguments", ""}}}}}}},
        nullptr);
  }
  std::string arguments(Answer& answer, size_t index, const std::string& piece) override {
    if (legacy_call_) return chunk(&answer, {{"function_call", json::Object{{"arguments", piece}}}}, nullptr);
    return chunk(&answer,
                 {{"tool_calls", json::Array{json::Object{{"index", static_cast<int64_t>(index)},
                                                          {"function", json::Object{{"arguments", piece}}}}}}},
                 nullptr);
  }
  std::string close(Answer& answer) override {
    json::Object delta{{"content", ""}};
    if (thinks_) delta.emplace_back("reasoning_content", json::Value());
    return chunk(&answer, std::move(delta), finish(answer)) + "data: [DONE]\n\n";
  }
  std::string failed(const Answer&, const ApiError& error) override {
    return "data: " + error_body(error, style(), context_.request_id) + "\n\n";
  }
  std::string whole(Answer& answer) override {
    json::Object message{{"role", "assistant"}, {"content", answer.content}};
    if (thinks_) message.emplace_back("reasoning_content", answer.reasoning);
    json::Array calls;
    for (size_t i = 0; i < answer.calls.size(); ++i) {
      const Call& call = answer.calls[i];
      calls.push_back(json::Object{{"index", static_cast<int64_t>(i)},
                                   {"id", call.id},
                                   {"type", "function"},
                                   {"function", json::Object{{"name", call.name}, {"arguments", call.arguments}}}});
    }
    if (!calls.empty() && legacy_call_) {
      const Call& call = answer.calls.front();
      message.emplace_back("function_call", json::Object{{"name", call.name}, {"arguments", call.arguments}});
    } else if (!calls.empty()) {
      message.emplace_back("tool_calls", std::move(calls));
    }
    return compact(json::Object{{"id", id_},
                                {"object", "chat.completion"},
                                {"created", created_},
                                {"model", model_},
                                {"choices", json::Array{json::Object{{"index", 0},
                                                                     {"message", std::move(message)},
                                                                     {"logprobs", take_logprobs(answer)},
                                                                     {"finish_reason", finish(answer)}}}},
                                {"usage", usage_of(answer, thinks_)},
                                {"system_fingerprint", context_.fingerprint}});
  }

 private:
  const char* finish(const Answer& answer) const {
    return legacy_call_ && answer.ending == Ending::kToolCalls ? "function_call" : finish_name(answer.ending);
  }
  // answer: of which the logprobs are taken. The chunk that names the end has the usage.
  std::string chunk(Answer* answer, json::Object delta, const char* ending) {
    json::Object all{
        {"id", id_},
        {"object", "chat.completion.chunk"},
        {"created", created_},
        {"model", model_},
        {"system_fingerprint", context_.fingerprint},
        {"choices", json::Array{json::Object{{"index", 0},
                                             {"delta", std::move(delta)},
                                             {"logprobs", answer ? take_logprobs(*answer) : json::Value()},
                                             {"finish_reason", ending ? json::Value(ending) : json::Value()}}}}};
    if (ending) {
      all.emplace_back("usage", usage_of(*answer, thinks_));
    } else if (include_usage_) {
      all.emplace_back("usage", json::Value());
    }
    return "data: " + compact(all) + "\n\n";
  }
  json::Value take_logprobs(Answer& answer) const {
    if (!logprobs_ || (answer.content_choices.empty() && answer.reasoning_choices.empty())) return {};
    const auto list = [&](std::vector<sample::Choice>& choices) {
      return choices.empty() ? json::Value() : json::Value(take_entries(*context_.tokenizer, choices));
    };
    json::Value content = list(answer.content_choices), reasoning = list(answer.reasoning_choices);
    return json::Object{{"content", std::move(content)}, {"reasoning_content", std::move(reasoning)}};
  }
  const FormatContext context_;
  const std::string id_, model_;
  const int64_t created_;
  const bool thinks_, logprobs_, include_usage_, legacy_call_;
};

class CompletionFormat final : public Format {
 public:
  CompletionFormat(const Turn& turn, const FormatContext& context, std::string echo)
      : context_(context),
        id_(uuid()),
        model_(turn.model),
        echo_(std::move(echo)),
        created_(std::time(nullptr)),
        logprobs_(turn.logprobs),
        include_usage_(turn.include_usage) {}

  bool knows_giving_up() const override { return true; }
  std::string open(const Answer&) override { return echo_.empty() ? "" : chunk(nullptr, echo_, nullptr); }
  std::string text(Answer& answer, bool, const std::string& piece) override { return chunk(&answer, piece, nullptr); }
  std::string call(Answer&, size_t) override { return ""; }  // a completion has text only
  std::string arguments(Answer&, size_t, const std::string&) override { return ""; }
  std::string close(Answer& answer) override {
    return chunk(&answer, "", finish_name(answer.ending)) + "data: [DONE]\n\n";
  }
  std::string failed(const Answer&, const ApiError& error) override {
    return "data: " + error_body(error, style(), context_.request_id) + "\n\n";
  }
  std::string whole(Answer& answer) override {
    json::Object all = head(&answer, echo_ + answer.content, finish_name(answer.ending));
    all.emplace_back("usage", usage_of(answer, false));
    return compact(all);
  }

 private:
  json::Object head(Answer* answer, const std::string& text, const char* finish) {
    return {{"id", id_},
            {"object", "text_completion"},
            {"created", created_},
            {"model", model_},
            {"system_fingerprint", context_.fingerprint},
            {"choices", json::Array{json::Object{{"text", text},
                                                 {"index", 0},
                                                 {"logprobs", answer ? take_logprobs(*answer) : json::Value()},
                                                 {"finish_reason", finish ? json::Value(finish) : json::Value()}}}}};
  }
  std::string chunk(Answer* answer, const std::string& text, const char* finish) {
    json::Object all = head(answer, text, finish);
    if (finish) {
      all.emplace_back("usage", usage_of(*answer, false));
    } else if (include_usage_) {
      all.emplace_back("usage", json::Value());
    }
    return "data: " + compact(all) + "\n\n";
  }
  json::Value take_logprobs(Answer& answer) {
    if (!logprobs_ || answer.content_choices.empty()) return {};
    json::Array tokens, logprobs, tops, offsets;
    for (const sample::Choice& choice : answer.content_choices) {
      const std::string text = token_text(*context_.tokenizer, choice.token);
      json::Object top;
      for (const auto& other : choice.top)
        top.emplace_back(token_text(*context_.tokenizer, other.token), static_cast<double>(other.logprob));
      tokens.emplace_back(text);
      logprobs.emplace_back(static_cast<double>(choice.logprob));
      tops.emplace_back(std::move(top));
      offsets.emplace_back(offset_);
      offset_ += static_cast<int64_t>(text.size());
    }
    answer.content_choices.clear();
    return json::Object{{"tokens", std::move(tokens)},
                        {"token_logprobs", std::move(logprobs)},
                        {"top_logprobs", std::move(tops)},
                        {"text_offset", std::move(offsets)}};
  }

  const FormatContext context_;
  const std::string id_, model_, echo_;
  const int64_t created_;
  const bool logprobs_, include_usage_;
  int64_t offset_ = static_cast<int64_t>(echo_.size());  // bytes
};

}  // namespace

std::string random_hex(size_t digits) {
  static thread_local std::random_device device;
  std::string hex;
  while (hex.size() < digits) hex += fmt::format("{:08x}", device());
  hex.resize(digits);
  return hex;
}
std::string random_base62(size_t digits) {
  static constexpr std::string_view kDigits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
  static thread_local std::random_device device;
  std::uniform_int_distribution<size_t> draw(0, kDigits.size() - 1);
  std::string text;
  while (text.size() < digits) text += kDigits[draw(device)];
  return text;
}

std::string uuid() {
  std::string hex = random_hex(32);
  hex[12] = '4';
  hex[16] = "89ab"[static_cast<size_t>(hex[16]) % 4];
  for (const size_t at : {8u, 13u, 18u, 23u}) hex.insert(at, "-");
  return hex;
}

Headers common_headers(const std::string& request_id) {
  return {{"x-request-id", request_id}, {"request-id", request_id}, {"x-ds-trace-id", request_id}};
}
Headers error_headers(const ApiError& error, const std::string& request_id) {
  Headers headers = common_headers(request_id);
  headers.emplace_back("content-type", "application/json");
  if (error.status == 503 || error.status == 429)
    headers.emplace_back("retry-after", std::to_string(error.retry_after));
  if (error.status == 500) headers.emplace_back("x-should-retry", "false");  // it would fail the same way
  return headers;
}

int error_status(const ApiError& error, ErrorStyle style) {
  return style == ErrorStyle::kAnthropic && error.status == 503 ? 529 : error.status;
}

std::string error_body(const ApiError& error, ErrorStyle style, const std::string& request_id) {
  const json::Value param = error.param.empty() ? json::Value() : json::Value(error.param);
  if (style == ErrorStyle::kOpenAi)
    return compact(json::Object{
        {"error",
         json::Object{{"message", error.message}, {"type", error.type}, {"param", param}, {"code", error.code}}}});
  const char* type = error.status == 404   ? "not_found_error"
                     : error.status == 413 ? "request_too_large"
                     : error.status == 402 ? "billing_error"
                     : error.status == 503 ? "overloaded_error"
                     : error.status >= 500 ? "api_error"
                                           : error.type.c_str();
  return compact(json::Object{
      {"type", "error"},
      {"error", json::Object{{"type", type}, {"message", error.message}, {"param", param}, {"code", error.code}}},
      {"request_id", request_id}});
}

json::Array take_entries(const text::Tokenizer& tokenizer, std::vector<sample::Choice>& choices) {
  const auto entry = [&](TokenId id, float logprob) {
    json::Array bytes;
    for (const char c : tokenizer.piece(id)) bytes.emplace_back(static_cast<int>(static_cast<uint8_t>(c)));
    return json::Object{
        {"token", token_text(tokenizer, id)}, {"logprob", static_cast<double>(logprob)}, {"bytes", std::move(bytes)}};
  };
  json::Array entries;
  for (const sample::Choice& choice : choices) {
    json::Array top;
    for (const auto& other : choice.top) top.emplace_back(entry(other.token, other.logprob));
    json::Object one = entry(choice.token, choice.logprob);
    one.emplace_back("top_logprobs", std::move(top));
    entries.emplace_back(std::move(one));
  }
  choices.clear();
  return entries;
}

std::unique_ptr<Format> chat_format(const Turn& turn, const FormatContext& context) {
  return std::make_unique<ChatFormat>(turn, context);
}
std::unique_ptr<Format> completion_format(const Turn& turn, const FormatContext& context, std::string echo) {
  return std::make_unique<CompletionFormat>(turn, context, std::move(echo));
}

}  // namespace hadal::serve
