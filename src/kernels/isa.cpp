#include "kernels/isa.h"

namespace hadal::kernels {

std::span<const Isa* const> all_isas() {
  static const Isa* const kAll[] = {&reference(), &avx2(), &avx512()};
  return kAll;
}

const Isa& best_isa() {
  const Isa* best = &reference();
  for (const Isa* isa : all_isas())
    if (isa->supported()) best = isa;
  return *best;
}

const Isa* find_isa(std::string_view name) {
  if (name == "auto") return &best_isa();
  for (const Isa* isa : all_isas())
    if (isa->name == name) return isa->supported() ? isa : nullptr;
  return nullptr;
}

}  // namespace hadal::kernels
