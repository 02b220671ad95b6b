#include "text/tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <queue>
#include <unordered_map>

#include "base/file.h"
#include "base/json.h"
#include "text/pretokenizer.h"
#include "text/tokenizer_json.h"

namespace hadal::text {
namespace {

constexpr int kMaxId = 1 << 24;
constexpr size_t kFewSymbols = 32;  // pieces up to this are merged by scanning, longer ones with a heap

// (left, right) -> (rank, merged), open addressing.
class MergeTable {
 public:
  struct Merge {
    uint64_t pair = kEmpty;
    int32_t rank = 0;
    TokenId merged = 0;
  };
  void reserve(size_t n) {
    size_t size = 16;
    while (size < 2 * n) size *= 2;
    slots_.assign(size, {});
    mask_ = size - 1;
  }
  static uint64_t key(TokenId left, TokenId right) {
    return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  }
  void insert(TokenId left, TokenId right, int32_t rank, TokenId merged) {
    slots_[place(key(left, right))] = {key(left, right), rank, merged};
  }
  const Merge* find(TokenId left, TokenId right) const {
    const Merge& slot = slots_[place(key(left, right))];
    return slot.pair == kEmpty ? nullptr : &slot;
  }

 private:
  static constexpr uint64_t kEmpty = ~uint64_t{0};
  size_t place(uint64_t pair) const {
    size_t i = (pair * 0x9E3779B97F4A7C15u >> 24) & mask_;
    while (slots_[i].pair != kEmpty && slots_[i].pair != pair) i = (i + 1) & mask_;
    return i;
  }
  std::vector<Merge> slots_ = std::vector<Merge>(16);
  size_t mask_ = 15;
};

// Added tokens by their bytes: a trie with sorted children.
class AddedTokens {
 public:
  AddedTokens() : nodes_(1) {}
  void insert(std::string_view content, TokenId id) {
    starts_[static_cast<unsigned char>(content[0])] = true;
    size_t node = 0;
    for (const char c : content) {
      auto& children = nodes_[node].children;
      const auto at = std::lower_bound(children.begin(), children.end(), std::pair{c, size_t{0}},
                                       [](const auto& a, const auto& b) { return a.first < b.first; });
      if (at != children.end() && at->first == c) {
        node = at->second;
      } else {
        const size_t next = nodes_.size();
        children.insert(at, {c, next});
        nodes_.emplace_back();
        node = next;
      }
    }
    nodes_[node].id = id;
  }
  // First position from `begin` on where a token starts; the longest there. id -1: none.
  struct Match {
    size_t begin = std::string_view::npos, size = 0;
    TokenId id = -1;
  };
  Match find(std::string_view text, size_t begin) const {
    for (; begin < text.size(); ++begin) {
      if (!starts_[static_cast<unsigned char>(text[begin])]) continue;
      Match best;
      size_t node = 0;
      for (size_t i = begin; i < text.size(); ++i) {
        const auto& children = nodes_[node].children;
        const auto at = std::lower_bound(children.begin(), children.end(), std::pair{text[i], size_t{0}},
                                         [](const auto& a, const auto& b) { return a.first < b.first; });
        if (at == children.end() || at->first != text[i]) break;
        node = at->second;
        if (nodes_[node].id >= 0) best = {begin, i + 1 - begin, nodes_[node].id};
      }
      if (best.id >= 0) return best;
    }
    return {};
  }

 private:
  struct Node {
    TokenId id = -1;
    std::vector<std::pair<char, size_t>> children;
  };
  std::vector<Node> nodes_;
  std::array<bool, 256> starts_{};
};

// Pieces repeat: a table of the latest, per thread. Owned by one tokenizer at a time (by serial number).
struct PieceCache {
  static constexpr size_t kSlots = 1 << 15, kLongest = 24, kMostIds = 8;
  struct Slot {
    uint8_t size = 0, n_ids = 0;
    char bytes[kLongest];
    TokenId ids[kMostIds];
  };
  uint64_t owner = 0;
  std::vector<Slot> slots;
};
thread_local PieceCache t_cache;
std::atomic<uint64_t> g_serial{0};

uint64_t hash_bytes(std::string_view bytes) {
  uint64_t h = bytes.size() * 0x9E3779B97F4A7C15u;
  const char* p = bytes.data();
  size_t n = bytes.size();
  for (; n >= 8; n -= 8, p += 8) {
    uint64_t word;
    std::memcpy(&word, p, 8);
    h = (h ^ word) * 0xD6E8FEB86659FD93u;
    h ^= h >> 32;
  }
  uint64_t word = 0;
  if (n) std::memcpy(&word, p, n);
  h = (h ^ word) * 0xD6E8FEB86659FD93u;
  return h ^ (h >> 29);
}

}  // namespace

struct Tokenizer::Impl {
  uint64_t serial = ++g_serial;
  Digits digits = Digits::kUpToThree;
  std::vector<std::string> pieces;  // by id
  std::vector<uint8_t> flags;       // kAdded, kSpecial
  std::array<TokenId, 256> byte_ids{};
  MergeTable merges;
  AddedTokens added;
  std::unordered_map<std::string, TokenId> added_ids;

  static constexpr uint8_t kKnown = 1, kAdded = 2, kSpecial = 4;

  void encode_plain(std::string_view text, std::vector<TokenId>& ids) const {
    pretokenize(
        text, [&](std::string_view piece) { encode_piece(piece, ids); }, digits);
  }

  void encode_piece(std::string_view piece, std::vector<TokenId>& ids) const {
    if (piece.size() == 1) {
      ids.push_back(byte_ids[static_cast<unsigned char>(piece[0])]);
      return;
    }
    if (piece.size() > PieceCache::kLongest) return merge(piece, ids);
    if (t_cache.owner != serial) {
      t_cache.slots.assign(PieceCache::kSlots, {});
      t_cache.owner = serial;
    }
    PieceCache::Slot& slot = t_cache.slots[hash_bytes(piece) % PieceCache::kSlots];
    if (slot.size == piece.size() && std::memcmp(slot.bytes, piece.data(), piece.size()) == 0) {
      ids.insert(ids.end(), slot.ids, slot.ids + slot.n_ids);
      return;
    }
    const size_t before = ids.size();
    merge(piece, ids);
    const size_t n = ids.size() - before;
    if (n > PieceCache::kMostIds) return;
    slot.size = static_cast<uint8_t>(piece.size());
    slot.n_ids = static_cast<uint8_t>(n);
    std::memcpy(slot.bytes, piece.data(), piece.size());
    std::copy(ids.begin() + static_cast<ptrdiff_t>(before), ids.end(), slot.ids);
  }

  void merge(std::string_view piece, std::vector<TokenId>& ids) const {
    if (piece.size() <= kFewSymbols) {
      merge_few(piece, ids);
    } else {
      merge_many(piece, ids);
    }
  }

  void merge_few(std::string_view piece, std::vector<TokenId>& ids) const {
    TokenId symbols[kFewSymbols];
    int32_t ranks[kFewSymbols];  // of the pair (i, i + 1)
    TokenId merged[kFewSymbols];
    size_t n = piece.size();
    for (size_t i = 0; i < n; ++i) symbols[i] = byte_ids[static_cast<unsigned char>(piece[i])];
    constexpr int32_t kNone = INT32_MAX;
    const auto look = [&](size_t i) {
      const auto* m = i + 1 < n ? merges.find(symbols[i], symbols[i + 1]) : nullptr;
      ranks[i] = m ? m->rank : kNone;
      merged[i] = m ? m->merged : 0;
    };
    for (size_t i = 0; i < n; ++i) look(i);
    for (;;) {
      size_t best = 0;
      for (size_t i = 1; i < n; ++i)
        if (ranks[i] < ranks[best]) best = i;
      if (ranks[best] == kNone) break;
      symbols[best] = merged[best];
      for (size_t i = best + 1; i + 1 < n; ++i) {
        symbols[i] = symbols[i + 1];
        ranks[i] = ranks[i + 1];
        merged[i] = merged[i + 1];
      }
      --n;
      look(best);
      if (best > 0) look(best - 1);
    }
    ids.insert(ids.end(), symbols, symbols + n);
  }

  void merge_many(std::string_view piece, std::vector<TokenId>& ids) const {
    struct Symbol {
      TokenId id;
      int32_t previous, next;  // -1: none; merged away: id -1
    };
    struct Candidate {
      int32_t rank, left;
      TokenId left_id, right_id, merged;
      bool operator<(const Candidate& o) const { return rank != o.rank ? rank > o.rank : left > o.left; }
    };
    const int32_t n = static_cast<int32_t>(piece.size());
    std::vector<Symbol> symbols(piece.size());
    for (int32_t i = 0; i < n; ++i)
      symbols[static_cast<size_t>(i)] = {byte_ids[static_cast<unsigned char>(piece[static_cast<size_t>(i)])], i - 1,
                                         i + 1 < n ? i + 1 : -1};
    std::priority_queue<Candidate> queue;
    const auto look = [&](int32_t left) {
      if (left < 0) return;
      const Symbol& symbol = symbols[static_cast<size_t>(left)];
      if (symbol.next < 0) return;
      const Symbol& right = symbols[static_cast<size_t>(symbol.next)];
      if (const auto* m = merges.find(symbol.id, right.id)) queue.push({m->rank, left, symbol.id, right.id, m->merged});
    };
    for (int32_t i = 0; i < n; ++i) look(i);
    while (!queue.empty()) {
      const Candidate best = queue.top();
      queue.pop();
      Symbol& left = symbols[static_cast<size_t>(best.left)];
      if (left.id != best.left_id || left.next < 0) continue;  // stale
      Symbol& right = symbols[static_cast<size_t>(left.next)];
      if (right.id != best.right_id) continue;
      left.id = best.merged;
      right.id = -1;
      left.next = right.next;
      if (left.next >= 0) symbols[static_cast<size_t>(left.next)].previous = best.left;
      look(left.previous);
      look(best.left);
    }
    for (int32_t i = 0; i >= 0; i = symbols[static_cast<size_t>(i)].next)
      ids.push_back(symbols[static_cast<size_t>(i)].id);
  }
};

namespace {

// Bytes of a vocabulary entry written in that alphabet; nullopt if a character is not of it.
class AlphabetDecoder {
 public:
  AlphabetDecoder() {
    bytes_.fill(-1);
    const auto alphabet = byte_alphabet();
    for (int b = 0; b < 256; ++b) bytes_[alphabet[static_cast<size_t>(b)]] = static_cast<int16_t>(b);
  }
  bool decode(std::string_view text, std::string& out) const {
    out.clear();
    for (const char* p = text.data(); p < text.data() + text.size();) {
      const Utf8Char c = decode_utf8(p, text.data() + text.size());
      if (c.code_point >= bytes_.size() || bytes_[c.code_point] < 0) return false;
      out += static_cast<char>(bytes_[c.code_point]);
      p += c.size;
    }
    return true;
  }

 private:
  std::array<int16_t, 512> bytes_;
};

Error wrong(const std::string& file, const std::string& where, const std::string& expected, const json::Value* found) {
  std::string text = found ? json::dump(*found) : "nothing";
  if (text.size() > 80) text = text.substr(0, 77) + "...";
  return {Code::kUnsupported, fmt::format("{}: {}: expected {}, found {}", file, where, expected, text)};
}

bool has_value(const json::Value& object, std::string_view key, const json::Value& expected) {
  const json::Value* value = object.find(key);
  return value && *value == expected;
}
bool absent(const json::Value& object, std::string_view key) {
  const json::Value* value = object.find(key);
  return !value || value->is_null();
}

// Everything around the model must be what the hand-written code does. Returns how split 1 groups digits.
Result<Digits> check_pipeline(const json::Value& root, const std::string& file) {
  const json::Value* normalizer = root.find("normalizer");
  const bool no_normalizer =
      !normalizer || normalizer->is_null() ||
      (has_value(*normalizer, "type", "Sequence") && has_value(*normalizer, "normalizers", json::Array{}));
  if (!no_normalizer) return wrong(file, "normalizer", "none", normalizer);
  const json::Value* pre = root.find("pre_tokenizer");
  const json::Value* list = pre ? pre->find("pretokenizers") : nullptr;
  if (!pre || !has_value(*pre, "type", "Sequence") || !list || !list->is_array() || list->as_array().size() != 4)
    return wrong(file, "pre_tokenizer", "a Sequence of three Splits and ByteLevel", pre);
  Digits digits = Digits::kUpToThree;
  for (size_t i = 0; i < 3; ++i) {
    const json::Value& split = list->as_array()[i];
    const json::Value* pattern = split.find("pattern");
    const bool single = i == 0 && pattern && has_value(*pattern, "Regex", kSingleDigitPattern);
    if (single) digits = Digits::kSingle;
    if (!has_value(split, "type", "Split") || !pattern ||
        !(single || has_value(*pattern, "Regex", kSplitPatterns[i])) || !has_value(split, "behavior", "Isolated") ||
        !has_value(split, "invert", false))
      return wrong(file, fmt::format("pre_tokenizer {}", i), "the split of DeepSeek V4", &split);
  }
  const json::Value& bytes = list->as_array()[3];
  if (!has_value(bytes, "type", "ByteLevel") || !has_value(bytes, "add_prefix_space", false) ||
      !has_value(bytes, "use_regex", false))
    return wrong(file, "pre_tokenizer 3", "ByteLevel without prefix space and regex", &bytes);
  const json::Value* decoder = root.find("decoder");
  if (!decoder || !has_value(*decoder, "type", "ByteLevel")) return wrong(file, "decoder", "ByteLevel", decoder);
  const json::Value* post = root.find("post_processor");
  if (post && !post->is_null() && !has_value(*post, "type", "ByteLevel"))
    return wrong(file, "post_processor", "ByteLevel", post);
  for (const char* key : {"truncation", "padding"})
    if (!absent(root, key)) return wrong(file, key, "null", root.find(key));
  const json::Value* model = root.find("model");
  if (!model || !has_value(*model, "type", "BPE")) return wrong(file, "model", "BPE", model);
  for (const char* key : {"dropout", "unk_token"})
    if (!absent(*model, key)) return wrong(file, std::string("model.") + key, "null", model->find(key));
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"})
    if (!absent(*model, key) && !has_value(*model, key, ""))
      return wrong(file, std::string("model.") + key, "null", model->find(key));
  for (const char* key : {"fuse_unk", "byte_fallback", "ignore_merges"})
    if (!absent(*model, key) && !has_value(*model, key, false))
      return wrong(file, std::string("model.") + key, "false", model->find(key));
  return digits;
}

}  // namespace

Result<Tokenizer> Tokenizer::parse(std::string_view json_text, const std::string& file) {
  auto parsed = json::parse(json_text, json::Duplicates::kReject);
  if (!parsed.ok()) return Error{Code::kCorrupt, file + ": " + parsed.error().message};
  const json::Value& root = parsed.value();
  if (!root.is_object()) return Error{Code::kCorrupt, file + ": expected a JSON object"};
  const Digits digits = HADAL_TRY(check_pipeline(root, file));
  const json::Value& model = *root.find("model");
  const json::Value* vocab = model.find("vocab");
  const json::Value* merges = model.find("merges");
  if (!vocab || !vocab->is_object()) return wrong(file, "model.vocab", "an object", vocab);
  if (!merges || !merges->is_array()) return wrong(file, "model.merges", "a list", merges);

  auto impl = std::make_unique<Impl>();
  impl->digits = digits;
  const auto place = [&](TokenId id) -> bool {  // makes room for id; false if it is taken
    const size_t i = static_cast<size_t>(id);
    if (i >= impl->pieces.size()) {
      impl->pieces.resize(i + 1);
      impl->flags.resize(i + 1);
    }
    const bool is_free = impl->flags[i] == 0;
    impl->flags[i] |= Impl::kKnown;
    return is_free;
  };
  const auto read_id = [&](const json::Value* value) -> std::optional<TokenId> {
    const auto id = value && value->is_int() ? value->to_int64() : std::nullopt;
    if (!id || *id < 0 || *id >= kMaxId) return std::nullopt;
    return static_cast<TokenId>(*id);
  };

  const AlphabetDecoder alphabet;
  std::unordered_map<std::string_view, TokenId> ids;  // by spelling in the file
  ids.reserve(vocab->as_object().size());
  impl->byte_ids.fill(-1);
  std::vector<std::pair<std::string_view, TokenId>> not_bytes;
  for (const auto& [spelling, value] : vocab->as_object()) {
    const auto id = read_id(&value);
    if (!id) return wrong(file, "model.vocab: " + json::quote(spelling), "a token id", &value);
    if (!place(*id)) return Error{Code::kCorrupt, fmt::format("{}: model.vocab: two tokens have id {}", file, *id)};
    std::string& bytes = impl->pieces[static_cast<size_t>(*id)];
    if (!alphabet.decode(spelling, bytes)) {  // must turn out to be an added token
      bytes = spelling;
      not_bytes.emplace_back(spelling, *id);
    } else if (bytes.size() == 1) {
      impl->byte_ids[static_cast<unsigned char>(bytes[0])] = *id;
    }
    ids.emplace(spelling, *id);
  }
  for (int b = 0; b < 256; ++b)
    if (impl->byte_ids[static_cast<size_t>(b)] < 0)
      return Error{Code::kCorrupt,
                   fmt::format("{}: model.vocab: expected a token for every byte, found none for {:#04x}", file, b)};

  impl->merges.reserve(merges->as_array().size());
  int32_t rank = 0;
  for (const json::Value& merge : merges->as_array()) {
    std::string_view left, right;
    if (merge.is_string()) {
      const std::string_view text = merge.as_string();
      const size_t space = text.find(' ');
      if (space != std::string_view::npos) {
        left = text.substr(0, space);
        right = text.substr(space + 1);
      }
    } else if (merge.is_array() && merge.as_array().size() == 2 && merge.as_array()[0].is_string() &&
               merge.as_array()[1].is_string()) {
      left = merge.as_array()[0].as_string();
      right = merge.as_array()[1].as_string();
    }
    const auto left_id = ids.find(left), right_id = ids.find(right);
    const auto merged_id = ids.find(std::string(left) + std::string(right));
    if (left.empty() || left_id == ids.end() || right_id == ids.end() || merged_id == ids.end())
      return wrong(file, fmt::format("model.merges {}", rank), "two tokens whose sum is a token", &merge);
    impl->merges.insert(left_id->second, right_id->second, rank++,
                        merged_id->second);  // a repeat takes its last rank, as everywhere
  }

  if (const json::Value* added = root.find("added_tokens"); added && added->is_array())
    for (const json::Value& token : added->as_array()) {
      const json::Value* content = token.find("content");
      const auto id = read_id(token.find("id"));
      if (!content || !content->is_string() || content->as_string().empty() || !id)
        return wrong(file, "added_tokens", "content and id", &token);
      for (const char* key : {"single_word", "lstrip", "rstrip"})
        if (!absent(token, key) && !has_value(token, key, false))
          return wrong(file, "added_tokens: " + json::quote(content->as_string()) + ": " + key, "false",
                       token.find(key));
      const std::string& text = content->as_string();
      if (!impl->added_ids.emplace(text, *id).second)
        return Error{Code::kCorrupt, fmt::format("{}: added_tokens: {} appears twice", file, json::quote(text))};
      place(*id);
      const auto in_vocab = ids.find(text);
      uint8_t& flags = impl->flags[static_cast<size_t>(*id)];
      if ((flags & Impl::kAdded) || (in_vocab != ids.end() && in_vocab->second != *id))
        return Error{Code::kCorrupt, fmt::format("{}: added_tokens: {}: id {} contradicts another token", file,
                                                 json::quote(text), *id)};
      flags |= Impl::kAdded;
      if (has_value(token, "special", true)) flags |= Impl::kSpecial;
      impl->pieces[static_cast<size_t>(*id)] = text;
      impl->added.insert(text, *id);
    }
  for (const auto& [spelling, id] : not_bytes)
    if (!(impl->flags[static_cast<size_t>(id)] & Impl::kAdded))
      return Error{Code::kCorrupt, fmt::format("{}: model.vocab: {}: expected the byte alphabet or an added token",
                                               file, json::quote(spelling))};
  return Tokenizer(std::move(impl));
}

Result<Tokenizer> Tokenizer::load(const std::string& path) {
  const std::string file = is_directory(path) ? path + "/tokenizer.json" : path;
  const std::string text = HADAL_TRY(read_file(file, uint64_t{1} << 28));
  return parse(text, file);
}

Tokenizer::Tokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

std::vector<TokenId> Tokenizer::encode(std::string_view text, bool match_added) const {
  std::vector<TokenId> ids;
  ids.reserve(text.size() / 3 + 8);
  if (!match_added) {
    impl_->encode_plain(text, ids);
    return ids;
  }
  for (size_t begin = 0; begin < text.size();) {
    const auto match = impl_->added.find(text, begin);
    const size_t end = match.id >= 0 ? match.begin : text.size();
    if (end > begin) impl_->encode_plain(text.substr(begin, end - begin), ids);
    if (match.id < 0) break;
    ids.push_back(match.id);
    begin = match.begin + match.size;
  }
  return ids;
}

std::string Tokenizer::decode(std::span<const TokenId> ids, bool skip_special) const {
  std::string bytes, text;
  for (const TokenId id : ids)
    if (!skip_special || !is_special(id)) bytes += piece(id);
  append_valid_utf8(bytes, true, text);
  return text;
}

std::string_view Tokenizer::piece(TokenId id) const {
  return id >= 0 && static_cast<size_t>(id) < impl_->pieces.size() ? impl_->pieces[static_cast<size_t>(id)]
                                                                   : std::string_view();
}
bool Tokenizer::is_special(TokenId id) const {
  return id >= 0 && static_cast<size_t>(id) < impl_->flags.size() &&
         (impl_->flags[static_cast<size_t>(id)] & Impl::kSpecial);
}
bool Tokenizer::is_added(TokenId id) const {
  return id >= 0 && static_cast<size_t>(id) < impl_->flags.size() &&
         (impl_->flags[static_cast<size_t>(id)] & Impl::kAdded);
}
std::optional<TokenId> Tokenizer::id_of(std::string_view content) const {
  const auto it = impl_->added_ids.find(std::string(content));
  return it == impl_->added_ids.end() ? std::nullopt : std::optional(it->second);
}
int Tokenizer::size() const { return static_cast<int>(impl_->pieces.size()); }

std::string IncrementalDecoder::feed(TokenId id) {
  held_ += tokenizer_.piece(id);
  std::string text;
  held_.erase(0, append_valid_utf8(held_, false, text));
  return text;
}

std::string IncrementalDecoder::finish() {
  std::string text;
  append_valid_utf8(held_, true, text);
  held_.clear();
  return text;
}

}  // namespace hadal::text
