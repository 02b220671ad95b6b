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
#include <fstream>
#include <random>

namespace hadal::cache {
namespace {

constexpr int64_t kSecond = 1'000'000'000;
constexpr auto kScanEvery = std::chrono::seconds(30);
constexpr auto kSilence = std::chrono::seconds(30), kLastSaves = std::chrono::seconds(10);
constexpr int64_t kPartAge = 3600 * kSecond, kOwnPartAge = 60 * kSecond;
constexpr size_t kMostSaves = 16;                      // waiting; more would hold memory that conversations need
constexpr size_t kMostAnswerBytes = size_t{64} << 20;  // the same
constexpr int64_t kFileBlock = 4096;                   // what even a small file takes

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

// Of the machine since its start and the space of process numbers, without which a number says nothing.
std::string host_mark() {
  char host[256] = {}, space[64] = {};
  ::gethostname(host, sizeof host - 1);
  if (::readlink("/proc/self/ns/pid", space, sizeof space - 1) < 0) space[0] = 0;
  std::string boot;
  std::ifstream("/proc/sys/kernel/random/boot_id") >> boot;
  return hex(sha256(fmt::format("{}\n{}\n{}", host, space, boot))).substr(0, 8);
}

// Answers are small and many: what their files take counts, not what is in them.
int64_t bytes_on_disk(const UnitHeader& header, int64_t bytes) {
  return header.is_answer() ? (bytes + kFileBlock - 1) / kFileBlock * kFileBlock : bytes;
}

constexpr std::string_view kPart = ".part-";  // .part-HOST-PID-RANDOM-N

}  // namespace

int64_t Found::bytes() const {
  int64_t bytes = 0;
  for (const Unit& unit : units) bytes += unit.bytes;
  return bytes;
}

Store::Store(StoreOptions options)
    : options_(std::move(options)),
      disk_(options_.disk ? *options_.disk : real_disk_),
      part_prefix_(fmt::format("{}{}-{}-{:08x}-", kPart, host_mark(), ::getpid(), std::random_device{}())) {}

void make_cache_directory(const std::string& directory) {
  std::error_code error;
  if (std::filesystem::create_directories(directory, error)) ::chmod(directory.c_str(), 0700);
}

Result<std::unique_ptr<Store>> Store::open(StoreOptions options) {
  if (!options.read_only) make_cache_directory(options.directory);
  std::unique_ptr<Store> store(new Store(std::move(options)));
  HADAL_TRY(store->rescan());
  const StoreOptions& with = store->options_;
  struct stat about {};
  if (with.warn && ::stat(with.directory.c_str(), &about) == 0 && (about.st_mode & (S_IWGRP | S_IWOTH)) != 0)
    with.warn(fmt::format("context cache: {} may be written by others (mode {:03o}): what they put there is read",
                          with.directory, about.st_mode & 0777));
  if (with.warn && store->counters_.evicted > 0)
    with.warn(fmt::format("context cache: {} units of {} were removed to fit its budget of {:.1f} GiB",
                          store->counters_.evicted, with.directory, static_cast<double>(with.budget) / (1 << 30)));
  store->saver_ = std::thread([s = store.get()] { s->save_loop(); });
  store->loader_ = std::thread([s = store.get()] { s->load_loop(); });
  return store;
}

Store::~Store() {
  {
    const std::lock_guard lock(queue_mutex_);
    stopping_ = true;
    give_up_ = std::chrono::steady_clock::now() + kLastSaves;
  }
  work_.notify_all();
  if (saver_.joinable()) saver_.join();
  if (loader_.joinable()) loader_.join();
}

// ---- the index

void Store::insert(Unit unit) {
  erase(unit.file);
  by_name_[unit.name].push_back(unit.file);
  by_use(unit).emplace(unit.used_ns, -unit.end, unit.file);
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
  by_use(unit).erase({unit.used_ns, -unit.end, file});
  --counters_.units;
  counters_.bytes -= unit.bytes;
  units_.erase(it);
}

// Units of this directory that other processes made, used and removed, and what was there before.
Status Store::rescan() {
  std::vector<std::string> names;
  if (disk_.list(options_.directory, names) != 0)
    return Error{Code::kIo, fmt::format("{}: cannot read: {}", options_.directory, std::strerror(errno))};
  const int64_t now = now_ns();
  std::set<std::string> there, known;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [file, unit] : units_) known.insert(file);
  }
  std::vector<Unit> found;
  std::vector<std::pair<std::string, int64_t>> used;
  int64_t n_damaged = 0;
  for (const std::string& file : names) {
    const std::string path = options_.directory + "/" + file;
    struct stat about {};
    const auto time = [&] { return about.st_mtim.tv_sec * kSecond + about.st_mtim.tv_nsec; };
    if (file.starts_with(kPart)) {  // of a writer that was killed, here or, long ago, elsewhere
      const std::string ours = fmt::format("{}{}-", kPart, host_mark());
      int pid = 0;
      if (file.starts_with(ours)) std::from_chars(file.data() + ours.size(), file.data() + file.size(), pid);
      if (options_.read_only || file.starts_with(part_prefix_) || disk_.stat(path, about) != 0) continue;
      const int64_t age = now - time();
      const bool is_left = pid == 0            ? age > kPartAge
                           : pid == ::getpid() ? age > kOwnPartAge  // of another life under the same number
                                               : ::kill(pid, 0) != 0 && errno == ESRCH;
      if (is_left) disk_.unlink(path);
      continue;
    }
    if (!is_unit_file_name(file) || disk_.stat(path, about) != 0) continue;
    if (known.contains(file)) {
      there.insert(file);
      used.emplace_back(file, time());
      continue;
    }
    int64_t size = 0;
    const auto header = read_unit_header(disk_, options_.directory, file, size);
    if (header.ok()) {
      const UnitHeader& h = header.value();
      found.push_back({h.parent, h.name, h.begin, h.end, bytes_on_disk(h, size), time(), file});
    } else if (header.error().code == Code::kCorrupt && !options_.read_only) {
      disk_.unlink(path);
      ++n_damaged;
    }
  }
  std::vector<std::string> evicted;
  {
    const std::lock_guard lock(mutex_);
    counters_.damaged += n_damaged;
    for (const std::string& file : known)
      if (!there.contains(file)) erase(file);
    for (const auto& [file, time] : used)
      if (const auto it = units_.find(file); it != units_.end() && time > it->second.used_ns) {
        Unit unit = it->second;
        unit.used_ns = time;
        insert(std::move(unit));
      }
    for (const Unit& unit : found) insert(unit);
    if (!options_.read_only) evicted = make_room(0);
  }
  unlink_all(evicted);
  tell_answers(std::move(found));
  return {};
}

bool Store::cover(const std::vector<Digest>& names, int64_t end, std::vector<char>& no_cover,
                  std::vector<Unit>& units) const {
  const auto k = static_cast<size_t>(end / kBlock);
  no_cover.resize(names.size(), 0);
  if (no_cover[k]) return false;
  if (const auto it = by_name_.find(names[k]); it != by_name_.end()) {
    std::vector<const Unit*> candidates;
    for (const std::string& file : it->second) candidates.push_back(&units_.at(file));
    std::sort(candidates.begin(), candidates.end(), [](const Unit* a, const Unit* b) { return a->begin < b->begin; });
    for (const Unit* unit : candidates) {
      if (unit->end != end || unit->parent != names[static_cast<size_t>(unit->begin / kBlock)]) continue;
      if (unit->begin > 0 && !cover(names, unit->begin, no_cover, units)) continue;
      units.push_back(*unit);
      return true;
    }
  }
  no_cover[k] = 1;
  return false;
}

Found Store::find(const std::vector<Digest>& names, int64_t most) {
  const std::lock_guard lock(mutex_);
  Found found;
  std::vector<char> no_cover;
  for (int64_t end = std::min(floor_block(most), static_cast<int64_t>(names.size() - 1) * kBlock); end > 0;
       end -= kBlock)
    if (cover(names, end, no_cover, found.units)) break;
  return found;
}

// One time for all of a chain: what a unit stands on is never older.
void Store::use(const std::vector<Unit>& units) {
  const int64_t time = now_ns();
  {
    const std::lock_guard lock(mutex_);
    for (const Unit& unit : units) {
      const auto it = units_.find(unit.file);
      if (it == units_.end()) continue;
      ByUse& order = by_use(it->second);
      order.erase({it->second.used_ns, -it->second.end, unit.file});
      it->second.used_ns = time;
      order.emplace(time, -it->second.end, unit.file);
    }
  }
  if (options_.read_only) return;
  for (const Unit& unit : units)  // fails on a read-only disk: others forget it sooner
    disk_.touch(options_.directory + "/" + unit.file, time);
}

void Store::remove_damaged(const std::string& file) {
  if (!options_.read_only) disk_.unlink(options_.directory + "/" + file);
  const std::lock_guard lock(mutex_);
  erase(file);
  ++counters_.damaged;
}

std::vector<std::string> Store::make_room(int64_t bytes) {
  std::vector<std::string> evicted;
  const auto evict = [&](const ByUse& order) {
    evicted.push_back(std::get<2>(*order.begin()));
    erase(evicted.back());
    ++counters_.evicted;
  };
  while (answers_by_use_.size() > kMostAnswers) evict(answers_by_use_);
  while (counters_.units > 0 && counters_.bytes + bytes > options_.budget)
    evict(by_use_.empty() || (!answers_by_use_.empty() && *answers_by_use_.begin() < *by_use_.begin()) ? answers_by_use_
                                                                                                       : by_use_);
  return evicted;
}

void Store::unlink_all(const std::vector<std::string>& files) {
  for (const std::string& file : files) disk_.unlink(options_.directory + "/" + file);
}

Status Store::prune(int64_t bytes) {
  HADAL_TRY(rescan());
  std::vector<std::string> evicted;
  {
    const std::lock_guard lock(mutex_);
    evicted = make_room(options_.budget - bytes);
  }
  unlink_all(evicted);
  return {};
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
  silent_until_ = std::chrono::steady_clock::now() + kSilence;
  if (!failing_ && options_.warn) options_.warn("context cache: " + error.message + "; serving without it for now");
  failing_ = true;
}

// ---- loading

Result<kv::Context> Store::load(const Found& found, std::span<const TokenId> ids) { return load(found, ids, nullptr); }

Result<kv::Context> Store::load(const Found& found, std::span<const TokenId> ids, const std::atomic<bool>* cancelled) {
  HADAL_CHECK(!found.units.empty() && found.length() <= static_cast<int64_t>(ids.size()));
  const int64_t start = now_ns();
  kv::SequenceState state(options_.layout);
  for (const Unit& unit : found.units) {
    if (cancelled && cancelled->load()) return Error{Code::kCancelled, "cancelled"};
    const Status read = read_unit(disk_, options_.directory, unit.file, ids, &unit == &found.units.back(), state);
    if (read.ok()) continue;
    if (read.error().code == Code::kCorrupt) {
      remove_damaged(unit.file);
    } else {
      const std::lock_guard lock(mutex_);
      erase(unit.file);
      if (read.error().code == Code::kIo) failed(read.error());
    }
    return Error{Code::kNotFound, read.error().message};
  }
  use(found.units);
  const std::lock_guard lock(mutex_);
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
      if (stopping_) job.loading->cancelled.store(true);
    }
    job.loading->result = load(job.found, job.ids, &job.loading->cancelled);
    job.loading->ready.store(true);
    const std::lock_guard lock(queue_mutex_);
    if (on_loaded_) on_loaded_();
  }
}

// ---- answers

void Store::tell_answers(std::vector<Unit> units) {
  std::erase_if(units, [&](const Unit& unit) { return !unit.is_answer() || unit.parent != root({}); });
  std::sort(units.begin(), units.end(), [](const Unit& a, const Unit& b) { return a.used_ns < b.used_ns; });
  const std::lock_guard lock(answer_mutex_);
  if (!on_answer_) return;
  for (const Unit& unit : units) {
    const auto answer = read_unit_answer(disk_, options_.directory, unit.file);
    if (answer.ok()) {
      on_answer_(answer.value());
    } else if (answer.error().code == Code::kCorrupt) {
      remove_damaged(unit.file);
    }
  }
}

void Store::on_answer(std::function<void(const std::string&)> call, int64_t most_bytes) {
  {
    const std::lock_guard lock(answer_mutex_);
    on_answer_ = std::move(call);
  }
  std::vector<Unit> latest;
  {
    const std::lock_guard lock(mutex_);
    for (auto it = answers_by_use_.rbegin(); it != answers_by_use_.rend(); ++it) {
      const Unit& unit = units_.at(std::get<2>(*it));
      if (unit.parent != root({})) continue;  // another model's
      most_bytes -= unit.bytes;
      if (most_bytes < 0) break;
      latest.push_back(unit);
    }
  }
  tell_answers(std::move(latest));
}

// ---- saving

Status Store::save(const std::vector<Digest>& names, const kv::Context& context) {
  const int64_t end = context.state.length();
  HADAL_CHECK(end > 0 && end % kBlock == 0 && static_cast<int64_t>(names.size()) > end / kBlock);
  std::vector<Unit> below;
  {
    const std::lock_guard lock(mutex_);
    std::vector<char> no_cover;
    if (cover(names, end, no_cover, below)) return {};
    if (is_silent() || options_.read_only) {
      ++counters_.skipped;
      return {};
    }
    for (int64_t at = end - kBlock; at > 0 && below.empty(); at -= kBlock) cover(names, at, no_cover, below);
  }
  const int64_t begin = below.empty() ? 0 : below.back().end;
  NewUnit unit(names, options_.identity.model, begin, context.state, context.ids);
  use(below);  // it must not go to make room for what stands on it
  {
    const std::lock_guard lock(mutex_);
    int64_t chain = unit.bytes();
    bool is_broken = false;
    for (const Unit& one : below) {
      chain += one.bytes;
      is_broken |= !units_.contains(one.file);
    }
    if (is_broken || chain > options_.budget) {
      ++counters_.skipped;
      return {};
    }
  }
  HADAL_TRY(add(unit));
  below.push_back({.end = end, .file = unit_file_name(names[static_cast<size_t>(end / kBlock)], begin)});
  use(below);
  return {};
}

Status Store::save_answer(const std::string& answer) {
  NewUnit unit(root({}), options_.identity.model, answer);
  bool is_there = false;
  {
    const std::lock_guard lock(mutex_);
    is_there = units_.contains(unit.file_name());
    if (!is_there &&
        (is_silent() || options_.read_only || bytes_on_disk(unit.header(), unit.bytes()) > options_.budget)) {
      ++counters_.skipped;
      return {};
    }
  }
  if (!is_there) return add(unit);
  use({{.file = unit.file_name()}});
  return {};
}

Status Store::add(NewUnit& unit) {
  const int64_t start = now_ns();
  const double cpu_start = thread_cpu_seconds();
  const UnitHeader& header = unit.header();
  const int64_t bytes = bytes_on_disk(header, unit.bytes());
  std::string part;
  std::vector<std::string> evicted;
  {
    const std::lock_guard lock(mutex_);
    evicted = make_room(bytes);
    part = part_prefix_ + std::to_string(n_parts_++);
  }
  unlink_all(evicted);
  Status written = unit.write(disk_, options_.directory, part);
  if (!written.ok() && written.error().code == Code::kNotFound) {  // somebody has removed the directory
    make_cache_directory(options_.directory);
    written = unit.write(disk_, options_.directory, part);
  }
  const std::lock_guard lock(mutex_);
  if (!written.ok()) {
    failed(written.error());
    return written;
  }
  failing_ = false;
  insert({header.parent, header.name, header.begin, header.end, bytes, now_ns(), unit.file_name()});
  ++counters_.saved;
  counters_.saved_bytes += unit.bytes();
  counters_.save_s += seconds_since(start);
  counters_.save_cpu_s += thread_cpu_seconds() - cpu_start;
  return {};
}

void Store::save_later(std::vector<Digest> names, kv::Context context) {
  SaveJob job{std::move(names), std::move(context), {}};
  {
    const std::lock_guard lock(queue_mutex_);
    if (n_states_ >= kMostSaves) {
      saved_.push_back(std::move(job));
      const std::lock_guard counters_lock(mutex_);
      ++counters_.skipped;
      return;
    }
    ++n_states_;
    saves_.push_back(std::move(job));
  }
  work_.notify_all();
}

void Store::save_answer_later(std::string answer) {
  {
    const std::lock_guard lock(queue_mutex_);
    if (n_answer_bytes_ + answer.size() > kMostAnswerBytes) {
      const std::lock_guard counters_lock(mutex_);
      ++counters_.skipped;
      return;
    }
    n_answer_bytes_ += answer.size();
    saves_.push_back({{}, std::nullopt, std::move(answer)});
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
  using Clock = std::chrono::steady_clock;
  auto scanned = Clock::now();
  while (true) {
    std::optional<SaveJob> job;
    {
      std::unique_lock lock(queue_mutex_);
      saving_ = false;
      if (saves_.empty()) idle_.notify_all();
      work_.wait_until(lock, scanned + kScanEvery, [this] { return stopping_ || !saves_.empty(); });
      if (stopping_ && !saves_.empty() && Clock::now() >= give_up_) {
        if (options_.warn)
          options_.warn(
              fmt::format("context cache: the disk is slow; {} states and answers were not saved", saves_.size()));
        return;
      }
      if (saves_.empty() && stopping_) return;
      if (!saves_.empty() && (stopping_ || Clock::now() < scanned + kScanEvery)) {
        job.emplace(std::move(saves_.front()));
        saves_.pop_front();
        if (!job->context) n_answer_bytes_ -= job->answer.size();
        saving_ = true;
      }
    }
    if (!job) {
      scanned = Clock::now();
      if (const Status status = rescan(); !status.ok()) {
        const std::lock_guard lock(mutex_);
        failed(status.error());
      }
      continue;
    }
    if (!job->context) {
      (void)save_answer(job->answer);  // failures are counted
      continue;
    }
    (void)save(job->names, *job->context);
    const std::lock_guard lock(queue_mutex_);
    --n_states_;
    saved_.push_back(std::move(*job));
  }
}

}  // namespace hadal::cache
