// hadal quantize: a checkpoint of any precision in the release format, and what that cost.

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>

#include "base/json.h"
#include "checkpoint/plan.h"
#include "checkpoint/quantise.h"
#include "cli/commands.h"
#include "cli/terminal.h"

namespace hadal::cli {
namespace {

using checkpoint::ExpertFormat;
using checkpoint::GroupReport;
using checkpoint::QuantiseReport;

struct QuantizeCommand {
  std::string source, output, experts = "fp4";
  int threads = 0;
  int64_t shard_megabytes = 4096;
  bool json = false;
};

void print_row(const char* name, const GroupReport& group) {
  const auto share = [](double x) { return x > 0 ? fmt::format("{:.2e}", x) : std::string("exact"); };
  const bool changed = group.n_converted > 0;
  fmt::print("{:<22} {:>7} {:>9} {:>9} {:>9} {:>9} {:>9}\n", name, group.n_tensors, group.n_converted,
             checkpoint::human_bytes(group.bytes_before), checkpoint::human_bytes(group.bytes_after),
             changed ? share(group.relative_rms()) : "-", changed ? share(group.max_error) : "-");
}

void print_table(const QuantiseReport& report) {
  fmt::print("{:<22} {:>7} {:>9} {:>9} {:>9} {:>9} {:>9}\n", "", "tensors", "converted", "before", "after", "rms error",
             "max error");
  for (int g = 0; g < checkpoint::kGroupCount; ++g) {
    const GroupReport& group = report.groups[static_cast<size_t>(g)];
    if (group.n_tensors > 0) print_row(checkpoint::group_name(static_cast<checkpoint::Group>(g)), group);
  }
  const GroupReport total = report.total();
  print_row("total", total);
  fmt::print(
      "\nrms error: of the converted tensors, relative.\n"
      "max error: over the largest value of its block.\n"
      "{} of {} values were saturated.\n",
      total.n_saturated, total.n_values);
  if (total.n_tiles > 0)
    fmt::print(
        "{} of {} FP4 tiles of 128 x 128 have scales more than 2^14 apart, which FP8\n"
        "cannot hold.\n",
        total.n_inexact_tiles, total.n_tiles);
}

json::Object to_json(const GroupReport& group) {
  return {{"tensors", group.n_tensors},
          {"converted", group.n_converted},
          {"bytes_before", group.bytes_before},
          {"bytes_after", group.bytes_after},
          {"relative_rms_error", group.relative_rms()},
          {"max_relative_error", group.max_error},
          {"values_converted", group.n_values},
          {"saturated", group.n_saturated},
          {"fp4_tiles", group.n_tiles},
          {"inexact_tiles", group.n_inexact_tiles}};
}

void print_json(const QuantizeCommand& command, const QuantiseReport& report) {
  json::Object groups;
  for (int g = 0; g < checkpoint::kGroupCount; ++g) {
    const GroupReport& group = report.groups[static_cast<size_t>(g)];
    if (group.n_tensors > 0)
      groups.emplace_back(checkpoint::group_name(static_cast<checkpoint::Group>(g)), to_json(group));
  }
  const json::Object out{{"source", command.source},    {"output", command.output},
                         {"experts", command.experts},  {"shards", report.n_shards},
                         {"groups", std::move(groups)}, {"total", to_json(report.total())}};
  fmt::print("{}\n", json::dump(json::Value(out)));
}

Result<QuantiseReport> run_quantize(const QuantizeCommand& command) {
  const auto source = HADAL_TRY(checkpoint::Checkpoint::open(command.source));
  ThreadPool pool(command.threads > 0 ? command.threads : ThreadPool::default_threads());
  ProgressBar bar("quantizing");
  return checkpoint::quantise(source,
                              {.directory = command.output,
                               .experts = command.experts == "fp4" ? ExpertFormat::kFp4 : ExpertFormat::kFp8,
                               .shard_bytes = command.shard_megabytes << 20,
                               .progress = [&bar](int64_t done, int64_t total) { bar.update(done, total); }},
                              pool);
}

}  // namespace

void add_quantize(CLI::App& app, int& exit_status) {
  CLI::App* command = app.add_subcommand("quantize", "Write a BF16, F32 or FP8 checkpoint in the release format");
  auto options = std::make_shared<QuantizeCommand>();
  command->add_option("DIR", options->source, "checkpoint to read")->required();
  command->add_option("-o,--output", options->output, "directory to write")->required();
  command->add_option("--experts", options->experts, "format of the routed experts: fp4 or fp8")
      ->check(CLI::IsMember({"fp4", "fp8"}).description(""))
      ->capture_default_str();
  command->add_option("--shard-size", options->shard_megabytes, "MiB of tensors per file")
      ->check(CLI::Range(1, 1 << 20).description(""))
      ->capture_default_str();
  command->add_option("--threads", options->threads, "threads (default: one per core)")->check(CLI::Range(1, 1024));
  command->add_flag("--json", options->json, "the table as one JSON object");
  command->callback([options, &exit_status] {
    const auto report = run_quantize(*options);
    if (!report.ok()) {
      exit_status = report_failure(report.error());
      return;
    }
    options->json ? print_json(*options, report.value()) : print_table(report.value());
  });
}

}  // namespace hadal::cli
