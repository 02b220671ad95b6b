// Chat messages to the prompt's token ids (api.md 2.1.6 to 2.1.11 and 8).
//
// Clients send conversations that the official encoder would refuse or spoil: systems in the middle, tool results out
// of order, no user turn at the start, two assistants in a row. normalise() makes them what the encoder expects.
//
// Text of clients never becomes structure: "<｜User｜>" typed by a user, or printed by a tool, is text of eight
// characters. Where it occurs, a stand-in keeps it apart until the prompt is cut at its true tokens.
#pragma once

#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/types.h"
#include "serve/replay.h"
#include "serve/turn.h"
#include "text/encode_prompt.h"
#include "text/tokenizer.h"

namespace hadal::serve {

struct Prompt {
  std::vector<TokenId> ids;
  std::string text;            // for people: stand-ins resolved, so not always what encode() would read
  int64_t system_end = 0;      // ids before the first user turn
  int64_t header_at = 0;       // ids before the last assistant header: what the next turn shares
  bool thinking_open = false;  // the answer begins inside <think>
  bool raw = false;            // the answer is text and nothing else: no reasoning, no calls
  int64_t at_least = 0;        // so many tokens, which is too many: they were not made, and there is nothing else
  // How the answer will be found again when a client sends it back (replay.h): whose it is, and after what. Only of
  // whole answers, which begin right behind the header.
  std::string space;
  std::optional<Digest> digest;
};

// Answers that were sampled here before, of one space.
struct Replays {
  ReplayMemory* memory = nullptr;  // null: none
  std::string space;
};

// Messages in the encoder's form. Errors: the history of tool calls is broken (400, as the original says it).
std::variant<json::Array, ApiError> normalise(const Turn& turn, bool repair_history);

class PromptMaker {
 public:
  // The tokenizer must outlive it. window: tokens; a text whose bytes cannot fit is not cut into any.
  PromptMaker(const text::Tokenizer& tokenizer, text::Encoding encoding,
              int64_t window = std::numeric_limits<int64_t>::max());
  ~PromptMaker();
  std::variant<Prompt, ApiError> make(const Turn& turn, bool repair_history, const Replays& replays = {}) const;
  // A raw continuation, or with a suffix a hole to fill (api.md 1.8). 400: the tokenizer has no tokens for holes.
  std::variant<Prompt, ApiError> make_completion(const std::string& prompt,
                                                 const std::optional<std::string>& suffix) const;
  // Tokens of so many bytes at least, where that is more than the window; else 0.
  int64_t too_many(size_t bytes) const;

 private:
  class AddedTokens;
  class Shield;
  std::vector<TokenId> ids_of(std::string_view text, bool shielded) const;
  Digest replay(const Replays& replays, const std::vector<Said>& sent, std::vector<TokenId>& ids, size_t& folded) const;

  const text::Tokenizer& tokenizer_;
  const text::Encoding encoding_;
  const int64_t window_;
  size_t longest_ = 1;  // bytes of a token
  std::unique_ptr<const AddedTokens> added_;
};

}  // namespace hadal::serve
