#include "cache/resident.h"

#include <algorithm>

namespace hadal::cache {

namespace {

std::vector<TokenId> tail_of(std::span<const TokenId> ids) {
  const size_t whole = ids.size() / kBlock * kBlock;
  return {ids.begin() + static_cast<ptrdiff_t>(whole), ids.end()};
}

}  // namespace

Resident::List::iterator Resident::best(const std::vector<Digest>& names, std::span<const TokenId> ids) const {
  if (ids.empty()) return const_cast<List&>(fresh_).end();
  ids = ids.first(ids.size() - 1);  // true prefixes only
  for (size_t k = std::min(names.size() - 1, ids.size() / kBlock) + 1; k-- > 0;) {
    const auto named = by_name_.find(names[k]);
    if (named == by_name_.end()) continue;
    // The longest tail that `rest` begins with. The greatest one that is not above `rest` is it, or shares with `rest`
    // all that any such tail can have.
    const auto rest = ids.subspan(k * kBlock, std::min<size_t>(ids.size() - k * kBlock, kBlock - 1));
    Tail tail(rest.begin(), rest.end());
    while (true) {
      auto at = named->second.upper_bound(tail);
      if (at == named->second.begin()) break;
      --at;
      const auto parts = std::mismatch(at->first.begin(), at->first.end(), tail.begin(), tail.end());
      if (parts.first == at->first.end()) return at->second;
      tail.erase(parts.second, tail.end());
    }
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
  const auto [at, is_new] = by_name_[name].try_emplace(tail_of(context.ids));
  if (!is_new) return touch(at->second, proven);
  List& list = proven ? proven_ : fresh_;
  list.push_back({std::move(context), name, proven});
  at->second = std::prev(list.end());
  count(list.back(), 1);
}

void Resident::erase(List::iterator held) {
  count(*held, -1);
  const auto named = by_name_.find(held->name);
  named->second.erase(tail_of(held->context.ids));
  if (named->second.empty()) by_name_.erase(named);
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
