#include "train/ops.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "train/by_hand.h"
#include "train/fused.h"
#include "train/quantisers.h"

namespace hadal::train {

using torch::Tensor;

namespace {

thread_local bool plain = false;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

}  // namespace

PlainScope::PlainScope() : before_(plain) { plain = true; }
PlainScope::~PlainScope() { plain = before_; }
bool is_plain() { return plain; }

// --- Where things lie ---

Packing Packing::make(const Tensor& tokens, const Tensor& documents) {
  Packing packing;
  packing.b = tokens.size(0);
  packing.t = tokens.size(1);
  const auto options = torch::TensorOptions().dtype(torch::kInt64).device(tokens.device());
  const Tensor index = torch::arange(packing.b * packing.t, options);
  const Tensor row = torch::arange(packing.b, options).unsqueeze(1) * packing.t;
  packing.first =
      (documents.defined() ? documents + row : row.expand({packing.b, packing.t})).reshape({-1}).contiguous();
  packing.positions = index - packing.first;
  return packing;
}

Blocks Blocks::make(const Packing& packing, int64_t ratio) {
  // Small integers, made on the host.
  const Tensor host_first = packing.first.to(torch::kCPU).contiguous();
  const int64_t* first_row = host_first.data_ptr<int64_t>();
  const int64_t n = packing.b * packing.t;
  std::vector<int64_t> first, positions, begin(static_cast<size_t>(n)), count(static_cast<size_t>(n)), row_begin;
  std::vector<uint8_t> has_previous;
  Blocks blocks;
  blocks.ratio = ratio;
  for (int64_t row = 0, document = -1, document_begin = 0; row < n; ++row) {
    if (row % packing.t == 0) row_begin.push_back(static_cast<int64_t>(first.size()));
    if (first_row[row] != document) {
      document = first_row[row];
      document_begin = static_cast<int64_t>(first.size());
    }
    const int64_t position = row - document;
    if ((position + 1) % ratio == 0) {
      first.push_back(row - ratio + 1);
      positions.push_back(position - ratio + 1);
      has_previous.push_back(position >= 2 * ratio - 1);
    }
    begin[static_cast<size_t>(row)] = document_begin;
    count[static_cast<size_t>(row)] = (position + 1) / ratio;
  }
  blocks.c = static_cast<int64_t>(first.size());
  for (int64_t i = 0; i < packing.b; ++i) {
    const int64_t end = i + 1 < packing.b ? row_begin[static_cast<size_t>(i + 1)] : blocks.c;
    blocks.width = std::max(blocks.width, end - row_begin[static_cast<size_t>(i)]);
  }
  const auto device = packing.first.device();
  const auto tensor = [&](const std::vector<int64_t>& values) {
    return torch::tensor(values, torch::kInt64).to(device);
  };
  blocks.first = tensor(first);
  blocks.positions = tensor(positions);
  blocks.has_previous = torch::tensor(has_previous, torch::kUInt8).to(device).to(torch::kBool);
  blocks.begin = tensor(begin);
  blocks.count = tensor(count);
  blocks.row_begin = tensor(row_begin);
  const auto options = torch::TensorOptions().dtype(torch::kInt64).device(device);
  const Tensor column = torch::arange(blocks.width, options);
  blocks.columns = (blocks.row_begin.unsqueeze(1) + column).clamp_max(std::max<int64_t>(0, blocks.c - 1));
  const Tensor own_begin = blocks.begin.view({packing.b, packing.t}) - blocks.row_begin.unsqueeze(1);
  const Tensor from = own_begin.reshape({-1, 1});
  blocks.visible = (column >= from).logical_and(column < from + blocks.count.unsqueeze(1));
  return blocks;
}

// --- Rotation ---

// Frequencies as the official code forms them: float32, YaRN for layers that compress (architecture
// report A.14).
RopeTable::RopeTable(const checkpoint::ModelConfig& config, bool compressed) {
  const int dim = config.rope_head_dim;
  const double base = compressed ? config.compress_rope_theta : config.rope_theta;
  const bool yarn = compressed && config.original_seq_len > 0;
  const auto dim_of_rotations = [&](double rotations) {
    return dim * std::log(static_cast<double>(config.original_seq_len) / (rotations * 2 * M_PI)) / (2 * std::log(base));
  };
  double low = 0, high = 0;
  if (yarn) {
    low = std::max(std::floor(dim_of_rotations(config.beta_fast)), 0.0);
    high = std::min(std::ceil(dim_of_rotations(config.beta_slow)), dim - 1.0);
    if (low == high) high += 0.001;
  }
  for (int i = 0; i < dim / 2; ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(dim);
    float f = 1.0f / static_cast<float>(std::pow(base, static_cast<double>(exponent)));
    if (yarn) {
      const float slow =
          std::clamp((static_cast<float>(i) - static_cast<float>(low)) / static_cast<float>(high - low), 0.0f, 1.0f);
      const float fast = 1.0f - slow;
      f = f / static_cast<float>(config.rope_factor) * (1.0f - fast) + f * fast;
    }
    frequencies_.push_back(f);
  }
}

Rotation RopeTable::at(const Tensor& positions, const torch::TensorOptions& options) {
  const int64_t n_pairs = static_cast<int64_t>(frequencies_.size());
  const int64_t needed = positions.numel() == 0 ? 1 : positions.max().item<int64_t>() + 1;
  const int64_t known = cos_.defined() ? cos_.size(0) : 0;
  if (needed > known) {
    const int64_t size = std::max<int64_t>(needed, 2 * known);
    cos_ = torch::empty({size, n_pairs}, torch::kFloat64);
    sin_ = torch::empty({size, n_pairs}, torch::kFloat64);
    for (int64_t p = 0; p < size; ++p)
      for (int64_t i = 0; i < n_pairs; ++i) {
        const float angle =
            static_cast<float>(p) * frequencies_[static_cast<size_t>(i)];  // a float32 product, as trained
        cos_.data_ptr<double>()[p * n_pairs + i] = std::cos(static_cast<double>(angle));
        sin_.data_ptr<double>()[p * n_pairs + i] = std::sin(static_cast<double>(angle));
      }
  }
  const Tensor index = positions.to(torch::kCPU);
  return {cos_.index_select(0, index).to(options), sin_.index_select(0, index).to(options)};
}

Tensor rotate(const Tensor& x, const Rotation& rotation, bool inverse) {
  if (by_hand::applies(x, 0)) return by_hand::rotate(x, rotation, inverse);
  const int64_t hd = x.size(-1), n_pairs = rotation.cos.size(1), rd = 2 * n_pairs;
  std::vector<int64_t> shape(static_cast<size_t>(x.dim()), 1);
  shape.front() = x.size(0);
  shape.back() = n_pairs;
  const Tensor cos = rotation.cos.view(shape), sin = inverse ? -rotation.sin.view(shape) : rotation.sin.view(shape);
  std::vector<int64_t> pairs = x.sizes().vec();
  pairs.back() = n_pairs;
  pairs.push_back(2);
  const Tensor tail = x.narrow(-1, hd - rd, rd).reshape(pairs);
  const Tensor re = tail.select(-1, 0), im = tail.select(-1, 1);
  const Tensor turned = torch::stack({re * cos - im * sin, re * sin + im * cos}, -1).flatten(-2);
  return rd == hd ? turned : torch::cat({x.narrow(-1, 0, hd - rd), turned}, -1);
}

Tensor linear(const Tensor& x, const Tensor& w) {
  return by_hand::applies(x, 0) ? by_hand::linear(x, w) : torch::mm(x, w.t());
}

Tensor rms_norm(const Tensor& x, const Tensor& weight, double eps) {
  if (by_hand::applies(x, x.size(-1))) return by_hand::rms_norm(x, weight, eps);
  const Tensor y = x * torch::rsqrt(x.square().mean(-1, true) + eps);
  return weight.defined() ? weight * y : y;
}

// --- Hyper-connections ---

namespace {

// The loops are written for two and four streams, and keep the steps of Sinkhorn on the stack.
bool hc_by_hand(const Tensor& streams, int iters = 1) {
  const int64_t n = streams.size(1);
  return (n == 2 || n == 4) && iters >= 1 && iters <= fused::kMostSinkhornIters &&
         by_hand::applies(streams, streams.size(2));
}

Tensor hc_mixes(const Tensor& streams, const HyperConnection& hc, double eps) {
  const Tensor f = streams.flatten(1);
  return train::linear(f, hc.fn) * torch::rsqrt(f.square().mean(-1, true) + eps);
}

}  // namespace

HcSplit hc_pre(const Tensor& streams, const HyperConnection& hc, const checkpoint::ModelConfig& config) {
  if (hc_by_hand(streams, config.hc_sinkhorn_iters)) return by_hand::hc_pre(streams, hc, config);
  const int64_t n = config.hc_mult;
  const double eps = config.hc_eps;
  const Tensor mix = hc_mixes(streams, hc, config.norm_eps);
  const auto part = [&](int64_t begin, int64_t length, int64_t s) {
    return mix.narrow(1, begin, length) * hc.scale[s] + hc.base.narrow(0, begin, length);
  };
  const Tensor pre = torch::sigmoid(part(0, n, 0)) + eps;
  const Tensor post = 2 * torch::sigmoid(part(n, n, 1));
  Tensor comb = torch::softmax(part(2 * n, n * n, 2).view({-1, n, n}), 2) + eps;
  comb = comb / (comb.sum(1, true) + eps);
  for (int i = 1; i < config.hc_sinkhorn_iters; ++i) {
    comb = comb / (comb.sum(2, true) + eps);
    comb = comb / (comb.sum(1, true) + eps);
  }
  return {(pre.unsqueeze(2) * streams).sum(1), post, comb};
}

Tensor hc_post(const Tensor& o, const Tensor& streams, const HcSplit& split) {
  if (hc_by_hand(streams)) return by_hand::hc_post(o, streams, split);
  return split.post.unsqueeze(2) * o.unsqueeze(1) + (split.comb.unsqueeze(3) * streams.unsqueeze(2)).sum(1);
}

Tensor hc_head(const Tensor& streams, const HyperConnection& hc, const checkpoint::ModelConfig& config) {
  if (hc_by_hand(streams)) return by_hand::hc_head(streams, hc, config);
  const Tensor mix = hc_mixes(streams, hc, config.norm_eps);
  const Tensor pre = torch::sigmoid(mix * hc.scale + hc.base) + static_cast<double>(config.hc_eps);
  return (pre.unsqueeze(2) * streams).sum(1);
}

// --- Compression ---

Tensor pool(const Tensor& values, const Tensor& gates, const Tensor& ape, const Blocks& blocks) {
  if (by_hand::applies(values, blocks.ratio == 4 ? values.size(1) / 2 : values.size(1)))
    return by_hand::pool(values, gates, ape, blocks);
  const int64_t ratio = blocks.ratio, width = values.size(1);
  const bool overlap = ratio == 4;
  const int64_t dim = overlap ? width / 2 : width;
  const auto options = torch::TensorOptions().dtype(torch::kInt64).device(values.device());
  const Tensor own = blocks.first.unsqueeze(1) + torch::arange(ratio, options);
  const auto rows = [&](const Tensor& x, const Tensor& index, int64_t begin) {  // [c, ratio, dim]
    return x.narrow(1, begin, dim).index_select(0, index.flatten()).view({blocks.c, ratio, dim});
  };
  const int64_t own_begin = overlap ? dim : 0;
  Tensor v = rows(values, own, own_begin);
  Tensor g = rows(gates, own, own_begin) + ape.narrow(1, own_begin, dim);
  if (overlap) {
    const Tensor previous = torch::where(blocks.has_previous.unsqueeze(1), own - ratio, own);
    const Tensor missing = blocks.has_previous.logical_not().view({-1, 1, 1});
    const Tensor previous_g = (rows(gates, previous, 0) + ape.narrow(1, 0, dim)).masked_fill(missing, -kInfinity);
    v = torch::cat({rows(values, previous, 0), v}, 1);
    g = torch::cat({previous_g, g}, 1);
  }
  return (torch::softmax(g, 1) * v).sum(1);
}

// --- Attention ---

Attended attend(const Attend& args) {
  if (by_hand::applies(args.q, args.q.size(2))) return by_hand::attend(args);
  const int64_t b = args.packing.b, t = args.packing.t, w = args.window;
  const int64_t h = args.q.size(1), hd = args.q.size(2);
  const int64_t chunks = (t + w - 1) / w, padded = chunks * w;
  const double scale = 1 / std::sqrt(static_cast<double>(hd));
  namespace f = torch::nn::functional;
  const auto pad = [&](const Tensor& x, int64_t before, int64_t after,
                       double value = 0) {  // along dimension 1
    std::vector<int64_t> sizes(static_cast<size_t>(2 * (x.dim() - 1)), 0);
    sizes[sizes.size() - 2] = before;
    sizes.back() = after;
    return torch::constant_pad_nd(x, sizes, value);
  };
  // Window: chunks of w queries against their own and the previous chunk of keys.
  const Tensor q = pad(args.q.view({b, t, h, hd}), 0, padded - t).view({b * chunks, w * h, hd});
  const Tensor kv = pad(args.kv.view({b, t, hd}), w, padded - t).view({b, chunks + 1, w, hd});
  const Tensor keys = torch::cat({kv.narrow(1, 0, chunks), kv.narrow(1, 1, chunks)}, 2).view({b * chunks, 2 * w, hd});
  const Tensor z_window = torch::bmm(q, keys.transpose(1, 2)).view({b, padded, h, 2 * w}).narrow(1, 0, t) * scale;
  const auto options = torch::TensorOptions().dtype(torch::kInt64).device(args.q.device());
  const Tensor row = torch::arange(t, options),
               key = (row.div(w, "floor") * w - w).unsqueeze(1) + torch::arange(2 * w, options);
  const Tensor document = (args.packing.first.view({b, t}) - torch::arange(b, options).unsqueeze(1) * t).unsqueeze(2);
  const Tensor in_window = (key <= row.unsqueeze(1))
                               .logical_and(key > row.unsqueeze(1) - w)
                               .unsqueeze(0)
                               .logical_and(key.unsqueeze(0) >= document);
  std::vector<Tensor> parts = {z_window.masked_fill(in_window.logical_not().unsqueeze(2), -kInfinity)};

  // Entries: every query of a batch row against the row's entries.
  Tensor entries;
  if (args.entries.defined()) {
    const int64_t width = args.blocks->width;
    entries = args.entries.index_select(0, args.blocks->columns.flatten()).view({b, width, hd});
    const Tensor z = torch::bmm(args.q.view({b, t * h, hd}), entries.transpose(1, 2)).view({b, t, h, width}) * scale;
    const Tensor chosen =
        args.selected.defined() ? args.selected.logical_and(args.blocks->visible) : args.blocks->visible;
    parts.push_back(z.masked_fill(chosen.logical_not().view({b, t, 1, width}), -kInfinity));
  }
  parts.push_back(args.sink.view({1, 1, h, 1}).expand({b, t, h, 1}));
  const Tensor z = torch::cat(parts, 3);
  Tensor p = torch::softmax(z, 3);
  if (args.rounds) {
    // Straight through: e^(z - max) of the keys, rounded, over the sum of the unrounded.
    const Tensor scores = z.detach(), most = scores.narrow(3, 0, z.size(3) - 1).amax(3, true);
    const Tensor e = torch::exp(scores - most);
    p = p + (round_to_bf16(e) / e.sum(3, true) - p).detach();
  }

  const Tensor p_window = pad(p.narrow(3, 0, 2 * w), 0, padded - t).view({b * chunks, w * h, 2 * w});
  Tensor o = torch::bmm(p_window, keys).view({b, padded, h, hd}).narrow(1, 0, t).reshape({b * t, h, hd});
  Attended out;
  if (args.entries.defined()) {
    const Tensor p_entries = p.narrow(3, 2 * w, args.blocks->width);
    o = o + torch::bmm(p_entries.reshape({b, t * h, args.blocks->width}), entries).view({b * t, h, hd});
    if (args.wants_mass) out.mass = p_entries.detach().sum(2).view({b * t, -1});
  }
  out.o = o;
  out.sink_mass = p.detach().select(3, p.size(3) - 1).mean();
  return out;
}

// --- Indexer ---

Tensor hadamard(const Tensor& x) {
  const int64_t n = x.size(-1);
  Tensor matrix = torch::ones({1, 1}, x.options());
  for (int64_t size = 1; size < n; size *= 2)
    matrix = torch::cat({torch::cat({matrix, matrix}, 1), torch::cat({matrix, -matrix}, 1)}, 0);
  return torch::matmul(x, matrix) * (1 / std::sqrt(static_cast<double>(n)));
}

Tensor index_scores(const Tensor& q, const Tensor& keys, const Tensor& w, const Packing& packing, const Blocks& blocks,
                    bool rounds) {
  const int64_t b = packing.b, t = packing.t, heads = q.size(1), dim = q.size(2);
  const auto R = [&](const Tensor& x) { return rounds ? round_to_bf16(x) : x; };
  const Tensor k = keys.index_select(0, blocks.columns.flatten()).view({b, blocks.width, dim});
  const Tensor products = torch::bmm(q.reshape({b, t * heads, dim}), k.transpose(1, 2));
  const Tensor z = torch::relu(R(products)).view({b * t, heads, blocks.width});
  return R(R(z * w.unsqueeze(2)).sum(1)).masked_fill(blocks.visible.logical_not(), 0);
}

Tensor select_entries(const Tensor& scores, const Blocks& blocks, int64_t k) {
  torch::NoGradGuard no_grad;
  if (k >= blocks.width) return blocks.visible;
  const Tensor masked = scores.detach().masked_fill(blocks.visible.logical_not(), -kInfinity);
  const Tensor order = std::get<1>(torch::sort(masked, /*stable=*/true, /*dim=*/1, /*descending=*/true));
  return torch::zeros_like(blocks.visible).scatter_(1, order.narrow(1, 0, k), true).logical_and(blocks.visible);
}

Tensor index_kl(const Tensor& scores, const Tensor& mass, const Tensor& chosen) {
  const Tensor p_raw = mass.detach().masked_fill(chosen.logical_not(), 0), total = p_raw.sum(1, true);
  const Tensor counts = total.squeeze(1) > 0;  // a token that sees no entry, or whose attention there underflowed
  const Tensor p = p_raw / total.masked_fill(total == 0, 1);
  // Rows without entries get a harmless distribution and are left out of the mean.
  const Tensor log_q = torch::log_softmax(scores.masked_fill(chosen.logical_not(), -1e30), 1);
  const Tensor kl = (torch::xlogy(p, p) - p * log_q.masked_fill(chosen.logical_not(), 0)).sum(1);
  return kl.masked_fill(counts.logical_not(), 0).sum() / counts.sum().clamp_min(1);
}

// --- Experts ---

Tensor sqrt_softplus(const Tensor& u) {
  // Far below zero softplus is e^u: its root must not pass through an underflow, whose gradient is
  // 0 * infinity.
  const Tensor low = u < -20;
  return torch::where(low, torch::exp(u.clamp_max(-20) * 0.5), torch::sqrt(torch::softplus(u.clamp_min(-20))));
}

Tensor route_weights(const Tensor& scores, const Tensor& ids, double scale) {
  const Tensor chosen = scores.gather(1, ids);
  return chosen / chosen.sum(1, true) * scale;
}

Tensor swiglu(const Tensor& gate, const Tensor& up, const Tensor& w, double limit) {
  if (by_hand::applies(gate, gate.size(-1))) return by_hand::swiglu(gate, up, w, limit);
  const Tensor g = limit > 0 ? gate.clamp_max(limit) : gate, u = limit > 0 ? up.clamp(-limit, limit) : up;
  const Tensor h = torch::silu(g) * u;
  return w.defined() ? h * w.unsqueeze(-1) : h;
}

ExpertsOut experts(const Experts& args) {
  if (by_hand::applies(args.x, args.x.size(1)) && args.w1.size(1) % fused::kLanes == 0) return by_hand::experts(args);
  const int64_t k = args.ids.size(1), n_experts = args.w1.size(0);
  const Tensor flat = args.ids.flatten();
  const Tensor order = std::get<1>(torch::sort(flat, /*stable=*/true, /*dim=*/0, /*descending=*/false));
  ExpertsOut out;
  out.counts = torch::bincount(flat, {}, n_experts);
  const Tensor counts = out.counts.to(torch::kCPU);
  Tensor y = torch::zeros_like(args.x), clamped = torch::zeros({}, args.x.options());
  const Tensor slot_weights = args.weights.flatten();
  const auto round = [&](const Tensor& x) { return args.quantise ? round_to_bf16(x) : x; };
  for (int64_t e = 0, begin = 0; e < n_experts; ++e) {
    const int64_t n = counts.data_ptr<int64_t>()[e];
    if (n == 0) continue;
    const Tensor slots = order.narrow(0, begin, n), rows = slots.div(k, "floor");
    begin += n;
    const Tensor x = args.x.index_select(0, rows);
    const Tensor gate = round(train::linear(x, args.w1[e])), up = round(train::linear(x, args.w3[e]));
    Tensor h = swiglu(gate, up, slot_weights.index_select(0, slots), args.limit);
    if (args.quantise) h = quantise_fp8(round(h), 128);
    y = y.index_add(0, rows, round(train::linear(h, args.w2[e])));
    if (args.limit > 0)
      clamped = clamped + (gate.detach() > args.limit).logical_or(up.detach().abs() > args.limit).sum();
  }
  out.y = y;
  out.clamped = clamped / static_cast<double>(flat.numel() * args.w1.size(1));
  return out;
}

}  // namespace hadal::train
