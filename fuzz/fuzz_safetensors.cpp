// Any bytes as a safetensors file: a header whose tensors lie in the file, or an error.
#include <cstdlib>

#include "checkpoint/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, size_t size) {
  using namespace hadal;
  const auto header = checkpoint::parse_header(std::as_bytes(std::span(data, size)), size, "fuzz");
  if (!header.ok()) return 0;
  for (const auto& tensor : header.value().tensors)
    if (tensor.begin > tensor.end || tensor.end > size) std::abort();
  return 0;
}
