// From logits to a token.
//
//   penalties      logit of a seen token: repetition r: l / r if l > 0 else l * r (prompt and completion);
//                  minus count * frequency, minus presence if count > 0 (completion only)
//   temperature 0  the largest logit, equal: the lower id
//   else           p = softmax(l / T); keep the top_k most likely; of these the fewest whose p sum to top_p;
//                  of these those with p >= min_p * the largest; draw one by inverse CDF
//
// The draw's random number is a function of (seed, position of the token in the sequence) and of nothing else:
// batching, preemption, chunking and drafting cannot change a text. Equal probabilities order by id.
//
// A constraint (sample/constraint.h) takes tokens out after the penalties: temperature and filters see the rest only.
//
// Logprobs are those of the model: log softmax of the logits before penalties, constraint, temperature and filters.
#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

#include "base/result.h"
#include "base/types.h"

namespace hadal::sample {

struct Options {
  float temperature = 1;  // 0: greedy
  float top_p = 1;        // (0, 1]
  int top_k = 0;          // 0: all
  float min_p = 0;        // [0, 1]
  float repetition_penalty = 1, frequency_penalty = 0, presence_penalty = 0;
  uint64_t seed = 0;
  int n_logprobs = -1;  // -1: none; n: the chosen token's and the n most likely
};
Status check(const Options& options);  // kInvalid names the value

struct TokenLogprob {
  TokenId token = 0;
  float logprob = 0;
};
struct Choice {
  TokenId token = 0;
  float logprob = 0;              // with n_logprobs >= 0
  std::vector<TokenLogprob> top;  // most likely first
};

// Uniform in (0, 1).
double random_number(uint64_t seed, int64_t position);

class Sampler {
 public:
  explicit Sampler(const Options& options) : options_(options) {}

  void see_prompt(std::span<const TokenId> tokens);
  // The token for `position`, which it then counts as part of the completion. kCorrupt: a logit is not finite.
  // allowed: bits of the tokens that may come (sample/constraint.h); empty: all. kCorrupt: none may.
  Result<Choice> pick(std::span<const float> logits, int64_t position, std::span<const uint64_t> allowed = {});

 private:
  TokenId draw(std::vector<float>& logits, int64_t position) const;

  Options options_;
  std::unordered_map<TokenId, int> in_prompt_, in_completion_;
  std::vector<float> penalised_;
};

}  // namespace hadal::sample
