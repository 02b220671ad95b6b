#include "tests/support/shared.h"

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <vector>

namespace hadal::testing {
namespace {

struct TempDirs {
  std::vector<std::string> paths;
  ~TempDirs() {
    std::error_code ignored;
    for (const auto& path : paths) std::filesystem::remove_all(path, ignored);
  }
};

}  // namespace

std::string fixture(const std::string& name) { return std::string(HADAL_SOURCE_DIR "/tests/fixtures/") + name; }

std::string shared_path(const std::string& name) {
  const std::string path = std::string(HADAL_SOURCE_DIR "/../shared/") + name;
  return std::filesystem::exists(path) ? path : "";
}

std::string temp_dir(const std::string& name) {
  static TempDirs dirs;
  std::string pattern = (std::filesystem::temp_directory_path() / ("hadal-" + name + "-XXXXXX")).string();
  if (!mkdtemp(pattern.data())) std::abort();
  dirs.paths.push_back(pattern);
  return pattern;
}

}  // namespace hadal::testing
