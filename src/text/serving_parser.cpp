#include "text/serving_parser.h"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <optional>

#include "text/templates.h"

namespace hadal::text {
namespace {

// Specials in held text: two bytes for what has a meaning, a bracket of its own around what has none.
constexpr char kMark = '\xFF', kOtherMark = '\xFE';
constexpr std::string_view kDsmlMark =
    "\xFF"
    "D";
constexpr size_t kMostWord = 24;     // bytes of a tag's word that are waited for
constexpr size_t kMostHeader = 512;  // and of an invoke's or a parameter's header
constexpr std::string_view kBlanks = " \t\r\n";
constexpr int kMostNested = 16;  // parameters in parameters
// A block without the token, as some models write it. Only these forms: with the token's two bars it is a quotation.
constexpr std::string_view kPlainOpeners[] = {"<tool_calls>", "<DSML｜tool_calls>"};

bool is_blank(std::string_view text) { return text.find_first_not_of(kBlanks) == std::string_view::npos; }
std::string trimmed(std::string_view text) {
  const size_t begin = text.find_first_not_of(kBlanks);
  if (begin == std::string_view::npos) return "";
  return std::string(text.substr(begin, text.find_last_not_of(kBlanks) + 1 - begin));
}

size_t distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 0; i < a.size(); ++i) {
    size_t diagonal = std::exchange(row[0], i + 1);
    for (size_t j = 0; j < b.size(); ++j) {
      const size_t cost = std::min({diagonal + (a[i] != b[j]), row[j] + 1, row[j + 1] + 1});
      diagonal = std::exchange(row[j + 1], cost);
    }
  }
  return row.back();
}
std::string_view plain_prefix(std::string_view opener) {  // of its tags' names
  return opener.starts_with("<DSML") ? opener.substr(1, opener.find("tool_calls") - 1) : "";
}
// The tags of a plain block with the token in them.
std::string with_tokens(std::string_view text, std::string_view prefix) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    out += text[i];
    if (text[i] != '<') continue;
    if (i + 1 < text.size() && text[i + 1] == '/') out += text[++i];
    std::string_view name = text.substr(i + 1);
    if (!name.starts_with(prefix)) continue;
    name.remove_prefix(prefix.size());
    for (const std::string_view word : {"tool_calls>", "invoke>", "invoke ", "parameter>", "parameter "})
      if (name.starts_with(word)) {
        out += kDsmlMark;
        i += prefix.size();
        break;
      }
  }
  return out;
}

bool is_wrapper(std::string_view word) {
  return distance(word, "tool_calls") <= 2 || distance(word, "function_calls") <= 2;
}

// Bytes at the end of a text that may begin a tag.
size_t beginning(std::string_view text) { return text.ends_with("</") ? 2 : text.ends_with('<') ? 1 : 0; }

std::string attribute(const std::string& header, const std::string& name) {
  const size_t at = header.find(name + "=\"");
  if (at == std::string::npos) return "";
  const size_t begin = at + name.size() + 2;
  return header.substr(begin, header.find('"', begin) - begin);
}

// JSON as models write it when they think of Python: nullopt when it is none.
// Our reader takes NaN and Infinity, as Python's does; clients do not.
bool is_finite(const json::Value& value) {
  if (value.is_array()) return std::all_of(value.as_array().begin(), value.as_array().end(), is_finite);
  if (value.is_object())
    return std::all_of(value.as_object().begin(), value.as_object().end(),
                       [](const json::Member& member) { return is_finite(member.second); });
  return !value.is_number() || std::isfinite(value.to_double().value_or(NAN));
}
bool is_json(const std::string& text) {
  const auto value = json::parse(text);
  return value.ok() && is_finite(value.value());
}

std::optional<std::string> mended_json(const std::string& text) {
  if (is_json(text)) return text;
  if (text == "True") return "true";
  if (text == "False") return "false";
  if (text == "None") return "null";
  std::string mended;
  for (size_t i = 0; i < text.size(); ++i) {  // a comma before a bracket
    const size_t next = text[i] == ',' ? text.find_first_not_of(kBlanks, i + 1) : std::string::npos;
    if (next != std::string::npos && (text[next] == ']' || text[next] == '}')) continue;
    mended += text[i];
  }
  if (is_json(mended)) return mended;
  if (mended.find('"') == std::string::npos) {
    std::replace(mended.begin(), mended.end(), '\'', '"');
    if (is_json(mended)) return mended;
  }
  return std::nullopt;
}

}  // namespace

std::vector<Delta> ServingParser::text(std::string_view piece) {
  held_ += piece;
  return run(false);
}

std::vector<Delta> ServingParser::special(Special kind, std::string_view spelled) {
  switch (kind) {
    case Special::kThinkOpen:
      held_ += {kMark, 'o'};
      break;
    case Special::kThinkClose:
      held_ += {kMark, 'c'};
      break;
    case Special::kDsml:
      held_ += kDsmlMark;
      break;
    case Special::kOther:
      held_ += kOtherMark;
      held_ += spelled;
      held_ += kOtherMark;
      break;
  }
  return run(false);
}

std::vector<Delta> ServingParser::run(bool final) {
  while (step(final)) {
  }
  return std::exchange(out_, {});
}

bool ServingParser::step(bool final) {
  switch (state_) {
    case State::kReasoning:
    case State::kContent:
      return plain(final);
    case State::kTrial:
      return trial(final);
    case State::kPlainTrial:
      return plain_trial(final);
    case State::kBlock:
      return block(final);
    case State::kArguments:
      return arguments(final);
    case State::kValue:
      return value(final);
    case State::kRaw:
      return raw(final);
    case State::kOver:
      take(held_.size());
      return false;
  }
  return false;
}

void ServingParser::tell(Delta::Kind kind, std::string text) {
  if (text.empty() && kind != Delta::Kind::kToolCall) return;
  if (kind == Delta::Kind::kReasoning || kind == Delta::Kind::kContent) at_line_ = text.back() == '\n';
  const bool is_plain = kind == Delta::Kind::kReasoning || kind == Delta::Kind::kContent;
  const size_t call = whole_.empty() ? 0 : whole_.size() - 1, begin = is_plain ? n_taken_ : 0;
  const bool goes_on = !out_.empty() && out_.back().kind == kind && out_.back().call == call &&
                       kind != Delta::Kind::kToolCall &&
                       (!is_plain || out_.back().begin + out_.back().text.size() == begin);
  if (goes_on) {
    out_.back().text += text;
  } else {
    out_.push_back({kind, call, std::move(text), begin});
  }
}

// Reasoning or content: the first n bytes of what is held, in stretches that stand there as they are told.
void ServingParser::tell_plain(Delta::Kind kind, size_t n) {
  while (n > 0) {
    size_t stretch = std::min(held_.find_first_of("\xFF\xFE"), n);
    if (stretch == 0) stretch = held_[0] == kMark ? 2 : std::min(held_.find(kOtherMark, 1), held_.size() - 1) + 1;
    tell(kind, visible(std::string_view(held_).substr(0, stretch), false));
    take(stretch);
    n -= std::min(n, stretch);
  }
}

// Held text as text: specials are left out, or spelled where a value holds them.
std::string ServingParser::visible(std::string_view raw, bool literal) const {
  if (raw.find_first_of("\xFF\xFE") == std::string_view::npos) return std::string(raw);
  std::string text;
  for (size_t i = 0; i < raw.size(); ++i) {
    if (raw[i] == kMark && i + 1 < raw.size()) {
      const char what = raw[++i];
      if (literal) text += what == 'D' ? kDsml : what == 'o' ? kThinkOpen : kThinkClose;
      if (!literal && quoting_ && what == 'D') text += "｜｜DSML｜｜";
    } else if (raw[i] == kOtherMark) {
      const size_t end = std::min(raw.find(kOtherMark, i + 1), raw.size());
      if (literal) text += raw.substr(i + 1, end - i - 1);
      i = end;
    } else {
      text += raw[i];
    }
  }
  return text;
}

// The first DSML token from `from` on, and the tag that it is part of.
ServingParser::Found ServingParser::find_tag(size_t from, bool final, Tag& tag) const {
  const size_t mark = held_.find(kDsmlMark, from);
  if (mark == std::string::npos) return Found::kNone;
  const std::string_view before = std::string_view(held_).substr(0, mark);
  tag.closes = before.ends_with("</");
  tag.begin = mark - (tag.closes ? 2 : before.ends_with("<") ? 1 : 0);
  const std::string_view rest = std::string_view(held_).substr(mark + kDsmlMark.size());
  const size_t begin = rest.starts_with(' ') ? 1 : 0;
  const size_t end = std::min(rest.find_first_of("> \n\t\r\"\xFF\xFE", begin), rest.size());
  if (end == rest.size() && rest.size() <= kMostWord && !final) return Found::kMore;
  tag.word = std::string(rest.substr(begin, std::min(end, kMostWord) - begin));
  tag.end = mark + kDsmlMark.size() + std::min(end, kMostWord);
  if (tag.end < held_.size() && held_[tag.end] == '>') ++tag.end;
  return tag.begin == mark ? Found::kStray : Found::kTag;
}

// Where a header that begins at `begin` ends: at the first of `ends` outside quotes, or after as much as a header may
// hold; npos: it goes on.
size_t ServingParser::header_end(size_t begin, std::string_view ends) const {
  bool quoted = false;
  for (size_t i = begin; i < held_.size(); ++i) {
    if (i - begin >= kMostHeader) return i;
    if (held_[i] == kOtherMark) {
      i = held_.find(kOtherMark, i + 1);
      continue;
    }
    if (held_[i] == '"') quoted = !quoted;
    const bool is_end = ends.find(held_[i]) != std::string_view::npos;
    if (is_end && (!quoted || held_[i] == '\n')) return i;
  }
  return std::string::npos;
}

// What follows this held text stands at the beginning of a line.
bool ServingParser::ends_line(std::string_view text) const {
  const std::string shown = visible(text, false);
  return shown.empty() ? at_line_ : shown.back() == '\n';
}

// Where a plain block's opener stands at the beginning of a line; npos: nowhere.
size_t ServingParser::find_opener(std::string_view text) const {
  size_t first = std::string_view::npos;
  if (tools_.empty() || state_ != State::kContent) return first;
  for (const std::string_view opener : kPlainOpeners)
    for (size_t at = text.find(opener); at < first; at = text.find(opener, at + 1))
      if (ends_line(text.substr(0, at))) first = at;
  return first;
}

// From where on the text may become the beginning of a tag: "<", "</", a plain opener, and the newlines before it that
// belong to the wrapper.
size_t ServingParser::undecided(std::string_view text) const {
  size_t n = text.size() - beginning(text);
  if (!tools_.empty() && state_ == State::kContent)
    for (const std::string_view opener : kPlainOpeners)
      for (size_t length = std::min(text.size(), opener.size() - 1); length > 1; --length) {
        const size_t at = text.size() - length;
        if (text.substr(at) == opener.substr(0, length) && ends_line(text.substr(0, at))) n = std::min(n, at);
      }
  for (int i = 0; i < 2 && n > 0 && text[n - 1] == '\n'; ++i) --n;
  return n;
}

// Reasoning and content.
bool ServingParser::plain(bool final) {
  const bool reasons = state_ == State::kReasoning;
  const Delta::Kind kind = reasons ? Delta::Kind::kReasoning : Delta::Kind::kContent;
  const size_t mark = held_.find(kMark);
  if (const size_t opener = find_opener(std::string_view(held_).substr(0, mark)); opener != std::string::npos) {
    tell_plain(kind, std::string_view(held_).substr(0, opener).ends_with("\n\n") ? opener - 2 : opener);
    state_ = State::kPlainTrial;
    scanned_ = 0;
    return true;
  }
  if (mark == std::string::npos) {
    tell_plain(kind, final ? held_.size() : undecided(held_));
    return false;
  }
  if (held_[mark + 1] != 'D') {
    tell_plain(kind, mark);
    const bool closes = held_[1] == 'c';
    take(2);
    if (closes) {
      if (reasons) state_ = State::kContent;
      quoting_ = false;
      at_line_ = true;
    } else if (!reasons && thinking_) {
      state_ = State::kReasoning;
    }
    return true;
  }
  if (reasons && quoting_) {
    tell_plain(kind, mark + 2);
    return true;
  }
  Tag tag;
  const Found found = find_tag(0, final, tag);
  if (found == Found::kMore) {
    tell_plain(kind, undecided(std::string_view(held_).substr(0, mark)));
    return false;
  }
  const bool opens = found == Found::kTag && !tag.closes;
  std::string_view before = std::string_view(held_).substr(0, tag.begin);
  if (opens && is_wrapper(tag.word)) {
    if (before.ends_with("\n\n")) before.remove_suffix(2);
    if (tag.word != "tool_calls") ++n_repaired_;
    const size_t n = before.size();
    tell_plain(kind, n);
    if (reasons) {
      trial_in_reasoning_ = true;
      state_ = State::kTrial;
    } else {
      take(tag.end - n);
      state_ = State::kBlock;
    }
    return true;
  }
  if (opens && !reasons && tag.word == "invoke" && ends_line(before)) {  // without its wrapper
    for (int i = 0; i < 2 && before.ends_with('\n'); ++i) before.remove_suffix(1);
    tell_plain(kind, before.size());
    trial_in_reasoning_ = false;
    state_ = State::kTrial;
    return true;
  }
  tell_plain(kind, before.size());
  tag.end -= tag.begin;
  tag.begin = 0;
  if (!final && held_.size() <= tag.end + kMostWord && find_close(0) == std::string::npos) return false;
  leave_out(tag);
  return true;
}

// The first bracket or newline that is no part of a special token.
size_t ServingParser::find_close(size_t from) const {
  for (size_t i = from; i < held_.size(); ++i) {
    if (held_[i] == '>' || held_[i] == '\n') return i;
    if (held_[i] == kOtherMark) i = held_.find(kOtherMark, i + 1);
  }
  return std::string::npos;
}

// No tag that belongs here: it goes, to its end or as far as a tag may reach.
void ServingParser::leave_out(const Tag& tag) {
  ++n_repaired_;
  const size_t close = find_close(tag.begin);
  const bool is_near = close != std::string::npos && close <= tag.end + kMostWord;
  take(is_near ? close + (held_[close] == '>') : tag.end);
}

// A block where none belongs: in reasoning, or without its wrapper. It is a call if nothing but the end follows.
bool ServingParser::trial(bool final) {
  Tag first;
  if (find_tag(0, final, first) == Found::kMore) return false;
  const size_t inside = first.end;
  if (trial_in_reasoning_) {
    // A quotation seldom goes on with an invoke.
    const size_t next = held_.find_first_not_of(kBlanks, inside);
    if (next != std::string::npos && held_[next] != '<') return reject_trial(), true;
    if (next != std::string::npos && next + 2 < held_.size() && held_.compare(next + 1, 2, kDsmlMark) != 0)
      return reject_trial(), true;
  }
  if (held_.find("\xFF"
                 "c",
                 scanned_) != std::string::npos)
    return reject_trial(), true;  // it thought on
  for (size_t at = std::max(scanned_, inside);;) {
    Tag tag;
    const Found found = find_tag(at, final, tag);
    if (found == Found::kMore) break;
    if (found == Found::kNone) {
      scanned_ = std::max(inside, held_.size() - std::min<size_t>(held_.size(), 2));
      break;
    }
    if (found == Found::kTag && tag.closes && is_wrapper(tag.word)) {
      if (!is_blank(std::string_view(held_).substr(tag.end))) return reject_trial(), true;
      break;
    }
    at = tag.end;
    scanned_ = tag.begin;
  }
  if (!final) return false;
  if (!accept_trial(held_)) reject_trial();
  return true;
}

// A block of plain XML: calls if it is whole, of declared tools, and the end of the answer. Else it is the text that it
// looks like.
bool ServingParser::plain_trial(bool final) {
  const size_t open = held_.find('<'), inside = held_.find('>') + 1;  // behind newlines of the wrapper
  const std::string_view opener = std::string_view(held_).substr(open, inside - open);
  const std::string prefix(plain_prefix(opener)), invoke = "<" + prefix + "invoke ",
                                                  close = "</" + prefix + "tool_calls>";
  const size_t first = held_.find_first_not_of(kBlanks, inside);
  const std::string_view next = first == std::string::npos ? "" : std::string_view(held_).substr(first);
  const bool may_be = next.size() < invoke.size() ? invoke.starts_with(next) : next.starts_with(invoke);
  if (!may_be || held_.find_first_of("\xFF\xFE", scanned_) != std::string::npos) return reject_plain_trial(), true;
  const size_t end = held_.find(close, std::max(inside, scanned_ - std::min(scanned_, close.size())));
  scanned_ = end == std::string::npos ? held_.size() : end;
  if (end != std::string::npos && !is_blank(std::string_view(held_).substr(end + close.size())))
    return reject_plain_trial(), true;
  if (!final) return false;
  trial_in_reasoning_ = true;  // the block has its wrapper
  if (end == std::string::npos || !accept_trial(with_tokens(held_, prefix))) reject_plain_trial();
  return true;
}

void ServingParser::reject_plain_trial() {
  scanned_ = 0;
  trial_in_reasoning_ = false;
  state_ = State::kContent;
  tell_plain(Delta::Kind::kContent, held_.find('<') + 1);  // what follows stands at the beginning of no line
}

bool ServingParser::accept_trial(const std::string& block) {
  ServingParser parser(false, tools_);
  if (!trial_in_reasoning_) parser.state_ = State::kBlock;
  parser.held_ = block;
  std::vector<Delta> deltas = parser.run(false);
  for (Delta& delta : parser.finish(cut_)) deltas.push_back(std::move(delta));
  const bool all_whole = std::find(parser.whole_.begin(), parser.whole_.end(), false) == parser.whole_.end();
  if (parser.whole_.empty() || !all_whole || parser.undeclared_ || parser.stray_) return false;
  if (std::any_of(deltas.begin(), deltas.end(), [](const Delta& d) { return d.kind == Delta::Kind::kContent; }))
    return false;
  for (Delta& delta : deltas) out_.push_back(std::move(delta));
  whole_ = parser.whole_;
  n_repaired_ += 1 + parser.n_repaired_;
  take(held_.size());
  state_ = State::kOver;
  return true;
}

void ServingParser::reject_trial() {
  scanned_ = 0;
  if (trial_in_reasoning_) {
    state_ = State::kReasoning;
    quoting_ = true;
    return;
  }
  // Without its wrapper it is no text either: it goes, with all that it holds.
  state_ = State::kContent;
  ++n_repaired_;
  size_t end = std::min(held_.find("\xFF"
                                   "c"),
                        held_.size());
  Tag tag;
  for (size_t at = 0; find_tag(at, true, tag) != Found::kNone && tag.begin < end; at = tag.end)
    if (tag.closes && (tag.word == "invoke" || is_wrapper(tag.word))) end = tag.end;
  at_line_ = false;
  take(end);
}

// Between the wrapper's tags: invokes.
bool ServingParser::block(bool final) {
  Tag tag;
  const Found found = find_tag(0, final, tag);
  if (found == Found::kNone) {
    const size_t n = held_.size() - beginning(held_);
    stray_ = stray_ || !is_blank(std::string_view(held_).substr(0, n));
    take(n);
    return false;
  }
  if (found == Found::kMore) return false;
  stray_ = stray_ || !is_blank(std::string_view(held_).substr(0, tag.begin));
  if (tag.closes) {
    const bool ends = tag.word != "invoke" && tag.word != "parameter";
    take(tag.end);
    if (ends) state_ = State::kOver;
    return true;
  }
  if (tag.word != "invoke") {
    take(tag.end);
    return true;
  }
  const size_t end = header_end(tag.begin, ">\n");
  if (end == std::string::npos && !final) return false;
  std::string name = visible(attribute(held_.substr(tag.begin, std::min(end, held_.size()) - tag.begin), "name"), true);
  take(end >= held_.size() ? held_.size() : end + (held_[end] == '>'));
  if (!is_declared(name)) {
    const size_t junk =
        std::find_if(name.begin(), name.end(),
                     [](unsigned char c) {
                       return c < 0x80 && !std::isalnum(c) && c != '_' && c != '.' && c != ':' && c != '-';
                     }) -
        name.begin();
    const bool has_junk = junk < name.size();
    name.resize(junk);
    if (name.empty() || (has_junk && !is_declared(name))) {
      state_ = State::kOver;
      return true;
    }
    n_repaired_ += has_junk;
  }
  undeclared_ = undeclared_ || !is_declared(name);
  names_.push_back(name);
  whole_.push_back(false);
  keys_.clear();
  opened_ = may_wrap_ = call_stray_ = false;
  tell(Delta::Kind::kToolCall, name);
  state_ = State::kArguments;
  return true;
}

// Between the tags of an invoke: parameters.
bool ServingParser::arguments(bool final) {
  const size_t next = held_.find_first_not_of(kBlanks);
  if (next != std::string::npos && held_[next] == '{' && keys_.empty() && !call_stray_) {
    state_ = State::kRaw;
    return true;
  }
  Tag tag;
  const Found found = find_tag(0, final, tag);
  if (found == Found::kNone) {
    const size_t n = held_.size() - beginning(held_);
    call_stray_ = call_stray_ || !is_blank(std::string_view(held_).substr(0, n));
    stray_ = stray_ || call_stray_;
    take(n);
    return false;
  }
  if (found == Found::kMore) return false;
  call_stray_ = call_stray_ || !is_blank(std::string_view(held_).substr(0, tag.begin));
  stray_ = stray_ || call_stray_;
  if (!tag.closes && tag.word == "parameter") {
    const size_t end = header_end(tag.begin, ">");
    if (end == std::string::npos && !final) return false;
    const std::string header = held_.substr(tag.begin, std::min(end, held_.size()) - tag.begin);
    take(end >= held_.size() ? held_.size() : end + (held_[end] == '>'));
    begin_parameter(header);
    return true;
  }
  if (tag.closes && tag.word == "parameter") {
    take(tag.end);
    return true;
  }
  if (tag.closes && tag.word == "invoke") {
    take(tag.end);
  } else {
    ++n_repaired_;  // its closing tag is missing
  }
  end_call();
  return true;
}

void ServingParser::begin_parameter(const std::string& header) {
  key_ = visible(attribute(header, "name"), true);
  const std::string is_string = attribute(header, "string");
  kind_ = is_string == "true" ? Kind::kString : is_string == "false" ? Kind::kJson : Kind::kGuess;
  n_repaired_ += kind_ == Kind::kGuess;
  const json::Value* schema = parameters();
  may_wrap_ = keys_.empty() && (key_ == "arguments" || key_ == "input") && schema && schema->find("properties") &&
              !property(key_);
  if (!may_wrap_ && kind_ == Kind::kString) {
    key(key_);
    tell(Delta::Kind::kArguments, "\"");
  }
  state_ = State::kValue;
  scanned_ = 0;
  is_nested_ = false;
  open_ = 0;
}

void ServingParser::key(const std::string& name) {
  n_repaired_ += std::find(keys_.begin(), keys_.end(), name) != keys_.end();
  keys_.push_back(name);
  tell(Delta::Kind::kArguments, (std::exchange(opened_, true) ? ", " : "{") + json::quote(name) + ": ");
}

// Up to the closing tag, or to what can only follow one. Anything else in it is its text.
bool ServingParser::value(bool final) {
  const bool streams = kind_ == Kind::kString && !may_wrap_;
  const auto say = [&](size_t n) {
    const std::string quoted = json::quote(visible(std::string_view(held_).substr(0, n), true));
    tell(Delta::Kind::kArguments, quoted.substr(1, quoted.size() - 2));
    take(n);
  };
  // Parameters where a value would stand, and nothing says that it is text.
  const auto may_nest = [&](size_t n) {
    const json::Value* schema = property(key_);
    const json::Value* type = schema ? schema->find("type") : nullptr;
    const bool wants_text = type && type->is_string() && type->as_string() == "string";
    return kind_ == Kind::kGuess && !wants_text && is_blank(std::string_view(held_).substr(0, n));
  };
  Tag tag;
  Found found = Found::kNone;
  size_t from = scanned_;
  for (;; from = tag.end) {
    found = find_tag(from, final, tag);
    if (found == Found::kNone || found == Found::kMore) break;
    if (found == Found::kStray) continue;
    constexpr std::string_view kNamed = " name=\"";
    const bool is_parameter = tag.word == "parameter";
    if (is_parameter && !tag.closes && !final && held_.size() < tag.end + kNamed.size()) {
      found = Found::kMore;
      break;
    }
    const bool is_named = is_parameter && !tag.closes && held_.compare(tag.end, kNamed.size(), kNamed) == 0;
    if (is_named && open_ < kMostNested && (is_nested_ || may_nest(tag.begin))) {
      is_nested_ = true;
      ++open_;
      scanned_ = tag.end;
      continue;
    }
    if (is_parameter && tag.closes && open_ > 0) {
      --open_;
      scanned_ = tag.end;
      continue;
    }
    if (tag.closes ? is_parameter || tag.word == "invoke" : is_named) break;
  }
  if (found == Found::kTag) {
    const bool is_closed = tag.closes && tag.word == "parameter";
    if (is_closed && held_[tag.end - 1] != '>' && tag.end == held_.size() && !final) return false;
    n_repaired_ += !is_closed;
    if (streams) {
      const size_t n = tag.begin, whole = tag.end - n;
      say(n);
      tell(Delta::Kind::kArguments, "\"");
      if (is_closed) take(whole);
    } else {
      size_t at = 0;
      std::string text = is_nested_ ? json::dump(object_of(at, tag.begin, 0))
                                    : visible(std::string_view(held_).substr(0, tag.begin), true);
      take(is_closed ? tag.end : tag.begin);
      end_value(std::move(text));
    }
    state_ = State::kArguments;
    return true;
  }
  // Nothing ends it yet. What may begin a tag waits.
  size_t n = found == Found::kMore ? tag.begin : held_.size();
  if (found == Found::kNone && !final) n -= beginning(held_);
  // A closed bracket of a special stands whole in held_: it came in one piece.
  if (streams) {
    say(n);
    scanned_ = 0;
  } else {
    scanned_ = std::max(scanned_, n);
  }
  return false;
}

// The header of the tag at `begin`, and where it ends.
std::string ServingParser::header_at(size_t begin, size_t& end) const {
  end = std::min(header_end(begin, ">"), held_.size());
  std::string header = held_.substr(begin, end - begin);
  end += end < held_.size() && held_[end] == '>';
  return header;
}

// The parameters that stand in held_ from `at` on, up to `end` or to what closes the one around them, as an object.
json::Value ServingParser::object_of(size_t& at, size_t end, int depth) const {
  json::Value object(json::Object{});
  Tag tag;
  while (find_tag(at, true, tag) != Found::kNone && tag.begin < end) {
    at = tag.end;
    if (tag.word != "parameter") continue;
    if (tag.closes) break;
    const std::string header = header_at(tag.begin, at);
    const std::string is_string = attribute(header, "string");
    const size_t begin = at;
    while (find_tag(at, true, tag) != Found::kNone && tag.begin < end && tag.word != "parameter") at = tag.end;
    const bool has_end = tag.begin >= begin && tag.begin < end && tag.word == "parameter";
    const size_t value_end = has_end ? tag.begin : end;
    const std::string_view raw = std::string_view(held_).substr(begin, value_end - begin);
    const std::string text = visible(raw, true);
    json::Value value(text);
    if (has_end && !tag.closes && is_string.empty() && is_blank(raw) && depth < kMostNested) {
      at = begin;
      value = object_of(at, end, depth + 1);
    } else {
      at = has_end && tag.closes ? tag.end : value_end;
      if (const auto mended = is_string == "true" ? std::nullopt : mended_json(trimmed(text)))
        value = json::parse(*mended).value();
    }
    object.set(visible(attribute(header, "name"), true), std::move(value));
  }
  return object;
}

void ServingParser::end_value(std::string text) {
  const std::string bare = trimmed(text);
  if (may_wrap_) {
    may_wrap_ = false;
    const auto all = json::parse(bare);
    const bool fits = is_json(bare) && all.value().is_object() && !all.value().as_object().empty() &&
                      std::all_of(all.value().as_object().begin(), all.value().as_object().end(),
                                  [&](const json::Member& member) { return property(member.first) != nullptr; });
    if (fits) {
      ++n_repaired_;
      for (const auto& [name, item] : all.value().as_object()) {
        key(name);
        tell(Delta::Kind::kArguments, json::dump(item));
      }
      return;
    }
  }
  key(key_);
  const json::Value* schema = property(key_);
  const json::Value* type = schema ? schema->find("type") : nullptr;
  const bool wants_text = type && type->is_string() && type->as_string() == "string";
  const auto mended =
      kind_ == Kind::kString || (kind_ == Kind::kGuess && wants_text) ? std::nullopt : mended_json(bare);
  n_repaired_ += is_nested_;
  n_repaired_ += mended ? *mended != bare : kind_ == Kind::kJson;
  tell(Delta::Kind::kArguments, mended ? *mended : json::quote(text));
}

// Arguments as a JSON object instead of parameters.
bool ServingParser::raw(bool final) {
  Tag tag;
  const Found found = find_tag(0, final, tag);
  if (found != Found::kTag && !final) return false;
  const auto object =
      mended_json(trimmed(std::string_view(held_).substr(0, found == Found::kTag ? tag.begin : held_.size())));
  ++n_repaired_;
  take(found != Found::kTag ? held_.size() : tag.closes && tag.word == "invoke" ? tag.end : tag.begin);
  state_ = State::kBlock;
  if (object) {
    tell(Delta::Kind::kArguments, *object);
    whole_.back() = found == Found::kTag || final;
  }
  return true;
}

void ServingParser::end_call() {
  tell(Delta::Kind::kArguments, opened_ ? "}" : "{}");
  whole_.back() = true;
  state_ = State::kBlock;
}

std::vector<Delta> ServingParser::finish(bool cut) {
  cut_ = cut;
  if (!cut || state_ == State::kReasoning || state_ == State::kContent || state_ == State::kTrial ||
      state_ == State::kPlainTrial) {
    while (step(true)) {
    }
  }
  if (!cut && (state_ == State::kValue || state_ == State::kArguments)) {
    // The model ended it: only tags are missing, if all that is required is there.
    if (state_ == State::kValue) {
      if (kind_ == Kind::kString && !may_wrap_) {
        tell(Delta::Kind::kArguments, "\"");
      } else {
        size_t at = 0;
        end_value(is_nested_ ? json::dump(object_of(at, held_.size(), 0)) : visible(held_, true));
      }
    }
    if (has_required()) {
      ++n_repaired_;
      end_call();
    }
  }
  take(held_.size());
  return std::exchange(out_, {});
}

const json::Value* ServingParser::parameters() const {
  for (const json::Value& tool : tools_)
    if (const json::Value* name = tool.find("name"); name && name->is_string() && name->as_string() == names_.back())
      return tool.find("parameters");
  return nullptr;
}
const json::Value* ServingParser::property(std::string_view name) const {
  const json::Value* schema = parameters();
  const json::Value* properties = schema ? schema->find("properties") : nullptr;
  return properties ? properties->find(name) : nullptr;
}
bool ServingParser::has_required() const {
  const json::Value* schema = parameters();
  const json::Value* required = schema ? schema->find("required") : nullptr;
  return !required || !required->is_array() ||
         std::all_of(required->as_array().begin(), required->as_array().end(), [&](const json::Value& name) {
           return name.is_string() && std::find(keys_.begin(), keys_.end(), name.as_string()) != keys_.end();
         });
}
bool ServingParser::is_declared(std::string_view name) const {
  return std::any_of(tools_.begin(), tools_.end(), [&](const json::Value& tool) {
    const json::Value* own = tool.find("name");
    return own && own->is_string() && own->as_string() == name;
  });
}

}  // namespace hadal::text
