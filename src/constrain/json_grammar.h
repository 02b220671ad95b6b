// The grammar of any JSON and of text without markup, and the pieces that the grammars of schemas and tool calls are
// put together from. In which form JSON is offered: shape.h.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "constrain/grammar.h"
#include "constrain/regex.h"

namespace hadal::constrain {

class JsonGrammar {
 public:
  // It adds to the grammar, which must outlive it, and say which symbols it has.
  explicit JsonGrammar(Grammar& grammar) : grammar_(grammar) {}
  Grammar& grammar() { return grammar_; }

  // Each is made when it is first asked for.
  Rule any_value();
  Rule any_array();
  Rule any_object();
  Rule any_string();
  Rule number(bool integer);
  Rule plain_text();  // between markup

  // A string of these texts, from `least` to `most` code points. raw: without quotes and escapes; free: as below.
  Rule string_rule(const Dfa& dfa, bool raw, bool free, int32_t least = 0, int32_t most = kNoLimit);
  const Dfa& text_dfa();
  // Text between markup. Where the marker and </think> are tokens of their own, plain tokens may spell them: parsers
  // tell the two apart. Where they are not, text must not look like structure.
  const Dfa& plain_dfa();
  bool holds_markup(std::string_view text);

  // What may stand between two tokens; the state behind it.
  State blanks(Rule rule, State from);
  State colon(Rule rule, State from);

  // The texts of the automaton, between `from` and `to`. escaped: as the inside of a JSON string; free: with every
  // escape (the automaton must be text_dfa()). With counts, a code point counts.
  void dfa_into(Rule rule, State from, State to, const Dfa& dfa, bool escaped, bool free, bool counts);

  // [ items ], from `least` to `most`: those of a tuple first; `more` gives the rule of the others, if there may be
  // any.
  void list_into(Rule rule, const std::vector<Rule>& tuple, int32_t least, int32_t most,
                 const std::function<std::optional<Rule>()>& more);

  struct Property {
    std::string name;
    Rule value = 0;
    bool required = false;
  };
  // { members }: the properties in order, then others: the rule of their keys and of their values.
  void members_into(Rule rule, const std::vector<Property>& properties,
                    const std::function<std::optional<std::pair<Rule, Rule>>()>& more);

 private:
  Grammar& g() { return grammar_; }
  void escapes(Rule rule, State own, const Dfa::State& state, const std::vector<State>& states, bool free, bool counts);

  Grammar& grammar_;
  std::optional<Dfa> text_, plain_, markup_;
  std::optional<Rule> plain_rule_, string_, integer_, number_, value_, array_, object_;
};

}  // namespace hadal::constrain
