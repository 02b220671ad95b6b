#include "constrain/json_grammar.h"

#include <algorithm>

#include "base/json.h"

namespace hadal::constrain {
namespace {

constexpr int kBlanks = 32;  // spaces of an indentation

// Texts that are structure.
constexpr char kMarkup[] = "｜DSML｜|<think>|</think>|<｜begin▁of▁sentence｜>|<｜end▁of▁sentence｜>";

// At most 40 digits, and no exponent that a double cannot hold: a number ends, and every reader can take it.
constexpr std::string_view kWholeNumbers = "^(0|-?[1-9][0-9]{0,39})$";
constexpr std::string_view kAllNumbers =
    "^-?((0|[1-9][0-9]{0,39})(\\.[0-9]{1,40})?|"
    "[0-9](\\.[0-9]{1,40})?[eE][+-]?([0-9]{1,2}|[12][0-9]{2}|30[0-7]))$";

template <class Make>
Rule once(std::optional<Rule>& rule, const Make& make) {
  if (!rule) make(rule);
  return *rule;
}

}  // namespace

State JsonGrammar::blanks(Rule rule, State from) {
  const State to = g().add_state(rule);
  g().empty(from, to);
  g().bytes(from, to, ' ', ' ');
  State line = g().add_state(rule);
  g().bytes(from, line, '\n', '\n');
  g().empty(line, to);
  for (int i = 0; i < kBlanks; ++i) {
    const State next = g().add_state(rule);
    g().bytes(line, next, ' ', ' ');
    g().empty(next, to);
    line = next;
  }
  return to;
}

State JsonGrammar::colon(Rule rule, State from) {
  const State said = g().text(from, ":"), to = g().add_state(rule);
  g().empty(said, to);
  g().bytes(said, to, ' ', ' ');
  return to;
}

void JsonGrammar::dfa_into(Rule rule, State from, State to, const Dfa& dfa, bool escaped, bool free, bool counts) {
  std::vector<State> states{from};
  for (size_t i = 1; i < dfa.states.size(); ++i) states.push_back(g().add_state(rule));
  // The start may be entered again: then it must not be the state of others.
  if (std::any_of(dfa.states.begin(), dfa.states.end(),
                  [](const Dfa::State& s) { return std::find(s.next.begin(), s.next.end(), 0) != s.next.end(); })) {
    states[0] = g().add_state(rule);
    g().empty(from, states[0]);
  }
  for (size_t i = 0; i < dfa.states.size(); ++i) {
    const Dfa::State& state = dfa.states[i];
    const State own = states[i];
    if (state.accepts) g().empty(own, to, counts);
    const auto plain = [&](size_t b) { return !escaped || (b >= 0x20 && b != '"' && b != '\\'); };
    const auto continues = [](size_t b) { return b >= 0x80 && b < 0xC0; };
    for (size_t b = 0; b < 256;) {
      const int32_t next = state.next[b];
      size_t last = b;
      if (next >= 0 && plain(b)) {
        while (last + 1 < 256 && state.next[last + 1] == next && plain(last + 1) && continues(last + 1) == continues(b))
          ++last;
        g().bytes(own, states[static_cast<size_t>(next)], static_cast<uint8_t>(b), static_cast<uint8_t>(last),
                  counts && !continues(b));
      }
      b = last + 1;
    }
    if (escaped) escapes(rule, own, state, states, free, counts);
    if (g().too_large()) return;
  }
}

void JsonGrammar::escapes(Rule rule, State own, const Dfa::State& state, const std::vector<State>& states, bool free,
                          bool counts) {
  const auto goes = [&](char c) { return state.next[static_cast<uint8_t>(c)]; };
  bool any = false;
  for (const char c : std::string_view("\"\\/\b\f\n\r\t")) any = any || goes(c) >= 0;
  for (char c = 0; c < 0x20; ++c) any = any || goes(c) >= 0;
  if (!any) return;
  const State escape = g().add_state(rule);
  g().bytes(own, escape, '\\', '\\', counts);
  static constexpr std::pair<char, char> kShort[] = {{'"', '"'},  {'\\', '\\'}, {'/', '/'},  {'b', '\b'},
                                                     {'f', '\f'}, {'n', '\n'},  {'r', '\r'}, {'t', '\t'}};
  for (const auto& [letter, meant] : kShort)
    if (goes(meant) >= 0)
      g().bytes(escape, states[static_cast<size_t>(goes(meant))], static_cast<uint8_t>(letter),
                static_cast<uint8_t>(letter));
  const auto hex = [&](State from, State to, unsigned low, unsigned high) {
    for (unsigned d = low; d <= high; ++d) {
      const char digit = "0123456789abcdef"[d];
      g().bytes(from, to, static_cast<uint8_t>(digit), static_cast<uint8_t>(digit));
      if (d >= 10) g().bytes(from, to, static_cast<uint8_t>(digit - 32), static_cast<uint8_t>(digit - 32));
    }
  };
  const auto chain = [&](State from, State to, int n) {
    for (int i = 0; i < n; ++i) {
      const State next = i + 1 == n ? to : g().add_state(rule);
      hex(from, next, 0, 15);
      from = next;
    }
  };
  if (free) {
    const State u = g().text(escape, "u"), d = g().add_state(rule), low = g().add_state(rule);
    for (unsigned first = 0; first < 16; ++first) {
      if (first == 13) continue;
      const State second = g().add_state(rule);
      hex(u, second, first, first);
      chain(second, own, 3);
    }
    hex(u, d, 13, 13);
    const State plain = g().add_state(rule), high = g().add_state(rule);
    hex(d, plain, 0, 7);
    chain(plain, own, 2);
    hex(d, high, 8, 11);
    const State paired = g().add_state(rule);
    chain(high, paired, 2);
    const State second = g().text(paired, "\\u");
    hex(second, low, 13, 13);
    const State third = g().add_state(rule);
    hex(low, third, 12, 15);
    chain(third, own, 2);
    return;
  }
  const State zeros = g().text(escape, "u00");
  for (unsigned high = 0; high < 2; ++high) {
    const State digit = g().add_state(rule);
    hex(zeros, digit, high, high);
    for (unsigned low = 0; low < 16; ++low)
      if (const int32_t next = state.next[high * 16 + low]; next >= 0)
        hex(digit, states[static_cast<size_t>(next)], low, low);
  }
}

Rule JsonGrammar::string_rule(const Dfa& dfa, bool raw, bool free, int32_t least, int32_t most) {
  const Rule rule = g().add_rule();
  g().rule(rule).least = least;
  g().rule(rule).most = most;
  const bool counts = least > 0 || most != kNoLimit;
  State begin = g().rule(rule).start, end = g().rule(rule).end;
  if (!raw) {
    begin = g().text(begin, "\"");
    const State closed = g().add_state(rule);
    dfa_into(rule, begin, closed, dfa, true, free, counts);
    g().bytes(closed, end, '"', '"');
  } else {
    dfa_into(rule, begin, end, dfa, false, false, counts);
  }
  return rule;
}

const Dfa& JsonGrammar::text_dfa() {
  if (!text_) text_ = any_text();
  return *text_;
}

const Dfa& JsonGrammar::plain_dfa() {
  if (!plain_) {
    const bool by_tokens = g().has_dsml && g().has_think_close;
    plain_ = by_tokens ? text_dfa() : both(text_dfa(), search(kMarkup).value(), true).value();
  }
  return *plain_;
}

bool JsonGrammar::holds_markup(std::string_view text) {
  if (!markup_) markup_ = search(kMarkup).value();
  return markup_->matches(text);
}

Rule JsonGrammar::plain_text() {
  return once(plain_rule_, [&](auto& rule) { rule = string_rule(plain_dfa(), true, false); });
}

Rule JsonGrammar::any_string() {
  return once(string_, [&](auto& rule) { rule = string_rule(text_dfa(), false, true); });
}

Rule JsonGrammar::number(bool integer) {
  return once(integer ? integer_ : number_, [&](auto& rule) {
    rule = string_rule(search(integer ? kWholeNumbers : kAllNumbers).value(), true, false);
  });
}

Rule JsonGrammar::any_value() {
  return once(value_, [&](auto& rule) {
    rule = g().add_rule();
    const State start = g().rule(*rule).start, end = g().rule(*rule).end;
    for (const char* word : {"null", "true", "false"}) g().empty(g().text(start, word), end);
    g().call(start, end, any_string());
    g().call(start, end, number(false));
    g().call(start, end, any_object());
    g().call(start, end, any_array());
  });
}

Rule JsonGrammar::any_array() {
  return once(array_, [&](auto& rule) {
    rule = g().add_rule();
    list_into(*rule, {}, 0, kNoLimit, [&] { return std::optional(any_value()); });
  });
}

Rule JsonGrammar::any_object() {
  return once(object_, [&](auto& rule) {
    rule = g().add_rule();
    members_into(*rule, {}, [&] { return std::optional(std::pair(any_string(), any_value())); });
  });
}

void JsonGrammar::list_into(Rule rule, const std::vector<Rule>& tuple, int32_t least, int32_t most,
                            const std::function<std::optional<Rule>()>& more) {
  const State open = g().text(g().rule(rule).start, "["), close = g().add_state(rule);
  g().empty(g().text(blanks(rule, close), "]"), g().rule(rule).end);
  if (least == 0) g().empty(open, close);
  const std::optional<Rule> others = more();
  if (most == 0) return;
  State at = blanks(rule, open);
  int32_t n = 0;
  for (const Rule item : tuple) {
    const State after = g().add_state(rule);
    g().call(at, after, item);
    if (++n >= least) g().empty(after, close);
    if (n == most) return;
    at = blanks(rule, g().text(after, ","));
  }
  if (!others) return;
  // One that is not counted, so that those behind it can be counted at their commas: a comma calls for an item.
  const State after = g().add_state(rule), comma = g().add_state(rule);
  g().call(at, after, *others);
  ++n;
  g().rule(rule).least = std::max(least - n, 0);
  if (most != kNoLimit) g().rule(rule).most = most - n;
  g().empty(after, close, true);
  g().bytes(after, comma, ',', ',', true);
  g().call(blanks(rule, comma), after, *others);
}

void JsonGrammar::members_into(Rule rule, const std::vector<Property>& properties,
                               const std::function<std::optional<std::pair<Rule, Rule>>()>& more) {
  const State end = g().rule(rule).end, open = g().text(g().rule(rule).start, "{"), close = g().add_state(rule);
  g().empty(g().text(blanks(rule, close), "}"), end);
  const std::optional<std::pair<Rule, Rule>> others = more();
  const size_t n = properties.size();
  size_t last_required = 0;  // one past
  for (size_t i = 0; i < n; ++i)
    if (properties[i].required) last_required = i + 1;
  // keys[i]: a key comes, of property i or later ones.
  std::vector<State> keys;
  for (size_t i = 0; i <= n; ++i) keys.push_back(g().add_state(rule));
  g().empty(blanks(rule, open), keys[0]);
  if (last_required == 0) g().empty(open, close);
  const auto after_member = [&](State after, size_t next) {
    if (next >= last_required) g().empty(after, close);
    if (next < n || others) g().empty(blanks(rule, g().text(after, ",")), keys[next]);
  };
  for (size_t i = 0; i < n; ++i) {
    const State after = g().add_state(rule);
    g().call(colon(rule, g().text(keys[i], json::quote(properties[i].name))), after, properties[i].value);
    after_member(after, i + 1);
    if (!properties[i].required) g().empty(keys[i], keys[i + 1]);
  }
  if (!others) return;
  const State key = g().add_state(rule), after = g().add_state(rule);
  g().call(keys[n], key, others->first);
  g().call(colon(rule, key), after, others->second);
  after_member(after, n);
}

}  // namespace hadal::constrain
