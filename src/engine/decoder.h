// What completions are made with: the model, or a stand-in that needs no weights (tests/support/fake_decoder.h).
#pragma once

#include <span>
#include <vector>

#include "base/result.h"
#include "base/types.h"
#include "kv/sequence_state.h"
#include "model/transformer.h"

namespace hadal::engine {

class Decoder {
 public:
  virtual ~Decoder() = default;
  virtual int vocab_size() const = 0;
  virtual int64_t max_tokens() const = 0;  // of a sequence, prompt and answer
  virtual const std::vector<TokenId>& end_tokens() const = 0;
  virtual kv::SequenceState new_sequence() const = 0;
  // As model::Transformer::forward.
  // kCorrupt: what it computes with was replaced since it was opened.
  virtual Status unchanged() const { return {}; }
  virtual Status forward(std::span<const model::Sequence> batch, std::vector<float>& logits) = 0;
};

}  // namespace hadal::engine
