#include "serve/ledger.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sqlite3.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <filesystem>

#include "base/file.h"

namespace hadal::serve {
namespace {

constexpr int kPatienceMs = 5000;       // while another writes
constexpr int kApplication = 0x68646c;  // "hdl": tells a ledger from other databases
constexpr int kVersion = 1;
constexpr const char* kSchema =
    "CREATE TABLE requests ("
    "  time_ms INTEGER NOT NULL,"  // since 1970
    "  key TEXT NOT NULL, user_hash TEXT NOT NULL, endpoint TEXT NOT NULL, model TEXT NOT NULL, finish TEXT NOT NULL,"
    "  prompt_tokens INTEGER NOT NULL, hit_tokens INTEGER NOT NULL,"
    "  output_tokens INTEGER NOT NULL, reasoning_tokens INTEGER NOT NULL,"
    "  cost_pico_usd INTEGER NOT NULL, seconds REAL NOT NULL)";

}  // namespace

void LedgerFile::Close::operator()(sqlite3* database) const {
  // SQLite leaves the log as it is where the file was moved, and whoever makes the next one throws it away.
  sqlite3_wal_checkpoint_v2(database, nullptr, SQLITE_CHECKPOINT_TRUNCATE, nullptr, nullptr);
  sqlite3_close(database);
}

class LedgerFile::Statement {
 public:
  Statement(sqlite3* database, const char* sql) {
    state_ = sqlite3_prepare_v2(database, sql, -1, &statement_, nullptr);
  }
  ~Statement() { sqlite3_finalize(statement_); }
  Statement(const Statement&) = delete;

  // What is bound must outlive the step.
  void bind(int at, int64_t value) { sqlite3_bind_int64(statement_, at, value); }
  void bind(int at, double value) { sqlite3_bind_double(statement_, at, value); }
  void bind(int at, const std::string& value) {
    sqlite3_bind_text(statement_, at, value.data(), static_cast<int>(value.size()), SQLITE_STATIC);
  }
  bool step() {  // true: there is a row
    if (state_ != SQLITE_OK && state_ != SQLITE_ROW) return false;
    state_ = sqlite3_step(statement_);
    return state_ == SQLITE_ROW;
  }
  void reset() { state_ = sqlite3_reset(statement_); }
  bool ok() const { return state_ == SQLITE_OK || state_ == SQLITE_ROW || state_ == SQLITE_DONE; }
  int64_t integer(int column) { return sqlite3_column_int64(statement_, column); }
  std::string text(int column) {
    const unsigned char* text = sqlite3_column_text(statement_, column);
    return {reinterpret_cast<const char*>(text), static_cast<size_t>(sqlite3_column_bytes(statement_, column))};
  }

 private:
  sqlite3_stmt* statement_ = nullptr;
  int state_;
};

Error LedgerFile::failure() const {
  const int code = database_ ? sqlite3_errcode(database_.get()) : SQLITE_NOMEM;
  const bool is_damaged = code == SQLITE_CORRUPT || code == SQLITE_NOTADB;
  return {is_damaged ? Code::kCorrupt : Code::kIo,
          fmt::format("{}: {}: {}", path_, is_damaged ? "expected a ledger" : "the ledger fails",
                      database_ ? sqlite3_errmsg(database_.get()) : "out of memory")};
}

Status LedgerFile::run(const char* sql) const {
  if (sqlite3_exec(database_.get(), sql, nullptr, nullptr, nullptr) != SQLITE_OK) return failure();
  return {};
}

Result<bool> LedgerFile::is_empty() const {
  Statement tables(database_.get(), "SELECT count(*) FROM sqlite_schema");
  Statement mark(database_.get(),
                 "SELECT application_id, user_version FROM pragma_application_id, pragma_user_version");
  if (!tables.step() || !mark.step()) return failure();
  if (tables.integer(0) == 0) return true;
  if (mark.integer(0) != kApplication)
    return Error{Code::kCorrupt, path_ + ": expected a ledger, found another SQLite database"};
  if (mark.integer(1) != kVersion)
    return Error{Code::kUnsupported,
                 fmt::format("{}: expected a ledger of version {}, found {}", path_, kVersion, mark.integer(1))};
  return false;
}

Result<LedgerFile> LedgerFile::open(const std::string& given) {
  if (given.empty() || given == ":memory:")
    return Error{Code::kInvalid, fmt::format("the ledger: expected a file, found \"{}\"", given)};
  const std::string path = std::filesystem::absolute(given);  // wherever the process goes
  // Made here, so that nobody else may read it; SQLite gives the files beside it the same mode.
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0) return Error{Code::kIo, fmt::format("{}: cannot open: {}", path, std::strerror(errno))};
  struct stat opened {};
  ::fstat(fd, &opened);
  ::close(fd);
  LedgerFile file;
  file.path_ = path;
  file.device_ = opened.st_dev;
  file.inode_ = opened.st_ino;
  sqlite3* database = nullptr;
  const int state = sqlite3_open_v2(path.c_str(), &database, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, nullptr);
  file.database_.reset(database);
  if (state != SQLITE_OK) return file.failure();
  sqlite3_busy_timeout(database, kPatienceMs);
  HADAL_TRY(file.is_empty());  // before anything changes in what is not ours
  // A log before the pages: readers and the writer never wait for each other. FULL: a committed row is on the disk.
  HADAL_TRY(file.run("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; BEGIN IMMEDIATE"));
  if (HADAL_TRY(file.is_empty())) {
    HADAL_TRY(file.run(kSchema));
    HADAL_TRY(
        file.run(fmt::format("PRAGMA application_id = {}; PRAGMA user_version = {}", kApplication, kVersion).c_str()));
  }
  HADAL_TRY(file.run("COMMIT"));
  return file;
}

Result<LedgerFile> LedgerFile::open_to_read(const std::string& path) {
  if (!file_exists(path)) return Error{Code::kNotFound, path + ": no such file"};
  LedgerFile file;
  file.path_ = path;
  // The log needs a writable folder to be read; where there is none and no log either, the file is all there is.
  for (const char* how = "";; how = "?immutable=1") {
    std::string uri = "file:";
    for (const char c : path) uri += c == '%' || c == '?' || c == '#' ? fmt::format("%{:02x}", c) : std::string(1, c);
    sqlite3* database = nullptr;
    const int flags = SQLITE_OPEN_READONLY | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_URI;
    sqlite3_open_v2((uri + how).c_str(), &database, flags, nullptr);
    file.database_.reset(database);
    sqlite3_busy_timeout(database, kPatienceMs);
    const auto is_empty = file.is_empty();
    if (is_empty.ok() && is_empty.value()) return Error{Code::kCorrupt, path + ": expected a ledger, found no tables"};
    if (is_empty.ok()) return file;
    if (is_empty.error().code != Code::kIo || *how || file_exists(path + "-wal")) return is_empty.error();
  }
}

Status LedgerFile::write(const std::vector<LedgerRow>& rows) {
  // SQLite would go on in a file that nobody finds any more. What it has in the log belongs there, though.
  struct stat now {};
  const bool is_there = ::stat(path_.c_str(), &now) == 0;
  if (!is_there || now.st_dev != device_ || now.st_ino != inode_) {
    sqlite3_wal_checkpoint_v2(database_.get(), nullptr, SQLITE_CHECKPOINT_TRUNCATE, nullptr, nullptr);
    return Error{Code::kIo,
                 fmt::format("{}: expected the file that was opened, found {}", path_, is_there ? "another" : "none")};
  }
  HADAL_TRY(run("BEGIN IMMEDIATE"));
  const Status status = [&]() -> Status {
    Statement insert(
        database_.get(),
        "INSERT INTO requests (time_ms, key, user_hash, endpoint, model, finish, prompt_tokens, hit_tokens,"
        " output_tokens, reasoning_tokens, cost_pico_usd, seconds) VALUES (?,?,?,?,?,?,?,?,?,?,?,?)");
    for (const LedgerRow& row : rows) {
      int at = 0;
      insert.bind(++at, row.time_ms);
      for (const std::string* text : {&row.key, &row.user, &row.endpoint, &row.model, &row.finish})
        insert.bind(++at, *text);
      for (const int64_t number :
           {row.prompt_tokens, row.hit_tokens, row.output_tokens, row.reasoning_tokens, row.cost})
        insert.bind(++at, number);
      insert.bind(++at, row.seconds);
      insert.step();
      if (!insert.ok()) return failure();
      insert.reset();
    }
    return run("COMMIT");
  }();
  if (!status.ok()) sqlite3_exec(database_.get(), "ROLLBACK", nullptr, nullptr, nullptr);
  return status;
}

Result<std::vector<LedgerFile::Sum>> LedgerFile::sums(By by, int64_t since_ms, int64_t until_ms) const {
  const char* name = by == By::kKey     ? "key"
                     : by == By::kModel ? "model"
                     : by == By::kDay   ? "strftime('%Y-%m-%d', time_ms / 1000, 'unixepoch')"
                                        : "endpoint";
  const std::string sql = fmt::format(
      "SELECT {}, count(*), sum(prompt_tokens), sum(hit_tokens), sum(output_tokens), sum(reasoning_tokens),"
      " sum(cost_pico_usd) FROM requests WHERE time_ms >= ? AND time_ms < ? GROUP BY 1 ORDER BY 1",
      name);
  Statement select(database_.get(), sql.c_str());
  select.bind(1, since_ms);
  select.bind(2, until_ms);
  std::vector<Sum> sums;
  while (select.step())
    sums.push_back({select.text(0), select.integer(1), select.integer(2), select.integer(3), select.integer(4),
                    select.integer(5), select.integer(6)});
  if (!select.ok()) return failure();
  return sums;
}

Ledger::~Ledger() {
  {
    const std::lock_guard lock(mutex_);
    over_ = true;
  }
  work_.notify_all();
  writer_.join();
}

void Ledger::append(LedgerRow row) {
  {
    const std::lock_guard lock(mutex_);
    if (waiting_.size() >= kMostWaiting) {
      ++seen_.lost;
      return;
    }
    waiting_.push_back(std::move(row));
  }
  work_.notify_all();
}

Ledger::Seen Ledger::seen() const {
  const std::lock_guard lock(mutex_);
  return seen_;
}

void Ledger::write() {
  bool failing = false;
  std::unique_lock lock(mutex_);
  while (true) {
    work_.wait(lock, [this] { return over_ || !waiting_.empty(); });
    if (waiting_.empty()) return;
    const std::vector<LedgerRow> rows(waiting_.begin(), waiting_.end());
    lock.unlock();
    const Status status = file_.write(rows);
    lock.lock();
    if (status.ok()) {
      waiting_.erase(waiting_.begin(), waiting_.begin() + static_cast<ptrdiff_t>(rows.size()));
      seen_.written += static_cast<int64_t>(rows.size());
      failing = false;
      continue;
    }
    ++seen_.failures;
    if (!failing) fmt::print(stderr, "hadal: {}; answers go on, their rows wait\n", status.error().message);
    failing = true;
    if (over_) {
      fmt::print(stderr, "hadal: the ledger lost {} rows\n", waiting_.size() + static_cast<size_t>(seen_.lost));
      return;
    }
    work_.wait_for(lock, std::chrono::seconds(1), [this] { return over_; });
  }
}

}  // namespace hadal::serve
