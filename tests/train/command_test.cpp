// hadal train as people meet it: a run that is stopped, goes on, is drawn, and leaves a model that
// hadal runs.

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>

#include "base/file.h"
#include "base/json.h"
#include "tests/support/shared.h"

namespace hadal {
namespace {

using testing::fixture;
using testing::temp_dir;

struct Outcome {
  int status = -1;
  std::string out, err;
};

Outcome hadal(const std::string& arguments) {
  const std::string directory = temp_dir("out");
  const std::string command = fmt::format("{0} {1} </dev/null >{2}/out 2>{2}/err", HADAL_PROGRAM, arguments, directory);
  const int status = std::system(command.c_str());
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, read_file(directory + "/out").value(),
          read_file(directory + "/err").value()};
}

std::string run_file(int steps) {
  const std::string path = temp_dir("run") + "/run.json";
  std::ofstream(path) << R"({"seed": 3, "tokens_per_step": 160, "learning_rate": 0.003, "warmup": 4, "save_every": 1000,
    "evaluate_every": 5, "evaluate_rows": 2, "distances": [10], "data": {"r": {"kind": "recall", "keys": 24, "values": 24,
    "fillers": 24}}, "stages": [{"name": "all", "steps": )"
                      << steps << R"(, "length": 80, "data": "r", "mtp": 0.3}],
    "model": )" << read_file(fixture("micro/config.json")).value()
                      << "}";
  return path;
}

std::string log_of(const std::string& directory) { return read_file(directory + "/log.jsonl").value(); }

// The losses of the log: what two equal runs have in common (times differ).
std::vector<std::string> losses(const std::string& directory) {
  std::vector<std::string> losses;
  std::istringstream lines(log_of(directory));
  for (std::string line; std::getline(lines, line);) {
    const json::Value value = json::parse(line).value();
    if (const json::Value* loss = value.find("loss")) losses.push_back(loss->as_string());
  }
  return losses;
}

TEST(TrainCommand, StoppedBySignalAndResumedIsTheSameRun) {
  const std::string run = run_file(12), whole = temp_dir("whole") + "/run", parts = temp_dir("parts") + "/run";
  ASSERT_EQ(hadal("train " + run + " -o " + whole).status, 0);
  const Outcome limited = hadal("train " + run + " -o " + parts + " --max-seconds 0.000001");
  EXPECT_EQ(limited.status, 0);
  EXPECT_NE(limited.err.find("stopped after step 1 of 12"), std::string::npos) << limited.err;
  const pid_t child = fork();
  if (child == 0) {
    if (!freopen((parts + "/err").c_str(), "w", stderr)) _exit(126);
    execl(HADAL_PROGRAM, HADAL_PROGRAM, "train", run.c_str(), "-o", parts.c_str(), static_cast<char*>(nullptr));
    _exit(127);
  }
  while (losses(parts).size() < 3 && waitpid(child, nullptr, WNOHANG) == 0) usleep(10000);
  kill(child, SIGTERM);
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_LT(losses(parts).size(), 12U);
  const Outcome last = hadal("train " + run + " -o " + parts);
  ASSERT_EQ(last.status, 0) << last.err;
  EXPECT_NE(last.err.find("resumed at"), std::string::npos) << last.err;
  EXPECT_EQ(losses(parts), losses(whole));
  EXPECT_EQ(losses(whole).size(), 12U);
  const std::string weights = "/model/model.safetensors";
  EXPECT_EQ(read_file(whole + weights).value(), read_file(parts + weights).value());
  EXPECT_EQ(hadal("inspect " + whole + "/model").status, 0);
  ASSERT_EQ(hadal("train --curves " + whole).status, 0);
  EXPECT_NE(read_file(whole + "/curves.html").value().find("recall by distance"), std::string::npos);
}

TEST(TrainCommand, TwoProcesses) {
  const std::string run = run_file(4), one = temp_dir("one") + "/run", two = temp_dir("two") + "/run";
  ASSERT_EQ(hadal("train " + run + " -o " + one).status, 0);
  const Outcome outcome = hadal("train " + run + " -o " + two + " --ranks 2");
  ASSERT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_NE(outcome.err.find("2 processes"), std::string::npos) << outcome.err;
  const auto a = losses(one), b = losses(two);
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) EXPECT_NEAR(std::stod(a[i]), std::stod(b[i]), 1e-4);
}

TEST(TrainCommand, FailuresAreStatus1AndWrongUsage2) {
  EXPECT_EQ(hadal("train").status, 2);
  const std::string run = run_file(4);
  for (const std::string& arguments :
       {"train /nonexistent.json -o " + temp_dir("x"), std::string("train --curves /nonexistent"),
        "train " + run + " -o " + temp_dir("y") + " --from /nonexistent",
        "train " + run + " -o " + temp_dir("z") + " --ranks 3"}) {
    const Outcome outcome = hadal(arguments);
    EXPECT_EQ(outcome.status, 1) << arguments;
    EXPECT_TRUE(outcome.err.starts_with("hadal: ")) << outcome.err;
  }
}

}  // namespace
}  // namespace hadal
