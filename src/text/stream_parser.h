// The completion parser for streams: fed the text in any pieces, it tells reasoning, content and tool calls as
// they come. Markup never shows: whatever may still become a tag is held back, and from the first sign of
// anything malformed nothing more comes out until finish() has the strict parser's verdict on the whole.
//
// For a text that parse_completion accepts, the deltas together are its message, whatever the pieces; finish()
// brings what was still held. For others finish() is the strict parser's error.
//
// Memory: the text so far. One parser per completion; not thread-safe.
#pragma once

#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "text/parse_completion.h"

namespace hadal::text {

struct Delta {
  enum class Kind { kReasoning, kContent, kToolCall, kArguments };
  Kind kind = Kind::kContent;
  size_t call = 0;   // kToolCall, kArguments: which call, from 0
  std::string text;  // kToolCall: its name; else text to append
  size_t begin = 0;  // ServingParser, reasoning and content: where the text stands in what was fed
};

class StreamParser {
 public:
  explicit StreamParser(bool thinking) : thinking_(thinking), state_(thinking ? State::kReasoning : State::kContent) {}

  std::vector<Delta> feed(std::string_view bytes);
  // The end of the text. Deltas of what was held go to `rest`.
  std::variant<AssistantMessage, ParseError> finish(std::vector<Delta>& rest);
  // The end of a text that was cut short (length, stop): held text that is no part of a tag.
  std::vector<Delta> cut();
  const AssistantMessage& so_far() const { return told_; }

 private:
  enum class State { kReasoning, kContent, kBlock, kInvoke, kParameter, kValue, kAfterValue, kSilent };

  bool step(std::vector<Delta>& out);  // one transition on held(); false: more text is needed
  bool plain_text(std::vector<Delta>& out);
  bool value(std::vector<Delta>& out);
  bool fall_silent();
  void tell(Delta::Kind kind, std::string text, std::vector<Delta>& out);
  void tell_value(std::string_view text, std::vector<Delta>& out);
  static size_t certain(size_t marker, std::string_view text);
  std::string_view held() const { return std::string_view(all_).substr(done_); }  // what is not decided
  void take(size_t n);                                                            // from held()

  bool thinking_;
  State state_;
  std::string all_;     // everything fed
  size_t done_ = 0;     // of it, decided
  size_t scanned_ = 0;  // of held(), known to hold no marker: no byte is searched again for every piece
  AssistantMessage told_;
  bool value_is_string_ = false;
  bool holds_value_ = false;  // a think tag stands in the value
  bool first_parameter_ = true;
};

}  // namespace hadal::text
