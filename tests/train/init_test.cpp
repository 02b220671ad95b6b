// First weights: what the aligned initialisation promises, what all promise.

#include "train/init.h"

#include <gtest/gtest.h>

#include <cmath>

#include "checkpoint/synth.h"
#include "train/twin.h"

namespace hadal::train {
namespace {

checkpoint::ModelConfig nano() {
  const json::Value config = checkpoint::load_config_json("nano").value();
  return checkpoint::parse_config(json::dump(config), "nano").value();
}

std::map<std::string, torch::Tensor> initialised(const checkpoint::ModelConfig& config, const InitOptions& options,
                                                 uint64_t seed) {
  const Twin twin(config, true);
  std::vector<Named> weights;
  for (const auto& [name, tensor] : twin.weights()) weights.push_back({name, tensor.detach()});
  initialise(weights, config, options, seed);
  std::map<std::string, torch::Tensor> by_name;
  for (const Named& weight : weights) by_name[weight.name] = weight.tensor.clone();
  return by_name;
}

double largest(const torch::Tensor& tensor) { return tensor.abs().max().item<double>(); }
double deviation(const torch::Tensor& tensor) { return std::sqrt(tensor.pow(2).mean().item<double>()); }

TEST(Init, AFunctionOfSeedAndName) {
  const checkpoint::ModelConfig config = nano();
  const auto a = initialised(config, {}, 1), b = initialised(config, {}, 1), c = initialised(config, {}, 2);
  for (const auto& [name, tensor] : a) EXPECT_TRUE(torch::equal(tensor, b.at(name))) << name;
  EXPECT_FALSE(torch::equal(a.at("embed.weight"), c.at("embed.weight")));
  EXPECT_FALSE(torch::equal(a.at("layers.1.attn.wq_a.weight"), c.at("layers.1.attn.wq_a.weight")));
  EXPECT_FALSE(torch::equal(a.at("layers.1.attn.wq_a.weight"), a.at("layers.2.attn.wq_a.weight")));
}

TEST(Init, AQueryMeetsItsOwnTokenAndTheOutputLeadsItBack) {
  const checkpoint::ModelConfig config = nano();
  const auto w = initialised(config, {.aligned = true, .noise = 0}, 1);
  const int64_t hd = config.head_dim, heads = config.n_heads, rank = config.o_lora_rank;
  for (int layer = 0; layer < config.n_layers; ++layer) {
    if (config.ratio(layer) == 0) continue;
    const std::string p = "layers." + std::to_string(layer) + ".attn.";
    const torch::Tensor q = w.at(p + "wq_a.weight"), wkv = w.at(p + "compressor.wkv.weight");
    EXPECT_LT(largest(q.matmul(q.t()) - torch::eye(q.size(0))), 1e-5) << p;
    const torch::Tensor pooled = wkv.slice(0, 0, hd);
    if (config.ratio(layer) == 4) {
      EXPECT_TRUE(torch::equal(pooled, wkv.slice(0, hd, 2 * hd))) << p;
    }
    // Every head's query of x is the pooled row of x, but for the noise of wq_b.
    for (int64_t h = 0; h < heads; ++h) {
      const torch::Tensor head = w.at(p + "wq_b.weight").slice(0, h * hd, (h + 1) * hd);
      EXPECT_NEAR(deviation(head - pooled.matmul(q.t())), 0.02, 0.001) << p << h;
    }
    // All heads' outputs being the pooled row of x: the layer adds x's part in the span of Q.
    torch::Tensor output = torch::zeros({config.dim, config.dim});
    for (int64_t g = 0; g < config.o_groups; ++g) {
      const torch::Tensor wo_a = w.at(p + "wo_a.weight").slice(0, g * rank, (g + 1) * rank);
      const torch::Tensor wo_b = w.at(p + "wo_b.weight").slice(1, g * rank, (g + 1) * rank);
      output += wo_b.matmul(wo_a).matmul(pooled.repeat({heads / config.o_groups, 1}));
    }
    EXPECT_LT(largest(output - q.t().matmul(q)), 1e-5) << p;
  }
}

TEST(Init, WindowsAreAlignedWhereAsked) {
  const checkpoint::ModelConfig config = nano();
  const auto plain = initialised(config, {.aligned = true}, 1),
             w = initialised(config, {.aligned = true, .aligned_windows = true}, 1);
  for (int layer = 0; layer < config.n_layers; ++layer) {
    const std::string p = "layers." + std::to_string(layer) + ".attn.";
    if (config.ratio(layer) != 0) {
      EXPECT_TRUE(torch::equal(plain.at(p + "wq_a.weight"), w.at(p + "wq_a.weight")));
      continue;
    }
    const torch::Tensor q = w.at(p + "wq_a.weight");
    EXPECT_LT(largest(q.matmul(q.t()) - torch::eye(q.size(0))), 1e-5) << p;
    EXPECT_NEAR(deviation(w.at(p + "wq_b.weight").slice(0, 0, config.head_dim) - w.at(p + "wkv.weight").matmul(q.t())),
                0.02, 0.001);
  }
}

TEST(Init, HeadCopiesTheEmbeddingAndHashTablesAreBalanced) {
  const checkpoint::ModelConfig config = nano();
  const auto w = initialised(config, {.aligned = false, .noise = 0.05, .head_scale = 3}, 1);
  EXPECT_TRUE(torch::equal(w.at("head.weight"), w.at("embed.weight") * 3));
  EXPECT_NEAR(deviation(w.at("embed.weight")), 0.05, 0.001);
  EXPECT_NEAR(deviation(w.at("layers.1.attn.wq_a.weight")), 0.05, 0.002);
  EXPECT_NEAR(deviation(w.at("layers.1.ffn.experts.w1.weight")), 0.05, 0.001);
  EXPECT_FALSE(torch::equal(w.at("layers.1.ffn.experts.w1.weight")[0], w.at("layers.1.ffn.experts.w1.weight")[1]));
  EXPECT_EQ(largest(w.at("layers.1.attn.attn_sink")), 0);
  EXPECT_EQ(largest(w.at("layers.1.attn.compressor.ape")), 0);
  EXPECT_EQ(largest(w.at("norm.weight") - 1), 0);
  const torch::Tensor table = w.at("layers.0.ffn.gate.tid2eid");
  const torch::Tensor loads = torch::bincount(table.flatten(), {}, config.n_routed_experts);
  EXPECT_LE((loads.max() - loads.min()).item<int64_t>(), 1);
  for (int64_t token = 0; token < table.size(0); ++token)
    EXPECT_NE(table[token][0].item<int64_t>(), table[token][1].item<int64_t>());
}

}  // namespace
}  // namespace hadal::train
