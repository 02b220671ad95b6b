// A decoder without weights: the next token is a function of all tokens before it, states take memory as V4's do.
#pragma once

#include <chrono>
#include <cstring>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "engine/decoder.h"

namespace hadal::testing {

class FakeDecoder : public engine::Decoder {
 public:
  explicit FakeDecoder(int vocab = 64, int64_t max_tokens = 4096) : vocab_(vocab), max_tokens_(max_tokens) {
    kv::Layout layout{.n_nope = 64, .n_rope = 16, .index_dim = 32, .window = 8, .hidden_floats = 4, .ratios = {4}};
    layout_ = std::make_shared<const kv::Layout>(layout);
  }

  int vocab_size() const override { return vocab_; }
  int64_t max_tokens() const override { return max_tokens_; }
  const std::vector<TokenId>& end_tokens() const override { return end_; }
  kv::SequenceState new_sequence() const override { return kv::SequenceState(layout_); }

  Status forward(std::span<const model::Sequence> batch, std::vector<float>& logits) override {
    if (fail_after == 0) return Error{Code::kCorrupt, "the fake fails"};
    if (fail_after > 0) --fail_after;
    ++n_forwards;
    if (pace.count() > 0) std::this_thread::sleep_for(pace);
    logits.clear();
    for (const model::Sequence& sequence : batch) {
      n_rows += static_cast<int64_t>(sequence.tokens.size());
      std::vector<float>& memory = sequence.state->last_hidden();
      for (size_t i = 0; i < sequence.tokens.size(); ++i) {
        memory = after(memory, sequence.tokens[i]);
        if ((sequence.state->length() + static_cast<int64_t>(i) + 1) % 4 == 0) {
          std::memset(sequence.state->layer(0).entries.append(), 0, static_cast<size_t>(layout_->kv_row_bytes()));
          std::memset(sequence.state->layer(0).index_entries.append(), 0,
                      static_cast<size_t>(layout_->index_row_bytes()));
        }
      }
      sequence.state->advance(static_cast<int64_t>(sequence.tokens.size()));
      if (sequence.n_logits == 0) continue;
      std::vector<float> row(static_cast<size_t>(vocab_), 0.0f);
      row[static_cast<size_t>(next(memory))] = 10;
      logits.insert(logits.end(), row.begin(), row.end());
    }
    return {};
  }

  // What a greedy completion of the prompt is.
  std::vector<TokenId> expected(const std::vector<TokenId>& prompt, int64_t most) const {
    std::vector<float> memory;
    for (const TokenId token : prompt) memory = after(memory, token);
    std::vector<TokenId> tokens;
    while (static_cast<int64_t>(tokens.size()) < most) {
      const TokenId token = next(memory);
      if (token == end_.front()) break;
      tokens.push_back(token);
      memory = after(memory, token);
    }
    return tokens;
  }

  int64_t n_forwards = 0, n_rows = 0, fail_after = -1;
  // Tokens it writes; ends false: it never stops by itself.
  TokenId first = 2, last = -1;  // -1: the whole vocabulary
  bool ends = true;
  std::chrono::microseconds pace{0};  // of a step

 private:
  // A hash in four floats of 16 bits: what a float holds exactly.
  static std::vector<float> after(const std::vector<float>& memory, TokenId token) {
    uint64_t hash = 0;
    for (const float part : memory) hash = hash << 16 | static_cast<uint64_t>(part);
    hash = (hash ^ static_cast<uint64_t>(token + 1)) * 0x9E3779B97F4A7C15u;
    hash ^= hash >> 29;
    std::vector<float> parts;
    for (int shift = 48; shift >= 0; shift -= 16) parts.push_back(static_cast<float>(hash >> shift & 0xFFFF));
    return parts;
  }
  TokenId next(const std::vector<float>& memory) const {
    const uint64_t draw = static_cast<uint64_t>(memory[0]) * 31 + static_cast<uint64_t>(memory[3]);
    if (ends && draw % 97 == 0) return end_.front();
    return first + static_cast<TokenId>(draw % static_cast<uint64_t>((last < 0 ? vocab_ - 1 : last) - first + 1));
  }

  int vocab_;
  int64_t max_tokens_;
  std::shared_ptr<const kv::Layout> layout_;
  std::vector<TokenId> end_ = {1};
};

}  // namespace hadal::testing
