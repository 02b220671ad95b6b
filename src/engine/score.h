// How likely the model finds a given text.
#pragma once

#include <span>
#include <vector>

#include "engine/engine.h"

namespace hadal::engine {

struct Scored {
  double logprob = 0;      // natural, of the token given all before it
  bool likeliest = false;  // no other token was likelier
};

// Of tokens[1..]: one fewer than tokens. Errors: those of Transformer::forward, and kCorrupt for logits that are not
// finite. Memory: chunk rows of logits.
Result<std::vector<Scored>> score(Engine& engine, std::span<const TokenId> tokens, int64_t chunk = 64);

}  // namespace hadal::engine
