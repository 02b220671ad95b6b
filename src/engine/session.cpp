#include "engine/session.h"

#include <algorithm>

#include "cache/trail.h"

namespace hadal::engine {
namespace {

constexpr size_t kMostHeld = 4;
constexpr int64_t kSaveEvery = 8192;

}  // namespace

Result<Completion> Session::generate(std::span<const TokenId> prompt, const GenerateOptions& options) {
  HADAL_TRY(engine_.checkpoint().unchanged());
  stop_.store(false);
  cache::Trail trail(resident_, store_, root_, kSaveEvery);
  const std::vector<Digest>& names = trail.names(prompt);
  const auto n_prompt = static_cast<int64_t>(prompt.size());
  std::optional<Context> start;
  if (const cache::Found found = store_ ? store_->find(names, n_prompt - 1) : cache::Found{};
      found.length() > resident_.longest(names, prompt)) {
    if (auto loaded = store_->load(found, prompt); loaded.ok()) start = std::move(loaded).value();
  }
  if (!start) start = resident_.find(names, prompt);
  const std::vector<int64_t> pauses =
      trail.plan(n_prompt, start ? start->state.length() : 0, std::max<int64_t>(0, options.header_at), {});
  Batch batch(engine_, std::max<int64_t>(1, options.chunk));
  const int id = HADAL_TRY(batch.add({.prompt = {prompt.begin(), prompt.end()},
                                      .start = std::move(start),
                                      .sampling = options.sampling,
                                      .max_tokens = options.max_tokens,
                                      .pauses = pauses}));
  std::vector<Event> events;
  while (!batch.empty()) {
    if (stop_.load()) batch.stop(id, Finish::kCancelled);
    HADAL_TRY(batch.step(events));
    if (store_) store_->collect();
    for (const Event& event : events) {
      const bool is_read = event.kind == Event::Kind::kRead, is_token = event.kind == Event::Kind::kToken;
      if (is_read || (is_token && event.prompt_done > n_prompt)) trail.reached(batch.context(id));
      if (is_read && options.prefill) options.prefill(event.prompt_done, n_prompt);
      if (is_token && options.token && !options.token(event.choice)) batch.stop(id, Finish::kStop);
      if (event.kind == Event::Kind::kDone && !event.error.ok()) return event.error.error();
    }
  }
  Finished finished = batch.take(id);
  trail.ended(std::move(finished.context));
  resident_.keep_latest(kMostHeld);
  return std::move(finished.completion);
}

}  // namespace hadal::engine
