#include "engine/engine.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/file.h"
#include "base/json.h"
#include "checkpoint/summary.h"

namespace hadal::engine {
namespace {

constexpr int64_t kPlannedContext = 131072;

Result<GenerationDefaults> read_defaults(const std::string& directory) {
  GenerationDefaults defaults;
  const std::string path = directory + "/generation_config.json";
  if (!file_exists(path)) return defaults;
  const std::string text = HADAL_TRY(read_file(path, 1 << 20));
  const auto parsed = json::parse(text);
  if (!parsed.ok()) return Error{Code::kCorrupt, path + ": " + parsed.error().message};
  const json::Value& root = parsed.value();
  const auto number = [&](const char* key, float& out, double low, double high) -> Status {
    const json::Value* value = root.find(key);
    if (!value) return {};
    const auto found = value->to_double();
    if (!found || !(*found >= low && *found <= high))
      return Error{Code::kCorrupt, fmt::format("{}: {}: expected a number from {} to {}, found {}", path, key, low,
                                               high, json::dump(*value))};
    out = static_cast<float>(*found);
    return {};
  };
  HADAL_TRY(number("temperature", defaults.temperature, 0, 100));
  HADAL_TRY(number("top_p", defaults.top_p, 0, 1));
  if (const auto* value = root.find("eos_token_id")) {
    defaults.eos.clear();
    const json::Array ids = value->is_array() ? value->as_array() : json::Array{*value};
    for (const json::Value& id : ids) {
      if (!id.to_int64())
        return Error{Code::kCorrupt, path + ": eos_token_id: expected token ids, found " + json::dump(*value)};
      defaults.eos.push_back(static_cast<TokenId>(*id.to_int64()));
    }
  }
  if (const auto* value = root.find("hadal_untrained")) defaults.untrained = value->is_bool() && value->as_bool();
  return defaults;
}

}  // namespace

Result<std::unique_ptr<Engine>> Engine::open(const EngineOptions& options, const OpenProgress& progress) {
  const kernels::Isa* isa = kernels::find_isa(options.isa);
  if (!isa)
    return Error{Code::kUnsupported, fmt::format("instruction set {}: not one that this machine runs", options.isa)};
  std::unique_ptr<Engine> engine(new Engine);
  engine->isa_ = isa;
  engine->checkpoint_ = HADAL_TRY(checkpoint::Checkpoint::open(options.model));
  engine->defaults_ = HADAL_TRY(read_defaults(options.model));
  const auto& config = engine->config();

  const int64_t context =
      options.context > 0 ? options.context : std::min(kPlannedContext, config.max_position_embeddings);
  const kv::Layout layout = kv::Layout::from(config, engine->checkpoint_.draft(), options.numerics);
  const int64_t available = checkpoint::available_memory();
  const auto plan = checkpoint::make_plan(checkpoint::summarise(engine->checkpoint_),
                                          layout.entry_bytes_at(context) + layout.constant_bytes(), available);
  if (plan.verdict == checkpoint::Plan::Verdict::kRefuse)
    return Error{Code::kBusy, options.model + ": " + plan.sentence};
  if (progress.plan) progress.plan(plan);
  if (options.warm_up)
    checkpoint::warm_up(engine->checkpoint_, available - plan.working_bytes, progress.cancel, progress.warm_up);
  if (progress.cancel && progress.cancel->load()) return Error{Code::kCancelled, "cancelled while loading"};

  engine->pool_ = std::make_unique<ThreadPool>(options.threads > 0 ? options.threads : ThreadPool::default_threads());
  engine->transformer_.emplace(
      HADAL_TRY(model::Transformer::bind(engine->checkpoint_, options.numerics, *isa, *engine->pool_)));
  return engine;
}

}  // namespace hadal::engine
