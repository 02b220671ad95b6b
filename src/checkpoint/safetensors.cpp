#include "checkpoint/safetensors.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <optional>

#include "base/json.h"

namespace hadal::checkpoint {
namespace {

constexpr Dtype kDtypes[] = {Dtype::kF32, Dtype::kBf16, Dtype::kF8e4m3, Dtype::kF8e8m0,
                             Dtype::kI8,  Dtype::kI32,  Dtype::kI64};

std::optional<Dtype> dtype_of(std::string_view name) {
  if (name == "U8") return Dtype::kI8;  // packed codes: the sign of the container means nothing
  for (const Dtype dtype : kDtypes)
    if (name == dtype_name(dtype)) return dtype;
  return std::nullopt;
}

std::optional<uint64_t> to_offset(const json::Value& value) {
  const auto number = value.is_int() ? value.to_int64() : std::nullopt;
  if (!number || *number < 0) return std::nullopt;
  return static_cast<uint64_t>(*number);
}

Result<HeaderEntry> read_entry(const std::string& name, const json::Value& value, uint64_t data_begin,
                               uint64_t file_size, const std::string& file) {
  const auto corrupt = [&](const std::string& what) {
    return Error{Code::kCorrupt, fmt::format("{}: tensor {}: {}", file, name, what)};
  };
  const json::Value* dtype = value.find("dtype");
  const json::Value* shape = value.find("shape");
  const json::Value* offsets = value.find("data_offsets");
  if (!dtype || !dtype->is_string() || !shape || !shape->is_array() || !offsets || !offsets->is_array() ||
      offsets->as_array().size() != 2)
    return corrupt("expected dtype, shape and two data_offsets, found " + shown(value));
  HeaderEntry entry{.name = name, .dtype = Dtype::kF32, .shape = {}, .begin = 0, .end = 0};
  const auto known = dtype_of(dtype->as_string());
  if (!known)
    return Error{
        Code::kUnsupported,
        fmt::format("{}: tensor {}: expected F32, BF16, F8_E4M3, F8_E8M0, I8, U8, I32 or I64, found unknown dtype {}",
                    file, name, shown(*dtype))};
  entry.dtype = *known;
  uint64_t size = static_cast<uint64_t>(dtype_size(entry.dtype));
  if (shape->as_array().size() > 8)
    return corrupt(fmt::format("expected at most 8 dimensions, found {}", shape->as_array().size()));
  for (const json::Value& item : shape->as_array()) {
    const auto extent = to_offset(item);
    if (!extent) return corrupt("expected a shape of non-negative integers, found " + shown(*shape));
    if (__builtin_mul_overflow(size, *extent, &size))
      return corrupt(
          fmt::format("expected a size below 2^64 bytes, found shape {}: its size overflows", shown(*shape)));
    entry.shape.push_back(static_cast<int64_t>(*extent));
  }
  const auto begin = to_offset(offsets->as_array()[0]), end = to_offset(offsets->as_array()[1]);
  if (!begin || !end || *end < *begin)
    return corrupt("expected ascending data_offsets from 0, found " + shown(*offsets));
  if (*end - *begin != size)
    return corrupt(fmt::format("expected {} bytes for {} {}, found data_offsets of {} bytes", size,
                               dtype_name(entry.dtype), shape_text(entry.shape), *end - *begin));
  if (*end > file_size - data_begin)
    return corrupt(fmt::format("expected its data to end by byte {} of the file, found {} (truncated?)", file_size,
                               data_begin + *end));
  entry.begin = data_begin + *begin;
  entry.end = data_begin + *end;
  return entry;
}

}  // namespace

const char* dtype_name(Dtype dtype) {
  switch (dtype) {
    case Dtype::kF32:
      return "F32";
    case Dtype::kBf16:
      return "BF16";
    case Dtype::kF8e4m3:
      return "F8_E4M3";
    case Dtype::kF8e8m0:
      return "F8_E8M0";
    case Dtype::kI8:
      return "I8";
    case Dtype::kI32:
      return "I32";
    case Dtype::kI64:
      return "I64";
  }
  return "?";
}

std::string shown(const json::Value& value) {
  std::string text = json::dump(value, {.ascii = true});
  if (text.size() > 80) text = text.substr(0, 77) + "...";
  return text;
}

bool is_tensor_name(std::string_view name) {
  return !name.empty() && name.size() <= kMaxTensorName &&
         std::all_of(name.begin(), name.end(), [](char c) { return c > ' ' && c < 0x7F; });
}

std::string shape_text(const std::vector<int64_t>& shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

Result<Header> parse_header(std::span<const std::byte> bytes, uint64_t file_size, const std::string& file) {
  const auto corrupt = [&](const std::string& what) { return Error{Code::kCorrupt, file + ": " + what}; };
  if (bytes.size() < 8) return corrupt(fmt::format("expected at least 8 bytes, found {}", bytes.size()));
  uint64_t length = 0;
  std::memcpy(&length, bytes.data(), 8);
  if (length > kMaxHeaderBytes)
    return corrupt(fmt::format("expected a header of at most {} bytes, found {}", kMaxHeaderBytes, length));
  if (length > file_size - 8 || length > bytes.size() - 8)
    return corrupt(fmt::format("expected a header of {} bytes, found {} in the file", length, file_size - 8));
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()) + 8, length);
  auto parsed = json::parse(text, json::Duplicates::kReject);
  if (!parsed.ok()) return corrupt("header: " + parsed.error().message);
  if (!parsed.value().is_object()) return corrupt("header: expected an object");

  Header header;
  const uint64_t data_begin = 8 + length;
  for (const auto& [name, value] : parsed.value().as_object()) {
    if (name == "__metadata__") {
      if (value.is_object())
        for (const auto& [key, item] : value.as_object())
          if (item.is_string()) header.metadata.emplace_back(key, item.as_string());
      continue;
    }
    if (!is_tensor_name(name))
      return corrupt(fmt::format("expected tensor names of 1 to {} printable ASCII characters, found {}",
                                 kMaxTensorName, shown(name)));
    header.tensors.push_back(HADAL_TRY(read_entry(name, value, data_begin, file_size, file)));
  }
  std::stable_sort(header.tensors.begin(), header.tensors.end(),
                   [](const HeaderEntry& a, const HeaderEntry& b) { return a.begin < b.begin; });
  uint64_t last_end = 0;
  std::string last_name;
  for (const HeaderEntry& entry : header.tensors) {
    if (entry.begin == entry.end) continue;
    if (entry.begin < last_end)
      return corrupt(fmt::format("tensor {} overlaps tensor {}: expected its data from byte {} on, found byte {}",
                                 entry.name, last_name, last_end, entry.begin));
    last_end = entry.end;
    last_name = entry.name;
  }
  return header;
}

}  // namespace hadal::checkpoint
