#include "cli/cache_option.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <vector>

#include "checkpoint/summary.h"

namespace hadal::cli {

void add_cache_options(CLI::App& command, CacheOptions& options) {
  command.add_option("--cache-dir", options.directory, "states of conversations (~/.cache/hadal/kv)")->type_name("DIR");
  command.add_option("--cache-budget", options.budget_gib, "0: none (a tenth of the free disk, at most 64)")
      ->check(CLI::Range(0.0, 1e6))
      ->type_name("GIB")
      ->check(CLI::NonNegativeNumber);
}

std::string default_cache_directory() {
  const char* cache = std::getenv("XDG_CACHE_HOME");
  if (cache && *cache) return std::string(cache) + "/hadal/kv";
  const char* home = std::getenv("HOME");
  return home && *home ? std::string(home) + "/.cache/hadal/kv" : "";
}

Result<std::string> cache_fingerprint(const std::string& model) {
  std::string all = HADAL_TRY(checkpoint::sampled_fingerprint(model));
  std::vector<std::string> files;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(model, error)) {
    const std::string name = entry.path().filename();
    struct stat about {};
    if ((!name.ends_with(".safetensors") && name != "config.json") || ::stat(entry.path().c_str(), &about) != 0)
      continue;
    files.push_back(fmt::format("{} {} {}.{}", name, about.st_size, about.st_mtim.tv_sec, about.st_mtim.tv_nsec));
  }
  if (error) return Error{Code::kIo, fmt::format("{}: cannot read: {}", model, error.message())};
  std::sort(files.begin(), files.end());
  for (const std::string& file : files) all += "\n" + file;
  return hex(sha256(all));
}

Result<std::unique_ptr<cache::Store>> open_store(const CacheOptions& options, engine::Engine& engine,
                                                 const std::string& model) {
  const std::string directory = options.directory.empty() ? default_cache_directory() : options.directory;
  if (options.budget_gib == 0 || directory.empty()) return std::unique_ptr<cache::Store>();
  const auto warn = [](const std::string& line) { fmt::print(stderr, "hadal: {}\n", line); };
  cache::StoreOptions store{.directory = directory,
                            .budget = static_cast<int64_t>(options.budget_gib * (1 << 30)),
                            .identity = {.model = std::filesystem::weakly_canonical(model).filename().string(),
                                         .fingerprint = HADAL_TRY(cache_fingerprint(model)),
                                         .arithmetic = engine::kArithmeticVersion},
                            .layout = std::make_shared<const kv::Layout>(engine.new_sequence().layout()),
                            .warn = warn};
  if (options.budget_gib < 0) {
    std::error_code error;
    cache::make_cache_directory(directory);
    uintmax_t room = std::filesystem::space(directory, error).available;
    for (const auto& entry : std::filesystem::directory_iterator(directory, error)) {
      std::error_code gone;
      if (const auto size = entry.file_size(gone); !gone) room += size;  // what the cache has is not lost to it
    }
    store.budget = error ? 0 : static_cast<int64_t>(std::min<uintmax_t>(room / 10, uintmax_t{64} << 30));
  }
  auto opened = cache::Store::open(std::move(store));
  if (opened.ok()) return std::move(opened).value();
  warn("context cache: " + opened.error().message + "; serving without it");
  return std::unique_ptr<cache::Store>();
}

}  // namespace hadal::cli
