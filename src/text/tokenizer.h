// The tokenizer of a checkpoint: tokenizer.json, byte-level BPE with V4's pre-tokenizer.
//
// encode: added tokens are found anywhere in the text (leftmost, longest first); the stretches between them
// are split (text/pretokenizer.h), and each piece is merged by lowest rank, leftmost first. Nothing is added:
// BOS comes from the prompt. Any bytes can be encoded, and decode to themselves.
// Work is O(n log n) in the text at worst, whatever it holds.
//
// A tokenizer.json that asks for anything else (other splits, normalisation, unknown model) is refused by name;
// the one choice it has is whether digits go in groups of up to three, as V4's, or singly.
// Threads: const methods any.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/types.h"

namespace hadal::text {

class Tokenizer {
 public:
  static Result<Tokenizer> load(const std::string& path);  // tokenizer.json, or a directory that holds one
  static Result<Tokenizer> parse(std::string_view json_text, const std::string& file);
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  // match_added false: text of users, in which "<think>" is seven characters and not a token.
  std::vector<TokenId> encode(std::string_view text, bool match_added = true) const;
  // Bytes of the tokens, invalid UTF-8 as U+FFFD. Unknown ids are skipped.
  std::string decode(std::span<const TokenId> ids, bool skip_special = false) const;

  std::string_view piece(TokenId id) const;  // its bytes; empty for unknown ids
  bool is_special(TokenId id) const;         // "special": true in the file
  bool is_added(TokenId id) const;
  std::optional<TokenId> id_of(std::string_view content) const;  // of an added token
  int size() const;                                              // one past the largest id

 private:
  struct Impl;
  explicit Tokenizer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// Tokens in, whole characters out: holds back only bytes that may still become a character. The pieces
// together equal Tokenizer::decode of all ids.
class IncrementalDecoder {
 public:
  explicit IncrementalDecoder(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}
  std::string feed(TokenId id);
  std::string finish();

 private:
  const Tokenizer& tokenizer_;
  std::string held_;
};

}  // namespace hadal::text
