#include "train/optim.h"

#include <torch/types.h>

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <map>
#include <utility>

namespace hadal::train {
namespace {

// "layers.12.attn.wq_a.weight" -> block 12, "attn.wq_a.weight"; blocks of the draft follow the main
// layers. Outside the blocks: -1 and the whole name.
std::pair<int, std::string_view> split_block(std::string_view name, int n_layers) {
  for (const auto& [prefix, first] : {std::pair<std::string_view, int>{"layers.", 0}, {"mtp.", n_layers}}) {
    if (!name.starts_with(prefix)) continue;
    int index = 0;
    const char* begin = name.data() + prefix.size();
    const auto [end, error] = std::from_chars(begin, name.data() + name.size(), index);
    if (error == std::errc() && end != name.data() + name.size() && *end == '.')
      return {first + index, name.substr(static_cast<size_t>(end + 1 - name.data()))};
  }
  return {-1, name};
}

std::vector<Piece> equal_pieces(int64_t rows, int64_t n) {
  std::vector<Piece> pieces;
  for (int64_t i = 0; i < n; ++i) pieces.push_back({rows / n * i, rows / n * (i + 1), -1});
  return pieces;
}

torch::Tensor rows_of(const torch::Tensor& tensor, const Piece& piece) {
  return tensor.view({-1, tensor.size(-1)}).slice(0, piece.begin, piece.end);
}

}  // namespace

Result<Placement> placement(std::string_view name, at::IntArrayRef shape, const checkpoint::ModelConfig& config) {
  const auto [block, local] = split_block(name, config.n_layers);
  Placement placement;
  const auto ends = [local = local](std::string_view suffix) { return local.ends_with(suffix); };
  if (name == "embed.weight" || name == "head.weight") {
    placement.rule = Rule::kAdamW;
    return placement;
  }
  if (shape.size() == 1 || ends(".ape")) {  // norms, sinks, hc_*_base, hc_*_scale
    placement.rule = Rule::kAdamWNoDecay;
    return placement;
  }
  static constexpr std::string_view kMatrices[] = {
      "wq_a.weight",         "wq_b.weight", "wkv.weight", "wo_a.weight", "wo_b.weight", "wgate.weight",
      "weights_proj.weight", "gate.weight", "w1.weight",  "w2.weight",   "w3.weight",   "e_proj.weight",
      "h_proj.weight",       "hc_attn_fn",  "hc_ffn_fn",  "hc_head_fn"};
  const std::string_view last =
      local.substr(local.ends_with(".weight") ? local.rfind('.', local.size() - 8) + 1 : local.rfind('.') + 1);
  const bool stacked = shape.size() == 3 && local.starts_with("ffn.experts.w");
  if ((shape.size() != 2 && !stacked) ||
      std::find(std::begin(kMatrices), std::end(kMatrices), last) == std::end(kMatrices))
    return Error{Code::kUnsupported, fmt::format("{}: the optimiser has no rule for this tensor", name)};

  placement.rule = Rule::kMuon;
  const int64_t rows = shape[0], hc = config.hc_mult;
  placement.pieces = {{0, rows, -1}};
  if (last == "wo_a.weight") {
    placement.pieces = equal_pieces(rows, config.o_groups);
  } else if (local.find("compressor.") != std::string_view::npos &&
             (local.find("indexer.") != std::string_view::npos || config.ratio(block) == 4)) {
    placement.pieces = equal_pieces(rows, 2);  // overlapping: halves of the next block and of the own
  } else if (last == "hc_attn_fn" || last == "hc_ffn_fn") {
    placement.pieces = {{0, hc, -1}, {hc, 2 * hc, -1}, {2 * hc, rows, -1}};  // pre, post, comb
  } else if (stacked) {
    placement.block = block;
    placement.pieces = equal_pieces(rows * shape[1], rows);
    for (size_t e = 0; e < placement.pieces.size(); ++e) placement.pieces[e].expert = static_cast<int>(e);
  } else if (local.starts_with("ffn.experts.")) {
    placement.block = block;
    const std::string_view number = local.substr(12);
    std::from_chars(number.data(), number.data() + number.size(), placement.pieces[0].expert);
  }
  return placement;
}

torch::Tensor newton_schulz(const torch::Tensor& x, int steps) {
  torch::NoGradGuard no_grad;
  torch::Tensor y = x / (x.norm(2, {1, 2}, /*keepdim=*/true) + 1e-7);
  const bool tall = x.size(1) > x.size(2);
  if (tall) y = y.transpose(1, 2).contiguous();
  for (int i = 0; i < steps; ++i) {
    const double a = i < 8 ? 3.4445 : 2, b = i < 8 ? -4.7750 : -1.5, c = i < 8 ? 2.0315 : 0.5;
    const torch::Tensor gram = torch::bmm(y, y.transpose(1, 2));
    const torch::Tensor polynomial = torch::baddbmm(gram, gram, gram, b, c);
    y = torch::baddbmm(y, polynomial, y, a, 1);
  }
  return tall ? y.transpose(1, 2) : y;
}

Result<Optimiser> Optimiser::create(std::vector<Named> parameters, const checkpoint::ModelConfig& config,
                                    const OptimiserOptions& options) {
  Optimiser optimiser;
  optimiser.options_ = options;
  std::map<std::pair<int64_t, int64_t>, Batch> batches;
  for (size_t i = 0; i < parameters.size(); ++i) {
    const Named& parameter = parameters[i];
    Placement placed = HADAL_TRY(placement(parameter.name, parameter.tensor.sizes(), config));
    if (!options.muon && placed.rule == Rule::kMuon) placed.rule = Rule::kAdamW;
    if (placed.rule == Rule::kMuon) {
      const int64_t cols = parameter.tensor.size(-1);
      for (const Piece& piece : placed.pieces) {
        const int64_t rows = piece.end - piece.begin;
        const std::pair shape{std::min(rows, cols), std::max(rows, cols)};
        Batch& batch = batches[shape];
        batch.n = shape.first;
        batch.m = shape.second;
        batch.matrices.push_back({i, piece, placed.block});
      }
    }
    torch::NoGradGuard no_grad;
    optimiser.first_.push_back(torch::zeros_like(parameter.tensor));
    optimiser.second_.push_back(placed.rule == Rule::kMuon ? torch::Tensor() : torch::zeros_like(parameter.tensor));
    optimiser.placements_.push_back(std::move(placed));
  }
  // Bounded pieces of work: a batch's temporaries are some six times its matrices.
  constexpr int64_t kMaxElements = int64_t{1} << 24;
  for (auto& [shape, batch] : batches) {
    const auto most = static_cast<size_t>(std::max<int64_t>(1, kMaxElements / (batch.n * batch.m)));
    for (size_t begin = 0; begin < batch.matrices.size(); begin += most) {
      const size_t end = std::min(batch.matrices.size(), begin + most);
      optimiser.batches_.push_back({batch.n,
                                    batch.m,
                                    {batch.matrices.begin() + static_cast<std::ptrdiff_t>(begin),
                                     batch.matrices.begin() + static_cast<std::ptrdiff_t>(end)}});
    }
  }
  optimiser.parameters_ = std::move(parameters);
  return optimiser;
}

void Optimiser::step(double learning_rate, const std::vector<torch::Tensor>& expert_counts) {
  torch::NoGradGuard no_grad;
  std::vector<std::vector<int64_t>> counts;
  for (const torch::Tensor& block : expert_counts) {
    const torch::Tensor whole = block.to(torch::kCPU, torch::kInt64).contiguous();
    counts.emplace_back(whole.data_ptr<int64_t>(), whole.data_ptr<int64_t>() + whole.numel());
  }
  ++n_steps_;
  step_muon(learning_rate, counts);
  step_adamw(learning_rate);
}

void Optimiser::step_muon(double learning_rate, const std::vector<std::vector<int64_t>>& counts) {
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const torch::Tensor& gradient = parameters_[i].tensor.grad();
    if (placements_[i].rule == Rule::kMuon && gradient.defined()) first_[i].mul_(options_.momentum).add_(gradient);
  }
  for (const Batch& batch : batches_) {
    std::vector<torch::Tensor> directions;
    std::vector<const Matrix*> moved;
    for (const Matrix& matrix : batch.matrices) {
      const Piece& piece = matrix.piece;
      const torch::Tensor& gradient = parameters_[matrix.parameter].tensor.grad();
      if (!gradient.defined()) continue;
      // Orthogonalisation has no scale: without this an expert nobody chose would take a full step.
      const auto block = static_cast<size_t>(matrix.block);
      if (piece.expert >= 0 && block < counts.size() && counts[block][static_cast<size_t>(piece.expert)] == 0) continue;
      const torch::Tensor nesterov =
          rows_of(first_[matrix.parameter], piece).mul(options_.momentum).add_(rows_of(gradient, piece));
      directions.push_back(nesterov.size(0) > nesterov.size(1) ? nesterov.t() : nesterov);
      moved.push_back(&matrix);
    }
    if (moved.empty()) continue;
    const torch::Tensor orthogonal = newton_schulz(torch::stack(directions));
    const double scale = options_.rms * std::sqrt(static_cast<double>(batch.m));
    for (size_t i = 0; i < moved.size(); ++i) {
      const Piece& piece = moved[i]->piece;
      torch::Tensor weight = rows_of(parameters_[moved[i]->parameter].tensor, piece);
      torch::Tensor update = orthogonal[static_cast<int64_t>(i)];
      if (weight.size(0) > weight.size(1)) update = update.t();
      weight.mul_(1 - learning_rate * options_.weight_decay).sub_(update, learning_rate * scale);
    }
  }
}

void Optimiser::step_adamw(double learning_rate) {
  const double bias1 = 1 - std::pow(options_.beta1, static_cast<double>(n_steps_));
  const double bias2 = 1 - std::pow(options_.beta2, static_cast<double>(n_steps_));
  for (size_t i = 0; i < parameters_.size(); ++i) {
    if (placements_[i].rule == Rule::kMuon) continue;
    torch::Tensor weight = parameters_[i].tensor;
    const torch::Tensor& gradient = weight.grad();
    if (!gradient.defined()) continue;
    torch::Tensor &m = first_[i], &v = second_[i];
    m.mul_(options_.beta1).add_(gradient, 1 - options_.beta1);
    v.mul_(options_.beta2).addcmul_(gradient, gradient, 1 - options_.beta2);
    if (placements_[i].rule == Rule::kAdamW) weight.mul_(1 - learning_rate * options_.weight_decay);
    const torch::Tensor root = (v / bias2).sqrt_().add_(options_.epsilon);
    weight.addcdiv_(m, root, -learning_rate / bias1);
  }
}

std::vector<Named> Optimiser::state() const {
  std::vector<Named> state;
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const bool muon = placements_[i].rule == Rule::kMuon;
    state.push_back({(muon ? "muon.m." : "adam.m.") + parameters_[i].name, first_[i]});
    if (!muon) state.push_back({"adam.v." + parameters_[i].name, second_[i]});
  }
  return state;
}

}  // namespace hadal::train
