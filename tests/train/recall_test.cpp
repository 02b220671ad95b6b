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

// Trains until recall beyond the reach is `enough`, or for `steps`.
double best_recall(const std::string& name, int64_t steps, double enough) {
  const Ranks ranks;
  auto trainer = Trainer::create(run_file(name), "", ranks).value();
  double best = 0;
  while (trainer.n_done() < steps && best < enough) {
    const auto report = trainer.step();
    EXPECT_TRUE(report.ok()) << (report.ok() ? "" : report.error().message);
    if (!report.ok()) return 0;
    if (trainer.n_done() % 10 != 0) continue;
    best = std::max(best, trainer.evaluate(64).recall.accuracy_beyond(kReach));
    std::printf("%s step %d loss %.3f recall beyond %d: %.3f (%.0f CPU s)\n", name.c_str(),
                static_cast<int>(trainer.n_done()), report.value().loss, kReach, best,
                static_cast<double>(std::clock()) / CLOCKS_PER_SEC);
    std::fflush(stdout);
  }
  return best;
}

TEST(Recall, CompressedAttentionRecallsBeyondTheWindows) {
  ASSERT_TRUE(prepare_runtime(1).ok());
  EXPECT_GE(best_recall("recall-small.json", 200, kExpected), kExpected);
}

TEST(Recall, WindowsAloneDoNot) {
  ASSERT_TRUE(prepare_runtime(1).ok());
  EXPECT_LE(best_recall("recall-small-window.json", 30, 1), kGuessing);
}

}  // namespace
}  // namespace hadal::train
