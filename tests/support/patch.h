// Copies of checkpoints and golden files with something changed in them.
#pragma once

#include <functional>
#include <span>
#include <string>

namespace hadal::testing {

std::string copy_of(const std::string& directory);  // all its files, in a fresh temporary directory
// Hands the bytes of one tensor of a safetensors file to `change` and writes the file back.
void patch_tensor(const std::string& file, const std::string& tensor,
                  const std::function<void(std::span<char>)>& change);
// Replaces the first `from` of a text file, which must be there.
void patch_text(const std::string& file, const std::string& from, const std::string& to);

}  // namespace hadal::testing
