// The program: one subcommand per file.

#include <CLI/CLI.hpp>

#include "base/file.h"
#include "cli/commands.h"

int main(int argc, char** argv) {
  hadal::install_map_guard();
  CLI::App app{"hadal: DeepSeek V4 as published, on your own machine"};
  app.require_subcommand(1);
  app.set_version_flag("--version", "hadal 0.1.0");
  int exit_status = 0;
  hadal::cli::add_encode(app, exit_status);
  hadal::cli::add_inspect(app, exit_status);
  hadal::cli::add_parse(app, exit_status);
  hadal::cli::add_synth(app, exit_status);
  hadal::cli::add_verify(app, exit_status);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  return exit_status;
}
