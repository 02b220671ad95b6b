#include "cli/model_option.h"

#include <CLI/CLI.hpp>
#include <filesystem>

namespace hadal::cli {
namespace {

// "" if there is none.
std::string shipped_model() {
  std::error_code error;
  const auto program = std::filesystem::read_symlink("/proc/self/exe", error);
  if (error) return "";
  for (const char* place : {"../../models/hadal-nano", "../share/hadal/hadal-nano"}) {  // build/release, bin
    const auto directory = (program.parent_path() / place).lexically_normal();
    if (std::filesystem::exists(directory / "config.json", error)) return directory.string();
  }
  return "";
}

}  // namespace

CLI::Option* add_model_option(CLI::App& command, std::string& directory) {
  directory = shipped_model();
  const char* help = directory.empty() ? "checkpoint directory" : "checkpoint directory (the shipped hadal-nano)";
  CLI::Option* option = command.add_option("-m,--model", directory, help)->type_name("DIR")->envname("HADAL_MODEL");
  if (directory.empty()) option->required();
  return option;
}

}  // namespace hadal::cli
