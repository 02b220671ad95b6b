// hadal bench: prefill and decode of a model, as shares of roofs that the same process probes.

#include <fmt/format.h>
#include <sys/mman.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <memory>

#include "base/json.h"
#include "checkpoint/plan.h"
#include "checkpoint/summary.h"
#include "cli/bench_cache.h"
#include "cli/commands.h"
#include "cli/model_option.h"
#include "cli/terminal.h"
#include "model/transformer.h"

namespace hadal::cli {
namespace {

struct BenchOptions {
  std::string model, isa = "auto";
  int threads = 0, repetitions = 5;
  int64_t prompt = 512, tokens = 16;
  bool json = false, cache = false;
  std::string cache_dir;
};

template <class Body>
double seconds(const Body& body) {
  const auto start = std::chrono::steady_clock::now();
  body();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

struct Samples {
  std::vector<double> values;
  double best() const { return *std::min_element(values.begin(), values.end()); }
  double median() const {
    std::vector<double> sorted = values;
    std::sort(sorted.begin(), sorted.end());
    return sorted[sorted.size() / 2];
  }
};

volatile float g_sink;

// One roof: what moves or is computed in a pass, and how long the passes took.
struct Roof {
  double amount = 0;
  Samples passes;
  double median() const { return amount / passes.median(); }
  double best() const { return amount / passes.best(); }
};

class Probes {
 public:
  Probes(ThreadPool& pool, const kernels::Isa& isa) : pool_(pool), isa_(isa) {}

  // Bytes per second over `size` bytes, each thread its own contiguous part.
  void read(const std::byte* data, int64_t size, Roof& roof) const {
    const int64_t part = size / pool_.size() / 4096 * 4096;
    roof.amount = static_cast<double>(part * pool_.size());
    pass(roof, [&](int64_t t) { return isa_.probe_read(data + t * part, part); });
  }
  void operations(float (*probe)(int64_t), int64_t per_round, Roof& roof) const {
    constexpr int64_t kRounds = 2'000'000;
    const int64_t rounds = std::string_view(isa_.name) == "reference" ? kRounds / 100 : kRounds;
    roof.amount = 2.0 * static_cast<double>(rounds * per_round * pool_.size());
    pass(roof, [&](int64_t) { return probe(rounds); });
  }

 private:
  template <class Body>
  void pass(Roof& roof, const Body& body) const {
    for (int i = 0; i < 3; ++i)
      roof.passes.values.push_back(
          seconds([&] { pool_.run(pool_.size(), [&](int64_t t, int) { g_sink = body(t); }); }));
  }

  ThreadPool& pool_;
  const kernels::Isa& isa_;
};

// Floating-point operations of a prompt of n tokens: two per active parameter and token (the head once), and the
// two products of attention with the rows that each position attends.
double prefill_flops(const checkpoint::Summary& summary, const checkpoint::ModelConfig& config, int64_t n) {
  const double head = static_cast<double>(summary[checkpoint::Group::kHead].parameters);
  double flops = 2.0 * static_cast<double>(n) * (static_cast<double>(summary.active_parameters) - head) + 2.0 * head;
  for (int layer = 0; layer < config.n_layers; ++layer)
    for (int64_t t = 0; t < n; ++t) {
      const int ratio = config.ratio(layer);
      int64_t rows = std::min<int64_t>(t + 1, config.window_size);
      if (ratio == 4) rows += std::min<int64_t>((t + 1) / 4, config.index_topk);
      if (ratio != 0 && ratio != 4) rows += (t + 1) / ratio;
      flops += 4.0 * static_cast<double>(rows) * config.n_heads * config.head_dim;
    }
  return flops;
}

struct Measured {
  Roof anonymous_read, mapped_read, fma, int8;
  Samples prefill, decode;
};

Result<int> bench(const BenchOptions& options) {
  const kernels::Isa* isa = kernels::find_isa(options.isa);
  if (!isa)
    return Error{Code::kUnsupported, fmt::format("--isa {}: not an instruction set of this machine", options.isa)};
  const auto checkpoint = HADAL_TRY(checkpoint::Checkpoint::open(options.model));
  const auto summary = checkpoint::summarise(checkpoint);
  const auto& config = checkpoint.config();
  {
    ProgressBar bar("loading weights");
    checkpoint::warm_up(checkpoint, checkpoint::available_memory(), nullptr,
                        [&](int64_t done, int64_t total) { bar.update(done, total); });
  }
  ThreadPool pool(options.threads > 0 ? options.threads : ThreadPool::default_threads());
  auto model = HADAL_TRY(model::Transformer::bind(checkpoint, Numerics::kFaithful, *isa, pool));

  Measured result;
  const Probes probes(pool, *isa);
  constexpr int64_t kProbeBytes = int64_t{1} << 30;
  {
    void* memory = mmap(nullptr, kProbeBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return Error{Code::kIo, "no memory for the bandwidth probe"};
    madvise(memory, kProbeBytes, MADV_HUGEPAGE);
    std::fill_n(static_cast<char*>(memory), kProbeBytes, 1);
    probes.read(static_cast<const std::byte*>(memory), kProbeBytes, result.anonymous_read);
    munmap(memory, kProbeBytes);
  }
  const auto shard =
      std::max_element(checkpoint.shards().begin(), checkpoint.shards().end(), [](const FileMap& a, const FileMap& b) {
        return a.bytes().size() < b.bytes().size();
      })->bytes();
  // The largest shard, from its middle on where there is room: not what was touched last.
  const int64_t size = std::min<int64_t>(static_cast<int64_t>(shard.size()), 2 * kProbeBytes);
  const std::byte* probed = shard.data() + (static_cast<int64_t>(shard.size()) - size) / 2 / 4096 * 4096;

  std::vector<TokenId> tokens(static_cast<size_t>(options.prompt + options.tokens));
  for (size_t i = 0; i < tokens.size(); ++i)
    tokens[i] = static_cast<TokenId>((i * 7919 + 13) % static_cast<size_t>(config.vocab_size));
  const std::span<const TokenId> all(tokens);
  std::vector<float> logits;
  ProgressBar bar("measuring");
  for (int repetition = 0; repetition < options.repetitions; ++repetition) {
    // Beside every repetition, since a shared machine has fast and slow minutes.
    probes.read(probed, size, result.mapped_read);
    probes.operations(isa->probe_fma, kernels::kProbeFmas, result.fma);
    probes.operations(isa->probe_int8, kernels::kProbeInt8, result.int8);
    kv::SequenceState state = model.new_sequence();
    Status status;
    result.prefill.values.push_back(seconds([&] {
      const model::Sequence prompt{&state, all.first(static_cast<size_t>(options.prompt)), 1};
      status = model.forward({&prompt, 1}, logits);
    }));
    HADAL_TRY(std::move(status));
    for (int64_t i = 0; i < options.tokens; ++i) {
      result.decode.values.push_back(seconds([&] {
        const model::Sequence next{&state, all.subspan(static_cast<size_t>(options.prompt + i), 1), 1};
        status = model.forward({&next, 1}, logits);
      }));
      HADAL_TRY(std::move(status));
    }
    bar.update(repetition + 1, options.repetitions);
  }
  bar.clear();

  const double flops = prefill_flops(summary, config, options.prompt),
               bytes = static_cast<double>(summary.bytes_per_token);
  const double prompt = static_cast<double>(options.prompt);
  const auto prefill_rate = [&](double s) { return flops / s; };
  const auto decode_rate = [&](double s) { return bytes / s; };
  if (options.json) {
    const auto measured = [](const Samples& samples, double n_tokens, auto rate, const Roof& roof) {
      return json::Object{{"median_ms", samples.median() * 1e3},
                          {"best_ms", samples.best() * 1e3},
                          {"tokens_per_s", n_tokens / samples.median()},
                          {"rate", rate(samples.median())},
                          {"share_of_roof", rate(samples.median()) / roof.median()},
                          {"best_share_of_roof", rate(samples.best()) / roof.best()}};
    };
    const auto both = [](const Roof& roof) { return json::Object{{"median", roof.median()}, {"best", roof.best()}}; };
    fmt::print("{}\n",
               json::dump(json::Object{{"model", options.model},
                                       {"isa", isa->name},
                                       {"threads", pool.size()},
                                       {"roofs", json::Object{{"read_anonymous", both(result.anonymous_read)},
                                                              {"read_mapped", both(result.mapped_read)},
                                                              {"fp32_flops", both(result.fma)},
                                                              {"int8_ops", both(result.int8)}}},
                                       {"prompt_tokens", options.prompt},
                                       {"bytes_per_token", summary.bytes_per_token},
                                       {"prefill_flops", flops},
                                       {"prefill", measured(result.prefill, prompt, prefill_rate, result.fma)},
                                       {"decode", measured(result.decode, 1, decode_rate, result.mapped_read)}}));
    return 0;
  }
  fmt::print("{}: {} layers, {} read per token, {:.0f} GFLOP per prompt\n{}, {} threads\n\n", options.model,
             config.n_layers, checkpoint::human_bytes(summary.bytes_per_token), flops * 1e-9, isa->name, pool.size());
  const auto roof = [](const char* name, const Roof& value, const char* unit) {
    fmt::print("{:<26}{:>10.1f} {:<9}{:>10.1f} at best\n", name, value.median() * 1e-9, unit, value.best() * 1e-9);
  };
  roof("read, anonymous memory", result.anonymous_read, "GB/s");
  roof("read, mapped weights", result.mapped_read, "GB/s");
  roof("fp32 multiply-add", result.fma, "GFLOP/s");
  roof("int8 multiply-add", result.int8, "GOP/s");
  fmt::print("\n{:<18}{:>12}{:>12}{:>14}{:>20}\n", "", "ms", "tokens/s", "", "share of its roof");
  const auto row = [](const std::string& name, double s, double n_tokens, double rate, const char* unit, double of) {
    fmt::print("{:<18}{:>12.1f}{:>12.2f}{:>8.1f} {:<7}{:>16.1f} %\n", name, s * 1e3, n_tokens / s, rate * 1e-9, unit,
               100 * rate / of);
  };
  const auto rows = [&](const std::string& name, const Samples& samples, double n_tokens, auto rate, const char* unit,
                        const Roof& of) {
    row(name, samples.median(), n_tokens, rate(samples.median()), unit, of.median());
    row("  best", samples.best(), n_tokens, rate(samples.best()), unit, of.best());
  };
  rows(fmt::format("prefill {}", options.prompt), result.prefill, prompt, prefill_rate, "GFLOP/s", result.fma);
  rows("decode", result.decode, 1, decode_rate, "GB/s", result.mapped_read);
  return 0;
}

}  // namespace

void add_bench(CLI::App& app, int& exit_status) {
  CLI::App* command = app.add_subcommand("bench", "Measure prefill and decode against this machine's roofs");
  auto options = std::make_shared<BenchOptions>();
  add_model_option(*command, options->model);
  command->add_option("--threads", options->threads, "(default: one per core)")->check(CLI::Range(1, 1024));
  command->add_option("--isa", options->isa, "reference, avx2, avx512 or auto")
      ->check(CLI::IsMember({"reference", "avx2", "avx512", "auto"}))
      ->capture_default_str();
  command->add_option("--prompt", options->prompt, "tokens of the prompt")
      ->check(CLI::Range(1, 65536))
      ->capture_default_str();
  command->add_option("--tokens", options->tokens, "tokens decoded after it")
      ->check(CLI::Range(1, 65536))
      ->capture_default_str();
  command->add_option("--repetitions", options->repetitions, "")->check(CLI::Range(1, 1000))->capture_default_str();
  command->add_flag("--json", options->json, "one JSON object");
  command->add_flag("--cache", options->cache, "the context cache instead");
  command->add_option("--cache-dir", options->cache_dir, "on the disk to measure (the temporary one)")
      ->type_name("DIR");
  command->callback([options, &exit_status] {
    const auto status =
        options->cache
            ? bench_cache({options->model, options->cache_dir, options->threads, options->prompt, options->tokens})
            : bench(*options);
    exit_status = status.ok() ? status.value() : report_failure(status.error());
  });
}

}  // namespace hadal::cli
