// The cache on disk: names, units, the store; damage, faults of the n-th system call, a writer killed at random points.

#include "cache/store.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <xxhash.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <random>

#include "cache/resident.h"
#include "cache/unit.h"
#include "tests/support/fake_decoder.h"
#include "tests/support/fast_disk.h"
#include "tests/support/saved_state.h"
#include "tests/support/shared.h"

namespace hadal::cache {
namespace {

namespace fs = std::filesystem;

std::shared_ptr<const kv::Layout> layout() {
  static const auto shared = std::make_shared<const kv::Layout>(
      kv::Layout{.n_nope = 64, .n_rope = 16, .index_dim = 32, .window = 8, .hidden_floats = 4, .ratios = {4, 128, 0}});
  return shared;
}

// A state that is a function of its ids: rows are hashes of all ids before them.
kv::Context state_of(std::vector<TokenId> ids) {
  kv::SequenceState state(layout());
  uint64_t hash = 1;
  const auto fill = [&](std::byte* row, int64_t size) {
    for (int64_t i = 0; i < size; ++i)
      row[i] = static_cast<std::byte>((hash >> (i % 8 * 8)) + static_cast<uint64_t>(i));
  };
  for (const TokenId id : ids) {
    hash = (hash ^ static_cast<uint64_t>(id)) * 0x9E3779B97F4A7C15u;
    const int64_t at = state.length();
    for (int i = 0; i < layout()->n_layers(); ++i) {
      kv::LayerState& layer = state.layer(i);
      fill(layer.window.row(at), layer.window.row_bytes());
      const int ratio = layout()->ratio(i);
      if (ratio == 0) continue;
      for (kv::RowRing* ring : {&layer.values, &layer.gates, &layer.index_values, &layer.index_gates})
        if (ring->capacity() > 0) fill(ring->row(at), ring->row_bytes());
      if ((at + 1) % ratio != 0) continue;
      fill(layer.entries.append(), layer.entries.row_bytes());
      if (ratio == 4) fill(layer.index_entries.append(), layer.index_entries.row_bytes());
    }
    state.advance(1);
  }
  state.last_hidden().assign(4, static_cast<float>(hash % 1000));
  return {std::move(state), std::move(ids)};
}

std::vector<TokenId> ids_of(uint64_t seed, int64_t n) {
  std::mt19937_64 random(seed);
  std::vector<TokenId> ids(static_cast<size_t>(n));
  for (TokenId& id : ids) id = static_cast<TokenId>(random() % 1000);
  return ids;
}

bool same(const kv::SequenceState& a, const kv::SequenceState& b) {
  const auto x = testing::save(a), y = testing::save(b);
  return x.ranges == y.ranges && x.snapshot == y.snapshot && x.draft == y.draft;
}

const Identity kIdentity{.model = "micro", .fingerprint = "f00d", .arithmetic = 1};

StoreOptions options(const std::string& directory, Disk* disk = &testing::fast_disk()) {
  return {.directory = directory,
          .budget = int64_t{1} << 30,
          .identity = kIdentity,
          .layout = layout(),
          .warn = {},
          .disk = disk};
}

std::vector<Digest> names_of(const std::vector<TokenId>& ids, std::string_view space = "",
                             const Identity& identity = kIdentity) {
  std::vector<Digest> names{root_name(space, identity, *layout())};
  extend_names(names, ids);
  return names;
}

std::vector<TokenId> cut(const std::vector<TokenId>& ids, int64_t n) { return {ids.begin(), ids.begin() + n}; }

std::vector<std::string> files_in(const std::string& directory) {
  std::vector<std::string> files;
  for (const auto& entry : fs::directory_iterator(directory)) files.push_back(entry.path().filename());
  std::sort(files.begin(), files.end());
  return files;
}

TEST(Names, AreThoseOfAllThatMustAgree) {
  const auto ids = ids_of(1, 1000);
  const auto names = names_of(ids);
  ASSERT_EQ(names.size(), 8u);  // root and seven whole blocks
  std::vector<Digest> grown{names[0]};
  for (const int64_t n : {100, 128, 300, 700, 1000}) extend_names(grown, std::span(ids).first(static_cast<size_t>(n)));
  EXPECT_EQ(grown, names);
  auto other = ids;
  other[300] ^= 1;  // in the third block: names differ from there on
  const auto changed = names_of(other);
  for (size_t k = 0; k < names.size(); ++k) EXPECT_EQ(changed[k] == names[k], k < 3) << k;
  EXPECT_NE(names_of(ids, "a"), names);
  EXPECT_NE(names_of(ids, "", {.model = "micro", .fingerprint = "f00e", .arithmetic = 1})[0], names[0]);
  EXPECT_NE(names_of(ids, "", {.model = "micro", .fingerprint = "f00d", .arithmetic = 2})[0], names[0]);
  EXPECT_EQ(names_of(ids, "", {.model = "another name", .fingerprint = "f00d", .arithmetic = 1}), names);
  kv::Layout exact = *layout();
  exact.numerics = Numerics::kExact;
  EXPECT_NE(root_name("", kIdentity, exact), names[0]);
}

TEST(Store, ALongerPrefixAddsItsRangeAndEveryOneComesBackBitForBit) {
  const std::string directory = testing::temp_dir("store") + "/cache";
  const auto ids = ids_of(2, 1024);
  const auto names = names_of(ids);
  int64_t bytes = 0;
  {
    const auto store = Store::open(options(directory, nullptr)).value();
    for (const int64_t end : {256, 384, 1024}) {
      ASSERT_TRUE(store->save(names, state_of(cut(ids, end))).ok());
      const int64_t begin = end == 256 ? 0 : end == 384 ? 256 : 384;
      const int64_t entries = layout()->entry_bytes_at(end) - layout()->entry_bytes_at(begin);
      const int64_t added = store->counters().bytes - bytes;
      EXPECT_GE(added, entries + 4 * (end - begin));
      EXPECT_LE(added, entries + 4 * (end - begin) + layout()->constant_bytes() + 1024);
      bytes += added;
    }
    ASSERT_TRUE(store->save(names, state_of(cut(ids, 384))).ok());  // is there
    EXPECT_EQ(store->counters().saved, 3);
    EXPECT_EQ(store->counters().units, 3);
  }
  struct stat about {};
  for (const std::string& file : files_in(directory)) {
    ASSERT_EQ(::stat((directory + "/" + file).c_str(), &about), 0);
    EXPECT_EQ(about.st_mode & 0777, 0600u);
  }
  ASSERT_EQ(::stat(directory.c_str(), &about), 0);
  EXPECT_EQ(about.st_mode & 0777, 0700u);

  const auto store = Store::open(options(directory)).value();  // another process
  EXPECT_EQ(store->counters().bytes, bytes);
  for (const int64_t most : {0, 127, 255, 256, 383, 384, 1023, 1024, 5000}) {
    const Found found = store->find(names, most);
    EXPECT_EQ(found.length(), most < 256 ? 0 : most < 384 ? 256 : most < 1024 ? 384 : 1024) << most;
    if (found.length() == 0) continue;
    const auto loaded = store->load(found, ids);
    ASSERT_TRUE(loaded.ok()) << loaded.error().message;
    EXPECT_TRUE(same(loaded.value().state, state_of(cut(ids, found.length())).state));
    EXPECT_EQ(loaded.value().ids, cut(ids, found.length()));
  }
  EXPECT_EQ(store->find(names_of(ids, "another user"), 1024).length(), 0);
  // A branch stands on what both share.
  auto branch = cut(ids, 500);
  const auto more = ids_of(3, 300);
  branch.insert(branch.end(), more.begin(), more.end());
  ASSERT_TRUE(store->save(names_of(branch), state_of(cut(branch, 768))).ok());
  const Found found = store->find(names_of(branch), 800);
  ASSERT_EQ(found.units.size(), 3u);
  EXPECT_EQ(found.units[2].begin, 384);
  EXPECT_TRUE(same(store->load(found, branch).value().state, state_of(cut(branch, 768)).state));
}

TEST(Store, DamageIsAMissAndIsRemoved) {
  const uint64_t seed = 20261128;
  std::mt19937_64 random(seed);
  const std::string directory = testing::temp_dir("store-damage") + "/cache";
  const auto ids = ids_of(4, 512);
  const auto names = names_of(ids);
  for (int round = 0; round < 300; ++round) {
    SCOPED_TRACE(::testing::Message() << "seed " << seed << " round " << round);
    fs::remove_all(directory);
    {
      const auto store = Store::open(options(directory)).value();
      ASSERT_TRUE(store->save(names, state_of(cut(ids, 256))).ok());
      ASSERT_TRUE(store->save(names, state_of(ids)).ok());
    }
    const auto files = files_in(directory);
    ASSERT_EQ(files.size(), 2u);
    const auto open_before = round % 2 ? Store::open(options(directory)).value() : nullptr;  // its index is made
    const std::string path = directory + "/" + files[random() % 2];
    const auto size = static_cast<int64_t>(fs::file_size(path));
    switch (random() % 4) {
      case 0: {  // a byte anywhere
        std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
        const auto at = static_cast<std::streamoff>(random() % static_cast<uint64_t>(size));
        file.seekg(at);
        const char byte = static_cast<char>(file.get());
        file.seekp(at);
        file.put(static_cast<char>(byte ^ (1 << random() % 8)));
        break;
      }
      case 1:
        fs::resize_file(path, random() % static_cast<uint64_t>(size));
        break;
      case 2:
        std::ofstream(path, std::ios::app | std::ios::binary) << "more";
        break;
      default:  // a good unit under the other one's name
        fs::copy_file(directory + "/" + files[path.ends_with(files[0]) ? 1 : 0], path,
                      fs::copy_options::overwrite_existing);
    }
    const auto opened = open_before ? nullptr : Store::open(options(directory)).value();
    Store& store = open_before ? *open_before : *opened;
    // What is loaded is right; both lengths, since the snapshot of the shorter is no part of the longer.
    for (const int64_t most : {512, 512, 512, 256}) {
      const Found found = store.find(names, most);
      if (found.length() == 0) continue;
      const auto loaded = store.load(found, ids);
      if (!loaded.ok()) continue;
      EXPECT_TRUE(same(loaded.value().state, state_of(cut(ids, found.length())).state));
    }
    EXPECT_FALSE(fs::exists(path)) << "damaged and still there";
    EXPECT_EQ(store.counters().damaged, 1);
    // What was lost is written again.
    ASSERT_TRUE(store.save(names, state_of(ids)).ok());
    EXPECT_EQ(store.find(names, 512).length(), 512);
  }
}

TEST(Store, TheBudgetHoldsAndChildrenGoBeforeParents) {
  const std::string directory = testing::temp_dir("store-budget") + "/cache";
  StoreOptions small = options(directory);
  small.budget = 300'000;
  const auto store = Store::open(small).value();
  std::mt19937_64 random(5);
  std::vector<std::vector<TokenId>> conversations;
  for (uint64_t i = 0; i < 6; ++i) conversations.push_back(ids_of(100 + i, 2048));
  for (int i = 0; i < 400; ++i) {
    const auto& ids = conversations[random() % conversations.size()];
    const auto names = names_of(ids);
    if (random() % 2) {
      ASSERT_TRUE(store->save(names, state_of(cut(ids, 128 * (1 + static_cast<int64_t>(random() % 16))))).ok());
    } else if (const Found found = store->find(names, 2048); found.length() > 0) {
      ASSERT_TRUE(store->load(found, ids).ok());
    }
    ASSERT_LE(store->counters().bytes, small.budget);
    for (const Unit& unit : store->units()) {  // nothing stands on what has gone
      bool has_parent = unit.begin == 0;
      for (const Unit& other : store->units()) has_parent |= other.name == unit.parent;
      ASSERT_TRUE(has_parent) << "tokens " << unit.begin << ".." << unit.end;
    }
  }
  EXPECT_GT(store->counters().evicted, 50);
  int64_t on_disk = 0;
  for (const std::string& file : files_in(directory))
    on_disk += static_cast<int64_t>(fs::file_size(directory + "/" + file));
  EXPECT_EQ(on_disk, store->counters().bytes);
  ASSERT_TRUE(store->prune(0).ok());
  EXPECT_TRUE(files_in(directory).empty());
}

// A server's steady state: full, and every save drives something out. HADAL_SOAK_SECONDS for longer than a moment.
TEST(Store, SteadyEvictionStaysUnderItsBudgetAndLeavesNothingBehind) {
  const char* asked = std::getenv("HADAL_SOAK_SECONDS");
  const std::string directory = testing::temp_dir("store-soak") + "/cache";
  StoreOptions small = options(directory);
  small.budget = asked ? 150'000'000 : 1'500'000;  // some ten thousand units, or a hundred
  std::mt19937_64 random(6);
  {
    const auto store = Store::open(small).value();
    const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(asked ? std::atoi(asked) : 1);
    int64_t memory = 0;
    for (int64_t i = 0; std::chrono::steady_clock::now() < until || store->counters().evicted < 100; ++i) {
      const auto ids = ids_of(random() % 40'000, 128 * (1 + static_cast<int64_t>(random() % 3)));
      const auto names = names_of(ids);
      if (const Found found = store->find(names, 384); found.length() > 0) {
        ASSERT_TRUE(store->load(found, ids).ok());
      }
      store->save_later(names, state_of(ids));
      if (i % 8 == 0) store->flush();
      store->collect();
      ASSERT_LE(store->counters().bytes, small.budget);
      if (i % 20'000 == 0) {  // memory: resident pages, from the time on when the index is full
        std::ifstream statm("/proc/self/statm");
        int64_t size = 0, resident = 0;
        statm >> size >> resident;
        if (memory == 0 && store->counters().evicted > 1000) memory = resident;
        if (memory > 0) {
          ASSERT_LE(resident, memory + memory / 4 + 4096);
        }
      }
    }
    store->flush();
    const StoreCounters counters = store->counters();
    fmt::print("{} units, {} bytes of {}; {} saved, {} evicted\n", counters.units, counters.bytes, small.budget,
               counters.saved, counters.evicted);
    EXPECT_EQ(counters.failed, 0);
    EXPECT_EQ(counters.damaged, 0);
    const auto files = files_in(directory);
    EXPECT_EQ(files.size(), static_cast<size_t>(counters.units));
  }
  Disk disk;
  for (const std::string& file : files_in(directory)) {
    ASSERT_TRUE(is_unit_file_name(file)) << file;
    ASSERT_TRUE(check_unit(disk, directory, file).ok());
  }
  fs::remove_all(directory);
}

TEST(Store, WhatCannotFitDrivesNothingOut) {
  const std::string directory = testing::temp_dir("store-large") + "/cache";
  StoreOptions small = options(directory);
  small.budget = 120'000;
  const auto store = Store::open(small).value();
  for (uint64_t i = 0; i < 5; ++i) ASSERT_TRUE(store->save(names_of(ids_of(i, 128)), state_of(ids_of(i, 128))).ok());
  const int64_t units = store->counters().units;
  const auto large = ids_of(9, 128 * 40);
  ASSERT_TRUE(store->save(names_of(large), state_of(large)).ok());
  EXPECT_EQ(store->counters().skipped, 1);
  EXPECT_EQ(store->counters().units, units);
}

// Files that somebody made to hurt: good sums, and numbers that lead to huge memory, long waits or deep searches.
TEST(Store, HostileFilesAreRefusedBeforeTheyCostAnything) {
  const std::string directory = testing::temp_dir("store-hostile") + "/cache";
  fs::create_directories(directory);
  const auto forge = [&](int64_t begin, int64_t end, const Digest& parent, const Digest& name, uint64_t ids,
                         uint64_t snapshot, char version = '1') {
    UnitHeader header;
    std::memcpy(header.magic, UnitHeader::kMagic, sizeof header.magic);
    header.magic[7] = version;
    header.begin = begin;
    header.end = end;
    header.parent = parent;
    header.name = name;
    header.sections[0] = {Section::kIds, 0, sizeof header, ids, 0};
    header.sections[1] = {Section::kEntries, 0, sizeof header + ids, 0, 0};
    header.sections[2] = {Section::kSnapshot, 0, sizeof header + ids, snapshot, 0};
    header.sum = XXH3_64bits(&header, offsetof(UnitHeader, sum));
    const std::string path = directory + "/" + unit_file_name(name, begin);
    std::ofstream(path, std::ios::binary).write(reinterpret_cast<const char*>(&header), sizeof header);
    fs::resize_file(path, sizeof header + ids + snapshot);
    return path;
  };
  const auto ids = ids_of(20, 128 * 60);
  const auto names = names_of(ids);
  const std::string endless = forge(0, (int64_t{1} << 62) + 128, names[0], names[1], 512, 0);
  const std::string sparse = forge(0, 256, names[0], names[2], 1024, uint64_t{1} << 40);
  const std::string later = forge(0, 384, names[0], names[3], 512, 0, '7');
  const std::string empty = forge(0, 0, root_name("", kIdentity, *layout()), names[5], 0, 0);  // an answer without one
  const std::string pipe = directory + "/" + unit_file_name(names[4], 0);
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  // Two units that end at every block, and none that begins at 0: a search without memory would double at each.
  for (size_t k = 3; k < names.size(); ++k)
    for (const size_t back : {1, 2})
      forge(static_cast<int64_t>(k - back) * 128, static_cast<int64_t>(k) * 128, names[k - back], names[k], 512 * back,
            0);
  const auto store = Store::open(options(directory)).value();
  EXPECT_FALSE(fs::exists(endless));
  EXPECT_FALSE(fs::exists(pipe));
  EXPECT_TRUE(fs::exists(later)) << "another version's is not ours to remove";
  const Found found = store->find(names, 128 * 60);
  if (found.length() > 0) {
    EXPECT_FALSE(store->load(found, ids).ok());
  }
  EXPECT_EQ(store->find(names, 128 * 60).length(), 0);
  EXPECT_FALSE(fs::exists(sparse));
  store->on_answer([](const std::string& answer) { FAIL() << answer; }, 1 << 20);
  EXPECT_FALSE(fs::exists(empty));
  store->on_answer({}, 0);
}

TEST(Store, SeveralProcessesShareADirectory) {
  const std::string directory = testing::temp_dir("store-shared") + "/cache";
  const auto a = Store::open(options(directory)).value(), b = Store::open(options(directory)).value();
  const auto ids = ids_of(6, 512);
  const auto names = names_of(ids);
  ASSERT_TRUE(a->save(names, state_of(cut(ids, 256))).ok());
  ASSERT_TRUE(b->save(names, state_of(cut(ids, 256))).ok());  // does not know it yet: the same file again
  EXPECT_EQ(files_in(directory).size(), 1u);
  ASSERT_TRUE(b->save(names, state_of(ids)).ok());
  ASSERT_TRUE(a->rescan().ok());
  const Found found = a->find(names, 512);
  EXPECT_EQ(found.length(), 512);
  ASSERT_TRUE(b->prune(0).ok());  // gone under a's feet: a miss, no error
  const auto loaded = a->load(found, ids);
  ASSERT_FALSE(loaded.ok());
  EXPECT_EQ(loaded.error().code, Code::kNotFound);
  ASSERT_TRUE(a->rescan().ok());
  EXPECT_EQ(a->find(names, 512).length(), 0);
  EXPECT_EQ(a->counters().damaged, 0);
}

TEST(Store, SavesAndLoadsBesideTheOwner) {
  const std::string directory = testing::temp_dir("store-later") + "/cache";
  std::atomic<int> n_loaded{0};
  const StoreOptions with = options(directory);
  const auto ids = ids_of(7, 1024);
  const auto names = names_of(ids);
  {
    const auto store = Store::open(with).value();
    for (int64_t end = 128; end <= 1024; end += 128) {
      kv::Context context = state_of(cut(ids, end));
      store->save_later(names, {context.state.fork(), context.ids});
      store->collect();
    }
  }  // waits
  const auto store = Store::open(with).value();
  store->on_loaded([&] { ++n_loaded; });
  const auto loading = store->load_later(store->find(names, 1024), ids);
  while (!loading->ready.load()) ::usleep(1000);
  ASSERT_TRUE(loading->result->ok());
  EXPECT_TRUE(same(loading->result->value().state, state_of(ids).state));
  while (n_loaded == 0) ::usleep(1000);
}

// Fails one call, and, if it is a write, the way a full disk does.
class FaultyDisk : public testing::FastDisk {
 public:
  explicit FaultyDisk(int64_t fails_at) : left_(fails_at) {}
  bool happened() const { return left_ < 0; }

  int open(const std::string& path, int flags) override { return fails() ? fail(EMFILE) : Disk::open(path, flags); }
  int close(int fd) override {
    const bool fail_now = fails();
    const int result = Disk::close(fd);
    return fail_now ? fail(EIO) : result;
  }
  int64_t writev(int fd, const iovec* parts, int n) override {
    if (!fails()) return Disk::writev(fd, parts, n);
    const iovec half{parts[0].iov_base, parts[0].iov_len / 2};  // torn
    Disk::writev(fd, &half, 1);
    return fail(ENOSPC);
  }
  int64_t preadv(int fd, const iovec* parts, int n, int64_t offset) override {
    return fails() ? fail(EIO) : Disk::preadv(fd, parts, n, offset);
  }
  int fsync(int fd) override { return fails() ? fail(EIO) : FastDisk::fsync(fd); }
  int rename(const std::string& from, const std::string& to) override {
    return fails() ? fail(EACCES) : Disk::rename(from, to);
  }
  int unlink(const std::string& path) override { return fails() ? fail(EACCES) : Disk::unlink(path); }
  int stat(const std::string& path, struct stat& out) override { return fails() ? fail(EIO) : Disk::stat(path, out); }
  int touch(const std::string& path, int64_t time_ns) override {
    return fails() ? fail(EROFS) : Disk::touch(path, time_ns);
  }
  int list(const std::string& directory, std::vector<std::string>& names) override {
    return fails() ? fail(EIO) : Disk::list(directory, names);
  }

 private:
  bool fails() { return left_-- == 0; }
  static int fail(int error) {
    errno = error;
    return -1;
  }
  std::atomic<int64_t> left_;
};

TEST(Store, ADiskThatFailsAtAnyCallCostsNothingButTheCache) {
  const std::string directory = testing::temp_dir("store-fault") + "/cache";
  const auto ids = ids_of(8, 512), other = ids_of(9, 256);
  const auto names = names_of(ids);
  int64_t n = 0;
  for (;; ++n) {
    SCOPED_TRACE(n);
    fs::remove_all(directory);
    {
      const auto before = Store::open(options(directory)).value();
      ASSERT_TRUE(before->save(names, state_of(cut(ids, 256))).ok());
    }
    FaultyDisk disk(n);
    int warnings = 0;
    StoreOptions with = options(directory, &disk);
    with.warn = [&](const std::string&) { ++warnings; };
    with.budget = 45'000;  // something has to go on the way
    {
      const auto opened = Store::open(with);
      if (opened.ok()) {
        Store& store = *opened.value();
        const bool saved = store.save(names, state_of(ids)).ok();
        const Found found = store.find(names, 512);
        if (found.length() > 0) {
          const auto loaded = store.load(found, ids);
          if (loaded.ok()) {
            EXPECT_TRUE(same(loaded.value().state, state_of(cut(ids, found.length())).state));
          }
        }
        (void)store.save(names_of(other), state_of(other));
        store.save_answer_later("what was said");
        store.flush();
        int64_t n_said = 0;
        store.on_answer([&](const std::string& answer) { n_said += answer == "what was said"; }, 1 << 20);
        EXPECT_LE(n_said, 1);
        EXPECT_LE(warnings, 1);
        if (!saved) {
          EXPECT_EQ(store.counters().failed, 1);
        }
        store.on_answer({}, 0);
      }
    }
    // Whatever happened, what is there is whole, and no more than it may be.
    for (const std::string& file : files_in(directory)) {
      if (!is_unit_file_name(file)) continue;  // a part whose removal failed: the next one to open removes it
      Disk real;
      EXPECT_TRUE(check_unit(real, directory, file).ok()) << file;
    }
    if (!disk.happened()) break;
  }
  EXPECT_GT(n, 30) << "the scenario makes that many calls";
}

TEST(Store, AWriterKilledAtAnyPointLeavesWholeUnitsAndEveryOneItWasToldOf) {
  const uint64_t seed = 77;
  std::mt19937_64 random(seed);
  const std::string directory = testing::temp_dir("store-kill") + "/cache";
  const auto ids = ids_of(10, 128 * 64);
  const auto names = names_of(ids);
  std::vector<kv::Context> states;
  for (int64_t end = 128; end <= 128 * 64; end += 128) states.push_back(state_of(cut(ids, end)));
  int64_t told = 0, n_parts = 0;
  for (int round = 0; round < 200; ++round) {
    SCOPED_TRACE(::testing::Message() << "seed " << seed << " round " << round);
    if (round % 20 == 0) fs::remove_all(directory), told = 0;
    int pipe[2];
    ASSERT_EQ(::pipe(pipe), 0);
    const pid_t child = ::fork();
    if (child == 0) {
      auto store = Store::open(options(directory));
      if (!store.ok()) ::_exit(1);
      for (const kv::Context& context : states)
        if (store.value()->save(names, context).ok()) {
          const int64_t end = context.state.length();
          if (::write(pipe[1], &end, sizeof end) != sizeof end) ::_exit(1);
        }
      ::_exit(0);
    }
    ::close(pipe[1]);
    int64_t end = 0;
    for (uint64_t i = random() % 20; i > 0 && ::read(pipe[0], &end, sizeof end) == sizeof end; --i)
      told = std::max(told, end);
    ::usleep(static_cast<useconds_t>(random() % 1000));
    ::kill(child, SIGKILL);
    int status = 0;
    ::waitpid(child, &status, 0);
    while (::read(pipe[0], &end, sizeof end) == sizeof end) told = std::max(told, end);
    ::close(pipe[0]);
    for (const auto& entry : fs::directory_iterator(directory)) n_parts += entry.path().filename().string()[0] == '.';

    const auto store = Store::open(options(directory)).value();
    EXPECT_EQ(store->counters().damaged, 0);
    for (const std::string& file : files_in(directory)) EXPECT_TRUE(is_unit_file_name(file)) << file << " is left over";
    if (told == 0) continue;
    const Found found = store->find(names, 128 * 64);
    ASSERT_GE(found.length(), told) << "what was durable is lost";
    const auto loaded = store->load(found, ids);
    ASSERT_TRUE(loaded.ok()) << loaded.error().message;
    EXPECT_TRUE(same(loaded.value().state, states[static_cast<size_t>(found.length() / 128 - 1)].state));
  }
  EXPECT_GT(n_parts, 0) << "none was killed while it wrote";
}

TEST(Store, ADirectoryThatCannotBeMadeOrWrittenIsSaid) {
  EXPECT_FALSE(Store::open(options("/proc/no/such/place")).ok());
  int warnings = 0;
  StoreOptions with = options(testing::temp_dir("store-gone") + "/cache");
  with.warn = [&](const std::string& line) {
    ++warnings;
    EXPECT_NE(line.find("cannot create"), std::string::npos) << line;
  };
  const auto store = Store::open(with).value();
  fs::remove_all(with.directory);
  std::ofstream(with.directory) << "no directory";
  const auto ids = ids_of(11, 256);
  for (int i = 0; i < 3; ++i) (void)store->save(names_of(ids), state_of(ids));
  EXPECT_EQ(warnings, 1);
  EXPECT_EQ(store->counters().failed, 1);
  EXPECT_EQ(store->counters().skipped, 2);
}

TEST(Store, MakesItsDirectoryForItsOwnerAndMakesItAgain) {
  const std::string directory = testing::temp_dir("store-mode") + "/deep/cache";
  make_cache_directory(directory);
  EXPECT_EQ(fs::status(directory).permissions(), fs::perms::owner_all);
  const auto store = Store::open(options(directory)).value();
  fs::remove_all(directory);
  const auto ids = ids_of(40, 256);
  ASSERT_TRUE(store->save(names_of(ids), state_of(ids)).ok());
  EXPECT_EQ(fs::status(directory).permissions(), fs::perms::owner_all);
  EXPECT_EQ(store->counters().failed, 0);
  fs::permissions(directory, fs::perms::all);
  StoreOptions with = options(directory);
  std::vector<std::string> warnings;
  with.warn = [&](const std::string& line) { warnings.push_back(line); };
  with.budget = 100;
  const auto again = Store::open(with).value();
  ASSERT_EQ(warnings.size(), 2u);
  EXPECT_NE(warnings[0].find("may be written by others (mode 777)"), std::string::npos) << warnings[0];
  EXPECT_NE(warnings[1].find("1 units of"), std::string::npos) << warnings[1];
}

// Nobody waits long for a disk that has stopped, at the end, and memory does not fill.
TEST(Store, AnswersThatAStuckDiskCannotTakeAreDropped) {
  class Stuck : public testing::FastDisk {
   public:
    int rename(const std::string& from, const std::string& to) override {
      while (is_stuck) ::usleep(1000);
      return Disk::rename(from, to);
    }
    std::atomic<bool> is_stuck{true};
  } disk;
  const std::string directory = testing::temp_dir("store-stuck") + "/cache";
  const auto store = Store::open(options(directory, &disk)).value();
  for (int i = 0; i < 100; ++i) store->save_answer_later(std::string(1 << 20, static_cast<char>('a' + i % 26)));
  EXPECT_GT(store->counters().skipped, 30);
  disk.is_stuck = false;
  store->flush();
  EXPECT_EQ(store->counters().saved, 26) << "the others are the same";
}

TEST(Store, TheLatestAnswersOfThisModelAreTold) {
  const std::string directory = testing::temp_dir("store-told") + "/cache";
  StoreOptions other = options(directory);
  other.identity.fingerprint = "another";
  const auto mine = Store::open(options(directory)).value(), foreign = Store::open(other).value();
  for (int i = 0; i < 10; ++i) mine->save_answer_later("mine " + std::to_string(i));
  mine->flush();
  for (int i = 0; i < 50; ++i) foreign->save_answer_later("foreign " + std::to_string(i));
  foreign->flush();
  ASSERT_TRUE(mine->rescan().ok());
  mine->save_answer_later("mine 2");  // used again
  mine->flush();
  EXPECT_EQ(mine->counters().units, 60);
  std::vector<std::string> told;
  mine->on_answer([&](const std::string& answer) { told.push_back(answer); }, 3 * 4096);
  EXPECT_EQ(told, (std::vector<std::string>{"mine 8", "mine 9", "mine 2"}));
  mine->on_answer({}, 0);
}

TEST(Resident, FindsTheLongestSharesPagesAndLetsNewStatesGoFirst) {
  Resident resident;
  const auto ids = ids_of(12, 700);
  const auto names = names_of(ids);
  kv::Context whole = state_of(ids);
  EXPECT_EQ(resident.longest(names, ids), 0);
  for (const int64_t n : {5, 127, 128, 300, 699, 700}) resident.keep(names, state_of(cut(ids, n)), false);
  EXPECT_EQ(resident.longest(names, ids), 699) << "a true prefix: one token must be left";
  EXPECT_EQ(resident.longest(names_of(cut(ids, 299)), cut(ids, 299)), 128);
  EXPECT_EQ(resident.longest(names_of(cut(ids, 100)), cut(ids, 100)), 5);
  auto other = ids;
  other[650] ^= 1;
  EXPECT_EQ(resident.longest(names_of(other), other), 300);
  EXPECT_TRUE(same(resident.find(names, ids)->state, state_of(cut(ids, 699)).state));

  Resident shared;
  shared.keep(names, {whole.state.fork(), whole.ids}, true);
  const int64_t one = shared.bytes();
  kv::Context longer = state_of(ids_of(12, 700));
  shared.keep(names_of(cut(ids, 700)), {whole.state.fork(), whole.ids}, true);  // is there
  EXPECT_EQ(shared.bytes(), one);
  // A hundred side requests under a budget of a few: the proven one stays.
  const int64_t budget = one * 6;
  for (uint64_t i = 0; i < 100; ++i) {
    const auto side = ids_of(1000 + i, 300);
    shared.keep(names_of(side), state_of(side), false);
    shared.trim(budget);
    EXPECT_LE(shared.bytes(), budget);
  }
  EXPECT_GT(shared.evicted(), 80);
  auto next = ids;
  next.push_back(1);
  EXPECT_EQ(shared.longest(names_of(next), next), 700);
  shared.trim(0);
  EXPECT_EQ(shared.bytes(), 0);
  EXPECT_EQ(shared.size(), 0u);
}

// Against a search through all of them, of ids that share much.
TEST(Resident, FindsWhatASearchThroughAllWouldFind) {
  std::mt19937_64 random(31);
  Resident resident;
  std::vector<std::vector<TokenId>> held;
  const auto draw = [&] {
    std::vector<TokenId> ids = ids_of(1, 128 * static_cast<int64_t>(random() % 3));
    for (uint64_t n = random() % 12; n > 0; --n) ids.push_back(static_cast<TokenId>(2 + random() % 2));
    return ids;
  };
  for (int i = 0; i < 2000; ++i) {
    const auto ids = draw();
    if (i % 4 == 0 && !ids.empty()) {
      if (std::find(held.begin(), held.end(), ids) == held.end()) held.push_back(ids);
      resident.keep(names_of(ids), state_of(ids), false);
      ASSERT_EQ(resident.size(), held.size());
    }
    size_t longest = 0;
    for (const auto& one : held)
      if (one.size() < ids.size() && std::equal(one.begin(), one.end(), ids.begin()))
        longest = std::max(longest, one.size());
    ASSERT_EQ(resident.longest(names_of(ids), ids), static_cast<int64_t>(longest)) << i;
  }
  EXPECT_GT(held.size(), 100u);
  resident.trim(0);
  EXPECT_EQ(resident.longest(names_of(held[0]), ids_of(1, 300)), 0);
}

// Some thousand short conversations once took a walk through all of them for each request.
TEST(Resident, ThousandsOfShortOnesAreFoundWithoutAWalk) {
  Resident resident;
  const auto none = names_of({});
  const kv::Context state = state_of(ids_of(3, 8));
  for (int i = 0; i < 20'000; ++i) {
    std::vector<TokenId> ids{i % 60, i / 60 % 60, i / 3600};
    for (int k = 0; k < 90; ++k) ids.push_back(5);
    resident.keep(none, {state.state.fork(), ids}, false);
  }
  EXPECT_EQ(resident.size(), 20'000u);
  std::vector<TokenId> ids{7, 11, 3};
  for (int k = 0; k < 95; ++k) ids.push_back(5);
  const auto held = resident.find(none, ids);
  ASSERT_TRUE(held);
  EXPECT_EQ(held->ids.size(), 93u);
}

}  // namespace
}  // namespace hadal::cache
