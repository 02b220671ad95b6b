#include "model/weights.h"

#include <fmt/format.h>

#include <cstring>
#include <string>

#include "tensor/formats.h"

namespace hadal::model {
namespace {

using checkpoint::Checkpoint;
using checkpoint::LayerKind;
using checkpoint::ModelConfig;

class Binder {
 public:
  Binder(const Checkpoint& checkpoint, Numerics numerics)
      : checkpoint_(checkpoint), config_(checkpoint.config()), numerics_(numerics) {}

  Weight weight(const std::string& name) const { return checkpoint_.weight(name); }

  std::vector<float> vector(const std::string& name) const {
    const Tensor& tensor = checkpoint_.tensor(name);
    std::vector<float> values(static_cast<size_t>(tensor.n_elements()));
    for (size_t i = 0; i < values.size(); ++i) {
      if (tensor.dtype == Dtype::kF32) {
        std::memcpy(&values[i], tensor.data + 4 * i, 4);
      } else {
        bf16 stored;
        std::memcpy(&stored, tensor.data + 2 * i, 2);
        values[i] = to_f32(stored);
      }
    }
    return values;
  }

  HyperConnection hyper_connection(const std::string& p) const {
    const Tensor& fn = checkpoint_.tensor(p + "fn");
    Weight weight{.format = WeightFormat::kF32, .rows = fn.shape[0], .cols = fn.shape[1], .data = fn.data};
    return {.fn = weight, .base = vector(p + "base"), .scale = vector(p + "scale")};
  }

  Compressor compressor(const std::string& p) const {
    return {.wkv = weight(p + "wkv"),
            .wgate = weight(p + "wgate"),
            .ape = vector(p + "ape"),
            .norm = vector(p + "norm.weight")};
  }

  Attention attention(const std::string& p, LayerKind kind) const {
    Attention a;
    a.wq_a = weight(p + "wq_a");
    a.wq_b = weight(p + "wq_b");
    a.wkv = weight(p + "wkv");
    a.wo_a = weight(p + "wo_a");
    a.wo_a.rounds_to_bf16 = numerics_ == Numerics::kFaithful;
    a.wo_b = weight(p + "wo_b");
    a.q_norm = vector(p + "q_norm.weight");
    a.kv_norm = vector(p + "kv_norm.weight");
    a.attn_sink = vector(p + "attn_sink");
    if (kind != LayerKind::kSwa) a.compressor = compressor(p + "compressor.");
    if (kind == LayerKind::kCsa)
      a.indexer = Indexer{.wq_b = weight(p + "indexer.wq_b"),
                          .weights_proj = weight(p + "indexer.weights_proj"),
                          .compressor = compressor(p + "indexer.compressor.")};
    return a;
  }

  Expert expert(const std::string& p) const {
    return {.w1 = weight(p + "w1"), .w2 = weight(p + "w2"), .w3 = weight(p + "w3")};
  }

  Moe moe(const std::string& p, int layer) const {
    std::vector<Expert> experts;
    experts.reserve(static_cast<size_t>(config_.n_routed_experts));
    for (int e = 0; e < config_.n_routed_experts; ++e) experts.push_back(expert(fmt::format("{}experts.{}.", p, e)));
    Moe moe{.gate = weight(p + "gate"),
            .bias = {},
            .experts = Experts(std::move(experts)),
            .shared = expert(p + "shared_experts.")};
    if (layer < config_.n_hash_layers) {
      moe.tid2eid = checkpoint_.tensor(p + "gate.tid2eid").data;
    } else {
      moe.bias = vector(p + "gate.bias");
    }
    return moe;
  }

  Block block(const std::string& p, int layer) const {
    return {.hc_attn = hyper_connection(p + "hc_attn_"),
            .hc_ffn = hyper_connection(p + "hc_ffn_"),
            .attn_norm = vector(p + "attn_norm.weight"),
            .ffn_norm = vector(p + "ffn_norm.weight"),
            .attn = attention(p + "attn.", config_.kind(layer)),
            .ffn = moe(p + "ffn.", layer)};
  }

  MtpBlock mtp(const std::string& p, int layer) const {
    return {.e_proj = weight(p + "e_proj"),
            .h_proj = weight(p + "h_proj"),
            .enorm = vector(p + "enorm.weight"),
            .hnorm = vector(p + "hnorm.weight"),
            .block = block(p, layer),
            .head = {.hc = hyper_connection(p + "hc_head_"), .norm = vector(p + "norm.weight")}};
  }

 private:
  const Checkpoint& checkpoint_;
  const ModelConfig& config_;
  Numerics numerics_;
};

}  // namespace

std::span<const Expert* const> Experts::bring(std::span<const int32_t> ids) {
  brought_.clear();
  for (const int32_t id : ids) brought_.push_back(&experts_[static_cast<size_t>(id)]);
  return brought_;
}

Result<Weights> Weights::bind(const Checkpoint& checkpoint, Numerics numerics) {
  const ModelConfig& config = checkpoint.config();
  const Binder binder(checkpoint, numerics);
  Weights weights;
  weights.embed = checkpoint.tensor("embed.weight");
  weights.head = binder.weight("head");
  weights.layers.reserve(static_cast<size_t>(config.n_layers));
  for (int l = 0; l < config.n_layers; ++l) weights.layers.push_back(binder.block(fmt::format("layers.{}.", l), l));
  weights.final = {.hc = binder.hyper_connection("hc_head_"), .norm = binder.vector("norm.weight")};
  if (checkpoint.draft() == checkpoint::Draft::kMtp)
    for (int m = 0; m < config.n_mtp_layers; ++m)
      weights.mtp.push_back(binder.mtp(fmt::format("mtp.{}.", m), config.n_layers + m));
  return weights;
}

}  // namespace hadal::model
