// Names of prefixes. A sequence of token ids is cut into blocks of 128; the name of its first k blocks is a chain of
// SHA-256: name(0) = hash of everything that must agree before ids matter, name(k) = hash(name(k-1), ids of block k).
// Equal names: equal ids, space, model, arithmetic and layout.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/sha256.h"
#include "base/types.h"
#include "kv/sequence_state.h"

namespace hadal::cache {

inline constexpr int64_t kBlock = 128;  // no open HCA block at its multiples, and the service's own granularity
inline int64_t floor_block(int64_t n) { return n / kBlock * kBlock; }

// What computed the states.
struct Identity {
  std::string model;        // its name, for people
  std::string fingerprint;  // of the checkpoint
  int arithmetic = 0;       // version (docs/numerics.md)
};

// Whose prefixes: those of two spaces never meet. Without key and user it is everybody's, the programs' of this machine
// too.
std::string space_of(std::string_view key, std::string_view user);
inline constexpr std::string_view kSharedSpace = "\x01shared";  // of servers that share between all
Digest root_name(std::string_view space, const Identity& identity, const kv::Layout& layout);
// Names of 0, 1, 2, ... whole blocks of `ids`, going on from those that `names` holds already (at least the root).
void extend_names(std::vector<Digest>& names, std::span<const TokenId> ids);

}  // namespace hadal::cache
