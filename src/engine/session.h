// One conversation: it is given the whole prefix of ids each time and computes only what no state
// that it holds covers. V4's state cannot be cut back, so states are kept where the next turn will
// go on: at snapshot_at and at the end of each completion.
//
// Threads: the Engine's; stop() may be called from any, also from a signal handler.
#pragma once

#include <atomic>
#include <functional>
#include <span>
#include <vector>

#include "engine/batch.h"
#include "engine/engine.h"

namespace hadal::engine {

struct GenerateOptions {
  sample::Options sampling;
  int64_t max_tokens = -1;   // -1: up to the model's context
  int64_t chunk = 512;       // tokens per prefill call
  int64_t snapshot_at = -1;  // keep the state after so many prompt tokens for later calls
  std::function<void(int64_t done, int64_t total)> prefill;  // tokens of the prompt, reused ones included
  // One token of the completion (never an end token). false ends the generation.
  std::function<bool(const sample::Choice&)> token;
};

class Session {
 public:
  explicit Session(Engine& engine) : engine_(engine) {}

  // Errors: those of Batch::add; kCorrupt when a shard was replaced or truncated since opening, or
  // a logit is not finite.
  Result<Completion> generate(std::span<const TokenId> prompt, const GenerateOptions& options);
  void stop() { stop_.store(true); }
  void forget() { held_.clear(); }  // drops every state

 private:
  std::optional<Context> longest_prefix(std::span<const TokenId> prompt) const;
  void keep(Context context);

  Engine& engine_;
  std::vector<Context> held_;  // latest last
  std::atomic<bool> stop_{false};
};

}  // namespace hadal::engine
