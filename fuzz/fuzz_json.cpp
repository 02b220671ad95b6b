// Any bytes: parsed or refused; what parses prints, in every style, to something that parses to the same.
#include <cstdlib>
#include <string_view>

#include "base/json.h"

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, size_t size) {
  using namespace hadal::json;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto value = parse(text);
  const auto unique = parse(text, Duplicates::kReject);
  if (!value.ok() && unique.ok()) std::abort();
  if (!value.ok()) return 0;
  if (unique.ok() && !(unique.value() == value.value())) std::abort();
  for (const Style& style : {Style{.ascii = true}, kCompact, Style{.escape_surrogates = true, .indent = 1}}) {
    const auto again = parse(dump(value.value(), style));
    if (!again.ok() || !(again.value() == value.value())) std::abort();
  }
  return 0;
}
