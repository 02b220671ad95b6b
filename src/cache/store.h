// The context cache on disk: a directory of units (unit.h), found by the names of prefixes (prefix.h).
//
//   find()    the longest prefix of a prompt that a chain of units covers, from token 0 on
//   load()    the state there; load_later() on a thread of its own
//   save()    a state at a multiple of 128: only the range beyond what is there is written; save_later() on a thread
//   answers   as they were sampled, for a server that starts again (serve/replay.h): small units beside the others
//
// The index belongs to the process and is made by reading headers; the directory may be shared by several, also over
// a network: files appear whole, under names that say what they are, and are never changed. A damaged unit is removed
// and was never there. When the budget is exceeded, units go, the least recently used first; a unit is used with
// all that it stands on, so children go before their parents.
//
// A disk that fails costs the cache, never an answer: one warning, a count, and nothing is written for a while.
//
// The engine's thread never waits for the disk: find() looks into the index only, which the saving thread keeps.
//
// Threads: any. What callers give to save_later() comes back through collect(), to be released by its owner: pages of a
// state are shared with a sequence that still grows (kv/rows.h).
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <tuple>
#include <unordered_map>
#include <vector>

#include "base/result.h"
#include "cache/disk.h"
#include "cache/prefix.h"
#include "cache/unit.h"
#include "kv/sequence_state.h"

namespace hadal::cache {

struct StoreOptions {
  std::string directory;
  int64_t budget = int64_t{32} << 30;  // bytes of files
  Identity identity;
  std::shared_ptr<const kv::Layout> layout;
  std::function<void(const std::string&)> warn;  // one line; from any thread
  bool read_only = false;                        // nothing is made, changed or removed
  Disk* disk = nullptr;                          // else the real one; must outlive the store
};

struct StoreCounters {
  int64_t units = 0, bytes = 0;  // now
  int64_t saved = 0, saved_bytes = 0, loaded = 0, loaded_bytes = 0, evicted = 0, damaged = 0, failed = 0, skipped = 0;
  double save_s = 0, save_cpu_s = 0, load_s = 0;
};

struct Unit {
  Digest parent, name;
  int64_t begin = 0, end = 0, bytes = 0, used_ns = 0;
  std::string file;
  bool is_answer() const { return end == 0; }
};

// A prefix that is there: its units in order.
struct Found {
  std::vector<Unit> units;
  int64_t length() const { return units.empty() ? 0 : units.back().end; }
  int64_t bytes() const;
};

// Makes it where it is missing, mode 0700.
void make_cache_directory(const std::string& directory);

class Store {
 public:
  // Makes the directory, mode 0700. kIo: it cannot be made or read.
  static Result<std::unique_ptr<Store>> open(StoreOptions options);
  ~Store();  // what save_later() holds is written first, for up to ten seconds

  const Identity& identity() const { return options_.identity; }
  Digest root(std::string_view space) const { return root_name(space, options_.identity, *options_.layout); }

  // The longest at most `most` tokens long. names: of the prompt.
  Found find(const std::vector<Digest>& names, int64_t most);
  // kNotFound: a unit has gone, or was damaged and is gone now.
  Result<kv::Context> load(const Found& found, std::span<const TokenId> ids);
  struct Loading {
    std::atomic<bool> cancelled{false};  // nobody waits for it any more
    std::atomic<bool> ready{false};
    std::optional<Result<kv::Context>> result;  // once ready
  };
  std::shared_ptr<Loading> load_later(Found found, std::vector<TokenId> ids);
  void on_loaded(std::function<void()> call);  // after each load_later(), on the loading thread; empty: nothing

  // Nothing to do when it is there already. names: of context.ids.
  Status save(const std::vector<Digest>& names, const kv::Context& context);
  void save_later(std::vector<Digest> names, kv::Context context);
  void collect();  // releases what has been saved; the owner of the states calls it
  void flush();    // waits until all that save_later() was given is written

  // Of one that is there already, that it was used: the conversation goes on. The kMostAnswers used last are kept.
  void save_answer_later(std::string answer);
  static constexpr size_t kMostAnswers = 16384;
  // call: of the answers of this model that are there and were used last, `most_bytes` of files at most, the oldest of
  // them first; then of each that another process adds, on the saving thread. Empty: no more calls.
  void on_answer(std::function<void(const std::string& answer)> call, int64_t most_bytes);

  StoreCounters counters() const;
  std::vector<Unit> units();  // by name of file
  Status rescan();            // now: units of other processes come and go
  // Removes the least recently used units until `bytes` are left, and what unfinished writers left behind.
  Status prune(int64_t bytes);

 private:
  using ByUse = std::set<std::tuple<int64_t, int64_t, std::string>>;  // used_ns, -end, file
  explicit Store(StoreOptions options);
  struct SaveJob {  // a state, or an answer
    std::vector<Digest> names;
    std::optional<kv::Context> context;
    std::string answer;
  };
  struct LoadJob {
    std::shared_ptr<Loading> loading;
    Found found;
    std::vector<TokenId> ids;
  };

  Result<kv::Context> load(const Found& found, std::span<const TokenId> ids, const std::atomic<bool>* cancelled);
  Status save_answer(const std::string& answer);
  Status add(NewUnit& unit);  // makes room and writes it
  void tell_answers(std::vector<Unit> units);
  void remove_damaged(const std::string& file);
  void use(const std::vector<Unit>& units);
  void unlink_all(const std::vector<std::string>& files);
  // With mutex_:
  void insert(Unit unit);
  void erase(const std::string& file);  // from the index
  // The units of [0, end), the fewest first; false: a piece is missing. no_cover: ends known to have none.
  bool cover(const std::vector<Digest>& names, int64_t end, std::vector<char>& no_cover,
             std::vector<Unit>& units) const;
  ByUse& by_use(const Unit& unit) { return unit.is_answer() ? answers_by_use_ : by_use_; }
  std::vector<std::string> make_room(int64_t bytes);  // erased; their files are still to be removed
  bool is_silent() const { return std::chrono::steady_clock::now() < silent_until_; }
  void failed(const Error& error);
  void save_loop();
  void load_loop();

  const StoreOptions options_;
  Disk real_disk_;
  Disk& disk_;
  const std::string part_prefix_;

  mutable std::mutex mutex_;
  std::unordered_map<Digest, std::vector<std::string>, DigestHash> by_name_;  // files of the units that end there
  std::map<std::string, Unit> units_;                                         // by file
  ByUse by_use_, answers_by_use_;
  std::chrono::steady_clock::time_point silent_until_;
  int64_t n_parts_ = 0;
  bool failing_ = false;
  StoreCounters counters_;

  std::mutex queue_mutex_;
  std::condition_variable work_, idle_;
  std::deque<SaveJob> saves_;
  size_t n_states_ = 0, n_answer_bytes_ = 0;  // in saves_
  std::vector<SaveJob> saved_;
  std::deque<LoadJob> loads_;
  std::function<void()> on_loaded_;
  std::mutex answer_mutex_;  // while it is called, it does not change
  std::function<void(const std::string&)> on_answer_;
  bool saving_ = false, stopping_ = false;
  std::chrono::steady_clock::time_point give_up_;  // once it is stopping
  std::thread saver_, loader_;
};

}  // namespace hadal::cache
