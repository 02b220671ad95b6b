#include "cli/bench_cache.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <vector>

#include "cache/store.h"
#include "checkpoint/config.h"
#include "checkpoint/synth.h"
#include "engine/engine.h"
#include "engine/session.h"

namespace hadal::cli {
namespace {

constexpr int64_t kTokens = 32768, kMillion = 1 << 20;
constexpr int kRepetitions = 5;

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }
double cpu_seconds() {
  timespec time{};
  ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

std::vector<TokenId> some_ids(int64_t n, int vocab) {
  std::vector<TokenId> ids(static_cast<size_t>(n));
  uint64_t state = 1;
  for (TokenId& id : ids) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    id = static_cast<TokenId>((state >> 33) % static_cast<uint64_t>(vocab));
  }
  return ids;
}

// The files leave the system's memory: what reads them next reads the disk.
void cool(const std::string& directory) {
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    const int fd = ::open(entry.path().c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) continue;
    ::fsync(fd);
    ::posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    ::close(fd);
  }
}

// Bytes per second of reading the files from one end to the other into memory of their size that has been touched; the
// best of some.
double probe_read(const std::string& directory, bool cold, int64_t size) {
  std::vector<char> memory(static_cast<size_t>(size), 1);
  double best = 0;
  for (int i = 0; i < kRepetitions; ++i) {
    if (cold) cool(directory);
    const double start = now();
    size_t bytes = 0;
    for (const auto& entry : std::filesystem::directory_iterator(directory)) {
      const int fd = ::open(entry.path().c_str(), O_RDONLY | O_CLOEXEC);
      if (fd < 0) continue;
      for (ssize_t n; (n = ::read(fd, memory.data() + bytes, std::min(memory.size() - bytes, size_t{1} << 20))) > 0;)
        bytes += static_cast<size_t>(n);
      ::close(fd);
    }
    best = std::max(best, static_cast<double>(bytes) / (now() - start));
  }
  return best;
}

// Save, restore and look-up of states as Flash's, whatever computed them.
Result<int> with_flash_layout(const std::string& directory) {
  const auto json = HADAL_TRY(checkpoint::load_config_json("flash"));
  const auto config = HADAL_TRY(checkpoint::parse_config(json::dump(json), "flash"));
  const auto layout =
      std::make_shared<const kv::Layout>(kv::Layout::from(config, checkpoint::Draft::kMtp, Numerics::kFaithful));
  kv::Context context{kv::SequenceState(layout), some_ids(kTokens, config.vocab_size)};
  uint8_t byte = 1;
  for (const auto piece : context.state.add_entries(kTokens))
    std::fill(piece.begin(), piece.end(), static_cast<std::byte>(byte++));
  context.state.last_hidden().assign(static_cast<size_t>(layout->hidden_floats), 0.5f);

  const auto store = HADAL_TRY(cache::Store::open({.directory = directory,
                                                   .budget = int64_t{1} << 40,
                                                   .identity = {.model = "flash", .fingerprint = "bench"},
                                                   .layout = layout}));
  std::vector<Digest> names{store->root("")};
  cache::extend_names(names, context.ids);
  const double save_start = now();
  HADAL_TRY(store->save(names, context));
  const double save_s = now() - save_start;
  const cache::Found found = store->find(names, kTokens);
  const int64_t formula = layout->entry_bytes_at(kTokens);
  std::string snapshot, draft;
  context.state.save_snapshot(snapshot);
  context.state.save_draft(draft);
  const auto fixed = static_cast<int64_t>(snapshot.size() + draft.size());
  fmt::print("states of Flash, {} tokens\n", kTokens);
  fmt::print("  on disk         {:8.2f} MB: {:.2f} B a token and {:.2f} MB of snapshot; {:.4f} of the formula\n",
             static_cast<double>(found.bytes()) / 1e6, static_cast<double>(found.bytes() - fixed) / kTokens,
             static_cast<double>(fixed) / 1e6,
             static_cast<double>(found.bytes() - fixed) / static_cast<double>(formula));
  fmt::print("  save            {:8.1f} ms, synced: {:.2f} GB/s\n", 1e3 * save_s,
             static_cast<double>(found.bytes()) / save_s / 1e9);

  double restored = 0;
  for (const bool cold : {false, true}) {
    double best = 1e9;
    for (int i = 0; i < kRepetitions; ++i) {
      if (cold) cool(directory);
      const double start = now();
      const auto loaded = HADAL_TRY(store->load(found, context.ids));
      best = std::min(best, now() - start);
    }
    const double read = probe_read(directory, cold, found.bytes());
    restored = static_cast<double>(found.bytes()) / best;
    fmt::print("  restore, {:<5}  {:8.1f} ms, checked: {:.2f} GB/s, {:.0f} % of reading the files ({:.2f} GB/s)\n",
               cold ? "disk" : "cache", 1e3 * best, restored / 1e9, 100 * restored / read, read / 1e9);
  }

  const std::vector<TokenId> million = some_ids(kMillion, config.vocab_size);
  const double name_start = now();
  std::vector<Digest> all{store->root("")};
  cache::extend_names(all, million);
  const cache::Found there = store->find(all, kMillion);
  const double look_up = now() - name_start;
  const double restore_million = static_cast<double>(layout->entry_bytes_at(kMillion)) / restored;
  fmt::print("  look-up         {:8.1f} ms for {} tokens, {} found: {:.2f} % of their restore ({:.2f} s)\n",
             1e3 * look_up, kMillion, there.length(), 100 * look_up / restore_million, restore_million);
  return 0;
}

// The first token of a long prompt, computed and restored, and what saving takes beside decoding.
Result<int> with_model(const BenchCacheOptions& options, const std::string& directory) {
  const auto engine = HADAL_TRY(engine::Engine::open({.model = options.model, .threads = options.threads}));
  if (engine->max_tokens() < options.prompt + 512)
    return Error{Code::kUnsupported, fmt::format("{}: expected {} positions, found {}", options.model,
                                                 options.prompt + 512, engine->max_tokens())};
  const auto store = HADAL_TRY(cache::Store::open(
      {.directory = directory,
       .budget = int64_t{1} << 40,
       .identity = {.model = "bench", .fingerprint = "bench", .arithmetic = engine::kArithmeticVersion},
       .layout = std::make_shared<const kv::Layout>(engine->new_sequence().layout())}));
  const std::vector<TokenId> ids = some_ids(options.prompt + 5, engine->config().vocab_size);
  const auto first_token = [&](cache::Store* with, double& seconds) -> Result<engine::Completion> {
    engine::Session session(*engine, with);
    engine::GenerateOptions generate;
    generate.max_tokens = 1;
    generate.sampling.temperature = 0;
    generate.header_at = options.prompt;
    const double start = now();
    auto completion = HADAL_TRY(session.generate(ids, generate));
    seconds = now() - start;
    return completion;
  };
  double miss = 0, hit = 1e9;
  HADAL_TRY(first_token(store.get(), miss));
  store->flush();
  int64_t reused = 0;
  for (int i = 0; i < kRepetitions; ++i) {
    double seconds = 0;
    reused = HADAL_TRY(first_token(store.get(), seconds)).reused_tokens;
    hit = std::min(hit, seconds);
  }
  fmt::print("first token after {} tokens ({})\n", ids.size(), options.model);
  fmt::print("  computed        {:8.1f} ms\n  from disk       {:8.1f} ms, {} tokens restored: {:.0f} times sooner\n",
             1e3 * miss, 1e3 * hit, reused, miss / hit);

  // Answers, one after another, whose ends are saved.
  engine::Session session(*engine, store.get());
  const cache::StoreCounters before = store->counters();
  const double start = cpu_seconds();
  int64_t n_tokens = 0;
  for (uint64_t seed = 1; n_tokens < options.tokens; ++seed) {
    engine::GenerateOptions generate;
    generate.max_tokens = options.tokens - n_tokens;
    generate.sampling = {.temperature = 1, .seed = seed};
    generate.header_at = 4;
    n_tokens += static_cast<int64_t>(HADAL_TRY(session.generate(std::span(ids).first(5), generate)).tokens.size());
  }
  store->flush();
  const cache::StoreCounters after = store->counters();
  const double writer = after.save_cpu_s - before.save_cpu_s, all = cpu_seconds() - start;
  fmt::print("  {} tokens of answers: {:.2f} s of CPU, of which {:.1f} ms for {} units saved: {:.2f} %\n", n_tokens,
             all, 1e3 * writer, after.saved - before.saved, 100 * writer / all);
  return 0;
}

}  // namespace

Result<int> bench_cache(const BenchCacheOptions& options) {
  const std::string base =
      (options.directory.empty() ? std::filesystem::temp_directory_path().string() : options.directory) +
      fmt::format("/hadal-bench-cache-{}", ::getpid());
  const auto status = [&]() -> Result<int> {
    HADAL_TRY(with_flash_layout(base + "/flash"));
    return with_model(options, base + "/model");
  }();
  std::error_code ignored;
  std::filesystem::remove_all(base, ignored);
  return status;
}

}  // namespace hadal::cli
