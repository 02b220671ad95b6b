// The program: one subcommand per file.

#include <signal.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <new>

#include "base/file.h"
#include "cli/commands.h"

int main(int argc, char** argv) {
  hadal::install_map_guard();
  std::set_new_handler([] {  // in any thread: one line instead of an abort
    constexpr char kLine[] = "hadal: out of memory: an allocation was refused (ulimit -v?)\n";
    [[maybe_unused]] const ssize_t written = ::write(2, kLine, sizeof kLine - 1);
    ::_exit(1);
  });
  signal(SIGPIPE, SIG_DFL);  // a reader that leaves (hadal run | head) ends us quietly
  CLI::App app{"hadal: DeepSeek V4 as published, on your own machine"};
  app.name("hadal");
  app.get_formatter()->column_width(28);
  app.require_subcommand(1);
  app.set_version_flag("--version", "hadal 0.1.0");
  int exit_status = 0;
  using namespace hadal::cli;
  add_bench(app, exit_status);
  add_cache(app, exit_status);
  add_chat(app, exit_status);
  add_data(app, exit_status);
  add_encode(app, exit_status);
  add_eval(app, exit_status);
  add_inspect(app, exit_status);
  add_key(app, exit_status);
  add_parse(app, exit_status);
  add_quantize(app, exit_status);
  add_run(app, exit_status);
  add_serve(app, exit_status);
  add_synth(app, exit_status);
  add_tokenize(app, exit_status);
  add_train(app, exit_status);
  add_usage(app, exit_status);
  add_verify(app, exit_status);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {  // also --help and --version
    return app.exit(error) == 0 ? 0 : 2;
  }
  return exit_status;
}
