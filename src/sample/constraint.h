// Which tokens may come next. The engine asks before it draws and tells what was drawn; what the rule is, JSON or
// anything else, is not its business (constrain/matcher.h has the grammars).
//
// One object follows one completion. Tokens are accepted when they are drawn, never when they are read again, so a
// completion that is suspended and resumed needs nothing else.
#pragma once

#include <cstdint>
#include <span>

#include "base/types.h"

namespace hadal::sample {

class Constraint {
 public:
  virtual ~Constraint() = default;
  // Sets bit i of the words when token i may follow, end tokens included, and clears all others.
  virtual void mask(std::span<uint64_t> allowed) = 0;
  virtual void accept(TokenId token) = 0;
};

}  // namespace hadal::sample
