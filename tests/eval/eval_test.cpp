// Evaluation: what counts as a valid call, intervals, runs of tokens, task files, and that company changes nothing.

#include <gtest/gtest.h>

#include <fstream>

#include "checkpoint/synth.h"
#include "data/family.h"
#include "eval/runner.h"
#include "eval/statistics.h"
#include "eval/task_file.h"
#include "eval/texts.h"
#include "tests/support/shared.h"

namespace hadal::eval {
namespace {

TEST(ValidCall, NeedsAKnownToolAndArgumentsOfItsSchema) {
  const json::Value tools = json::parse(R"([{"type": "function", "function": {"name": "get", "parameters": {
      "type": "object", "properties": {"key": {"type": "string"}, "n": {"type": "integer"}, "to": {"enum": ["a", "b"]}},
      "required": ["key"]}}}])")
                                .value();
  EXPECT_TRUE(is_valid_call(tools, {"get", R"({"key": "x"})"}));
  EXPECT_TRUE(is_valid_call(tools, {"get", R"({"key": "x", "n": 3, "to": "b"})"}));
  for (const char* arguments : {R"({})", R"({"key": 3})", R"({"key": "x", "n": "3"})", R"({"key": "x", "other": 1})",
                                R"({"key": "x", "to": "c"})", R"(["x"])", R"({"key": )"})
    EXPECT_FALSE(is_valid_call(tools, {"get", arguments})) << arguments;
  EXPECT_FALSE(is_valid_call(tools, {"put", R"({"key": "x"})"}));
  EXPECT_FALSE(is_valid_call(json::Value(), {"get", "{}"}));
}

TEST(Share, WilsonIntervalsOfKnownCases) {
  Share share{.hits = 8, .n = 10};  // R: binom::binom.wilson(8, 10)
  EXPECT_NEAR(share.low(), 0.4901625, 1e-6);
  EXPECT_NEAR(share.high(), 0.9433178, 1e-6);
  EXPECT_NEAR((Share{0, 10}).low(), 0.0, 1e-12);
  EXPECT_NEAR((Share{0, 10}).high(), 0.2775328, 1e-6);
  EXPECT_EQ((Share{}).high(), 1.0);
}

TEST(Runs, LongestAndCovered) {
  const std::vector<TokenId> written{1, 2, 3, 4, 9, 5, 6, 7}, original{0, 2, 3, 4, 5, 6, 7, 8};
  EXPECT_EQ(common_runs(written, original, 3).longest, 3);
  EXPECT_EQ(common_runs(written, original, 3).inside, 6);
  EXPECT_EQ(common_runs(written, original, 4).inside, 0);
  EXPECT_EQ(common_runs(original, original, 4).inside, 8);
  EXPECT_EQ(common_runs(written, {}, 1).longest, 0);
}

TEST(TaskFile, ReadsTasksAndNamesTheLineThatIsWrong) {
  const std::string path = testing::temp_dir("tasks") + "/t.jsonl";
  const auto read = [&](const std::string& text) {
    std::ofstream(path, std::ios::binary) << text;
    return read_task_file(path);
  };
  const auto tasks = read(
      "{\"id\": \"a\", \"system\": \"s\", \"turns\": [{\"user\": \"q\", \"verifier\": {\"kind\": \"text\", \"value\": "
      "\"Paris\"}}]}\n\n"
      "{\"kind\": \"k\", \"turns\": [{\"user\": \"q\", \"verifier\": {\"kind\": \"contains\", \"values\": "
      "[\"x|y\"]}}]}\n"
      "{\"turns\": [{\"user\": \"q\", \"verifier\": {\"kind\": \"json\", \"value\": {\"a\": 1, \"b\": 2}}}]}\n");
  ASSERT_TRUE(tasks.ok()) << tasks.error().message;
  ASSERT_EQ(tasks.value().size(), 3u);
  EXPECT_TRUE(data::judge(tasks.value()[0].turns[0].expected, " Paris. ").pass);
  EXPECT_FALSE(data::judge(tasks.value()[0].turns[0].expected, "Lyon").pass);
  EXPECT_TRUE(data::judge(tasks.value()[1].turns[0].expected, "has Y in it").pass);
  EXPECT_TRUE(data::judge(tasks.value()[2].turns[0].expected, "{\"b\": 2, \"a\": 1}").pass);
  for (const char* bad :
       {"", "{}", "[1]", "{\"turns\": [{\"user\": \"q\"}]}", "{\"turns\": [{\"user\": 3, \"verifier\": {}}]}",
        "{\"turns\": [{\"user\": \"q\", \"verifier\": {\"kind\": \"magic\"}}]}", "not json"}) {
    const auto result = read(std::string("\n") + bad);
    ASSERT_FALSE(result.ok()) << bad;
    if (*bad) {
      EXPECT_NE(result.error().message.find("line 2"), std::string::npos) << result.error().message;
    }
  }
}

TEST(Runner, OutcomesDoNotDependOnWhatRunsBesideThem) {
  const std::string directory = testing::temp_dir("eval") + "/model";
  ThreadPool pool(2);
  ASSERT_TRUE(
      checkpoint::synthesise(checkpoint::load_config_json("nano").value(), {.directory = directory, .seed = 1}, pool)
          .ok());
  const auto engine = engine::Engine::open({.model = directory, .threads = 2}).value();
  const auto tokenizer = text::Tokenizer::load(directory).value();
  std::vector<Trial> trials;
  for (const data::Family& family : data::families()) {
    if (trials.size() >= 9) break;
    for (const data::Mode mode : data::kModes)
      trials.push_back(
          {data::make_task({.environment = family.id, .split = data::Split::kTest, .seed = 5}).value(), mode});
  }
  RunOptions options;
  options.sampling = {.temperature = 1, .seed = 3};
  options.max_tokens = 12;
  options.side_by_side = 1;
  const auto alone = run_trials(*engine, tokenizer, text::Encoding::kV4, trials, options).value();
  options.side_by_side = 5;
  options.rows_per_step = 64;
  const auto together = run_trials(*engine, tokenizer, text::Encoding::kV4, trials, options).value();
  for (size_t i = 0; i < trials.size(); ++i) {
    EXPECT_EQ(alone[i].transcript, together[i].transcript) << i;
    EXPECT_FALSE(alone[i].solved);  // it is untrained
    EXPECT_FALSE(alone[i].reason.empty());
    EXPECT_GT(alone[i].prompt_tokens, 0);
  }
}

}  // namespace
}  // namespace hadal::eval
