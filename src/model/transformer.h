// The V4 model: tokens in, logits out (official Transformer). Start reading here.
//
//   h[j] = embed[token]                        hc equal streams                        [t, hc, d]
//   for each layer: h = block(h)               block.cpp: mHC( attention ), mHC( MoE )
//   logits = head . RMSNorm(hc_head(h))        float32, for the rows that ask           [n, vocab]
//
// One forward for everything: a batch of sequences, each with any number of new tokens. A row's result depends
// on its sequence only, bit for bit, whatever the batch, chunking, threads or instruction set (docs/numerics.md).
//
// Threads: one call at a time per Transformer; it uses the pool. Memory: work buffers grow to the largest call
// (about 1 MB per row for V4-Flash), so long prompts are fed in chunks.
// Errors: kInvalid for a token outside the vocabulary or a position past max_position_embeddings; nothing has
// changed then.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "base/result.h"
#include "base/thread_pool.h"
#include "base/types.h"
#include "checkpoint/checkpoint.h"
#include "kernels/isa.h"
#include "kv/sequence_state.h"
#include "model/rope.h"
#include "model/step.h"
#include "model/weights.h"

namespace hadal::model {

struct Sequence {
  kv::SequenceState* state = nullptr;
  std::span<const TokenId> tokens;  // to append
  int64_t n_logits = 1;             // logits of the last so many of them
};

// Rows for the MTP block: row i pairs the streams after the last main layer at position i with token i + 1,
// and predicts token i + 2. Rows continue at state->draft_length().
struct MtpSequence {
  kv::SequenceState* state = nullptr;
  const float* streams = nullptr;        // [n, hc, d]
  std::span<const TokenId> next_tokens;  // [n]
  int64_t n_logits = 1;
};

class Transformer {
 public:
  // The checkpoint and the pool must outlive the Transformer.
  static Result<Transformer> bind(const checkpoint::Checkpoint& checkpoint, Numerics numerics, const kernels::Isa& isa,
                                  ThreadPool& pool);

  const checkpoint::ModelConfig& config() const { return *config_; }
  Numerics numerics() const { return layout_->numerics; }
  const std::shared_ptr<const kv::Layout>& layout() const { return layout_; }
  kv::SequenceState new_sequence() const { return kv::SequenceState(layout_); }
  bool has_mtp() const { return !weights_.mtp.empty(); }
  void set_probe(Probe* probe) { probe_ = probe; }

  // Appends every sequence's tokens. logits: [sum of n_logits, vocab], sequence by sequence. streams, if given:
  // [t, hc, d] after the last layer, the input of mtp().
  Status forward(std::span<const Sequence> batch, std::vector<float>& logits, std::vector<float>* streams = nullptr);
  Status mtp(std::span<const MtpSequence> batch, std::vector<float>& logits, std::vector<float>* streams = nullptr);

  // Single modules on given inputs x: [t, d] (after the norm), for tests fed by taps. Appends to the layer's
  // state without advancing the sequence.
  Status attention_only(int layer, kv::SequenceState& state, std::span<const float> x, std::vector<float>& out);
  Status moe_only(int layer, std::span<const TokenId> tokens, std::span<const float> x, std::vector<float>& out);

 private:
  Transformer() = default;
  Step make_step();
  void run_block(Step& step, Block& block, int layer, float* streams);
  void run_head(Step& step, const Head& head, const float* streams, std::span<const int64_t> rows, float* logits);
  void embed(TokenId token, float* row) const;
  Status check_tokens(std::span<const TokenId> tokens, int64_t start) const;
  Block& block(int layer);

  const checkpoint::ModelConfig* config_ = nullptr;
  const kernels::Isa* isa_ = nullptr;
  ThreadPool* pool_ = nullptr;
  std::shared_ptr<const kv::Layout> layout_;
  RopeTable rope_[2];  // [plain, compressed]
  Weights weights_;
  Workspace work_;
  Probe* probe_ = nullptr;
};

}  // namespace hadal::model
