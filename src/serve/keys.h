// API keys: a file of names, hashes and limits. The keys themselves, 256 random bits each, are nowhere but with those
// who use them; being random, their plain SHA-256 gives nothing away.
//
// One key per line, a JSON object: {"name": "alice", "sha256": "<64 hex digits>"} and, each optional, the limits
// "concurrent", "requests_per_minute", "tokens_per_minute" and "granted_usd". Empty lines and lines that begin with #
// are skipped. Errors are kInvalid: file, line, what was expected.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "serve/prices.h"

namespace hadal::serve {

struct Key {
  std::string name, hash, created;
  int64_t concurrent = 0, requests_per_minute = 0, tokens_per_minute = 0;  // 0: no limit
  std::optional<PicoUsd> granted;                                          // what it may cost in all
};

std::string new_key();                          // "sk-" and 64 hex digits
std::string key_hash(std::string_view secret);  // as the file has it

bool is_key_name(std::string_view name);  // 1 to 64 letters, digits, '.', '_' or '-'
Result<std::vector<Key>> parse_keys(std::string_view text, const std::string& where);
Result<std::vector<Key>> read_keys(const std::string& path);
// Compares with every key, in a time that does not depend on which is the right one.
const Key* find_key(const std::vector<Key>& keys, std::string_view secret);

// Edits of a file, which keep its other lines, its mode and its owner; a link stays one. kInvalid: the name is taken.
// kNotFound: there is no such name.
Status add_key(const std::string& path, const Key& key);  // the file may be missing
Status remove_key(const std::string& path, const std::string& name);

}  // namespace hadal::serve
