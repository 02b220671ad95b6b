#include <gtest/gtest.h>

#include <cmath>

#include "sample/sampler.h"
#include "sample/stop.h"

namespace hadal::sample {
namespace {

TokenId pick(const Options& options, const std::vector<float>& logits, int64_t position = 0) {
  Sampler sampler(options);
  const auto choice = sampler.pick(logits, position);
  EXPECT_TRUE(choice.ok());
  return choice.ok() ? choice.value().token : -1;
}

// Counts of many draws against expected probabilities, by chi-square (seeds fixed: it passes or it does not).
void expect_distribution(Options options, const std::vector<float>& logits, const std::vector<double>& expected) {
  constexpr int kDraws = 20000;
  std::vector<int> counts(logits.size(), 0);
  for (int i = 0; i < kDraws; ++i) ++counts[static_cast<size_t>(pick(options, logits, i))];
  double chi = 0;
  for (size_t i = 0; i < counts.size(); ++i) {
    if (expected[i] == 0) {
      EXPECT_EQ(counts[i], 0) << i;
      continue;
    }
    const double want = expected[i] * kDraws;
    chi += (counts[i] - want) * (counts[i] - want) / want;
  }
  EXPECT_LT(chi, 20.0);  // at most 4 degrees of freedom
}

const std::vector<float> kLogits = {std::log(0.5f), std::log(0.25f), std::log(0.15f), std::log(0.1f)};

TEST(Sampler, GreedyTakesTheLargestAndTheLowerIdOfEquals) {
  EXPECT_EQ(pick({.temperature = 0}, {1, 3, 3, 2}), 1);
  EXPECT_EQ(pick({.temperature = 0}, {-1}), 0);
}

TEST(Sampler, DrawsFromTheDistribution) {
  expect_distribution({.seed = 1}, kLogits, {0.5, 0.25, 0.15, 0.1});
  const double a = std::sqrt(0.5), b = std::sqrt(0.25), c = std::sqrt(0.15), d = std::sqrt(0.1), sum = a + b + c + d;
  expect_distribution({.temperature = 2, .seed = 2}, kLogits, {a / sum, b / sum, c / sum, d / sum});
  expect_distribution({.top_k = 2, .seed = 3}, kLogits, {2 / 3.0, 1 / 3.0, 0, 0});
  expect_distribution({.top_p = 0.7f, .seed = 4}, kLogits, {2 / 3.0, 1 / 3.0, 0, 0});
  expect_distribution({.top_p = 0.4f, .seed = 5}, kLogits, {1, 0, 0, 0});
  expect_distribution({.min_p = 0.25f, .seed = 6}, kLogits, {0.5 / 0.9, 0.25 / 0.9, 0.15 / 0.9, 0});
}

TEST(Sampler, ASeedAndAPositionGiveOneToken) {
  for (int64_t position = 0; position < 50; ++position)
    EXPECT_EQ(pick({.seed = 9}, kLogits, position), pick({.seed = 9}, kLogits, position));
  int same = 0;
  for (int64_t position = 0; position < 200; ++position) same += random_number(1, position) == random_number(2, position);
  EXPECT_EQ(same, 0);
}

TEST(Sampler, PenaltiesCountWhatWasSeen) {
  Sampler frequency({.temperature = 0, .frequency_penalty = 1});
  std::vector<TokenId> tokens;
  for (int i = 0; i < 5; ++i) tokens.push_back(frequency.pick(std::vector<float>{2.0f, 1.5f, 0}, i).value().token);
  EXPECT_EQ(tokens, (std::vector<TokenId>{0, 1, 0, 1, 0}));
  Sampler presence({.temperature = 0, .presence_penalty = 1});
  EXPECT_EQ(presence.pick(std::vector<float>{2.0f, 1.5f}, 0).value().token, 0);
  EXPECT_EQ(presence.pick(std::vector<float>{2.0f, 1.5f}, 1).value().token, 1);
  EXPECT_EQ(presence.pick(std::vector<float>{2.0f, 1.5f}, 2).value().token, 0);
  Sampler repetition({.temperature = 0, .repetition_penalty = 2});
  repetition.see_prompt(std::vector<TokenId>{0});
  EXPECT_EQ(repetition.pick(std::vector<float>{2.0f, 1.5f}, 0).value().token, 1);
}

TEST(Sampler, LogprobsAreTheModels) {
  Sampler sampler({.temperature = 0, .n_logprobs = 2});
  const auto choice = sampler.pick(kLogits, 0).value();
  EXPECT_NEAR(choice.logprob, std::log(0.5), 1e-6);
  ASSERT_EQ(choice.top.size(), 2u);
  EXPECT_EQ(choice.top[1].token, 1);
  EXPECT_NEAR(choice.top[1].logprob, std::log(0.25), 1e-6);
}

TEST(Sampler, LogitsThatAreNotFiniteAreAnError) {
  Sampler sampler({});
  const auto choice = sampler.pick(std::vector<float>{1, NAN}, 77);
  ASSERT_FALSE(choice.ok());
  EXPECT_NE(choice.error().message.find("position 77"), std::string::npos);
}

TEST(Sampler, OptionsAreChecked) {
  for (const Options& bad : {Options{.temperature = -1}, Options{.top_p = 0}, Options{.top_p = 1.1f}, Options{.top_k = -1}, Options{.min_p = 2},
                             Options{.repetition_penalty = 0}, Options{.temperature = NAN}})
    EXPECT_FALSE(check(bad).ok());
}

TEST(StopMatcher, FindsStopsAcrossAnyPieces) {
  const struct {
    std::vector<std::string> stops;
    const char *text, *shown, *matched;
  } cases[] = {{{"END"}, "abcENDdef", "abc", "END"},      {{"aab"}, "aaab", "a", "aab"},   {{"x", "xy"}, "axy", "a", "x"},
               {{"bc", "abc"}, "zabc", "z", "abc"},       {{"\n\n"}, "a\nb\n\nc", "a\nb", "\n\n"}, {{"none"}, "no no", "no no", ""},
               {{}, "text", "text", ""},                  {{""}, "text", "text", ""}};
  for (const auto& c : cases) {
    const std::string text = c.text;
    for (size_t split = 0; split <= text.size(); ++split) {
      StopMatcher matcher(c.stops);
      std::string shown = matcher.feed(text.substr(0, split));
      shown += matcher.feed(text.substr(split));
      shown += matcher.finish();
      EXPECT_EQ(shown, c.shown) << c.text << " at " << split;
      EXPECT_EQ(matcher.matched(), c.matched);
    }
  }
}

}  // namespace
}  // namespace hadal::sample
