#include "serve/scheduler.h"

#include <algorithm>
#include <iterator>
#include <tuple>

namespace hadal::serve {
namespace {

constexpr size_t kMostRecent = 64;
constexpr int64_t kMostRecentIds = int64_t{4} << 20;

}  // namespace

Scheduler::Ticket Scheduler::submit(Submission submission, double now) {
  const std::lock_guard lock(mutex_);
  if (draining_) return {Refusal::kDraining, 0};
  OfKey& of_key = per_key_[submission.key];
  const int most = submission.max_per_key > 0 ? submission.max_per_key : limits_.max_per_key;
  if (most > 0 && of_key.all >= most) return {Refusal::kKeyLimit, 0};
  if (n_waiting_ >= limits_.max_waiting || of_key.waiting >= most_waiting(submission.key))
    return {Refusal::kQueueFull, 0};
  ++of_key.all;
  ++of_key.waiting;
  ++n_waiting_;
  const uint64_t id = next_id_++;
  const std::string space = space_of(submission);
  const Digest root = store_ ? store_->root(space) : cache::root_name(space, {}, *layout_);
  inbox_.push_back(std::make_shared<Job>(
      Job{id, std::move(submission), now, cache::Trail(resident_, store_, root, limits_.save_every)}));
  return {std::nullopt, id};
}

int Scheduler::most_waiting(const std::string& key) const {
  return key.empty() ? limits_.max_waiting : (3 * limits_.max_waiting + 3) / 4;
}

void Scheduler::count_waiting(const JobPtr& job, int change) {
  const std::lock_guard lock(mutex_);
  n_waiting_ += change;
  const auto of_key = per_key_.find(job->submission.key);  // gone: it has ended already
  if (of_key != per_key_.end()) of_key->second.waiting += change;
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

template <class F>
std::vector<Scheduler::JobPtr> Scheduler::waiting_that(F&& f) const {
  std::vector<JobPtr> those;
  for (const auto& [key, line] : waiting_)
    for (const auto& [user, queue] : line.queues)
      std::copy_if(queue.begin(), queue.end(), std::back_inserter(those), [&](const JobPtr& job) { return f(*job); });
  return those;
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
  for (const JobPtr& job : arrived) {
    ++counters_.submitted;
    enqueue(job, End::kBack);
  }
  const auto cancelled = [&](uint64_t id) { return std::find(cancels.begin(), cancels.end(), id) != cancels.end(); };
  for (const JobPtr& job : waiting_that([&](const Job& one) { return cut || cancelled(one.id); })) {
    forget_waiting(job);
    if (job->batch_id >= 0) {  // suspended: the batch still has it
      batch_.stop(job->batch_id, engine::Finish::kCancelled);
      job->cancelled = true;
      running_[job->batch_id] = job;
    } else {
      finish(job, ended_by(), {});
    }
  }
  for (const auto& [id, job] : running_) {
    if (!cut && !cancelled(job->id)) continue;
    batch_.stop(id, engine::Finish::kCancelled);
    job->cancelled = true;
  }
  for (const JobPtr& job : loading_) {
    if (!cut && !cancelled(job->id)) continue;
    job->cancelled = true;  // once its reader has noticed
    job->loading->cancelled.store(true);
  }
}

void Scheduler::expire(double now) {
  const auto is_late = [&](const Job& job) { return job.batch_id < 0 && now - job.since > limits_.max_wait_s; };
  for (const JobPtr& job : waiting_that(is_late)) {
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
  for (const auto& [id, job] : running_) bytes += batch_.state_bytes(id) + job->trail.bytes();
  for (const JobPtr& job : loading_)
    bytes +=
        needed_bytes(job->batch_id >= 0 ? static_cast<int64_t>(batch_.ids(job->batch_id).size()) : job->prompt_tokens);
  return bytes;
}

Error Scheduler::ended_by() const {
  const std::lock_guard lock(mutex_);
  return cut_ ? Error{Code::kBusy, "the server is shutting down"} : Error{Code::kCancelled, "cancelled"};
}

std::string Scheduler::space_of(const Submission& submission) const {
  return limits_.share_cache ? std::string(cache::kSharedSpace) : cache::space_of(submission.key, submission.user);
}

// Where the prompt parts from the most similar earlier one of the same key and user, whatever else is shared: nobody
// learns from it what others have asked. And it is remembered for those to come.
void Scheduler::compare(Job& job) {
  const std::vector<TokenId>& prompt = job.submission.request.prompt;
  const std::string owner = owner_of(job.submission);
  for (const Recent& recent : recent_) {
    if (recent.owner != owner) continue;
    const size_t most = std::min(recent.ids.size(), prompt.size());
    const auto parts = std::mismatch(prompt.begin(), prompt.begin() + static_cast<ptrdiff_t>(most), recent.ids.begin());
    job.reuse.same = std::max<int64_t>(job.reuse.same, parts.first - prompt.begin());
  }
  int64_t ids = static_cast<int64_t>(prompt.size());
  for (const Recent& earlier : recent_) ids += static_cast<int64_t>(earlier.ids.size());
  for (; !recent_.empty() && (recent_.size() >= kMostRecent || ids > kMostRecentIds); recent_.pop_front())
    ids -= static_cast<int64_t>(recent_.front().ids.size());
  recent_.push_back({owner, prompt});
}

// The states that will be kept, of a job that goes on from `found` tokens.
void Scheduler::plan(Job& job, int64_t found) {
  const Submission& submission = job.submission;
  job.submission.request.pauses =
      job.trail.plan(job.prompt_tokens, found, submission.header_at, {submission.system_end, job.reuse.same});
}

bool Scheduler::start(const JobPtr& job) {
  Submission& submission = job->submission;
  const bool again = job->batch_id >= 0;
  const std::vector<TokenId>& ids = again ? batch_.ids(job->batch_id) : submission.request.prompt;
  const auto n_tokens = static_cast<int64_t>(ids.size());
  // Resting states make way; running ones only for what could not fit beside nothing.
  const int64_t running = running_bytes(), needed = needed_bytes(n_tokens + 1);
  if (running_.size() + loading_.size() > 0 && running + needed > limits_.kv_bytes) return false;
  const std::vector<Digest>& names = job->trail.names(ids);
  const int64_t in_memory = resident_.longest(names, ids);
  const cache::Found on_disk = store_ ? store_->find(names, n_tokens - 1) : cache::Found{};
  if (!again) {
    if (const Status same = decoder_.unchanged(); !same.ok()) {
      finish(job, same.error(), {});
      return true;
    }
    job->prompt_tokens = n_tokens;
    compare(*job);
    plan(*job, std::max(in_memory, on_disk.length()));
  }
  if (on_disk.length() > in_memory) {
    job->loading = store_->load_later(on_disk, ids);
    loading_.push_back(job);
    return true;
  }
  job->reuse.from = in_memory > 0 ? Reuse::From::kMemory : Reuse::From::kNothing;
  begin(job, resident_.find(names, ids));
  return true;
}

void Scheduler::begin(const JobPtr& job, std::optional<kv::Context> context) {
  Submission& submission = job->submission;
  const int64_t reused = context ? context->state.length() : 0;
  if (job->batch_id >= 0) {
    batch_.resume(job->batch_id, std::move(context));
    ++counters_.resumed;
    running_[job->batch_id] = job;
    return;
  }
  submission.request.start = std::move(context);
  const auto id = batch_.add(std::move(submission.request));
  if (!id.ok()) return finish(job, id.error(), {});
  job->batch_id = id.value();
  job->reuse.tokens = reused;
  counters_.prompt_tokens += job->prompt_tokens;
  counters_.reused_tokens += reused;
  if (job->reuse.from == Reuse::From::kDisk) counters_.from_disk_tokens += reused;
  running_[id.value()] = job;
  submission.sink->started(job->reuse);
}

void Scheduler::begin_loaded() {
  std::vector<JobPtr> ready;
  std::erase_if(loading_, [&](const JobPtr& job) {
    if (!job->loading->ready.load()) return false;
    ready.push_back(job);
    return true;
  });
  for (const JobPtr& job : ready) {
    auto result = std::move(*job->loading->result);
    job->loading.reset();
    if (job->cancelled && job->batch_id < 0) {
      finish(job, ended_by(), {});
      continue;
    }
    if (job->cancelled) {  // it had been suspended: the batch has it
      batch_.stop(job->batch_id, engine::Finish::kCancelled);
      running_[job->batch_id] = job;
      continue;
    }
    if (result.ok()) {
      job->reuse.from = Reuse::From::kDisk;
      begin(job, std::move(result).value());
      continue;
    }
    // It is gone: what is in memory must do.
    const std::vector<TokenId>& ids = job->batch_id >= 0 ? batch_.ids(job->batch_id) : job->submission.request.prompt;
    std::optional<kv::Context> context = resident_.find(job->trail.names(ids), ids);
    job->reuse.from = context ? Reuse::From::kMemory : Reuse::From::kNothing;
    if (job->batch_id < 0) plan(*job, context ? context->state.length() : 0);
    begin(job, std::move(context));
  }
}

// Keys in turn, and of each the next user: one of each, as long as there is room. Whoever is next and finds none waits,
// and all behind him: who needs much would else never come.
void Scheduler::admit() {
  while (static_cast<int>(running_.size() + loading_.size()) < limits_.max_running && !turns_.empty()) {
    const std::string key = turns_.front();
    Line& line = waiting_.at(key);
    const std::string user = line.turns.front();
    const JobPtr job = line.queues.at(user).front();
    if (!start(job)) return;
    // Both are the last in turn now, if they still have something waiting.
    std::rotate(turns_.begin(), turns_.begin() + 1, turns_.end());
    std::rotate(line.turns.begin(), line.turns.begin() + 1, line.turns.end());
    forget_waiting(job);
  }
}

void Scheduler::enqueue(const JobPtr& job, End end) {
  const auto add = [end](auto& deque, const auto& value) {
    end == End::kFront ? deque.push_front(value) : deque.push_back(value);
  };
  const Submission& submission = job->submission;
  Line& line = waiting_[submission.key];
  if (line.queues.empty()) add(turns_, submission.key);
  Queue& queue = line.queues[submission.user];
  if (queue.empty()) add(line.turns, submission.user);
  add(queue, job);
}

void Scheduler::make_room() {
  resident_.trim(std::max<int64_t>(0, limits_.kv_bytes - running_bytes()));
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
    job->trail.forget();
    ++counters_.suspended;
    enqueue(job, End::kFront);
    count_waiting(job, 1);
  }
}

void Scheduler::forget_waiting(const JobPtr& job) {
  const auto& [key, user] = std::tie(job->submission.key, job->submission.user);
  Line& line = waiting_.at(key);
  Queue& queue = line.queues.at(user);
  queue.erase(std::find(queue.begin(), queue.end(), job));
  if (queue.empty()) {
    line.queues.erase(user);
    line.turns.erase(std::find(line.turns.begin(), line.turns.end(), user));
  }
  if (line.queues.empty()) {
    waiting_.erase(key);
    turns_.erase(std::find(turns_.begin(), turns_.end(), key));
  }
  count_waiting(job, -1);
}

void Scheduler::finish(const JobPtr& job, const Status& status, engine::Completion completion) {
  {
    const std::lock_guard lock(mutex_);
    const auto of_key = per_key_.find(job->submission.key);
    if (--of_key->second.all == 0) per_key_.erase(of_key);
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
  begin_loaded();
  admit();
  if (store_) store_->collect();
  if (running_.empty()) return !waiting_.empty() && loading_.empty();
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
      job->trail.reached(batch_.context(event.id));
      job->submission.sink->read(event.prompt_done);
    } else if (event.kind == engine::Event::Kind::kToken) {
      ++counters_.tokens;
      if (event.prompt_done > job->prompt_tokens) job->trail.reached(batch_.context(event.id));
      if (!job->cancelled && !job->ending && !job->submission.sink->token(event.choice)) {
        batch_.stop(event.id, engine::Finish::kStop);
        job->ending = true;
      }
    } else {
      running_.erase(it);
      engine::Finished finished = batch_.take(event.id);
      if (event.error.ok() && decoder_.unchanged().ok()) job->trail.ended(std::move(finished.context));
      Status status;
      if (!event.error.ok()) {
        status = event.error;
      } else if (event.finish == engine::Finish::kCancelled) {
        status = ended_by();
      }
      finish(job, status, std::move(finished.completion));
    }
  }
  make_room();
  return true;
}

Counters Scheduler::counters() const {
  Counters now = counters_;
  now.running = static_cast<int>(running_.size() + loading_.size());
  now.state_bytes = running_bytes();
  now.resting_bytes = resident_.bytes();
  now.evicted = resident_.evicted();
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
