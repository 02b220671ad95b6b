// Writing a tokenizer.json: byte-level BPE with V4's pre-tokenizer, as hadal's Tokenizer and
// Hugging Face's tokenizers read it.
//
// Ids are dense: BOS 0, EOS 1, the 256 bytes 2..257 in their order, one id per merged token in the
// order of the merges, then the other tokens of the V4 prompt. The first two are in the vocabulary
// too: a Hugging Face loader numbers added tokens that are not in it from its end.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "base/json.h"
#include "text/pretokenizer.h"

namespace hadal::text {

// The regular expressions of the three splits, as tokenizer.json spells them; the first has a
// second spelling.
inline constexpr const char* kSplitPatterns[3] = {
    "\\p{N}{1,3}", "[一-龥\xE3\x81\x80-ゟ゠-ヿ]+",
    // In parentheses, so that no compiler takes the pieces for forgotten commas.
    ("[!\"#$%&'()*+,\\-./"
     ":;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| "
     "?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+")};
inline constexpr const char* kSingleDigitPattern = "\\p{N}";

// Tokens that are matched as they stand. First: the two with "special": true. Last: what the prompt
// encoders write (text/templates.h, task tokens), fill-in-the-middle and search.
inline constexpr const char* kFirstTokens[] = {"<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"};
inline constexpr const char* kLastTokens[] = {"<｜User｜>",
                                              "<｜Assistant｜>",
                                              "<think>",
                                              "</think>",
                                              "｜DSML｜",
                                              "<｜latest_reminder｜>",
                                              "<｜action｜>",
                                              "<｜query｜>",
                                              "<｜authority｜>",
                                              "<｜domain｜>",
                                              "<｜title｜>",
                                              "<｜read_url｜>",
                                              "<｜extracted_url｜>",
                                              "<｜fim▁begin｜>",
                                              "<｜fim▁hole｜>",
                                              "<｜fim▁end｜>",
                                              "<｜search▁begin｜>",
                                              "<｜search▁end｜>"};
inline constexpr int kFirstByteId = static_cast<int>(std::size(kFirstTokens));
inline constexpr int kSmallestVocab = kFirstByteId + 256 + static_cast<int>(std::size(kLastTokens));  // no merges

// GPT-2's alphabet: every byte as a printable character (code point).
std::array<uint32_t, 256> byte_alphabet();

// merges: pairs of tokens by their bytes, best rank first; both must be bytes or earlier results.
// Two merges may have the same result, which is one token.
using Merges = std::vector<std::pair<std::string, std::string>>;
json::Value tokenizer_json(const Merges& merges, bool single_digits);

}  // namespace hadal::text
