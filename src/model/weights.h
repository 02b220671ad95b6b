// The weights of a V4 model, bound by name to the maps of its checkpoint. Matrices stay as stored (Weight);
// only the small vectors that every row meets (norms, biases, position terms) are held as float32.
//
// Official names are in the comments; shapes are [out, in]. The checkpoint has already checked them.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/result.h"
#include "checkpoint/checkpoint.h"
#include "tensor/tensor.h"

namespace hadal::model {

struct HyperConnection {  // hc_attn_*, hc_ffn_* ([(2 + hc) hc, hc d]) and hc_head_* ([hc, hc d])
  Weight fn;
  std::vector<float> base, scale;
};

struct Compressor {         // attn.compressor, attn.indexer.compressor
  Weight wkv, wgate;        // [k D, d], k = 2 for ratio 4, else 1
  std::vector<float> ape;   // [ratio, k D]
  std::vector<float> norm;  // [D]
};

struct Indexer {        // attn.indexer
  Weight wq_b;          // [heads * dim, q_lora_rank]
  Weight weights_proj;  // [heads, d]
  Compressor compressor;
};

struct Attention {  // attn
  Weight wq_a, wq_b, wkv, wo_a, wo_b;
  std::vector<float> q_norm, kv_norm, attn_sink;
  std::optional<Compressor> compressor;  // CSA, HCA
  std::optional<Indexer> indexer;        // CSA
};

struct Expert {  // ffn.experts.e, ffn.shared_experts: silu(w1 x) * (w3 x), then w2
  Weight w1, w2, w3;
};

// Where the routed experts of a layer come from. All reads go through bring(): today it finds them in the
// maps, later it may fetch them from a disk or another machine first.
class Experts {
 public:
  explicit Experts(std::vector<Expert> experts) : experts_(std::move(experts)) {}
  // ids: ascending, without repeats. The result is good until the next call.
  std::span<const Expert* const> bring(std::span<const int32_t> ids);

 private:
  std::vector<Expert> experts_;
  std::vector<const Expert*> brought_;
};

struct Moe {                           // ffn
  Weight gate;                         // [experts, d]
  std::vector<float> bias;             // [experts]; score-routed layers
  const std::byte* tid2eid = nullptr;  // int64 [vocab, top_k]; hash-routed layers
  Experts experts;
  Expert shared;
};

struct Block {  // layers.l, mtp.m
  HyperConnection hc_attn, hc_ffn;
  std::vector<float> attn_norm, ffn_norm;
  Attention attn;
  Moe ffn;
};

struct Head {  // norm, hc_head_* of the model or of an MTP block; the matrix is shared
  HyperConnection hc;
  std::vector<float> norm;
};

struct MtpBlock {  // mtp.m
  Weight e_proj, h_proj;
  std::vector<float> enorm, hnorm;
  Block block;
  Head head;
};

struct Weights {
  Tensor embed;  // [vocab, d]
  Weight head;   // [vocab, d]
  std::vector<Block> layers;
  Head final;
  std::vector<MtpBlock> mtp;  // empty without an MTP draft

  static Result<Weights> bind(const checkpoint::Checkpoint& checkpoint, Numerics numerics);
};

}  // namespace hadal::model
