#include "data/source.h"

#include <fmt/format.h>

#include "base/check.h"
#include "data/recall.h"

namespace hadal::data {

Row pack(const Source& source, uint64_t seed, uint64_t step, uint64_t row, int length) {
  Row packed;
  const auto n = static_cast<size_t>(length);
  packed.ids.reserve(n);
  for (uint64_t index = 0; packed.ids.size() < n; ++index) {
    const size_t begin = packed.ids.size(), room = n - begin;
    const Document document = source.document({seed, step, row, index}, static_cast<int>(room));
    HADAL_CHECK(!document.ids.empty() && document.weights.size() == document.ids.size());
    const size_t kept = std::min(room, document.ids.size());
    packed.ids.insert(packed.ids.end(), document.ids.begin(),
                      document.ids.begin() + static_cast<std::ptrdiff_t>(kept));
    packed.weights.insert(packed.weights.end(), document.weights.begin(),
                          document.weights.begin() + static_cast<std::ptrdiff_t>(kept));
    packed.documents.insert(packed.documents.end(), kept, static_cast<int>(begin));
    packed.weights.back() = 0;  // what follows is another document, or cut off
    for (const Answer& answer : document.answers)
      if (static_cast<size_t>(answer.position) + 1 < kept)
        packed.answers.push_back({answer.position + static_cast<int>(begin), answer.distance});
  }
  return packed;
}

Result<std::unique_ptr<Source>> open_source(const json::Value& description,
                                            const std::string& where) {
  const json::Value* kind = description.find("kind");
  if (!kind || !kind->is_string())
    return Error{Code::kInvalid, fmt::format("{}: kind: expected a string, found {}", where,
                                             kind ? kind->kind_name() : "nothing")};
  if (kind->as_string() == "recall") return Recall::open(description, where);
  return Error{Code::kInvalid,
               fmt::format("{}: kind: expected recall, found {}", where, kind->as_string())};
}

}  // namespace hadal::data
