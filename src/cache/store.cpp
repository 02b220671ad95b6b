#include "cache/store.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstring>
#include <filesystem>

#include "cache/unit.h"

namespace hadal::cache {
namespace {

constexpr int64_t kSecond = 1'000'000'000;
constexpr int64_t kScanEvery = 5 * kSecond, kSilence = 30 * kSecond, kPartAge = 3600 * kSecond;
constexpr size_t kMostSaves = 16;  // waiting; more would hold memory that conversations need

int64_t now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::system_clock::now().time_since_epoch())
      .count();
}
double thread_cpu_seconds() {
  timespec time{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}
double seconds_since(int64_t start) { return static_cast<double>(now_ns() - start) / kSecond; }

std::string host_mark() {
  char host[256] = {};
  ::gethostname(host, sizeof host - 1);
  return hex(sha256(host)).substr(0, 8);
}

constexpr std::string_view kPart = ".part-";  // .part-HOST-PID-N

}  // namespace

int64_t Found::bytes() const {
  int64_t bytes = 0;
  for (const Unit& unit : units) bytes += unit.bytes;
  return bytes;
}

Store::Store(StoreOptions options)
    : options_(std::move(options)),
      disk_(options_.disk ? *options_.disk : real_disk_),
      part_prefix_(fmt::format("{}{}-{}-", kPart, host_mark(), ::getpid())) {}

Result<std::unique_ptr<Store>> Store::open(StoreOptions options) {
  std::error_code error;
  std::filesystem::create_directories(options.directory, error);
  if (!error) ::chmod(options.directory.c_str(), 0700);  // fails where it is another's: then its owner decides
  std::unique_ptr<Store> store(new Store(std::move(options)));
  {
    const std::lock_guard lock(store->mutex_);
    HADAL_TRY(store->scan());
  }
  store->saver_ = std::thread([s = store.get()] { s->save_loop(); });
  store->loader_ = std::thread([s = store.get()] { s->load_loop(); });
  return store;
}

Store::~Store() {
  {
    const std::lock_guard lock(queue_mutex_);
    stopping_ = true;
  }
  work_.notify_all();
  if (saver_.joinable()) saver_.join();
  if (loader_.joinable()) loader_.join();
}

// ---- the index

void Store::insert(Unit unit) {
  erase(unit.file);
  by_name_[unit.name].push_back(unit.file);
  by_use_.emplace(unit.used_ns, -unit.end, unit.file);
  ++counters_.units;
  counters_.bytes += unit.bytes;
  const std::string file = unit.file;
  units_.emplace(file, std::move(unit));
}

void Store::erase(const std::string& file) {
  const auto it = units_.find(file);
  if (it == units_.end()) return;
  const Unit& unit = it->second;
  const auto named = by_name_.find(unit.name);
  std::erase(named->second, file);
  if (named->second.empty()) by_name_.erase(named);
  by_use_.erase({unit.used_ns, -unit.end, file});
  --counters_.units;
  counters_.bytes -= unit.bytes;
  units_.erase(it);
}

Status Store::scan() {
  last_scan_ns_ = now_ns();
  std::vector<std::string> names;
  if (disk_.list(options_.directory, names) != 0)
    return Error{Code::kIo, fmt::format("{}: cannot read: {}", options_.directory, std::strerror(errno))};
  std::set<std::string> there;
  for (const std::string& file : names) {
    if (file.starts_with(kPart)) {  // of a writer that was killed, here or, long ago, elsewhere
      const std::string path = options_.directory + "/" + file;
      const std::string ours = fmt::format("{}{}-", kPart, host_mark());
      struct stat about {};
      bool is_left = false;
      if (file.starts_with(ours)) {
        int pid = 0;
        std::from_chars(file.data() + ours.size(), file.data() + file.size(), pid);
        is_left = pid != ::getpid() && ::kill(pid, 0) != 0 && errno == ESRCH;
      } else {
        is_left = disk_.stat(path, about) == 0 && last_scan_ns_ - about.st_mtim.tv_sec * kSecond > kPartAge;
      }
      if (is_left) disk_.unlink(path);
      continue;
    }
    if (!is_unit_file_name(file)) continue;
    there.insert(file);
    if (units_.contains(file)) continue;
    int64_t size = 0;
    const auto header = read_unit_header(disk_, options_.directory, file, size);
    if (!header.ok()) {
      if (header.error().code == Code::kCorrupt) {
        disk_.unlink(options_.directory + "/" + file);
        ++counters_.damaged;
      }
      continue;
    }
    struct stat about {};
    if (disk_.stat(options_.directory + "/" + file, about) != 0) continue;
    const UnitHeader& h = header.value();
    insert({h.parent, h.name, h.begin, h.end, size, about.st_mtim.tv_sec * kSecond + about.st_mtim.tv_nsec, file});
  }
  std::vector<std::string> gone;
  for (const auto& [file, unit] : units_)
    if (!there.contains(file)) gone.push_back(file);
  for (const std::string& file : gone) erase(file);
  return {};
}

Status Store::rescan() {
  const std::lock_guard lock(mutex_);
  return scan();
}

void Store::refresh() {
  if (now_ns() - last_scan_ns_ < kScanEvery) return;
  if (const Status scanned = scan(); !scanned.ok()) failed(scanned.error());
}

// The units of [0, end), the fewest first; false: a piece is missing.
bool Store::cover(const std::vector<Digest>& names, int64_t end, std::vector<Unit>& units) const {
  const auto it = by_name_.find(names[static_cast<size_t>(end / kBlock)]);
  if (it == by_name_.end()) return false;
  std::vector<const Unit*> candidates;
  for (const std::string& file : it->second) candidates.push_back(&units_.at(file));
  std::sort(candidates.begin(), candidates.end(), [](const Unit* a, const Unit* b) { return a->begin < b->begin; });
  for (const Unit* unit : candidates) {
    if (unit->end != end || unit->parent != names[static_cast<size_t>(unit->begin / kBlock)]) continue;
    if (unit->begin > 0 && !cover(names, unit->begin, units)) continue;
    units.push_back(*unit);
    return true;
  }
  return false;
}

Found Store::find(const std::vector<Digest>& names, int64_t most) {
  const std::lock_guard lock(mutex_);
  refresh();
  Found found;
  for (int64_t end = std::min(floor_block(most), static_cast<int64_t>(names.size() - 1) * kBlock); end > 0;
       end -= kBlock) {
    found.units.clear();
    if (cover(names, end, found.units)) break;
    found.units.clear();
  }
  return found;
}

bool Store::has(const Digest& name) {
  const std::lock_guard lock(mutex_);
  return by_name_.contains(name);
}

// One time for all of a chain: what a unit stands on is never older.
void Store::use(const std::vector<Unit>& units) {
  const int64_t time = now_ns();
  for (const Unit& unit : units) {
    disk_.touch(options_.directory + "/" + unit.file, time);  // fails on a read-only disk: others forget it sooner
    const auto it = units_.find(unit.file);
    if (it == units_.end()) continue;
    by_use_.erase({it->second.used_ns, -unit.end, unit.file});
    it->second.used_ns = time;
    by_use_.emplace(time, -unit.end, unit.file);
  }
}

void Store::remove(const std::string& file, const char* why) {
  disk_.unlink(options_.directory + "/" + file);
  const std::lock_guard lock(mutex_);
  erase(file);
  ++(*why == 'd' ? counters_.damaged : counters_.evicted);
}

void Store::make_room(int64_t bytes) {
  while (!by_use_.empty() && counters_.bytes + bytes > options_.budget) {
    const std::string file = std::get<2>(*by_use_.begin());
    disk_.unlink(options_.directory + "/" + file);
    erase(file);
    ++counters_.evicted;
  }
}

void Store::prune(int64_t bytes) {
  const std::lock_guard lock(mutex_);
  if (const Status scanned = scan(); !scanned.ok()) return;
  make_room(options_.budget - bytes);
}

std::vector<Unit> Store::units() {
  const std::lock_guard lock(mutex_);
  std::vector<Unit> all;
  for (const auto& [file, unit] : units_) all.push_back(unit);
  return all;
}

StoreCounters Store::counters() const {
  const std::lock_guard lock(mutex_);
  return counters_;
}

// With mutex_.
void Store::failed(const Error& error) {
  ++counters_.failed;
  silent_until_ns_ = now_ns() + kSilence;
  if (!failing_ && options_.warn) options_.warn("context cache: " + error.message + "; serving without it for now");
  failing_ = true;
}

// ---- loading

Result<kv::Context> Store::load(const Found& found, std::span<const TokenId> ids) {
  HADAL_CHECK(!found.units.empty() && found.length() <= static_cast<int64_t>(ids.size()));
  const int64_t start = now_ns();
  kv::SequenceState state(options_.layout);
  for (const Unit& unit : found.units) {
    const Status read = read_unit(disk_, options_.directory, unit.file, ids, &unit == &found.units.back(), state);
    if (read.ok()) continue;
    if (read.error().code == Code::kCorrupt) {
      remove(unit.file, "damaged");
    } else {
      const std::lock_guard lock(mutex_);
      erase(unit.file);
      if (read.error().code == Code::kIo) failed(read.error());
    }
    return Error{Code::kNotFound, read.error().message};
  }
  const std::lock_guard lock(mutex_);
  use(found.units);
  ++counters_.loaded;
  counters_.loaded_bytes += found.bytes();
  counters_.load_s += seconds_since(start);
  return kv::Context{std::move(state), {ids.begin(), ids.begin() + found.length()}};
}

std::shared_ptr<Store::Loading> Store::load_later(Found found, std::vector<TokenId> ids) {
  auto loading = std::make_shared<Loading>();
  {
    const std::lock_guard lock(queue_mutex_);
    loads_.push_back({loading, std::move(found), std::move(ids)});
  }
  work_.notify_all();
  return loading;
}

void Store::on_loaded(std::function<void()> call) {
  const std::lock_guard lock(queue_mutex_);
  on_loaded_ = std::move(call);
}

void Store::load_loop() {
  while (true) {
    LoadJob job;
    {
      std::unique_lock lock(queue_mutex_);
      work_.wait(lock, [this] { return stopping_ || !loads_.empty(); });
      if (loads_.empty()) return;
      job = std::move(loads_.front());
      loads_.pop_front();
    }
    job.loading->result = load(job.found, job.ids);
    job.loading->ready.store(true);
    const std::lock_guard lock(queue_mutex_);
    if (on_loaded_) on_loaded_();
  }
}

// ---- saving

Status Store::save(const std::vector<Digest>& names, const kv::Context& context) {
  const int64_t end = context.state.length();
  HADAL_CHECK(end > 0 && end % kBlock == 0 && static_cast<int64_t>(names.size()) > end / kBlock);
  const int64_t start = now_ns();
  const double cpu_start = thread_cpu_seconds();
  std::vector<Unit> below;
  {
    const std::lock_guard lock(mutex_);
    if (cover(names, end, below)) return {};
    if (now_ns() < silent_until_ns_) {
      ++counters_.skipped;
      return {};
    }
    for (int64_t at = end - kBlock; at > 0 && below.empty(); at -= kBlock) cover(names, at, below);
  }
  const int64_t begin = below.empty() ? 0 : below.back().end;
  NewUnit unit(names, options_.identity.model, begin, context.state, context.ids);
  std::string part;
  {
    const std::lock_guard lock(mutex_);
    use(below);  // it must not go to make room for what stands on it
    make_room(unit.bytes());
    const bool is_broken =
        std::any_of(below.begin(), below.end(), [&](const Unit& u) { return !units_.contains(u.file); });
    if (is_broken || counters_.bytes + unit.bytes() > options_.budget) {
      ++counters_.skipped;
      return {};
    }
    part = part_prefix_ + std::to_string(n_parts_++);
  }
  const Status written = unit.write(disk_, options_.directory, part);
  const std::lock_guard lock(mutex_);
  if (!written.ok()) {
    failed(written.error());
    return written;
  }
  failing_ = false;
  const Digest& name = names[static_cast<size_t>(end / kBlock)];
  below.push_back({names[static_cast<size_t>(begin / kBlock)], name, begin, end, unit.bytes(), now_ns(),
                   unit_file_name(name, begin)});
  insert(below.back());
  use(below);
  ++counters_.saved;
  counters_.saved_bytes += unit.bytes();
  counters_.save_s += seconds_since(start);
  counters_.save_cpu_s += thread_cpu_seconds() - cpu_start;
  return {};
}

void Store::save_later(std::vector<Digest> names, kv::Context context) {
  {
    const std::lock_guard lock(queue_mutex_);
    if (saves_.size() >= kMostSaves) {
      saved_.push_back({std::move(names), std::move(context)});
      const std::lock_guard counters_lock(mutex_);
      ++counters_.skipped;
      return;
    }
    saves_.push_back({std::move(names), std::move(context)});
  }
  work_.notify_all();
}

void Store::collect() {
  std::vector<SaveJob> done;
  const std::lock_guard lock(queue_mutex_);
  done.swap(saved_);
}

void Store::flush() {
  std::unique_lock lock(queue_mutex_);
  idle_.wait(lock, [this] { return saves_.empty() && !saving_; });
}

void Store::save_loop() {
  ::setpriority(PRIO_PROCESS, 0, 10);  // of this thread: decoding comes first
  while (true) {
    std::optional<SaveJob> job;
    {
      std::unique_lock lock(queue_mutex_);
      saving_ = false;
      if (saves_.empty()) idle_.notify_all();
      work_.wait(lock, [this] { return stopping_ || !saves_.empty(); });
      if (saves_.empty()) return;
      job.emplace(std::move(saves_.front()));
      saves_.pop_front();
      saving_ = true;
    }
    (void)save(job->names, job->context);  // failures are counted
    const std::lock_guard lock(queue_mutex_);
    saved_.push_back(std::move(*job));
  }
}

}  // namespace hadal::cache
