#include "cache/resident.h"

#include <algorithm>

namespace hadal::cache {

Resident::List::iterator Resident::best(const std::vector<Digest>& names, std::span<const TokenId> ids) const {
  for (size_t k = std::min(names.size() - 1, ids.size() / kBlock) + 1; k-- > 0;) {
    std::optional<List::iterator> best;
    const auto [first, last] = by_name_.equal_range(names[k]);
    for (auto it = first; it != last; ++it) {
      const std::vector<TokenId>& held = it->second->context.ids;
      if (held.size() >= ids.size() || !std::equal(held.begin(), held.end(), ids.begin())) continue;
      if (!best || held.size() > (*best)->context.ids.size()) best = it->second;
    }
    if (best) return *best;
  }
  return const_cast<List&>(fresh_).end();
}

int64_t Resident::longest(const std::vector<Digest>& names, std::span<const TokenId> ids) const {
  const auto held = best(names, ids);
  return held == fresh_.end() ? 0 : held->context.state.length();
}

std::optional<kv::Context> Resident::find(const std::vector<Digest>& names, std::span<const TokenId> ids) {
  const auto held = best(names, ids);
  if (held == fresh_.end()) return std::nullopt;
  touch(held, true);
  return kv::Context{held->context.state.fork(), held->context.ids};
}

void Resident::touch(List::iterator held, bool proven) {
  List& from = held->is_proven ? proven_ : fresh_;
  held->is_proven = held->is_proven || proven;
  List& to = held->is_proven ? proven_ : fresh_;
  to.splice(to.end(), from, held);
}

void Resident::count(const Held& held, int sign) {
  bytes_ += sign * held.context.state.own_bytes();
  held.context.state.visit_pages([&](const std::byte* page, int64_t bytes) {
    int& holders = pages_[page];
    if (sign > 0 ? ++holders == 1 : --holders == 0) bytes_ += sign * bytes;
    if (holders == 0) pages_.erase(page);
  });
}

void Resident::keep(const std::vector<Digest>& names, kv::Context context, bool proven) {
  if (context.ids.empty()) return;
  const Digest& name = names.at(context.ids.size() / kBlock);
  const auto [first, last] = by_name_.equal_range(name);
  for (auto it = first; it != last; ++it)
    if (it->second->context.ids == context.ids) return touch(it->second, proven);
  List& list = proven ? proven_ : fresh_;
  list.push_back({std::move(context), name, proven});
  by_name_.emplace(name, std::prev(list.end()));
  count(list.back(), 1);
}

void Resident::erase(List::iterator held) {
  count(*held, -1);
  const auto [first, last] = by_name_.equal_range(held->name);
  by_name_.erase(std::find_if(first, last, [&](const auto& named) { return named.second == held; }));
  (held->is_proven ? proven_ : fresh_).erase(held);
  ++evicted_;
}

void Resident::drop() {
  const bool takes_fresh = !fresh_.empty() && (proven_.empty() || fresh_.size() * 4 > size());
  erase(takes_fresh ? fresh_.begin() : proven_.begin());
}

void Resident::trim(int64_t bytes) {
  while (bytes_ > bytes && size() > 0) drop();
}

void Resident::keep_latest(size_t states) {
  while (size() > states) drop();
}

}  // namespace hadal::cache
