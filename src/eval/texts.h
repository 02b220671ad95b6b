// What a model makes of given texts, without tasks and verifiers. All greedy, all deterministic.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "engine/batch.h"
#include "engine/engine.h"
#include "text/encode_prompt.h"
#include "text/tokenizer.h"

namespace hadal::eval {

using Progress = std::function<void(int64_t done, int64_t total)>;

// How well the model predicts texts. Each text starts with BOS and is cut at the model's context or at `longest`.
struct Perplexity {
  int64_t texts = 0, tokens = 0, bytes = 0;  // predicted
  double nats = 0;
  int64_t likeliest = 0;         // tokens that were the model's first choice
  double per_token() const;      // e^(nats / tokens)
  double bits_per_byte() const;  // comparable between tokenizers
};
Result<Perplexity> perplexity(engine::Engine& engine, const text::Tokenizer& tokenizer,
                              const std::vector<std::string>& texts, int64_t longest, const Progress& progress);

// Verbatim reproduction: the model continues the first `prefix` tokens of each text; what it writes is compared with
// the text's own next `length` tokens.
struct Reproduction {
  int64_t texts = 0;        // long enough to be asked
  int64_t tokens = 0;       // written
  int64_t longest_run = 0;  // most tokens in a row, anywhere, that the text has in a row too
  int64_t in_runs = 0;      // tokens inside such runs of at least kRun
  int64_t exact = 0;        // texts whose continuation is the text's from first to last token
  static constexpr int kRun = 16;
};
Result<Reproduction> reproduction(engine::Engine& engine, const text::Tokenizer& tokenizer,
                                  const std::vector<std::string>& texts, int64_t prefix, int64_t length,
                                  const Progress& progress);

// The longest run of tokens that stands in both, and how many tokens of `written` lie in runs of at least `run`.
struct Runs {
  int64_t longest = 0, inside = 0;
};
Runs common_runs(std::span<const TokenId> written, std::span<const TokenId> original, int run);

// The same questions in several languages, asked without thinking.
struct LanguagePrompt {
  std::string language, prompt;
};
struct LanguageResult {
  int64_t prompts = 0, well_formed = 0, tokens = 0;
  int64_t letters = 0, in_script = 0;  // letters of the answers; those of a script that the prompt uses
};
Result<std::map<std::string, LanguageResult>> languages(engine::Engine& engine, const text::Tokenizer& tokenizer,
                                                        text::Encoding encoding,
                                                        const std::vector<LanguagePrompt>& prompts, int64_t max_tokens,
                                                        const Progress& progress);

}  // namespace hadal::eval
