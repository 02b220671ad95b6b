// One conversation: it is given the whole prefix of ids each time and computes only what no state
// that it holds covers, nor one on disk. V4's state cannot be cut back, so states are kept where the next turn will
// go on: at header_at and at the end of each completion.
//
// Threads: the Engine's; stop() may be called from any, also from a signal handler.
#pragma once

#include <atomic>
#include <functional>
#include <span>
#include <vector>

#include "cache/resident.h"
#include "cache/store.h"
#include "engine/batch.h"
#include "engine/engine.h"

namespace hadal::engine {

struct GenerateOptions {
  sample::Options sampling;
  int64_t max_tokens = -1;  // -1: up to the model's context
  int64_t chunk = 512;      // tokens per prefill call
  int64_t header_at = 0;    // prompt tokens before the assistant's header: the next turn may go on from there
  std::function<void(int64_t done, int64_t total)> prefill;  // tokens of the prompt, reused ones included
  // One token of the completion (never an end token). false ends the generation.
  std::function<bool(const sample::Choice&)> token;
};

class Session {
 public:
  // store: may be absent, else outlives the session.
  explicit Session(Engine& engine, cache::Store* store = nullptr)
      : engine_(engine), store_(store), root_(store ? store->root("") : Digest{}) {}

  // Errors: those of Batch::add; kCorrupt when a shard was replaced or truncated since opening, or
  // a logit is not finite.
  Result<Completion> generate(std::span<const TokenId> prompt, const GenerateOptions& options);
  void stop() { stop_.store(true); }
  void forget() { resident_ = {}; }  // drops every state in memory

 private:
  Engine& engine_;
  cache::Store* const store_;
  const Digest root_;
  cache::Resident resident_;
  std::atomic<bool> stop_{false};
};

}  // namespace hadal::engine
