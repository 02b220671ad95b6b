#include "engine/session.h"

#include <algorithm>

namespace hadal::engine {
namespace {

constexpr size_t kMaxHeld = 4;

}  // namespace

// The held state with the longest ids that are a true prefix of the prompt (at least one token must
// be computed, for its logits), forked. Held states that contradict the prompt stay: the user may
// go back.
std::optional<Context> Session::longest_prefix(std::span<const TokenId> prompt) const {
  const Context* best = nullptr;
  for (const Context& held : held_) {
    if (held.ids.size() >= prompt.size()) continue;
    if (!std::equal(held.ids.begin(), held.ids.end(), prompt.begin())) continue;
    if (!best || held.ids.size() > best->ids.size()) best = &held;
  }
  if (!best) return std::nullopt;
  return Context{best->state.fork(), best->ids};
}

void Session::keep(Context context) {
  if (held_.size() >= kMaxHeld) held_.erase(held_.begin());
  held_.push_back(std::move(context));
}

Result<Completion> Session::generate(std::span<const TokenId> prompt, const GenerateOptions& options) {
  HADAL_TRY(engine_.checkpoint().unchanged());
  stop_.store(false);
  Batch batch(engine_, std::max<int64_t>(1, options.chunk));
  const int id = HADAL_TRY(batch.add({.prompt = {prompt.begin(), prompt.end()},
                                      .start = longest_prefix(prompt),
                                      .sampling = options.sampling,
                                      .max_tokens = options.max_tokens,
                                      .snapshot_at = options.snapshot_at}));
  std::vector<Event> events;
  while (!batch.empty()) {
    if (stop_.load()) batch.stop(id, Finish::kCancelled);
    HADAL_TRY(batch.step(events));
    for (const Event& event : events) {
      if (event.kind == Event::Kind::kRead && options.prefill)
        options.prefill(event.prompt_done, static_cast<int64_t>(prompt.size()));
      if (event.kind == Event::Kind::kToken && options.token && !options.token(event.choice))
        batch.stop(id, Finish::kStop);
      if (event.kind == Event::Kind::kDone && !event.error.ok()) return event.error.error();
    }
  }
  Finished finished = batch.take(id);
  if (finished.snapshot) keep(std::move(*finished.snapshot));
  keep(std::move(finished.context));
  return std::move(finished.completion);
}

}  // namespace hadal::engine
