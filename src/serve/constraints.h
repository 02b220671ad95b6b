// What a turn demands of its answer, as a constraint of the engine (api.md 1.6, 1.7 and 6): JSON, a schema, tool calls
// that are well-formed, that fit, that must come. Grammars are kept for the turns that follow with the same ones.
#pragma once

#include <list>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "constrain/matcher.h"
#include "serve/normalise.h"
#include "serve/turn.h"

namespace hadal::serve {

struct Demand {
  std::shared_ptr<sample::Constraint> constraint;  // null: anything may come
  std::vector<std::string> ignored;                // places of keywords that are not enforced
};

// Threads: one, the server's; what it gives is the engine's.
class Constraints {
 public:
  // The tokenizer must outlive it.
  Constraints(const text::Tokenizer& tokenizer, std::vector<TokenId> ends)
      : tokenizer_(tokenizer), ends_(std::move(ends)) {}

  // 400: a strict schema with something that cannot be enforced, a schema that no value fits, a prefix that does not
  // begin an answer of the format.
  std::variant<Demand, ApiError> of(const Turn& turn, const Prompt& prompt);

 private:
  struct Known {
    std::string key;
    std::shared_ptr<const constrain::Automaton> automaton;
    std::vector<std::string> ignored;
  };
  const text::Tokenizer& tokenizer_;
  const std::vector<TokenId> ends_;
  std::shared_ptr<const constrain::Vocabulary> vocabulary_;  // made for the first turn that needs it
  std::list<Known> known_;                                   // the latest first
};

}  // namespace hadal::serve
