#include "serve/chat_reply.h"

#include <fmt/format.h>

#include <algorithm>
#include <ctime>
#include <random>

#include "text/templates.h"

namespace hadal::serve {
namespace {

constexpr double kStreamSilence = 5, kWholeSilence = 15;  // seconds until a sign of life
constexpr int64_t kUnit = 128;                            // cached tokens are told in these

std::string uuid() {
  std::string hex = random_hex(32);
  hex[12] = '4';
  for (const size_t at : {8u, 13u, 18u, 23u}) hex.insert(at, "-");
  return hex;
}

std::string call_id(size_t index) {
  static constexpr std::string_view kDigits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
  static thread_local std::random_device device;
  std::string id = fmt::format("call_{:02}_", index);
  for (int i = 0; i < 24; ++i) id += kDigits[device() % kDigits.size()];
  return id;
}

std::string compact(const json::Value& value) { return json::dump(value, json::kCompact); }

}  // namespace

std::string random_hex(size_t digits) {
  static thread_local std::random_device device;
  std::string hex;
  while (hex.size() < digits) hex += fmt::format("{:08x}", device());
  hex.resize(digits);
  return hex;
}

Headers common_headers(const std::string& request_id) {
  return {{"x-request-id", request_id}, {"request-id", request_id}, {"x-ds-trace-id", request_id}};
}

std::string error_body(const ApiError& error) {
  return compact(json::Object{{"error", json::Object{{"message", error.message},
                                                     {"type", error.type},
                                                     {"param", error.param.empty() ? json::Value() : error.param},
                                                     {"code", error.code}}}});
}

ChatReply::ChatReply(const Turn& turn, const Prompt& prompt, const ReplyContext& context,
                     std::shared_ptr<HttpReply> http, std::string request_id)
    : turn_(turn),
      context_(context),
      http_(std::move(http)),
      request_id_(std::move(request_id)),
      id_(uuid()),
      created_(std::time(nullptr)),
      prompt_tokens_(static_cast<int64_t>(prompt.ids.size())),
      think_close_(context.tokenizer->id_of(text::kThinkClose)),
      parser_(prompt.thinking_open),
      decoder_(*context.tokenizer),
      stops_(turn.stop),
      may_call_(!turn.tools.empty() && turn.tool_choice.kind != ToolChoice::Kind::kNone),
      in_reasoning_(prompt.thinking_open) {}

void ChatReply::started(int64_t reused_tokens) { reused_ = reused_tokens / kUnit * kUnit; }

bool ChatReply::token(const sample::Choice& choice) {
  if (std::find(context_.turn_ends.begin(), context_.turn_ends.end(), choice.token) != context_.turn_ends.end()) {
    return false;
  }
  ++n_tokens_;
  const bool closes = in_reasoning_ && choice.token == think_close_;
  if (in_reasoning_ && !closes) ++n_reasoning_;
  if (turn_.logprobs && !closes && calls_.empty())
    (in_reasoning_ ? reasoning_logprobs_ : content_logprobs_).push_back(logprob_entry(choice));
  if (closes) in_reasoning_ = false;
  take(parser_.feed(decoder_.feed(choice.token)), false);
  return !stops_.stopped();
}

// What the parser told, with stop strings looked for in the content.
void ChatReply::take(const std::vector<text::Delta>& deltas, bool final) {
  const auto text_delta = [&](bool is_reasoning, const std::string& text) {
    if (text.empty()) return;
    (is_reasoning ? reasoning_ : content_) += text;
    if (!turn_.stream) return;
    json::Object delta;
    if (is_reasoning) {
      delta = {{"content", json::Value()}, {"reasoning_content", text}};
    } else if (turn_.thinks()) {
      delta = {{"content", text}, {"reasoning_content", json::Value()}};
    } else {
      delta = {{"content", text}};
    }
    emit(std::move(delta), nullptr, false);
  };
  for (const text::Delta& delta : deltas) {
    if (stops_.stopped()) return;
    switch (delta.kind) {
      case text::Delta::Kind::kReasoning:
        text_delta(true, delta.text);
        break;
      case text::Delta::Kind::kContent:
        text_delta(false, stops_.feed(delta.text));
        break;
      case text::Delta::Kind::kToolCall:
        if (!may_call_) break;  // nobody offered a tool: what looks like a call is dropped
        text_delta(false, stops_.finish());
        calls_.push_back({call_id(delta.call), delta.text, ""});
        if (turn_.stream)
          emit({{"tool_calls",
                 json::Array{json::Object{{"index", static_cast<int64_t>(delta.call)},
                                          {"id", calls_.back().id},
                                          {"type", "function"},
                                          {"function", json::Object{{"name", delta.text}, {"arguments", ""}}}}}}},
               nullptr, false);
        break;
      case text::Delta::Kind::kArguments:
        if (!may_call_) break;
        calls_.at(delta.call).arguments += delta.text;
        if (turn_.stream && !delta.text.empty())
          emit({{"tool_calls", json::Array{json::Object{{"index", static_cast<int64_t>(delta.call)},
                                                        {"function", json::Object{{"arguments", delta.text}}}}}}},
               nullptr, false);
        break;
    }
  }
  if (final && !stops_.stopped()) text_delta(false, stops_.finish());
}

void ChatReply::done(const Status& status, engine::Completion completion) {
  if (!status.ok()) {
    const Code code = status.error().code;
    if (code == Code::kCancelled) {  // the client went away: nobody listens
      const std::lock_guard lock(mutex_);
      finished_ = true;
      return;
    }
    if (code == Code::kBusy)
      return fail({.status = 503,
                   .type = "server_error",
                   .code = "server_overloaded",
                   .message = "The server is overloaded, please try again later"});
    if (code == Code::kInvalid) return fail(invalid(status.error().message));
    return fail({.status = 500, .type = "server_error", .code = "server_error", .message = status.error().message});
  }
  take(parser_.feed(decoder_.finish()), false);
  bool whole = false;
  if (!stops_.stopped()) {
    if (completion.finish == engine::Finish::kStop) {
      parser_.feed(text::kEos);
      std::vector<text::Delta> rest;
      whole = std::holds_alternative<text::AssistantMessage>(parser_.finish(rest));
      take(whole ? rest : parser_.cut(), true);
    } else {
      take(parser_.cut(), true);
    }
  }
  const bool is_cut = completion.finish == engine::Finish::kLength && !stops_.stopped();
  const char* finish = is_cut ? "length" : whole && !calls_.empty() ? "tool_calls" : "stop";
  if (turn_.stream) {
    json::Object last{{"content", ""}};
    if (turn_.thinks()) last.emplace_back("reasoning_content", json::Value());
    emit(std::move(last), finish, true);
    write("data: [DONE]\n\n");
  } else {
    json::Object message{{"role", "assistant"}, {"content", content_}};
    if (turn_.thinks()) message.emplace_back("reasoning_content", reasoning_);
    json::Array calls;
    for (size_t i = 0; i < calls_.size(); ++i)
      if (whole)
        calls.push_back(
            json::Object{{"index", static_cast<int64_t>(i)},
                         {"id", calls_[i].id},
                         {"type", "function"},
                         {"function", json::Object{{"name", calls_[i].name}, {"arguments", calls_[i].arguments}}}});
    if (!calls.empty()) message.emplace_back("tool_calls", std::move(calls));
    json::Object choice{{"index", 0}, {"message", std::move(message)}};
    flush_logprobs(choice);
    choice.emplace_back("finish_reason", finish);
    const std::string body = compact(json::Object{{"id", id_},
                                                  {"object", "chat.completion"},
                                                  {"created", created_},
                                                  {"model", turn_.model},
                                                  {"choices", json::Array{std::move(choice)}},
                                                  {"usage", usage()},
                                                  {"system_fingerprint", context_.fingerprint}});
    const std::lock_guard lock(mutex_);
    if (begun_) {
      http_->write(body);
    } else {
      Headers headers = common_headers(request_id_);
      headers.emplace_back("content-type", "application/json");
      http_->send(200, std::move(headers), body);
      finished_ = true;
      return;
    }
  }
  const std::lock_guard lock(mutex_);
  finished_ = true;
  http_->end();
}

void ChatReply::flush_logprobs(json::Object& choice) {
  if (!turn_.logprobs || (content_logprobs_.empty() && reasoning_logprobs_.empty())) {
    choice.emplace_back("logprobs", json::Value());
    return;
  }
  const auto list = [](json::Array& entries) {
    return entries.empty() ? json::Value() : json::Value(std::exchange(entries, {}));
  };
  json::Value content = list(content_logprobs_), reasoning = list(reasoning_logprobs_);
  choice.emplace_back("logprobs",
                      json::Object{{"content", std::move(content)}, {"reasoning_content", std::move(reasoning)}});
}

// One chunk. The first one, which names the role, goes before it.
void ChatReply::emit(json::Object delta, const char* finish, bool with_usage) {
  if (!opened_) {
    opened_ = true;
    json::Object first{{"role", "assistant"}};
    if (turn_.thinks()) {
      first.emplace_back("content", json::Value());
      first.emplace_back("reasoning_content", "");
    } else {
      first.emplace_back("content", "");
    }
    emit(std::move(first), nullptr, false);
  }
  const bool is_first = delta.size() > 1 && delta[0].first == "role";
  json::Object choice{{"index", 0}, {"delta", std::move(delta)}};
  if (is_first) {
    choice.emplace_back("logprobs", json::Value());
  } else {
    flush_logprobs(choice);
  }
  choice.emplace_back("finish_reason", finish ? json::Value(finish) : json::Value());
  json::Object chunk{{"id", id_},
                     {"object", "chat.completion.chunk"},
                     {"created", created_},
                     {"model", turn_.model},
                     {"system_fingerprint", context_.fingerprint},
                     {"choices", json::Array{std::move(choice)}}};
  if (with_usage) {
    chunk.emplace_back("usage", usage());
  } else if (turn_.include_usage) {
    chunk.emplace_back("usage", json::Value());
  }
  write("data: " + compact(chunk) + "\n\n");
}

void ChatReply::write(std::string chunk) {
  const std::lock_guard lock(mutex_);
  if (!begun_) {
    begun_ = true;
    Headers headers = common_headers(request_id_);
    headers.emplace_back("content-type", "text/event-stream; charset=utf-8");
    headers.emplace_back("cache-control", "no-cache");
    headers.emplace_back("x-accel-buffering", "no");
    http_->begin(200, std::move(headers));
  }
  silent_since_ = -1;
  http_->write(std::move(chunk));
}

void ChatReply::fail(const ApiError& error) {
  const std::lock_guard lock(mutex_);
  finished_ = true;
  if (!begun_) {
    Headers headers = common_headers(request_id_);
    headers.emplace_back("content-type", "application/json");
    if (error.status == 503) headers.emplace_back("retry-after", "5");
    if (error.status == 500) headers.emplace_back("x-should-retry", "false");
    http_->send(error.status, std::move(headers), error_body(error));
    return;
  }
  http_->write(turn_.stream ? "data: " + error_body(error) + "\n\n" : error_body(error));
  http_->end();
}

bool ChatReply::tick(double now) {
  const std::lock_guard lock(mutex_);
  if (finished_) return false;
  if (silent_since_ < 0) silent_since_ = now;
  const double silence = turn_.stream ? kStreamSilence : kWholeSilence;
  if (!context_.keep_alive || now - silent_since_ < silence) return true;
  silent_since_ = now;
  if (!begun_) {
    begun_ = true;
    Headers headers = common_headers(request_id_);
    headers.emplace_back("content-type", turn_.stream ? "text/event-stream; charset=utf-8" : "application/json");
    if (turn_.stream) {
      headers.emplace_back("cache-control", "no-cache");
      headers.emplace_back("x-accel-buffering", "no");
    }
    http_->begin(200, std::move(headers));
  }
  http_->write(turn_.stream ? ": keep-alive\n\n" : "\n");
  return true;
}

json::Value ChatReply::usage() const {
  json::Object usage{{"prompt_tokens", prompt_tokens_},
                     {"completion_tokens", n_tokens_},
                     {"total_tokens", prompt_tokens_ + n_tokens_},
                     {"prompt_tokens_details", json::Object{{"cached_tokens", reused_}}}};
  if (turn_.thinks()) usage.emplace_back("completion_tokens_details", json::Object{{"reasoning_tokens", n_reasoning_}});
  usage.emplace_back("prompt_cache_hit_tokens", reused_);
  usage.emplace_back("prompt_cache_miss_tokens", prompt_tokens_ - reused_);
  return usage;
}

// Markup in a list of tokens cannot be taken for markup: its bars are doubled.
std::string ChatReply::token_text(TokenId id) const {
  std::string text = context_.tokenizer->decode(std::span(&id, 1));
  if (!context_.tokenizer->is_added(id)) return text;
  constexpr std::string_view kBar = "｜";
  for (size_t at = text.find(kBar); at != std::string::npos; at = text.find(kBar, at + 2 * kBar.size()))
    text.insert(at, kBar);
  return text;
}

json::Value ChatReply::logprob_entry(const sample::Choice& choice) const {
  const auto entry = [&](TokenId id, float logprob) {
    json::Array bytes;
    for (const char c : context_.tokenizer->piece(id)) bytes.emplace_back(static_cast<int>(static_cast<uint8_t>(c)));
    return json::Object{
        {"token", token_text(id)}, {"logprob", static_cast<double>(logprob)}, {"bytes", std::move(bytes)}};
  };
  json::Array top;
  for (const auto& other : choice.top) top.emplace_back(entry(other.token, other.logprob));
  json::Object one = entry(choice.token, choice.logprob);
  one.emplace_back("top_logprobs", std::move(top));
  return one;
}

}  // namespace hadal::serve
