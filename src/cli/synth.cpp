// hadal synth: a random checkpoint in the release format.

#include "checkpoint/synth.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>

#include "base/file.h"
#include "cli/commands.h"
#include "cli/terminal.h"

namespace hadal::cli {
namespace {

struct SynthCommand {
  std::string config, output;
  int layers = 0, experts = 0, vocab = 0, threads = 0;
  uint64_t seed = 1;
  bool sparse = false;
};

Status run_synth(const SynthCommand& command) {
  json::Value config = HADAL_TRY(checkpoint::load_config_json(command.config));
  if (command.layers > 0) {
    const json::Value* old_layers = config.find("num_hidden_layers");
    json::Value* ratios = config.find("compress_ratios");
    const auto n_old = old_layers ? old_layers->to_int64() : std::nullopt;
    if (!n_old || !ratios || !ratios->is_array() || static_cast<int64_t>(ratios->as_array().size()) < *n_old)
      return Error{Code::kInvalid, command.config + ": expected num_hidden_layers and compress_ratios"};
    if (command.layers > *n_old)
      return Error{Code::kInvalid, fmt::format("--layers: expected at most {}, found {}", *n_old, command.layers)};
    auto& list = ratios->as_array();  // the ratios of draft layers stay behind those of the kept layers
    list.erase(list.begin() + command.layers, list.begin() + *n_old);
    config.set("num_hidden_layers", command.layers);
    const json::Value* hash = config.find("num_hash_layers");
    if (hash && hash->to_int64().value_or(0) > command.layers) config.set("num_hash_layers", command.layers);
    if (json::Value* targets = config.find("dspark_target_layer_ids"); targets && targets->is_array()) {
      const int64_t n = static_cast<int64_t>(targets->as_array().size());
      for (int64_t i = 0; i < n; ++i)
        targets->as_array()[static_cast<size_t>(i)] = std::max<int64_t>(0, command.layers - n + i);
    }
  }
  if (command.experts > 0) config.set("n_routed_experts", command.experts);
  if (command.vocab > 0) config.set("vocab_size", command.vocab);
  ThreadPool pool(command.threads > 0 ? command.threads : ThreadPool::default_threads());
  ProgressBar bar("writing");
  const checkpoint::SynthOptions options{.directory = command.output,
                                         .config_name = command.config,
                                         .seed = command.seed,
                                         .sparse = command.sparse,
                                         .progress = [&bar](int64_t done, int64_t total) { bar.update(done, total); }};
  HADAL_TRY(checkpoint::synthesise(config, options, pool));
  bar.clear();
  if (!file_exists(command.output + "/tokenizer.json"))
    fmt::print(
        stderr,
        "no tokenizer.json: it needs a vocabulary of at least {} (run and chat need it; verify and bench do not)\n",
        checkpoint::kSynthVocab);
  return {};
}

}  // namespace

void add_synth(CLI::App& app, int& exit_status) {
  CLI::App* command = app.add_subcommand("synth", "Write a random checkpoint in the release format");
  auto options = std::make_shared<SynthCommand>();
  // An unsigned option takes "-5" for 2^64 - 5 otherwise.
  const auto not_negative = [](const std::string& text) {
    return text.starts_with('-') ? "expected a number from 0 on, found " + text : std::string();
  };
  command->add_option("--config", options->config, "config.json, or flash, pro, ... (models/configs)")->required();
  command->add_option("-o,--output", options->output, "directory to write")->required();
  command->add_option("--layers", options->layers, "keep only the first N layers")->check(CLI::PositiveNumber);
  command->add_option("--experts", options->experts, "routed experts per layer")->check(CLI::PositiveNumber);
  command->add_option("--vocab", options->vocab, "vocabulary size")->check(CLI::PositiveNumber);
  command->add_option("--seed", options->seed, "same seed, same bytes")->check(not_negative, "")->capture_default_str();
  command->add_option("--threads", options->threads, "threads (default: one per core)")->check(CLI::Range(1, 1024));
  command->add_flag("--sparse", options->sparse, "holes instead of values: all headers, no bytes on disk");
  command->callback([options, &exit_status] {
    const Status status = run_synth(*options);
    if (!status.ok()) exit_status = report_failure(status.error());
  });
}

}  // namespace hadal::cli
