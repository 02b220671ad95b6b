// V4's pre-tokenizer: three sequential splits by regular expression, written out by hand.
//
//   1  \p{N}{1,3}                (or \p{N}: small vocabularies split digits singly)
//   2  [U+4E00-U+9FA5 U+3040-U+30FF]+
//   3  [ASCII punctuation][A-Za-z]+ | [^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+ | ?[\p{P}\p{S}]+[\r\n]* |
//      \s*[\r\n]+ | \s+(?!\S) | \s+
//
// Each split works inside the pieces of the one before; what no alternative matches forms pieces of its own.
// Linear in the text. Bytes that are not UTF-8 count as characters of no class.
#pragma once

#include <string_view>

#include "text/unicode.h"

namespace hadal::text {

enum class Digits { kUpToThree, kSingle };  // split 1

// Calls piece(std::string_view) for every piece, in order; together they are the text.
template <class Piece>
void pretokenize(std::string_view text, const Piece& piece, Digits digits = Digits::kUpToThree);

namespace internal {

inline uint8_t ascii_class(unsigned char c) {  // of the characters below 128; bits as UnicodeClass
  if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')) return kLetter;
  if (c >= '0' && c <= '9') return kNumber;
  if (c == ' ' || (c >= 9 && c <= 13)) return kSpace;
  if (c < 32 || c == 127) return 0;
  return c == '$' || c == '+' || c == '<' || c == '=' || c == '>' || c == '^' || c == '`' || c == '|' || c == '~'
             ? kSymbol
             : kPunctuation;
}

struct Cursor {
  const char* p;
  const char* end;
  uint8_t flags = 0;  // classes of the character at p; 0 at the end
  int size = 0;       // its bytes; 0 at the end

  Cursor(const char* at, const char* limit) : p(at), end(limit) { look(); }
  void look() {
    if (p == end) {
      flags = 0;
      size = 0;
      return;
    }
    const unsigned char c = static_cast<unsigned char>(*p);
    if (c < 0x80) {
      static const auto kAscii = [] {
        struct Table {
          uint8_t flags[128];
        } table;
        for (int i = 0; i < 128; ++i) table.flags[i] = ascii_class(static_cast<unsigned char>(i));
        return table;
      }();
      flags = kAscii.flags[c];
      size = 1;
      return;
    }
    const Utf8Char character = decode_utf8(p, end);
    flags = unicode_classes(character.code_point);
    size = character.size;
  }
  bool at_end() const { return p == end; }
  bool is_newline() const { return !at_end() && (*p == '\r' || *p == '\n'); }
  void next() {
    p += size;
    look();
  }
};

inline bool is_ascii_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

// End of the first alternative of split 3 that matches at `begin`, or `begin` if none does.
inline const char* match_third(const char* begin, const char* end) {
  Cursor c(begin, end);
  const bool ascii_punctuation = static_cast<unsigned char>(*begin) < 0x80 && (c.flags & (kPunctuation | kSymbol));
  if (ascii_punctuation && begin + 1 < end && is_ascii_letter(begin[1])) {
    const char* p = begin + 1;
    while (p < end && is_ascii_letter(*p)) ++p;
    return p;
  }
  constexpr uint8_t kWord = kLetter | kMark;
  const bool can_lead = !c.is_newline() && !(c.flags & (kLetter | kPunctuation | kSymbol));
  if (can_lead || (c.flags & kWord)) {
    Cursor word = c;
    if (can_lead) word.next();
    if (!(word.flags & kWord)) word = c;  // without the optional leading character
    if (word.flags & kWord) {
      while (word.flags & kWord) word.next();
      return word.p;
    }
  }
  Cursor marks = c;
  if (*begin == ' ') marks.next();
  if (marks.flags & (kPunctuation | kSymbol)) {
    while (marks.flags & (kPunctuation | kSymbol)) marks.next();
    while (marks.is_newline()) marks.next();
    return marks.p;
  }
  if (!(c.flags & kSpace)) return begin;
  const char* after_newline = nullptr;
  const char* last = begin;  // the run's last character
  Cursor run = c;
  while (run.flags & kSpace) {
    last = run.p;
    if (run.is_newline()) after_newline = run.p + 1;
    run.next();
  }
  if (after_newline) return after_newline;
  return run.at_end() || last == begin ? run.p : last;
}

template <class Piece>
void third_split(const char* begin, const char* end, const Piece& piece) {
  const char* gap = begin;
  while (begin < end) {
    const char* match = match_third(begin, end);
    if (match == begin) {
      begin += Cursor(begin, end).size;
      continue;
    }
    if (gap < begin) piece(std::string_view(gap, static_cast<size_t>(begin - gap)));
    piece(std::string_view(begin, static_cast<size_t>(match - begin)));
    begin = gap = match;
  }
  if (gap < end) piece(std::string_view(gap, static_cast<size_t>(end - gap)));
}

}  // namespace internal

template <class Piece>
void pretokenize(std::string_view text, const Piece& piece, Digits digits) {
  const int most_digits = digits == Digits::kSingle ? 1 : 3;
  const char* const end = text.data() + text.size();
  const char* rest = text.data();  // begin of the stretch that is neither number nor CJK
  internal::Cursor c(rest, end);
  const auto flush = [&] {
    if (rest < c.p) internal::third_split(rest, c.p, piece);
  };
  while (!c.at_end()) {
    if (c.flags & kNumber) {
      flush();
      const char* begin = c.p;
      for (int n = 0; n < most_digits && (c.flags & kNumber); ++n) c.next();
      internal::third_split(begin, c.p, piece);
      rest = c.p;
    } else if (c.flags & kCjk) {
      flush();
      const char* begin = c.p;
      while ((c.flags & kCjk) && !(c.flags & kNumber)) c.next();
      internal::third_split(begin, c.p, piece);
      rest = c.p;
    } else {
      c.next();
    }
  }
  flush();
}

}  // namespace hadal::text
