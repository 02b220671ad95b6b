// The narrow waist between the model and its users (CLI, later the server): token ids in, token ids out.
//
//   Engine    owns the open checkpoint, the threads and the bound model
//   Session   one conversation: it is given the whole prefix of ids each time and computes only what no state
//             that it holds covers
//
// Threads: an Engine and its Sessions belong to one thread; Session::stop() may be called from any, also from
// a signal handler.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/thread_pool.h"
#include "base/types.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/plan.h"
#include "model/transformer.h"
#include "sample/sampler.h"

namespace hadal::engine {

struct EngineOptions {
  std::string model;  // checkpoint directory
  Numerics numerics = Numerics::kFaithful;
  std::string isa = "auto";
  int threads = 0;        // 0: one per core
  int64_t context = 0;    // tokens to plan memory for; 0: what the model allows, at most 131,072
  bool warm_up = true;    // fault the weights in before the first token
};

// What opening tells while it works. All optional.
struct OpenProgress {
  std::function<void(const checkpoint::Plan&)> plan;
  std::function<void(int64_t done, int64_t total)> warm_up;
  const std::atomic<bool>* cancel = nullptr;
};

// generation_config.json, with the published defaults for what it leaves out.
struct GenerationDefaults {
  float temperature = 1, top_p = 1;
  std::vector<TokenId> eos = {1};
  bool untrained = false;  // written by hadal synth
};

class Engine {
 public:
  // kBusy: not enough memory for one conversation.
  static Result<std::unique_ptr<Engine>> open(const EngineOptions& options, const OpenProgress& progress = {});

  const checkpoint::Checkpoint& checkpoint() const { return checkpoint_; }
  const checkpoint::ModelConfig& config() const { return checkpoint_.config(); }
  const GenerationDefaults& defaults() const { return defaults_; }
  const kernels::Isa& isa() const { return *isa_; }
  int n_threads() const { return pool_->size(); }
  model::Transformer& transformer() { return *transformer_; }

 private:
  Engine() = default;
  checkpoint::Checkpoint checkpoint_;  // first: the transformer's weights are views into its maps
  std::unique_ptr<ThreadPool> pool_;
  const kernels::Isa* isa_ = nullptr;
  std::optional<model::Transformer> transformer_;
  GenerationDefaults defaults_;
};

enum class Finish { kStop, kLength, kCancelled };  // end token or the sink said so; limit; stop()

struct GenerateOptions {
  sample::Options sampling;
  int64_t max_tokens = -1;      // -1: up to the model's context
  int64_t chunk = 512;          // tokens per prefill call
  int64_t snapshot_at = -1;     // keep the state after so many prompt tokens for later calls
  std::function<void(int64_t done, int64_t total)> prefill;  // tokens of the prompt, reused ones included
  // One token of the completion (never an end token). false ends the generation.
  std::function<bool(const sample::Choice&)> token;
};

struct Completion {
  Finish finish = Finish::kStop;
  std::vector<TokenId> tokens;
  int64_t prompt_tokens = 0, reused_tokens = 0;
  double prefill_s = 0, decode_s = 0;
};

class Session {
 public:
  explicit Session(Engine& engine) : engine_(engine) {}

  // kInvalid: an empty prompt, an unknown id, or one that leaves no room for an answer.
  Result<Completion> generate(std::span<const TokenId> prompt, const GenerateOptions& options);
  void stop() { stop_.store(true); }
  void forget();  // drops every state

 private:
  struct Held {  // a state and the ids it has seen
    kv::SequenceState state;
    std::vector<TokenId> ids;
  };
  Result<Held> longest_prefix(std::span<const TokenId> prompt);
  Status prefill(Held& held, std::span<const TokenId> prompt, const GenerateOptions& options, std::vector<float>& logits,
                 bool& cancelled);

  Engine& engine_;
  std::vector<Held> held_;  // snapshots, latest last
  std::atomic<bool> stop_{false};
};

}  // namespace hadal::engine
