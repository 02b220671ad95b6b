// One forward pass: the rows of a ragged batch, the machine they run on, and the buffers they pass through.
//
// A row is one token of one sequence. No operation lets a row see another row of the batch except through
// that sequence's state, so results do not depend on how tokens were grouped into calls.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "base/types.h"
#include "kernels/isa.h"
#include "kernels/linear.h"
#include "kv/sequence_state.h"
#include "model/rope.h"
#include "tensor/tensor.h"

namespace hadal::model {

// Sees intermediate tensors by name ("layers.3.attn_in"), as in the golden files: [n, ...] rows of this call.
class Probe {
 public:
  virtual ~Probe() = default;
  virtual void floats(const std::string& name, std::span<const int64_t> shape, const float* values) = 0;
  virtual void ints(const std::string& name, std::span<const int64_t> shape, const int32_t* values) = 0;
};

struct Row {
  TokenId token = 0;
  int64_t position = 0;
};

// Consecutive rows of one sequence: positions start, start + 1, ... in batch rows [first_row, first_row + n).
struct Segment {
  kv::SequenceState* state = nullptr;
  int64_t start = 0, first_row = 0, n = 0;
};

// A buffer that only grows, so that a warm engine allocates nothing.
class Buffer {
 public:
  float* take(int64_t n) {
    if (static_cast<int64_t>(floats_.size()) < n) floats_.resize(static_cast<size_t>(n));
    return floats_.data();
  }

 private:
  std::vector<float> floats_;
};

// A linear layer's input: plain, and quantised once some weight asks for that.
class Input {
 public:
  void set(const float* x, int64_t stride, int64_t n_rows, int64_t n_cols) {
    plain_ = kernels::plain_input(x, stride, n_cols);
    n_rows_ = n_rows;
    is_quantised_ = false;
  }
  // What `weight` multiplies: Q8 of the rows for FP8 and FP4 weights in `faithful`, the rows themselves else.
  const kernels::LinearInput& as_read_by(const Weight& weight, bool faithful, ThreadPool& pool,
                                         const kernels::Isa& isa) {
    if (!faithful || !weight.quantised() || weight.rounds_to_bf16) return plain_;
    if (!is_quantised_)
      quantised_ = quantiser_.quantise(pool, isa, plain_.values, plain_.stride, n_rows_, plain_.n_cols);
    is_quantised_ = true;
    return quantised_;
  }
  int64_t n_rows() const { return n_rows_; }

 private:
  kernels::LinearInput plain_, quantised_;
  kernels::QuantisedInput quantiser_;
  int64_t n_rows_ = 0;
  bool is_quantised_ = false;
};

// Buffers by name; one set per Transformer, reused by every layer of every call.
struct Workspace {
  Buffer streams, mixed, normed, sublayer_out;                        // block
  Buffer mix, split;                                                  // hyper-connections
  Buffer q_latent, q, kv, attended, o_latent;                         // attention
  Buffer values, gates, index_values, index_gates, index_q, index_w;  // compressors, indexer
  Buffer index_q_scale, index_scores;
  std::vector<int8_t> index_q_codes;
  std::vector<std::byte> kv_rows;
  std::vector<std::vector<int32_t>> selected;  // entries per row, best first
  std::vector<std::vector<float>> thread_scratch;
  Buffer gate_scores, route_weights, expert_gate, expert_up, expert_hidden, expert_out;  // moe
  std::vector<int32_t> route_ids;
  Buffer mtp_embed, mtp_embed_out, mtp_hidden, mtp_hidden_out;
  Buffer head_rows, head_normed;
  Buffer cos[2], sin[2];  // [plain, compressed]
  Input attn_input, q_latent_input, o_latent_input, ffn_input, expert_input, mtp_embed_input, mtp_hidden_input;
};

struct Step {
  ThreadPool& pool;
  const kernels::Isa& isa;
  const checkpoint::ModelConfig& config;
  const kv::Layout& layout;
  const RopeTable (&rope)[2];  // [plain, compressed]
  Workspace& work;
  Probe* probe = nullptr;
  bool faithful = true;
  std::vector<Row> rows;
  std::vector<Segment> segments;

  int64_t n_rows() const { return static_cast<int64_t>(rows.size()); }
  const Row& row(int64_t i) const { return rows[static_cast<size_t>(i)]; }
  const float* cos(bool compressed, int64_t i) { return work.cos[compressed].take(0) + i * config.rope_head_dim / 2; }
  const float* sin(bool compressed, int64_t i) { return work.sin[compressed].take(0) + i * config.rope_head_dim / 2; }
  void prepare_angles();  // cos and sin of every row's position

  template <class Body>
  void each_row(const Body& body) {
    pool.run(n_rows(), [&](int64_t i, int) { body(i); });
  }
  // weight [rows, cols] on all rows of an input; the result is rounded to BF16 in `faithful` unless it is one
  // of the float32 linears (compressor projections, gate, mixes, logits).
  kernels::LinearJob job(const Weight& weight, Input& input, float* out, bool is_float32 = false) {
    return {.weight = &weight,
            .input = input.as_read_by(weight, faithful, pool, isa),
            .n_tokens = input.n_rows(),
            .n_rows = weight.rows,
            .out = out,
            .out_stride = weight.rows,
            .round_bf16 = faithful && !is_float32};
  }
  void tap(int layer, const char* name, std::initializer_list<int64_t> shape, const float* values) const;
  void tap(int layer, const char* name, std::initializer_list<int64_t> shape, const int32_t* values) const;
};

}  // namespace hadal::model
