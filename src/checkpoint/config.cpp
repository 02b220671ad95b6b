#include "checkpoint/config.h"

#include <fmt/format.h>

#include <bit>
#include <cmath>

#include "base/file.h"
#include "base/json.h"

namespace hadal::checkpoint {
namespace {

using json::Value;

// Reads the keys of one object; errors name the file and the key.
class Keys {
 public:
  Keys(const Value& object, std::string where) : object_(object), where_(std::move(where)) {}

  Error wrong(std::string_view key, std::string_view expected) const {
    const Value* value = object_.find(key);
    std::string found = value ? json::dump(*value, {.ascii = true}) : "nothing";
    if (found.size() > 60) found = found.substr(0, 57) + "...";
    return {Code::kInvalid, fmt::format("{}: {}: expected {}, found {}", where_, key, expected, found)};
  }
  Result<int> integer(std::string_view key, int64_t least, int64_t most) const {
    const Value* value = object_.find(key);
    const auto number = value && value->is_int() ? value->to_int64() : std::nullopt;
    if (!number || *number < least || *number > most)
      return wrong(key, fmt::format("an integer from {} to {}", least, most));
    return static_cast<int>(*number);
  }
  Result<double> number(std::string_view key, double least, double most) const {
    const Value* value = object_.find(key);
    const auto found = value ? value->to_double() : std::nullopt;
    if (!found || !(*found >= least) || !(*found <= most))
      return wrong(key, fmt::format("a number from {} to {}", least, most));
    return *found;
  }
  // A key that may be absent or null, but then must have one value, since others mean another computation.
  Status only(std::string_view key, const Value& value) const {
    const Value* found = object_.find(key);
    if (!found || found->is_null() || *found == value) return {};
    if (found->is_number() && value.is_number() && found->to_double() == value.to_double()) return {};
    return Error{Code::kUnsupported, wrong(key, json::dump(value)).message};
  }
  // The same, but it must be there.
  Status must(std::string_view key, const Value& value) const {
    if (!find(key)) return wrong(key, json::dump(value));
    return only(key, value);
  }
  const Value* find(std::string_view key) const {
    const Value* value = object_.find(key);
    return value && !value->is_null() ? value : nullptr;
  }
  const std::string& where() const { return where_; }

 private:
  const Value& object_;
  std::string where_;
};

constexpr int kMaxLayers = 1000;
constexpr int kMaxWidth = 1 << 18;
constexpr int kMaxExperts = 1 << 18;  // in all layers; V4-Pro has 23,424. Bounds the lists made from a config alone

Status check_architecture(const Keys& keys) {
  const Value* type = keys.find("model_type");
  if (!type || !type->is_string() || type->as_string() != "deepseek_v4")
    return Error{Code::kUnsupported,
                 keys.wrong("model_type", "\"deepseek_v4\" (hadal computes DeepSeek V4 only)").message};
  if (const Value* names = keys.find("architectures")) {
    const bool right =
        names->is_array() && names->as_array().size() == 1 && names->as_array()[0] == Value("DeepseekV4ForCausalLM");
    if (!right) return Error{Code::kUnsupported, keys.wrong("architectures", "[\"DeepseekV4ForCausalLM\"]").message};
  }
  HADAL_TRY(keys.must("scoring_func", "sqrtsoftplus"));
  HADAL_TRY(keys.must("topk_method", "noaux_tc"));
  HADAL_TRY(keys.must("norm_topk_prob", true));
  HADAL_TRY(keys.must("n_shared_experts", 1));
  HADAL_TRY(keys.must("num_key_value_heads", 1));
  // Absent, these choose nothing: the tensors tell (a bias, a missing head).
  HADAL_TRY(keys.only("attention_bias", false));
  HADAL_TRY(keys.only("tie_word_embeddings", false));
  HADAL_TRY(keys.only("hidden_act", "silu"));
  return {};
}

Status read_rope_scaling(const Keys& keys, ModelConfig& config) {
  const Value* scaling = keys.find("rope_scaling");
  if (!scaling) return {};
  if (!scaling->is_object()) return keys.wrong("rope_scaling", "an object");
  const Keys rope(*scaling, keys.where() + ": rope_scaling");
  if (!rope.find("type") && !rope.find("rope_type")) return rope.wrong("type", "\"yarn\"");
  HADAL_TRY(rope.only("type", "yarn"));
  HADAL_TRY(rope.only("rope_type", "yarn"));
  config.rope_factor = HADAL_TRY(rope.number("factor", 1e-3, 1e6));
  config.original_seq_len = HADAL_TRY(rope.integer("original_max_position_embeddings", 0, 1 << 24));
  if (rope.find("beta_fast")) config.beta_fast = HADAL_TRY(rope.number("beta_fast", 1e-6, 1e6));
  if (rope.find("beta_slow")) config.beta_slow = HADAL_TRY(rope.number("beta_slow", 1e-6, 1e6));
  return {};
}

Status read_quantization(const Keys& keys, ModelConfig& config) {
  const Value* quantization = keys.find("quantization_config");
  if (!quantization) return {};
  if (!quantization->is_object()) return keys.wrong("quantization_config", "an object");
  const Keys quant(*quantization, keys.where() + ": quantization_config");
  config.has_quantization = true;
  HADAL_TRY(quant.only("quant_method", "fp8"));
  HADAL_TRY(quant.only("fmt", "e4m3"));
  HADAL_TRY(quant.only("activation_scheme", "dynamic"));
  if (!quant.find("scale_fmt")) return Error{Code::kUnsupported, quant.wrong("scale_fmt", "\"ue8m0\"").message};
  HADAL_TRY(quant.only("scale_fmt", "ue8m0"));
  HADAL_TRY(quant.only("weight_block_size", json::Array{128, 128}));
  return {};
}

Status read_dspark(const Keys& keys, const Value& root, ModelConfig& config) {
  bool any = false;
  for (const auto& [key, value] : root.as_object()) any = any || key.starts_with("dspark_");
  if (!any) return {};
  config.dspark_markov_rank = HADAL_TRY(keys.integer("dspark_markov_rank", 1, kMaxWidth));
  const Value* targets = keys.find("dspark_target_layer_ids");
  if (!targets || !targets->is_array() || targets->as_array().empty())
    return keys.wrong("dspark_target_layer_ids", "a list of layers");
  for (const Value& target : targets->as_array()) {
    const auto layer = target.is_int() ? target.to_int64() : std::nullopt;
    if (!layer || *layer < 0 || *layer >= config.n_layers)
      return keys.wrong("dspark_target_layer_ids", fmt::format("layers from 0 to {}", config.n_layers - 1));
    config.dspark_target_layers.push_back(static_cast<int>(*layer));
  }
  return {};
}

}  // namespace

Result<ModelConfig> parse_config(std::string_view json_text, const std::string& file) {
  auto parsed = json::parse(json_text, json::Duplicates::kReject);
  if (!parsed.ok()) return Error{Code::kCorrupt, file + ": " + parsed.error().message};
  const Value& root = parsed.value();
  if (!root.is_object()) return Error{Code::kCorrupt, file + ": expected a JSON object, found " + root.kind_name()};
  const Keys keys(root, file);
  HADAL_TRY(check_architecture(keys));

  ModelConfig c;
  c.vocab_size = HADAL_TRY(keys.integer("vocab_size", 2, 1 << 24));
  c.dim = HADAL_TRY(keys.integer("hidden_size", 1, kMaxWidth));
  c.n_layers = HADAL_TRY(keys.integer("num_hidden_layers", 1, kMaxLayers));
  if (keys.find("num_nextn_predict_layers"))
    c.n_mtp_layers = HADAL_TRY(keys.integer("num_nextn_predict_layers", 0, 16));
  c.n_hash_layers = HADAL_TRY(keys.integer("num_hash_layers", 0, c.n_layers));
  c.n_heads = HADAL_TRY(keys.integer("num_attention_heads", 1, 1 << 14));
  c.head_dim = HADAL_TRY(keys.integer("head_dim", 2, 1 << 14));
  c.rope_head_dim = HADAL_TRY(keys.integer("qk_rope_head_dim", 2, c.head_dim));
  c.q_lora_rank = HADAL_TRY(keys.integer("q_lora_rank", 1, kMaxWidth));
  c.o_groups = HADAL_TRY(keys.integer("o_groups", 1, c.n_heads));
  c.o_lora_rank = HADAL_TRY(keys.integer("o_lora_rank", 1, kMaxWidth));
  c.window_size = HADAL_TRY(keys.integer("sliding_window", 1, 1 << 20));
  c.index_n_heads = HADAL_TRY(keys.integer("index_n_heads", 1, 1 << 12));
  c.index_head_dim = HADAL_TRY(keys.integer("index_head_dim", 2, 4096));
  c.index_topk = HADAL_TRY(keys.integer("index_topk", 1, 1 << 20));
  c.n_routed_experts = HADAL_TRY(keys.integer("n_routed_experts", 1, 1 << 14));
  c.n_activated_experts = HADAL_TRY(keys.integer("num_experts_per_tok", 1, c.n_routed_experts));
  if (int64_t{c.n_layers} * c.n_routed_experts > kMaxExperts)
    return keys.wrong("n_routed_experts", fmt::format("at most {} experts in {} layers", kMaxExperts, c.n_layers));
  c.moe_inter_dim = HADAL_TRY(keys.integer("moe_intermediate_size", 1, kMaxWidth));
  c.route_scale = static_cast<float>(HADAL_TRY(keys.number("routed_scaling_factor", 0, 1e6)));
  c.swiglu_limit = static_cast<float>(HADAL_TRY(keys.number("swiglu_limit", 0, 1e30)));
  c.hc_mult = HADAL_TRY(keys.integer("hc_mult", 1, 16));
  c.hc_sinkhorn_iters = HADAL_TRY(keys.integer("hc_sinkhorn_iters", 1, 10000));
  c.hc_eps = static_cast<float>(HADAL_TRY(keys.number("hc_eps", 0, 1)));
  c.norm_eps = static_cast<float>(HADAL_TRY(keys.number("rms_norm_eps", 0, 1)));
  c.rope_theta = HADAL_TRY(keys.number("rope_theta", 1, 1e12));
  c.compress_rope_theta = HADAL_TRY(keys.number("compress_rope_theta", 1, 1e12));
  c.max_position_embeddings = HADAL_TRY(keys.integer("max_position_embeddings", 1, 1 << 24));

  const Value* ratios = keys.find("compress_ratios");
  if (!ratios || !ratios->is_array() || ratios->as_array().size() < static_cast<size_t>(c.n_layers) ||
      ratios->as_array().size() > 2 * kMaxLayers)
    return keys.wrong("compress_ratios", fmt::format("a list of at least {} ratios (num_hidden_layers)", c.n_layers));
  for (const Value& value : ratios->as_array()) {
    const auto ratio = value.is_int() ? value.to_int64() : std::nullopt;
    if (!ratio || *ratio < 0 || *ratio > 4096) return keys.wrong("compress_ratios", "ratios from 0 to 4096");
    c.compress_ratios.push_back(static_cast<int>(*ratio));
  }

  if (c.rope_head_dim % 2 != 0) return keys.wrong("qk_rope_head_dim", "an even number");
  if (c.rope_head_dim > c.index_head_dim)
    return keys.wrong("qk_rope_head_dim", fmt::format("at most index_head_dim ({})", c.index_head_dim));
  if (c.n_heads % c.o_groups != 0) return keys.wrong("o_groups", fmt::format("a divisor of {} heads", c.n_heads));
  if (!std::has_single_bit(static_cast<unsigned>(c.index_head_dim)))
    return Error{Code::kUnsupported, keys.wrong("index_head_dim", "a power of two (Hadamard)").message};

  HADAL_TRY(read_rope_scaling(keys, c));
  HADAL_TRY(read_quantization(keys, c));
  HADAL_TRY(read_dspark(keys, root, c));
  if (const Value* dtype = keys.find("expert_dtype")) {
    if (!dtype->is_string() ||
        (dtype->as_string() != "fp4" && dtype->as_string() != "fp8" && dtype->as_string() != "bf16"))
      return Error{Code::kUnsupported, keys.wrong("expert_dtype", "\"fp4\", \"fp8\" or \"bf16\"").message};
    c.expert_dtype = dtype->as_string();
  }
  return c;
}

Result<ModelConfig> read_config(const std::string& path) {
  const std::string file = is_directory(path) ? path + "/config.json" : path;
  const std::string text = HADAL_TRY(read_file(file, 1 << 20));
  return parse_config(text, file);
}

}  // namespace hadal::checkpoint
