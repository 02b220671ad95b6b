// The environments: their properties on few seeds (all of them: hadal data check --seeds 1000), the
// composition of tool worlds, the split of small spaces, the judge.

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>

#include "data/check.h"
#include "data/story.h"
#include "data/tool_tasks.h"

namespace hadal::data {
namespace {

TaskKey key_of(std::string id, uint64_t seed = 0, int difficulty = 0, Split split = Split::kTrain) {
  return {.environment = std::move(id), .split = split, .seed = seed, .difficulty = difficulty};
}

TEST(Families, HaveTheirProperties) {
  std::array<int, 4> plays{}, passes{};
  for (const Family& family : families()) {
    const FamilyReport report = check_family(family, family.hardest + 1);
    for (const std::string& failure : report.failures) ADD_FAILURE() << failure;
    for (size_t p = 0; p < plays.size(); ++p) {
      plays[p] += report.plays[p];
      passes[p] += report.passes[p];
    }
  }
  for (size_t p = 0; p < plays.size(); ++p) {
    EXPECT_GT(plays[p], 2000) << policy_name(kPolicies[p]);
    EXPECT_LE(passes[p], plays[p] * 5 / 100) << policy_name(kPolicies[p]);
  }
}

TEST(Families, TheCheckFindsFaults) {
  // Yes or no is guessed now and then, more often than one time in a hundred.
  Family family = *find_family("balanced");
  family.chance = 1;
  EXPECT_FALSE(check_family(family, 200).failures.empty());
  family.id = "no such family";
  EXPECT_FALSE(check_family(family, 2).failures.empty());
}

TEST(Families, CoverToolWorldsAndMore) {
  size_t tools = 0, held_out = 0;
  std::set<std::string> worlds_trained, goals_trained, interfaces_trained, kinds, ids;
  for (const Family& family : families()) {
    EXPECT_TRUE(ids.insert(family.id).second) << family.id;
    kinds.insert(family.kind);
    EXPECT_LE(family.trained, family.hardest);
    if (family.kind != "tool") continue;
    ++tools;
    held_out += family.held_out;
    if (family.held_out) continue;
    const size_t a = family.id.find('/'), b = family.id.rfind('/');
    worlds_trained.insert(family.id.substr(0, a));
    goals_trained.insert(family.id.substr(a + 1, b - a - 1));
    interfaces_trained.insert(family.id.substr(b + 1));
  }
  EXPECT_GE(tools, 320u);
  EXPECT_GE(families().size() - tools, 80u);
  EXPECT_NEAR(static_cast<double>(held_out) / static_cast<double>(tools), 0.10, 0.02);
  EXPECT_EQ(worlds_trained.size(), worlds().size());
  EXPECT_EQ(goals_trained.size(), std::size(kGoals));
  EXPECT_EQ(interfaces_trained.size(), std::size(kInterfaces));
  size_t dropped = 0;
  for (const World& world : worlds())
    for (const Goal goal : kGoals) dropped += *dropped_because(world, goal) != 0;
  EXPECT_EQ(tools, (worlds().size() * std::size(kGoals) - dropped) * std::size(kInterfaces));
}

TEST(Worlds, ShareNoToolNames) {
  std::set<std::string> names;
  for (const World& world : worlds()) {
    EXPECT_GE(world.keys.size(), 12u) << world.id;
    for (const char* tool : {world.get, world.list, world.set, world.move})
      if (tool) {
        EXPECT_TRUE(names.insert(tool).second) << tool;
      }
  }
}

TEST(Worlds, InterfacesBehave) {
  const World& shop = worlds()[2];
  Rng rng(1);
  const Store store = Store::random(shop, 7, rng);
  const std::string item = store.records[4].key, price = std::to_string(store.records[4].numbers[0]);
  const json::Value arguments(json::Object{{"item", item}});

  StoreEnvironment direct(store, Interface::kDirect, {});
  EXPECT_NE(direct.call("get_item", arguments).find("\"price\": " + price), std::string::npos);
  EXPECT_NE(direct.call("get_contact", arguments).find("error"), std::string::npos);
  EXPECT_NE(direct.call("get_item", json::Object{{"item", "nothing"}}).find("error"), std::string::npos);
  EXPECT_NE(direct.call("get_item", json::Array{}).find("error"), std::string::npos);
  EXPECT_NE(direct.call("set_item", json::Object{{"item", item}, {"field", "price"}, {"value", "seven"}}).find("error"),
            std::string::npos);
  EXPECT_EQ(direct.state(), store.state());
  EXPECT_EQ(direct.successful_calls(), 1);
  EXPECT_EQ(direct.call("set_item", json::Object{{"item", item}, {"field", "price"}, {"value", 7}}), R"({"ok": true})");
  EXPECT_NE(direct.state(), store.state());

  StoreEnvironment paged(store, Interface::kPaged, {});
  const auto page = [&](int n) {
    return json::parse(paged.call("list_items", json::Object{{"field", "price"}, {"page", n}})).value();
  };
  EXPECT_EQ(page(1).find("rows")->as_array().size(), StoreEnvironment::kPageSize);
  EXPECT_EQ(page(1).find("next")->to_int64(), 2);
  EXPECT_TRUE(page(3).find("next")->is_null());
  EXPECT_NE(page(4).find("error"), nullptr);

  StoreEnvironment locked(store, Interface::kNoisy, {.kind = Noise::Kind::kCode, .at = 0, .code = 482});
  EXPECT_EQ(locked.call("get_item", arguments), R"({"error": "locked, add code 482"})");
  EXPECT_EQ(locked.call("get_item", arguments), R"({"error": "locked, add code 482"})");
  EXPECT_NE(locked.call("get_item", json::Object{{"item", item}, {"code", 482}}).find(price), std::string::npos);
  EXPECT_NE(locked.call("get_item", arguments).find(price), std::string::npos);
}

TEST(Tasks, ForbiddenSideEffectsFail) {
  const Task task = make_task(key_of("shop/lookup/direct", 3)).value();
  Episode episode(task);
  for (const Step& step : task.solution) {
    if (step.calls.empty()) {  // right so far: now change something nobody asked for
      const std::string item = json::parse(task.solution[0].calls[0].arguments).value().find("item")->as_string();
      episode.answer({.reasoning = "",
                      .content = "",
                      .tool_calls = {{"set_item", json::dump(json::Object{
                                                      {"item", item}, {"field", "stock"}, {"value", 12345}})}}});
    }
    episode.answer(message_of(step, Mode::kPlain));
  }
  ASSERT_TRUE(episode.done());
  EXPECT_FALSE(episode.verdict().pass);
  EXPECT_NE(episode.verdict().reason.find("state"), std::string::npos);
}

TEST(Tasks, AnswersWithoutAskingFail) {
  const Task task = make_task(key_of("shop/lookup/direct", 3)).value();
  Episode episode(task);
  episode.answer(message_of(task.solution.back(), Mode::kPlain));
  EXPECT_EQ(episode.verdict().reason, "no tool was called with success");
}

TEST(Tasks, NamesThatAreNotThereAreErrors) {
  EXPECT_EQ(make_task(key_of("nowhere")).error().code, Code::kNotFound);
  EXPECT_EQ(make_task(key_of("add", 0, 99)).error().code, Code::kInvalid);
  EXPECT_EQ(make_task(key_of("add", 0, -1)).error().code, Code::kInvalid);
}

TEST(Tasks, MaxThinksMoreThanHighAndPlainNotAtAll) {
  for (const char* id : {"add", "shop/verify/paged", "talk-who", "json-format"}) {
    const Task task = make_task(key_of(id, 1)).value();
    for (const Step& step : task.solution) {
      EXPECT_TRUE(message_of(step, Mode::kPlain).reasoning.empty());
      EXPECT_GT(message_of(step, Mode::kMax).reasoning.size(), message_of(step, Mode::kHigh).reasoning.size()) << id;
      EXPECT_EQ(message_of(step, Mode::kMax).content, message_of(step, Mode::kPlain).content);
    }
  }
}

TEST(Splits, SmallSpacesArePartitioned) {
  // Every sum of one digit and one digit lies in one split, and every split has some.
  std::map<std::string, Split> seen;
  std::array<std::set<std::string>, 3> by_split;
  for (const Split split : {Split::kTrain, Split::kDev, Split::kTest})
    for (uint64_t seed = 0; seed < 600; ++seed) {
      const Task task = make_task(key_of("add", seed, 0, split)).value();
      EXPECT_EQ(seen.emplace(task.instance, split).first->second, split) << task.instance;
      by_split[static_cast<size_t>(split)].insert(task.instance);
    }
  EXPECT_EQ(seen.size(), 55u);  // unordered pairs of digits
  EXPECT_EQ(by_split[1].size(), 1u);
  EXPECT_EQ(by_split[2].size(), 1u);
}

TEST(Splits, PermutationIsOne) {
  for (const size_t n : {3u, 10u, 97u, 1024u, 4097u}) {
    std::set<size_t> images;
    for (size_t i = 0; i < n; ++i) {
      const size_t image = permute(i, n, 5);
      EXPECT_LT(image, n);
      images.insert(image);
    }
    EXPECT_EQ(images.size(), n);
  }
}

TEST(Splits, NewPhrasingsAreNotThoseOfTraining) {
  // The questions of "copy" up to the colon.
  std::set<std::string> trained, held;
  for (uint64_t seed = 0; seed < 200; ++seed) {
    const auto question = [&](Split split, bool new_phrasing) {
      TaskKey key = key_of("copy", seed, 1, split);
      key.new_phrasing = new_phrasing;
      return make_task(key).value().turns[0].user;
    };
    const auto phrase = [](const std::string& q) { return q.substr(0, q.find(':')); };
    trained.insert(phrase(question(Split::kTrain, false)));
    if (seed >= 40) continue;
    const std::string usual = question(Split::kDev, false), other = question(Split::kDev, true);
    held.insert(phrase(other));
    EXPECT_TRUE(trained.count(phrase(usual)) || trained.size() < 4) << usual;
    EXPECT_EQ(usual.substr(usual.find(':')), other.substr(other.find(':')));  // the same instance
  }
  EXPECT_GE(trained.size(), 4u);
  EXPECT_GE(held.size(), 2u);
  for (const std::string& phrase : held) EXPECT_FALSE(trained.count(phrase)) << phrase;
}

TEST(Splits, EveryKindIsAskedInManyWays) {
  // Differing words of a question with the instance held fixed cannot be counted directly: count
  // first words instead.
  for (const Goal goal : kGoals) {
    std::set<std::string> openings;
    for (uint64_t seed = 0; seed < 60; ++seed) {
      const std::string question =
          make_task(key_of(std::string("shop/") + goal_name(goal) + "/direct", seed)).value().turns[0].user;
      openings.insert(question.substr(0, question.find(' ', question.find(' ') + 1)));
    }
    EXPECT_GE(openings.size(), 4u) << goal_name(goal);
  }
}

TEST(Stories, AreVaried) {
  std::set<std::string> grams;
  size_t total = 0;
  std::set<std::string> plots;
  for (uint64_t seed = 0; seed < 1000; ++seed) {
    Rng rng(seed);
    const Story story = make_story(rng);
    plots.insert(story.plot);
    EXPECT_GE(story.questions.size(), 4u);
    for (const Question& question : story.questions)
      EXPECT_NE(story.text.find(question.answer), std::string::npos) << story.text << "\n"
                                                                     << question.asks << " " << question.answer;
    std::vector<std::string> words;
    std::string word;
    for (const char c : story.text + " ")
      if (c != ' ')
        word += c;
      else
        words.push_back(std::exchange(word, {}));
    for (size_t i = 0; i + 4 <= words.size(); ++i) {
      grams.insert(words[i] + " " + words[i + 1] + " " + words[i + 2] + " " + words[i + 3]);
      ++total;
    }
  }
  EXPECT_EQ(static_cast<int>(plots.size()), plot_count());
  EXPECT_GT(static_cast<double>(grams.size()), 0.40 * static_cast<double>(total)) << grams.size() << " of " << total;
}

TEST(Recall, DistancesAreWhatTheyClaim) {
  static constexpr int kDistances[] = {32, 96, 128, 256, 512, 1024, 2048, 4096};
  for (const char* id :
       {"recall-needle", "recall-needles", "recall-store", "recall-ledger", "recall-key-value", "recall-latest"})
    for (int d = 0; d < 8; ++d) {
      const Task task = make_task(key_of(id, 1, d)).value();
      const int tokens = rough_tokens(task.turns[0].user);
      EXPECT_GE(tokens, kDistances[d] * 8 / 10) << id << " " << d;
      EXPECT_LE(tokens, kDistances[d] * 14 / 10 + 160) << id << " " << d;
    }
}

TEST(Judge, ShapeOfJsonAnswers) {
  const Expectation expected{
      .kind = Expectation::Kind::kJson, .values = {}, .json = json::parse(R"({"a": 1, "b": [{"c": "x"}]})").value()};
  EXPECT_TRUE(has_shape(expected, R"({"b": [{"c": "y"}, {"c": ""}], "a": 2.5})"));
  EXPECT_TRUE(has_shape(expected, R"({"b": [], "a": 2})"));
  for (const char* other : {"", "{", R"({"a": 1})", R"({"a": "1", "b": []})", R"({"a": 1, "b": ["c"]})",
                            R"({"a": 1, "b": [], "c": 1})", R"({"a": 1, "d": []})"})
    EXPECT_FALSE(has_shape(expected, other)) << other;
}

TEST(Judge, ExactContainsJsonStory) {
  const Expectation exact{.values = {"42"}, .json = {}};
  EXPECT_TRUE(judge(exact, " 42.\n").pass);
  EXPECT_FALSE(judge(exact, "420").pass);
  EXPECT_FALSE(judge(exact, "").pass);
  const Expectation contains{.kind = Expectation::Kind::kContains, .values = {"hello|hi", "help"}, .json = {}};
  EXPECT_TRUE(judge(contains, "HI, can I Help?").pass);
  EXPECT_FALSE(judge(contains, "Hello!").pass);
  const Expectation shape{
      .kind = Expectation::Kind::kJson, .values = {}, .json = json::Object{{"a", 1}, {"b", json::Array{"x", true}}}};
  EXPECT_TRUE(judge(shape, R"( {"b":["x", true],"a":1} )").pass);
  EXPECT_FALSE(judge(shape, R"({"a": 1, "b": [true, "x"]})").pass);
  EXPECT_FALSE(judge(shape, R"({"a": "1", "b": ["x", true]})").pass);
  EXPECT_FALSE(judge(shape, R"({"a": 1, "b": ["x", true], "c": 0})").pass);
  EXPECT_FALSE(judge(shape, "{").pass);
  const Expectation story{.kind = Expectation::Kind::kStory, .values = {"Mia", "ball"}, .json = {}, .min_words = 8};
  EXPECT_TRUE(judge(story, "Mia had a ball. She was very happy.").pass);
  EXPECT_FALSE(judge(story, "Mia had a ball.").pass);
  EXPECT_FALSE(judge(story, "Mia had a ball. Mia had a ball. Mia had a ball.").pass);
  EXPECT_FALSE(judge(story, "Mia was very happy with her new hat and sang all day.").pass);
}

}  // namespace
}  // namespace hadal::data
