#include "train/twin.h"

#include <fmt/format.h>

#include <cmath>
#include <cstring>
#include <string_view>

#include "checkpoint/inventory.h"
#include "tensor/formats.h"
#include "train/ops.h"
#include "train/quantisers.h"

namespace hadal::train {

using torch::Tensor;

namespace {

struct Compressor {
  Tensor ape, wkv, wgate, norm;
};

struct Indexer {
  Tensor wq_b, weights_proj;
  Compressor compressor;
};

struct Layer {
  int index = 0;
  int ratio = 0;
  HyperConnection hc_attn, hc_ffn;
  Tensor attn_norm, ffn_norm;
  Tensor wq_a, wq_b, wkv, wo_a, wo_b, q_norm, kv_norm, attn_sink;
  Compressor compressor;
  Indexer indexer;
  Tensor gate, bias, tid2eid;
  Tensor w1, w2, w3, shared_w1, shared_w2, shared_w3;
};

struct Head {
  HyperConnection hc;
  Tensor norm;
};

// "layers.0.ffn.experts.12.w1.weight" -> 12 and "layers.0.ffn.experts.w1.weight"; -1 for other
// names.
int64_t split_expert(const std::string& name, std::string& stacked) {
  constexpr std::string_view kPart = ".experts.";
  const size_t at = name.find(kPart);
  if (at == std::string::npos) return -1;
  const size_t digits = at + kPart.size(), end = name.find('.', digits);
  stacked = name.substr(0, digits) + name.substr(end + 1);
  return std::stoll(name.substr(digits, end - digits));
}

std::vector<checkpoint::ExpectedTensor> inventory(const checkpoint::ModelConfig& config, bool has_mtp) {
  return checkpoint::expected_tensors(config, has_mtp ? checkpoint::Draft::kMtp : checkpoint::Draft::kNone, has_mtp);
}

float load_f32(const std::byte* p) {
  float x;
  std::memcpy(&x, p, 4);
  return x;
}

float load_bf16(const std::byte* p) {
  bf16 x;
  std::memcpy(&x, p, 2);
  return to_f32(x);
}

void decode(const checkpoint::Checkpoint& checkpoint, const checkpoint::ExpectedTensor& expected, float* out) {
  const auto& name = expected.name;
  const int64_t n = expected.n_elements();
  if (expected.storage == checkpoint::Storage::kBf16 || expected.storage == checkpoint::Storage::kF32) {
    const hadal::Tensor& tensor = checkpoint.tensor(name);
    for (int64_t i = 0; i < n; ++i)
      out[i] = tensor.dtype == Dtype::kBf16 ? load_bf16(tensor.data + 2 * i) : load_f32(tensor.data + 4 * i);
    return;
  }
  const Weight weight = checkpoint.weight(name.substr(0, name.size() - std::string_view(".weight").size()));
  for (int64_t r = 0; r < weight.rows; ++r)
    for (int64_t c = 0; c < weight.cols; ++c) {
      float& x = out[r * weight.cols + c];
      const int64_t i = r * weight.cols + c;
      switch (weight.format) {
        case WeightFormat::kF32:
          x = load_f32(weight.data + 4 * i);
          break;
        case WeightFormat::kBf16:
          x = load_bf16(weight.data + 2 * i);
          break;
        case WeightFormat::kFp8Block: {
          const int64_t s = r / 128 * ((weight.cols + 127) / 128) + c / 128;
          const float scale = weight.scales_are_f32 ? load_f32(weight.scale + 4 * s)
                                                    : to_f32(f8e8m0{static_cast<uint8_t>(weight.scale[s])});
          x = to_f32(f8e4m3{static_cast<uint8_t>(weight.data[i])}) * scale;
          break;
        }
        case WeightFormat::kFp4Block: {
          const unsigned byte = static_cast<unsigned>(weight.data[r * weight.cols / 2 + c / 2]);
          const f8e8m0 scale{static_cast<uint8_t>(weight.scale[r * ((weight.cols + 31) / 32) + c / 32])};
          x = e2m1_to_f32(c % 2 ? byte >> 4 : byte & 15) * to_f32(scale);
          break;
        }
      }
    }
}

}  // namespace

struct Twin::Layers {
  Tensor embed, head;
  std::vector<Layer> main, mtp;
  Head final_head, mtp_head;
  Tensor e_proj, h_proj, enorm, hnorm;
  RopeTable rope[2];  // [plain, compressed]
};

Twin::~Twin() = default;

Twin::Twin(const checkpoint::ModelConfig& config, bool has_mtp)
    : config_(config), has_mtp_(has_mtp), layers_(std::make_unique<Layers>()) {
  for (const auto& expected : inventory(config, has_mtp)) {
    std::string name = expected.name;
    std::vector<int64_t> shape = expected.shape;
    const int64_t expert = split_expert(expected.name, name);
    if (expert > 0) continue;
    if (expert == 0) shape.insert(shape.begin(), config.n_routed_experts);
    std::string torch_name = name;
    std::replace(torch_name.begin(), torch_name.end(), '.', '/');
    if (expected.storage == checkpoint::Storage::kI64) {
      weights_[name] = register_buffer(torch_name, torch::zeros(shape, torch::kInt64));
    } else if (name.ends_with("gate.bias")) {
      weights_[name] = register_buffer(torch_name, torch::zeros(shape));
    } else {
      const bool is_norm = name.ends_with("norm.weight");
      weights_[name] = register_parameter(torch_name, is_norm ? torch::ones(shape) : torch::zeros(shape));
    }
  }

  const auto get = [&](const std::string& name) {
    const auto found = weights_.find(name);
    return found == weights_.end() ? Tensor() : found->second;
  };
  const auto hyper_connection = [&](const std::string& p) {
    return HyperConnection{get(p + "fn"), get(p + "base"), get(p + "scale")};
  };
  const auto compressor = [&](const std::string& p) {
    return Compressor{get(p + "ape"), get(p + "wkv.weight"), get(p + "wgate.weight"), get(p + "norm.weight")};
  };
  const auto layer = [&](const std::string& p, int index) {
    const std::string a = p + "attn.", f = p + "ffn.";
    Layer l;
    l.index = index;
    l.ratio = config.ratio(index);
    l.hc_attn = hyper_connection(p + "hc_attn_");
    l.hc_ffn = hyper_connection(p + "hc_ffn_");
    l.attn_norm = get(p + "attn_norm.weight");
    l.ffn_norm = get(p + "ffn_norm.weight");
    l.wq_a = get(a + "wq_a.weight");
    l.wq_b = get(a + "wq_b.weight");
    l.wkv = get(a + "wkv.weight");
    l.wo_a = get(a + "wo_a.weight");
    l.wo_b = get(a + "wo_b.weight");
    l.q_norm = get(a + "q_norm.weight");
    l.kv_norm = get(a + "kv_norm.weight");
    l.attn_sink = get(a + "attn_sink");
    l.compressor = compressor(a + "compressor.");
    l.indexer = {get(a + "indexer.wq_b.weight"), get(a + "indexer.weights_proj.weight"),
                 compressor(a + "indexer.compressor.")};
    l.gate = get(f + "gate.weight");
    l.bias = get(f + "gate.bias");
    l.tid2eid = get(f + "gate.tid2eid");
    l.w1 = get(f + "experts.w1.weight");
    l.w2 = get(f + "experts.w2.weight");
    l.w3 = get(f + "experts.w3.weight");
    l.shared_w1 = get(f + "shared_experts.w1.weight");
    l.shared_w2 = get(f + "shared_experts.w2.weight");
    l.shared_w3 = get(f + "shared_experts.w3.weight");
    return l;
  };
  layers_->embed = get("embed.weight");
  layers_->head = get("head.weight");
  layers_->final_head = {hyper_connection("hc_head_"), get("norm.weight")};
  for (int i = 0; i < config.n_layers; ++i) layers_->main.push_back(layer(fmt::format("layers.{}.", i), i));
  if (has_mtp) {
    layers_->mtp.push_back(layer("mtp.0.", config.n_layers));
    layers_->mtp_head = {hyper_connection("mtp.0.hc_head_"), get("mtp.0.norm.weight")};
    layers_->e_proj = get("mtp.0.e_proj.weight");
    layers_->h_proj = get("mtp.0.h_proj.weight");
    layers_->enorm = get("mtp.0.enorm.weight");
    layers_->hnorm = get("mtp.0.hnorm.weight");
  }
  for (const bool compressed : {false, true}) layers_->rope[compressed] = RopeTable(config, compressed);
}

Result<std::shared_ptr<Twin>> Twin::load(const checkpoint::Checkpoint& checkpoint) {
  const bool has_mtp = checkpoint.draft() == checkpoint::Draft::kMtp;
  if (has_mtp && checkpoint.n_draft_blocks() != 1)
    return Error{Code::kUnsupported, fmt::format("{}: expected one MTP block, found {}", checkpoint.directory(),
                                                 checkpoint.n_draft_blocks())};
  auto twin = std::make_shared<Twin>(checkpoint.config(), has_mtp);
  for (const auto& expected : inventory(checkpoint.config(), has_mtp)) {
    std::string name = expected.name;
    const int64_t expert = split_expert(expected.name, name);
    const Tensor& target = twin->weights_.at(name);
    if (expected.storage == checkpoint::Storage::kI64) {
      std::memcpy(target.data_ptr<int64_t>(), checkpoint.tensor(name).data, static_cast<size_t>(8 * target.numel()));
    } else {
      decode(checkpoint, expected, target.data_ptr<float>() + std::max<int64_t>(0, expert) * expected.n_elements());
    }
  }
  return twin;
}

std::vector<std::pair<std::string, Tensor>> Twin::release_tensors() const {
  std::vector<std::pair<std::string, Tensor>> tensors;
  for (const auto& expected : inventory(config_, has_mtp_)) {
    std::string name = expected.name;
    const int64_t expert = split_expert(expected.name, name);
    const Tensor tensor = weights_.at(name).detach();
    tensors.emplace_back(expected.name, expert < 0 ? tensor : tensor[expert]);
  }
  return tensors;
}

namespace {

// One forward pass over a batch; reads like docs/model.md. R, Q8 and the weights' grids act only
// when quantising.
class Pass {
 public:
  Pass(const checkpoint::ModelConfig& config, RopeTable (&rope)[2], const ForwardOptions& options, Output& out)
      : config_(config), rope_(rope), options_(options), out_(out) {}

  // The batch, or that of the MTP block: t - 1 tokens.
  void set_rows(const Tensor& tokens, const Tensor& documents, const torch::TensorOptions& float_options) {
    tokens_ = tokens.reshape({-1});
    packing_ = Packing::make(tokens, documents);
    float_options_ = float_options;
    blocks_.clear();
    for (const bool compressed : {false, true})
      at_[compressed] = rope_[compressed].at(packing_.positions, float_options);
  }

  Tensor block(const Layer& layer, const Tensor& streams) {
    const auto sublayer = [&](const HyperConnection& hc, const Tensor& norm, const Tensor& h, auto&& run) {
      HcSplit split = hc_pre(h, hc, config_);
      const Tensor x = R(rms_norm(R(split.y), bf16_weight(norm), config_.norm_eps));
      return R(hc_post(run(layer, x), h, split));
    };
    Tensor h = sublayer(layer.hc_attn, layer.attn_norm, streams,
                        [&](const Layer& l, const Tensor& x) { return attention(l, x); });
    h = sublayer(layer.hc_ffn, layer.ffn_norm, h, [&](const Layer& l, const Tensor& x) { return moe(l, x); });
    metric(layer, "stream_rms", h.detach().square().mean().sqrt());
    return h;
  }

  Tensor head_logits(const Head& head, const Tensor& weight, const Tensor& streams) {
    const Tensor z = R(hc_head(streams, head.hc, config_));
    return train::linear(norm(z, head.norm), bf16_weight(weight));
  }

  Tensor embed(const Tensor& weight, const Tensor& tokens) {
    return torch::embedding(bf16_weight(weight), tokens.reshape({-1}));
  }

  // An FP8 linear: weights on the grid of 128 x 128 blocks, inputs on that of 128 columns.
  Tensor linear(const Tensor& q8_input, const Tensor& weight) { return R(train::linear(q8_input, fp8_weight(weight))); }
  Tensor Q8(const Tensor& x) { return options_.quantise ? quantise_fp8(x, 128) : x; }
  Tensor R(const Tensor& x) { return options_.quantise ? round_to_bf16(x) : x; }
  Tensor norm(const Tensor& x, const Tensor& weight) { return R(rms_norm(x, bf16_weight(weight), config_.norm_eps)); }

  void finish() {
    out_.balance = balance_.defined() ? balance_ : torch::zeros({}, float_options_);
    out_.indexer_kl = indexer_kl_;
    std::map<std::string, std::pair<double, int>> sums;
    for (const auto& [layer, name, value] : metrics_) {
      const double x = value.item<double>();
      out_.metrics[fmt::format("layers.{}.{}", layer, name)] = x;
      sums[name].first += x;
      sums[name].second += 1;
    }
    for (const auto& [name, sum] : sums) out_.metrics[name] = sum.first / sum.second;
  }

 private:
  Tensor fp8_weight(const Tensor& w) { return options_.quantise ? quantise_weight_fp8(w) : w; }
  Tensor bf16_weight(const Tensor& w) { return options_.quantise ? round_to_bf16(w) : w; }
  Tensor expert_weight(const Tensor& w) {
    if (!options_.quantise) return w;
    return config_.expert_dtype == "fp4" ? quantise_weight_fp4(w) : quantise_weight_fp8(w);
  }
  Tensor on_kv_grid(const Tensor& x) { return options_.quantise ? quantise_fp8(x, 64, config_.nope_head_dim()) : x; }
  Tensor on_index_grid(const Tensor& x) {
    const Tensor turned = R(hadamard(x));
    return options_.quantise ? quantise_fp4(turned) : turned;
  }

  // The norm of a query head has no weight; the release computes it in BF16, step by step.
  Tensor head_norm(const Tensor& q) {
    if (!options_.quantise) return rms_norm(q, {}, config_.norm_eps);
    const Tensor mean = R(R(q.square()).mean(-1, true));
    return R(q * R(torch::rsqrt(R(mean + static_cast<double>(config_.norm_eps)))));
  }

  const Blocks& blocks(int64_t ratio) {
    const auto found = blocks_.find(ratio);
    if (found != blocks_.end()) return found->second;
    return blocks_.emplace(ratio, Blocks::make(packing_, ratio)).first->second;
  }

  // Entries [c, hd], rotated, before the grid of their cache.
  Tensor compress(const Compressor& compressor, const Tensor& x, const Blocks& blocks) {
    const Tensor values = train::linear(x, bf16_weight(compressor.wkv));
    const Tensor gates = train::linear(x, bf16_weight(compressor.wgate));
    const Tensor e = norm(R(pool(values, gates, compressor.ape, blocks)), compressor.norm);
    return R(rotate(e, rope_[true].at(blocks.positions, float_options_), false));
  }

  Tensor attention(const Layer& layer, const Tensor& x) {
    const int64_t n = x.size(0), hd = config_.head_dim;
    const Rotation& at = at_[layer.ratio != 0];
    const Tensor x8 = Q8(x);
    const Tensor latent = norm(linear(x8, layer.wq_a), layer.q_norm), latent8 = Q8(latent);
    const Tensor q = R(rotate(head_norm(linear(latent8, layer.wq_b).view({n, -1, hd})), at, false));
    const Tensor kv = on_kv_grid(R(rotate(norm(linear(x8, layer.wkv), layer.kv_norm), at, false)));

    Attend args{.q = q,
                .kv = kv,
                .entries = {},
                .sink = layer.attn_sink,
                .packing = packing_,
                .blocks = nullptr,
                .selected = {},
                .window = config_.window_size,
                .wants_mass = false,
                .rounds = options_.quantise};
    Tensor scores;
    if (layer.ratio != 0 && blocks(layer.ratio).c > 0) {
      args.blocks = &blocks(layer.ratio);
      args.entries = on_kv_grid(compress(layer.compressor, x, *args.blocks));
      if (layer.ratio == 4 && (options_.sparse || options_.indexer_loss)) {
        scores = score_entries(layer, x, latent8, at, *args.blocks);
        if (options_.sparse) args.selected = select_entries(scores, *args.blocks, config_.index_topk);
        args.wants_mass = options_.indexer_loss;
      }
    }
    const Attended attended = attend(args);
    metric(layer, "sink_mass", attended.sink_mass);
    if (attended.mass.defined()) learn_index(layer, scores, attended.mass, args);

    const Tensor o = R(rotate(R(attended.o), at, true)).view({n, config_.o_groups, -1});
    const Tensor wo_a = fp8_weight(layer.wo_a).view({config_.o_groups, config_.o_lora_rank, -1});
    std::vector<Tensor> u;
    for (int64_t g = 0; g < config_.o_groups; ++g) u.push_back(train::linear(o.select(1, g), wo_a[g]));
    return linear(Q8(R(torch::cat(u, 1))), layer.wo_b);
  }

  // The indexer learns from its own loss alone: its inputs are constants.
  Tensor score_entries(const Layer& layer, const Tensor& x, const Tensor& latent8, const Rotation& at,
                       const Blocks& blocks) {
    const int64_t n = x.size(0), heads = config_.index_n_heads, dim = config_.index_head_dim;
    const Tensor input = x.detach();
    const Tensor q = R(rotate(linear(latent8.detach(), layer.indexer.wq_b).view({n, heads, dim}), at, false));
    const Tensor keys = on_index_grid(compress(layer.indexer.compressor, input, blocks));
    const double factor = std::pow(dim, -0.5) * std::pow(heads, -0.5);
    const Tensor w = R(R(train::linear(input, bf16_weight(layer.indexer.weights_proj))) * factor);
    return index_scores(on_index_grid(q), keys, w, packing_, blocks, options_.quantise);
  }

  void learn_index(const Layer& layer, const Tensor& scores, const Tensor& mass, const Attend& args) {
    const Tensor chosen = args.selected.defined() ? args.selected : args.blocks->visible;
    const Tensor kl = index_kl(scores, mass, chosen);
    indexer_kl_ = indexer_kl_.defined() ? indexer_kl_ + kl : kl;
    metric(layer, "index_kl", kl.detach());
    if (options_.sparse) return;
    const Tensor chooses = args.blocks->count > config_.index_topk;
    const Tensor held = select_entries(scores, *args.blocks, config_.index_topk).to(mass.dtype()) * mass;
    const Tensor recall = held.sum(1) / mass.sum(1).clamp_min(1e-30);
    metric(layer, "index_recall",
           torch::where(chooses.any(), (recall * chooses).sum() / chooses.sum().clamp_min(1),
                        torch::ones_like(recall[0])));
  }

  Tensor moe(const Layer& layer, const Tensor& x) {
    const Tensor scores = sqrt_softplus(train::linear(x, bf16_weight(layer.gate)));
    Tensor ids;
    if (layer.tid2eid.defined()) {
      ids = layer.tid2eid.to(torch::kInt64).index_select(0, tokens_);
    } else {
      const Tensor order =
          std::get<1>(torch::sort(scores.detach() + layer.bias, /*stable=*/true, 1, /*descending=*/true));
      ids = order.narrow(1, 0, config_.n_activated_experts);
    }
    const Tensor weights = route_weights(scores, ids, config_.route_scale);
    const Tensor x8 = Q8(x);
    const ExpertsOut routed = experts({.x = x8,
                                       .ids = ids,
                                       .weights = weights,
                                       .w1 = expert_weight(layer.w1),
                                       .w2 = expert_weight(layer.w2),
                                       .w3 = expert_weight(layer.w3),
                                       .limit = config_.swiglu_limit,
                                       .quantise = options_.quantise});
    out_.expert_counts.push_back(routed.counts);
    metric(layer, "clamp_rate", routed.clamped);
    if (!layer.tid2eid.defined()) add_balance(scores, routed.counts.numel(), ids);
    const Tensor h = swiglu(linear(x8, layer.shared_w1), linear(x8, layer.shared_w3), {}, config_.swiglu_limit);
    return R(routed.y + linear(Q8(R(h)), layer.shared_w2));
  }

  // Per batch row: sum over experts of f (share of the choices, times e) and P (mean share of the
  // affinities).
  void add_balance(const Tensor& scores, int64_t n_experts, const Tensor& ids) {
    const Tensor one_hot = torch::zeros_like(scores).scatter_(1, ids, 1).detach();
    const auto mean_of_row = [&](const Tensor& x) { return x.view({packing_.b, packing_.t, n_experts}).mean(1); };
    const double factor = static_cast<double>(n_experts) / config_.n_activated_experts;
    const Tensor share = scores / scores.sum(1, true);
    const Tensor loss = (mean_of_row(one_hot) * mean_of_row(share)).sum(1).mean() * factor;
    balance_ = balance_.defined() ? balance_ + loss : loss;
  }

  void metric(const Layer& layer, const char* name, const Tensor& value) {
    metrics_.emplace_back(layer.index, name, value);
  }

  const checkpoint::ModelConfig& config_;
  RopeTable (&rope_)[2];
  const ForwardOptions& options_;
  Output& out_;
  Tensor tokens_;  // [n]
  Packing packing_;
  torch::TensorOptions float_options_;
  std::map<int64_t, Blocks> blocks_;  // by ratio
  Rotation at_[2];                    // of the tokens; [plain, compressed]
  Tensor balance_, indexer_kl_;
  std::vector<std::tuple<int, std::string, Tensor>> metrics_;
};

}  // namespace

Output Twin::forward(const Batch& batch, const ForwardOptions& options) {
  const int64_t b = batch.tokens.size(0), t = batch.tokens.size(1), hc = config_.hc_mult, d = config_.dim;
  Output out;
  Pass pass(config_, layers_->rope, options, out);
  pass.set_rows(batch.tokens, batch.documents, layers_->embed.options().requires_grad(false));
  Tensor h = pass.embed(layers_->embed, batch.tokens).unsqueeze(1).expand({b * t, hc, d});
  for (const Layer& layer : layers_->main) h = pass.block(layer, h);
  out.logits = pass.head_logits(layers_->final_head, layers_->head, h).view({b, t, -1});

  if (options.mtp && has_mtp_ && t > 1) {
    const auto most = [&](const Tensor& x) { return x.defined() ? x.narrow(1, 0, t - 1) : x; };
    pass.set_rows(most(batch.tokens), most(batch.documents), layers_->embed.options().requires_grad(false));
    const Tensor next = pass.embed(layers_->embed, batch.tokens.narrow(1, 1, t - 1));
    const Tensor own = most(h.view({b, t, hc, d})).reshape({-1, d});
    const Tensor e = pass.linear(pass.Q8(pass.norm(next, layers_->enorm)), layers_->e_proj);
    const Tensor s = pass.linear(pass.Q8(pass.norm(own, layers_->hnorm)), layers_->h_proj);
    Tensor x = pass.R(e.unsqueeze(1) + s.view({-1, hc, d}));
    for (const Layer& layer : layers_->mtp) x = pass.block(layer, x);
    out.mtp_logits = pass.head_logits(layers_->mtp_head, layers_->head, x).view({b, t - 1, -1});
  }
  pass.finish();
  return out;
}

}  // namespace hadal::train
