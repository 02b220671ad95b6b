// hadal cache: what is on disk, whether it is whole, and why a prompt found no more of it.

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <iostream>
#include <iterator>
#include <map>
#include <memory>
#include <set>

#include "base/file.h"
#include "cache/unit.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/summary.h"
#include "cli/cache_option.h"
#include "cli/commands.h"
#include "cli/model_option.h"
#include "cli/terminal.h"
#include "serve/chat_request.h"
#include "serve/normalise.h"
#include "serve/replay.h"

namespace hadal::cli {
namespace {

struct CacheCommand {
  CacheOptions cache;
  std::string model, file, key, user, encoding = "auto";
  bool json = false, shared = false;
  double keep_gib = 0;
};

std::string directory_of(const CacheCommand& command) {
  return command.cache.directory.empty() ? default_cache_directory() : command.cache.directory;
}

struct Listed {
  std::string file;
  cache::UnitHeader header;
  int64_t bytes = 0;
  double age_s = 0;  // since it was used
};

// Every unit with a good header; `damaged` gets a line for each other one.
Result<std::vector<Listed>> list_units(const std::string& directory, std::vector<std::string>& damaged) {
  cache::Disk disk;
  std::vector<std::string> names;
  if (disk.list(directory, names) != 0)
    return Error{Code::kIo, fmt::format("{}: cannot read: {}", directory, std::strerror(errno))};
  std::sort(names.begin(), names.end());
  std::vector<Listed> units;
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  for (const std::string& file : names) {
    if (!cache::is_unit_file_name(file)) continue;
    Listed listed{.file = file, .header = {}};
    const auto header = cache::read_unit_header(disk, directory, file, listed.bytes);
    struct stat about {};
    if (!header.ok()) {
      const Code code = header.error().code;
      if (code == Code::kCorrupt || code == Code::kIo) damaged.push_back(header.error().message);
      continue;  // else it has just gone, or is another version's
    }
    if (disk.stat(directory + "/" + file, about) != 0) continue;
    listed.header = header.value();
    listed.age_s = std::chrono::duration<double>(now).count() - static_cast<double>(about.st_mtim.tv_sec);
    units.push_back(std::move(listed));
  }
  return units;
}

std::string mebibytes(int64_t bytes) { return fmt::format("{:.1f}", static_cast<double>(bytes) / (1 << 20)); }

std::string age(double seconds) {
  return seconds < 120      ? fmt::format("{:.0f} s", std::max(0.0, seconds))
         : seconds < 7200   ? fmt::format("{:.0f} min", seconds / 60)
         : seconds < 172800 ? fmt::format("{:.0f} h", seconds / 3600)
                            : fmt::format("{:.0f} d", seconds / 86400);
}

Result<int> list(const CacheCommand& command) {
  std::vector<std::string> damaged;
  const auto units = HADAL_TRY(list_units(directory_of(command), damaged));
  if (!command.json) fmt::print("{:<32} {:<16} {:>17} {:>9}\n", "unit", "model", "tokens", "MiB");
  for (const Listed& unit : units) {
    if (command.json) {
      fmt::print("{}\n", json::dump(json::Object{{"file", unit.file},
                                                 {"model", std::string(unit.header.model)},
                                                 {"begin", unit.header.begin},
                                                 {"end", unit.header.end},
                                                 {"bytes", unit.bytes},
                                                 {"used_seconds_ago", unit.age_s}}));
      continue;
    }
    fmt::print("{:<32} {:<16} {:>17} {:>9}\n", unit.file.substr(0, 32),
               printable(std::string(unit.header.model).substr(0, 16)),
               unit.header.is_answer() ? "an answer" : fmt::format("{}..{}", unit.header.begin, unit.header.end),
               mebibytes(unit.bytes));
  }
  for (const std::string& line : damaged) fmt::print(stderr, "hadal: {}\n", line);
  return 0;
}

Result<int> stat(const CacheCommand& command) {
  std::vector<std::string> damaged;
  const auto units = HADAL_TRY(list_units(directory_of(command), damaged));
  struct Sum {
    int64_t units = 0, bytes = 0, tokens = 0;
    double latest = 1e18, oldest = 0;
    void add(const Listed& unit) {
      ++units;
      bytes += unit.bytes;
      tokens += unit.header.end - unit.header.begin;
      latest = std::min(latest, unit.age_s);
      oldest = std::max(oldest, unit.age_s);
    }
  };
  std::map<std::string, Sum> models;
  Sum all;
  for (const Listed& unit : units) {
    models[unit.header.model].add(unit);
    all.add(unit);
  }
  if (command.json) {
    json::Array rows;
    for (const auto& [model, sum] : models)
      rows.push_back(
          json::Object{{"model", model}, {"units", sum.units}, {"tokens", sum.tokens}, {"bytes", sum.bytes}});
    fmt::print("{}\n", json::dump(json::Object{{"directory", directory_of(command)},
                                               {"units", all.units},
                                               {"tokens", all.tokens},
                                               {"bytes", all.bytes},
                                               {"damaged", static_cast<int64_t>(damaged.size())},
                                               {"models", std::move(rows)}}));
    return 0;
  }
  fmt::print("{}\n{:<24} {:>8} {:>12} {:>10} {:>10} {:>10}\n", directory_of(command), "model", "units", "tokens", "MiB",
             "last used", "oldest");
  const auto row = [](const std::string& name, const Sum& sum) {
    fmt::print("{:<24} {:>8} {:>12} {:>10} {:>10} {:>10}\n", printable(name.substr(0, 24)), sum.units, sum.tokens,
               mebibytes(sum.bytes), sum.units ? age(sum.latest) : "-", sum.units ? age(sum.oldest) : "-");
  };
  for (const auto& [model, sum] : models) row(model, sum);
  row("all", all);
  if (!damaged.empty()) fmt::print("{} damaged; hadal cache verify names them\n", damaged.size());
  return 0;
}

// Every byte is read. Nothing is removed: a server does that when it meets it, or prune. A server may write and remove
// units meanwhile.
Result<int> verify(const CacheCommand& command) {
  const std::string directory = directory_of(command);
  std::vector<std::string> wrong;
  const auto units = HADAL_TRY(list_units(directory, wrong));
  std::set<Digest> ends;
  for (const Listed& unit : units) ends.insert(unit.header.name);
  cache::Disk disk;
  ProgressBar bar("units");
  for (size_t i = 0; i < units.size(); ++i) {
    bar.update(static_cast<int64_t>(i), static_cast<int64_t>(units.size()));
    const Status checked = cache::check_unit(disk, directory, units[i].file);
    if (!checked.ok() && checked.error().code != Code::kNotFound) wrong.push_back(checked.error().message);
    if (units[i].header.begin > 0 && !ends.contains(units[i].header.parent))
      wrong.push_back(fmt::format("{}/{}: nothing there ends where it begins, at token {}", directory, units[i].file,
                                  units[i].header.begin));
  }
  bar.clear();
  std::vector<std::string> names;
  (void)disk.list(directory, names);
  constexpr int64_t kBeingWritten = 60;  // seconds
  for (const std::string& name : names) {
    struct stat about {};
    if (name == "." || name == ".." || cache::is_unit_file_name(name) || disk.stat(directory + "/" + name, about) != 0)
      continue;
    if (std::time(nullptr) - about.st_mtim.tv_sec > kBeingWritten)
      wrong.push_back(directory + "/" + name + ": no unit, or one that was never finished");
  }
  for (const std::string& line : wrong) fmt::print("{}\n", line);
  fmt::print("{} units, {} wrong\n", units.size(), wrong.size());
  return wrong.empty() ? 0 : 1;
}

Result<int> prune(const CacheCommand& command) {
  if (!std::filesystem::is_directory(directory_of(command)))
    return Error{Code::kNotFound, directory_of(command) + ": expected a directory, found none"};
  cache::StoreOptions options{.directory = directory_of(command), .budget = INT64_MAX / 2};
  options.layout = std::make_shared<const kv::Layout>();
  const auto store = HADAL_TRY(cache::Store::open(std::move(options)));
  const auto before = store->counters();
  HADAL_TRY(store->prune(static_cast<int64_t>(command.keep_gib * (1 << 30))));
  const auto after = store->counters();
  fmt::print("{} units removed, {} MiB; {} units are left, {} MiB\n", before.units - after.units,
             mebibytes(before.bytes - after.bytes), after.units, mebibytes(after.bytes));
  return 0;
}

// Where a prompt (the body of a chat completion) meets what is on disk, and where it parts from it.
Result<int> explain(const CacheCommand& command) {
  std::string text;
  if (command.file == "-") {
    text.assign(std::istreambuf_iterator<char>(std::cin), {});
  } else {
    text = HADAL_TRY(read_file(command.file, 1 << 28));
  }
  const auto body = json::parse(text);
  if (!body.ok()) return Error{Code::kInvalid, fmt::format("{}: {}", command.file, body.error().message)};
  const auto read = serve::read_chat_request(body.value(), {.any_model = true});
  if (const auto* error = std::get_if<serve::ApiError>(&read))
    return Error{Code::kInvalid, fmt::format("{}: {}", command.file, error->message)};
  const serve::Turn& turn = std::get<serve::Turn>(read);
  const auto tokenizer = HADAL_TRY(text::Tokenizer::load(command.model));
  const auto encoding = command.encoding == "auto" ? HADAL_TRY(text::encoding_of_checkpoint(command.model))
                                                   : HADAL_TRY(text::encoding_by_name(command.encoding));
  const auto checkpoint = HADAL_TRY(checkpoint::Checkpoint::open(command.model));
  const auto layout = std::make_shared<const kv::Layout>(
      kv::Layout::from(checkpoint.config(), checkpoint.draft(), Numerics::kFaithful));
  const cache::Identity identity{.model = "",
                                 .fingerprint = HADAL_TRY(cache_fingerprint(command.model)),
                                 .arithmetic = engine::kArithmeticVersion};
  const std::string directory = directory_of(command);
  const auto store = HADAL_TRY(cache::Store::open(
      {.directory = directory, .budget = INT64_MAX / 2, .identity = identity, .layout = layout, .read_only = true}));
  serve::ReplayMemory answers(store.get(), tokenizer.size());
  const auto made =
      serve::PromptMaker(tokenizer, encoding).make(turn, true, {&answers, cache::space_of(command.key, turn.user)});
  if (const auto* error = std::get_if<serve::ApiError>(&made))
    return Error{Code::kInvalid, fmt::format("{}: {}", command.file, error->message)};
  const std::vector<TokenId>& ids = std::get<serve::Prompt>(made).ids;

  const std::string space = command.shared ? std::string(cache::kSharedSpace) : cache::space_of(command.key, turn.user);
  std::vector<Digest> names{cache::root_name(space, identity, *layout)};
  cache::extend_names(names, ids);

  const auto n = static_cast<int64_t>(ids.size());
  const cache::Found found = store->find(names, n - 1);
  int64_t same = 0, of_space = 0;
  TokenId other = -1;
  cache::Disk disk;
  for (const cache::Unit& unit : store->units()) {
    const auto k = static_cast<size_t>(unit.begin / cache::kBlock);
    if (unit.is_answer() || k >= names.size() || unit.parent != names[k])
      continue;  // it parts earlier, or is another space's
    ++of_space;
    const auto own = cache::read_unit_ids(disk, directory, unit.file);
    if (!own.ok()) continue;
    int64_t at = unit.begin;
    while (at < std::min(unit.end, n) &&
           own.value()[static_cast<size_t>(at - unit.begin)] == ids[static_cast<size_t>(at)])
      ++at;
    if (at < same) continue;
    same = at;
    other = at < unit.end ? own.value()[static_cast<size_t>(at - unit.begin)] : -1;
  }
  const auto quoted = [&](TokenId id) { return json::dump(json::Value(printable(tokenizer.decode({&id, 1})))); };
  if (found.units.empty()) {
    fmt::print("prompt: {} tokens, none of which is on disk\n", n);
  } else {
    fmt::print("prompt: {} tokens, of which the first {} are on disk ({} units, {} MiB to read)\n", n, found.length(),
               found.units.size(), mebibytes(found.bytes()));
  }
  if (of_space == 0) {
    fmt::print("nothing begins like it: no unit of this model, arithmetic and space shares its first {} tokens\n",
               cache::kBlock);
  } else if (same >= n) {
    fmt::print("all of it was seen before; at least the last token is always computed\n");
  } else {
    fmt::print("the most similar unit shares {} tokens; then comes {} here and {} there\n", same,
               quoted(ids[static_cast<size_t>(same)]), other < 0 ? "its end" : quoted(other));
  }
  if (found.length() < cache::floor_block(std::min(same, n - 1)))
    fmt::print(
        "no state was kept between {} and {}: they are kept at the end of the system prompt, before and after\n"
        "answers, where prompts parted before, and every so many tokens; or it had to make room\n",
        found.length(), same);
  return 0;
}

}  // namespace

void add_cache(CLI::App& app, int& exit_status) {
  CLI::App* command = app.add_subcommand("cache", "States of conversations on disk");
  command->require_subcommand(1);
  auto o = std::make_shared<CacheCommand>();
  const auto verb = [&](const char* name, const char* help, Result<int> (*run)(const CacheCommand&)) {
    CLI::App* one = command->add_subcommand(name, help);
    one->add_option("--cache-dir", o->cache.directory, "(~/.cache/hadal/kv)")->type_name("DIR");
    one->callback([o, run, &exit_status] {
      const auto status = run(*o);
      exit_status = status.ok() ? status.value() : report_failure(status.error());
    });
    return one;
  };
  verb("ls", "One line per unit", list)->add_flag("--json", o->json, "one JSON object a line");
  verb("stat", "How much there is, by model", stat)->add_flag("--json", o->json, "one JSON object");
  verb("verify", "Read every byte; exit status 1 if anything is wrong", verify);
  verb("prune", "Remove the least recently used units, and what was never finished", prune)
      ->add_option("--keep", o->keep_gib, "as much may stay (0)")
      ->type_name("GIB")
      ->check(CLI::Range(0.0, 1e6));
  CLI::App* why = verb("explain", "How much of a prompt is there, and where it parts from the rest", explain);
  why->add_option("file", o->file, "body of a chat completion (JSON); -: stdin")->required();
  add_model_option(*why, o->model);
  why->add_option("--key", o->key, "name of the API key that sends it")->type_name("NAME");
  why->add_flag("--cache-shared", o->shared, "as the server's");
  why->add_option("--encoding", o->encoding, "v4, v4-0731 or auto")->type_name("NAME");
}

}  // namespace hadal::cli
