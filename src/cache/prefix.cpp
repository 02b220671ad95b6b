#include "cache/prefix.h"

#include "base/check.h"

namespace hadal::cache {
namespace {

std::string_view bytes_of(const Digest& digest) {
  return {reinterpret_cast<const char*>(digest.data()), digest.size()};
}

}  // namespace

Digest root_name(std::string_view space, const Identity& identity, const kv::Layout& layout) {
  std::string all = "hadal context cache 1";
  for (const std::string_view part : {space, std::string_view(identity.fingerprint)}) {
    all += bytes_of(sha256(part));  // of fixed size: no part can run into the next
  }
  all.append(reinterpret_cast<const char*>(&identity.arithmetic), sizeof identity.arithmetic);
  all += layout.identity();
  return sha256(all);
}

void extend_names(std::vector<Digest>& names, std::span<const TokenId> ids) {
  HADAL_CHECK(!names.empty());
  std::string block;
  for (size_t k = names.size(); k * kBlock <= ids.size(); ++k) {
    block.assign(bytes_of(names[k - 1]));
    block.append(reinterpret_cast<const char*>(ids.data() + (k - 1) * kBlock), kBlock * sizeof(TokenId));
    names.push_back(sha256(block));
  }
}

}  // namespace hadal::cache
