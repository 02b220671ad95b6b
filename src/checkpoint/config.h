// The architecture of a V4 model, from its config.json (Hugging Face names). Field names here are those of
// the official inference code (glossary: docs/model.md).
//
// Required: every key the forward pass needs; there are no silent defaults. Refused by name: other
// architectures (V4.1 among them) and values that mean another computation (architecture report A.16.8).
// Ignored: keys that name no computation.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace hadal::checkpoint {

enum class LayerKind {
  kSwa,  // ratio 0: window only
  kCsa,  // ratio 4: window + indexed compressed entries
  kHca,  // any other ratio: window + all compressed entries
};

struct ModelConfig {
  int vocab_size = 0;
  int dim = 0;           // d: width of one stream
  int n_layers = 0;      // L: main layers
  int n_mtp_layers = 0;  // num_nextn_predict_layers as the file says; what is there is Checkpoint::draft()
  int n_hash_layers = 0;
  int n_heads = 0, head_dim = 0, rope_head_dim = 0;
  int q_lora_rank = 0, o_groups = 0, o_lora_rank = 0;
  int window_size = 0;
  std::vector<int> compress_ratios;  // at least n_layers; further entries belong to draft layers
  int index_n_heads = 0, index_head_dim = 0, index_topk = 0;
  int n_routed_experts = 0, n_activated_experts = 0, moe_inter_dim = 0;
  float route_scale = 1, swiglu_limit = 0;  // swiglu_limit 0: no clamp
  int hc_mult = 0, hc_sinkhorn_iters = 0;
  float hc_eps = 0, norm_eps = 0;
  double rope_theta = 0, compress_rope_theta = 0;
  double rope_factor = 1, beta_fast = 32, beta_slow = 1;
  int64_t original_seq_len = 0;  // 0: no YaRN
  int64_t max_position_embeddings = 0;
  std::string expert_dtype;       // "fp4", "fp8", ... or "" when the file does not say
  bool has_quantization = false;  // a quantization_config is present
  // DSpark draft stages (0731, 0813): present when any dspark_* key is.
  int dspark_markov_rank = 0;
  std::vector<int> dspark_target_layers;

  int nope_head_dim() const { return head_dim - rope_head_dim; }
  LayerKind kind(int layer) const {  // layers past n_layers are draft layers: always window only
    const int ratio = layer < n_layers ? compress_ratios[static_cast<size_t>(layer)] : 0;
    return ratio == 0 ? LayerKind::kSwa : ratio == 4 ? LayerKind::kCsa : LayerKind::kHca;
  }
  int ratio(int layer) const { return layer < n_layers ? compress_ratios[static_cast<size_t>(layer)] : 0; }
};

// `file` names the source in errors.
Result<ModelConfig> parse_config(std::string_view json_text, const std::string& file);
Result<ModelConfig> read_config(const std::string& path);  // a config.json, or a directory that holds one

}  // namespace hadal::checkpoint
