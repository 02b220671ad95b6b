#include "engine/engine.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "base/file.h"
#include "base/json.h"
#include "checkpoint/summary.h"

namespace hadal::engine {
namespace {

constexpr int64_t kPlannedContext = 131072;
constexpr size_t kMaxHeld = 4;

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

Result<GenerationDefaults> read_defaults(const std::string& directory) {
  GenerationDefaults defaults;
  const std::string path = directory + "/generation_config.json";
  if (!file_exists(path)) return defaults;
  const std::string text = HADAL_TRY(read_file(path, 1 << 20));
  const auto parsed = json::parse(text);
  if (!parsed.ok()) return Error{Code::kCorrupt, path + ": " + parsed.error().message};
  const json::Value& root = parsed.value();
  if (const auto* value = root.find("temperature")) defaults.temperature = static_cast<float>(value->to_double().value_or(1));
  if (const auto* value = root.find("top_p")) defaults.top_p = static_cast<float>(value->to_double().value_or(1));
  if (const auto* value = root.find("eos_token_id")) {
    defaults.eos.clear();
    const json::Array ids = value->is_array() ? value->as_array() : json::Array{*value};
    for (const json::Value& id : ids) {
      if (!id.to_int64()) return Error{Code::kCorrupt, path + ": eos_token_id: expected token ids, found " + json::dump(*value)};
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

  const int64_t context = options.context > 0 ? options.context : std::min(kPlannedContext, config.max_position_embeddings);
  const kv::Layout layout = kv::Layout::from(config, engine->checkpoint_.draft(), options.numerics);
  const int64_t available = checkpoint::available_memory();
  const auto plan = checkpoint::make_plan(checkpoint::summarise(engine->checkpoint_),
                                          layout.entry_bytes_at(context) + layout.constant_bytes(), available);
  if (plan.verdict == checkpoint::Plan::Verdict::kRefuse) return Error{Code::kBusy, options.model + ": " + plan.sentence};
  if (progress.plan) progress.plan(plan);
  if (options.warm_up)
    checkpoint::warm_up(engine->checkpoint_, available - plan.working_bytes, progress.cancel, progress.warm_up);
  if (progress.cancel && progress.cancel->load()) return Error{Code::kCancelled, "cancelled while loading"};

  engine->pool_ = std::make_unique<ThreadPool>(options.threads > 0 ? options.threads : ThreadPool::default_threads());
  engine->transformer_.emplace(
      HADAL_TRY(model::Transformer::bind(engine->checkpoint_, options.numerics, *isa, *engine->pool_)));
  return engine;
}

void Session::forget() { held_.clear(); }

// The held state with the longest ids that are a true prefix of the prompt (at least one token must be computed,
// for its logits); a new one if there is none. Held states that contradict the prompt stay: the user may go back.
Result<Session::Held> Session::longest_prefix(std::span<const TokenId> prompt) {
  const Held* best = nullptr;
  for (const Held& held : held_) {
    if (held.ids.size() >= prompt.size()) continue;
    if (!std::equal(held.ids.begin(), held.ids.end(), prompt.begin())) continue;
    if (!best || held.ids.size() > best->ids.size()) best = &held;
  }
  if (best) return Held{best->state.fork(), best->ids};
  return Held{engine_.transformer().new_sequence(), {}};
}

Status Session::prefill(Held& held, std::span<const TokenId> prompt, const GenerateOptions& options,
                        std::vector<float>& logits, bool& cancelled) {
  const int64_t end = static_cast<int64_t>(prompt.size());
  const int64_t chunk = std::max<int64_t>(1, options.chunk);
  while (held.state.length() < end) {
    if (stop_.load()) {
      cancelled = true;
      return {};
    }
    const int64_t begin = held.state.length();
    int64_t n = std::min(chunk, end - begin);
    if (begin < options.snapshot_at) n = std::min(n, options.snapshot_at - begin);
    const model::Sequence sequence{&held.state, prompt.subspan(static_cast<size_t>(begin), static_cast<size_t>(n)),
                                   begin + n == end ? 1 : 0};
    HADAL_TRY(engine_.transformer().forward({&sequence, 1}, logits));
    held.ids.assign(prompt.begin(), prompt.begin() + held.state.length());
    if (held.state.length() == options.snapshot_at) {
      if (held_.size() >= kMaxHeld) held_.erase(held_.begin());
      held_.push_back({held.state.fork(), held.ids});
    }
    if (options.prefill) options.prefill(held.state.length(), end);
  }
  return {};
}

Result<Completion> Session::generate(std::span<const TokenId> prompt, const GenerateOptions& options) {
  const auto& config = engine_.config();
  if (prompt.empty()) return Error{Code::kInvalid, "prompt: expected at least one token, found none"};
  const int64_t room = config.max_position_embeddings - static_cast<int64_t>(prompt.size());
  if (room <= 0)
    return Error{Code::kInvalid, fmt::format("prompt: expected fewer than {} tokens (max_position_embeddings), found {}",
                                             config.max_position_embeddings, prompt.size())};
  HADAL_TRY(sample::check(options.sampling));
  HADAL_TRY(engine_.checkpoint().unchanged());
  stop_.store(false);
  const int64_t max_tokens = options.max_tokens < 0 ? room : std::min(options.max_tokens, room);

  Completion completion;
  completion.prompt_tokens = static_cast<int64_t>(prompt.size());
  const auto prefill_start = std::chrono::steady_clock::now();
  Held held = HADAL_TRY(longest_prefix(prompt));
  completion.reused_tokens = held.state.length();
  std::vector<float> logits;
  bool cancelled = false;
  HADAL_TRY(prefill(held, prompt, options, logits, cancelled));
  completion.prefill_s = seconds_since(prefill_start);

  sample::Sampler sampler(options.sampling);
  sampler.see_prompt(prompt);
  const auto decode_start = std::chrono::steady_clock::now();
  completion.finish = Finish::kLength;
  while (!cancelled && static_cast<int64_t>(completion.tokens.size()) < max_tokens) {
    if (stop_.load()) {
      cancelled = true;
      break;
    }
    const sample::Choice choice = HADAL_TRY(sampler.pick(logits, held.state.length()));
    const auto& eos = engine_.defaults().eos;
    if (std::find(eos.begin(), eos.end(), choice.token) != eos.end()) {
      completion.finish = Finish::kStop;
      break;
    }
    completion.tokens.push_back(choice.token);
    if (options.token && !options.token(choice)) {
      completion.finish = Finish::kStop;
      break;
    }
    if (static_cast<int64_t>(completion.tokens.size()) == max_tokens) break;
    const model::Sequence sequence{&held.state, {&choice.token, 1}, 1};
    HADAL_TRY(engine_.transformer().forward({&sequence, 1}, logits));
    held.ids.push_back(choice.token);
  }
  if (cancelled) completion.finish = Finish::kCancelled;
  completion.decode_s = seconds_since(decode_start);
  if (held_.size() >= kMaxHeld) held_.erase(held_.begin());
  held_.push_back(std::move(held));
  return completion;
}

}  // namespace hadal::engine
