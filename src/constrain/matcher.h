// Which tokens of a vocabulary a grammar allows next.
//
//   Vocabulary   the ordinary tokens as a tree of shared beginnings; built once per tokenizer
//   Automaton    a grammar over a vocabulary, shared by all completions that follow it, with what it has learned
//   Matcher      where one completion stands: the constraint that the engine asks
//
// A matcher holds every way to read the text so far: places in the grammar, each with its stack of unfinished rules.
// A mask is the union over the places. What a place allows inside its own rule, whoever called it, is found by one walk
// of the tree and kept; tokens that run past the rule's end are kept as what remains of them, as a tree of its own,
// which is walked from the caller's place each time. Counts are kept as what is left, and more than a token can use
// is all the same, so a limit costs nothing until it is near.
//
// Threads: Vocabulary any; Automaton any (its cache has a lock); Matcher one.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "base/types.h"
#include "constrain/grammar.h"
#include "sample/constraint.h"
#include "text/tokenizer.h"

namespace hadal::constrain {

// Texts in the order of a walk, depth first: a node per byte.
class Tree {
 public:
  struct Node {
    int32_t next;    // past all that begins with this node's text
    int32_t tokens;  // where its tokens begin; they end where the next node's begin
    uint16_t depth;  // bytes before this one
    uint8_t byte;
  };
  Tree() = default;
  explicit Tree(std::vector<std::pair<std::string_view, TokenId>> texts);

  std::span<const Node> nodes() const { return std::span(nodes_).first(nodes_.empty() ? 0 : nodes_.size() - 1); }
  std::span<const TokenId> tokens(size_t node) const {
    const auto begin = static_cast<size_t>(nodes_[node].tokens), end = static_cast<size_t>(nodes_[node + 1].tokens);
    return std::span(tokens_).subspan(begin, end - begin);
  }
  size_t longest() const { return longest_; }

 private:
  std::vector<Node> nodes_;  // and one past the last
  std::vector<TokenId> tokens_;
  size_t longest_ = 0;
};

class Vocabulary {
 public:
  // ends: the tokens that end an answer. The tokenizer must outlive it.
  Vocabulary(const text::Tokenizer& tokenizer, std::vector<TokenId> ends);

  const Tree& tree() const { return tree_; }
  std::string_view piece(TokenId id) const { return tokenizer_.piece(id); }
  const std::vector<TokenId>& ends() const { return ends_; }
  TokenId symbol(Symbol symbol) const { return symbols_[static_cast<size_t>(symbol)]; }  // -1: no such token
  bool is_text(TokenId id) const { return !tokenizer_.is_added(id) && !tokenizer_.piece(id).empty(); }

 private:
  const text::Tokenizer& tokenizer_;
  Tree tree_;
  std::vector<TokenId> ends_;
  TokenId symbols_[2] = {-1, -1};
};

// An unfinished run of a rule: where it goes on when what it called has ended.
struct Frame;
using Stack = std::shared_ptr<const Frame>;
struct Frame {
  State to;
  int32_t least, most;  // what its counts need and have left
  int32_t depth;        // of the run below, from 0
  uint64_t hash;
  Stack below;
};

struct Place {
  State state;
  int32_t least, most;
  Stack stack;  // null: in the root rule
};
using Places = std::vector<Place>;

class Automaton {
 public:
  Automaton(Grammar grammar, std::shared_ptr<const Vocabulary> vocabulary)
      : grammar_(std::move(grammar)), vocabulary_(std::move(vocabulary)) {}

  const Vocabulary& vocabulary() const { return *vocabulary_; }
  const Grammar& grammar() const { return grammar_; }

  Places start() const;
  Places after(const Places& places, uint8_t byte) const;
  Places after(const Places& places, Symbol symbol) const;
  bool may_end(const Places& places) const;
  void mask(const Places& places, std::span<uint64_t> allowed) const;

 private:
  // What one place allows inside its rule.
  struct Allowed {
    std::vector<uint64_t> bits;  // all tokens, or, when they are few,
    std::vector<TokenId> few;
    Tree past;  // remainders of tokens that the rule ends in
    size_t bytes() const { return bits.size() * 8 + few.size() * 4 + past.nodes().size() * 16; }
  };
  class Walk;
  void close(Places& places, bool* ended) const;
  std::shared_ptr<const Allowed> allowed_at(const Place& place) const;
  void walk_past(const Tree& tree, Places start, std::span<uint64_t> allowed) const;

  const Grammar grammar_;
  const std::shared_ptr<const Vocabulary> vocabulary_;

  mutable std::mutex mutex_;  // of what follows
  mutable std::map<std::tuple<State, int32_t, int32_t>, std::shared_ptr<const Allowed>> known_;
  mutable size_t known_bytes_ = 0;
};

class Matcher final : public sample::Constraint {
 public:
  explicit Matcher(std::shared_ptr<const Automaton> automaton)
      : automaton_(std::move(automaton)), places_(automaton_->start()) {}

  void mask(std::span<uint64_t> allowed) override;
  void accept(TokenId token) override;
  bool accept_text(std::string_view text);  // false: refused, and then nothing is allowed any more
  bool may_end() const { return automaton_->may_end(places_); }
  bool dead() const { return places_.empty(); }

 private:
  std::shared_ptr<const Automaton> automaton_;
  Places places_;
};

}  // namespace hadal::constrain
