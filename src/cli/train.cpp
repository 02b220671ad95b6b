// hadal train: the trainer, in builds that have one.

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>

#include "cli/commands.h"
#include "cli/terminal.h"
#include "train/run.h"

namespace hadal::cli {
namespace {

struct TrainCommand {
  train::RunOptions run;
  std::string curves;
};

#ifdef HADAL_TRAINER
Status run_train(TrainCommand& command) {
  if (!command.curves.empty()) {
    const std::string page = command.run.directory.empty() ? command.curves + "/curves.html" : command.run.directory;
    return train::write_curves(command.curves, page);
  }
  train::restart_with_blas_core();
  return train::run(command.run);
}
#else
Status run_train(TrainCommand&) {
  return Error{Code::kUnsupported,
               "train: this build has no trainer; `make trainer` installs libtorch and builds "
               "build/trainer/hadal"};
}
#endif

}  // namespace

void add_train(CLI::App& app, int& exit_status) {
  CLI::App* command = app.add_subcommand("train", "Train a model (docs/training.md)");
  auto options = std::make_shared<TrainCommand>();
  command->add_option("RUN", options->run.run_file, "the run: model, stages, data (JSON)");
  command->add_option("-o,--output", options->run.directory, "directory of the run; resumes what it holds");
  command->add_option("--from", options->run.from, "start from this checkpoint's weights");
  command->add_option("--max-seconds", options->run.max_seconds, "save and stop after this time")
      ->check(CLI::PositiveNumber);
  command->add_option("--ranks", options->run.ranks, "processes that share each step")->check(CLI::Range(1, 64));
  command->add_option("--threads", options->run.threads, "threads of each process")->check(CLI::Range(1, 1024));
  command->add_flag("--restart", options->run.restart, "begin anew, whatever the directory holds");
  command->add_option("--curves", options->curves, "draw the curves of a run's directory (-o FILE.html)");
  command->callback([options, &exit_status] {
    const bool complete = !options->run.run_file.empty() && !options->run.directory.empty();
    if (!complete && options->curves.empty()) {
      fmt::print(stderr, "hadal: train: expected RUN.json and -o DIR, or --curves DIR\n");
      exit_status = 2;
      return;
    }
    const Status status = run_train(*options);
    if (!status.ok()) exit_status = report_failure(status.error());
  });
}

}  // namespace hadal::cli
