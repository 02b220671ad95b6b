#include "checkpoint/inventory.h"

#include <fmt/format.h>

#include <array>
#include <utility>

namespace hadal::checkpoint {
namespace {

class List {
 public:
  explicit List(const ModelConfig& config) : c_(config) {}

  void add(std::string name, Storage storage, std::vector<int64_t> shape, Group group, int layer) {
    tensors_.push_back({std::move(name), storage, std::move(shape), is_draft_ ? Group::kDraft : group, layer});
  }
  void linear(const std::string& name, int64_t out, int64_t in, Group group, int layer) {
    add(name + ".weight", Storage::kLinear, {out, in}, group, layer);
  }

  void hyper_connection(const std::string& p, int64_t n, int64_t n_scales, Group group, int layer) {
    add(p + "fn", Storage::kF32, {n, static_cast<int64_t>(c_.hc_mult) * c_.dim}, group, layer);
    add(p + "base", Storage::kF32, {n}, group, layer);
    add(p + "scale", Storage::kF32, {n_scales}, group, layer);
  }

  void compressor(const std::string& p, int ratio, int64_t dim, Group group, int layer) {
    const int64_t width = dim * (ratio == 4 ? 2 : 1);
    add(p + "ape", Storage::kF32, {ratio, width}, group, layer);
    add(p + "wkv.weight", Storage::kBf16, {width, c_.dim}, group, layer);
    add(p + "wgate.weight", Storage::kBf16, {width, c_.dim}, group, layer);
    add(p + "norm.weight", Storage::kBf16, {dim}, group, layer);
  }

  void expert(const std::string& p, Storage storage, Group group, int layer) {
    const int64_t d = c_.dim, m = c_.moe_inter_dim;
    add(p + "w1.weight", storage, {m, d}, group, layer);
    add(p + "w2.weight", storage, {d, m}, group, layer);
    add(p + "w3.weight", storage, {m, d}, group, layer);
  }

  void block(const std::string& p, int layer) {
    const int64_t d = c_.dim, hd = c_.head_dim, heads = c_.n_heads;
    const std::string a = p + "attn.", f = p + "ffn.";
    const int ratio = c_.ratio(layer);
    linear(a + "wq_a", c_.q_lora_rank, d, Group::kAttention, layer);
    linear(a + "wq_b", heads * hd, c_.q_lora_rank, Group::kAttention, layer);
    linear(a + "wkv", hd, d, Group::kAttention, layer);
    linear(a + "wo_a", static_cast<int64_t>(c_.o_groups) * c_.o_lora_rank, heads * hd / c_.o_groups, Group::kAttention,
           layer);
    linear(a + "wo_b", d, static_cast<int64_t>(c_.o_groups) * c_.o_lora_rank, Group::kAttention, layer);
    add(a + "q_norm.weight", Storage::kBf16, {c_.q_lora_rank}, Group::kAttentionVectors, layer);
    add(a + "kv_norm.weight", Storage::kBf16, {hd}, Group::kAttentionVectors, layer);
    add(a + "attn_sink", Storage::kF32, {heads}, Group::kAttentionVectors, layer);
    if (ratio != 0) compressor(a + "compressor.", ratio, hd, Group::kCompressors, layer);
    if (ratio == 4) {
      linear(a + "indexer.wq_b", static_cast<int64_t>(c_.index_n_heads) * c_.index_head_dim, c_.q_lora_rank,
             Group::kIndexers, layer);
      add(a + "indexer.weights_proj.weight", Storage::kBf16, {c_.index_n_heads, d}, Group::kIndexers, layer);
      compressor(a + "indexer.compressor.", 4, c_.index_head_dim, Group::kIndexers, layer);
    }
    add(p + "attn_norm.weight", Storage::kBf16, {d}, Group::kNorms, layer);
    add(p + "ffn_norm.weight", Storage::kBf16, {d}, Group::kNorms, layer);
    add(f + "gate.weight", Storage::kBf16, {c_.n_routed_experts, d}, Group::kGateWeights, layer);
    if (layer < c_.n_hash_layers) {
      add(f + "gate.tid2eid", Storage::kI64, {c_.vocab_size, c_.n_activated_experts}, Group::kHashTables, layer);
    } else {
      add(f + "gate.bias", Storage::kF32, {c_.n_routed_experts}, Group::kGateBias, layer);
    }
    for (int e = 0; e < c_.n_routed_experts; ++e)
      expert(fmt::format("{}experts.{}.", f, e), Storage::kExpert, Group::kRoutedExperts, layer);
    expert(f + "shared_experts.", Storage::kLinear, Group::kSharedExperts, layer);
    const int64_t n_mix = (2 + c_.hc_mult) * c_.hc_mult;
    hyper_connection(p + "hc_attn_", n_mix, 3, Group::kHyperConnections, layer);
    hyper_connection(p + "hc_ffn_", n_mix, 3, Group::kHyperConnections, layer);
  }

  void draft_block(Draft draft, int i, int n_blocks) {
    is_draft_ = true;
    const int layer = c_.n_layers + i;
    const int64_t d = c_.dim;
    const std::string p = fmt::format("mtp.{}.", i);
    const auto vector = [&](const char* name) { add(p + name, Storage::kBf16, {d}, Group::kDraft, layer); };
    const auto head = [&] {
      vector("norm.weight");
      hyper_connection(p + "hc_head_", c_.hc_mult, 1, Group::kDraft, layer);
    };
    block(p, layer);
    if (draft == Draft::kMtp) {
      linear(p + "e_proj", d, d, Group::kDraft, layer);
      linear(p + "h_proj", d, d, Group::kDraft, layer);
      vector("enorm.weight");
      vector("hnorm.weight");
      head();
    } else {
      if (i == 0) {
        linear(p + "main_proj", d, d * static_cast<int64_t>(c_.dspark_target_layers.size()), Group::kDraft, layer);
        vector("main_norm.weight");
      }
      if (i == n_blocks - 1) {
        head();
        const int64_t rank = c_.dspark_markov_rank;
        for (const char* name : {"markov_head.markov_w1.weight", "markov_head.markov_w2.weight"})
          add(p + name, Storage::kBf16, {c_.vocab_size, rank}, Group::kDraft, layer);
        add(p + "confidence_head.proj.weight", Storage::kBf16, {1, d + rank}, Group::kDraft, layer);
      }
    }
    is_draft_ = false;
  }

  std::vector<ExpectedTensor> take() { return std::move(tensors_); }

 private:
  const ModelConfig& c_;
  bool is_draft_ = false;
  std::vector<ExpectedTensor> tensors_;
};

}  // namespace

const char* group_name(Group group) {
  static constexpr const char* kNames[kGroupCount] = {
      "embedding",   "head",           "attention projections", "attention norms, sinks", "compressors",
      "indexers",    "routed experts", "shared experts",        "gate weights",           "gate biases",
      "hash tables", "norms",          "hyper-connections",     "final norm, collapse",   "draft"};
  return kNames[static_cast<int>(group)];
}

std::vector<ExpectedTensor> expected_tensors(const ModelConfig& config, Draft draft, int n_draft_blocks) {
  List list(config);
  const int64_t vocab = config.vocab_size, d = config.dim;
  list.add("embed.weight", Storage::kBf16, {vocab, d}, Group::kEmbed, -1);
  list.add("head.weight", Storage::kBf16, {vocab, d}, Group::kHead, -1);
  list.add("norm.weight", Storage::kBf16, {d}, Group::kFinal, -1);
  list.hyper_connection("hc_head_", config.hc_mult, 1, Group::kFinal, -1);
  for (int l = 0; l < config.n_layers; ++l) list.block(fmt::format("layers.{}.", l), l);
  if (draft != Draft::kNone)
    for (int i = 0; i < n_draft_blocks; ++i) list.draft_block(draft, i, n_draft_blocks);
  return list.take();
}

int64_t StoredTensor::size_bytes() const {
  int64_t n = dtype_size(dtype);
  for (const int64_t extent : shape) n *= extent;
  return n;
}

std::string scale_name(std::string_view weight_name) {
  return std::string(weight_name.substr(0, weight_name.size() - std::string_view(".weight").size())) + ".scale";
}

ReleaseKind release_kind(const ModelConfig& config) {
  ReleaseKind kind;
  kind.fp8 = config.has_quantization || config.expert_dtype == "fp4" || config.expert_dtype == "fp8";
  if (config.expert_dtype == "fp8") {
    kind.experts = Dtype::kF8e4m3;
    kind.f32_scales = true;
  } else if (config.expert_dtype == "bf16") {
    kind.experts = Dtype::kBf16;
  } else if (config.expert_dtype.empty()) {
    kind.experts = kind.fp8 ? Dtype::kI8 : Dtype::kBf16;
    kind.assumed =
        kind.fp8 ? "expert_dtype absent: FP4 experts assumed" : "no quantization_config: BF16 weights assumed";
  }
  return kind;
}

Status check_draft_ratios(const ModelConfig& config, Draft draft, int n_draft_blocks, const std::string& file) {
  const auto& ratios = config.compress_ratios;
  for (int i = 0; i < n_draft_blocks; ++i) {
    const size_t layer = static_cast<size_t>(config.n_layers + i);
    if (layer >= ratios.size() && draft != Draft::kMtp) return {};
    if (layer < ratios.size() && ratios[layer] == 0) continue;
    return Error{Code::kCorrupt,
                 fmt::format("{}: compress_ratios: expected 0 at index {} (draft block {}), found {}", file, layer, i,
                             layer < ratios.size() ? std::to_string(ratios[layer]) : "nothing")};
  }
  return {};
}

std::vector<StoredTensor> stored_as(const ExpectedTensor& tensor, const ReleaseKind& kind) {
  switch (tensor.storage) {
    case Storage::kBf16:
      return {{tensor.name, Dtype::kBf16, tensor.shape}};
    case Storage::kF32:
      return {{tensor.name, Dtype::kF32, tensor.shape}};
    case Storage::kI64:
      return {{tensor.name, Dtype::kI64, tensor.shape}};
    case Storage::kLinear:
    case Storage::kExpert:
      break;
  }
  const Dtype dtype = tensor.storage == Storage::kExpert ? kind.experts : kind.fp8 ? Dtype::kF8e4m3 : Dtype::kBf16;
  if (dtype == Dtype::kBf16) return {{tensor.name, Dtype::kBf16, tensor.shape}};
  const int64_t rows = tensor.shape[0], cols = tensor.shape[1];
  if (dtype == Dtype::kI8)
    return {{tensor.name, Dtype::kI8, {rows, cols / 2}}, {scale_name(tensor.name), Dtype::kF8e8m0, {rows, cols / 32}}};
  return {{tensor.name, Dtype::kF8e4m3, tensor.shape},
          {scale_name(tensor.name),
           kind.f32_scales ? Dtype::kF32 : Dtype::kF8e8m0,
           {(rows + 127) / 128, (cols + 127) / 128}}};
}

std::optional<std::string> canonical_name(std::string_view name) {
  static constexpr std::pair<std::string_view, std::string_view> kAliases[] = {{"embed_tokens", "embed"},
                                                                               {"lm_head", "head"},
                                                                               {"input_layernorm", "attn_norm"},
                                                                               {"post_attention_layernorm", "ffn_norm"},
                                                                               {"q_a_proj", "wq_a"},
                                                                               {"q_a_layernorm", "q_norm"},
                                                                               {"q_b_proj", "wq_b"},
                                                                               {"kv_a_layernorm", "kv_norm"},
                                                                               {"gate_proj", "w1"},
                                                                               {"down_proj", "w2"},
                                                                               {"up_proj", "w3"},
                                                                               {"self_attn", "attn"},
                                                                               {"mlp", "ffn"},
                                                                               {"weight_scale_inv", "scale"},
                                                                               {"e_score_correction_bias", "bias"}};
  if (name.starts_with("model.")) name.remove_prefix(6);
  if (name.starts_with("mtp.") && (name.find("emb") != std::string_view::npos || name.ends_with("head.weight")))
    return std::nullopt;
  std::string out;
  out.reserve(name.size());
  for (size_t begin = 0; begin <= name.size();) {
    const size_t dot = std::min(name.find('.', begin), name.size());
    std::string_view part = name.substr(begin, dot - begin);
    for (const auto& [alias, release] : kAliases)
      if (part == alias) part = release;
    if (begin) out += '.';
    out += part;
    begin = dot + 1;
  }
  return out;
}

}  // namespace hadal::checkpoint
