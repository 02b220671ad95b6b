#include "cli/golden.h"

#include <fmt/format.h>

#include <cstring>

#include "checkpoint/safetensors.h"
#include "tensor/formats.h"

namespace hadal::cli {

Result<Golden> Golden::open(const std::string& path) {
  Golden golden;
  golden.file_ = HADAL_TRY(FileMap::open(path));
  const auto bytes = golden.file_.bytes();
  const auto header = HADAL_TRY(checkpoint::parse_header(bytes, bytes.size(), path));
  for (const auto& entry : header.tensors)
    golden.tensors_[entry.name] = {checkpoint::dtype_name(entry.dtype), entry.shape, bytes.data() + entry.begin};
  for (const auto& [key, value] : header.metadata) golden.metadata_[key] = value;
  const auto format = golden.metadata_.find("format");
  if (format == golden.metadata_.end() || format->second != "hadal-golden-1")
    return Error{Code::kUnsupported, fmt::format("{}: expected metadata format hadal-golden-1, found {}", path,
                                                 format == golden.metadata_.end() ? "none" : format->second)};
  golden.path_ = path;
  if (!golden.has("tokens")) return Error{Code::kCorrupt, path + ": tensor tokens is missing"};
  const auto& shape = golden.shape("tokens");
  HADAL_TRY(golden.expect("tokens", true, {shape.empty() ? 0 : shape[0]}));
  return golden;
}

Status Golden::expect(const std::string& name, bool is_integer, const std::vector<int64_t>& shape) const {
  const auto it = tensors_.find(name);
  if (it == tensors_.end()) return Error{Code::kCorrupt, fmt::format("{}: tensor {} is missing", path_, name)};
  const auto& [dtype, found, data] = it->second;
  const bool right = is_integer ? dtype == "I64" || dtype == "I32" : dtype == "F32" || dtype == "BF16";
  if (right && found == shape) return {};
  return Error{Code::kCorrupt, fmt::format("{}: tensor {}: expected {} [{}], found {} [{}]", path_, name,
                                           is_integer ? "I64 or I32" : "F32 or BF16", fmt::join(shape, ", "), dtype,
                                           fmt::join(found, ", "))};
}

std::vector<std::string> Golden::names() const {
  std::vector<std::string> names;
  for (const auto& [name, entry] : tensors_) names.push_back(name);
  return names;
}

std::vector<float> Golden::floats(const std::string& name) const {
  const Entry& entry = tensors_.at(name);
  size_t n = 1;
  for (const int64_t extent : entry.shape) n *= static_cast<size_t>(extent);
  std::vector<float> values(n);
  for (size_t i = 0; i < n; ++i) {
    if (entry.dtype == "BF16") {
      bf16 bits;
      std::memcpy(&bits, entry.data + 2 * i, 2);
      values[i] = to_f32(bits);
    } else {
      std::memcpy(&values[i], entry.data + 4 * i, 4);
    }
  }
  return values;
}

std::vector<int64_t> Golden::integers(const std::string& name) const {
  const Entry& entry = tensors_.at(name);
  size_t n = 1;
  for (const int64_t extent : entry.shape) n *= static_cast<size_t>(extent);
  std::vector<int64_t> values(n);
  for (size_t i = 0; i < n; ++i) {
    if (entry.dtype == "I32") {
      int32_t value;
      std::memcpy(&value, entry.data + 4 * i, 4);
      values[i] = value;
    } else {
      std::memcpy(&values[i], entry.data + 8 * i, 8);
    }
  }
  return values;
}

std::vector<TokenId> Golden::tokens() const {
  std::vector<TokenId> tokens;
  for (const int64_t id : integers("tokens")) tokens.push_back(static_cast<TokenId>(id));
  return tokens;
}

double Golden::stat(const std::string& key, const std::string& field) const {
  const auto it = metadata_.find(key);
  if (it == metadata_.end()) return 0;
  const auto value = json::parse(it->second);
  if (!value.ok()) return 0;
  const json::Value* number = value.value().find(field);
  return number ? number->to_double().value_or(0) : 0;
}

}  // namespace hadal::cli
