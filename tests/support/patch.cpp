#include "tests/support/patch.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>

#include "checkpoint/safetensors.h"
#include "tests/support/shared.h"

namespace hadal::testing {
namespace {

std::string read_all(const std::string& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

void write_all(const std::string& file, const std::string& content) {
  std::filesystem::permissions(file, std::filesystem::perms::owner_write, std::filesystem::perm_options::add);
  std::ofstream(file, std::ios::binary) << content;
}

}  // namespace

std::string copy_of(const std::string& directory) {
  const std::string to = temp_dir("copy");
  std::filesystem::copy(directory, to, std::filesystem::copy_options::recursive);
  return to;
}

void patch_tensor(const std::string& file, const std::string& tensor,
                  const std::function<void(std::span<char>)>& change) {
  std::string content = read_all(file);
  const auto header = checkpoint::parse_header(std::as_bytes(std::span(content)), content.size(), file);
  ASSERT_TRUE(header.ok()) << header.error().message;
  for (const auto& entry : header.value().tensors) {
    if (entry.name != tensor) continue;
    change(std::span(content).subspan(entry.begin, entry.end - entry.begin));
    write_all(file, content);
    return;
  }
  FAIL() << file << " has no tensor " << tensor;
}

void patch_text(const std::string& file, const std::string& from, const std::string& to) {
  std::string content = read_all(file);
  const size_t at = content.find(from);
  ASSERT_NE(at, std::string::npos) << file << " does not hold " << from;
  write_all(file, content.replace(at, from.size(), to));
}

}  // namespace hadal::testing
