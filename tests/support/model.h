// A model bound and ready, and the few things tests do with it.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <random>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "kernels/isa.h"
#include "model/transformer.h"

namespace hadal::testing {

struct TestModel {
  checkpoint::Checkpoint checkpoint;
  std::unique_ptr<ThreadPool> pool;
  std::unique_ptr<model::Transformer> transformer;

  static std::unique_ptr<TestModel> open(const std::string& directory, Numerics numerics, int threads = 1,
                                         const kernels::Isa& isa = kernels::best_isa()) {
    auto opened = checkpoint::Checkpoint::open(directory);
    EXPECT_TRUE(opened.ok()) << (opened.ok() ? "" : opened.error().message);
    if (!opened.ok()) return nullptr;
    auto test = std::make_unique<TestModel>();
    test->checkpoint = std::move(opened).value();
    test->pool = std::make_unique<ThreadPool>(threads);
    auto bound = model::Transformer::bind(test->checkpoint, numerics, isa, *test->pool);
    EXPECT_TRUE(bound.ok());
    test->transformer = std::make_unique<model::Transformer>(std::move(bound).value());
    return test;
  }

  // Logits of every token, fed in the given pieces.
  std::vector<float> logits(kv::SequenceState& state, std::span<const TokenId> tokens,
                            const std::vector<int64_t>& pieces) {
    std::vector<float> all, out;
    size_t begin = 0;
    for (const int64_t n : pieces) {
      const model::Sequence sequence{&state, tokens.subspan(begin, static_cast<size_t>(n)), n};
      const Status status = transformer->forward({&sequence, 1}, out);
      EXPECT_TRUE(status.ok()) << (status.ok() ? "" : status.error().message);
      all.insert(all.end(), out.begin(), out.end());
      begin += static_cast<size_t>(n);
    }
    return all;
  }
};

inline std::vector<TokenId> random_tokens(uint64_t seed, int64_t n, int vocab) {
  std::mt19937_64 random(seed);
  std::vector<TokenId> tokens(static_cast<size_t>(n));
  for (TokenId& token : tokens) token = static_cast<TokenId>(random() % static_cast<uint64_t>(vocab));
  return tokens;
}

// Positive pieces that sum to n.
inline std::vector<int64_t> random_pieces(uint64_t seed, int64_t n, int64_t longest) {
  std::mt19937_64 random(seed);
  std::vector<int64_t> pieces;
  while (n > 0) {
    const int64_t piece = std::min<int64_t>(n, 1 + static_cast<int64_t>(random() % static_cast<uint64_t>(longest)));
    pieces.push_back(piece);
    n -= piece;
  }
  return pieces;
}

inline bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

inline uint64_t hash_bits(const std::vector<float>& values) {
  uint64_t hash = 1469598103934665603u;
  for (const float value : values) hash = (hash ^ __builtin_bit_cast(uint32_t, value)) * 1099511628211u;
  return hash;
}

}  // namespace hadal::testing
