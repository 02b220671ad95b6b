// An answer as it comes: the sink of one completion. Tokens become text, text becomes reasoning, content and calls,
// and a Format (formats.h) writes those down as its wire wants them, streamed or whole.
//
// Threads: the scheduler's calls, tick() from the server's.
#pragma once

#include <chrono>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "sample/stop.h"
#include "serve/formats.h"
#include "serve/http.h"
#include "serve/metrics.h"
#include "serve/normalise.h"
#include "serve/prices.h"
#include "serve/scheduler.h"
#include "serve/turn.h"
#include "text/serving_parser.h"
#include "text/tokenizer.h"

namespace hadal::serve {

struct ReplyContext {
  const text::Tokenizer* tokenizer = nullptr;
  std::vector<TokenId> turn_ends;  // tokens that no answer holds
  bool keep_alive = true;
  Metrics* metrics = nullptr;       // may be absent
  ReplayMemory* replays = nullptr;  // the same
};

// Told once how an answer ended (stop, length, tool_calls, error, cancelled), on the scheduler's thread, and whether it
// is owed: it is not where it failed before anything of it was delivered. What it cost, where it has a price.
using Charge =
    std::function<std::optional<PicoUsd>(const Answer& answer, const char* ending, bool is_owed, const Timing& timing)>;

class Reply final : public Sink {
 public:
  Reply(const Turn& turn, const Prompt& prompt, const ReplyContext& context, std::unique_ptr<Format> format,
        std::shared_ptr<HttpReply> http, std::string request_id, Headers more = {}, Charge charge = {});

  void started(const Reuse& reuse) override;
  void read(int64_t) override {}
  bool token(const sample::Choice& choice) override;
  void done(const Status& status, engine::Completion completion) override;

  // Called now and then: says that it lives when nothing has been said for a while. false: it has ended.
  bool tick(double now);

 private:
  void take(const std::vector<text::Delta>& deltas);
  void text(bool is_reasoning, const std::string& piece);
  void content(size_t begin, const std::string& piece);
  void flush_content();
  void passed(const std::string& piece);
  void told(bool is_reasoning, size_t begin, size_t end);
  void told_content(size_t bytes);
  void raw(const std::string& piece);
  void remember(const engine::Completion& completion);
  bool is_over() const { return stops_.stopped() || (!is_raw_ && parser_.over()); }
  void open();
  void write(std::string chunk);
  void begin();  // with mutex_
  Headers headers(const char* content_type) const;
  void fail(const ApiError& error);
  double age() const;  // seconds since the request came
  void report(const char* reason, bool is_owed);

  const bool stream_, logprobs_, may_call_, is_raw_;
  const ReplyContext& context_;
  const std::unique_ptr<Format> format_;
  const std::shared_ptr<HttpReply> http_;
  const std::string request_id_;
  const json::Array tools_;
  const Charge charge_;
  const bool with_cost_;
  const std::optional<TokenId> think_open_, think_close_, dsml_;

  text::ServingParser parser_;
  text::IncrementalDecoder decoder_;
  sample::StopMatcher stops_;
  Answer answer_;
  const std::chrono::steady_clock::time_point arrival_ = std::chrono::steady_clock::now();
  Timing timing_;
  // For logprobs: tokens whose text is not told yet, by where it stands in what was fed to the parser. Of an end that
  // is unknown yet: tokens with parts of a character.
  struct Untold {
    sample::Choice choice;
    size_t begin = 0, end = kUnknown;
    bool is_told = false;  // some of it
  };
  static constexpr size_t kUnknown = static_cast<size_t>(-1);
  std::deque<Untold> untold_;
  struct Span {
    size_t begin = 0, size = 0;
  };
  std::deque<Span> stopped_;   // content that the stop strings have and have not let go yet
  size_t n_fed_ = 0;           // bytes of the text so far
  int64_t before_calls_ = 0;   // reasoning tokens up to what may be calls
  int64_t before_markup_ = 0;  // and up to the last that was more than the beginning of a tag
  bool in_reasoning_, opened_ = false, ended_ = false;

  std::mutex mutex_;  // of what follows: the two threads meet here
  Headers more_;      // beside those of every answer
  bool begun_ = false, finished_ = false;
  double silent_since_ = -1;
  std::string cache_note_;  // x-hadal-cache
  const std::string space_;
  const std::optional<Digest> digest_;  // of the prompt, for replays
  const TokenId last_of_prompt_;
};

}  // namespace hadal::serve
