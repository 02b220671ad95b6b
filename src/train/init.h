// First weights. V4 publishes none; training report A.2, F.4 and L.2.
//
// Ordinary: normal noise; norms 1, hyper-connection scales 0.01 and bases 0 (an ordinary residual),
// sinks, ape and expert biases 0, head a scaled copy of the embedding, hash tables balanced.
//
// Aligned, in every layer with a compressor, with Q [ql, d] of orthonormal rows and A [c, ql]
// orthogonal: wq_a = Q; wq_b = A + noise in every head; compressor wkv = A Q in both halves; wo_a
// of a group = the mean over its heads of A^T; wo_b leads back by Q^T. So a query already finds the
// pooled blocks that hold its own token, and copies them. With aligned_windows layers without a compressor have the
// same with their window's wkv: the best start of a model that has windows only.
//
// Deterministic: every tensor is a function of seed and name.
#pragma once

#include <cstdint>
#include <vector>

#include "checkpoint/config.h"
#include "train/optim.h"

namespace hadal::train {

struct InitOptions {
  bool aligned = true, aligned_windows = false;
  double noise = 0;       // standard deviation of matrices; 0: 0.5 / sqrt(inputs), less for what adds to streams
  double embedding = 0;   // of the embedding; 0: noise, or 0.02
  double head_scale = 1;  // head = embedding * head_scale
};

// weights: parameters and buffers by name, all of the model's (Twin::weights); written in place.
void initialise(const std::vector<Named>& weights, const checkpoint::ModelConfig& config, const InitOptions& options,
                uint64_t seed);

}  // namespace hadal::train
