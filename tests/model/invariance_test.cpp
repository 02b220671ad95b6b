// One arithmetic: the bits of a row do not depend on chunking, threads, batch or instruction set, nor on a
// fork, a rewind or a restart in between.

#include <gtest/gtest.h>

#include "tests/support/model.h"
#include "tests/support/shared.h"

namespace hadal {
namespace {

using testing::fixture;
using testing::hash_bits;
using testing::random_pieces;
using testing::random_tokens;
using testing::same_bits;
using testing::TestModel;

constexpr int64_t kTokens = 150;

class Invariance : public ::testing::TestWithParam<Numerics> {
 protected:
  void SetUp() override {
    model_ = TestModel::open(fixture("micro"), GetParam());
    ASSERT_TRUE(model_);
    tokens_ = random_tokens(7, kTokens, model_->checkpoint.config().vocab_size);
    auto state = model_->transformer->new_sequence();
    whole_ = model_->logits(state, tokens_, {kTokens});
  }
  size_t vocab() const { return static_cast<size_t>(model_->checkpoint.config().vocab_size); }

  std::unique_ptr<TestModel> model_;
  std::vector<TokenId> tokens_;
  std::vector<float> whole_;
};

// Fails when results change: then the arithmetic version in docs/numerics.md and these hashes change together.
TEST_P(Invariance, LogitsHaveTheBitsOfThisArithmeticVersion) {
  const uint64_t expected = GetParam() == Numerics::kExact ? 0x2ecae88f3bdc2b59u : 0x61295b5a07c754f9u;
  EXPECT_EQ(hash_bits(whole_), expected) << std::hex << hash_bits(whole_);
}

TEST_P(Invariance, AnyChunkingGivesTheSameBits) {
  for (const uint64_t seed : {1, 2, 3, 4}) {
    SCOPED_TRACE(seed);
    auto state = model_->transformer->new_sequence();
    EXPECT_TRUE(same_bits(model_->logits(state, tokens_, random_pieces(seed, kTokens, seed == 1 ? 1 : 40)), whole_));
  }
}

TEST_P(Invariance, AnyNumberOfThreadsGivesTheSameBits) {
  for (const int threads : {2, 5}) {
    auto other = TestModel::open(fixture("micro"), GetParam(), threads);
    auto state = other->transformer->new_sequence();
    EXPECT_TRUE(same_bits(other->logits(state, tokens_, random_pieces(9, kTokens, 60)), whole_)) << threads;
  }
}

TEST_P(Invariance, EveryInstructionSetGivesTheSameBits) {
  for (const kernels::Isa* isa : kernels::all_isas()) {
    if (!isa->supported()) continue;
    auto other = TestModel::open(fixture("micro"), GetParam(), 1, *isa);
    auto state = other->transformer->new_sequence();
    EXPECT_TRUE(same_bits(other->logits(state, tokens_, {70, 1, 1, kTokens - 72}), whole_)) << isa->name;
  }
}

TEST_P(Invariance, ABatchGivesEachMemberTheBitsItHasAlone) {
  std::vector<std::vector<TokenId>> prompts;
  std::vector<std::vector<float>> alone, together(3);
  std::vector<kv::SequenceState> states;
  for (uint64_t i = 0; i < 3; ++i) {
    prompts.push_back(random_tokens(20 + i, 40 + 30 * static_cast<int64_t>(i), static_cast<int>(vocab())));
    auto state = model_->transformer->new_sequence();
    alone.push_back(model_->logits(state, prompts.back(), {static_cast<int64_t>(prompts.back().size())}));
    states.push_back(model_->transformer->new_sequence());
  }
  std::mt19937_64 random(5);
  std::vector<size_t> fed(3, 0);
  while (fed[0] + fed[1] + fed[2] < prompts[0].size() + prompts[1].size() + prompts[2].size()) {
    std::vector<model::Sequence> batch;
    std::vector<size_t> members;
    for (size_t i = 0; i < 3; ++i) {
      const size_t n = std::min<size_t>(prompts[i].size() - fed[i], random() % 12);
      batch.push_back({&states[i], std::span<const TokenId>(prompts[i]).subspan(fed[i], n), static_cast<int64_t>(n)});
      members.push_back(n);
    }
    std::vector<float> out;
    ASSERT_TRUE(model_->transformer->forward(batch, out).ok());
    size_t row = 0;
    for (size_t i = 0; i < 3; ++i) {
      together[i].insert(together[i].end(), out.begin() + static_cast<ptrdiff_t>(row * vocab()),
                         out.begin() + static_cast<ptrdiff_t>((row + members[i]) * vocab()));
      row += members[i];
      fed[i] += members[i];
    }
  }
  for (size_t i = 0; i < 3; ++i) EXPECT_TRUE(same_bits(together[i], alone[i])) << i;
}

TEST_P(Invariance, ForksShareAndDoNotDisturbEachOther) {
  auto state = model_->transformer->new_sequence();
  const std::span<const TokenId> all(tokens_);
  model_->logits(state, all, {67});
  auto fork = state.fork();
  const auto other = random_tokens(99, 50, static_cast<int>(vocab()));
  model_->logits(fork, other, {9, 41});
  const auto rest = model_->logits(state, all.subspan(67), {kTokens - 67});
  EXPECT_TRUE(same_bits(rest, {whole_.begin() + static_cast<ptrdiff_t>(67 * vocab()), whole_.end()}));
}

TEST_P(Invariance, RewoundDraftsLeaveNoTrace) {
  const std::span<const TokenId> all(tokens_);
  for (const int64_t at : {3, 31, 64, 127, 130}) {
    for (const int64_t n : {1, 5, 16}) {
      auto state = model_->transformer->new_sequence();
      model_->logits(state, all, {at});
      model_->logits(state, random_tokens(static_cast<uint64_t>(at), n, static_cast<int>(vocab())), {n});
      ASSERT_TRUE(state.rewind(at).ok());
      const auto rest = model_->logits(state, all.subspan(static_cast<size_t>(at)), {kTokens - at});
      EXPECT_TRUE(same_bits(rest, {whole_.begin() + static_cast<ptrdiff_t>(static_cast<size_t>(at) * vocab()), whole_.end()}))
          << at << " " << n;
    }
  }
  auto state = model_->transformer->new_sequence();
  model_->logits(state, all, {100});
  EXPECT_FALSE(state.rewind(100 - kv::kDraftRows - 1).ok());
}

TEST_P(Invariance, ASavedAndRestoredSequenceGoesOnBitForBit) {
  const std::span<const TokenId> all(tokens_);
  const auto layout = model_->transformer->layout();
  for (const int64_t at : {1, 2, 4, 7, 33, 64, 128, 131}) {
    auto state = model_->transformer->new_sequence();
    model_->logits(state, all, {at});
    std::string first, second, snapshot;
    const int64_t cut = at / 128 * 128;
    ASSERT_TRUE(state.save_entries(0, cut, first).ok());
    ASSERT_TRUE(state.save_entries(cut, at, second).ok());
    state.save_snapshot(snapshot);
    const std::string_view ranges[] = {first, second};
    auto restored = kv::SequenceState::restore(layout, ranges, snapshot);
    ASSERT_TRUE(restored.ok()) << restored.error().message;
    const auto rest = model_->logits(restored.value(), all.subspan(static_cast<size_t>(at)), {kTokens - at});
    EXPECT_TRUE(same_bits(rest, {whole_.begin() + static_cast<ptrdiff_t>(static_cast<size_t>(at) * vocab()), whole_.end()})) << at;
    // Damaged bytes are refused, never used.
    for (const size_t length : {size_t{0}, size_t{5}, snapshot.size() / 2, snapshot.size() - 1})
      EXPECT_FALSE(kv::SequenceState::restore(layout, ranges, std::string_view(snapshot).substr(0, length)).ok());
    EXPECT_FALSE(kv::SequenceState::restore(layout, ranges, snapshot + "x").ok());
    EXPECT_FALSE(kv::SequenceState::restore(layout, {ranges, 1}, at == cut ? snapshot + "y" : snapshot).ok());
  }
}

TEST_P(Invariance, StateGrowsByTheFormulaAndNoMore) {
  auto state = model_->transformer->new_sequence();
  const std::span<const TokenId> all(tokens_);
  const int64_t constant = state.capacity_bytes();
  for (int64_t n = 0; n < kTokens; n += 10) {
    model_->logits(state, all.subspan(static_cast<size_t>(n), 10), {10});
    EXPECT_EQ(state.entry_bytes(), state.layout().entry_bytes_at(n + 10));
    const int64_t page = kv::PagedRows::kPageRows * 3 * (state.layout().kv_row_bytes() + state.layout().index_row_bytes());
    EXPECT_LE(state.capacity_bytes(), constant + state.entry_bytes() + page + 4 * state.layout().hidden_floats);
  }
}

TEST_P(Invariance, WrongTokensAndPositionsAreRefusedAndChangeNothing) {
  auto state = model_->transformer->new_sequence();
  std::vector<float> out;
  for (const TokenId bad : {-1, static_cast<int>(vocab())}) {
    const TokenId tokens[] = {1, bad};
    const model::Sequence sequence{&state, tokens, 1};
    const Status status = model_->transformer->forward({&sequence, 1}, out);
    ASSERT_FALSE(status.ok());
    EXPECT_EQ(status.error().code, Code::kInvalid);
    EXPECT_EQ(state.length(), 0);
  }
}

INSTANTIATE_TEST_SUITE_P(Numerics, Invariance, ::testing::Values(Numerics::kExact, Numerics::kFaithful),
                         [](const auto& test) { return test.param == Numerics::kExact ? "exact" : "faithful"; });

}  // namespace
}  // namespace hadal
