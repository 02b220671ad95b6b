// The recall task: what its rows promise, and the packing of documents.

#include "data/recall.h"

#include <gtest/gtest.h>

#include <map>
#include <set>

namespace hadal::data {
namespace {

TEST(Recall, EveryAnswerIsWrittenOnceBeforeAtItsDistance) {
  const Recall recall({});
  int64_t answers = 0;
  std::map<int, int> phases;
  for (uint64_t row = 0; row < 64; ++row) {
    const Document document = recall.document({.seed = 5, .step = 1, .row = row}, 128);
    ASSERT_EQ(document.ids.size(), 128U);
    EXPECT_EQ(document.weights.back(), 0);
    std::set<TokenId> asked;
    for (const Answer& answer : document.answers) {
      const auto second = static_cast<size_t>(answer.position),
                 first = second - static_cast<size_t>(answer.distance);
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

TEST(Recall, IsAFunctionOfItsKey) {
  const Recall recall({});
  const DocumentKey key{.seed = 1, .step = 2, .row = 3, .index = 0};
  EXPECT_EQ(recall.document(key, 100).ids, recall.document(key, 100).ids);
  std::set<std::vector<TokenId>> different;
  for (const DocumentKey& other :
       {key, DocumentKey{2, 2, 3, 0}, DocumentKey{1, 3, 3, 0}, DocumentKey{1, 2, 4, 0},
        DocumentKey{1, 2, 3, 1}, DocumentKey{2, 1, 3, 0}})
    different.insert(recall.document(other, 100).ids);
  EXPECT_EQ(different.size(), 6U);
}

class Counting final : public Source {  // documents of 5 tokens, each holding its index
 public:
  Document document(const DocumentKey& key, int) const override {
    return {std::vector<TokenId>(5, static_cast<TokenId>(key.index)),
            {1, 1, 1, 1, 0},
            {{1, 1}, {3, 3}}};
  }
  int vocabulary() const override { return 100; }
};

TEST(Pack, DocumentsFollowEachOtherAndTheLastIsCut) {
  const Row row = pack(Counting(), 1, 1, 1, 12);
  EXPECT_EQ(row.ids, (std::vector<TokenId>{0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 2}));
  EXPECT_EQ(row.documents, (std::vector<int>{0, 0, 0, 0, 0, 5, 5, 5, 5, 5, 10, 10}));
  EXPECT_EQ(row.weights, (std::vector<float>{1, 1, 1, 1, 0, 1, 1, 1, 1, 0, 1, 0}));
  ASSERT_EQ(row.answers.size(), 4U);  // the third document's answers lie in what was cut
  EXPECT_EQ(row.answers[3].position, 8);
}

TEST(Pack, OpenNamesWhatIsWrong) {
  const auto message = [](const char* text) {
    return open_source(json::parse(text).value(), "data.x").error().message;
  };
  EXPECT_EQ(message(R"({"kind": "web"})"), "data.x: kind: expected recall, found web");
  EXPECT_EQ(message("{}"), "data.x: kind: expected a string, found nothing");
  EXPECT_EQ(message(R"({"kind": "recall", "facts": "many"})"),
            "data.x: facts: expected an integer from 1 to 1048576, found \"many\"");
  EXPECT_EQ(message(R"({"kind": "recall", "fact": 3})"), "data.x: fact: no such key");
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
