// Learning a vocabulary: a hand-computed example, the plain algorithm on random texts, hostile
// corpora, and that what is learned loads, compresses and gives every byte back.

#include "text/train_bpe.h"

#include <gtest/gtest.h>

#include <chrono>
#include <map>
#include <random>
#include <set>

#include "text/tokenizer.h"

namespace hadal::text {
namespace {

Merges merges_of(const std::vector<std::string>& texts, int n_merges, bool single_digits = false) {
  BpeTrainer trainer({.vocab_size = kSmallestVocab + n_merges, .single_digits = single_digits});
  for (const std::string& text : texts) trainer.add(text);
  auto vocabulary = trainer.train();
  EXPECT_TRUE(vocabulary.ok()) << (vocabulary.ok() ? "" : vocabulary.error().message);
  return vocabulary.ok() ? vocabulary.value().merges : Merges();
}

Tokenizer load(const Merges& merges, bool single_digits = false) {
  auto tokenizer = Tokenizer::parse(json::dump(tokenizer_json(merges, single_digits)), "trained");
  EXPECT_TRUE(tokenizer.ok()) << (tokenizer.ok() ? "" : tokenizer.error().message);
  return std::move(tokenizer).value();
}

// The definition: count all pairs anew before every merge.
Merges plain_merges(const std::vector<std::string>& texts, int n_merges) {
  std::map<std::string, int64_t> pieces;
  for (const std::string& text : texts)
    pretokenize(text, [&](std::string_view piece) { ++pieces[std::string(piece)]; });
  std::vector<std::string> tokens;
  for (int b = 0; b < 256; ++b) tokens.emplace_back(1, static_cast<char>(b));
  std::vector<std::pair<std::vector<int>, int64_t>> words;
  for (const auto& [piece, count] : pieces) {
    words.emplace_back(std::vector<int>(), count);
    for (const char c : piece) words.back().first.push_back(static_cast<unsigned char>(c));
  }
  Merges merges;
  for (int n_new = 0; n_new < n_merges;) {
    std::map<std::pair<int, int>, int64_t> counts;  // ordered: the first of the greatest is the smallest pair
    for (const auto& [word, count] : words)
      for (size_t i = 0; i + 1 < word.size(); ++i) counts[{word[i], word[i + 1]}] += count;
    std::pair<int, int> best{-1, -1};
    int64_t most = 1;
    for (const auto& [pair, count] : counts)
      if (count > most) {
        most = count;
        best = pair;
      }
    if (best.first < 0) break;
    const std::string left = tokens[static_cast<size_t>(best.first)], right = tokens[static_cast<size_t>(best.second)];
    merges.emplace_back(left, right);
    size_t merged = 256;
    while (merged < tokens.size() && tokens[merged] != left + right) ++merged;
    if (merged == tokens.size()) {
      tokens.push_back(left + right);
      ++n_new;
    }
    for (auto& [word, count] : words) {
      std::vector<int> next;
      for (size_t i = 0; i < word.size(); ++i) {
        const bool here = i + 1 < word.size() && word[i] == best.first && word[i + 1] == best.second;
        next.push_back(here ? static_cast<int>(merged) : word[i]);
        i += here;
      }
      word = next;
    }
  }
  return merges;
}

// The example of Sennrich et al.: low 5, lower 2, newest 6, widest 3. Neighbours, in code order of
// the left one: d+e 3, e+r 2, e+s 9, e+w 6, i+d 3, l+o 7, n+e 6, o+w 7, s+t 9, w+e 8, w+i 3.
TEST(TrainBpe, DoesTheHandComputedExample) {
  std::vector<std::string> texts;
  for (const auto& [word, n] : {std::pair{"low", 5}, {"lower", 2}, {"newest", 6}, {"widest", 3}})
    texts.insert(texts.end(), static_cast<size_t>(n), word);
  // e+s before s+t (a tie); es+t 9; w+e is 2 by now, so l+o before o+w (7 each); lo+w 7; of n+e,
  // e+w and w+est (6 each) e has the smallest id; of n+ew and ew+est n has; new+est.
  const Merges expected = {{"e", "s"}, {"es", "t"}, {"l", "o"}, {"lo", "w"}, {"e", "w"}, {"n", "ew"}, {"new", "est"}};
  EXPECT_EQ(merges_of(texts, 7), expected);
}

TEST(TrainBpe, TiesGoToTheSmallerIds) {
  EXPECT_EQ(merges_of({"zy", "zy", "ba", "ba", "bc", "bc"}, 3), (Merges{{"b", "a"}, {"b", "c"}, {"z", "y"}}));
}

TEST(TrainBpe, EqualsThePlainAlgorithm) {
  for (uint64_t seed = 0; seed < 60; ++seed) {
    std::mt19937_64 random(seed);
    const std::string alphabet = seed % 3 == 0 ? "ab" : seed % 3 == 1 ? "aab  bc1\n." : "abcdefgh \xC3\xA9\xE4\xBD";
    std::vector<std::string> texts(1 + random() % 20);
    for (std::string& text : texts) {
      text.resize(random() % 200);
      for (char& c : text) c = alphabet[random() % alphabet.size()];
    }
    const int n = static_cast<int>(random() % 40);
    const Merges expected = plain_merges(texts, n);
    std::set<std::string> results;
    for (const auto& [left, right] : expected) results.insert(left + right);
    ASSERT_EQ(results.size(), expected.size()) << seed << ": two merges spell the same";
    ASSERT_EQ(merges_of(texts, static_cast<int>(results.size())), expected) << seed;
    std::shuffle(texts.begin(), texts.end(), random);  // the order of the texts decides nothing
    ASSERT_EQ(merges_of(texts, static_cast<int>(results.size())), expected) << seed;
  }
}

// English-like: words of a random language with a heavy head, numbers and punctuation.
std::string sample_text(uint64_t seed, size_t size) {
  std::mt19937_64 random(seed);
  std::vector<std::string> words(3000);
  for (std::string& word : words)
    for (size_t n = 2 + random() % 8; n > 0; --n) word += "etaoinshrdlucmfwypvbgkqjxz"[random() % (1 + random() % 26)];
  std::string text;
  while (text.size() < size) {
    const double u = static_cast<double>(random() >> 11) * 0x1p-53;
    text += words[static_cast<size_t>(3000 * u * u * u)];
    text += random() % 9 == 0 ? ". " : random() % 40 == 0 ? " 1984\n" : " ";
  }
  return text;
}

TEST(TrainBpe, WhatItLearnsLoadsCompressesAndGivesBytesBack) {
  for (const bool single_digits : {false, true}) {
    constexpr int kVocab = 2000;
    BpeTrainer trainer({.vocab_size = kVocab, .single_digits = single_digits});
    const std::string text = sample_text(1, 400'000);
    trainer.add(text);
    trainer.add("x<｜User｜>y<think>");
    const auto vocabulary = trainer.train();
    ASSERT_TRUE(vocabulary.ok()) << vocabulary.error().message;
    const Tokenizer tokenizer = load(vocabulary.value().merges, single_digits);

    EXPECT_EQ(tokenizer.size(), kVocab);
    std::set<std::string_view> pieces;
    for (TokenId id = 0; id < kVocab; ++id) {
      EXPECT_FALSE(tokenizer.piece(id).empty()) << id;
      EXPECT_TRUE(pieces.insert(tokenizer.piece(id)).second) << id;
      EXPECT_EQ(tokenizer.is_added(id), id < 2 || id >= kVocab - 18) << id;
    }
    EXPECT_EQ(tokenizer.id_of("<｜begin▁of▁sentence｜>"), 0);
    EXPECT_EQ(tokenizer.id_of("<｜end▁of▁sentence｜>"), 1);
    EXPECT_TRUE(tokenizer.is_special(0) && tokenizer.is_special(1) && !tokenizer.is_special(kVocab - 18));
    EXPECT_EQ(tokenizer.id_of("<｜User｜>"), kVocab - 18);
    EXPECT_EQ(tokenizer.encode("x<｜User｜>y<think>").size(), 4u);

    // The tokenizer finds the very tokens that training counted.
    const size_t n = tokenizer.encode(text).size() + 2;
    EXPECT_EQ(static_cast<int64_t>(n), vocabulary.value().n_tokens);
    EXPECT_GT(static_cast<double>(text.size()) / static_cast<double>(n), 2.5);
    const std::string other = sample_text(1, 500'000).substr(400'000);
    EXPECT_GT(static_cast<double>(other.size()) / static_cast<double>(tokenizer.encode(other).size()), 2.5);
    EXPECT_EQ(tokenizer.encode("1984").size() >= 4, single_digits) << "digits";

    for (uint64_t seed = 0; seed < 100; ++seed) {
      std::mt19937_64 random(seed);
      std::string bytes(random() % 300, '\0');
      for (char& c : bytes) c = static_cast<char>(random());
      std::string back;
      for (const TokenId id : tokenizer.encode(bytes)) back += tokenizer.piece(id);
      EXPECT_EQ(back, bytes) << seed;
    }
    EXPECT_EQ(tokenizer.decode(tokenizer.encode(text)), text);
  }
}

TEST(TrainBpe, NeverLearnsFromTheTokensOfThePrompt) {
  for (const auto& [left, right] : merges_of(
           {"<think>aa</think>aa<｜Assistant｜>aa｜DSML｜aa", "<think>aa</think>aa<｜Assistant｜>aa｜DSML｜aa"}, 1))
    EXPECT_EQ(left + right, "aa");
  BpeTrainer trainer({.vocab_size = kSmallestVocab + 2});
  for (int i = 0; i < 9; ++i) trainer.add("<think>aa</think>aa<｜Assistant｜>");
  EXPECT_EQ(trainer.train().error().message,
            "vocabulary: expected text with pairs for 278 tokens, found pairs for 277 (give more "
            "text or ask for fewer)");
}

TEST(TrainBpe, RefusesAVocabularyWithoutRoom) {
  BpeTrainer trainer({.vocab_size = kSmallestVocab - 1});
  trainer.add("some text");
  const auto result = trainer.train();
  ASSERT_FALSE(result.ok());
  EXPECT_NE(result.error().message.find("expected at least 276 tokens"), std::string::npos) << result.error().message;
}

// One piece of a million bytes, in which every merge has many places: linear work per halving, not
// per merge.
TEST(TrainBpe, LongRunsAreNotSlow) {
  const auto start = std::chrono::steady_clock::now();
  const Merges runs = merges_of({std::string(1 << 20, 'a')}, 19);
  ASSERT_EQ(runs.size(), 19u);
  EXPECT_EQ(runs[0], (std::pair<std::string, std::string>("a", "a")));
  EXPECT_EQ(runs[18].first.size() + runs[18].second.size(), size_t{1} << 19);
  std::mt19937_64 random(3);
  std::string letters(1 << 20, ' ');
  for (char& c : letters) c = static_cast<char>('a' + random() % 26);
  EXPECT_EQ(merges_of({letters}, 3000).size(), 3000u);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  EXPECT_LT(seconds, 60) << "some 2 s on an idle core; 3000 passes over the text would take minutes";
}

TEST(Digits, BothSpellingsLoadAndOthersAreRefused) {
  EXPECT_EQ(load({}, true).encode("123").size(), 3u);
  const Merges pair = {{"1", "2"}};
  EXPECT_EQ(load(pair, false).encode("12").size(), 1u);
  EXPECT_EQ(load(pair, true).encode("12").size(), 2u);
  std::string file = json::dump(tokenizer_json({}, false));
  const size_t at = file.find("{1,3}");
  ASSERT_NE(at, std::string::npos);
  file.replace(at, 5, "{1,4}");
  const auto refused = Tokenizer::parse(file, "t");
  ASSERT_FALSE(refused.ok());
  EXPECT_NE(refused.error().message.find("pre_tokenizer 0"), std::string::npos) << refused.error().message;
}

}  // namespace
}  // namespace hadal::text
