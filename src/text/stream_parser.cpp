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
constexpr std::string_view kSpecials[] = {kThinkOpen, kThinkClose, kTagOpen, kTagClose, kDsml};

struct Hit {
  size_t begin = std::string_view::npos;  // npos: none
  std::string_view marker;                // empty: text ends in a beginning of some marker
};

// The first place where a marker stands, or where one may still come to stand.
Hit find_marker(std::string_view text, std::span<const std::string_view> markers) {
  for (size_t i = 0; i < text.size(); ++i) {
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
    if (!longest.empty() || may_come) return {i, longest};
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
    case Delta::Kind::kReasoning: told_.reasoning += text; break;
    case Delta::Kind::kContent: told_.content += text; break;
    case Delta::Kind::kToolCall: told_.tool_calls.push_back({text, ""}); break;
    case Delta::Kind::kArguments: told_.tool_calls.back().arguments += text; break;
  }
  const size_t call = told_.tool_calls.empty() ? 0 : told_.tool_calls.size() - 1;
  if (!out.empty() && out.back().kind == kind && kind != Delta::Kind::kToolCall && out.back().call == call) {
    out.back().text += text;
  } else {
    out.push_back({kind, call, std::move(text)});
  }
}

// Reasoning and content: text up to the first marker.
bool StreamParser::plain_text(std::vector<Delta>& out) {
  const bool reasoning = state_ == State::kReasoning;
  std::vector<std::string_view> markers(std::begin(kSpecials), std::end(kSpecials));
  markers.push_back(dsml::kCallsOpen);
  const Hit hit = find_marker(held_, markers);
  size_t certain = std::min(hit.begin, held_.size());
  if (hit.begin == std::string_view::npos) certain -= incomplete_utf8(held_);
  tell(reasoning ? Delta::Kind::kReasoning : Delta::Kind::kContent, held_.substr(0, certain), out);
  held_.erase(0, certain);
  if (hit.marker.empty()) return false;
  if (reasoning && hit.marker == kThinkClose) {
    state_ = State::kContent;
    held_.erase(0, hit.marker.size());
  } else if (!reasoning && hit.marker == dsml::kCallsOpen) {
    state_ = State::kBlock;
    held_.erase(0, hit.marker.size());
  } else {
    state_ = State::kSilent;  // EOS, or something that does not belong here
  }
  return true;
}

// A parameter's value, up to its closing "<" (and a newline) and the tag.
bool StreamParser::value(std::vector<Delta>& out) {
  constexpr std::string_view kClose = "</｜DSML｜parameter", kCloseLine = "<\n/｜DSML｜parameter";
  std::vector<std::string_view> markers(std::begin(kSpecials), std::end(kSpecials));
  for (const std::string_view marker : {kClose, kCloseLine, dsml::kParameterEnd}) markers.push_back(marker);
  const Hit hit = find_marker(held_, markers);
  // "</｜" stands complete before the rest of its tag does.
  const bool closes = hit.marker == kClose || hit.marker == kCloseLine;
  if (hit.marker == kTagClose && kClose.starts_with(std::string_view(held_).substr(hit.begin))) {
    const size_t certain = hit.begin;
    const std::string text = held_.substr(0, certain);
    tell(Delta::Kind::kArguments, value_is_string_ ? json::quote(text).substr(1, json::quote(text).size() - 2) : text, out);
    held_.erase(0, certain);
    return false;
  }
  size_t certain = std::min(hit.begin, held_.size());
  if (hit.begin == std::string_view::npos) certain -= incomplete_utf8(held_);
  const std::string text = held_.substr(0, certain);
  std::string shown = text;
  if (value_is_string_) {
    shown = json::quote(text);
    shown = shown.substr(1, shown.size() - 2);
  }
  tell(Delta::Kind::kArguments, shown, out);
  held_.erase(0, certain);
  if (hit.marker.empty()) return false;
  if (!closes) {
    state_ = State::kSilent;  // special text inside a value: allowed, but only the whole text tells
    return true;
  }
  if (value_is_string_) tell(Delta::Kind::kArguments, "\"", out);
  held_.erase(0, hit.marker.size());
  state_ = State::kAfterValue;
  return true;
}

bool StreamParser::step(std::vector<Delta>& out) {
  std::string_view tag;
  switch (state_) {
    case State::kReasoning:
    case State::kContent: return plain_text(out);
    case State::kBlock: {
      static constexpr std::array kTags = {dsml::kInvokeOpen, dsml::kCallsClose};
      const int found = between_tags(held_, kTags, tag);
      if (found == 0) return false;
      if (found < 0 || tag == dsml::kCallsClose) {
        state_ = State::kSilent;
      } else {
        held_.erase(0, 2 + tag.size());
        state_ = State::kInvoke;
      }
      return true;
    }
    case State::kInvoke: {
      const size_t parameter = held_.find(dsml::kParameterOpen), close = held_.find(dsml::kInvokeClose);
      const size_t at = std::min(parameter, close);
      if (at == std::string::npos) return false;
      std::string name;
      if (!dsml::parse_invoke_line(std::string_view(held_).substr(0, at), name) || name.find(kDsml) != std::string::npos) {
        state_ = State::kSilent;
        return true;
      }
      tell(Delta::Kind::kToolCall, name, out);
      first_parameter_ = true;
      if (close < parameter) tell(Delta::Kind::kArguments, "{}", out);
      state_ = close < parameter ? State::kBlock : State::kParameter;
      held_.erase(0, at + (close < parameter ? dsml::kInvokeClose : dsml::kParameterOpen).size());
      return true;
    }
    case State::kParameter: {
      dsml::ParameterHeader header;
      const bool complete = dsml::parse_parameter_header(held_, header);
      const size_t marker = held_.find(kDsml);
      if (marker != std::string::npos && (!complete || marker < header.value_begin)) {
        state_ = State::kSilent;
        return true;
      }
      if (!complete) return false;
      const std::string key(header.key);
      tell(Delta::Kind::kArguments, (first_parameter_ ? "{" : ", ") + json::quote(key) + ": " + (header.is_string ? "\"" : ""), out);
      first_parameter_ = false;
      value_is_string_ = header.is_string;
      held_.erase(0, header.value_begin);
      state_ = State::kValue;
      return true;
    }
    case State::kValue: return value(out);
    case State::kAfterValue: {
      static constexpr std::array kTags = {dsml::kParameterOpen, dsml::kInvokeClose};
      const int found = between_tags(held_, kTags, tag);
      if (found == 0) return false;
      if (found < 0) {
        state_ = State::kSilent;
        return true;
      }
      if (tag == dsml::kInvokeClose) tell(Delta::Kind::kArguments, "}", out);
      held_.erase(0, 2 + tag.size());
      state_ = tag == dsml::kInvokeClose ? State::kBlock : State::kParameter;
      return true;
    }
    case State::kSilent: return false;
  }
  return false;
}

std::vector<Delta> StreamParser::feed(std::string_view bytes) {
  std::vector<Delta> out;
  all_ += bytes;
  if (state_ == State::kSilent) return out;
  held_ += bytes;
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
  if (in_text && held_.find("｜") == std::string::npos)
    tell(state_ == State::kReasoning ? Delta::Kind::kReasoning : Delta::Kind::kContent, held_, out);
  held_.clear();
  return out;
}

}  // namespace hadal::text
