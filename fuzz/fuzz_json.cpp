// Any bytes: parsed or refused; what parses prints to something that parses to the same.
#include <cstdlib>
#include <string_view>

#include "base/json.h"

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, size_t size) {
  using namespace hadal::json;
  const auto value = parse(std::string_view(reinterpret_cast<const char*>(data), size));
  if (!value.ok()) return 0;
  const auto again = parse(dump(value.value(), {.ascii = true}));
  if (!again.ok() || !(again.value() == value.value())) std::abort();
  return 0;
}
