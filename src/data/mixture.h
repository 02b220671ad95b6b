// Mixtures: what a stage of training reads. A row is a pure function of (mixture, seed, step, row,
// length), so that a run has no loader state and resumes anywhere.
//
//   base   short texts: English, stories, families as text and as chat, pairs, recall nearby
//   long   the same with recall up to the row's length, and tool tasks
//   tools  the same with more tool tasks
//   skills what everything else stands on: copying, adding, needles, JSON, tools; mostly conversations
//   calls  conversations, seven tenths of them with tools, most of those look-ups
//   goals  the same, four tenths with tools of every goal
//   sft    conversations as released, weight on the assistant: thinking, plain, tools 35 : 35 : 30
//
// Without a corpus the share of English goes to stories. Rows hold whole documents; what is left at
// the end takes a stretch of text that is cut to fit, or padding of weight 0. Held-out environments
// and difficulties never occur.
//
// Const methods are safe from any thread: rows can be made in parallel.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "data/corpus.h"
#include "data/document.h"
#include "data/family.h"
#include "data/source.h"

namespace hadal::data {

class Mixture final : public Source {
 public:
  // The tokenizer and the corpus (may be null) must outlive the mixture. kNotFound: no such name.
  static Result<Mixture> named(std::string_view name, const text::Tokenizer* tokenizer, const Corpus* corpus);
  static std::vector<std::string> names();
  std::vector<std::string> environments() const;  // ids it draws from

  // {"kind": "mixture", "name": "base", "tokenizer": PATH, "corpus": PATH or left out}: owns both.
  static Result<std::unique_ptr<Source>> open(const json::Value& description, const std::string& where);

  Row row(uint64_t seed, uint64_t step, uint64_t row, int length) const override;  // needs a tokenizer
  int vocabulary() const override { return tokenizer_ ? tokenizer_->size() : 0; }
  // One document for a row of that length, as text; needs no tokenizer. Shares count bytes of text.
  Rendering document(Rng& rng, int length) const;

 private:
  enum class Part { kEnglish, kStory, kPairs, kTasks };
  struct Component {
    Part part;
    int share;  // percent of the text
    Form form = Form::kText;
    bool thinking = false;
    std::string_view kinds;  // of families, or their ids, separated by blanks
    bool tools = false;
    std::vector<const Family*> families;
    size_t bytes = 1;  // of a document, on average
  };

  Rendering draw(const Component& component, Rng& rng, int length) const;

  std::shared_ptr<const text::Tokenizer> own_tokenizer_;  // of open()
  std::shared_ptr<const Corpus> own_corpus_;
  const text::Tokenizer* tokenizer_ = nullptr;
  const Corpus* corpus_ = nullptr;
  std::vector<Component> components_;
  bool focused_ = false;  // tools, skills and sft: easy tasks and a few families more often than others
  TokenId padding_ = 0;
};

}  // namespace hadal::data
