// The context cache in memory: states of sequences that may go on, found by the longest true prefix of a prompt.
//
// States of one conversation share the pages of their entries; what is held counts once. A state that is let go frees
// its windows and tails at once, a page with the last state that needs it: there is no use for pages alone.
//
// Two lists, each with the least recently used first: new states, and proven ones, which were found again or grew out
// of such. New ones go first (a hundred titles and summaries must not drive out the conversation they are about), but
// keep a quarter of the places.
//
// Threads: the one that owns the states.
#pragma once

#include <list>
#include <map>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "cache/prefix.h"
#include "kv/sequence_state.h"

namespace hadal::cache {

class Resident {
 public:
  // names: of the ids, whole blocks (prefix.h). The length of the longest state that covers a true prefix of them.
  int64_t longest(const std::vector<Digest>& names, std::span<const TokenId> ids) const;
  // The same state, forked.
  std::optional<kv::Context> find(const std::vector<Digest>& names, std::span<const TokenId> ids);
  // names: at least of the context's ids. proven: what it grew out of was found.
  void keep(const std::vector<Digest>& names, kv::Context context, bool proven);
  void trim(int64_t bytes);         // to at most so many
  void keep_latest(size_t states);  // and no more than so many
  int64_t bytes() const { return bytes_; }
  size_t size() const { return fresh_.size() + proven_.size(); }
  int64_t evicted() const { return evicted_; }

 private:
  struct Held {
    kv::Context context;
    Digest name;  // of its whole blocks
    bool is_proven = false;
  };
  using List = std::list<Held>;
  using Tail = std::vector<TokenId>;  // the ids after the whole blocks
  List::iterator best(const std::vector<Digest>& names, std::span<const TokenId> ids) const;
  void count(const Held& held, int sign);
  void erase(List::iterator held);
  void drop();  // the one to be missed least
  void touch(List::iterator held, bool proven);

  List fresh_, proven_;
  std::unordered_map<Digest, std::map<Tail, List::iterator>, DigestHash> by_name_;
  std::unordered_map<const std::byte*, int> pages_;  // states that hold it
  int64_t bytes_ = 0, evicted_ = 0;
};

}  // namespace hadal::cache
