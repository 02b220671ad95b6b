// The twin: V4's forward pass in torch, to train what the engine runs. Written separately from src/model; the
// golden files hold the two together (tests/train): `exact` logits agree to 1e-5.
//
// Parameters carry the release's tensor names (checkpoint/inventory.h), dequantised to float32, in the shapes of
// the release. Everything of V4 is here: window, CSA with overlap, HCA, indexer, sinks, mHC, hash and score
// routing, clamp, MTP. Equations and letters: docs/model.md; gradients: by autograd, or by hand in train/ops.h.
//
// Shapes: b rows of t tokens. A row holds one or more whole documents, packed; documents do not see each other
// and are compressed independently, positions count from the document's first token.
#pragma once

#include <torch/torch.h>

#include <map>
#include <string>
#include <vector>

#include "base/result.h"
#include "checkpoint/checkpoint.h"

namespace hadal::train {

struct Batch {
  torch::Tensor tokens;     // int64 [b, t]
  torch::Tensor documents;  // int64 [b, t]: index in the row of the first token of the document
  torch::Tensor weights;    // float32 [b, t]: weight of the loss at i of predicting tokens[i + 1]; 0 where there is none
};

struct ForwardOptions {
  bool sparse = false;        // CSA attends the indexer's choice; false: every visible entry
  bool quantise = false;      // the release's FP8 and FP4 grids on weights, activations and KV, straight through
  bool indexer_loss = false;  // KL of the indexer to the attention mass on entries (inputs detached)
  bool mtp = true;
};

struct Output {
  torch::Tensor logits;      // [b, t, v]
  torch::Tensor mtp_logits;  // [b, t - 1, v]: at i, of token i + 2; undefined without MTP
  torch::Tensor balance;     // scalar: sum over layers of the sequence balance loss, without its weight
  torch::Tensor indexer_kl;  // scalar: sum over CSA layers; undefined unless asked for
  // What the optimiser and the log need, detached. One entry per block, main layers first, then MTP.
  std::vector<torch::Tensor> expert_counts;  // [e] tokens routed to each expert in this batch
  std::map<std::string, double> metrics;     // clamp rate, stream norms, indexer recall, sink mass ...
};

class Twin : public torch::nn::Module {
 public:
  Twin(const checkpoint::ModelConfig& config, bool has_mtp);
  static Result<std::shared_ptr<Twin>> load(const checkpoint::Checkpoint& checkpoint);  // weights dequantised exactly
  Output forward(const Batch& batch, const ForwardOptions& options = {});
  const checkpoint::ModelConfig& config() const { return config_; }

 private:
  checkpoint::ModelConfig config_;
};

}  // namespace hadal::train
