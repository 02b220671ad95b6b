// The pieces of V4 that are not plain matrix products, differentiable. Each has two forms: torch
// operations, which run on any device and in double, and loops over memory with a hand-written
// backward (train/fused.h) for float32 on the CPU. The first is the oracle of the second
// (tests/train/gradients_test.cpp); PlainScope forces it.
//
// Rows are the tokens of a batch, flattened: n = b t. Letters, equations and gradients:
// docs/model.md. All results are deterministic: one order of summation, no atomics.
#pragma once

#include <torch/torch.h>

#include <vector>

#include "checkpoint/config.h"

namespace hadal::train {

// While one lives on this thread, the torch operations are used everywhere.
class PlainScope {
 public:
  PlainScope();
  ~PlainScope();

 private:
  bool before_;
};
bool is_plain();

// Where the documents of a batch lie. documents: int64 [b, t], or undefined with tokens' shape
// given.
struct Packing {
  static Packing make(const torch::Tensor& tokens, const torch::Tensor& documents);

  int64_t b = 0, t = 0;
  torch::Tensor first;      // int64 [n]: flat row of the first token of the row's document
  torch::Tensor positions;  // int64 [n]: within the document
};

// The complete compression blocks of one ratio; entries are numbered through the batch, documents
// in order.
struct Blocks {
  static Blocks make(const Packing& packing, int64_t ratio);

  int64_t ratio = 0, c = 0;
  int64_t width = 0;           // most entries of a batch row: columns of index scores and attention mass
  torch::Tensor first;         // int64 [c]: flat row of the block's first token
  torch::Tensor has_previous;  // bool [c]
  torch::Tensor positions;     // int64 [c]: of the first token
  torch::Tensor begin, count;  // int64 [n]: a token sees entries [begin, begin + count)
  torch::Tensor row_begin;     // int64 [b]: first entry of a batch row; they are columns 0, 1, ...
  torch::Tensor columns;       // int64 [b, width]: entry of a column; 0 where there is none
  torch::Tensor visible;       // bool [n, width]
};

// Cosines and sines of the rotated pairs, [rows, rd / 2]; made from the official float32
// frequencies.
struct Rotation {
  torch::Tensor cos, sin;
};
class RopeTable {
 public:
  RopeTable() = default;
  RopeTable(const checkpoint::ModelConfig& config, bool compressed);
  Rotation at(const torch::Tensor& positions,
              const torch::TensorOptions& options);  // grows as needed

 private:
  std::vector<float> frequencies_;
  torch::Tensor cos_, sin_;  // float64 [positions known so far, rd / 2]
};

// x [n, in] w^T, w: [out, in].
torch::Tensor linear(const torch::Tensor& x, const torch::Tensor& w);

// y = w x / rms(x) over the last dimension; weight undefined: 1.
torch::Tensor rms_norm(const torch::Tensor& x, const torch::Tensor& weight, double eps);

// The last rd dims of x [n, ..., hd] rotated by the angle of their row; inverse: by its negative.
torch::Tensor rotate(const torch::Tensor& x, const Rotation& rotation, bool inverse);

// Hyper-connections. streams: [n, hc, d].
struct HyperConnection {
  torch::Tensor fn, base, scale;
};
struct HcSplit {
  torch::Tensor y;     // [n, d]
  torch::Tensor post;  // [n, hc]
  torch::Tensor comb;  // [n, hc, hc], source x destination
};
HcSplit hc_pre(const torch::Tensor& streams, const HyperConnection& hc, const checkpoint::ModelConfig& config);
torch::Tensor hc_post(const torch::Tensor& o, const torch::Tensor& streams, const HcSplit& split);
torch::Tensor hc_head(const torch::Tensor& streams, const HyperConnection& hc, const checkpoint::ModelConfig& config);

// Softmax pooling: values, gates [n, w], ape [ratio, w] -> [c, w / 2] with overlap (ratio 4), else
// [c, w].
torch::Tensor pool(const torch::Tensor& values, const torch::Tensor& gates, const torch::Tensor& ape,
                   const Blocks& blocks);

// Attention of every token to its window and entries, with sinks, shared keys and values; before
// the inverse rotation.
struct Attend {
  torch::Tensor q;        // [n, h, hd]
  torch::Tensor kv;       // [n, hd]
  torch::Tensor entries;  // [c, hd]; undefined: window only
  torch::Tensor sink;     // [h]
  const Packing& packing;
  const Blocks* blocks = nullptr;
  torch::Tensor selected;  // bool [n, width]: of the visible entries; undefined: all
  int64_t window = 0;
  bool wants_mass = false;
  bool rounds = false;  // the weights that meet the values are BF16, as the release computes
};
struct Attended {
  torch::Tensor o;          // [n, h, hd]
  torch::Tensor mass;       // [n, width]: attention on entries, summed over heads; detached; if wanted
  torch::Tensor sink_mass;  // scalar: mean over tokens and heads; detached
};
Attended attend(const Attend& args);

// Indexer. q: [n, ih, id], keys: [c, id], w: [n, ih] -> scores [n, width]; columns that are not
// visible hold 0. rounds: products and sums to BF16 as the release does, which makes ties.
torch::Tensor index_scores(const torch::Tensor& q, const torch::Tensor& keys, const torch::Tensor& w,
                           const Packing& packing, const Blocks& blocks, bool rounds = false);
// The k largest visible scores of a row (equal: smaller column), as bool [n, width]. No gradient.
torch::Tensor select_entries(const torch::Tensor& scores, const Blocks& blocks, int64_t k);
// mean over tokens with a chosen entry of KL(mass normalised over the chosen || softmax of the
// scores over them).
torch::Tensor index_kl(const torch::Tensor& scores, const torch::Tensor& mass, const torch::Tensor& chosen);
torch::Tensor hadamard(const torch::Tensor& x);  // over the last dimension, scaled by its size^-1/2

// Routing: the affinities s = sqrt(softplus(u)) of all experts, and the weights of the chosen,
// scaled.
torch::Tensor sqrt_softplus(const torch::Tensor& u);
torch::Tensor route_weights(const torch::Tensor& scores, const torch::Tensor& ids,
                            double scale);  // [n, k]
// h = silu(min(g, limit)) clamp(u, -limit, limit) w; w [rows] or undefined: 1. limit 0: none.
torch::Tensor swiglu(const torch::Tensor& gate, const torch::Tensor& up, const torch::Tensor& w, double limit);

// The routed experts' sum. x: [n, d]; ids int64 [n, k]; weights [n, k]; w1, w3: [e, m, d]; w2: [e,
// d, m].
struct Experts {
  torch::Tensor x, ids, weights, w1, w2, w3;
  double limit = 0;
  bool quantise = false;  // hidden activations as the release's linears see them
};
struct ExpertsOut {
  torch::Tensor y;        // [n, d]
  torch::Tensor counts;   // int64 [e]
  torch::Tensor clamped;  // scalar: share of activations beyond the limit
};
ExpertsOut experts(const Experts& args);

}  // namespace hadal::train
