#include "train/trainer.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <numeric>

#include "base/file.h"
#include "checkpoint/inventory.h"
#include "checkpoint/safetensors.h"
#include "checkpoint/writer.h"
#include "tensor/formats.h"

namespace hadal::train {
namespace {

constexpr size_t kNormsKept = 100, kNormsNeeded = 20;
constexpr double kSpike = 20;
constexpr uint64_t kHeldOut = 0x68656C646F7574;  // "heldout": its own stream of rows
constexpr const char* kModelFile = "model.safetensors";

std::vector<Named> trained(const Twin& twin) {
  std::vector<Named> parameters;
  for (const auto& [name, tensor] : twin.weights())
    if (tensor.requires_grad()) parameters.push_back({name, tensor});
  return parameters;
}

std::vector<Named> all_weights(const Twin& twin) {
  std::vector<Named> weights;
  for (const auto& [name, tensor] : twin.weights()) weights.push_back({name, tensor.detach()});
  return weights;
}

// Mean loss per unit of weight, summed: sum of w * -log p[target].
torch::Tensor weighted_loss(const torch::Tensor& logits, const torch::Tensor& targets, const torch::Tensor& weights) {
  const int64_t vocab = logits.size(-1);
  const torch::Tensor losses =
      torch::nn::functional::cross_entropy(logits.reshape({-1, vocab}), targets.reshape({-1}),
                                           torch::nn::functional::CrossEntropyFuncOptions().reduction(torch::kNone));
  return (losses * weights.reshape({-1})).sum();
}

double median(std::deque<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

struct Saved {
  int64_t step = 0;
  std::string path;
};

// Complete states (config.json is written last), oldest first.
std::vector<Saved> states_in(const std::string& directory) {
  std::vector<Saved> states;
  std::error_code error;
  for (std::filesystem::directory_iterator it(directory, error), end; !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename().string();
    if (name.empty() || name.find_first_not_of("0123456789") != std::string::npos || name.size() > 18) continue;
    if (file_exists(it->path().string() + "/config.json")) states.push_back({std::stoll(name), it->path().string()});
  }
  std::sort(states.begin(), states.end(), [](const Saved& a, const Saved& b) { return a.step < b.step; });
  return states;
}

Result<json::Value> read_json(const std::string& path) {
  const std::string text = HADAL_TRY(read_file(path, 1 << 20));
  auto value = json::parse(text);
  if (!value.ok()) return Error{value.error().code, path + ": " + value.error().message};
  return value;
}

Dtype stored_dtype(const torch::Tensor& tensor) {
  return tensor.scalar_type() == torch::kInt64 ? Dtype::kI64 : Dtype::kF32;
}

// Rows of a contiguous CPU tensor as they lie.
checkpoint::CheckpointWriter::Producer bytes_of(torch::Tensor tensor, int64_t row_bytes) {
  return [tensor = std::move(tensor), row_bytes](int64_t first, int64_t n, std::byte* rows) -> Status {
    std::memcpy(rows, static_cast<const std::byte*>(tensor.data_ptr()) + first * row_bytes,
                static_cast<size_t>(n * row_bytes));
    return {};
  };
}

checkpoint::CheckpointWriter::Producer bf16_of(torch::Tensor tensor, int64_t row_elements) {
  return [tensor = std::move(tensor), row_elements](int64_t first, int64_t n, std::byte* rows) -> Status {
    const float* values = tensor.data_ptr<float>() + first * row_elements;
    for (int64_t i = 0; i < n * row_elements; ++i) {
      const bf16 rounded = to_bf16(values[i]);
      std::memcpy(rows + 2 * i, &rounded, 2);
    }
    return {};
  };
}

}  // namespace

json::Object StepReport::to_json() const {
  json::Object line{{"step", step},
                    {"stage", stage},
                    {"tokens", tokens},
                    {"loss", loss},
                    {"mtp", mtp},
                    {"balance", balance},
                    {"indexer_kl", indexer_kl},
                    {"gradient_norm", gradient_norm},
                    {"learning_rate", learning_rate},
                    {"load_max", load_max},
                    {"seconds", seconds},
                    {"skipped", skipped}};
  for (const auto& [name, value] : metrics) line.emplace_back(name, value);
  return line;
}

Result<Trainer> Trainer::create(RunFile run, const std::string& from, const Ranks& ranks) {
  std::shared_ptr<Twin> twin;
  try {
    if (!from.empty()) {
      const auto checkpoint = HADAL_TRY(checkpoint::Checkpoint::open(from));
      twin = HADAL_TRY(Twin::load(checkpoint));
      const json::Value own = HADAL_TRY(read_json(from + "/config.json"));
      if (!run.model.is_null()) {
        const auto wanted = HADAL_TRY(checkpoint::parse_config(json::dump(run.model), "model"));
        const auto shapes = [](const checkpoint::ModelConfig& c) {
          std::string list;
          for (const auto& t : checkpoint::expected_tensors(c, checkpoint::Draft::kNone, 0))
            list += t.name + checkpoint::shape_text(t.shape);
          return list;
        };
        if (shapes(wanted) != shapes(twin->config()))
          return Error{Code::kInvalid, from + ": expected the tensors of the run's model, found another architecture"};
      }
      run.model = own;
    } else {
      if (run.model.is_null()) return Error{Code::kInvalid, "model: expected a config (or --from DIR), found nothing"};
      const auto config = HADAL_TRY(checkpoint::parse_config(json::dump(run.model), "model"));
      twin = std::make_shared<Twin>(config, config.n_mtp_layers > 0);
      initialise(all_weights(*twin), config, run.init, run.seed);
    }
  } catch (const std::exception& error) {
    return Error{Code::kUnsupported, fmt::format("the model cannot be built: {}", error.what())};
  }
  Optimiser optimiser = HADAL_TRY(Optimiser::create(trained(*twin), twin->config(), run.optimiser));
  Trainer trainer(std::move(run), std::move(twin), std::move(optimiser), ranks);
  for (const auto& [name, description] : trainer.run_.data) {
    auto source = HADAL_TRY(data::open_source(description, "data." + name));
    if (source->vocabulary() > trainer.twin_->config().vocab_size)
      return Error{Code::kInvalid, fmt::format("data.{}: expected ids below the model's vocabulary of {}, found {}",
                                               name, trainer.twin_->config().vocab_size, source->vocabulary())};
    trainer.sources_[name] = std::move(source);
  }
  for (const Stage& stage : trainer.run_.stages) {
    const int64_t rows = trainer.run_.tokens_per_step / stage.length;
    if (rows % trainer.ranks_->size() != 0)
      return Error{Code::kInvalid, fmt::format("stage {}: expected rows per step that {} ranks can share, found {}",
                                               stage.name, trainer.ranks_->size(), rows)};
    if (stage.mtp_weight > 0 && !trainer.twin_->has_mtp())
      return Error{Code::kInvalid, fmt::format("stage {}: mtp: expected 0 for a model without an MTP block, found {}",
                                               stage.name, stage.mtp_weight)};
  }
  return trainer;
}

Trainer::Rows Trainer::rows(const Stage& stage, uint64_t seed, int64_t step, int64_t first, int64_t n) const {
  const int64_t length = stage.length;
  Rows rows;
  rows.batch.tokens = torch::empty({n, length}, torch::kInt64);
  rows.batch.documents = torch::empty({n, length}, torch::kInt64);
  rows.batch.weights = torch::empty({n, length});
  rows.mtp_weights = torch::zeros({n, length - 1});
  for (int64_t r = 0; r < n; ++r) {
    data::Row row = source(stage).row(seed, static_cast<uint64_t>(step), static_cast<uint64_t>(first + r),
                                      static_cast<int>(length));
    int64_t* tokens = rows.batch.tokens.data_ptr<int64_t>() + r * length;
    int64_t* documents = rows.batch.documents.data_ptr<int64_t>() + r * length;
    float* weights = rows.batch.weights.data_ptr<float>() + r * length;
    float* mtp = rows.mtp_weights.data_ptr<float>() + r * (length - 1);
    for (size_t i = 0; i < static_cast<size_t>(length); ++i) {
      tokens[i] = row.ids[i];
      documents[i] = row.documents[i];
      weights[i] = row.weights[i];
      // Position i's MTP row foretells token i + 2, whose loss weight stands at i + 1.
      if (i + 2 < static_cast<size_t>(length) && row.documents[i + 2] == row.documents[i]) mtp[i] = row.weights[i + 1];
    }
    rows.answers.push_back(std::move(row.answers));
  }
  return rows;
}

ForwardOptions Trainer::forward_options(const Stage& stage) const {
  return {.sparse = stage.sparse,
          .quantise = stage.quantise,
          .indexer_loss = stage.indexer_weight > 0,
          .mtp = stage.mtp_weight > 0};
}

Result<StepReport> Trainer::step() {
  try {
    return step_or_throw();
  } catch (const std::exception& error) {
    const std::string message = error.what();
    return Error{Code::kUnsupported, fmt::format("step {}: {}", n_done_, message.substr(0, message.find('\n')))};
  }
}

Status sum_gradients(const Ranks& ranks, const std::vector<Named>& parameters) {
  torch::Tensor given = torch::zeros({static_cast<int64_t>(parameters.size())}, torch::kInt64);
  for (size_t i = 0; i < parameters.size(); ++i)
    given[static_cast<int64_t>(i)] = parameters[i].tensor.grad().defined() ? 1 : 0;
  HADAL_TRY(ranks.sum(given));
  std::vector<torch::Tensor> flat;
  for (size_t i = 0; i < parameters.size(); ++i) {
    if (given[static_cast<int64_t>(i)].item<int64_t>() == 0) continue;
    torch::Tensor& gradient = parameters[i].tensor.mutable_grad();
    if (!gradient.defined()) gradient = torch::zeros_like(parameters[i].tensor);
    flat.push_back(gradient.flatten());
  }
  if (flat.empty()) return {};
  torch::Tensor all = torch::cat(flat);
  HADAL_TRY(ranks.sum(all));
  int64_t offset = 0;
  for (const Named& parameter : parameters) {
    if (!parameter.tensor.grad().defined()) continue;
    const int64_t n = parameter.tensor.numel();
    parameter.tensor.grad().copy_(all.slice(0, offset, offset + n).view(parameter.tensor.sizes()));
    offset += n;
  }
  return {};
}

Result<StepReport> Trainer::step_or_throw() {
  const auto start = std::chrono::steady_clock::now();
  const Stage& stage = run_.stage_at(n_done_);
  const ForwardOptions options = forward_options(stage);
  const int64_t n_rows = run_.tokens_per_step / stage.length, own = n_rows / ranks_->size();
  const Rows rows = this->rows(stage, run_.seed, n_done_, own * ranks_->rank(), own);

  // Weights of the whole step: the loss is their mean, whoever holds the rows.
  torch::Tensor totals =
      torch::stack({rows.batch.weights.to(torch::kFloat64).sum(), rows.mtp_weights.to(torch::kFloat64).sum()});
  HADAL_TRY(ranks_->sum(totals));
  const double weight = std::max(1e-9, totals[0].item<double>()), mtp_weight = std::max(1e-9, totals[1].item<double>());

  for (const Named& parameter : optimiser_.parameters()) parameter.tensor.mutable_grad() = torch::Tensor();
  StepReport report;
  std::vector<torch::Tensor> counts;
  // loss, mtp, balance, indexer KL: sums over passes, then over ranks
  torch::Tensor sums = torch::zeros({4}, torch::kFloat64);
  const int64_t per_pass = std::max<int64_t>(1, run_.tokens_per_pass / stage.length);
  int64_t n_passes = 0;
  for (int64_t first = 0; first < own; first += per_pass, ++n_passes) {
    const int64_t end = std::min(own, first + per_pass);
    const double share = static_cast<double>(end - first) / static_cast<double>(n_rows);
    const auto part = [&](const torch::Tensor& tensor) { return tensor.slice(0, first, end); };
    const Batch batch{part(rows.batch.tokens), part(rows.batch.documents), part(rows.batch.weights)};
    const Output output = twin_->forward(batch, options);
    const int64_t length = stage.length;
    torch::Tensor part_loss = weighted_loss(output.logits.slice(1, 0, length - 1), batch.tokens.slice(1, 1, length),
                                            batch.weights.slice(1, 0, length - 1)) /
                              weight;
    torch::Tensor total = part_loss;
    sums[0] += part_loss.item<double>();
    if (options.mtp && output.mtp_logits.defined()) {
      const torch::Tensor loss =
          weighted_loss(output.mtp_logits.slice(1, 0, length - 2), batch.tokens.slice(1, 2, length),
                        part(rows.mtp_weights).slice(1, 0, length - 2)) /
          mtp_weight;
      total = total + stage.mtp_weight * loss;
      sums[1] += loss.item<double>();
    }
    if (output.balance.defined()) {
      total = total + run_.balance_weight * share * output.balance;
      sums[2] += share * output.balance.item<double>();
    }
    if (output.indexer_kl.defined()) {
      total = total + stage.indexer_weight * share * output.indexer_kl;
      sums[3] += share * output.indexer_kl.item<double>();
    }
    total.backward();
    for (size_t i = 0; i < output.expert_counts.size(); ++i) {
      if (i == counts.size()) counts.push_back(torch::zeros_like(output.expert_counts[i]));
      counts[i] += output.expert_counts[i];
    }
    for (const auto& [name, value] : output.metrics) report.metrics[name] += value;
  }
  for (auto& [name, value] : report.metrics) value /= static_cast<double>(n_passes);

  HADAL_TRY(ranks_->sum(sums));
  if (ranks_->size() > 1) {
    HADAL_TRY(sum_gradients(*ranks_, optimiser_.parameters()));
    if (!counts.empty()) {
      torch::Tensor stacked = torch::stack(counts);
      HADAL_TRY(ranks_->sum(stacked));
      for (size_t i = 0; i < counts.size(); ++i) counts[i] = stacked[static_cast<int64_t>(i)];
    }
  }

  double square = 0;
  for (const Named& parameter : optimiser_.parameters())
    if (parameter.tensor.grad().defined()) square += std::pow(parameter.tensor.grad().norm().item<double>(), 2);
  report.gradient_norm = std::sqrt(square);
  report.skipped = !std::isfinite(report.gradient_norm) ||
                   (norms_.size() >= kNormsNeeded && report.gradient_norm > kSpike * median(norms_));
  report.learning_rate = run_.learning_rate_at(n_done_);
  if (!report.skipped) {
    norms_.push_back(report.gradient_norm);
    if (norms_.size() > kNormsKept) norms_.pop_front();
    if (report.gradient_norm > run_.clip)
      for (const Named& parameter : optimiser_.parameters())
        if (parameter.tensor.grad().defined()) parameter.tensor.grad().mul_(run_.clip / report.gradient_norm);
    optimiser_.step(report.learning_rate, counts);
    balance_experts(counts, stage.bias_speed);
  }
  for (const torch::Tensor& block : counts) {
    const torch::Tensor loads = block.to(torch::kFloat64);
    const double mean = loads.mean().item<double>();
    if (mean > 0) report.load_max = std::max(report.load_max, loads.max().item<double>() / mean);
  }
  report.step = n_done_++;
  report.tokens = n_tokens_ += run_.tokens_per_step;
  report.stage = stage.name;
  report.loss = sums[0].item<double>();
  report.mtp = sums[1].item<double>();
  report.balance = sums[2].item<double>();
  report.indexer_kl = sums[3].item<double>();
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return report;
}

// After the step, so that all its passes used one bias (training report B.6).
void Trainer::balance_experts(const std::vector<torch::Tensor>& counts, double speed) {
  if (speed == 0) return;
  torch::NoGradGuard no_grad;
  const checkpoint::ModelConfig& config = twin_->config();
  for (size_t block = 0; block < counts.size(); ++block) {
    const int index = static_cast<int>(block);
    const std::string name = index < config.n_layers ? fmt::format("layers.{}.ffn.gate.bias", index)
                                                     : fmt::format("mtp.{}.ffn.gate.bias", index - config.n_layers);
    const auto found = twin_->weights().find(name);
    if (found == twin_->weights().end()) continue;  // routed by the hash table
    const torch::Tensor loads = counts[block].to(torch::kFloat64);
    torch::Tensor bias = found->second;
    bias.add_((loads.mean() - loads).sign().to(torch::kFloat32), speed);
  }
}

Trainer::Evaluation Trainer::evaluate(int n_rows) {
  torch::NoGradGuard no_grad;
  const Stage& stage = run_.stage_at(std::min(n_done_, run_.n_steps() - 1));
  ForwardOptions options = forward_options(stage);
  options.mtp = options.indexer_loss = false;
  Evaluation evaluation{0, data::RecallScore(run_.distances)};
  double sum = 0, weight = 0;
  const int64_t per_pass = std::max<int64_t>(1, run_.tokens_per_pass / stage.length), length = stage.length;
  for (int64_t first = 0; first < n_rows; first += per_pass) {
    const int64_t n = std::min<int64_t>(per_pass, n_rows - first);
    const Rows rows = this->rows(stage, run_.seed ^ kHeldOut, 0, first, n);
    const Output output = twin_->forward(rows.batch, options);
    sum += weighted_loss(output.logits.slice(1, 0, length - 1), rows.batch.tokens.slice(1, 1, length),
                         rows.batch.weights.slice(1, 0, length - 1))
               .item<double>();
    weight += rows.batch.weights.sum().item<double>();
    const torch::Tensor best = output.logits.argmax(-1).contiguous();
    const int64_t* guesses = best.data_ptr<int64_t>();
    const int64_t* tokens = rows.batch.tokens.data_ptr<int64_t>();
    for (int64_t r = 0; r < n; ++r)
      for (const data::Answer& answer : rows.answers[static_cast<size_t>(r)])
        evaluation.recall.add(answer.distance,
                              guesses[r * length + answer.position] == tokens[r * length + answer.position + 1]);
  }
  evaluation.loss = weight > 0 ? sum / weight : 0;
  return evaluation;
}

std::vector<Named> Trainer::saved_tensors() const {
  std::vector<Named> tensors = all_weights(*twin_);
  for (Named& moment : optimiser_.state()) tensors.push_back(std::move(moment));
  return tensors;
}

Status Trainer::save(const std::string& directory) const {
  const std::string path = fmt::format("{}/{:08}", directory, n_done_);
  std::error_code error;
  std::filesystem::remove_all(path, error);  // an incomplete state of this step
  auto writer = HADAL_TRY(checkpoint::CheckpointWriter::create({.directory = path, .shard_bytes = int64_t{1} << 50}));
  for (const Named& named : saved_tensors()) {
    const std::vector<int64_t> shape = named.tensor.sizes().vec();
    const checkpoint::StoredTensor stored{named.name, stored_dtype(named.tensor), shape};
    const int64_t rows = shape.size() == 2 ? shape[0] : 1;
    writer.add(stored, bytes_of(named.tensor.contiguous(), stored.size_bytes() / std::max<int64_t>(1, rows)));
  }
  HADAL_TRY(writer.write_tensors());
  json::Array norms;
  for (const double norm : norms_) norms.emplace_back(norm);
  const json::Value counters = json::Object{{"step", n_done_},
                                            {"tokens", n_tokens_},
                                            {"optimiser_steps", optimiser_.n_steps()},
                                            {"seed", static_cast<int64_t>(run_.seed)},
                                            {"gradient_norms", std::move(norms)}};
  HADAL_TRY(writer.write_text("state.json", json::dump(counters) + "\n"));
  HADAL_TRY(writer.finish(run_.model));
  constexpr size_t kKept = 3;
  const std::vector<Saved> states = states_in(directory);
  for (size_t i = 0; i + kKept < states.size(); ++i) std::filesystem::remove_all(states[i].path, error);
  return {};
}

Result<bool> Trainer::resume(const std::string& directory) {
  const std::vector<Saved> states = states_in(directory);
  if (states.empty()) return false;
  const std::string& path = states.back().path;
  const json::Value config = HADAL_TRY(read_json(path + "/config.json"));
  if (!(config == run_.model))
    return Error{Code::kInvalid,
                 path + ": config.json: expected the run's model, found another (--restart begins anew)"};
  const json::Value counters = HADAL_TRY(read_json(path + "/state.json"));
  const auto integer = [&](const char* key) -> Result<int64_t> {
    const json::Value* value = counters.find(key);
    const auto number = value && value->is_number() ? value->to_int64() : std::nullopt;
    if (!number)
      return Error{Code::kCorrupt, fmt::format("{}/state.json: {}: expected an integer, found {}", path, key,
                                               value ? json::dump(*value) : "nothing")};
    return *number;
  };
  const int64_t step = HADAL_TRY(integer("step")), tokens = HADAL_TRY(integer("tokens"));
  const int64_t optimiser_steps = HADAL_TRY(integer("optimiser_steps")), seed = HADAL_TRY(integer("seed"));
  if (static_cast<uint64_t>(seed) != run_.seed)
    return Error{Code::kInvalid,
                 fmt::format("{}/state.json: seed: expected the run's {}, found {} (--restart begins anew)", path,
                             run_.seed, seed)};
  std::deque<double> norms;
  if (const json::Value* list = counters.find("gradient_norms"); list && list->is_array())
    for (const json::Value& value : list->as_array()) norms.push_back(value.to_double().value_or(0));

  const std::string file = path + "/" + kModelFile;
  const FileMap map = HADAL_TRY(FileMap::open(file));
  const checkpoint::Header header = HADAL_TRY(checkpoint::parse_header(map.bytes(), map.bytes().size(), file));
  std::map<std::string_view, const checkpoint::HeaderEntry*> entries;
  for (const checkpoint::HeaderEntry& entry : header.tensors) entries[entry.name] = &entry;
  const std::vector<Named> wanted = saved_tensors();
  for (const Named& named : wanted) {
    const auto found = entries.find(named.name);
    if (found == entries.end())
      return Error{Code::kCorrupt, fmt::format("{}: {}: expected, found no such tensor", file, named.name)};
    const checkpoint::HeaderEntry& entry = *found->second;
    if (entry.shape != named.tensor.sizes().vec() || entry.dtype != stored_dtype(named.tensor))
      return Error{Code::kCorrupt,
                   fmt::format("{}: {}: expected {} {}, found {} {}", file, named.name,
                               checkpoint::dtype_name(stored_dtype(named.tensor)),
                               checkpoint::shape_text(named.tensor.sizes().vec()), checkpoint::dtype_name(entry.dtype),
                               checkpoint::shape_text(entry.shape))};
  }
  for (const Named& named : wanted) {  // all fit: now copy
    const checkpoint::HeaderEntry& entry = *entries.at(named.name);
    HADAL_CHECK(named.tensor.is_contiguous());
    std::memcpy(named.tensor.data_ptr(), map.bytes().data() + entry.begin, entry.end - entry.begin);
  }
  n_done_ = step;
  n_tokens_ = tokens;
  optimiser_.set_n_steps(optimiser_steps);
  norms_ = std::move(norms);
  return true;
}

Status Trainer::export_model(const std::string& directory) const {
  const checkpoint::ModelConfig& config = twin_->config();
  std::map<std::string, torch::Tensor> tensors;
  for (const auto& [name, tensor] : twin_->release_tensors()) tensors[name] = tensor.contiguous();
  auto writer = HADAL_TRY(checkpoint::CheckpointWriter::create({.directory = directory}));
  const auto draft = twin_->has_mtp() ? checkpoint::Draft::kMtp : checkpoint::Draft::kNone;
  for (const auto& expected : checkpoint::expected_tensors(config, draft, twin_->has_mtp() ? 1 : 0)) {
    const torch::Tensor& tensor = tensors.at(expected.name);
    const bool is_f32 = expected.storage == checkpoint::Storage::kF32 || !run_.export_bf16;
    const Dtype dtype = expected.storage == checkpoint::Storage::kI64 ? Dtype::kI64
                        : is_f32                                      ? Dtype::kF32
                                                                      : Dtype::kBf16;
    const checkpoint::StoredTensor stored{expected.name, dtype, expected.shape};
    const int64_t rows = expected.shape.size() == 2 ? expected.shape[0] : 1;
    if (dtype == Dtype::kBf16) {
      writer.add(stored, bf16_of(tensor, expected.n_elements() / rows));
    } else {
      writer.add(stored, bytes_of(tensor, stored.size_bytes() / rows));
    }
  }
  HADAL_TRY(writer.write_tensors());
  if (!run_.tokenizer.empty()) {
    const std::string tokenizer = HADAL_TRY(read_file(run_.tokenizer, 64 << 20));
    HADAL_TRY(writer.write_text("tokenizer.json", tokenizer));
  }
  json::Value own = run_.model;
  json::Object& members = own.as_object();
  std::erase_if(members, [](const json::Member& member) { return member.first == "quantization_config"; });
  own.set("expert_dtype", "bf16");
  return writer.finish(own);
}

}  // namespace hadal::train
