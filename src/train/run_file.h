// A run: what to train, on what, for how long (docs/training.md has every key). Read once,
// strictly: unknown keys and wrong kinds are errors that name key, expected and found.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "checkpoint/config.h"
#include "train/init.h"
#include "train/optim.h"

namespace hadal::train {

struct Stage {
  std::string name, data;
  int64_t steps = 0;
  int length = 0;  // tokens of a row
  bool sparse = false, quantise = false;
  double mtp_weight = 0, indexer_weight = 0;
  double rate = 1;  // of the schedule's learning rate
  double bias_speed = 0;
};

struct RunFile {
  json::Value model;  // a config.json object; null: the model of --from
  uint64_t seed = 1;
  int64_t tokens_per_step = 0, tokens_per_pass = 0;  // a pass: one forward and backward
  InitOptions init;
  OptimiserOptions optimiser;
  double learning_rate = 0, final_rate = 0.1,
         decay_from = 0.7;  // cosine from decay_from of the steps on
  int64_t warmup = 0;
  double clip = 1, balance_weight = 1e-4;
  std::map<std::string, json::Value> data;  // descriptions by name (data/source.h)
  std::vector<Stage> stages;
  int64_t save_every = 0, evaluate_every = 0;
  int evaluate_rows = 64;
  std::vector<int> distances;  // borders of the recall table
  bool export_bf16 = false;
  std::string tokenizer;  // a tokenizer.json to put beside the exported model

  int64_t n_steps() const;
  const Stage& stage_at(int64_t step) const;
  double learning_rate_at(int64_t step) const;
};

Result<RunFile> parse_run(std::string_view text, const std::string& file);
Result<RunFile> read_run(const std::string& path);

}  // namespace hadal::train
