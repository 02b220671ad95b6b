// The safetensors container: eight bytes of header length, a JSON header, tensor data. Everything in it is
// untrusted: sizes are checked against the file before use.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"
#include "base/json.h"
#include "base/result.h"
#include "tensor/tensor.h"

namespace hadal::checkpoint {

inline constexpr uint64_t kMaxHeaderBytes = uint64_t{100} << 20;
inline constexpr size_t kMaxTensorName = 512;

struct HeaderEntry {
  std::string name;
  Dtype dtype = Dtype::kF32;
  std::vector<int64_t> shape;
  uint64_t begin = 0, end = 0;  // bytes in the file
};

struct Header {
  std::vector<HeaderEntry> tensors;  // in the order of their data
  std::vector<std::pair<std::string, std::string>> metadata;
};

// `bytes`: the whole file, or its beginning with `file_size` telling the size of the whole.
// Errors (kCorrupt, kUnsupported) name file and tensor: a header longer than the file, a repeated or unprintable
// name, an unknown dtype, offsets that overlap, leave the file or differ from shape x dtype. Gaps between tensors and
// unaligned data are allowed.
Result<Header> parse_header(std::span<const std::byte> bytes, uint64_t file_size, const std::string& file);

std::string shown(const json::Value& value);  // for errors: one short line of ASCII
bool is_tensor_name(std::string_view name);   // printable ASCII, so that it may stand in a line of its own
const char* dtype_name(Dtype dtype);          // as headers spell it
std::string shape_text(const std::vector<int64_t>& shape);

}  // namespace hadal::checkpoint
