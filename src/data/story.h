// Micro-stories and plain sentences by grammar: some 400 words, plot skeletons, and questions that
// have one answer.
//
// A pattern is text with {slots} and [one|of|these] choices, which may nest.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "data/draft.h"

namespace hadal::data {

std::string expand(std::string_view pattern, Rng& rng, const Slots& slots);

struct Question {
  std::string asks, answer;
};
struct Story {
  std::string hero, thing, beast, place;  // a name, an object, the kind of animal that the friend is, where it ends
  std::string plot;                       // what it is about in a few words
  std::string text;
  std::vector<Question> questions;
};
Story make_story(Rng& rng);
int plot_count();

// Sentences that are easy to read and mean little: what facts are hidden in. They hold no names and
// no numbers.
std::string filler_sentence(Rng& rng);
// Whole sentences of about that many tokens.
std::string filler(Rng& rng, int tokens);
// Tokens by rule of thumb: words of up to seven letters, digits and marks count one, longer words
// two.
int rough_tokens(std::string_view text);

}  // namespace hadal::data
