// The smallest proof that the trainer trains what V4 is about: models/runs/recall-small.json, 0.3
// million parameters, learns to recall beyond the reach of its windows (3 layers x 15 = 45 tokens),
// where a model of windows only stays at guessing among the values that are there (0.06). About two
// minutes of CPU.

#include <gtest/gtest.h>

#include <ctime>

#include "tests/support/shared.h"
#include "train/runtime.h"
#include "train/trainer.h"

namespace hadal::train {
namespace {

constexpr int kReach = 45;
constexpr double kExpected = 0.3, kGuessing = 0.06;

RunFile run_file(const std::string& name) {
  auto run = read_run(std::string(HADAL_SOURCE_DIR) + "/models/runs/" + name);
  EXPECT_TRUE(run.ok()) << (run.ok() ? "" : run.error().message);
  return std::move(run).value();
}

struct Trained {
  double best_recall = 0;  // beyond the reach, of the evaluations every ten steps
  int64_t steps = 0;
};

// Trains until recall beyond the reach is `enough`, or for `steps`.
Trained train(const std::string& name, int64_t steps, double enough) {
  const Ranks ranks;
  auto trainer = Trainer::create(run_file(name), "", ranks).value();
  Trained trained;
  while (trainer.n_done() < steps && trained.best_recall < enough) {
    const auto report = trainer.step();
    EXPECT_TRUE(report.ok()) << (report.ok() ? "" : report.error().message);
    if (!report.ok()) break;
    trained.steps = trainer.n_done();
    if (trained.steps % 10 != 0) continue;
    const double recall = trainer.evaluate(64).recall.accuracy_beyond(kReach);
    trained.best_recall = std::max(trained.best_recall, recall);
    std::printf("%s step %d loss %.3f recall beyond %d: %.3f (%.0f CPU s)\n", name.c_str(),
                static_cast<int>(trained.steps), report.value().loss, kReach, recall,
                static_cast<double>(std::clock()) / CLOCKS_PER_SEC);
    std::fflush(stdout);
  }
  return trained;
}

TEST(Recall, CompressedAttentionReachesBeyondTheWindowsAndWindowsDoNot) {
  ASSERT_TRUE(prepare_runtime(1).ok());
  const Trained hybrid = train("recall-small.json", 200, kExpected);
  EXPECT_GE(hybrid.best_recall, kExpected);
  const Trained windows = train("recall-small-window.json", hybrid.steps, 1);
  EXPECT_EQ(windows.steps, hybrid.steps);
  EXPECT_LE(windows.best_recall, kGuessing);
}

}  // namespace
}  // namespace hadal::train
