// hadal run: one prompt, the answer on stdout.

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <iostream>
#include <iterator>
#include <memory>

#include "cli/commands.h"
#include "cli/dialogue.h"
#include "cli/taps.h"
#include "cli/terminal.h"

namespace hadal::cli {
namespace {

constexpr int kInterrupted = 130;  // 128 + SIGINT, as shells count

struct RunCommand {
  ModelOptions model;
  std::string prompt, system, taps;
  bool raw = false;
};

Result<int> run(const RunCommand& command) {
  std::string prompt = command.prompt;
  if (prompt == "-") prompt.assign(std::istreambuf_iterator<char>(std::cin), {});
  const Think think = HADAL_TRY(think_by_name(command.model.think));
  auto dialogue = HADAL_TRY(Dialogue::open(command.model));

  // Only the answer goes to stdout; reasoning is shown on stderr, dimmed where that is a terminal.
  bool in_reasoning = false;
  const auto dim = [&](bool on) {
    if (on == in_reasoning) return;
    in_reasoning = on;
    if (stderr_is_terminal()) fmt::print(stderr, "{}", on ? "\x1b[2m" : "\x1b[0m\n");
    if (!stderr_is_terminal() && !on) fmt::print(stderr, "\n");
    std::fflush(stderr);
  };
  bool wrote = true;
  const auto sink = [&](bool is_reasoning, const std::string& text) {
    dim(is_reasoning);
    std::FILE* out = is_reasoning ? stderr : stdout;
    const std::string shown = (is_reasoning ? stderr_is_terminal() : stdout_is_terminal()) ? printable(text) : text;
    wrote = std::fwrite(shown.data(), 1, shown.size(), out) == shown.size() && std::fflush(out) == 0 && wrote;
  };
  json::Array messages;
  if (!command.system.empty()) messages.push_back(json::Object{{"role", "system"}, {"content", command.system}});
  messages.push_back(json::Object{{"role", "user"}, {"content", prompt}});
  const auto answer =
      HADAL_TRY(command.raw ? dialogue->complete(prompt, sink) : dialogue->answer(messages, think, sink));
  dim(false);
  if (stdout_is_terminal()) fmt::print("\n");
  if (stderr_is_terminal()) fmt::print(stderr, "\x1b[2m{}\x1b[0m\n", Dialogue::statistics(answer.completion));
  if (!command.taps.empty()) {
    TapCollector taps;
    HADAL_TRY(taps.record(dialogue->engine().transformer(), answer.ids));
    HADAL_TRY(taps.write(command.taps));
  }
  if (!wrote) return Error{Code::kIo, "stdout: cannot write"};
  return answer.completion.finish == engine::Finish::kCancelled ? kInterrupted : 0;
}

}  // namespace

void add_run(CLI::App& app, int& exit_status) {
  CLI::App* command = app.add_subcommand("run", "One prompt; the answer goes to stdout");
  auto options = std::make_shared<RunCommand>();
  add_model_options(*command, options->model);
  command->add_option("-p,--prompt", options->prompt, "the prompt; - reads stdin")->type_name("TEXT")->required();
  command->add_option("--system", options->system, "system message")->type_name("TEXT");
  command->add_flag("--raw", options->raw, "continue the text as it is, without the chat format");
  command
      ->add_option("--dump-taps", options->taps, "write every intermediate tensor of prompt and answer (safetensors)")
      ->type_name("FILE");
  command->callback([options, &exit_status] {
    install_interrupt_handler();
    const auto status = run(*options);
    exit_status = status.ok()                               ? status.value()
                  : status.error().code == Code::kCancelled ? kInterrupted
                                                            : report_failure(status.error());
  });
}

}  // namespace hadal::cli
