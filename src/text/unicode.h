// UTF-8 and the Unicode classes that the pre-tokenizer's regular expressions name (Unicode 16.0).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace hadal::text {

enum UnicodeClass : uint8_t {
  kLetter = 1,
  kMark = 2,
  kNumber = 4,
  kPunctuation = 8,
  kSymbol = 16,
  kSpace = 32,
  kCjk = 64,  // U+4E00..9FA5 and U+3040..30FF: the pre-tokenizer's own split
};
// All classes of a code point, as flags. Anything above U+10FFFF has none.
uint8_t unicode_classes(uint32_t code_point);

// One character at p (p < end). Invalid bytes come one at a time, with code_point kInvalidByte and size 1.
struct Utf8Char {
  uint32_t code_point;
  int size;
};
inline constexpr uint32_t kInvalidByte = 0xFFFFFFFF;
Utf8Char decode_utf8(const char* p, const char* end);

// Appends `bytes` to out, each maximal invalid subpart as U+FFFD (Unicode's recommended practice). Unless
// `is_last`, a suffix that could still become a character is left; returns the number of bytes taken.
size_t append_valid_utf8(std::string_view bytes, bool is_last, std::string& out);

}  // namespace hadal::text
