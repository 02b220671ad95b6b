#include "train/run_file.h"

#include <fmt/format.h>

#include <cmath>
#include <limits>
#include <numbers>
#include <optional>
#include <set>

#include "base/file.h"
#include "checkpoint/synth.h"

namespace hadal::train {
namespace {

// One object of the file; remembers the first thing that is wrong with it.
class Fields {
 public:
  Fields(const json::Value& object, std::string where) : object_(object), where_(std::move(where)) {
    if (!object.is_object()) fail("", "an object", object);
  }

  const json::Value* take(std::string_view key) {
    known_.insert(std::string(key));
    return object_.find(key);
  }
  int64_t integer(std::string_view key, std::optional<int64_t> otherwise, int64_t least,
                  int64_t most = int64_t{1} << 40) {
    const json::Value* value = take(key);
    if (!value && otherwise) return *otherwise;
    const auto number = value && value->is_number() ? value->to_int64() : std::nullopt;
    if (number && *number >= least && *number <= most) return *number;
    fail(key, fmt::format("an integer from {} to {}", least, most), value);
    return least;
  }
  double number(std::string_view key, std::optional<double> otherwise, double least, double most) {
    const json::Value* value = take(key);
    if (!value && otherwise) return *otherwise;
    const auto found = value ? value->to_double() : std::nullopt;
    if (found && *found >= least && *found <= most) return *found;
    fail(key, fmt::format("a number from {} to {}", least, most), value);
    return least;
  }
  bool flag(std::string_view key, bool otherwise) {
    const json::Value* value = take(key);
    if (value && !value->is_bool()) fail(key, "true or false", value);
    return value && value->is_bool() ? value->as_bool() : otherwise;
  }
  std::string text(std::string_view key, std::optional<std::string> otherwise) {
    const json::Value* value = take(key);
    if (!value && otherwise) return *otherwise;
    if (value && value->is_string()) return value->as_string();
    fail(key, "a string", value);
    return "";
  }
  Fields object(std::string_view key) {  // absent: empty
    static const json::Value kEmpty{json::Object{}};
    const json::Value* value = take(key);
    return {value ? *value : kEmpty, where_.empty() ? std::string(key) : fmt::format("{}.{}", where_, key)};
  }
  void fail(std::string_view key, const std::string& expected, const json::Value* found) {
    if (!error_.empty()) return;
    std::string name = where_;
    if (!key.empty() && !name.empty()) name += '.';
    name += key;
    std::string shown = found ? json::dump(*found) : "nothing";
    if (shown.size() > 60) shown.replace(57, std::string::npos, "...");
    error_ = fmt::format("{}: expected {}, found {}", name.empty() ? "the file" : name, expected, shown);
  }
  void fail(std::string_view key, const std::string& expected, const json::Value& found) {
    fail(key, expected, &found);
  }

  Status finish() {
    if (error_.empty())
      for (const auto& [key, value] : object_.as_object())
        if (!known_.contains(key)) error_ = fmt::format("{}{}{}: no such key", where_, where_.empty() ? "" : ".", key);
    if (error_.empty()) return {};
    return Error{Code::kInvalid, error_};
  }

 private:
  const json::Value& object_;
  std::string where_, error_;
  std::set<std::string> known_;
};

Result<Stage> parse_stage(const json::Value& value, const std::string& where, const RunFile& run, double bias_speed) {
  Fields fields(value, where);
  Stage stage;
  stage.name = fields.text("name", where);
  stage.data = fields.text("data", std::nullopt);
  stage.steps = fields.integer("steps", std::nullopt, 1);
  stage.length = static_cast<int>(fields.integer("length", std::nullopt, 8, 1 << 20));
  stage.sparse = fields.flag("sparse", false);
  stage.quantise = fields.flag("quantise", false);
  stage.mtp_weight = fields.number("mtp", 0, 0, 10);
  stage.indexer_weight = fields.number("indexer", 0, 0, 100);
  stage.rate = fields.number("rate", 1, 0, 100);
  stage.bias_speed = fields.number("bias_speed", bias_speed, 0, 1);
  HADAL_TRY(fields.finish());
  if (run.tokens_per_step % stage.length != 0)
    return Error{Code::kInvalid, fmt::format("{}.length: expected a divisor of tokens_per_step, {}, found {}", where,
                                             run.tokens_per_step, stage.length)};
  if (!run.data.contains(stage.data))
    return Error{Code::kInvalid, fmt::format("{}.data: expected a name in data, found {}", where, stage.data)};
  return stage;
}

Result<RunFile> parse(const json::Value& root) {
  RunFile run;
  Fields fields(root, "");
  if (!root.is_object()) return fields.finish().error();
  if (const json::Value* model = fields.take("model")) {
    if (model->is_object()) {
      run.model = *model;
    } else if (model->is_string()) {
      run.model = HADAL_TRY(checkpoint::load_config_json(model->as_string()));
    } else {
      fields.fail("model", "a config object, a path or a known name", model);
    }
  }
  run.seed = static_cast<uint64_t>(fields.integer("seed", 1, 0));
  run.tokens_per_step = fields.integer("tokens_per_step", std::nullopt, 8);
  run.tokens_per_pass = fields.integer("tokens_per_pass", run.tokens_per_step, 8);
  run.learning_rate = fields.number("learning_rate", std::nullopt, 1e-9, 10);
  run.warmup = fields.integer("warmup", 50, 0);
  run.decay_from = fields.number("decay_from", 0.7, 0, 1);
  run.final_rate = fields.number("final_rate", 0.1, 0, 1);
  run.clip = fields.number("clip", 1, 1e-6, 1e9);
  run.balance_weight = fields.number("balance", 1e-4, 0, 1);
  const double bias_speed = fields.number("bias_speed", 0.001, 0, 1);
  run.save_every = fields.integer("save_every", 100, 1);
  run.evaluate_every = fields.integer("evaluate_every", 50, 1);
  run.evaluate_rows = static_cast<int>(fields.integer("evaluate_rows", 64, 1, 1 << 16));
  run.tokenizer = fields.text("tokenizer", "");
  const std::string format = fields.text("export", "f32");
  if (format != "f32" && format != "bf16") fields.fail("export", "f32 or bf16", root.find("export"));
  run.export_bf16 = format == "bf16";

  Fields init = fields.object("init");
  run.init.aligned = init.flag("aligned", true);
  run.init.aligned_windows = init.flag("aligned_windows", false);
  run.init.noise = init.number("noise", 0, 0, 10);
  run.init.embedding = init.number("embedding", 0, 0, 10);
  run.init.head_scale = init.number("head_scale", 1, 0, 100);

  Fields optimiser = fields.object("optimiser");
  run.optimiser.muon = optimiser.flag("muon", true);
  run.optimiser.momentum = optimiser.number("momentum", 0.95, 0, 1);
  run.optimiser.weight_decay = optimiser.number("weight_decay", 0.1, 0, 1);
  run.optimiser.beta1 = optimiser.number("beta1", 0.9, 0, 1);
  run.optimiser.beta2 = optimiser.number("beta2", 0.95, 0, 1);
  run.optimiser.epsilon = optimiser.number("epsilon", 1e-20, 0, 1);

  if (const json::Value* distances = fields.take("distances")) {
    bool right = distances->is_array();
    if (right)
      for (const json::Value& value : distances->as_array()) {
        const auto number = value.is_number() ? value.to_int64() : std::nullopt;
        right = right && number && *number < 1 << 24 && *number > (run.distances.empty() ? 0 : run.distances.back());
        if (right) run.distances.push_back(static_cast<int>(*number));
      }
    if (!right) fields.fail("distances", "an array of ascending positive integers", distances);
  } else {
    run.distances = {32, 128, 256, 512, 1024, 2048};
  }
  const json::Value* data = fields.take("data");
  if (!data || !data->is_object() || data->as_object().empty()) {
    fields.fail("data", "an object of named sources", data);
  } else {
    for (const auto& [name, description] : data->as_object()) {
      if (!description.is_object()) fields.fail("data." + name, "an object", description);
      run.data[name] = description;
    }
  }
  const json::Value* stages = fields.take("stages");
  if (!stages || !stages->is_array() || stages->as_array().empty()) fields.fail("stages", "an array of stages", stages);
  HADAL_TRY(fields.finish());
  HADAL_TRY(init.finish());
  HADAL_TRY(optimiser.finish());
  for (size_t i = 0; i < stages->as_array().size(); ++i)
    run.stages.push_back(HADAL_TRY(parse_stage(stages->as_array()[i], fmt::format("stages[{}]", i), run, bias_speed)));
  return run;
}

}  // namespace

int64_t RunFile::n_steps() const {
  int64_t n = 0;
  for (const Stage& stage : stages) n += stage.steps;
  return n;
}

const Stage& RunFile::stage_at(int64_t step) const {
  for (const Stage& stage : stages) {
    if (step < stage.steps) return stage;
    step -= stage.steps;
  }
  return stages.back();
}

double RunFile::learning_rate_at(int64_t step) const {
  double rate = learning_rate * stage_at(step).rate;
  if (step < warmup) rate *= static_cast<double>(step + 1) / static_cast<double>(warmup);
  const auto total = static_cast<double>(n_steps()), first = decay_from * total;
  if (static_cast<double>(step) > first) {
    const double share = std::min(1.0, (static_cast<double>(step) - first) / std::max(1.0, total - 1 - first));
    rate *= final_rate + (1 - final_rate) * 0.5 * (1 + std::cos(std::numbers::pi * share));
  }
  return rate;
}

Result<RunFile> parse_run(std::string_view text, const std::string& file) {
  auto root = json::parse(text, json::Duplicates::kReject);
  if (!root.ok()) return Error{Code::kCorrupt, file + ": " + root.error().message};
  auto run = parse(root.value());
  if (!run.ok()) return Error{run.error().code, file + ": " + run.error().message};
  return run;
}

Result<RunFile> read_run(const std::string& path) { return parse_run(HADAL_TRY(read_file(path, 1 << 22)), path); }

}  // namespace hadal::train
