// Learns a byte-level BPE vocabulary from text (Sennrich et al. 2016; the merges of
// tokenizer.json).
//
//   BpeTrainer trainer({.vocab_size = 4096});
//   trainer.add(text); ...
//   const BpeVocabulary vocabulary = HADAL_TRY(trainer.train());
//   write_file("tokenizer.json", json::dump(tokenizer_json(vocabulary.merges, single_digits)));
//
// Text is cut where the Tokenizer cuts it: at the tokens of the V4 prompt, which are never learned
// from, then by V4's pre-tokenizer. Until the vocabulary is full, the most frequent pair of
// neighbours becomes a token; among pairs of equal count the one with the smaller left id, then the
// smaller right id. Counts are sums over pieces, so the result depends neither on the order of the
// texts nor on how they were handed over, except at the texts' own ends.
//
// Time: linear in the text, then O(n log n) in the bytes of its distinct pieces: a merge visits the
// places of its pair and nothing else. Memory: some 40 bytes per byte of distinct pieces. One
// thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>

#include "base/result.h"
#include "text/tokenizer_json.h"

namespace hadal::text {

struct BpeOptions {
  int vocab_size = 4096;  // special tokens and bytes included: at least kSmallestVocab
  bool single_digits = false;
  int64_t least_count = 2;  // pairs seen less often are not merged
};

struct BpeVocabulary {
  Merges merges;           // best first: vocab_size - kSmallestVocab of them
  int64_t text_bytes = 0;  // added
  int64_t n_pieces = 0;    // of the pre-tokenizer
  int64_t n_distinct = 0;  // of them
  int64_t n_tokens = 0;    // the text's length in the new vocabulary, special tokens not counted
};

class BpeTrainer {
 public:
  explicit BpeTrainer(const BpeOptions& options);
  BpeTrainer(BpeTrainer&&) noexcept;
  ~BpeTrainer();

  void add(std::string_view text);  // one document; any bytes
  // kInvalid: a vocabulary too small for the special tokens and bytes, or text too poor to fill it.
  Result<BpeVocabulary> train();  // once

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace hadal::text
