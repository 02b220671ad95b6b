// Sessions: what is reused must change nothing.

#include "engine/session.h"

#include <gtest/gtest.h>

#include "tests/support/model.h"
#include "tests/support/shared.h"

namespace hadal::engine {
namespace {

std::unique_ptr<Engine> open_micro() {
  auto engine = Engine::open({.model = testing::fixture("micro"), .threads = 2});
  EXPECT_TRUE(engine.ok()) << (engine.ok() ? "" : engine.error().message);
  return std::move(engine).value();
}

TEST(Session, AnyChunkAndAnyReuseGiveTheSameTokens) {
  const auto engine = open_micro();
  const auto prompt = testing::random_tokens(3, 70, 96);
  std::vector<TokenId> expected;
  for (const int64_t chunk : {1, 7, 512}) {
    Session fresh(*engine);
    const auto completion = fresh.generate(prompt, {.sampling = {.seed = 5}, .max_tokens = 20, .chunk = chunk});
    ASSERT_TRUE(completion.ok()) << completion.error().message;
    if (expected.empty()) expected = completion.value().tokens;
    EXPECT_EQ(completion.value().tokens, expected) << chunk;
    EXPECT_EQ(completion.value().reused_tokens, 0);
  }
  Session session(*engine);
  const std::span<const TokenId> all(prompt);
  ASSERT_TRUE(session.generate(all.first(40), {.max_tokens = 9, .header_at = 33}).ok());
  const auto resumed = session.generate(prompt, {.sampling = {.seed = 5}, .max_tokens = 20});
  ASSERT_TRUE(resumed.ok());
  EXPECT_EQ(resumed.value().tokens, expected);
  EXPECT_GE(resumed.value().reused_tokens, 33);
  const auto again = session.generate(prompt, {.sampling = {.seed = 5}, .max_tokens = 20});
  EXPECT_EQ(again.value().tokens, expected);
}

// Every session is another process: nothing is in memory, what the ones before left is on disk.
TEST(Session, GoesOnFromDiskBitForBit) {
  const auto engine = open_micro();
  const auto store = cache::Store::open({.directory = testing::temp_dir("session-cache") + "/cache",
                                         .identity = {.model = "micro", .fingerprint = "micro", .arithmetic = 1},
                                         .layout = engine->transformer().layout()})
                         .value();
  const auto ids = testing::random_tokens(9, 900, 96);
  const std::span<const TokenId> all(ids);
  for (size_t n : {100, 129, 300, 301, 512, 640, 899}) {
    SCOPED_TRACE(n);
    for (const int64_t chunk : {7, 512}) {
      const GenerateOptions options{
          .sampling = {.seed = n}, .max_tokens = 140, .chunk = chunk, .header_at = static_cast<int64_t>(n) - 3};
      Session cold(*engine), warm(*engine, store.get());
      const auto expected = cold.generate(all.first(n), options), answered = warm.generate(all.first(n), options);
      ASSERT_TRUE(expected.ok() && answered.ok());
      EXPECT_EQ(answered.value().tokens, expected.value().tokens);
      if (n > 300 || (n > 129 && chunk > 7)) {
        EXPECT_GE(answered.value().reused_tokens, 128);
      }
      store->flush();
      // The next turn, after the answer.
      std::vector<TokenId> next(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(n));
      next.insert(next.end(), expected.value().tokens.begin(), expected.value().tokens.end());
      next.push_back(7);
      Session other(*engine), another(*engine, store.get());
      const auto after = other.generate(next, options), after_disk = another.generate(next, options);
      ASSERT_TRUE(after.ok() && after_disk.ok());
      EXPECT_EQ(after_disk.value().tokens, after.value().tokens);
      store->flush();
    }
  }
  EXPECT_GT(store->counters().loaded, 15);
}

TEST(Session, StopsAndLimitsAndErrors) {
  const auto engine = open_micro();
  Session session(*engine);
  const auto prompt = testing::random_tokens(4, 20, 96);
  int n = 0;
  auto completion = session.generate(prompt, {.max_tokens = 50, .token = [&](const sample::Choice&) {
                                                if (++n == 3) session.stop();
                                                return true;
                                              }});
  ASSERT_TRUE(completion.ok());
  if (completion.value().finish != Finish::kStop) {
    EXPECT_EQ(completion.value().finish, Finish::kCancelled);
    EXPECT_EQ(completion.value().tokens.size(), 3u);
  }
  EXPECT_FALSE(session.generate({}, {}).ok());
  const TokenId bad[] = {1, 96};
  EXPECT_FALSE(session.generate(bad, {}).ok());
  EXPECT_FALSE(session.generate(prompt, {.sampling = {.top_p = 0}}).ok());
}

}  // namespace
}  // namespace hadal::engine
