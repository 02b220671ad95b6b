// A decoder that reads its lines from the prompt: clients are tested with it where they need fixed answers or a large
// window. The last user turn says what happens:
//
//   CALL name {json}   a tool call; several, divided by THEN: the n-th after n - 1 results (CALL a {} AND CALL b {}:
//   both) SAY text           that text RAW text           that text, and no reasoning before it; markup in it is markup
//   COUNT n            the numbers from 1 to n
//   FAIL               a few words, then the decoder fails
//   anything else      "You said: ..."
//
// After the last call's result the answer is "Done: " and that result. It thinks "Let me see." where thinking is on.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/decoder.h"
#include "text/tokenizer.h"

namespace hadal::testing {

class ScriptedDecoder final : public engine::Decoder {
 public:
  // The tokenizer must outlive it.
  explicit ScriptedDecoder(const text::Tokenizer& tokenizer, int64_t max_tokens = 1 << 20);

  int vocab_size() const override { return tokenizer_.size(); }
  int64_t max_tokens() const override { return max_tokens_; }
  const std::vector<TokenId>& end_tokens() const override { return end_; }
  kv::SequenceState new_sequence() const override { return kv::SequenceState(layout_); }
  Status forward(std::span<const model::Sequence> batch, std::vector<float>& logits) override;

 private:
  // Sequences are branches of one tree; a state holds the place of its last token.
  struct Node {
    int32_t parent = -1;
    TokenId token = 0;
  };
  std::optional<TokenId> next(int32_t node);  // nullopt: it fails

  const text::Tokenizer& tokenizer_;
  const int64_t max_tokens_;
  std::shared_ptr<const kv::Layout> layout_;
  std::vector<TokenId> end_;
  TokenId assistant_ = 0;
  std::vector<Node> nodes_;
  struct Answer {
    std::vector<TokenId> ids;
    bool fails = false;
  };
  std::map<int32_t, Answer> answers_;  // by the node of the header that they follow
};

// What the script says to a prompt that ends with an assistant's header.
std::string scripted_answer(const std::string& prompt);

}  // namespace hadal::testing
