// Who runs when. Completions wait in a queue per user, join the batch between two steps, and leave it when they end,
// are cancelled, or have to give their memory back for a while.
//
//   submit()  →  waiting  →  running  ⇄  suspended  →  done
//
//   fair        users take turns, whatever each has waiting; a long prompt shares the rows of a step (engine/batch.h)
//   bounded     so many run and wait at once, in all and per key; nobody waits longer than max_wait_s to start
//   memory      when states outgrow kv_bytes, first conversations that only rest in memory go, the least recently used
//               first, then the latest running one is suspended: it waits at the head of its user's queue and reads its
//               tokens again when there is room. No token changes by it (docs/numerics.md)
//   resident    a new prompt goes on from the longest resting state that is its true prefix, of the same key and user
//
// Time comes from the caller, in seconds of any clock that does not go back: tests drive a virtual one.
// Threads: step() and counters() by one thread, the decoder's; submit(), cancel(), drain(), seen() by any. Sinks are
// called from step() and must not block.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "engine/batch.h"

namespace hadal::serve {

struct Limits {
  int max_running = 16;
  int max_waiting = 64;
  int max_per_key = 0;  // running and waiting of one key; 0: no limit
  int64_t kv_bytes = int64_t{4} << 30;
  double max_wait_s = 600;
  int64_t rows_per_step = 512;
};

// Receives one completion, from the scheduler's thread. After done() nothing more comes.
class Sink {
 public:
  virtual ~Sink() = default;
  virtual void started(int64_t reused_tokens) = 0;  // it left the queue, once
  virtual void read(int64_t prompt_done) = 0;
  virtual bool token(const sample::Choice& choice) = 0;  // false: enough, it ends here
  // error: kBusy (waited too long, drained), kCancelled, or what failed; the completion holds what there is.
  virtual void done(const Status& status, engine::Completion completion) = 0;
};

struct Submission {
  engine::Request request;  // without start
  std::string key, user;    // whose turn it takes; states are shared within both only
  int max_per_key = 0;      // of this key; 0: as Limits say
  std::shared_ptr<Sink> sink;
};

struct Counters {
  int64_t submitted = 0, finished = 0, cancelled = 0, expired = 0, failed = 0;
  int64_t suspended = 0, resumed = 0, evicted = 0;  // events, not states
  int64_t prompt_tokens = 0, reused_tokens = 0, tokens = 0, steps = 0;
  int running = 0, waiting = 0;  // now
  int64_t state_bytes = 0, resting_bytes = 0;
};

enum class Refusal { kQueueFull, kKeyLimit, kDraining };

class Scheduler {
 public:
  Scheduler(engine::Decoder& decoder, const Limits& limits)
      : limits_(limits),
        layout_(std::make_shared<const kv::Layout>(decoder.new_sequence().layout())),
        batch_(decoder, limits.rows_per_step) {}

  struct Ticket {
    std::optional<Refusal> refused;
    uint64_t id = 0;  // for cancel()
  };
  Ticket submit(Submission submission, double now);
  void cancel(uint64_t id);  // its done() comes with the next step; unknown and finished ids are ignored
  // From now on submissions are refused. cut: what still waits or runs ends with kBusy.
  void drain(bool cut);

  // One pass. false: there is nothing to do until someone submits.
  bool step(double now);
  Counters counters() const;
  Counters seen() const;  // the same as of the last step, with who waits now

 private:
  struct Job {
    uint64_t id = 0;
    Submission submission;
    double since = 0;   // submission
    int batch_id = -1;  // once it ran
    bool cancelled = false;
    bool ending = false;  // its sink has enough: done comes with the next step
  };
  using JobPtr = std::shared_ptr<Job>;
  struct Resting {
    engine::Context context;
    std::string owner;
    int64_t bytes = 0;
  };
  using Queue = std::deque<JobPtr>;

  bool pass(double now);
  void take_inbox();
  void expire(double now);
  void admit();
  bool start(const JobPtr& job);  // false: no room now
  void make_room();
  void finish(const JobPtr& job, const Status& status, engine::Completion completion);
  void forget_waiting(const JobPtr& job);
  void rest(engine::Context context, const std::string& owner);
  std::optional<engine::Context> resume_from(const std::string& owner, std::span<const TokenId> ids);
  int64_t running_bytes() const;
  int64_t needed_bytes(int64_t n_tokens) const;
  static std::string owner_of(const Submission& submission) { return submission.key + '\n' + submission.user; }

  const Limits limits_;
  const std::shared_ptr<const kv::Layout> layout_;
  engine::Batch batch_;
  std::map<std::string, Queue> waiting_;  // by owner
  std::deque<std::string> turns_;         // owners that wait, next first
  std::map<int, JobPtr> running_;         // by batch id; suspended ones are in waiting_
  std::list<Resting> resting_;            // least recently used first
  std::vector<engine::Event> events_;
  Counters counters_;

  mutable std::mutex mutex_;  // of what follows
  std::vector<JobPtr> inbox_;
  std::vector<uint64_t> cancels_;
  std::map<std::string, int> per_key_;
  int n_waiting_ = 0;  // inbox included
  uint64_t next_id_ = 1;
  bool draining_ = false, cut_ = false;
  Counters seen_;
};

}  // namespace hadal::serve
