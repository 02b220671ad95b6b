// hadal inspect: what a checkpoint or a config is, without loading a weight.

#include <fmt/format.h>
#include <openssl/evp.h>

#include <CLI/CLI.hpp>
#include <array>
#include <memory>

#include "base/json.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/plan.h"
#include "checkpoint/summary.h"
#include "cli/commands.h"
#include "cli/terminal.h"
#include "kv/sequence_state.h"

namespace hadal::cli {
namespace {

using checkpoint::Checkpoint;
using checkpoint::Draft;
using checkpoint::Group;
using checkpoint::human_bytes;
using checkpoint::LayerKind;
using checkpoint::ModelConfig;
using checkpoint::Summary;

constexpr int64_t kContexts[] = {4096, 131072, 1048576};

std::string grouped(int64_t n) {  // 1,234,567
  std::string digits = std::to_string(n);
  for (int64_t i = static_cast<int64_t>(digits.size()) - 3; i > 0; i -= 3) digits.insert(static_cast<size_t>(i), ",");
  return digits;
}

struct Shard {
  std::string name, digest;
  int64_t bytes = 0;
};

struct Report {
  std::string path;
  ModelConfig config;
  Summary summary;
  kv::Layout layout;
  std::string source;        // what the figures come from
  std::string incomplete;    // a partial download, in words
  std::string disagreement;  // between config and tensors, in words; the tensors count
  std::vector<Shard> shards;
  std::string fingerprint;

  // Bytes of entries per token in the long run: exact multiples of 1/4 and 1/128.
  double kv_bytes_per_token() const {
    double bytes = 0;
    for (const int ratio : layout.ratios)
      if (ratio)
        bytes += static_cast<double>(layout.kv_row_bytes() + (ratio == 4 ? layout.index_row_bytes() : 0)) / ratio;
    return bytes;
  }
  int64_t window_bytes() const {
    return static_cast<int64_t>(layout.ratios.size()) * layout.window * layout.kv_row_bytes();
  }
};

const char* draft_name(Draft draft) {
  return draft == Draft::kMtp ? "MTP" : draft == Draft::kDspark ? "DSpark" : "none";
}

std::string layers_of(const ModelConfig& config, LayerKind kind) {  // "2, 4, 6" as ranges
  std::vector<int> layers;
  for (int l = 0; l < config.n_layers; ++l)
    if (config.kind(l) == kind) layers.push_back(l);
  std::string text;
  for (size_t i = 0; i < layers.size();) {
    // A run of equal steps of one or two.
    size_t end = i + 1;
    const int step = end < layers.size() ? layers[end] - layers[i] : 0;
    while (step > 0 && step <= 2 && end < layers.size() && layers[end] - layers[end - 1] == step) ++end;
    if (!text.empty()) text += ", ";
    if (end - i >= 3) {
      text += fmt::format("{}{}..{}", step == 2 ? (layers[i] % 2 ? "odd " : "even ") : "", layers[i], layers[end - 1]);
    } else {
      end = i + 1;
      text += std::to_string(layers[i]);
    }
    i = end;
  }
  return text;
}

int count(const ModelConfig& config, LayerKind kind) {
  int n = 0;
  for (int l = 0; l < config.n_layers; ++l) n += config.kind(l) == kind;
  return n;
}

// Lines of at most `width` characters, broken at spaces; all but the first indented.
std::string wrapped(const std::string& text, size_t width, size_t indent) {
  std::string out;
  size_t line = 0;
  for (size_t begin = 0; begin < text.size();) {
    const size_t space = std::min(text.find(' ', begin), text.size());
    const size_t n = space - begin;
    if (line > 0 && line + 1 + n > width) {
      out += "\n" + std::string(indent, ' ');
      line = 0;
    }
    if (line > 0) out += ' ';
    out.append(text, begin, n);
    line += n + (line > 0);
    begin = space + 1;
  }
  return out;
}

void print_table(const Report& r) {
  const ModelConfig& c = r.config;
  const auto line = [](const std::string& name, const std::string& text) {
    fmt::print("{:<22}{}\n", name, wrapped(text, 80 - 22, 22));
  };
  line("DeepSeek V4", r.path);
  line("figures from", r.source);
  if (!r.summary.assumed.empty()) line("assumed", r.summary.assumed);
  if (!r.disagreement.empty()) line("config disagrees", r.disagreement);
  if (!r.incomplete.empty()) line("download", "not complete: " + r.incomplete);
  fmt::print("\n");
  line("layers", fmt::format("{} of width {}, {} streams", c.n_layers, c.dim, c.hc_mult));
  static constexpr std::pair<LayerKind, const char*> kKinds[] = {
      {LayerKind::kSwa, "window only (SWA)"}, {LayerKind::kCsa, "sparse (CSA)"}, {LayerKind::kHca, "heavy (HCA)"}};
  for (const auto& [kind, name] : kKinds)
    if (count(c, kind)) line(fmt::format("  {}", name), fmt::format("{}: {}", count(c, kind), layers_of(c, kind)));
  line("attention", fmt::format("{} heads x {} ({} rotated), window {}, {} output groups", c.n_heads, c.head_dim,
                                c.rope_head_dim, c.window_size, c.o_groups));
  line("indexer", fmt::format("{} heads x {}, best {} entries", c.index_n_heads, c.index_head_dim, c.index_topk));
  line("experts", fmt::format("{} of {} per token, width {}, 1 shared, {} hash layer{}", c.n_activated_experts,
                              c.n_routed_experts, c.moe_inter_dim, c.n_hash_layers, c.n_hash_layers == 1 ? "" : "s"));
  line("vocabulary", grouped(c.vocab_size));
  line("context", grouped(c.max_position_embeddings) + " tokens");
  line("draft", r.summary.n_draft_blocks ? fmt::format("{} x {}", r.summary.n_draft_blocks, draft_name(r.summary.draft))
                                         : "none");
  fmt::print("\n{:<24}{:>20}{:>18}{:>16}\n", "", "parameters", "bytes on disk", "read per token");
  for (int g = 0; g < checkpoint::kGroupCount; ++g) {
    const auto& figures = r.summary.groups[static_cast<size_t>(g)];
    if (figures.parameters == 0) continue;
    fmt::print("{:<24}{:>20}{:>18}{:>16}\n", checkpoint::group_name(static_cast<Group>(g)), grouped(figures.parameters),
               grouped(figures.bytes), grouped(figures.bytes_per_token));
  }
  fmt::print("{:<24}{:>20}{:>18}{:>16}\n\n", "total (without draft)", grouped(r.summary.parameters),
             grouped(r.summary.total_bytes - r.summary[Group::kDraft].bytes), grouped(r.summary.bytes_per_token));
  const bool is_small = r.summary.parameters < 1'000'000'000;
  const double unit = is_small ? 1e6 : 1e9;
  const char* unit_name = is_small ? "M" : "B";
  line("parameters",
       fmt::format("{:.1f} {} total, {:.2f} {} active per token ({})", static_cast<double>(r.summary.parameters) / unit,
                   unit_name, static_cast<double>(r.summary.active_parameters) / unit, unit_name,
                   grouped(r.summary.active_parameters)));
  line("checkpoint", fmt::format("{} bytes ({}) in {} tensors", grouped(r.summary.total_bytes),
                                 human_bytes(r.summary.total_bytes), grouped(r.summary.n_tensors)));
  line("one routed expert", grouped(r.summary.expert_bytes) + " bytes");
  fmt::print("\n");
  line("KV per token", fmt::format("{} bytes", r.kv_bytes_per_token()));
  for (const int64_t context : kContexts)
    line(fmt::format("  at {}", grouped(context)),
         fmt::format("{} bytes ({})", grouped(r.layout.entry_bytes_at(context)),
                     human_bytes(r.layout.entry_bytes_at(context))));
  line("per conversation", fmt::format("+ {} of windows and open blocks", human_bytes(r.layout.constant_bytes())));
  line("memory needed",
       fmt::format("{} with one conversation of 128K tokens",
                   human_bytes(r.summary.total_bytes + r.layout.entry_bytes_at(131072) + r.layout.constant_bytes())));
  if (!r.shards.empty()) {
    fmt::print("\nSHA-256\n");
    for (const Shard& shard : r.shards) fmt::print("{}  {}\n", shard.digest, shard.name);
    fmt::print("{}  fingerprint of the model\n", r.fingerprint);
  }
}

void print_json(const Report& r) {
  const ModelConfig& c = r.config;
  json::Object groups, kv_at;
  for (int g = 0; g < checkpoint::kGroupCount; ++g) {
    const auto& figures = r.summary.groups[static_cast<size_t>(g)];
    groups.emplace_back(checkpoint::group_name(static_cast<Group>(g)),
                        json::Object{{"parameters", figures.parameters},
                                     {"bytes", figures.bytes},
                                     {"bytes_per_token", figures.bytes_per_token}});
  }
  for (const int64_t context : kContexts) kv_at.emplace_back(std::to_string(context), r.layout.entry_bytes_at(context));
  json::Object out{
      {"path", r.path},
      {"source", r.source},
      {"complete", r.incomplete.empty()},
      {"incomplete", r.incomplete.empty() ? json::Value() : json::Value(r.incomplete)},
      {"layers", json::Object{{"total", c.n_layers},
                              {"swa", count(c, LayerKind::kSwa)},
                              {"csa", count(c, LayerKind::kCsa)},
                              {"hca", count(c, LayerKind::kHca)}}},
      {"draft", json::Object{{"kind", draft_name(r.summary.draft)},
                             {"blocks", r.summary.n_draft_blocks},
                             {"parameters", r.summary.draft_parameters}}},
      {"parameters", r.summary.parameters},
      {"active_parameters", r.summary.active_parameters},
      {"tensors", r.summary.n_tensors},
      {"bytes", r.summary.total_bytes},
      {"bytes_per_token", r.summary.bytes_per_token},
      {"expert_bytes", r.summary.expert_bytes},
      {"assumed_fp4_experts", r.summary.assumed_fp4},
      {"assumed", r.summary.assumed.empty() ? json::Value() : json::Value(r.summary.assumed)},
      {"disagreement", r.disagreement.empty() ? json::Value() : json::Value(r.disagreement)},
      {"groups", std::move(groups)},
      {"kv_bytes_per_token", r.kv_bytes_per_token()},
      {"kv_bytes_at", std::move(kv_at)},
      {"kv_window_bytes", r.window_bytes()},
      {"kv_constant_bytes", r.layout.constant_bytes()},
      {"memory_bytes_at_131072", r.summary.total_bytes + r.layout.entry_bytes_at(131072) + r.layout.constant_bytes()}};
  if (!r.shards.empty()) {
    json::Array shards;
    for (const Shard& shard : r.shards)
      shards.push_back(json::Object{{"file", shard.name}, {"bytes", shard.bytes}, {"sha256", shard.digest}});
    out.emplace_back("shards", std::move(shards));
    out.emplace_back("fingerprint", r.fingerprint);
  }
  fmt::print("{}\n", json::dump(json::Value(std::move(out))));
}

std::string sha256_hex(const std::string& text) {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned size = 0;
  EVP_Digest(text.data(), text.size(), digest, &size, EVP_sha256(), nullptr);
  std::string hex;
  for (unsigned i = 0; i < size; ++i) hex += fmt::format("{:02x}", digest[i]);
  return hex;
}

// The fingerprint: SHA-256 over "name digest\n" of the shards in the order of their names, and of config.json.
Status add_digests(const Checkpoint& checkpoint, Report& report) {
  std::string all;
  for (const FileMap& shard : checkpoint.shards()) {
    const std::string name = shard.path().substr(shard.path().rfind('/') + 1);
    const int64_t size = static_cast<int64_t>(shard.bytes().size());
    ProgressBar bar(name.size() > 16 ? name.substr(0, 16) : name);
    const std::string digest = HADAL_TRY(
        checkpoint::sha256_of_file(shard, [&](uint64_t done) { bar.update(static_cast<int64_t>(done), size); }));
    report.shards.push_back({name, digest, size});
    all += name + " " + digest + "\n";
  }
  const std::string config = HADAL_TRY(read_file(checkpoint.directory() + "/config.json"));
  all += "config.json " + sha256_hex(config) + "\n";
  report.fingerprint = sha256_hex(all);
  return {};
}

// What the config says and the tensors do not bear out.
std::string disagreement(const ModelConfig& config, const Checkpoint& checkpoint) {
  const auto* expert = checkpoint.find("layers.0.ffn.experts.0.w1.weight");
  const std::string found = expert->dtype == Dtype::kI8       ? "fp4"
                            : expert->dtype == Dtype::kF8e4m3 ? "fp8"
                            : expert->dtype == Dtype::kBf16   ? "bf16"
                                                              : "f32";
  std::string text;
  if (!config.expert_dtype.empty() && config.expert_dtype != found)
    text = fmt::format("expert_dtype {}, but the experts are {}", config.expert_dtype, found);
  const Draft said = config.dspark_markov_rank > 0 ? Draft::kDspark
                     : config.n_mtp_layers > 0     ? Draft::kMtp
                                                   : Draft::kNone;
  if (said != checkpoint.draft() || (said == Draft::kMtp && config.n_mtp_layers != checkpoint.n_draft_blocks()))
    text += fmt::format("{}draft {}, but the tensors hold {}", text.empty() ? "" : "; ",
                        said == Draft::kMtp ? fmt::format("{} x MTP", config.n_mtp_layers) : draft_name(said),
                        checkpoint.n_draft_blocks()
                            ? fmt::format("{} x {}", checkpoint.n_draft_blocks(), draft_name(checkpoint.draft()))
                            : "none");
  return text;
}

Result<Report> inspect(const std::string& path, bool digests) {
  Report report;
  report.path = path;
  report.config = HADAL_TRY(checkpoint::read_config(path));
  report.source = "the config alone, without tensors";
  report.summary = checkpoint::summarise(report.config);
  if (is_directory(path)) {
    const auto files = checkpoint::list_files(path);
    if (files.ok() && files.value().missing.empty()) {
      const auto checkpoint = HADAL_TRY(Checkpoint::open(path, report.config, files.value()));
      report.disagreement = disagreement(report.config, checkpoint);
      report.config = checkpoint.config();
      report.summary = checkpoint::summarise(checkpoint);
      report.source = fmt::format("the headers of {} shard{}, all checked", checkpoint.shards().size(),
                                  checkpoint.shards().size() == 1 ? "" : "s");
      if (digests) HADAL_TRY(add_digests(checkpoint, report));
    } else if (files.ok()) {
      report.incomplete = files.value().incomplete();
    } else if (files.error().code == Code::kNotFound) {
      report.incomplete = files.error().message.substr(path.size() + 2);  // without the path, shown above
    } else {
      return files.error();
    }
  }
  if (digests && report.shards.empty())
    return Error{Code::kNotFound, path + ": --sha256: expected a complete checkpoint directory" +
                                      (report.incomplete.empty() ? "" : ", found " + report.incomplete)};
  report.layout = kv::Layout::from(report.config, report.summary.draft, Numerics::kFaithful);
  return report;
}

}  // namespace

void add_inspect(CLI::App& app, int& exit_status) {
  CLI::App* command = app.add_subcommand("inspect", "Describe a checkpoint or a config: layers, bytes, memory");
  struct Options {
    std::string path;
    bool json = false, digests = false;
  };
  auto options = std::make_shared<Options>();
  command->add_option("PATH", options->path, "checkpoint directory or config.json")->required();
  command->add_flag("--json", options->json, "one JSON object");
  command->add_flag("--sha256", options->digests,
                    "digests of the shards, and a fingerprint of the model: of shard names, digests and config.json");
  command->callback([options, &exit_status] {
    const auto report = inspect(options->path, options->digests);
    if (!report.ok()) {
      exit_status = report_failure(report.error());
      return;
    }
    options->json ? print_json(report.value()) : print_table(report.value());
  });
}

}  // namespace hadal::cli
