// The narrow waist between the model and its users (CLI, evaluation, later the server): token ids
// in, token ids out.
//
//   Engine    owns the open checkpoint, the threads and the bound model
//   Batch     (batch.h) completions side by side, one forward pass a step
//   Session   (session.h) one conversation over a Batch: computes only what no state that it holds
//   covers
//
// Threads: an Engine, its Batches and Sessions belong to one thread.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/thread_pool.h"
#include "base/types.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/plan.h"
#include "engine/decoder.h"
#include "model/transformer.h"

namespace hadal::engine {

// Of what the model computes: states and answers of one version agree bit for bit (docs/numerics.md).
inline constexpr int kArithmeticVersion = 1;

struct EngineOptions {
  std::string model;  // checkpoint directory
  Numerics numerics = Numerics::kFaithful;
  std::string isa = "auto";
  int threads = 0;      // 0: one per core
  int64_t context = 0;  // tokens to plan memory for; 0: what the model allows, at most 131,072
  bool warm_up = true;  // fault the weights in before the first token
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

class Engine final : public Decoder {
 public:
  // kBusy: not enough memory for one conversation.
  static Result<std::unique_ptr<Engine>> open(const EngineOptions& options, const OpenProgress& progress = {});

  const checkpoint::Checkpoint& checkpoint() const { return checkpoint_; }
  const checkpoint::ModelConfig& config() const { return checkpoint_.config(); }
  const GenerationDefaults& defaults() const { return defaults_; }
  const kernels::Isa& isa() const { return *isa_; }
  int n_threads() const { return pool_->size(); }
  model::Transformer& transformer() { return *transformer_; }

  int vocab_size() const override { return config().vocab_size; }
  int64_t max_tokens() const override { return config().max_position_embeddings; }
  const std::vector<TokenId>& end_tokens() const override { return defaults_.eos; }
  kv::SequenceState new_sequence() const override { return transformer_->new_sequence(); }
  Status unchanged() const override { return checkpoint_.unchanged(); }
  Status forward(std::span<const model::Sequence> batch, std::vector<float>& logits) override {
    return transformer_->forward(batch, logits);
  }

 private:
  Engine() = default;
  checkpoint::Checkpoint checkpoint_;  // first: the transformer's weights are views into its maps
  std::unique_ptr<ThreadPool> pool_;
  const kernels::Isa* isa_ = nullptr;
  std::optional<model::Transformer> transformer_;
  GenerationDefaults defaults_;
};

}  // namespace hadal::engine
