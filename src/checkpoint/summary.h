// The figures of a model: parameters and bytes by group, what one decoded token reads (architecture report A.2).
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <string>

#include "checkpoint/checkpoint.h"
#include "checkpoint/config.h"
#include "checkpoint/inventory.h"

namespace hadal::checkpoint {

struct GroupFigures {
  int64_t parameters = 0;       // elements, scales not counted
  int64_t bytes = 0;            // as stored, scales included
  int64_t bytes_per_token = 0;  // read to decode one token
};

struct Summary {
  Draft draft = Draft::kNone;
  int n_draft_blocks = 0;
  std::array<GroupFigures, kGroupCount> groups;
  int64_t n_tensors = 0;
  int64_t total_bytes = 0;        // all tensors, draft included
  int64_t parameters = 0;         // main model, hash tables included
  int64_t active_parameters = 0;  // per token: without embedding and hash tables, chosen experts only
  int64_t bytes_per_token = 0;    // main model
  int64_t draft_parameters = 0;
  int64_t expert_bytes = 0;  // one routed expert
  std::string assumed;       // config alone: what it does not say, in words
  bool assumed_fp4 = false;  // it is that the experts are FP4

  const GroupFigures& operator[](Group group) const { return groups[static_cast<size_t>(group)]; }
};

Summary summarise(const ModelConfig& config);     // from a config alone: the release format it names
Summary summarise(const Checkpoint& checkpoint);  // from the tensors that are there

// SHA-256 of a file, in hex. progress(bytes done of this file).
Result<std::string> sha256_of_file(const FileMap& file, const std::function<void(uint64_t)>& progress);

// SHA-256 over names, sizes, headers and evenly spaced blocks of a checkpoint's files, in hex: tells checkpoints apart
// in milliseconds, where sha256_of_file reads every byte. Files that differ only between the blocks look equal.
Result<std::string> sampled_fingerprint(const std::string& directory);

}  // namespace hadal::checkpoint
