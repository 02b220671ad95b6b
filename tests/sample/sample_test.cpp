#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <random>

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
  for (int64_t position = 0; position < 200; ++position)
    same += random_number(1, position) == random_number(2, position);
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

TEST(Sampler, ExtremeValuesStillDraw) {
  // A penalty that would make a logit infinite; tokens of the prompt that the model does not have.
  Sampler extreme({.repetition_penalty = 1e-40f});
  extreme.see_prompt(std::vector<TokenId>{1, 2, 77, 1 << 30});
  EXPECT_EQ(extreme.pick(std::vector<float>{0, 5, -1, 0}, 0).value().token, 1);
  for (const float temperature : {1e-45f, 1e-30f, 1e-3f}) {
    EXPECT_EQ(pick({.temperature = temperature}, {1, 3, 2}), 1) << temperature;
    const TokenId of_equals = pick({.temperature = temperature, .seed = 3}, {3, 3, 1});
    EXPECT_TRUE(of_equals == 0 || of_equals == 1) << temperature;
  }
  EXPECT_EQ(pick({.top_p = 1e-30f}, {1, 3, 2}), 1);
  EXPECT_EQ(pick({.top_k = 1}, {1, 3, 3}), 1);
  EXPECT_EQ(pick({.min_p = 1}, {1, 3, 2}), 1);
  EXPECT_EQ(pick({.temperature = 0}, {-3e38f, 3e38f}), 1);
  EXPECT_EQ(pick({.temperature = 100}, {-3e38f, 3e38f}), 1);
  Sampler logprobs({.temperature = 0, .n_logprobs = 50});
  EXPECT_EQ(logprobs.pick(std::vector<float>{1, 1, 1}, 0).value().top.size(), 3u);
}

// Against the definition in double, written down plainly: the same token for every position.
TEST(Sampler, FiltersAsDefined) {
  for (uint64_t seed = 0; seed < 3000; ++seed) {
    std::mt19937_64 random(seed);
    std::vector<float> logits(1 + random() % 300);
    for (float& logit : logits)
      logit = static_cast<float>(static_cast<int>(random() % 41) - 20) / (random() % 2 ? 4.0f : 1.0f);
    const Options options{.temperature = std::array{0.1f, 0.7f, 1.0f, 2.0f}[random() % 4],
                          .top_p = std::array{1.0f, 0.95f, 0.5f, 0.01f}[random() % 4],
                          .top_k = std::array{0, 1, 5, 70, 1000}[random() % 5],
                          .min_p = std::array{0.0f, 0.05f, 0.5f}[random() % 3],
                          .seed = seed};
    const double most = *std::max_element(logits.begin(), logits.end());
    std::vector<std::pair<double, TokenId>> p;  // not normalised: the largest is 1
    for (size_t i = 0; i < logits.size(); ++i)
      p.emplace_back(std::exp((logits[i] - most) / options.temperature), static_cast<TokenId>(i));
    const bool filters =
        options.top_p < 1 || options.min_p > 0 || (options.top_k > 0 && static_cast<size_t>(options.top_k) < p.size());
    if (filters) std::stable_sort(p.begin(), p.end(), [](const auto& a, const auto& b) { return a.first > b.first; });
    if (options.top_k > 0 && static_cast<size_t>(options.top_k) < p.size())
      p.resize(static_cast<size_t>(options.top_k));
    double total = 0, sum = 0;
    for (const auto& [weight, token] : p) total += weight;
    size_t kept = 0;
    for (; kept < p.size() && (kept == 0 || (sum < options.top_p * total && p[kept].first >= options.min_p)); ++kept)
      sum += p[kept].first;
    double left = random_number(seed, 5) * sum;
    size_t drawn = 0;
    for (size_t i = 0; i < kept; ++i)
      if (left >= 0) left -= p[drawn = i].first;
    EXPECT_EQ(pick(options, logits, 5), p[drawn].second) << seed;
  }
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
  for (const Options& bad :
       {Options{.temperature = -1}, Options{.top_p = 0}, Options{.top_p = 1.1f}, Options{.top_k = -1},
        Options{.min_p = 2}, Options{.repetition_penalty = 0}, Options{.temperature = NAN}})
    EXPECT_FALSE(check(bad).ok());
}

TEST(StopMatcher, WhatComesAfterTheEndIsAnotherText) {
  StopMatcher stops({"ab"});
  EXPECT_EQ(stops.feed("xa"), "x");
  EXPECT_EQ(stops.finish(), "a");
  EXPECT_EQ(stops.feed("bc"), "bc");
  EXPECT_FALSE(stops.stopped());
}

TEST(StopMatcher, FindsStopsAcrossAnyPieces) {
  const struct {
    std::vector<std::string> stops;
    const char *text, *shown, *matched;
  } cases[] = {{{"END"}, "abcENDdef", "abc", "END"},
               {{"aab"}, "aaab", "a", "aab"},
               {{"x", "xy"}, "axy", "a", "x"},
               {{"bc", "abc"}, "zabc", "z", "abc"},
               {{"\n\n"}, "a\nb\n\nc", "a\nb", "\n\n"},
               {{"none"}, "no no", "no no", ""},
               {{}, "text", "text", ""},
               {{""}, "text", "text", ""}};
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

// Against the definition: the stop that ends first, of those the longest; and what was shown is never withdrawn.
TEST(StopMatcher, RandomStopsInRandomPieces) {
  for (uint64_t seed = 0; seed < 20000; ++seed) {
    std::mt19937_64 random(seed);
    const auto word = [&](size_t most) {
      std::string text;
      for (size_t n = random() % (most + 1); n > 0; --n) text += std::array{"a", "b", "é", "è"}[random() % 4];
      return text;
    };
    std::vector<std::string> stops;
    for (uint64_t n = random() % 4; n > 0; --n) stops.push_back(word(5));
    const std::string text = word(30);
    std::string matched, shown = text;
    for (size_t end = 1; end <= text.size() && matched.empty(); ++end)
      for (const std::string& stop : stops)
        if (text.substr(0, end).ends_with(stop) && stop.size() > matched.size()) {
          matched = stop;
          shown = text.substr(0, end - stop.size());
        }
    StopMatcher matcher(stops);
    std::string out;
    for (size_t i = 0; i < text.size();) {
      const size_t n = random() % 5;
      out += matcher.feed(text.substr(i, n));
      i += n;
      EXPECT_TRUE(shown.starts_with(out)) << seed;
    }
    out += matcher.finish();
    EXPECT_EQ(out, shown) << seed;
    EXPECT_EQ(matcher.matched(), matched) << seed;
    if (HasFailure()) return;
  }
}

TEST(Sampler, OnlyAllowedTokensAreDrawnAndLogprobsAreThoseOfAll) {
  std::vector<float> logits(130);
  for (size_t i = 0; i < logits.size(); ++i) logits[i] = static_cast<float>(i % 7);
  logits[100] = 20;
  std::vector<uint64_t> allowed(3);
  allowed[0] = uint64_t{1} << 5 | uint64_t{1} << 6;
  allowed[2] = uint64_t{1} << 1;  // token 129, whose logit is 3
  for (const float temperature : {0.0f, 1.0f, 5.0f})
    for (int64_t position = 0; position < 50; ++position) {
      Sampler sampler({.temperature = temperature, .top_p = 0.9f, .top_k = 40, .seed = 3, .n_logprobs = 1});
      const auto choice = sampler.pick(logits, position, allowed);
      ASSERT_TRUE(choice.ok());
      const TokenId token = choice.value().token;
      EXPECT_TRUE(token == 5 || token == 6 || token == 129) << token;
      if (temperature == 0) {
        EXPECT_EQ(token, 6);
      }
      EXPECT_LT(choice.value().logprob, -10);  // token 100 has almost all
      EXPECT_EQ(choice.value().top.at(0).token, 100);
    }
  std::fill(allowed.begin(), allowed.end(), 0);
  EXPECT_FALSE(Sampler({}).pick(logits, 0, allowed).ok());
}

}  // namespace
}  // namespace hadal::sample
