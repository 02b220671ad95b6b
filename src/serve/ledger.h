// The ledger: a SQLite file with one row for each request that was answered. What it holds outlives kills and power
// cuts, and others may read it while it is written.
//
// append() never waits: a thread of its own writes what came, in one transaction. When the disk fails, or
// the file is moved away, one line on stderr says so, rows wait, and writing is tried again each second; when too many
// wait, new ones are lost and counted.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/result.h"
#include "serve/prices.h"

struct sqlite3;

namespace hadal::serve {

struct LedgerRow {
  int64_t time_ms = 0;  // when it came, since 1970
  std::string key;      // its name; empty: no keys were asked for
  std::string user;     // a hash, or empty
  std::string endpoint, model, finish;
  int64_t prompt_tokens = 0, hit_tokens = 0, output_tokens = 0, reasoning_tokens = 0;
  PicoUsd cost = 0;
  double seconds = 0;
};

// A connection. Errors name the file; kCorrupt: it is damaged, or not a ledger.
class LedgerFile {
 public:
  static Result<LedgerFile> open(const std::string& path);          // to write; made when it is missing
  static Result<LedgerFile> open_to_read(const std::string& path);  // also where nothing may be written
  // All or none. kIo: also where the path has another file by now, or none.
  Status write(const std::vector<LedgerRow>& rows);

  enum class By { kKey, kDay, kModel, kEndpoint };
  struct Sum {
    std::string name;
    int64_t requests = 0, prompt_tokens = 0, hit_tokens = 0, output_tokens = 0, reasoning_tokens = 0;
    PicoUsd cost = 0;
  };
  // Of requests that came in [since_ms, until_ms), in the order of names.
  Result<std::vector<Sum>> sums(By by, int64_t since_ms = INT64_MIN, int64_t until_ms = INT64_MAX) const;

 private:
  struct Close {
    void operator()(sqlite3* database) const;
  };
  class Statement;
  Result<bool> is_empty() const;  // kCorrupt: neither that nor a ledger
  Status run(const char* sql) const;
  Error failure() const;

  std::string path_;
  uint64_t device_ = 0, inode_ = 0;  // of what was opened to write
  std::unique_ptr<sqlite3, Close> database_;
};

class Ledger {
 public:
  static constexpr size_t kMostWaiting = 10'000;

  explicit Ledger(LedgerFile file) : file_(std::move(file)), writer_([this] { write(); }) {}
  ~Ledger();  // writes what waits, if the disk takes it

  void append(LedgerRow row);
  struct Seen {
    int64_t written = 0, failures = 0, lost = 0;  // failures: of writing
  };
  Seen seen() const;

 private:
  void write();

  LedgerFile file_;  // the writer's
  mutable std::mutex mutex_;
  std::condition_variable work_;
  std::deque<LedgerRow> waiting_;
  Seen seen_;
  bool over_ = false;
  std::thread writer_;  // last: it uses the others
};

}  // namespace hadal::serve
