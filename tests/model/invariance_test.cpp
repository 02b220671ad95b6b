// One arithmetic: the bits of a row do not depend on chunking, threads, batch or instruction set, nor on a
// fork, a rewind or a restart in between.

#include <gtest/gtest.h>

#include "tests/support/model.h"
#include "tests/support/patch.h"
#include "tests/support/saved_state.h"
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
      EXPECT_TRUE(
          same_bits(rest, {whole_.begin() + static_cast<ptrdiff_t>(static_cast<size_t>(at) * vocab()), whole_.end()}))
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
    const testing::SavedState saved = testing::save(state, {at / 128 * 128});
    auto restored = testing::restore(layout, saved);
    ASSERT_TRUE(restored.ok()) << restored.error().message;
    const auto rest = model_->logits(restored.value(), all.subspan(static_cast<size_t>(at)), {kTokens - at});
    EXPECT_TRUE(
        same_bits(rest, {whole_.begin() + static_cast<ptrdiff_t>(static_cast<size_t>(at) * vocab()), whole_.end()}))
        << at;
    // Damaged bytes are refused, never used.
    const size_t size = saved.snapshot.size();
    for (const size_t length : {size_t{0}, size_t{5}, size / 2, size - 1}) {
      testing::SavedState cut = saved;
      cut.snapshot.resize(length);
      EXPECT_FALSE(testing::restore(layout, cut).ok());
    }
    testing::SavedState longer = saved;
    longer.snapshot += "x";
    EXPECT_FALSE(testing::restore(layout, longer).ok());
  }
}

TEST_P(Invariance, EveryPositionCanBeSavedForkedAndDraftedFrom) {
  const std::span<const TokenId> all(tokens_);
  constexpr int64_t kNext = 9;  // over the next CSA blocks
  auto state = model_->transformer->new_sequence();
  for (int64_t at = 0; at + kNext <= kTokens; ++at) {
    SCOPED_TRACE(at);
    if (at > 0) model_->logits(state, all.subspan(static_cast<size_t>(at - 1), 1), {1});
    auto drafted = state.fork();
    const int64_t n_drafts = 1 + at % kv::kDraftRows;
    model_->logits(drafted, random_tokens(static_cast<uint64_t>(at), n_drafts, static_cast<int>(vocab())), {n_drafts});
    ASSERT_TRUE(drafted.rewind(at).ok());
    auto restored = testing::restore(model_->transformer->layout(), testing::save(drafted));
    ASSERT_TRUE(restored.ok()) << restored.error().message;
    const auto next = all.subspan(static_cast<size_t>(at), kNext);
    const std::vector<float> expected(whole_.begin() + at * static_cast<int64_t>(vocab()),
                                      whole_.begin() + (at + kNext) * static_cast<int64_t>(vocab()));
    EXPECT_TRUE(same_bits(model_->logits(restored.value(), next, {kNext}), expected)) << "restored";
    EXPECT_TRUE(same_bits(model_->logits(drafted, next, {1, kNext - 1}), expected)) << "rewound";
  }
}

// Rows of the MTP block: chunks, companions in the batch, threads, instruction sets, drafts that are taken back, a
// restart.
TEST_P(Invariance, MtpRowsHaveTheSameBitsHoweverTheyAreReached) {
  const auto prompt_rows = [&](TestModel& model, const std::vector<int64_t>& pieces, bool with_company,
                               int64_t disturb_at) {
    const int64_t width = int64_t{model.checkpoint.config().hc_mult} * model.checkpoint.config().dim;
    auto state = model.transformer->new_sequence(), company = model.transformer->new_sequence();
    std::vector<float> all, out, streams;
    const std::span<const TokenId> tokens(tokens_);
    int64_t begin = 0;
    for (const int64_t n : pieces) {
      const auto piece = tokens.subspan(static_cast<size_t>(begin), static_cast<size_t>(n));
      const auto other = tokens.subspan(static_cast<size_t>(begin / 3 + 1), static_cast<size_t>(1 + begin % 4));
      std::vector<model::Sequence> batch = {{&state, piece, 1}};
      if (with_company) batch.insert(batch.begin(), model::Sequence{&company, other, 1});
      EXPECT_TRUE(model.transformer->forward(batch, out, &streams).ok());
      const int64_t before = with_company ? std::ssize(other) : 0, rows = std::min(n, kTokens - 1 - begin);
      if (rows <= 0) break;
      std::vector<model::MtpSequence> mtp = {{&state, streams.data() + before * width,
                                              tokens.subspan(static_cast<size_t>(begin) + 1, static_cast<size_t>(rows)),
                                              rows}};
      if (with_company) mtp.insert(mtp.begin(), model::MtpSequence{&company, streams.data(), other, 0});
      EXPECT_TRUE(model.transformer->mtp(mtp, out).ok());
      all.insert(all.end(), out.begin(), out.end());
      begin += n;
      if (begin < disturb_at || begin >= kTokens) continue;
      disturb_at = kTokens;
      // Wrong drafts in both, taken back; the row whose next token was not sure any more again; saved and restored.
      const std::vector<float> last = state.last_hidden();
      const auto wrong = random_tokens(1, 7, static_cast<int>(vocab()));
      const model::Sequence drafts{&state, wrong, 1};
      EXPECT_TRUE(model.transformer->forward({&drafts, 1}, out, &streams).ok());
      const model::MtpSequence draft_rows{&state, streams.data(), wrong, 1};
      EXPECT_TRUE(model.transformer->mtp({&draft_rows, 1}, out).ok());
      EXPECT_TRUE(state.rewind(begin).ok());
      EXPECT_EQ(state.draft_length(), begin - 1);
      const model::MtpSequence again{&state, last.data(), tokens.subspan(static_cast<size_t>(begin), 1), 1};
      EXPECT_TRUE(model.transformer->mtp({&again, 1}, out).ok());
      EXPECT_TRUE(same_bits(out, {all.end() - static_cast<ptrdiff_t>(vocab()), all.end()}));
      auto restored = testing::restore(model.transformer->layout(), testing::save(state));
      EXPECT_TRUE(restored.ok());
      state = std::move(restored).value();
    }
    return all;
  };
  const std::vector<float> expected = prompt_rows(*model_, {kTokens}, false, kTokens);
  ASSERT_EQ(expected.size(), static_cast<size_t>(kTokens - 1) * vocab());
  EXPECT_TRUE(same_bits(prompt_rows(*model_, random_pieces(3, kTokens, 40), false, kTokens), expected)) << "chunks";
  EXPECT_TRUE(same_bits(prompt_rows(*model_, std::vector<int64_t>(kTokens, 1), true, kTokens), expected))
      << "steps in company";
  EXPECT_TRUE(same_bits(prompt_rows(*model_, random_pieces(4, kTokens, 40), true, kTokens), expected))
      << "chunks in company";
  for (const int64_t disturb_at : {1, 31, 64, 100})
    EXPECT_TRUE(same_bits(prompt_rows(*model_, random_pieces(6, kTokens, 12), false, disturb_at), expected))
        << disturb_at;
  for (const kernels::Isa* isa : kernels::all_isas()) {
    if (!isa->supported()) continue;
    auto other = TestModel::open(fixture("micro"), GetParam(), 3, *isa);
    EXPECT_TRUE(same_bits(prompt_rows(*other, random_pieces(5, kTokens, 60), true, kTokens), expected)) << isa->name;
  }
}

TEST_P(Invariance, TheLastPositionIsReachedAndNotPassed) {
  const std::string directory = testing::copy_of(fixture("micro"));
  testing::patch_text(directory + "/config.json", "\"max_position_embeddings\": 1048576",
                      "\"max_position_embeddings\": 40");
  auto model = TestModel::open(directory, GetParam());
  ASSERT_TRUE(model);
  auto state = model->transformer->new_sequence();
  const auto logits = model->logits(state, std::span<const TokenId>(tokens_).first(40), {39, 1});
  EXPECT_TRUE(same_bits(logits, {whole_.begin(), whole_.begin() + static_cast<ptrdiff_t>(40 * vocab())}));
  std::vector<float> out;
  const model::Sequence one_more{&state, std::span<const TokenId>(tokens_).first(1), 1};
  const Status status = model->transformer->forward({&one_more, 1}, out);
  ASSERT_FALSE(status.ok());
  EXPECT_NE(status.error().message.find("at most 40 tokens"), std::string::npos) << status.error().message;
  EXPECT_EQ(state.length(), 40);
}

// Weights that are not numbers give logits that are not numbers, on every instruction set, and nothing worse.
TEST_P(Invariance, BrokenWeightsAreVisibleAndHarmless) {
  const char* const tensors[] = {"embed.weight",
                                 "layers.0.attn.wq_a.scale",
                                 "layers.1.attn.indexer.wq_b.weight",
                                 "layers.1.attn.kv_norm.weight",
                                 "layers.1.ffn.gate.weight",
                                 "layers.2.ffn.experts.1.w2.scale",
                                 "layers.2.hc_ffn_fn",
                                 "layers.1.attn.compressor.ape"};
  for (const char* tensor : tensors) {
    const std::string directory = testing::copy_of(fixture("micro"));
    testing::patch_tensor(directory + "/model.safetensors", tensor, [](std::span<char> bytes) {
      for (char& byte : bytes) byte = '\xFF';
    });
    for (const kernels::Isa* isa : kernels::all_isas()) {
      if (!isa->supported()) continue;
      SCOPED_TRACE(std::string(tensor) + " " + isa->name);
      auto model = TestModel::open(directory, GetParam(), 2, *isa);
      ASSERT_TRUE(model);
      auto state = model->transformer->new_sequence();
      EXPECT_EQ(model->logits(state, std::span<const TokenId>(tokens_).first(60), {50, 1, 9}).size(), 60 * vocab());
    }
  }
}

TEST_P(Invariance, StateGrowsByTheFormulaAndNoMore) {
  auto state = model_->transformer->new_sequence();
  const std::span<const TokenId> all(tokens_);
  const int64_t constant = state.capacity_bytes();
  for (int64_t n = 0; n < kTokens; n += 10) {
    model_->logits(state, all.subspan(static_cast<size_t>(n), 10), {10});
    EXPECT_EQ(state.entry_bytes(), state.layout().entry_bytes_at(n + 10));
    const int64_t page =
        kv::PagedRows::kPageRows * 3 * (state.layout().kv_row_bytes() + state.layout().index_row_bytes());
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
