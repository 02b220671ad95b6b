// What surrounds the steps: resuming to the bit, exporting, several ranks, refusing what does not
// fit.

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <limits>
#include <thread>

#include "base/file.h"
#include "checkpoint/checkpoint.h"
#include "tests/support/shared.h"
#include "train/curves.h"
#include "train/runtime.h"
#include "train/trainer.h"

namespace hadal::train {
namespace {

using testing::fixture;
using testing::temp_dir;

// Every kind of layer and of stage in seconds: the micro fixture's shapes; dense with MTP, indexer
// and sparse, all number formats.
RunFile micro_run() {
  const std::string config = read_file(fixture("micro/config.json")).value();
  const std::string text = R"({
    "seed": 3, "tokens_per_step": 640, "tokens_per_pass": 320, "learning_rate": 0.003, "warmup": 4, "bias_speed": 0.01,
    "distances": [10, 40], "evaluate_rows": 4, "init": {"noise": 0.05},
    "data": {"recall": {"kind": "recall", "keys": 24, "values": 24, "fillers": 24}},
    "stages": [
      {"name": "dense", "steps": 8, "length": 160, "data": "recall", "mtp": 0.3, "indexer": 1},
      {"name": "sparse", "steps": 6, "length": 80, "data": "recall", "sparse": true, "indexer": 1, "bias_speed": 0.001},
      {"name": "formats", "steps": 6, "length": 160, "data": "recall", "sparse": true, "quantise": true, "mtp": 0.1}],
    "model": )" + config + "}";
  auto run = parse_run(text, "micro");
  EXPECT_TRUE(run.ok()) << (run.ok() ? "" : run.error().message);
  return std::move(run).value();
}

const Ranks& alone() {
  static const Ranks kRanks;
  return kRanks;
}

Trainer micro_trainer(const Ranks& ranks = alone()) {
  EXPECT_TRUE(prepare_runtime(1).ok());
  auto trainer = Trainer::create(micro_run(), "", ranks);
  EXPECT_TRUE(trainer.ok()) << (trainer.ok() ? "" : trainer.error().message);
  return std::move(trainer).value();
}

void steps(Trainer& trainer, int n) {
  for (int i = 0; i < n; ++i) {
    const auto report = trainer.step();
    ASSERT_TRUE(report.ok()) << report.error().message;
    EXPECT_TRUE(std::isfinite(report.value().loss));
    EXPECT_FALSE(report.value().skipped);
  }
}

std::vector<Named> everything(Trainer& trainer) {
  std::vector<Named> all;
  for (const auto& [name, tensor] : trainer.twin().weights()) all.push_back({name, tensor.detach()});
  for (const Named& moment : trainer.optimiser().state()) all.push_back(moment);
  return all;
}

bool same_bytes(const torch::Tensor& a, const torch::Tensor& b) {
  return a.sizes() == b.sizes() && a.scalar_type() == b.scalar_type() &&
         std::memcmp(a.contiguous().data_ptr(), b.contiguous().data_ptr(), a.nbytes()) == 0;
}

void expect_equal(Trainer& a, Trainer& b) {
  const std::vector<Named> left = everything(a), right = everything(b);
  ASSERT_EQ(left.size(), right.size());
  for (size_t i = 0; i < left.size(); ++i) {
    EXPECT_EQ(left[i].name, right[i].name);
    EXPECT_TRUE(same_bytes(left[i].tensor, right[i].tensor)) << left[i].name;
  }
}

TEST(Resume, TwentyStepsEqualTenAndTen) {
  Trainer whole = micro_trainer();
  steps(whole, 20);
  const std::string directory = temp_dir("resume");
  {
    Trainer first = micro_trainer();
    steps(first, 10);
    ASSERT_TRUE(first.save(directory).ok());
  }
  Trainer second = micro_trainer();
  steps(second, 1);  // so that the state has something to replace
  ASSERT_TRUE(second.resume(directory).value());
  EXPECT_EQ(second.n_done(), 10);
  steps(second, 10);
  expect_equal(whole, second);
  // The test can fail: one more step is another state.
  Trainer other = micro_trainer();
  steps(other, 1);
  EXPECT_FALSE(same_bytes(everything(other)[0].tensor, everything(whole)[0].tensor));
}

TEST(Resume, KeepsThreeStatesAndPassesOverIncompleteOnes) {
  const std::string directory = temp_dir("states");
  Trainer trainer = micro_trainer();
  for (int i = 0; i < 4; ++i) {
    steps(trainer, 1);
    ASSERT_TRUE(trainer.save(directory).ok());
  }
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(directory)) names.push_back(entry.path().filename());
  std::sort(names.begin(), names.end());
  EXPECT_EQ(names, (std::vector<std::string>{"00000002", "00000003", "00000004"}));
  std::filesystem::remove(directory + "/00000004/config.json");  // written last: as if killed before
  Trainer again = micro_trainer();
  ASSERT_TRUE(again.resume(directory).value());
  EXPECT_EQ(again.n_done(), 3);
  EXPECT_FALSE(again.resume(temp_dir("empty")).value());
}

TEST(Resume, RefusesAnotherRunsState) {
  const std::string directory = temp_dir("other");
  Trainer trainer = micro_trainer();
  ASSERT_TRUE(trainer.save(directory).ok());
  RunFile run = micro_run();
  run.seed = 4;
  auto other = Trainer::create(run, "", alone()).value();
  EXPECT_NE(other.resume(directory).error().message.find("seed: expected the run's 4, found 3"), std::string::npos);
  run = micro_run();
  run.model.set("hidden_size", 128);
  auto wider = Trainer::create(run, "", alone()).value();
  EXPECT_NE(wider.resume(directory).error().message.find("config.json"), std::string::npos);
}

TEST(Export, OpensAsACheckpointAndStartsANewRun) {
  const std::string directory = temp_dir("export") + "/model";
  Trainer trainer = micro_trainer();
  steps(trainer, 2);
  ASSERT_TRUE(trainer.export_model(directory).ok());
  const auto opened = checkpoint::Checkpoint::open(directory);
  ASSERT_TRUE(opened.ok()) << opened.error().message;
  EXPECT_EQ(opened.value().draft(), checkpoint::Draft::kMtp);
  RunFile run = micro_run();
  run.model = json::Value();
  auto next = Trainer::create(run, directory, alone());
  ASSERT_TRUE(next.ok()) << next.error().message;
  EXPECT_EQ(next.value().n_done(), 0);
  for (const auto& [name, tensor] : trainer.twin().weights())
    EXPECT_TRUE(same_bytes(tensor.detach(), next.value().twin().weights().at(name).detach())) << name;
  steps(next.value(), 1);
  run = micro_run();
  run.model.set("hidden_size", 128);
  EXPECT_FALSE(Trainer::create(run, directory, alone()).ok());
}

TEST(Step, GradientsOutOfBoundsChangeNothing) {
  Trainer trainer = micro_trainer();
  torch::Tensor norm = trainer.twin().weights().at("norm.weight").detach();
  norm[0] = std::numeric_limits<float>::infinity();
  const torch::Tensor before = trainer.twin().weights().at("embed.weight").detach().clone();
  const auto report = trainer.step();
  ASSERT_TRUE(report.ok()) << report.error().message;
  EXPECT_TRUE(report.value().skipped);
  EXPECT_TRUE(same_bytes(before, trainer.twin().weights().at("embed.weight").detach()));
  EXPECT_EQ(trainer.n_done(), 1);
}

// Rows are shared, not data: two ranks see the same step as one.
TEST(Ranks, TwoEqualOneToRoundingAndThemselvesToTheBit) {
  const auto train_two = [](const std::string& store, std::vector<Trainer>& trainers) {
    std::vector<Ranks> ranks(2);
    const auto body = [&](int rank) {
      ranks[static_cast<size_t>(rank)] = Ranks::join(rank, 2, store).value();
      Trainer trainer = Trainer::create(micro_run(), "", ranks[static_cast<size_t>(rank)]).value();
      steps(trainer, 3);
      return trainer;
    };
    std::optional<Trainer> second;
    std::thread thread([&] { second.emplace(body(1)); });
    trainers.push_back(body(0));
    thread.join();
    trainers.push_back(std::move(*second));
  };
  Trainer one = micro_trainer();
  steps(one, 3);
  std::vector<Trainer> trainers;
  train_two(temp_dir("ranks") + "/a", trainers);
  train_two(temp_dir("ranks") + "/b", trainers);
  expect_equal(trainers[0], trainers[1]);
  expect_equal(trainers[0], trainers[2]);
  double largest = 0, moved = 0;
  Trainer start = micro_trainer();
  for (const auto& [name, tensor] : one.twin().weights()) {
    const auto difference = [&, &name = name, &tensor = tensor](Trainer& other) {
      return (tensor.detach() - other.twin().weights().at(name).detach()).abs().max().item<double>();
    };
    largest = std::max(largest, difference(trainers[0]));
    moved = std::max(moved, difference(start));
  }
  EXPECT_GT(moved, 1e-3);
  EXPECT_LT(largest, 0.01 * moved);
}

// Documents too short for a block leave a compressor without gradient on one rank only (a run died of it).
TEST(Ranks, AGradientThatOneRankLacksIsZeroThere) {
  const std::string store = temp_dir("lacking") + "/store";
  std::vector<std::vector<Named>> parameters(2);
  for (auto& own : parameters) own = {{"a", torch::ones({3})}, {"b", torch::ones({2, 2})}, {"c", torch::ones({5})}};
  for (int rank = 0; rank < 2; ++rank)
    for (size_t i = 0; i < 2; ++i)
      if (rank == 0 || i == 1)
        parameters[static_cast<size_t>(rank)][i].tensor.mutable_grad() =
            torch::full_like(parameters[0][i].tensor, rank + 1.0);
  const auto body = [&](int rank) {
    const Ranks ranks = Ranks::join(rank, 2, store).value();
    EXPECT_TRUE(sum_gradients(ranks, parameters[static_cast<size_t>(rank)]).ok());
  };
  std::thread thread([&] { body(1); });
  body(0);
  thread.join();
  for (const auto& own : parameters) {
    EXPECT_TRUE(torch::equal(own[0].tensor.grad(), torch::full({3}, 1.0)));
    EXPECT_TRUE(torch::equal(own[1].tensor.grad(), torch::full({2, 2}, 3.0)));
    EXPECT_FALSE(own[2].tensor.grad().defined());
  }
}

TEST(Schedule, WarmUpConstantCosine) {
  const RunFile run = micro_run();  // 20 steps, decay from 14
  EXPECT_EQ(run.n_steps(), 20);
  EXPECT_DOUBLE_EQ(run.learning_rate_at(0), 0.003 / 4);
  EXPECT_DOUBLE_EQ(run.learning_rate_at(3), 0.003);
  EXPECT_DOUBLE_EQ(run.learning_rate_at(14), 0.003);
  EXPECT_LT(run.learning_rate_at(15), 0.003);
  EXPECT_NEAR(run.learning_rate_at(19), 0.0003, 1e-12);
  EXPECT_EQ(run.stage_at(7).name, "dense");
  EXPECT_EQ(run.stage_at(8).name, "sparse");
  EXPECT_EQ(run.stage_at(19).name, "formats");
}

TEST(RunFile, ErrorsNameKeyExpectedAndFound) {
  const auto message = [](const std::string& text) { return parse_run(text, "r.json").error().message; };
  const std::string most = R"("tokens_per_step": 64, "learning_rate": 0.001, "data": {"a": {"kind": "recall"}})";
  EXPECT_EQ(message("{"), "r.json: " + json::parse("{").error().message);
  EXPECT_EQ(message("[]"), "r.json: the file: expected an object, found []");
  EXPECT_EQ(message("{" + most + "}"), "r.json: stages: expected an array of stages, found nothing");
  EXPECT_EQ(message("{" + most + R"(, "warmup": -1, "stages": [{}]})"),
            "r.json: warmup: expected an integer from 0 to 1099511627776, found -1");
  EXPECT_EQ(message("{" + most + R"(, "warm_up": 1, "stages": [{}]})"), "r.json: warm_up: no such key");
  EXPECT_EQ(message("{" + most + R"(, "init": {"noise": "low"}, "stages": [{}]})"),
            "r.json: init.noise: expected a number from 0 to 10, found \"low\"");
  EXPECT_EQ(message("{" + most + R"(, "stages": [{"data": "a", "steps": 1, "length": 24}]})"),
            "r.json: stages[0].length: expected a divisor of tokens_per_step, 64, found 24");
  EXPECT_EQ(message("{" + most + R"(, "stages": [{"data": "b", "steps": 1, "length": 32}]})"),
            "r.json: stages[0].data: expected a name in data, found b");
}

TEST(Curves, ThePageHoldsWhatTheLogHolds) {
  std::string log;
  for (int step = 0; step < 1000; ++step)
    log += "{\"step\": " + std::to_string(step) + ", \"tokens\": " + std::to_string(64 * (step + 1)) +
           ", \"loss\": " + std::to_string(5.0 - 0.004 * step) + ", \"gradient_norm\": 0.5, \"seconds\": 0.1}\n";
  log +=
      "{\"step\": 999, \"held_out_loss\": 1.25, \"recall\": {\"0..15\": 0.5, \"> 15\": "
      "0.25}}\n{\"step\": 10";
  const std::string page = curves_page(log, "a < b").value();
  EXPECT_NE(page.find("<h1>a &lt; b</h1>"), std::string::npos);
  EXPECT_NE(page.find("1000 steps of 64 tokens, 64000 tokens in 100 s"), std::string::npos);
  EXPECT_NE(page.find("recall by distance"), std::string::npos);
  EXPECT_NE(page.find("&gt; 15"), std::string::npos);
  EXPECT_EQ(page.find("learning rate"), std::string::npos);
  EXPECT_EQ(page.find("<script"), std::string::npos);
  EXPECT_LT(page.size(), 40000U);  // thinned
  EXPECT_FALSE(curves_page("", "empty").ok());
}

}  // namespace
}  // namespace hadal::train
