// A long context: the state grows by the formula and by nothing else, logits stay finite, and the far end is a
// function of the tokens alone. 3,000 tokens here; `make long-run` takes 200,000.

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>

#include "tests/support/model.h"
#include "tests/support/saved_state.h"
#include "tests/support/shared.h"

namespace hadal {
namespace {

TEST(LongRun, GrowsByTheFormulaAndResumesBitForBit) {
  const char* given = std::getenv("HADAL_LONG_TOKENS");
  const int64_t n = given ? std::atoll(given) : 3000;
  for (const Numerics numerics : {Numerics::kFaithful, Numerics::kExact}) {
    auto model = testing::TestModel::open(testing::fixture("micro"), numerics, 2);
    ASSERT_TRUE(model);
    if (n > model->checkpoint.config().max_position_embeddings) GTEST_SKIP() << "micro has fewer positions";
    const auto tokens = testing::random_tokens(1, n, model->checkpoint.config().vocab_size);
    const std::span<const TokenId> all(tokens);
    auto state = model->transformer->new_sequence();
    std::vector<float> logits;
    for (int64_t begin = 0; begin < n; begin += 500) {
      const int64_t end = std::min(n, begin + 500);
      const model::Sequence sequence{&state, all.subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin)),
                                     1};
      ASSERT_TRUE(model->transformer->forward({&sequence, 1}, logits).ok());
      for (const float logit : logits) ASSERT_TRUE(std::isfinite(logit)) << end;
      ASSERT_EQ(state.entry_bytes(), state.layout().entry_bytes_at(end));
      ASSERT_LE(state.capacity_bytes(),
                state.entry_bytes() + state.layout().constant_bytes() +
                    3 * kv::PagedRows::kPageRows * (state.layout().kv_row_bytes() + state.layout().index_row_bytes()) +
                    8 * state.layout().hidden_floats);
    }
    auto restored = testing::restore(model->transformer->layout(), testing::save(state));
    ASSERT_TRUE(restored.ok()) << restored.error().message;
    const auto next = testing::random_tokens(2, 5, 96);
    EXPECT_TRUE(testing::same_bits(model->logits(state, next, {5}), model->logits(restored.value(), next, {1, 4})));
  }
}

}  // namespace
}  // namespace hadal
