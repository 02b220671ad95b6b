#include "train/init.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numbers>
#include <string>

#include "base/check.h"

namespace hadal::train {
namespace {

uint64_t mix(uint64_t x) {
  x += 0x9E3779B97F4A7C15u;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

// Standard normals of (seed, name), in double.
class Normals {
 public:
  Normals(uint64_t seed, std::string_view name) : state_(mix(seed)) {
    for (const char c : name) state_ = (state_ ^ static_cast<unsigned char>(c)) * 0x100000001B3u;
    state_ = mix(state_);
  }
  double next() {
    if (have_) {
      have_ = false;
      return kept_;
    }
    const double radius = std::sqrt(-2 * std::log(unit())), angle = 2 * std::numbers::pi * unit();
    kept_ = radius * std::sin(angle);
    have_ = true;
    return radius * std::cos(angle);
  }

 private:
  double unit() {  // (0, 1]
    return static_cast<double>((mix(state_ += 0x9E3779B97F4A7C15u) >> 11) + 1) * 0x1p-53;
  }
  uint64_t state_;
  double kept_ = 0;
  bool have_ = false;
};

torch::Tensor normals(at::IntArrayRef shape, double deviation, uint64_t seed, const std::string& name) {
  torch::Tensor values = torch::empty(shape, torch::kFloat32);
  Normals random(seed, name);
  float* out = values.data_ptr<float>();
  for (int64_t i = 0; i < values.numel(); ++i) out[i] = static_cast<float>(deviation * random.next());
  return values;
}

// [rows, cols] with orthonormal rows, or columns where there are fewer: Gram-Schmidt, twice, in
// double.
torch::Tensor orthonormal(int64_t rows, int64_t cols, uint64_t seed, const std::string& name) {
  if (rows > cols) return orthonormal(cols, rows, seed, name).t().contiguous();
  torch::Tensor basis = normals({rows, cols}, 1, seed, name).to(torch::kFloat64);
  for (int64_t i = 0; i < rows; ++i) {
    torch::Tensor row = basis[i];
    for (int pass = 0; pass < 2 && i > 0; ++pass) {
      const torch::Tensor before = basis.slice(0, 0, i);
      row.sub_(before.t().matmul(before.matmul(row)));
    }
    row.div_(row.norm());
  }
  return basis;
}

// Each token's experts: the least loaded so far, ties by a hash, so that every expert gets as many
// tokens.
torch::Tensor hash_table(int64_t vocab, int64_t k, int64_t n_experts, uint64_t seed) {
  torch::Tensor table = torch::empty({vocab, k}, torch::kInt64);
  std::vector<int64_t> load(static_cast<size_t>(n_experts));
  std::vector<int64_t> order(static_cast<size_t>(n_experts));
  int64_t* out = table.data_ptr<int64_t>();
  for (int64_t token = 0; token < vocab; ++token) {
    for (int64_t e = 0; e < n_experts; ++e) order[static_cast<size_t>(e)] = e;
    const auto rank = [&](int64_t e) {
      const auto key = static_cast<uint64_t>(token * n_experts + e);
      return std::pair(load[static_cast<size_t>(e)], mix(seed ^ mix(key)));
    };
    std::partial_sort(order.begin(), order.begin() + k, order.end(),
                      [&](int64_t a, int64_t b) { return rank(a) < rank(b); });
    for (int64_t i = 0; i < k; ++i) {
      out[token * k + i] = order[static_cast<size_t>(i)];
      ++load[static_cast<size_t>(order[static_cast<size_t>(i)])];
    }
  }
  return table;
}

void align(const std::map<std::string, torch::Tensor>& weights, const checkpoint::ModelConfig& c, int layer,
           double noise, uint64_t seed) {
  const std::string p = fmt::format("layers.{}.attn.", layer);
  const auto weight = [&](const char* name) { return weights.at(p + name + ".weight"); };
  const int64_t ql = c.q_lora_rank, hd = c.head_dim, heads = c.n_heads, groups = c.o_groups, rank = c.o_lora_rank;
  const torch::Tensor q = orthonormal(ql, c.dim, seed, p + "Q"), a = orthonormal(hd, ql, seed, p + "A");
  weight("wq_a").copy_(q);
  torch::Tensor wq_b = weight("wq_b");
  wq_b.copy_(a.repeat({heads, 1}));
  wq_b.add_(normals(wq_b.sizes(), noise, seed, p + "wq_b"));
  const torch::Tensor pooled = a.matmul(q);  // [hd, d]
  torch::Tensor wkv = weight(c.ratio(layer) == 0 ? "wkv" : "compressor.wkv");
  wkv.copy_(pooled.repeat({wkv.size(0) / hd, 1}));
  // Group g's row j carries latent (g rank + j) mod ql where a group is narrower than the latent,
  // else latent j.
  torch::Tensor wo_a = weight("wo_a"), wo_b = weight("wo_b");
  const int64_t heads_per_group = heads / groups;
  const auto latent = [&](int64_t g, int64_t j) { return rank < ql ? (g * rank + j) % ql : j; };
  std::vector<int> copies(static_cast<size_t>(ql));
  for (int64_t g = 0; g < groups; ++g)
    for (int64_t j = 0; j < std::min(rank, ql); ++j) ++copies[static_cast<size_t>(latent(g, j))];
  for (int64_t g = 0; g < groups; ++g)
    for (int64_t j = 0; j < std::min(rank, ql); ++j) {
      const int64_t i = latent(g, j);
      wo_a[g * rank + j].copy_((a.t()[i] / static_cast<double>(heads_per_group)).repeat({heads_per_group}));
      wo_b.select(1, g * rank + j).copy_(q[i] / static_cast<double>(copies[static_cast<size_t>(i)]));
    }
}

}  // namespace

void initialise(const std::vector<Named>& weights, const checkpoint::ModelConfig& config, const InitOptions& options,
                uint64_t seed) {
  torch::NoGradGuard no_grad;
  std::map<std::string, torch::Tensor> by_name;
  for (const Named& weight : weights) by_name[weight.name] = weight.tensor;
  const double embedding = options.embedding > 0 ? options.embedding : options.noise > 0 ? options.noise : 0.02;
  for (const auto& [name, tensor] : by_name) {
    const auto ends = [&name = name](std::string_view suffix) { return name.ends_with(suffix); };
    if (tensor.scalar_type() == torch::kInt64) {
      tensor.copy_(hash_table(tensor.size(0), tensor.size(1), config.n_routed_experts, seed));
    } else if (ends("norm.weight")) {
      tensor.fill_(1);
    } else if (ends("_scale")) {
      tensor.fill_(0.01);
    } else if (tensor.dim() == 1 || ends(".ape")) {
      tensor.zero_();
    } else if (name == "embed.weight") {
      tensor.copy_(normals(tensor.sizes(), embedding, seed, name));
    } else if (name != "head.weight") {
      const auto inputs = static_cast<double>(tensor.size(-1));
      double deviation = options.noise > 0 ? options.noise : 0.5 / std::sqrt(inputs);
      const bool adds_to_streams = ends("wo_b.weight") || ends("w2.weight");
      if (options.noise == 0 && adds_to_streams) deviation /= std::sqrt(2.0 * config.n_layers);
      tensor.copy_(normals(tensor.sizes(), deviation, seed, name));
    }
  }
  by_name.at("head.weight").copy_(by_name.at("embed.weight") * options.head_scale);
  if (!options.aligned) return;
  const double noise = options.noise > 0 ? options.noise : 0.02;
  for (int layer = 0; layer < config.n_layers; ++layer)
    if (config.ratio(layer) != 0 || options.aligned_windows) align(by_name, config, layer, noise, seed);
}

}  // namespace hadal::train
