// The recall task: what its rows promise, and the packing of documents.

#include "data/recall.h"

#include <gtest/gtest.h>

#include <array>
#include <map>
#include <set>

namespace hadal::data {
namespace {

TEST(Recall, EveryAnswerIsWrittenOnceBeforeAtItsDistance) {
  const Recall recall({});
  int64_t answers = 0;
  std::map<int, int> phases;
  for (uint64_t row = 0; row < 64; ++row) {
    const Row document = recall.row(5, 1, row, 128);
    ASSERT_EQ(document.ids.size(), 128U);
    EXPECT_EQ(document.weights.back(), 0);
    std::set<TokenId> asked;
    for (const Answer& answer : document.answers) {
      const auto second = static_cast<size_t>(answer.position), first = second - static_cast<size_t>(answer.distance);
      const TokenId key = document.ids[second];
      EXPECT_LT(key, 64);
      EXPECT_TRUE(asked.insert(key).second);
      EXPECT_EQ(document.ids[first], key);
      EXPECT_EQ(document.ids[first + 1], document.ids[second + 1]);
      EXPECT_EQ(std::count(document.ids.begin(), document.ids.end(), key), 2);
      EXPECT_GE(document.ids[second + 1], 64);
      EXPECT_LT(document.ids[second + 1], 128);
      EXPECT_EQ(document.weights[second], 1);
      EXPECT_GE(answer.distance, 3);
      EXPECT_LE(answer.distance, 122);
      ++phases[static_cast<int>(first % 4)];
      ++answers;
    }
    EXPECT_EQ(std::count(document.weights.begin(), document.weights.end(), 1.0F),
              static_cast<std::ptrdiff_t>(document.answers.size()));
  }
  EXPECT_GT(answers, 64 * 15);
  for (int phase = 0; phase < 4; ++phase) EXPECT_GT(phases[phase], answers / 6) << phase;
}

TEST(Recall, IsAFunctionOfItsArguments) {
  const Recall recall({});
  EXPECT_EQ(recall.row(1, 2, 3, 100).ids, recall.row(1, 2, 3, 100).ids);
  std::set<std::vector<TokenId>> different;
  for (const auto& [seed, step, row] : {std::array<uint64_t, 3>{1, 2, 3}, {2, 2, 3}, {1, 3, 3}, {1, 2, 4}, {2, 1, 3}})
    different.insert(recall.row(seed, step, row, 100).ids);
  EXPECT_EQ(different.size(), 5U);
}

TEST(Source, OpenNamesWhatIsWrong) {
  const auto message = [](const char* text) {
    return open_source(json::parse(text).value(), "data.x").error().message;
  };
  EXPECT_EQ(message(R"({"kind": "web"})"), "data.x: kind: expected recall or mixture, found web");
  EXPECT_EQ(message("{}"), "data.x: kind: expected a string, found nothing");
  EXPECT_EQ(message(R"({"kind": "recall", "facts": "many"})"),
            "data.x: facts: expected an integer from 1 to 1048576, found \"many\"");
  EXPECT_EQ(message(R"({"kind": "recall", "fact": 3})"), "data.x: fact: no such key");
  EXPECT_EQ(message(R"({"kind": "mixture", "name": "base"})"),
            "data.x: tokenizer: expected the path of a tokenizer.json, found nothing");
  EXPECT_EQ(message(R"({"kind": "mixture", "corpus": 3})"), "data.x: corpus: expected a string, found int");
}

TEST(RecallScore, Buckets) {
  RecallScore score({15, 45});
  for (const auto& [distance, right] :
       {std::pair{3, true}, {15, false}, {16, true}, {45, true}, {46, true}, {99, false}})
    score.add(distance, right);
  ASSERT_EQ(score.n_buckets(), 3U);
  EXPECT_EQ(score.total(0), 2);
  EXPECT_DOUBLE_EQ(score.accuracy(0), 0.5);
  EXPECT_DOUBLE_EQ(score.accuracy(1), 1);
  EXPECT_DOUBLE_EQ(score.accuracy_beyond(45), 0.5);
  EXPECT_EQ(score.name(1), "16..45");
  EXPECT_EQ(score.name(2), "> 45");
}

}  // namespace
}  // namespace hadal::data
