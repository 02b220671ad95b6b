#include "text/tokenizer_json.h"

#include <unordered_set>

namespace hadal::text {

std::array<uint32_t, 256> byte_alphabet() {
  std::array<uint32_t, 256> alphabet{};
  uint32_t next = 256;
  for (uint32_t b = 0; b < 256; ++b) {
    const bool itself = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
    alphabet[b] = itself ? b : next++;
  }
  return alphabet;
}

json::Value tokenizer_json(const Merges& merges, bool single_digits) {
  const auto alphabet = byte_alphabet();
  const auto spell = [&](const std::string& bytes) {
    std::string text;
    for (const char byte : bytes) {
      const uint32_t c = alphabet[static_cast<unsigned char>(byte)];
      if (c >= 0x80) text += static_cast<char>(0xC0 | c >> 6);
      text += static_cast<char>(c < 0x80 ? c : 0x80 | (c & 63));
    }
    return text;
  };

  json::Object vocab;
  json::Array added, merge_list;
  int64_t id = 0;
  const auto add_token = [&](const char* content, bool special) {
    added.emplace_back(json::Object{{"id", id},
                                    {"content", content},
                                    {"single_word", false},
                                    {"lstrip", false},
                                    {"rstrip", false},
                                    {"normalized", false},
                                    {"special", special}});
    if (special) vocab.emplace_back(content, json::Value(id));
    ++id;
  };
  for (const char* content : kFirstTokens) add_token(content, true);
  for (int b = 0; b < 256; ++b) vocab.emplace_back(spell(std::string(1, static_cast<char>(b))), json::Value(id++));
  std::unordered_set<std::string> known;
  for (const auto& [left, right] : merges) {
    const std::string a = spell(left), b = spell(right);
    if (known.insert(a + b).second) vocab.emplace_back(a + b, json::Value(id++));
    merge_list.emplace_back(a + " " + b);
  }
  for (const char* content : kLastTokens) add_token(content, false);

  json::Array splits;
  for (size_t i = 0; i < 3; ++i) {
    const char* pattern = i == 0 && single_digits ? kSingleDigitPattern : kSplitPatterns[i];
    splits.emplace_back(json::Object{
        {"type", "Split"}, {"pattern", json::Object{{"Regex", pattern}}}, {"behavior", "Isolated"}, {"invert", false}});
  }
  splits.emplace_back(
      json::Object{{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", false}});
  const json::Object byte_level{
      {"type", "ByteLevel"}, {"add_prefix_space", true}, {"trim_offsets", true}, {"use_regex", true}};
  return json::Object{{"version", "1.0"},
                      {"truncation", json::Value()},
                      {"padding", json::Value()},
                      {"added_tokens", std::move(added)},
                      {"normalizer", json::Object{{"type", "Sequence"}, {"normalizers", json::Array{}}}},
                      {"pre_tokenizer", json::Object{{"type", "Sequence"}, {"pretokenizers", std::move(splits)}}},
                      {"post_processor", byte_level},
                      {"decoder", byte_level},
                      {"model", json::Object{{"type", "BPE"},
                                             {"dropout", json::Value()},
                                             {"unk_token", json::Value()},
                                             {"continuing_subword_prefix", json::Value()},
                                             {"end_of_word_suffix", json::Value()},
                                             {"fuse_unk", false},
                                             {"byte_fallback", false},
                                             {"vocab", std::move(vocab)},
                                             {"merges", std::move(merge_list)}}}};
}

}  // namespace hadal::text
