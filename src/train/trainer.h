// The training loop around the twin: one step at a time, everything that a resume needs in one
// place.
//
//   auto trainer = HADAL_TRY(Trainer::create(run, "", ranks));
//   while (trainer.n_done() < run.n_steps()) {
//     const StepReport report = HADAL_TRY(trainer.step());
//     ...
//   }
//   HADAL_TRY(trainer.export_model(directory + "/model"));
//
// A step: rows of (seed, step) -> passes over tokens_per_pass each -> gradients and expert counts
// summed over the ranks
// -> clip -> Muon and AdamW -> expert biases. Loss: cross-entropy, weighted per token, over the
// step's total weight; plus MTP, sequence balance and indexer KL by their weights. A step whose
// gradient is not finite, or 20 times the median of the last 100, changes nothing.
//
// Same run file, same number of ranks and threads: same bits, also across save and resume. One
// thread.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "data/recall.h"
#include "data/source.h"
#include "train/optim.h"
#include "train/ranks.h"
#include "train/run_file.h"
#include "train/twin.h"

namespace hadal::train {

struct StepReport {
  int64_t step = 0, tokens = 0;  // tokens: all so far
  std::string stage;
  double loss = 0, mtp = 0, balance = 0, indexer_kl = 0;  // without their weights
  double gradient_norm = 0, learning_rate = 0, seconds = 0;
  bool skipped = false;
  double load_max = 0;                    // largest expert load over the mean, the worst block
  std::map<std::string, double> metrics;  // the twin's, means over passes; this rank's rows

  json::Object to_json() const;
};

// Gradients summed over the ranks. A tensor has one if any rank gave it one: rows too short for a block, say, leave a
// compressor without.
Status sum_gradients(const Ranks& ranks, const std::vector<Named>& parameters);

class Trainer {
 public:
  // from: a checkpoint directory to take the weights from, or "" to initialise. `ranks` must
  // outlive the trainer.
  static Result<Trainer> create(RunFile run, const std::string& from, const Ranks& ranks);

  Trainer(Trainer&&) = default;
  Trainer(const Trainer&) = delete;

  Result<StepReport> step();
  int64_t n_done() const { return n_done_; }  // steps

  // Held-out rows of the current stage's data, next-token loss and, where its documents have
  // answers, recall.
  struct Evaluation {
    double loss = 0;
    data::RecallScore recall;
  };
  Evaluation evaluate(int n_rows);

  // A state: directory/<step> with tensors and counters, durable before it is complete. Keeps the
  // newest three.
  Status save(const std::string& directory) const;
  // The newest complete state, if there is one (false: none). Errors name what does not fit this
  // run's model.
  Result<bool> resume(const std::string& directory);

  // A checkpoint that hadal opens: BF16 or F32, no quantisation.
  Status export_model(const std::string& directory) const;

  Twin& twin() { return *twin_; }
  Optimiser& optimiser() { return optimiser_; }
  const RunFile& run() const { return run_; }

 private:
  struct Rows {
    Batch batch;
    torch::Tensor mtp_weights;  // [b, t - 1]: of predicting tokens[i + 2]
    std::vector<std::vector<data::Answer>> answers;
  };
  Trainer(RunFile run, std::shared_ptr<Twin> twin, Optimiser optimiser, const Ranks& ranks)
      : run_(std::move(run)), twin_(std::move(twin)), optimiser_(std::move(optimiser)), ranks_(&ranks) {}
  const data::Source& source(const Stage& stage) const { return *sources_.at(stage.data); }
  Rows rows(const Stage& stage, uint64_t seed, int64_t step, int64_t first, int64_t n) const;
  ForwardOptions forward_options(const Stage& stage) const;
  Result<StepReport> step_or_throw();
  void balance_experts(const std::vector<torch::Tensor>& counts, double speed);
  std::vector<Named> saved_tensors() const;  // weights and optimiser state

  RunFile run_;
  std::shared_ptr<Twin> twin_;
  Optimiser optimiser_;
  const Ranks* ranks_;
  std::map<std::string, std::unique_ptr<data::Source>> sources_;
  int64_t n_done_ = 0, n_tokens_ = 0;
  std::deque<double> norms_;  // of the last steps that were taken
};

}  // namespace hadal::train
