#include "engine/batch.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>

namespace hadal::engine {
namespace {

constexpr int64_t kLeastShare = 16;  // rows of a prompt in a step: fewer would read the weights for little

}  // namespace

Result<int> Batch::add(Request request) {
  const int64_t n = static_cast<int64_t>(request.prompt.size());
  if (n == 0) return Error{Code::kInvalid, "prompt: expected at least one token, found none"};
  for (const TokenId id : request.prompt)
    if (id < 0 || id >= decoder_.vocab_size())
      return Error{Code::kInvalid,
                   fmt::format("prompt: expected token ids 0 to {}, found {}", decoder_.vocab_size() - 1, id)};
  const int64_t room = decoder_.max_tokens() - n;
  if (room <= 0)
    return Error{Code::kInvalid,
                 fmt::format("prompt: expected fewer than {} tokens (max_position_embeddings), found {}",
                             decoder_.max_tokens(), n)};
  HADAL_TRY(sample::check(request.sampling));

  Context context = request.start ? std::move(*request.start) : Context{decoder_.new_sequence(), {}};
  request.start.reset();
  const int64_t reused = context.state.length();
  if (reused >= n || static_cast<int64_t>(context.ids.size()) != reused ||
      !std::equal(context.ids.begin(), context.ids.end(), request.prompt.begin()))
    return Error{Code::kInvalid,
                 fmt::format("start: expected a true prefix of the {} prompt tokens, found {} others", n, reused)};

  Running running{.request = std::move(request),
                  .ids = {},
                  .context = std::move(context),
                  .sampler = sample::Sampler({}),
                  .completion = {},
                  .max_tokens = 0,
                  .read_to = 0,
                  .suspended = false,
                  .ended = {},
                  .error = {}};
  running.sampler = sample::Sampler(running.request.sampling);
  running.ids = running.request.prompt;
  running.sampler.see_prompt(running.request.prompt);
  running.completion.prompt_tokens = n;
  running.completion.reused_tokens = reused;
  running.max_tokens = running.request.max_tokens < 0 ? room : std::min(running.request.max_tokens, room);
  if (running.max_tokens == 0) running.ended = Finish::kLength;
  running_.emplace(next_id_, std::move(running));
  return next_id_++;
}

void Batch::stop(int id, Finish finish) {
  if (const auto it = running_.find(id); it != running_.end() && !it->second.ended) it->second.ended = finish;
}

void Batch::suspend(int id) {
  Running& running = running_.at(id);
  running.suspended = true;
  running.context = {decoder_.new_sequence(), {}};
}

void Batch::resume(int id, std::optional<Context> start) {
  Running& running = running_.at(id);
  running.suspended = false;
  if (!start) return;
  HADAL_CHECK(start->ids.size() < running.ids.size() &&
              std::equal(start->ids.begin(), start->ids.end(), running.ids.begin()));
  running.context = std::move(*start);
}

int64_t Batch::state_bytes(int id) const { return running_.at(id).context.state.capacity_bytes(); }

const Context& Batch::context(int id) const {
  const auto it = running_.find(id);
  return it != running_.end() ? it->second.context : finished_.at(id).context;
}

Status Batch::step(std::vector<Event>& events) {
  events.clear();
  std::vector<model::Sequence> sequences;
  std::vector<int> ids;
  const auto unread = [](const Running& running) {
    return static_cast<int64_t>(running.ids.size()) - running.context.state.length();
  };
  const auto plan = [&](int id, Running& running, int64_t n) {
    const auto begin = static_cast<size_t>(running.context.state.length());
    sequences.push_back({&running.context.state, std::span(running.ids).subspan(begin, static_cast<size_t>(n)),
                         n == unread(running) ? 1 : 0});
    ids.push_back(id);
  };
  // Running completions first: a long prompt must not hold them up.
  int64_t room = rows_per_step_, n_reading = 0;
  for (auto& [id, running] : running_) {
    if (running.ended || running.suspended) continue;
    if (unread(running) > 1) {
      ++n_reading;
    } else {
      plan(id, running, 1);
      --room;
    }
  }
  // Then prompts: an equal share of the rest each, what short ones leave goes to those that came later.
  for (auto& [id, running] : running_) {
    if (running.ended || running.suspended || unread(running) <= 1) continue;
    if (room <= 0 && !sequences.empty()) break;
    const int64_t share = std::max<int64_t>(kLeastShare, room / n_reading--);
    int64_t n = std::min({unread(running), share, std::max<int64_t>(room, 1)});
    const int64_t begin = running.context.state.length();
    const std::vector<int64_t>& pauses = running.request.pauses;
    if (const auto next = std::upper_bound(pauses.begin(), pauses.end(), begin); next != pauses.end())
      n = std::min(n, *next - begin);
    plan(id, running, n);
    room -= n;
  }

  const auto start = std::chrono::steady_clock::now();
  if (!sequences.empty()) HADAL_TRY(decoder_.forward(sequences, logits_));
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  const size_t vocab = static_cast<size_t>(decoder_.vocab_size());
  size_t row = 0;
  for (size_t i = 0; i < ids.size(); ++i) {
    Running& running = running_.at(ids[i]);
    const int64_t n = static_cast<int64_t>(sequences[i].tokens.size());
    const bool is_prompt = running.context.state.length() <= static_cast<int64_t>(running.request.prompt.size());
    (is_prompt ? running.completion.prefill_s : running.completion.decode_s) += seconds;
    running.context.ids.insert(running.context.ids.end(), sequences[i].tokens.begin(), sequences[i].tokens.end());
    std::span<const float> logits;
    if (sequences[i].n_logits == 1) logits = std::span(logits_).subspan(vocab * row++, vocab);
    after_forward(ids[i], running, is_prompt ? n : 0, logits, events);
  }
  for (auto it = running_.begin(); it != running_.end();) {
    Running& running = it->second;
    if (!running.ended) {
      ++it;
      continue;
    }
    running.completion.finish = *running.ended;
    events.push_back({.id = it->first,
                      .kind = Event::Kind::kDone,
                      .prompt_done = 0,
                      .choice = {},
                      .finish = *running.ended,
                      .error = running.error});
    finished_.emplace(it->first, Finished{std::move(running.completion), std::move(running.context)});
    it = running_.erase(it);
  }
  return {};
}

void Batch::after_forward(int id, Running& running, int64_t n_read, std::span<const float> logits,
                          std::vector<Event>& events) {
  const int64_t length = running.context.state.length();
  if (n_read > 0 && length > running.read_to) {
    running.read_to = length;
    events.push_back(
        {.id = id, .kind = Event::Kind::kRead, .prompt_done = length, .choice = {}, .finish = {}, .error = {}});
  }
  if (logits.empty()) return;
  sample::Constraint* constraint = running.request.constraint.get();
  allowed_.clear();
  if (constraint) {
    allowed_.resize((logits.size() + 63) / 64);
    constraint->mask(allowed_);
  }
  auto choice = running.sampler.pick(logits, length, allowed_);
  if (!choice.ok()) {
    running.error = choice.error();
    running.ended = Finish::kCancelled;
    return;
  }
  const auto& eos = decoder_.end_tokens();
  if (std::find(eos.begin(), eos.end(), choice.value().token) != eos.end()) {
    running.ended = Finish::kStop;
    return;
  }
  if (constraint) constraint->accept(choice.value().token);
  running.completion.tokens.push_back(choice.value().token);
  running.ids.push_back(choice.value().token);
  events.push_back({.id = id,
                    .kind = Event::Kind::kToken,
                    .prompt_done = length,
                    .choice = std::move(choice).value(),
                    .finish = {},
                    .error = {}});
  if (static_cast<int64_t>(running.completion.tokens.size()) == running.max_tokens) running.ended = Finish::kLength;
}

Finished Batch::take(int id) {
  auto node = finished_.extract(id);
  HADAL_CHECK(!node.empty());
  return std::move(node.mapped());
}

}  // namespace hadal::engine
