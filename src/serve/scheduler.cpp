#include "serve/scheduler.h"

#include <algorithm>

namespace hadal::serve {

Scheduler::Ticket Scheduler::submit(Submission submission, double now) {
  const std::lock_guard lock(mutex_);
  if (draining_) return {Refusal::kDraining, 0};
  int& of_key = per_key_[submission.key];
  const int most = submission.max_per_key > 0 ? submission.max_per_key : limits_.max_per_key;
  if (most > 0 && of_key >= most) return {Refusal::kKeyLimit, 0};
  if (n_waiting_ >= limits_.max_waiting) return {Refusal::kQueueFull, 0};
  ++of_key;
  ++n_waiting_;
  const uint64_t id = next_id_++;
  inbox_.push_back(std::make_shared<Job>(Job{id, std::move(submission), now, -1, false}));
  return {std::nullopt, id};
}

void Scheduler::cancel(uint64_t id) {
  const std::lock_guard lock(mutex_);
  cancels_.push_back(id);
}

void Scheduler::drain(bool cut) {
  const std::lock_guard lock(mutex_);
  draining_ = true;
  cut_ = cut_ || cut;
}

void Scheduler::take_inbox() {
  std::vector<JobPtr> arrived;
  std::vector<uint64_t> cancels;
  bool cut = false;
  {
    const std::lock_guard lock(mutex_);
    arrived.swap(inbox_);
    cancels.swap(cancels_);
    cut = cut_;
  }
  for (JobPtr& job : arrived) {
    ++counters_.submitted;
    const std::string owner = owner_of(job->submission);
    Queue& queue = waiting_[owner];
    if (queue.empty()) turns_.push_back(owner);
    queue.push_back(std::move(job));
  }
  const auto cancelled = [&](uint64_t id) { return std::find(cancels.begin(), cancels.end(), id) != cancels.end(); };
  std::vector<JobPtr> gone;
  for (const auto& [owner, queue] : waiting_)
    for (const JobPtr& job : queue)
      if (cut || cancelled(job->id)) gone.push_back(job);
  const Error error = cut ? Error{Code::kBusy, "the server is shutting down"} : Error{Code::kCancelled, "cancelled"};
  for (const JobPtr& job : gone) {
    forget_waiting(job);
    if (job->batch_id >= 0) {  // suspended: the batch still has it
      batch_.stop(job->batch_id, engine::Finish::kCancelled);
      job->cancelled = true;
      running_[job->batch_id] = job;
    } else {
      finish(job, error, {});
    }
  }
  for (const auto& [id, job] : running_) {
    if (!cut && !cancelled(job->id)) continue;
    batch_.stop(id, engine::Finish::kCancelled);
    job->cancelled = true;
  }
}

void Scheduler::expire(double now) {
  std::vector<JobPtr> late;
  for (const auto& [owner, queue] : waiting_)
    for (const JobPtr& job : queue)
      if (job->batch_id < 0 && now - job->since > limits_.max_wait_s) late.push_back(job);
  for (const JobPtr& job : late) {
    forget_waiting(job);
    ++counters_.expired;
    finish(job, Error{Code::kBusy, "waited too long for a place"}, {});
  }
}

int64_t Scheduler::needed_bytes(int64_t n_tokens) const {
  // Entries grow by pages, of 64 rows or 256 tokens; one page more, so that who comes back does not leave at once.
  constexpr int64_t kPageTokens = 4 * kv::PagedRows::kPageRows;
  const kv::Layout& layout = *layout_;
  return layout.constant_bytes() + layout.entry_bytes_at((n_tokens / kPageTokens + 2) * kPageTokens);
}

int64_t Scheduler::running_bytes() const {
  int64_t bytes = 0;
  for (const auto& [id, job] : running_) bytes += batch_.state_bytes(id);
  return bytes;
}

// The longest resting state that the ids go on from. It stays for others, moved to the safe end of the list.
std::optional<engine::Context> Scheduler::resume_from(const std::string& owner, std::span<const TokenId> ids) {
  auto best = resting_.end();
  for (auto it = resting_.begin(); it != resting_.end(); ++it) {
    const std::vector<TokenId>& held = it->context.ids;
    if (it->owner != owner || held.size() >= ids.size() || !std::equal(held.begin(), held.end(), ids.begin())) continue;
    if (best == resting_.end() || held.size() > best->context.ids.size()) best = it;
  }
  if (best == resting_.end()) return std::nullopt;
  resting_.splice(resting_.end(), resting_, best);
  return engine::Context{best->context.state.fork(), best->context.ids};
}

bool Scheduler::start(const JobPtr& job) {
  Submission& submission = job->submission;
  const bool again = job->batch_id >= 0;
  const auto n_tokens =
      static_cast<int64_t>(again ? batch_.ids(job->batch_id).size() : submission.request.prompt.size());
  // Resting states make way; running ones only for what could not fit beside nothing.
  const int64_t running = running_bytes(), needed = needed_bytes(n_tokens + 1);
  if (!running_.empty() && running + needed > limits_.kv_bytes) return false;
  const std::string owner = owner_of(submission);
  if (again) {
    batch_.resume(job->batch_id, resume_from(owner, batch_.ids(job->batch_id)));
    ++counters_.resumed;
    running_[job->batch_id] = job;
    return true;
  }
  submission.request.start = resume_from(owner, submission.request.prompt);
  const int64_t reused = submission.request.start ? submission.request.start->state.length() : 0;
  const auto id = batch_.add(std::move(submission.request));
  if (!id.ok()) {
    finish(job, id.error(), {});
    return true;
  }
  job->batch_id = id.value();
  counters_.prompt_tokens += n_tokens;
  counters_.reused_tokens += reused;
  running_[id.value()] = job;
  submission.sink->started(reused);
  return true;
}

// Users in turn: one of each, as long as there is room. Whoever is next and finds none waits, and all behind him: who
// needs much would else never come.
void Scheduler::admit() {
  while (static_cast<int>(running_.size()) < limits_.max_running && !turns_.empty()) {
    const std::string owner = turns_.front();
    turns_.pop_front();
    Queue& queue = waiting_.at(owner);
    const JobPtr job = queue.front();
    if (!start(job)) {
      turns_.push_front(owner);
      return;
    }
    queue.pop_front();
    {
      const std::lock_guard lock(mutex_);
      --n_waiting_;
    }
    if (queue.empty()) {
      waiting_.erase(owner);
    } else {
      turns_.push_back(owner);
    }
  }
}

void Scheduler::make_room() {
  while (!resting_.empty() && running_bytes() + counters_.resting_bytes > limits_.kv_bytes) {
    counters_.resting_bytes -= resting_.front().bytes;
    resting_.pop_front();
    ++counters_.evicted;
  }
  while (running_.size() > 1 && running_bytes() > limits_.kv_bytes) {
    // The latest: what has waited longest keeps its place, so that someone always comes to an end.
    auto latest = running_.end();
    for (auto it = running_.begin(); it != running_.end(); ++it)
      if (!it->second->cancelled && !it->second->ending &&
          (latest == running_.end() || it->second->id > latest->second->id))
        latest = it;
    if (latest == running_.end()) return;
    const JobPtr job = latest->second;
    running_.erase(latest);
    batch_.suspend(job->batch_id);
    ++counters_.suspended;
    const std::string owner = owner_of(job->submission);
    Queue& queue = waiting_[owner];
    if (queue.empty()) turns_.push_front(owner);
    queue.push_front(job);
    const std::lock_guard lock(mutex_);
    ++n_waiting_;
  }
}

void Scheduler::forget_waiting(const JobPtr& job) {
  const std::string owner = owner_of(job->submission);
  Queue& queue = waiting_.at(owner);
  queue.erase(std::find(queue.begin(), queue.end(), job));
  if (queue.empty()) {
    waiting_.erase(owner);
    turns_.erase(std::find(turns_.begin(), turns_.end(), owner));
  }
  const std::lock_guard lock(mutex_);
  --n_waiting_;
}

void Scheduler::finish(const JobPtr& job, const Status& status, engine::Completion completion) {
  {
    const std::lock_guard lock(mutex_);
    const auto of_key = per_key_.find(job->submission.key);
    if (--of_key->second == 0) per_key_.erase(of_key);
  }
  if (status.ok()) {
    ++counters_.finished;
  } else if (status.error().code == Code::kCancelled) {
    ++counters_.cancelled;
  } else if (status.error().code != Code::kBusy) {
    ++counters_.failed;
  }
  job->submission.sink->done(status, std::move(completion));
}

void Scheduler::rest(engine::Context context, const std::string& owner) {
  if (context.ids.empty()) return;
  for (auto it = resting_.begin(); it != resting_.end(); ++it)
    if (it->owner == owner && it->context.ids == context.ids) {
      counters_.resting_bytes -= it->bytes;
      resting_.erase(it);
      break;
    }
  const int64_t bytes = context.state.capacity_bytes();
  counters_.resting_bytes += bytes;
  resting_.push_back({std::move(context), owner, bytes});
}

bool Scheduler::step(double now) {
  const bool more = pass(now);
  const Counters after = counters();
  const std::lock_guard lock(mutex_);
  seen_ = after;
  return more;
}

bool Scheduler::pass(double now) {
  take_inbox();
  expire(now);
  admit();
  if (batch_.empty()) return !waiting_.empty();
  const Status stepped = batch_.step(events_);
  ++counters_.steps;
  if (!stepped.ok()) {  // the whole step failed: nothing has moved, nothing would
    for (const auto& [id, job] : running_) batch_.stop(id, engine::Finish::kCancelled);
    const auto failed = std::exchange(running_, {});
    HADAL_CHECK(batch_.step(events_).ok());
    for (const auto& [id, job] : failed) finish(job, stepped.error(), batch_.take(id).completion);
    return true;
  }
  for (const engine::Event& event : events_) {
    const auto it = running_.find(event.id);
    HADAL_CHECK(it != running_.end());
    const JobPtr job = it->second;
    if (event.kind == engine::Event::Kind::kRead) {
      job->submission.sink->read(event.prompt_done);
    } else if (event.kind == engine::Event::Kind::kToken) {
      ++counters_.tokens;
      if (!job->cancelled && !job->ending && !job->submission.sink->token(event.choice)) {
        batch_.stop(event.id, engine::Finish::kStop);
        job->ending = true;
      }
    } else {
      running_.erase(it);
      engine::Finished finished = batch_.take(event.id);
      const std::string owner = owner_of(job->submission);
      if (event.error.ok()) {
        if (finished.snapshot) rest(std::move(*finished.snapshot), owner);
        rest(std::move(finished.context), owner);
      }
      bool cut = false;
      {
        const std::lock_guard lock(mutex_);
        cut = cut_;
      }
      Status status;
      if (!event.error.ok()) {
        status = event.error;
      } else if (event.finish == engine::Finish::kCancelled) {
        status = cut ? Error{Code::kBusy, "the server is shutting down"} : Error{Code::kCancelled, "cancelled"};
      }
      finish(job, status, std::move(finished.completion));
    }
  }
  make_room();
  return true;
}

Counters Scheduler::counters() const {
  Counters now = counters_;
  now.running = static_cast<int>(running_.size());
  now.state_bytes = running_bytes();
  const std::lock_guard lock(mutex_);
  now.waiting = n_waiting_;
  return now;
}

Counters Scheduler::seen() const {
  const std::lock_guard lock(mutex_);
  Counters then = seen_;
  then.waiting = n_waiting_;
  return then;
}

}  // namespace hadal::serve
