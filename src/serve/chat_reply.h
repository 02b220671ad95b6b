// An answer in the Chat Completions format (api.md 1.4): the sink of one completion, streamed or whole.
//
// Threads: the scheduler's calls, tick() from the server's.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "sample/stop.h"
#include "serve/http.h"
#include "serve/normalise.h"
#include "serve/scheduler.h"
#include "serve/turn.h"
#include "text/stream_parser.h"
#include "text/tokenizer.h"

namespace hadal::serve {

struct ReplyContext {
  const text::Tokenizer* tokenizer = nullptr;
  std::vector<TokenId> turn_ends;  // tokens that no answer holds
  std::string fingerprint;         // system_fingerprint
  bool keep_alive = true;
};

Headers common_headers(const std::string& request_id);
std::string error_body(const ApiError& error);
std::string random_hex(size_t digits);

class ChatReply final : public Sink {
 public:
  ChatReply(const Turn& turn, const Prompt& prompt, const ReplyContext& context, std::shared_ptr<HttpReply> http,
            std::string request_id);

  void started(int64_t reused_tokens) override;
  void read(int64_t) override {}
  bool token(const sample::Choice& choice) override;
  void done(const Status& status, engine::Completion completion) override;

  // Called now and then: says that it lives when nothing has been said for a while. false: it has ended.
  bool tick(double now);

 private:
  struct Call {
    std::string id, name, arguments;
  };
  void take(const std::vector<text::Delta>& deltas, bool final);
  void emit(json::Object delta, const char* finish, bool with_usage);
  void flush_logprobs(json::Object& choice);
  json::Value usage() const;
  json::Value logprob_entry(const sample::Choice& choice) const;
  std::string token_text(TokenId id) const;
  void write(std::string chunk);
  void fail(const ApiError& error);

  const Turn turn_;
  const ReplyContext& context_;
  const std::shared_ptr<HttpReply> http_;
  const std::string request_id_, id_;
  const int64_t created_, prompt_tokens_;
  const std::optional<TokenId> think_close_;

  text::StreamParser parser_;
  text::IncrementalDecoder decoder_;
  sample::StopMatcher stops_;
  std::string reasoning_, content_;
  std::vector<Call> calls_;
  json::Array content_logprobs_, reasoning_logprobs_;
  int64_t reused_ = 0, n_tokens_ = 0, n_reasoning_ = 0;
  const bool may_call_;
  bool in_reasoning_, opened_ = false;

  std::mutex mutex_;  // of what follows: the two threads meet here
  bool begun_ = false, finished_ = false;
  double silent_since_ = -1;
};

}  // namespace hadal::serve
