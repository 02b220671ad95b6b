// Any bytes as a safetensors file: a header whose tensors lie in the file, sized by dtype and shape and apart from
// each other, or an error of one line.
#include <cstdlib>

#include "checkpoint/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, size_t size) {
  using namespace hadal;
  const auto header = checkpoint::parse_header(std::as_bytes(std::span(data, size)), size, "fuzz");
  if (!header.ok()) {
    if (header.error().message.find('\n') != std::string::npos) std::abort();
    return 0;
  }
  unsigned long long last_end = 0;
  for (const auto& tensor : header.value().tensors) {
    if (tensor.begin > tensor.end || tensor.end > size || !checkpoint::is_tensor_name(tensor.name)) std::abort();
    unsigned long long bytes = static_cast<unsigned long long>(dtype_size(tensor.dtype));
    for (const auto extent : tensor.shape) bytes *= static_cast<unsigned long long>(extent);
    if (bytes != tensor.end - tensor.begin) std::abort();
    if (bytes > 0 && tensor.begin < last_end) std::abort();
    if (bytes > 0) last_end = tensor.end;
  }
  return 0;
}
