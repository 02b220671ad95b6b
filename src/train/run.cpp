#include "train/run.h"

#include <fmt/format.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>
#include <vector>

#include "base/file.h"
#include "train/runtime.h"
#include "train/trainer.h"

namespace hadal::train {
namespace {

using Clock = std::chrono::steady_clock;

std::atomic<bool> stop_requested{false};
static_assert(std::atomic<bool>::is_always_lock_free);

// The first signal ends the run after the step; the handler then steps aside, so that a second one
// kills.
void catch_signals() {
  struct sigaction action {};
  action.sa_handler = [](int) { stop_requested = true; };
  action.sa_flags = static_cast<int>(SA_RESETHAND);
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

std::string duration(double seconds) {
  const auto s = static_cast<int64_t>(seconds);
  return s < 3600 ? fmt::format("{}:{:02}", s / 60, s % 60)
                  : fmt::format("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60);
}

// log.jsonl: one line per step, and one per evaluation.
class Log {
 public:
  // Keeps the lines of steps before `step`: the others are written again.
  static Result<Log> open(const std::string& path, int64_t step) {
    std::string kept;
    if (file_exists(path)) {
      const std::string text = HADAL_TRY(read_file(path));
      for (size_t begin = 0; begin < text.size();) {
        const size_t end = text.find('\n', begin);
        if (end == std::string::npos) break;  // cut off by a crash
        const auto line = json::parse(std::string_view(text).substr(begin, end - begin));
        const json::Value* at = line.ok() ? line.value().find("step") : nullptr;
        if (at && at->is_number() && at->to_int64().value_or(step) < step) kept += text.substr(begin, end + 1 - begin);
        begin = end + 1;
      }
    }
    Log log;
    log.file_.open(path, std::ios::binary | std::ios::trunc);
    log.file_ << kept << std::flush;
    if (!log.file_) return Error{Code::kIo, path + ": cannot write"};
    return log;
  }
  void write(const json::Object& line) { file_ << json::dump(json::Value(line)) << '\n' << std::flush; }

 private:
  std::ofstream file_;
};

json::Object evaluation_line(int64_t step, const Trainer::Evaluation& evaluation) {
  json::Object line{{"step", step}, {"held_out_loss", evaluation.loss}};
  json::Object recall, asked;
  for (size_t i = 0; i < evaluation.recall.n_buckets(); ++i) {
    if (evaluation.recall.total(i) == 0) continue;
    recall.emplace_back(evaluation.recall.name(i), evaluation.recall.accuracy(i));
    asked.emplace_back(evaluation.recall.name(i), evaluation.recall.total(i));
  }
  if (!recall.empty()) {
    line.emplace_back("recall", std::move(recall));
    line.emplace_back("asked", std::move(asked));
  }
  return line;
}

std::string recall_text(const Trainer::Evaluation& evaluation) {
  std::string text;
  for (size_t i = 0; i < evaluation.recall.n_buckets(); ++i)
    if (evaluation.recall.total(i) > 0)
      text += fmt::format("  {}: {:.2f}", evaluation.recall.name(i), evaluation.recall.accuracy(i));
  return text;
}

// What people see on stderr: on a terminal one line that is rewritten, elsewhere a line now and
// then.
class Progress {
 public:
  Progress(int64_t total, int64_t tokens_per_step)
      : total_(total), tokens_per_step_(tokens_per_step), terminal_(isatty(2) != 0) {}
  void step(const StepReport& report) {
    ++n_;
    const double rate = static_cast<double>(n_) / std::max(1e-9, seconds_since(start_));
    if (terminal_ ? seconds_since(shown_) < 0.2 : seconds_since(shown_) < 30) return;
    shown_ = Clock::now();
    fmt::print(stderr, "{}step {} of {}  {}  loss {:.4f}  norm {:.2f}  {:.0f} tokens/s  {} left{}",
               terminal_ ? "\r" : "", report.step + 1, total_, report.stage, report.loss, report.gradient_norm,
               rate * static_cast<double>(tokens_per_step_),
               duration(static_cast<double>(total_ - report.step - 1) / rate), terminal_ ? "\x1b[K" : "\n");
    std::fflush(stderr);
  }
  void line(const std::string& text) const { fmt::print(stderr, "{}{}\n", terminal_ ? "\r\x1b[K" : "", text); }

 private:
  int64_t total_, tokens_per_step_, n_ = 0;
  bool terminal_;
  Clock::time_point start_ = Clock::now(), shown_ = start_ - std::chrono::hours(1);
};

// The other ranks: this program again, with its rank in the environment as other launchers have it.
Result<std::vector<pid_t>> start_ranks(int n) {
  const std::string text = HADAL_TRY(read_file("/proc/self/cmdline", 1 << 22));
  std::vector<std::string> arguments;
  for (size_t begin = 0; begin < text.size(); begin += arguments.back().size() + 1)
    arguments.emplace_back(text.c_str() + begin);
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  std::vector<pid_t> children;
  for (int rank = 1; rank < n; ++rank) {
    const pid_t child = fork();
    if (child < 0) return Error{Code::kIo, fmt::format("cannot start rank {}: {}", rank, std::strerror(errno))};
    if (child == 0) {
      setenv("RANK", std::to_string(rank).c_str(), 1);
      setenv("WORLD_SIZE", std::to_string(n).c_str(), 1);
      execv("/proc/self/exe", argv.data());
      _exit(127);
    }
    children.push_back(child);
  }
  return children;
}

Result<int> integer_from_environment(const char* name, int least, int most) {
  const char* text = getenv(name);
  char* end = nullptr;
  const long value = text ? strtol(text, &end, 10) : -1;
  if (!text || end == text || *end || value < least || value > most)
    return Error{Code::kInvalid, fmt::format("{}: expected an integer from {} to {}, found {}", name, least, most,
                                             text ? text : "nothing")};
  return static_cast<int>(value);
}

// All ranks stop together: any rank's wish is everybody's.
Result<bool> agreed(const Ranks& ranks, bool wish) {
  if (ranks.size() == 1) return wish;
  torch::Tensor wishes = torch::full({1}, wish ? 1.0 : 0.0);
  HADAL_TRY(ranks.sum(wishes));
  return wishes.item<double>() > 0;
}

Status train(const RunOptions& options, int rank, int size) {
  const auto start = Clock::now();
  const bool first = rank == 0;
  const std::string states = options.directory + "/states", store = options.directory + "/ranks";
  RunFile run = HADAL_TRY(read_run(options.run_file));
  const std::string runtime = HADAL_TRY(prepare_runtime(options.threads));
  Ranks ranks;
  if (size > 1) ranks = HADAL_TRY(Ranks::join(rank, size, store));
  Trainer trainer = HADAL_TRY(Trainer::create(std::move(run), options.from, ranks));
  const bool resumed = HADAL_TRY(trainer.resume(states));
  const int64_t total = trainer.run().n_steps();
  Progress progress(total, trainer.run().tokens_per_step);
  std::optional<Log> log;
  if (first) {
    log = HADAL_TRY(Log::open(options.directory + "/log.jsonl", trainer.n_done()));
    int64_t parameters = 0;
    for (const Named& parameter : trainer.optimiser().parameters()) parameters += parameter.tensor.numel();
    progress.line(fmt::format("{} parameters, {} steps{}; {}, {} process{}", parameters, total,
                              resumed ? fmt::format(", resumed at {}", trainer.n_done()) : "", runtime, size,
                              size == 1 ? "" : "es"));
  }
  const auto evaluate = [&] {
    if (!first) return;
    const Trainer::Evaluation evaluation = trainer.evaluate(trainer.run().evaluate_rows);
    log->write(evaluation_line(trainer.n_done() - 1, evaluation));
    progress.line(
        fmt::format("step {}: held-out loss {:.4f}{}", trainer.n_done(), evaluation.loss, recall_text(evaluation)));
  };
  int skipped = 0;
  while (trainer.n_done() < total) {
    const StepReport report = HADAL_TRY(trainer.step());
    if (first) {
      json::Object line = report.to_json();
      line.emplace_back("tokens_per_second",
                        static_cast<double>(trainer.run().tokens_per_step) / std::max(1e-9, report.seconds));
      log->write(line);
      progress.step(report);
      if (report.skipped)
        progress.line(fmt::format("step {}: skipped, gradient norm {}", report.step + 1, report.gradient_norm));
    }
    skipped = report.skipped ? skipped + 1 : 0;
    if (skipped == 3)
      return Error{Code::kInvalid,
                   fmt::format("step {}: three steps in a row with a gradient out of bounds ({}); the states "
                               "in {} are from before",
                               report.step + 1, report.gradient_norm, states)};
    const int64_t done = trainer.n_done();
    if (done % trainer.run().evaluate_every == 0 || done == total) evaluate();
    const bool stop = HADAL_TRY(
        agreed(ranks, stop_requested || (options.max_seconds > 0 && seconds_since(start) > options.max_seconds)));
    if (first && (stop || done == total || done % trainer.run().save_every == 0)) HADAL_TRY(trainer.save(states));
    if (stop && done < total) {
      if (first) progress.line(fmt::format("stopped after step {} of {}; the same command goes on", done, total));
      return {};
    }
  }
  if (first) {
    const std::string model = options.directory + "/model";
    std::error_code error;
    std::filesystem::remove_all(model, error);
    HADAL_TRY(trainer.export_model(model));
    progress.line(fmt::format("done in {}: {}", duration(seconds_since(start)), model));
  }
  return {};
}

}  // namespace

Status run(const RunOptions& options) {
  catch_signals();
  int rank = 0, size = options.ranks;
  const bool launched = getenv("WORLD_SIZE") != nullptr;
  if (launched) {
    size = HADAL_TRY(integer_from_environment("WORLD_SIZE", 1, 64));
    rank = HADAL_TRY(integer_from_environment("RANK", 0, size - 1));
  }
  std::error_code error;
  std::vector<pid_t> children;
  if (rank == 0) {
    std::filesystem::create_directories(options.directory, error);
    if (error) return Error{Code::kIo, fmt::format("{}: cannot create: {}", options.directory, error.message())};
    if (options.restart)
      for (const char* name : {"/states", "/model", "/log.jsonl"})
        std::filesystem::remove_all(options.directory + name, error);
    if (!launched) {
      std::filesystem::remove(options.directory + "/ranks", error);  // a meeting place is used once
      if (size > 1) children = HADAL_TRY(start_ranks(size));
    }
  }
  const Status status = train(options, rank, size);
  Status outcome = status;
  for (const pid_t child : children) {
    if (!status.ok()) kill(child, SIGKILL);  // it would wait for this one
    int result = 0;
    waitpid(child, &result, 0);
    if (status.ok() && result != 0) outcome = Error{Code::kIo, "another rank failed"};
  }
  if (rank == 0) std::filesystem::remove(options.directory + "/ranks", error);
  return outcome;
}

}  // namespace hadal::train
