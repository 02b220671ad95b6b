// Grammars as nondeterministic automata that call each other. The input is bytes, and a few tokens that are no text:
// the DSML marker and </think> of a tokenizer that has them as tokens of their own.
//
//   Rule    a sub-automaton from `start` to `end`. A call edge runs another rule and goes on where the edge leads.
//   count   a rule may count: `counts` edges are taken at most `most` times, `needs_least` edges only after `least`.
//           Code points of a string, commas of an array. Each run of the rule counts for itself.
//
// finish() checks a grammar and makes it immutable: states from which nothing can end are cut off, a rule that runs
// itself before any input is refused, and so is a grammar without any text. It also finds
//   height  how many nested runs a state needs at least to end: a matcher that enters only what fits below its limit
//           can always finish
//   follow  which bytes can stand behind a rule, wherever it is called
#pragma once

#include <bitset>
#include <cstdint>
#include <limits>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace hadal::constrain {

using State = int32_t;
using Rule = int32_t;
enum class Symbol : uint8_t { kDsml, kThinkClose };
inline constexpr int kMostDepth = 600;         // nested runs of rules
inline constexpr size_t kMostStates = 200000;  // of a grammar
inline constexpr int32_t kNoLimit = std::numeric_limits<int32_t>::max();

struct Edge {
  enum class Kind : uint8_t { kEmpty, kBytes, kSymbol, kCall };
  Kind kind = Kind::kEmpty;
  uint8_t low = 0, high = 0;  // kBytes
  bool counts = false, needs_least = false;
  int32_t what = 0;  // the symbol, the rule
  State to = 0;
};

class Grammar {
 public:
  struct RuleInfo {
    State start = 0, end = 0;
    int32_t least = 0, most = kNoLimit;
    std::bitset<256> follow;
  };
  struct StateInfo {
    std::vector<Edge> edges;
    Rule rule = 0;
    int32_t height = 0;  // kNoLimit: cut off
  };

  // has_symbol: the tokenizer has such a token; else its text is spelled.
  bool has_dsml = true, has_think_close = true;

  Rule add_rule();
  State add_state(Rule rule);
  void empty(State from, State to, bool needs_least = false);
  void bytes(State from, State to, uint8_t low, uint8_t high, bool counts = false, bool needs_least = false);
  void call(State from, State to, Rule rule, bool counts = false);
  State text(State from, std::string_view text);    // a chain of new states; its last
  State markup(State from, std::string_view text);  // the same, with the DSML marker as its token
  State think_close(State from);

  // kUnsupported: too large; kInvalid: no text fits, endless recursion.
  Status finish(Rule root);

  Rule root() const { return root_; }
  RuleInfo& rule(Rule id) { return rules_[static_cast<size_t>(id)]; }
  const RuleInfo& rule(Rule id) const { return rules_[static_cast<size_t>(id)]; }
  const StateInfo& state(State id) const { return states_[static_cast<size_t>(id)]; }
  size_t size() const { return states_.size(); }
  int32_t tallest() const { return tallest_; }  // of the heights that are left
  bool too_large() const { return states_.size() > kMostStates; }

 private:
  void find_heights();
  bool starts_with_itself() const;
  void find_follow();

  Rule root_ = 0;
  int32_t tallest_ = 0;
  std::vector<RuleInfo> rules_;
  std::vector<StateInfo> states_;
};

}  // namespace hadal::constrain
