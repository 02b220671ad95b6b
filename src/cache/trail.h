// What one sequence leaves behind in the cache as it grows: states where its next turn or another prompt may go on, in
// memory exactly there, and on disk at the multiple of 128 before.
//
//   before the answer     the next turn sends everything before the assistant's header again; what followed may be
//                         rendered anew (reasoning is dropped)
//   end of the answer     with tools nothing is dropped
//   shared prefixes       the system prompt; where an earlier prompt parted from this one. In memory too: agents start
//                         several sessions at once, before any disk has it
//   every so many tokens  of what is long; on disk only
//
// Threads: the one that owns the states.
#pragma once

#include <span>
#include <vector>

#include "cache/resident.h"
#include "cache/store.h"

namespace hadal::cache {

class Trail {
 public:
  // store may be null. save_every: a multiple of 128.
  Trail(Resident& resident, Store* store, const Digest& root, int64_t save_every)
      : resident_(&resident), store_(store), save_every_(save_every), names_{root} {}

  // Names of the blocks of these ids, which go on from all earlier ones.
  const std::vector<Digest>& names(std::span<const TokenId> ids);

  // Before it grows from `found` tokens: returns the positions, ascending, at which reading the prompt must pause for
  // reached(). header_at: before the assistant's header, 0: none. shared: other positions that prompts have in common.
  std::vector<int64_t> plan(int64_t n_prompt, int64_t found, int64_t header_at, std::vector<int64_t> shared);

  void reached(const kv::Context& context);  // after each step: it has come to a new length
  void ended(kv::Context context);           // the last one
  void forget() { last_block_.reset(); }     // memory is needed elsewhere
  int64_t bytes() const { return last_block_ ? last_block_->state.own_bytes() : 0; }

 private:
  void save(kv::Context context);

  Resident* resident_;
  Store* store_;
  int64_t save_every_;
  std::vector<Digest> names_;
  std::vector<int64_t> keeps_, saves_;  // of the prompt: in memory, on disk
  int64_t n_prompt_ = 0;
  bool proven_ = false;
  std::optional<kv::Context> last_block_;  // at the latest multiple of 128 that was not saved
};

}  // namespace hadal::cache
