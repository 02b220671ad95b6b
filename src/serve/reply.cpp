#include "serve/reply.h"

#include <fmt/format.h>

#include <algorithm>

#include "text/templates.h"

namespace hadal::serve {
namespace {

constexpr double kStreamSilence = 5, kWholeSilence = 15;  // seconds until a sign of life
constexpr int64_t kUnit = 128;                            // cached tokens are told in these

const ApiError kOverloaded{.status = 503,
                           .type = "server_error",
                           .code = "server_overloaded",
                           .message = "The server is overloaded, please try again later"};

}  // namespace

Reply::Reply(const Turn& turn, const Prompt& prompt, const ReplyContext& context, std::unique_ptr<Format> format,
             std::shared_ptr<HttpReply> http, std::string request_id, Headers more, Charge charge)
    : stream_(turn.stream),
      logprobs_(turn.logprobs),
      may_call_(!turn.tools.empty() && turn.tool_choice.kind != ToolChoice::Kind::kNone),
      is_raw_(prompt.raw),
      context_(context),
      format_(std::move(format)),
      http_(std::move(http)),
      request_id_(std::move(request_id)),
      tools_(turn.tools),
      charge_(std::move(charge)),
      with_cost_(turn.with_cost),
      think_open_(context.tokenizer->id_of(text::kThinkOpen)),
      think_close_(context.tokenizer->id_of(text::kThinkClose)),
      dsml_(context.tokenizer->id_of(text::kDsml)),
      parser_(prompt.thinking_open, tools_),
      decoder_(*context.tokenizer),
      stops_(turn.stop),
      in_reasoning_(prompt.thinking_open),
      more_(std::move(more)),
      space_(prompt.space),
      digest_(prompt.digest),
      last_of_prompt_(prompt.ids.empty() ? 0 : prompt.ids.back()) {
  answer_.prompt_tokens = static_cast<int64_t>(prompt.ids.size());
}

void Reply::started(const Reuse& reuse) {
  answer_.reused_tokens = reuse.tokens / kUnit * kUnit;
  timing_.started = age();
  static constexpr const char* kFrom[] = {"nothing", "memory", "disk"};
  const bool is_whole = answer_.reused_tokens >= (answer_.prompt_tokens - 1) / kUnit * kUnit;
  const char* why = is_whole ? "complete" : reuse.same == 0 ? "new" : "differs";
  std::string note = fmt::format("hit={}; of={}; from={}; same={}; why={}", answer_.reused_tokens,
                                 answer_.prompt_tokens, kFrom[static_cast<int>(reuse.from)], reuse.same, why);
  const std::lock_guard lock(mutex_);
  cache_note_ = std::move(note);
}

double Reply::age() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - arrival_).count(); }

void Reply::report(const char* reason, bool is_owed) {
  timing_.done = age();
  if (const auto cost = charge_ ? charge_(answer_, reason, is_owed, timing_) : std::nullopt) {
    if (with_cost_) answer_.cost_usd = as_usd(*cost);
    const std::lock_guard lock(mutex_);
    more_.emplace_back("x-hadal-cost-usd", usd_text(*cost));
  }
  if (!context_.metrics) return;
  const auto whole =
      std::count_if(answer_.calls.begin(), answer_.calls.end(), [](const Call& c) { return c.is_whole; });
  context_.metrics->finished(reason, timing_, answer_.reasoning_tokens, whole, parser_.n_repaired());
}

bool Reply::token(const sample::Choice& choice) {
  if (std::find(context_.turn_ends.begin(), context_.turn_ends.end(), choice.token) != context_.turn_ends.end()) {
    ended_ = true;
    return false;
  }
  ++answer_.tokens;
  const double now = age();
  if (timing_.first_token < 0) timing_.first_token = now;
  if (timing_.last_token >= 0 && context_.metrics) context_.metrics->token_after(now - timing_.last_token);
  timing_.last_token = now;
  const bool closes = in_reasoning_ && choice.token == think_close_;
  if (choice.token == dsml_ && !parser_.doubts_reasoning()) before_calls_ = before_markup_;
  if (in_reasoning_ && !closes) ++answer_.reasoning_tokens;
  if (closes) in_reasoning_ = false;
  std::string piece = decoder_.feed(choice.token);
  if (!context_.tokenizer->is_added(choice.token)) {
    if (context_.tokenizer->piece(choice.token).find_first_not_of("<\n") != std::string_view::npos)
      before_markup_ = answer_.reasoning_tokens;
    if (logprobs_) untold_.push_back({.choice = choice, .begin = n_fed_});
    passed(piece);
    return !is_over();
  }
  // What stood before a special token, and the token itself, which is structure and no text.
  const std::string_view spelled = context_.tokenizer->piece(choice.token);
  if (piece.ends_with(spelled)) piece.resize(piece.size() - spelled.size());
  passed(piece);
  if (is_raw_) return !is_over();
  using Special = text::ServingParser::Special;
  take(parser_.special(choice.token == dsml_          ? Special::kDsml
                       : choice.token == think_open_  ? Special::kThinkOpen
                       : choice.token == think_close_ ? Special::kThinkClose
                                                      : Special::kOther,
                       spelled));
  n_fed_ = parser_.n_fed();
  return !is_over();
}

// Text that the tokens so far have made, on its way to the client. Every token whose end was unknown ends with it.
void Reply::passed(const std::string& piece) {
  if (piece.empty()) return;
  n_fed_ += piece.size();
  for (auto it = untold_.rbegin(); it != untold_.rend() && it->end == kUnknown; ++it) it->end = n_fed_;
  is_raw_ ? raw(piece) : take(parser_.text(piece));
}

void Reply::text(bool is_reasoning, const std::string& piece) {
  if (piece.empty()) return;
  (is_reasoning ? answer_.reasoning : answer_.content) += piece;
  if (!stream_) return;
  open();
  write(format_->text(answer_, is_reasoning, piece));
}

// A token has its entry when the last of its text has been told: markup, what was left out and what a stop string cut
// have none.
void Reply::told(bool is_reasoning, size_t begin, size_t end) {
  for (Untold& token : untold_) {
    if (token.begin >= end) break;
    token.is_told = token.is_told || token.end > begin;
  }
  for (; !untold_.empty() && untold_.front().end <= end; untold_.pop_front())
    if (untold_.front().is_told)
      (is_reasoning ? answer_.reasoning_choices : answer_.content_choices).push_back(std::move(untold_.front().choice));
}
void Reply::told_content(size_t bytes) {
  while (bytes > 0 && !stopped_.empty()) {
    Span& span = stopped_.front();
    const size_t n = std::min(bytes, span.size);
    told(false, span.begin, span.begin + n);
    span.begin += n;
    span.size -= n;
    bytes -= n;
    if (span.size == 0) stopped_.pop_front();
  }
}

void Reply::content(size_t begin, const std::string& piece) {
  if (logprobs_) stopped_.push_back({begin, piece.size()});
  const std::string free = stops_.feed(piece);
  told_content(free.size());
  text(false, free);
}
// No stop string reaches over what comes now.
void Reply::flush_content() {
  const std::string rest = stops_.finish();
  told_content(rest.size());
  text(false, rest);
}

void Reply::raw(const std::string& piece) {
  if (!stops_.stopped()) content(n_fed_ - piece.size(), piece);
}

// What the parser told, with stop strings looked for in the content.
void Reply::take(const std::vector<text::Delta>& deltas) {
  for (const text::Delta& delta : deltas) {
    if (stops_.stopped()) return;
    const bool is_call = delta.kind == text::Delta::Kind::kToolCall || delta.kind == text::Delta::Kind::kArguments;
    if (is_call && !may_call_) continue;  // nobody offered a tool: what looks like a call is dropped
    switch (delta.kind) {
      case text::Delta::Kind::kReasoning:
        flush_content();
        told(true, delta.begin, delta.begin + delta.text.size());
        text(true, delta.text);
        break;
      case text::Delta::Kind::kContent:
        content(delta.begin, delta.text);
        break;
      case text::Delta::Kind::kToolCall:
        flush_content();
        answer_.calls.push_back({fmt::format("call_{:02}_{}", delta.call, random_base62(24)), delta.text, ""});
        if (!stream_) break;
        open();
        write(format_->call(answer_, delta.call));
        break;
      case text::Delta::Kind::kArguments:
        answer_.calls.at(delta.call).arguments += delta.text;
        if (stream_ && !delta.text.empty()) write(format_->arguments(answer_, delta.call, delta.text));
        break;
    }
  }
}

// The ids of a whole answer, for when the client sends it back.
void Reply::remember(const engine::Completion& completion) {
  if (!context_.replays || !digest_ || completion.tokens.empty()) return;
  if (completion.finish != engine::Finish::kStop || ended_) return;  // ended_: by a token that is no part of it
  if (answer_.ending != Ending::kStop && answer_.ending != Ending::kToolCalls) return;
  Said said{answer_.reasoning, answer_.content, {}, last_of_prompt_, completion.tokens};
  for (const Call& call : answer_.calls) {
    if (!call.is_whole) return;
    said.calls.push_back({call.id, call.name, call.arguments});
  }
  context_.replays->remember(space_, *digest_, std::move(said));
}

void Reply::done(const Status& status, engine::Completion completion) {
  const bool gave_up = !status.ok() && status.error().code == Code::kUnsupported && format_->knows_giving_up();
  if (!status.ok() && !gave_up) {
    const Code code = status.error().code;
    // Opened: some of the text is with the client. Who leaves owes what was written for him.
    report(code == Code::kCancelled ? "cancelled" : "error", opened_ || code == Code::kCancelled);
    if (code == Code::kCancelled) {  // the client went away: nobody listens
      const std::lock_guard lock(mutex_);
      finished_ = true;
      return;
    }
    if (code == Code::kBusy) return fail(kOverloaded);
    if (code == Code::kInvalid) return fail(invalid(status.error().message));
    return fail({.status = 500, .type = "server_error", .code = "server_error", .message = status.error().message});
  }
  // With its last token allowed it may also have ended by itself.
  const bool is_cut = gave_up || (completion.finish == engine::Finish::kLength && !ended_ && !is_over());
  passed(decoder_.finish());
  const bool may_call = parser_.doubts_reasoning();
  if (!is_raw_ && !stops_.stopped()) take(parser_.finish(is_cut));
  if (may_call && !parser_.whole_calls().empty()) answer_.reasoning_tokens = before_calls_;
  if (!stops_.stopped()) flush_content();

  for (size_t i = 0; i < answer_.calls.size(); ++i) answer_.calls[i].is_whole = parser_.whole_calls()[i];
  const auto is_whole = [](const Call& call) { return call.is_whole; };
  answer_.stop_string = stops_.matched();
  answer_.ending = gave_up                                                             ? Ending::kGivenUp
                   : stops_.stopped()                                                  ? Ending::kStopString
                   : is_cut                                                            ? Ending::kLength
                   : std::any_of(answer_.calls.begin(), answer_.calls.end(), is_whole) ? Ending::kToolCalls
                                                                                       : Ending::kStop;
  remember(completion);
  report(gave_up                                ? "error"
         : answer_.ending == Ending::kLength    ? "length"
         : answer_.ending == Ending::kToolCalls ? "tool_calls"
                                                : "stop",
         !gave_up || answer_.tokens > 0);  // what it had is delivered
  if (stream_) {
    open();
    write(format_->close(answer_));
    const std::lock_guard lock(mutex_);
    finished_ = true;
    return http_->end();
  }
  std::erase_if(answer_.calls, [](const Call& call) { return !call.is_whole; });
  std::string body = format_->whole(answer_);
  const std::lock_guard lock(mutex_);
  finished_ = true;
  if (begun_) {
    http_->write(std::move(body));
    return http_->end();
  }
  http_->send(200, headers("application/json"), std::move(body));
}

Headers Reply::headers(const char* content_type) const {
  Headers all = common_headers(request_id_);
  all.emplace_back("content-type", content_type);
  all.insert(all.end(), more_.begin(), more_.end());
  if (!cache_note_.empty()) all.emplace_back("x-hadal-cache", cache_note_);
  return all;
}

void Reply::open() {
  if (opened_) return;
  opened_ = true;
  write(format_->open(answer_));
}

void Reply::begin() {
  if (begun_) return;
  begun_ = true;
  Headers all = headers(stream_ ? "text/event-stream; charset=utf-8" : "application/json");
  if (stream_) {
    all.emplace_back("cache-control", "no-cache");
    all.emplace_back("x-accel-buffering", "no");
  }
  http_->begin(200, std::move(all));
}

void Reply::write(std::string chunk) {
  if (chunk.empty()) return;
  const std::lock_guard lock(mutex_);
  begin();
  silent_since_ = -1;
  http_->write(std::move(chunk));
}

void Reply::fail(const ApiError& error) {
  const std::lock_guard lock(mutex_);
  finished_ = true;
  const std::string body = error_body(error, format_->style(), request_id_);
  if (!begun_) return http_->send(error_status(error, format_->style()), error_headers(error, request_id_), body);
  http_->write(stream_ ? format_->failed(answer_, error) : body);
  http_->end();
}

bool Reply::tick(double now) {
  const std::lock_guard lock(mutex_);
  if (finished_) return false;
  if (silent_since_ < 0) silent_since_ = now;
  if (!context_.keep_alive || now - silent_since_ < (stream_ ? kStreamSilence : kWholeSilence)) return true;
  silent_since_ = now;
  begin();
  http_->write(stream_ ? ": keep-alive\n\n" : "\n");
  return true;
}

}  // namespace hadal::serve
