#include "serve/keys.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <functional>

#include "base/file.h"
#include "base/json.h"
#include "base/output_file.h"
#include "base/sha256.h"

namespace hadal::serve {
namespace {

using json::Value;

constexpr int64_t kMostLimit = 1'000'000'000;
constexpr unsigned kOwnerOnly = 0600;

Result<Key> parse_key(std::string_view line, const std::string& where) {
  const auto parsed = json::parse(line, json::Duplicates::kReject);
  if (!parsed.ok()) return Error{Code::kInvalid, where + ": " + parsed.error().message};
  if (!parsed.value().is_object())
    return Error{Code::kInvalid, fmt::format("{}: expected an object, found {}", where, parsed.value().kind_name())};
  Key key;
  // A misspelt limit would be none: unknown fields are errors.
  for (const auto& [field, value] : parsed.value().as_object()) {
    const auto wrong = [&, &field = field](const char* expected) {
      return Error{Code::kInvalid, fmt::format("{}: {}: expected {}", where, field, expected)};
    };
    int64_t* const limit = field == "concurrent"            ? &key.concurrent
                           : field == "requests_per_minute" ? &key.requests_per_minute
                           : field == "tokens_per_minute"   ? &key.tokens_per_minute
                                                            : nullptr;
    if (limit) {
      const auto number = value.is_int() ? value.to_int64() : std::nullopt;
      if (!number || *number < 1 || *number > kMostLimit) return wrong("a number from 1 to 1000000000");
      *limit = *number;
    } else if (field == "granted_usd") {
      const auto usd = value.to_double();
      const auto granted = value.is_number() && usd ? millionths(*usd) : std::nullopt;
      if (!granted) return wrong("USD, at most 1000000, with at most six decimals");
      key.granted = *granted * (kUsd / 1'000'000);
    } else if (field == "name") {
      if (!value.is_string() || !is_key_name(value.as_string()))
        return wrong("1 to 64 letters, digits, '.', '_' or '-'");
      key.name = value.as_string();
    } else if (field == "sha256") {
      const bool is_hash = value.is_string() && value.as_string().size() == 64 &&
                           value.as_string().find_first_not_of("0123456789abcdef") == std::string::npos;
      if (!is_hash) return wrong("64 hex digits in lower case (hadal key add writes them)");
      key.hash = value.as_string();
    } else if (field == "created") {
      if (!value.is_string()) return wrong("a string");
      key.created = value.as_string();
    } else {
      return wrong("one of name, sha256, created, concurrent, requests_per_minute, tokens_per_minute, granted_usd");
    }
  }
  for (const auto& [field, value] : {std::pair{"name", &key.name}, std::pair{"sha256", &key.hash}})
    if (value->empty()) return Error{Code::kInvalid, fmt::format("{}: {}: expected one", where, field)};
  return key;
}

std::string line_of(const Key& key) {
  json::Object fields{{"name", key.name}, {"sha256", key.hash}};
  if (!key.created.empty()) fields.emplace_back("created", key.created);
  for (const auto& [field, limit] :
       {std::pair{"concurrent", key.concurrent}, std::pair{"requests_per_minute", key.requests_per_minute},
        std::pair{"tokens_per_minute", key.tokens_per_minute}})
    if (limit > 0) fields.emplace_back(field, limit);
  if (key.granted) fields.emplace_back("granted_usd", Value::number(usd_text(*key.granted), false));
  return json::dump(fields) + "\n";
}

// f(line, its number) for each line that holds a key, without its end.
template <class F>
Status for_each_line(std::string_view text, F&& f) {
  int number = 0;
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    ++number;
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.find_first_not_of(" \t") == std::string_view::npos || line.starts_with('#')) continue;
    HADAL_TRY(f(line, number));
  }
  return {};
}

// Where links lead, also where nothing is there yet: the file is replaced, and not the link to it.
Result<std::string> target_of(const std::string& path) {
  constexpr int kMostLinks = 40;
  std::filesystem::path target = path;
  std::error_code none;
  for (int i = 0; std::filesystem::is_symlink(std::filesystem::symlink_status(target, none)); ++i) {
    if (i == kMostLinks) return Error{Code::kIo, path + ": expected a file, found links that lead nowhere"};
    target = target.parent_path() / std::filesystem::read_symlink(target, none);
  }
  return target.string();
}

// Reads, changes and replaces the file while no other does. It keeps its owner and mode; a new one is the owner's only.
Status edit(const std::string& link, bool may_be_new,
            const std::function<Status(std::string& text, const std::vector<Key>& keys)>& change) {
  const std::string path = HADAL_TRY(target_of(link));
  // The lock is the folder's, since the file is replaced.
  std::string folder = std::filesystem::path(path).parent_path().string();
  if (folder.empty()) folder = ".";
  const int fd = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return Error{Code::kIo, fmt::format("{}: cannot open its folder: {}", path, std::strerror(errno))};
  const Status status = [&]() -> Status {
    int locked;
    do {
      locked = ::flock(fd, LOCK_EX);
    } while (locked != 0 && errno == EINTR);
    if (locked != 0) return Error{Code::kIo, fmt::format("{}: cannot lock its folder: {}", path, std::strerror(errno))};
    std::string text;
    if (!may_be_new || file_exists(path)) text = HADAL_TRY(read_file(path, 64 << 20));
    const auto keys = HADAL_TRY(parse_keys(text, path));
    HADAL_TRY(change(text, keys));
    auto file = HADAL_TRY(OutputFile::create(path, kOwnerOnly));
    struct stat before {};
    if (::stat(path.c_str(), &before) == 0)
      HADAL_TRY(file.set_access(before.st_mode & 07777, before.st_uid, before.st_gid));
    HADAL_TRY(file.write(text.data(), text.size()));
    return file.finish();
  }();
  ::close(fd);
  return status;
}

}  // namespace

std::string key_hash(std::string_view secret) { return hex(sha256(secret)); }

std::string new_key() {
  unsigned char bytes[32];
  HADAL_CHECK(RAND_bytes(bytes, sizeof bytes) == 1);
  return "sk-" + hex(bytes);
}

bool is_key_name(std::string_view name) {
  return !name.empty() && name.size() <= 64 && std::all_of(name.begin(), name.end(), [](unsigned char c) {
    return c < 0x80 && (std::isalnum(c) || c == '.' || c == '_' || c == '-');
  });
}

Result<std::vector<Key>> parse_keys(std::string_view text, const std::string& where) {
  std::vector<Key> keys;
  const Status status = for_each_line(text, [&](std::string_view line, int number) -> Status {
    const std::string at = fmt::format("{}: line {}", where, number);
    Key key = HADAL_TRY(parse_key(line, at));
    for (const Key& other : keys)
      if (other.name == key.name || other.hash == key.hash)
        return Error{Code::kInvalid, fmt::format("{}: expected a new name and key, found those of {}", at, other.name)};
    keys.push_back(std::move(key));
    return {};
  });
  if (!status.ok()) return status.error();
  return keys;
}

Result<std::vector<Key>> read_keys(const std::string& path) {
  const std::string text = HADAL_TRY(read_file(path, 64 << 20));
  return parse_keys(text, path);
}

const Key* find_key(const std::vector<Key>& keys, std::string_view secret) {
  const std::string hash = key_hash(secret);
  const Key* found = nullptr;
  for (const Key& key : keys)
    if (CRYPTO_memcmp(key.hash.data(), hash.data(), hash.size()) == 0) found = &key;
  return found;
}

Status add_key(const std::string& path, const Key& key) {
  return edit(path, true, [&](std::string& text, const std::vector<Key>& keys) -> Status {
    for (const Key& other : keys)
      if (other.name == key.name)
        return Error{Code::kInvalid, fmt::format("{}: expected a new name, found {} in it", path, key.name)};
    if (!text.empty() && !text.ends_with('\n')) text += '\n';
    text += line_of(key);
    return {};
  });
}

Status remove_key(const std::string& path, const std::string& name) {
  return edit(path, false, [&](std::string& text, const std::vector<Key>& keys) -> Status {
    if (std::none_of(keys.begin(), keys.end(), [&](const Key& key) { return key.name == name; }))
      return Error{Code::kNotFound, fmt::format("{}: no key is named {}", path, name)};
    const std::string before = std::move(text);
    text.clear();
    for (size_t at = 0; at < before.size();) {
      const size_t end = std::min(before.find('\n', at), before.size() - 1) + 1;
      const std::string line = before.substr(at, end - at);
      const auto parsed = parse_keys(line, path);
      const bool is_it = parsed.ok() && !parsed.value().empty() && parsed.value()[0].name == name;
      if (!is_it) text += line;
      at = end;
    }
    return {};
  });
}

}  // namespace hadal::serve
