// The twin: V4's forward pass in torch, to train what the engine runs. Written separately from
// src/model; the golden files hold the two together (tests/train): `exact` logits agree to 1e-5.
//
// Parameters carry the release's tensor names (checkpoint/inventory.h), dequantised to float32, in
// the shapes of the release, with two differences: the routed experts of a layer are one tensor per
// matrix
// ("layers.0.ffn.experts.w1.weight" [e, m, d]; release_tensors() gives them one by one), and as
// torch's names may not hold dots, torch sees "layers/0/attn/wq_a/weight". gate.bias and tid2eid
// are buffers: no gradient. Everything of V4 is here: window, CSA with overlap, HCA, indexer,
// sinks, mHC, hash and score routing, clamp, MTP. Equations and letters: docs/model.md; gradients:
// by autograd, or by hand in train/ops.h.
//
// Shapes: b rows of t tokens. A row holds one or more whole documents, packed; documents do not see
// each other and are compressed independently, positions count from the document's first token.
#pragma once

#include <torch/torch.h>

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "checkpoint/checkpoint.h"

namespace hadal::train {

struct Batch {
  torch::Tensor tokens;  // int64 [b, t]
  // int64 [b, t]: index in the row of the first token of the document; undefined: one a row.
  torch::Tensor documents;
  // float32 [b, t]: weight of the loss at i of predicting tokens[i + 1]; 0 where there is none.
  torch::Tensor weights;
};

struct ForwardOptions {
  bool sparse = false;  // CSA attends the indexer's choice; false: every visible entry
  // The release's number formats on weights, activations and KV, straight through.
  bool quantise = false;
  bool indexer_loss = false;  // KL of the indexer to the attention mass on entries (inputs detached)
  bool mtp = true;
};

struct Output {
  torch::Tensor logits;  // [b, t, v]
  // [b, t - 1, v]: at i, of token i + 2; undefined without MTP. Row i pairs position i with
  // tokens[i + 1]: where that is of another document the row means nothing (and no other row sees
  // it), so the loss must skip it.
  torch::Tensor mtp_logits;
  // Scalar: mean over rows of the batch of the sequence balance loss, summed over the score-routed
  // layers, without its weight (docs/model.md, Gradients).
  torch::Tensor balance;
  // Scalar: sum over CSA layers of the mean over tokens that see an entry; undefined unless asked
  // for, or without CSA layers that have entries.
  torch::Tensor indexer_kl;

  // What the optimiser and the log need, detached. Of the blocks: main layers first, then MTP.
  std::vector<torch::Tensor> expert_counts;  // int64 [e] each: tokens routed to each expert
  // Per layer ("layers.3.sink_mass") and, without the prefix, the mean over those that have it:
  //   clamp_rate    share of expert activations beyond the SwiGLU limit
  //   stream_rms    of the streams after the block
  //   sink_mass     share of the attention that the sinks take
  //   index_recall  share of the attention on entries that the indexer's index_topk hold, over
  //                 tokens that see more (1 when none does); dense attention only
  //   index_kl      with indexer_loss
  std::map<std::string, double> metrics;
};

class Twin : public torch::nn::Module {
 public:
  Twin(const checkpoint::ModelConfig& config, bool has_mtp);  // norm weights 1, everything else 0
  ~Twin() override;
  // Weights dequantised exactly. Errors: kUnsupported for more than one MTP block; DSpark stages
  // are left out.
  static Result<std::shared_ptr<Twin>> load(const checkpoint::Checkpoint& checkpoint);

  Output forward(const Batch& batch, const ForwardOptions& options = {});

  const checkpoint::ModelConfig& config() const { return config_; }
  bool has_mtp() const { return has_mtp_; }
  // Parameters and buffers, names with dots, experts stacked. The tensors are the twin's own, not
  // copies.
  const std::map<std::string, torch::Tensor>& weights() const { return weights_; }
  // Release names and order (checkpoint/inventory.h), experts one by one, as detached views.
  std::vector<std::pair<std::string, torch::Tensor>> release_tensors() const;

 private:
  struct Layers;  // the weights by role

  checkpoint::ModelConfig config_;
  bool has_mtp_ = false;
  std::map<std::string, torch::Tensor> weights_;
  std::unique_ptr<Layers> layers_;
};

}  // namespace hadal::train
