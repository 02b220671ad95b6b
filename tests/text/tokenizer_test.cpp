// The tokenizer: golden texts of the V4 vocabulary where shared/ is there; the algorithm with our own tokenizer.

#include "text/tokenizer.h"

#include <gtest/gtest.h>

#include <fstream>
#include <random>

#include "base/json.h"
#include "checkpoint/synth.h"
#include "tests/support/shared.h"
#include "text/pretokenizer.h"

namespace hadal::text {
namespace {

using json::Value;

std::vector<TokenId> ids_of(const Value& list) {
  std::vector<TokenId> ids;
  for (const Value& id : list.as_array()) ids.push_back(static_cast<TokenId>(*id.to_int64()));
  return ids;
}

// The synthetic checkpoints' tokenizer with merges, written as it is in the vocabulary's alphabet.
Tokenizer own_tokenizer(const std::vector<std::string>& merges = {"h e", "l l", "he ll", "Ġ w", "o Ġ", "hell o", "a a",
                                                                  "aa aa"}) {
  Value root = checkpoint::synth_tokenizer();
  Value& model = *root.find("model");
  json::Array list;
  for (const std::string& merge : merges) {
    const size_t space = merge.find(' ');
    model.find("vocab")->set(merge.substr(0, space) + merge.substr(space + 1),
                             checkpoint::kSynthVocab + static_cast<int>(list.size()));
    list.emplace_back(merge);
  }
  *model.find("merges") = std::move(list);
  auto tokenizer = Tokenizer::parse(json::dump(root), "own");
  EXPECT_TRUE(tokenizer.ok()) << (tokenizer.ok() ? "" : tokenizer.error().message);
  return std::move(tokenizer).value();
}

TEST(Golden, TextsAndDecodes) {
  HADAL_NEEDS_SHARED("golden/tokenizer/tokenizer.json");
  auto loaded = Tokenizer::load(testing::shared_path("golden/tokenizer"));
  ASSERT_TRUE(loaded.ok()) << loaded.error().message;
  const Tokenizer& tokenizer = loaded.value();
  std::ifstream texts(testing::shared_path("golden/texts.jsonl"));
  for (std::string line; std::getline(texts, line);) {
    const Value value = json::parse(line).value();
    EXPECT_EQ(tokenizer.encode(value.find("text")->as_string()), ids_of(*value.find("ids"))) << line.substr(0, 200);
  }
  std::ifstream decodes(testing::shared_path("golden/decode.jsonl"));
  for (std::string line; std::getline(decodes, line);) {
    const Value value = json::parse(line).value();
    const auto ids = ids_of(*value.find("ids"));
    EXPECT_EQ(tokenizer.decode(ids), value.find("text")->as_string()) << line.substr(0, 200);
    EXPECT_EQ(tokenizer.decode(ids, true), value.find("text_skip_special")->as_string()) << line.substr(0, 200);
    IncrementalDecoder decoder(tokenizer);
    for (size_t i = 0; i < ids.size(); ++i)
      EXPECT_EQ(decoder.feed(ids[i]), value.find("deltas")->as_array()[i].as_string())
          << i << " of " << line.substr(0, 200);
    EXPECT_EQ(decoder.finish(), value.find("flush")->as_string());
  }
}

TEST(Tokenizer, MergesByRankThenFromTheLeft) {
  const Tokenizer tokenizer = own_tokenizer();
  const auto pieces = [&](const std::string& text) {
    std::vector<std::string> out;
    for (const TokenId id : tokenizer.encode(text)) out.emplace_back(tokenizer.piece(id));
    return out;
  };
  EXPECT_EQ(pieces("hello"), (std::vector<std::string>{"hello"}));
  EXPECT_EQ(pieces("hell"), (std::vector<std::string>{"hell"}));
  EXPECT_EQ(pieces("hel"), (std::vector<std::string>{"he", "l"}));
  EXPECT_EQ(pieces("aaaaa"), (std::vector<std::string>{"aaaa", "a"}));
  EXPECT_EQ(pieces("x<think>y"), (std::vector<std::string>{"x", "<think>", "y"}));
  EXPECT_EQ(tokenizer.encode("<think>", false).size(), 7u);
}

TEST(Tokenizer, AnyBytesComeBack) {
  const Tokenizer tokenizer = own_tokenizer();
  for (uint64_t seed = 0; seed < 300; ++seed) {
    std::mt19937_64 random(seed);
    std::string text(random() % 200, '\0');
    for (char& c : text) c = static_cast<char>(random() % 4 == 0 ? random() : "hello  wa\n12<｜é世"[random() % 20]);
    std::string bytes;
    for (const TokenId id : tokenizer.encode(text)) bytes += tokenizer.piece(id);
    EXPECT_EQ(bytes, text) << seed;
    const auto ids = tokenizer.encode(text);
    IncrementalDecoder decoder(tokenizer);
    std::string streamed;
    for (const TokenId id : ids) streamed += decoder.feed(id);
    streamed += decoder.finish();
    EXPECT_EQ(streamed, tokenizer.decode(ids)) << seed;
  }
}

// Long pieces take the heap, short ones the scan: the same merges.
TEST(Tokenizer, HeapAndScanAgree) {
  const Tokenizer tokenizer = own_tokenizer();
  std::string bytes;
  for (const size_t n : {31u, 32u, 33u, 100u, 1'000'000u}) {
    const auto ids = tokenizer.encode(std::string(n, 'a'));
    EXPECT_EQ(ids.size(), n / 4 + n % 4 - (n % 4 >= 2 ? 1 : 0)) << n;
  }
  for (const char* hostile : {" ", "\n", "\xCC\x81", "7", "世", "<｜", "\t "}) {
    std::string text;
    while (text.size() < 1'000'000) text += hostile;
    std::string back;
    for (const TokenId id : tokenizer.encode(text)) back += tokenizer.piece(id);
    EXPECT_EQ(back, text);
  }
}

TEST(Pretokenizer, SplitsAsTheExpressionsDo) {
  const struct {
    const char* text;
    std::vector<std::string> pieces;
  } cases[] = {
      {"1234567", {"123", "456", "7"}},
      {"hello world", {"hello", " world"}},
      {"a  b", {"a", " ", " b"}},
      {"  1", {"  ", "1"}},
      {"don't", {"don", "'t"}},
      {".foo(bar)", {".foo", "(bar", ")"}},
      {"x = y;\n\nz", {"x", " =", " y", ";\n\n", "z"}},
      {"日本語abc", {"日本語", "abc"}},
      {" \n \n  x", {" \n \n", " ", " x"}},
      {"a\n", {"a", "\n"}},
      {"end   ", {"end", "   "}},
      {"²³", {"²³"}},
      {"", {}},
  };
  for (const auto& c : cases) {
    std::vector<std::string> pieces;
    pretokenize(c.text, [&](std::string_view piece) { pieces.emplace_back(piece); });
    EXPECT_EQ(pieces, c.pieces) << c.text;
  }
}

TEST(TokenizerJson, RefusesByNameWhatItDoesNotDo) {
  const std::string good = json::dump(checkpoint::synth_tokenizer());
  ASSERT_TRUE(Tokenizer::parse(good, "t").ok());
  const struct {
    const char *from, *to, *names;
  } cases[] = {{"\"BPE\"", "\"WordPiece\"", "model"},
               {"\"Isolated\"", "\"Removed\"", "pre_tokenizer"},
               {"\"normalizers\": []", "\"normalizers\": [{\"type\": \"NFC\"}]", "normalizer"},
               {"\"merges\": []", "\"merges\": [\"a zz\"]", "model.merges 0"},
               {"\"lstrip\": false", "\"lstrip\": true", "lstrip"},
               {"{1,3}", "{1,4}", "pre_tokenizer"},
               {"\"a\": ", "\"ab\": ", "every byte"},
               {"\"id\": 1,", "\"id\": 0,", "id 0"}};
  for (const auto& c : cases) {
    std::string bad = good;
    const size_t at = bad.find(c.from);
    ASSERT_NE(at, std::string::npos) << c.from;
    bad.replace(at, std::string(c.from).size(), c.to);
    const auto result = Tokenizer::parse(bad, "t.json");
    ASSERT_FALSE(result.ok()) << c.to;
    EXPECT_NE(result.error().message.find("t.json"), std::string::npos);
    EXPECT_NE(result.error().message.find(c.names), std::string::npos) << result.error().message;
  }
  // A spelling outside the byte alphabet is no byte: a blank is written there as U+0120.
  std::string blank = good;
  blank.replace(blank.find("\"Ġ\": "), 4, "\" \"");
  EXPECT_FALSE(Tokenizer::parse(blank, "t").ok());
  for (size_t n = 0; n < good.size(); n += 97) EXPECT_FALSE(Tokenizer::parse(good.substr(0, n), "t").ok());
}

}  // namespace
}  // namespace hadal::text
