// Who runs when. Completions wait in a queue per key and user, join the batch between two steps, and leave it when they
// end, are cancelled, or have to give their memory back for a while.
//
//   submit()  →  waiting  →  running  ⇄  suspended  →  done
//
//   fair        keys take turns, and the users of a key take its turns, whatever each has waiting; a long prompt shares
//               the rows of a step (engine/batch.h)
//   bounded     so many run and wait at once, in all and per key; of the places to wait a key leaves a quarter to
//               others; nobody waits longer than max_wait_s to start
//   memory      when states outgrow kv_bytes, first conversations that only rest in memory go, the least recently used
//               first, then the latest running one is suspended: it waits at the head of its user's queue and reads its
//               tokens again when there is room. No token changes by it (docs/numerics.md)
//   cached      a new prompt goes on from the longest state that is its true prefix, of the same key and user,
//               in memory (cache/resident.h) or read from disk beside the others' steps (cache/store.h). States are
//               kept where the next prompt may part from this one: `Submission` says where that is
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

#include "cache/resident.h"
#include "cache/store.h"
#include "cache/trail.h"
#include "engine/batch.h"

namespace hadal::serve {

struct Limits {
  int max_running = 16;
  int max_waiting = 64;
  int max_per_key = 0;  // running and waiting of one key; 0: no limit
  int64_t kv_bytes = int64_t{4} << 30;
  double max_wait_s = 600;
  int64_t rows_per_step = 512;
  bool share_cache = false;   // between all keys and users
  int64_t save_every = 8192;  // tokens of a long prompt or answer, a multiple of 128
};

// What a prompt went on from.
struct Reuse {
  enum class From { kNothing, kMemory, kDisk };
  From from = From::kNothing;
  int64_t tokens = 0;
  int64_t same = 0;  // tokens that the prompt shares with the most similar earlier one of its key and user
};

// Receives one completion, from the scheduler's thread. After done() nothing more comes.
class Sink {
 public:
  virtual ~Sink() = default;
  virtual void started(const Reuse& reuse) = 0;  // it left the queue, once
  virtual void read(int64_t prompt_done) = 0;
  virtual bool token(const sample::Choice& choice) = 0;  // false: enough, it ends here
  // error: kBusy (waited too long, drained), kCancelled, or what failed; the completion holds what there is.
  virtual void done(const Status& status, engine::Completion completion) = 0;
};

struct Submission {
  engine::Request request;  // without start and pauses
  std::string key, user;    // whose turn it takes; states are shared within both only. No key: there are no others
  int max_per_key = 0;      // of this key; 0: as Limits say
  // Positions in the prompt that other prompts may have in common with it: the end of system prompt and tools, and of
  // everything before the last assistant header. 0: none.
  int64_t system_end = 0, header_at = 0;
  std::shared_ptr<Sink> sink;
};

struct Counters {
  int64_t submitted = 0, finished = 0, cancelled = 0, expired = 0, failed = 0;
  int64_t suspended = 0, resumed = 0, evicted = 0;  // events, not states
  int64_t prompt_tokens = 0, reused_tokens = 0, from_disk_tokens = 0, tokens = 0, steps = 0;
  int running = 0, waiting = 0;  // now
  int64_t state_bytes = 0, resting_bytes = 0;
};

enum class Refusal { kQueueFull, kKeyLimit, kDraining };

class Scheduler {
 public:
  // store: the cache on disk; may be absent, else outlives the scheduler.
  Scheduler(engine::Decoder& decoder, const Limits& limits, cache::Store* store = nullptr)
      : limits_(limits),
        layout_(std::make_shared<const kv::Layout>(decoder.new_sequence().layout())),
        store_(store),
        decoder_(decoder),
        batch_(decoder, limits.rows_per_step) {}

  struct Ticket {
    std::optional<Refusal> refused;
    uint64_t id = 0;  // for cancel()
  };
  Ticket submit(Submission submission, double now);
  void cancel(uint64_t id);  // its done() comes with the next step; unknown and finished ids are ignored
  // From now on submissions are refused. cut: what still waits or runs ends with kBusy.
  void drain(bool cut);

  // One pass. false: there is nothing to do until someone submits, or a state was read (Store::on_loaded).
  bool step(double now);
  Counters counters() const;
  Counters seen() const;  // the same as of the last step, with who waits now

 private:
  struct Job {
    uint64_t id = 0;
    Submission submission;
    double since = 0;  // submission
    cache::Trail trail;
    int batch_id = -1;  // once it ran
    bool cancelled = false;
    bool ending = false;  // its sink has enough: done comes with the next step
    std::shared_ptr<cache::Store::Loading> loading = nullptr;
    int64_t prompt_tokens = 0;
    Reuse reuse = {};
  };
  using JobPtr = std::shared_ptr<Job>;
  struct Recent {  // a prompt of before
    std::string owner;
    std::vector<TokenId> ids;
  };
  using Queue = std::deque<JobPtr>;
  struct Line {                           // of those who wait with one key
    std::map<std::string, Queue> queues;  // by user
    std::deque<std::string> turns;        // users that wait, next first
  };
  struct OfKey {
    int all = 0, waiting = 0;
  };

  bool pass(double now);
  void take_inbox();
  void expire(double now);
  void admit();
  bool start(const JobPtr& job);  // false: no room now
  void begin(const JobPtr& job, std::optional<kv::Context> context);
  void begin_loaded();
  void compare(Job& job);
  void plan(Job& job, int64_t found);
  Error ended_by() const;
  void make_room();
  void finish(const JobPtr& job, const Status& status, engine::Completion completion);
  enum class End { kFront, kBack };
  void enqueue(const JobPtr& job, End end);
  void forget_waiting(const JobPtr& job);
  template <class F>
  std::vector<JobPtr> waiting_that(F&& f) const;
  void count_waiting(const JobPtr& job, int change);
  int most_waiting(const std::string& key) const;
  int64_t running_bytes() const;
  int64_t needed_bytes(int64_t n_tokens) const;
  static std::string owner_of(const Submission& submission) { return submission.key + '\n' + submission.user; }
  std::string space_of(const Submission& submission) const;

  const Limits limits_;
  const std::shared_ptr<const kv::Layout> layout_;
  cache::Store* const store_;
  const engine::Decoder& decoder_;
  engine::Batch batch_;
  std::map<std::string, Line> waiting_;  // by key
  std::deque<std::string> turns_;        // keys that wait, next first
  std::map<int, JobPtr> running_;        // by batch id; suspended ones are in waiting_
  std::vector<JobPtr> loading_;          // their states are being read
  cache::Resident resident_;
  std::deque<Recent> recent_;  // latest last
  std::vector<engine::Event> events_;
  Counters counters_;

  mutable std::mutex mutex_;  // of what follows
  std::vector<JobPtr> inbox_;
  std::vector<uint64_t> cancels_;
  std::map<std::string, OfKey> per_key_;
  int n_waiting_ = 0;  // inbox included
  uint64_t next_id_ = 1;
  bool draining_ = false, cut_ = false;
  Counters seen_;
};

}  // namespace hadal::serve
