// Muon and AdamW as V4 uses them (training report A.2).
//
// Muon, for each logically independent matrix W [n, m] with gradient G:
//   M <- mu M + G;  O = NS10(mu M + G) 0.18 sqrt(max(n, m));  W <- W (1 - eta lambda) - eta O
// NS10: X = M / |M|_F; eight times (3.4445, -4.7750, 2.0315), then twice (2, -1.5, 0.5):
//   A = X X^T;  X <- a X + (b A + c A A) X, on the transposed matrix where n > m.
// AdamW with the same learning rate for the rest. Which tensor is which: placement().
//
// Equal shapes are orthogonalised together. Deterministic: the order of pieces is that of the
// tensors.
#pragma once

#include <torch/types.h>

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "checkpoint/config.h"

namespace hadal::train {

// A tensor of the model by its release name.
struct Named {
  std::string name;
  torch::Tensor tensor;
};

enum class Rule { kMuon, kAdamW, kAdamWNoDecay };

// Rows [begin, end) of a tensor, seen as [rows, cols] with all leading extents flattened, that Muon
// treats as one matrix.
struct Piece {
  int64_t begin = 0, end = 0;
  int expert = -1;  // of routed experts
};

struct Placement {
  Rule rule = Rule::kAdamW;
  std::vector<Piece> pieces;  // Muon's
  int block = -1;             // of routed experts: index into the expert counts (main layers, then MTP blocks)
};

// By release name; routed experts one by one (ffn.experts.3.w1.weight) or stacked [e, rows, cols]
// (ffn.experts.w1.weight). kUnsupported: a name that the table of A.2 does not place.
Result<Placement> placement(std::string_view name, at::IntArrayRef shape, const checkpoint::ModelConfig& config);

// X [k, n, m] -> the nearest (semi-)orthogonal matrices; zero stays zero. steps <= 8 runs the first
// kind only.
torch::Tensor newton_schulz(const torch::Tensor& x, int steps = 10);

struct OptimiserOptions {
  bool muon = true;  // false: AdamW for the matrices too
  double momentum = 0.95, weight_decay = 0.1, rms = 0.18;
  double beta1 = 0.9, beta2 = 0.95, epsilon = 1e-20;
};

class Optimiser {
 public:
  // The tensors keep their order and stay the caller's; they are changed in place.
  static Result<Optimiser> create(std::vector<Named> parameters, const checkpoint::ModelConfig& config,
                                  const OptimiserOptions& options);

  // One step from the gradients in .grad(); a tensor without one stays as it is.
  // expert_counts[block][expert]: tokens of this step; an expert without tokens keeps its weights
  // and only its momentum fades. Empty: all step.
  void step(double learning_rate, const std::vector<torch::Tensor>& expert_counts);

  // What a resume needs, by name ("muon.m.<tensor>", "adam.m.<tensor>", "adam.v.<tensor>"): views,
  // not copies.
  std::vector<Named> state() const;
  int64_t n_steps() const { return n_steps_; }
  void set_n_steps(int64_t n) { n_steps_ = n; }

  const std::vector<Named>& parameters() const { return parameters_; }

 private:
  struct Matrix {  // one piece, seen as [rows, cols]
    size_t parameter = 0;
    Piece piece;
    int block = -1;
  };
  struct Batch {  // pieces of one shape, the smaller extent first
    int64_t n = 0, m = 0;
    std::vector<Matrix> matrices;
  };
  void step_muon(double learning_rate, const std::vector<std::vector<int64_t>>& counts);
  void step_adamw(double learning_rate);

  OptimiserOptions options_;
  std::vector<Named> parameters_;
  std::vector<Placement> placements_;
  std::vector<Batch> batches_;
  std::vector<torch::Tensor> first_, second_;  // momentum or m; v (AdamW only)
  int64_t n_steps_ = 0;                        // AdamW's bias correction
};

}  // namespace hadal::train
