// Regular expressions to automata over UTF-8, for `pattern`, formats and number ranges.
//
// Understood: literals, . [...] [^...] \d \D \w \W \s \S \t \n \r \f \v \xhh \uhhhh \u{h...}, groups ( ) and (?: ), |,
// * + ? {m} {m,} {m,n} (n at most 1000; lazy forms mean the same), ^ and $. Refused by name: back references,
// look-around, \b, \p and whatever else there is. The classes are ECMAScript's: \d and \w are ASCII.
//
// A Dfa accepts whole texts of valid UTF-8. Memory: about 1 KB per state, at most kMostDfaStates.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace hadal::constrain {

inline constexpr size_t kMostDfaStates = 20000;

struct Dfa {
  struct State {
    std::array<int32_t, 256> next;  // -1: dead
    bool accepts = false;
  };
  std::vector<State> states;  // 0: the start

  bool matches(std::string_view text) const;
};

// Texts in which the pattern matches somewhere; ^ and $ tie it to the ends, as in JSON Schema.
Result<Dfa> search(std::string_view pattern);
Dfa any_text();
// What both accept; minus: what `a` accepts and `b` does not.
Result<Dfa> both(const Dfa& a, const Dfa& b, bool minus = false);
Dfa one_of(const std::vector<std::string>& texts);
// Whole numbers in decimal that n divides.
Dfa multiples_of(int n);

}  // namespace hadal::constrain
