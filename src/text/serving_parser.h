// The completion parser of a server (api.md 1.14): fed token by token, it tells reasoning, content and tool calls as
// they come, and makes the best of what real models get wrong. Where the strict parser (parse_completion.h) reports an
// error, this one repairs, or leaves out what cannot be a call; no markup ever shows.
//
// Structure is recognised by tokens: text that only spells a tag is text. Deltas together are the same however the text
// is cut into pieces. A wrapper inside reasoning may be a call or a quotation; it is told when that is known, at the
// latest by finish(). So is a block of plain XML on lines of its own: calls only if nothing follows it.
//
// Memory: what is not decided yet. One parser per completion; not thread-safe.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "text/stream_parser.h"

namespace hadal::text {

class ServingParser {
 public:
  enum class Special { kThinkOpen, kThinkClose, kDsml, kOther };

  // tools: function objects (name, parameters) that were offered; they must outlive the parser.
  ServingParser(bool thinking, const json::Array& tools) : thinking_(thinking), tools_(tools) {
    state_ = thinking ? State::kReasoning : State::kContent;
  }

  std::vector<Delta> text(std::string_view piece);
  std::vector<Delta> special(Special kind, std::string_view spelled);
  // The end. cut: by a limit; what a cut leaves of a call is no call.
  std::vector<Delta> finish(bool cut);

  bool over() const { return state_ == State::kOver; }             // the calls have ended, and with them the answer
  const std::vector<bool>& whole_calls() const { return whole_; }  // per call: its end was there
  int n_repaired() const { return n_repaired_; }                   // departures from the grammar that were mended
  size_t n_fed() const { return n_taken_ + held_.size(); }         // bytes so far, specials in a length of their own
  bool doubts_reasoning() const { return state_ == State::kTrial && trial_in_reasoning_; }  // it may be calls

 private:
  enum class State { kReasoning, kContent, kTrial, kPlainTrial, kBlock, kArguments, kValue, kRaw, kOver };
  struct Tag {
    size_t begin = 0, end = 0;  // in held_; end: past its word's '>' if that is there
    bool closes = false;
    std::string word;
  };
  enum class Found { kNone, kMore, kTag, kStray };  // kStray: a DSML token that begins no tag

  std::vector<Delta> run(bool final);
  bool step(bool final);
  bool plain(bool final);
  bool trial(bool final);
  bool plain_trial(bool final);
  bool block(bool final);
  bool arguments(bool final);
  bool value(bool final);
  bool raw(bool final);
  Found find_tag(size_t from, bool final, Tag& tag) const;
  size_t header_end(size_t begin, std::string_view ends) const;
  size_t find_close(size_t from) const;
  void leave_out(const Tag& tag);
  bool accept_trial(const std::string& block);
  void reject_trial();
  void reject_plain_trial();
  bool ends_line(std::string_view text) const;
  size_t find_opener(std::string_view text) const;
  size_t undecided(std::string_view text) const;
  void tell_plain(Delta::Kind kind, size_t n);
  void begin_parameter(const std::string& header);
  void end_value(std::string text);
  json::Value object_of(size_t& at, size_t end, int depth) const;
  std::string header_at(size_t begin, size_t& end) const;
  void end_call();
  void key(const std::string& name);
  bool has_required() const;
  const json::Value* parameters() const;  // of the open call's tool
  const json::Value* property(std::string_view name) const;
  bool is_declared(std::string_view name) const;
  std::string visible(std::string_view raw, bool literal) const;
  void tell(Delta::Kind kind, std::string text);
  void take(size_t n) {
    n_taken_ += std::min(n, held_.size());
    held_.erase(0, n);
  }

  const bool thinking_;
  const json::Array& tools_;
  State state_;
  std::string held_;  // not decided; specials stand in it as bytes that no text has
  size_t n_taken_ = 0;
  std::vector<Delta> out_;
  std::vector<bool> whole_;
  std::vector<std::string> names_;
  int n_repaired_ = 0;
  bool quoting_ = false;     // in reasoning: tags are text, with doubled bars
  bool at_line_ = true;      // the last thing told ended a line, or nothing was
  bool stray_ = false;       // text stood where only tags do
  bool undeclared_ = false;  // a call named no tool that was offered

  // The open call and parameter.
  std::vector<std::string> keys_;
  bool opened_ = false;      // "{" was told
  bool call_stray_ = false;  // text stood between its tags
  std::string key_;
  enum class Kind { kString, kJson, kGuess } kind_ = Kind::kString;
  bool may_wrap_ = false;   // the value may hold all arguments
  bool is_nested_ = false;  // the value is made of parameters, `open_` of which have no end yet
  int open_ = 0;

  // kTrial: held_ is a block that may turn out to be a quotation.
  bool trial_in_reasoning_ = false, cut_ = false;
  size_t scanned_ = 0;
};

}  // namespace hadal::text
