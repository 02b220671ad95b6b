#include "data/source.h"

#include <fmt/format.h>

#include "data/mixture.h"
#include "data/recall.h"

namespace hadal::data {

Result<std::unique_ptr<Source>> open_source(const json::Value& description, const std::string& where) {
  const json::Value* kind = description.find("kind");
  if (!kind || !kind->is_string())
    return Error{Code::kInvalid,
                 fmt::format("{}: kind: expected a string, found {}", where, kind ? kind->kind_name() : "nothing")};
  if (kind->as_string() == "recall") return Recall::open(description, where);
  if (kind->as_string() == "mixture") return Mixture::open(description, where);
  return Error{Code::kInvalid, fmt::format("{}: kind: expected recall or mixture, found {}", where, kind->as_string())};
}

}  // namespace hadal::data
