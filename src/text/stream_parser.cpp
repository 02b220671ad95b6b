#include "text/stream_parser.h"

#include <algorithm>
#include <array>
#include <span>

#include "base/check.h"
#include "text/templates.h"
#include "text/unicode.h"

namespace hadal::text {
namespace {

// What begins markup, real or broken. Text may hold such strings (the strict parser allows <｜User｜>), but that
// is seldom, and only the whole text tells.
constexpr std::string_view kTagOpen = "<｜", kTagClose = "</｜";
constexpr std::string_view kTextMarkers[] = {kThinkOpen, kThinkClose, kTagOpen, kTagClose, kDsml, dsml::kCallsOpen};

struct Hit {
  size_t begin = std::string_view::npos;  // npos: none
  std::string_view marker;                // empty: text ends in a beginning of some marker
  bool may_grow = false;                  // a longer marker may still come to stand there
};

// The first place from `begin` on where a marker stands, or where one may still come to stand.
Hit find_marker(std::string_view text, std::span<const std::string_view> markers, size_t begin = 0) {
  char firsts[16];
  size_t n = 0;
  for (const std::string_view marker : markers) firsts[n++] = marker[0];
  const std::string_view starts(firsts, n);
  for (size_t i = text.find_first_of(starts, begin); i < text.size(); i = text.find_first_of(starts, i + 1)) {
    const std::string_view rest = text.substr(i);
    std::string_view longest;
    bool may_come = false;
    for (const std::string_view marker : markers) {
      if (rest.size() >= marker.size()) {
        if (rest.starts_with(marker) && marker.size() > longest.size()) longest = marker;
      } else if (marker.starts_with(rest)) {
        may_come = true;
      }
    }
    if (!longest.empty() || may_come) return {i, longest, may_come};
  }
  return {};
}

// Bytes at the end that are an incomplete character.
size_t incomplete_utf8(std::string_view text) {
  std::string ignored;
  const size_t from = text.size() > 4 ? text.size() - 4 : 0;
  for (size_t n = 1; n <= 3 && n <= text.size() - from; ++n) {
    const unsigned char c = static_cast<unsigned char>(text[text.size() - n]);
    if ((c & 0xC0) == 0x80) continue;
    const size_t size = c >= 0xF0 ? 4 : c >= 0xE0 ? 3 : c >= 0xC2 ? 2 : 1;
    return size > n ? n : 0;
  }
  return 0;
}

// Text between two tags must be exactly ">\n": 1 it is, followed by one of the tags; 0 may become so; -1 cannot.
int between_tags(std::string_view text, std::span<const std::string_view> tags, std::string_view& tag) {
  constexpr std::string_view kBetween = ">\n";
  if (text.size() < kBetween.size()) return kBetween.starts_with(text) ? 0 : -1;
  if (!text.starts_with(kBetween)) return -1;
  const std::string_view rest = text.substr(kBetween.size());
  for (const std::string_view candidate : tags) {
    if (rest.starts_with(candidate)) {
      tag = candidate;
      return 1;
    }
    if (candidate.starts_with(rest)) return 0;
  }
  return -1;
}

}  // namespace

void StreamParser::tell(Delta::Kind kind, std::string text, std::vector<Delta>& out) {
  if (text.empty() && kind != Delta::Kind::kToolCall) return;
  switch (kind) {
    case Delta::Kind::kReasoning:
      told_.reasoning += text;
      break;
    case Delta::Kind::kContent:
      told_.content += text;
      break;
    case Delta::Kind::kToolCall:
      told_.tool_calls.push_back({text, ""});
      break;
    case Delta::Kind::kArguments:
      told_.tool_calls.back().arguments += text;
      break;
  }
  const size_t call = told_.tool_calls.empty() ? 0 : told_.tool_calls.size() - 1;
  if (!out.empty() && out.back().kind == kind && kind != Delta::Kind::kToolCall && out.back().call == call) {
    out.back().text += text;
  } else {
    out.push_back({kind, call, std::move(text)});
  }
}

void StreamParser::take(size_t n) {
  done_ += n;
  scanned_ = 0;
}

bool StreamParser::fall_silent() {
  state_ = State::kSilent;
  return true;
}

// Text up to the first marker; a marker that is not complete waits, as half a character does.
size_t StreamParser::certain(size_t marker, std::string_view text) {
  return marker == std::string_view::npos ? text.size() - incomplete_utf8(text) : marker;
}

// Reasoning and content.
bool StreamParser::plain_text(std::vector<Delta>& out) {
  const bool reasoning = state_ == State::kReasoning;
  const Hit hit = find_marker(held(), kTextMarkers);
  const size_t n = certain(hit.begin, held());
  tell(reasoning ? Delta::Kind::kReasoning : Delta::Kind::kContent, std::string(held().substr(0, n)), out);
  take(n);
  if (hit.marker.empty()) return false;
  if (reasoning && hit.marker == kThinkClose) {
    state_ = State::kContent;
  } else if (!reasoning && hit.marker == dsml::kCallsOpen) {
    state_ = State::kBlock;
  } else {
    return fall_silent();  // EOS, or something that does not belong here
  }
  take(hit.marker.size());
  return true;
}

void StreamParser::tell_value(std::string_view text, std::vector<Delta>& out) {
  if (!value_is_string_) return tell(Delta::Kind::kArguments, std::string(text), out);
  const std::string quoted = json::quote(text);
  tell(Delta::Kind::kArguments, quoted.substr(1, quoted.size() - 2), out);
}

// A parameter's value, up to its closing "<" (and a newline) and the tag. From a think tag on, or what else looks
// like one, it is held until it closes: a file may hold such text.
bool StreamParser::value(std::vector<Delta>& out) {
  static constexpr std::string_view kClose = "</｜DSML｜parameter", kCloseLine = "<\n/｜DSML｜parameter";
  static constexpr std::string_view kHolding[] = {kThinkOpen, kThinkClose, kTagOpen, kTagClose};
  static constexpr std::string_view kMarkers[] = {kThinkOpen,   kThinkClose, kTagOpen,   kTagClose,
                                                  kBos,         kEos,        kDsml,      "<｜DSML｜",
                                                  "</｜DSML｜", kClose,      kCloseLine, dsml::kParameterEnd};
  for (;;) {
    const Hit hit = find_marker(held(), kMarkers, scanned_);
    size_t at = certain(hit.begin, held());
    scanned_ = at;
    if (!holds_value_) {
      tell_value(held().substr(0, at), out);
      take(at);
      at = 0;
    }
    if (hit.marker.empty() || hit.may_grow) return false;
    if (std::find(std::begin(kHolding), std::end(kHolding), hit.marker) != std::end(kHolding)) {
      holds_value_ = true;
      scanned_ = at + hit.marker.size();
      continue;
    }
    if (hit.marker != kClose && hit.marker != kCloseLine) return fall_silent();  // only the whole text tells
    tell_value(held().substr(0, at), out);
    if (value_is_string_) tell(Delta::Kind::kArguments, "\"", out);
    take(at + hit.marker.size());
    state_ = State::kAfterValue;
    return true;
  }
}

bool StreamParser::step(std::vector<Delta>& out) {
  std::string_view tag;
  switch (state_) {
    case State::kReasoning:
    case State::kContent:
      return plain_text(out);
    case State::kBlock: {
      static constexpr std::array kTags = {dsml::kInvokeOpen, dsml::kCallsClose};
      const int found = between_tags(held(), kTags, tag);
      if (found == 0) return false;
      if (found < 0 || tag == dsml::kCallsClose) return fall_silent();
      take(2 + tag.size());
      state_ = State::kInvoke;
      return true;
    }
    case State::kInvoke: {
      static constexpr std::array kTags = {dsml::kParameterOpen, dsml::kInvokeClose};
      const Hit hit = find_marker(held(), kTags, scanned_);
      scanned_ = std::min(hit.begin, held().size());
      if (hit.marker.empty()) return false;
      std::string name;
      if (!dsml::parse_invoke_line(held().substr(0, hit.begin), name) || name.find(kDsml) != std::string::npos)
        return fall_silent();
      tell(Delta::Kind::kToolCall, name, out);
      first_parameter_ = true;
      const bool closes = hit.marker == dsml::kInvokeClose;
      if (closes) tell(Delta::Kind::kArguments, "{}", out);
      state_ = closes ? State::kBlock : State::kParameter;
      take(hit.begin + hit.marker.size());
      return true;
    }
    case State::kParameter: {
      static constexpr std::array kMarkers = {dsml::kHeaderTrue, dsml::kHeaderFalse, std::string_view(kDsml)};
      if (held().size() < dsml::kHeaderBegin.size()) return false;
      const Hit hit = find_marker(held(), kMarkers, std::max(scanned_, dsml::kHeaderBegin.size()));
      scanned_ = std::min(hit.begin, held().size());
      if (hit.marker.empty()) return false;
      dsml::ParameterHeader header;
      if (hit.marker == kDsml || !dsml::parse_parameter_header(held(), header)) return fall_silent();
      const std::string key(header.key);
      tell(Delta::Kind::kArguments,
           (first_parameter_ ? "{" : ", ") + json::quote(key) + ": " + (header.is_string ? "\"" : ""), out);
      first_parameter_ = false;
      value_is_string_ = header.is_string;
      holds_value_ = false;
      take(header.value_begin);
      state_ = State::kValue;
      return true;
    }
    case State::kValue:
      return value(out);
    case State::kAfterValue: {
      static constexpr std::array kTags = {dsml::kParameterOpen, dsml::kInvokeClose};
      const int found = between_tags(held(), kTags, tag);
      if (found == 0) return false;
      if (found < 0) return fall_silent();
      if (tag == dsml::kInvokeClose) tell(Delta::Kind::kArguments, "}", out);
      take(2 + tag.size());
      state_ = tag == dsml::kInvokeClose ? State::kBlock : State::kParameter;
      return true;
    }
    case State::kSilent:
      return false;
  }
  return false;
}

std::vector<Delta> StreamParser::feed(std::string_view bytes) {
  std::vector<Delta> out;
  all_ += bytes;
  while (step(out)) {
  }
  return out;
}

std::variant<AssistantMessage, ParseError> StreamParser::finish(std::vector<Delta>& rest) {
  auto verdict = parse_completion(all_, thinking_);
  const auto* message = std::get_if<AssistantMessage>(&verdict);
  if (!message) return verdict;
  const auto remainder = [](const std::string& whole, const std::string& told) {
    HADAL_CHECK(whole.starts_with(told));
    return whole.substr(told.size());
  };
  tell(Delta::Kind::kReasoning, remainder(message->reasoning, told_.reasoning), rest);
  tell(Delta::Kind::kContent, remainder(message->content, told_.content), rest);
  for (size_t i = 0; i < message->tool_calls.size(); ++i) {
    const ToolCall& call = message->tool_calls[i];
    if (i >= told_.tool_calls.size()) tell(Delta::Kind::kToolCall, call.name, rest);
    HADAL_CHECK(told_.tool_calls[i].name == call.name);
    const std::string arguments = remainder(call.arguments, told_.tool_calls[i].arguments);
    if (arguments.empty()) continue;
    told_.tool_calls[i].arguments += arguments;
    rest.push_back({Delta::Kind::kArguments, i, arguments});
  }
  return verdict;
}

std::vector<Delta> StreamParser::cut() {
  std::vector<Delta> out;
  const bool in_text = state_ == State::kReasoning || state_ == State::kContent;
  if (in_text && held().find("｜") == std::string::npos)
    tell(state_ == State::kReasoning ? Delta::Kind::kReasoning : Delta::Kind::kContent, std::string(held()), out);
  take(held().size());
  return out;
}

}  // namespace hadal::text
