#include "text/train_bpe.h"

#include <fmt/format.h>

#include <algorithm>
#include <queue>
#include <string>
#include <unordered_map>
#include <vector>

namespace hadal::text {
namespace {

struct StringHash {
  using is_transparent = void;
  size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
};
using Counts = std::unordered_map<std::string, int64_t, StringHash, std::equal_to<>>;

// The tokens of the prompt, by where they begin. There are twenty: each is tried at '<' and at
// U+FF5C.
size_t prompt_token_at(std::string_view text) {
  size_t longest = 0;
  const auto look = [&](std::string_view token) {
    if (token.size() > longest && text.starts_with(token)) longest = token.size();
  };
  for (const char* token : kFirstTokens) look(token);
  for (const char* token : kLastTokens) look(token);
  return longest;
}

// All distinct pieces in a row of symbols, linked inside each piece; the places of every pair.
class Merger {
 public:
  explicit Merger(const Counts& pieces) {
    size_t total = 0;
    for (const auto& [piece, count] : pieces) total += piece.size();
    symbols_.reserve(total);
    for (int b = 0; b < 256; ++b) tokens_.emplace_back(1, static_cast<char>(b));
    for (const auto& [piece, count] : pieces) {
      if (piece.size() < 2) continue;
      const int32_t weight = static_cast<int32_t>(weights_.size());
      weights_.push_back(count);
      const int32_t begin = static_cast<int32_t>(symbols_.size()), end = begin + static_cast<int32_t>(piece.size());
      for (int32_t i = begin; i < end; ++i)
        symbols_.push_back({static_cast<unsigned char>(piece[static_cast<size_t>(i - begin)]), i == begin ? -1 : i - 1,
                            i + 1 == end ? -1 : i + 1, weight});
      for (int32_t i = begin; i + 1 < end; ++i) add_place(i);
    }
    push_grown();
  }

  // Merges the best pair that occurs at least `least` times; false if there is none. The result is
  // always a new token: inside the bounds of a string, merges depend on nothing outside, so it is
  // only ever spelled one way.
  bool merge_best(int64_t least, Merges& merges) {
    for (;;) {
      if (queue_.empty()) return false;
      const Candidate best = queue_.top();
      if (best.count < least) return false;
      queue_.pop();
      const Pair& pair = pairs_[best.pair];
      if (pair.count == best.count) {
        merges.emplace_back(tokens_[static_cast<size_t>(best.left)], tokens_[static_cast<size_t>(best.right)]);
        merge(best);
        return true;
      }
      // It lost places since: back in line. What gained places was queued again then.
      if (pair.count > 0 && pair.count < best.count) queue_.push({pair.count, best.left, best.right, best.pair});
    }
  }

  // What is left of the pieces of two bytes and more, each as often as it occurs.
  int64_t weighted_length() const {
    int64_t n = 0;
    for (const Symbol& symbol : symbols_)
      if (symbol.id >= 0) n += weights_[static_cast<size_t>(symbol.weight)];
    return n;
  }

 private:
  struct Symbol {
    int32_t id;  // -1: merged away
    int32_t previous, next;
    int32_t weight;  // index: how often the piece occurs
  };
  struct Pair {
    int32_t left, right;
    int64_t count = 0;            // weighted, overlapping places included
    std::vector<int32_t> places;  // of the left symbol; stale ones among them
    bool grown = false;
  };
  struct Candidate {
    int64_t count;
    int32_t left, right;
    size_t pair;
    bool operator<(const Candidate& o) const {  // priority_queue: the greatest first
      if (count != o.count) return count < o.count;
      return left != o.left ? left > o.left : right > o.right;
    }
  };

  Symbol& at(int32_t i) { return symbols_[static_cast<size_t>(i)]; }

  size_t pair_of(int32_t left, int32_t right) {
    const uint64_t key = static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
    const auto [it, is_new] = index_.try_emplace(key, pairs_.size());
    if (is_new) pairs_.push_back({left, right});
    return it->second;
  }
  void add_place(int32_t left) {
    const Symbol& symbol = at(left);
    const size_t p = pair_of(symbol.id, at(symbol.next).id);
    Pair& pair = pairs_[p];
    pair.count += weights_[static_cast<size_t>(symbol.weight)];
    pair.places.push_back(left);
    if (!pair.grown) grown_.push_back(p);
    pair.grown = true;
  }
  void remove_place(int32_t left) {  // its entry in `places` goes stale
    const Symbol& symbol = at(left);
    pairs_[pair_of(symbol.id, at(symbol.next).id)].count -= weights_[static_cast<size_t>(symbol.weight)];
  }
  void push_grown() {
    for (const size_t p : grown_) {
      pairs_[p].grown = false;
      if (pairs_[p].count > 0) queue_.push({pairs_[p].count, pairs_[p].left, pairs_[p].right, p});
    }
    grown_.clear();
  }

  void merge(const Candidate& best) {
    const int32_t merged = static_cast<int32_t>(tokens_.size());
    tokens_.push_back(tokens_[static_cast<size_t>(best.left)] + tokens_[static_cast<size_t>(best.right)]);
    std::vector<int32_t> places = std::move(pairs_[best.pair].places);
    pairs_[best.pair].places.clear();
    // From the left, as the tokenizer merges: it decides runs such as "aaa".
    std::sort(places.begin(), places.end());
    for (const int32_t i : places) {
      Symbol& left = at(i);
      if (left.id != best.left || left.next < 0 || at(left.next).id != best.right) continue;
      Symbol& right = at(left.next);
      remove_place(i);
      if (left.previous >= 0) remove_place(left.previous);
      if (right.next >= 0) remove_place(left.next);
      left.id = merged;
      right.id = -1;
      left.next = right.next;
      if (left.next >= 0) at(left.next).previous = i;
      if (left.previous >= 0) add_place(left.previous);
      if (left.next >= 0) add_place(i);
    }
    push_grown();
  }

  std::vector<Symbol> symbols_;
  std::vector<int64_t> weights_;
  std::vector<std::string> tokens_;  // by id: bytes, then results
  std::vector<Pair> pairs_;
  std::unordered_map<uint64_t, size_t> index_;
  std::priority_queue<Candidate> queue_;
  std::vector<size_t> grown_;  // pairs that gained places since the last merge
};

}  // namespace

struct BpeTrainer::Impl {
  BpeOptions options;
  Counts pieces;
  BpeVocabulary vocabulary;

  void add_plain(std::string_view text) {
    const auto count = [&](std::string_view piece) {
      ++vocabulary.n_pieces;
      const auto it = pieces.find(piece);
      if (it != pieces.end()) {
        ++it->second;
      } else {
        pieces.emplace(piece, 1);
      }
    };
    pretokenize(text, count, options.single_digits ? Digits::kSingle : Digits::kUpToThree);
  }
};

BpeTrainer::BpeTrainer(const BpeOptions& options) : impl_(std::make_unique<Impl>()) { impl_->options = options; }
BpeTrainer::BpeTrainer(BpeTrainer&&) noexcept = default;
BpeTrainer::~BpeTrainer() = default;

void BpeTrainer::add(std::string_view text) {
  impl_->vocabulary.text_bytes += static_cast<int64_t>(text.size());
  size_t begin = 0;
  for (size_t i = 0; i < text.size();) {
    const size_t size = text[i] == '<' || text[i] == '\xEF' ? prompt_token_at(text.substr(i)) : 0;
    if (size == 0) {
      ++i;
      continue;
    }
    impl_->add_plain(text.substr(begin, i - begin));
    begin = i += size;
  }
  impl_->add_plain(text.substr(begin));
}

Result<BpeVocabulary> BpeTrainer::train() {
  const BpeOptions& options = impl_->options;
  BpeVocabulary& vocabulary = impl_->vocabulary;
  if (options.vocab_size < kSmallestVocab)
    return Error{Code::kInvalid, fmt::format("vocabulary: expected at least {} tokens (256 bytes "
                                             "and the tokens of the prompt), found {}",
                                             kSmallestVocab, options.vocab_size)};
  uint64_t distinct_bytes = 0;
  int64_t lone = 0;
  for (const auto& [piece, count] : impl_->pieces) {
    distinct_bytes += piece.size();
    if (piece.size() == 1) lone += count;
  }
  if (distinct_bytes > INT32_MAX)
    return Error{Code::kInvalid,
                 fmt::format("vocabulary: expected text with at most {} bytes of distinct pieces, found {}", INT32_MAX,
                             distinct_bytes)};
  vocabulary.n_distinct = static_cast<int64_t>(impl_->pieces.size());
  Merger merger(impl_->pieces);
  impl_->pieces = {};
  for (int size = kSmallestVocab; size < options.vocab_size; ++size) {
    if (!merger.merge_best(options.least_count, vocabulary.merges))
      return Error{Code::kInvalid, fmt::format("vocabulary: expected text with pairs for {} "
                                               "tokens, found pairs for {} (give more text or "
                                               "ask for fewer)",
                                               options.vocab_size, size)};
  }
  vocabulary.n_tokens = merger.weighted_length() + lone;
  return std::move(vocabulary);
}

}  // namespace hadal::text
