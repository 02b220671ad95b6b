#include "text/unicode.h"

#include <memory>

namespace hadal::text {
namespace {

struct Range {
  uint32_t first, last;
  uint8_t flag;
};
constexpr Range kRanges[] = {
#include "text/unicode_table.inc"
};

constexpr uint32_t kCodePoints = 0x110000;

const uint8_t* table() {
  static const std::unique_ptr<uint8_t[]> kTable = [] {
    auto flags = std::make_unique<uint8_t[]>(kCodePoints);
    for (const Range& range : kRanges)
      for (uint32_t c = range.first; c <= range.last; ++c) flags[c] |= range.flag;
    for (uint32_t c = 0x4E00; c <= 0x9FA5; ++c) flags[c] |= kCjk;
    for (uint32_t c = 0x3040; c <= 0x30FF; ++c) flags[c] |= kCjk;
    return flags;
  }();
  return kTable.get();
}

// Allowed second bytes after a lead byte (Unicode table 3-7), and the length of the character.
struct Lead {
  int size;
  unsigned char low, high;
};
Lead lead_of(unsigned char c) {
  if (c >= 0xC2 && c <= 0xDF) return {2, 0x80, 0xBF};
  if (c == 0xE0) return {3, 0xA0, 0xBF};
  if (c == 0xED) return {3, 0x80, 0x9F};
  if (c >= 0xE1 && c <= 0xEF) return {3, 0x80, 0xBF};
  if (c == 0xF0) return {4, 0x90, 0xBF};
  if (c >= 0xF1 && c <= 0xF3) return {4, 0x80, 0xBF};
  if (c == 0xF4) return {4, 0x80, 0x8F};
  return {0, 0, 0};
}

}  // namespace

uint8_t unicode_classes(uint32_t code_point) { return code_point < kCodePoints ? table()[code_point] : 0; }

Utf8Char decode_utf8(const char* p, const char* end) {
  const unsigned char c = static_cast<unsigned char>(*p);
  if (c < 0x80) return {c, 1};
  const Lead lead = lead_of(c);
  if (lead.size == 0 || end - p < lead.size) return {kInvalidByte, 1};
  uint32_t code_point = c & (0xFFu >> (lead.size + 1));
  for (int i = 1; i < lead.size; ++i) {
    const unsigned char next = static_cast<unsigned char>(p[i]);
    const bool fits = i == 1 ? next >= lead.low && next <= lead.high : (next & 0xC0) == 0x80;
    if (!fits) return {kInvalidByte, 1};
    code_point = code_point << 6 | (next & 63u);
  }
  return {code_point, lead.size};
}

size_t append_valid_utf8(std::string_view bytes, bool is_last, std::string& out) {
  size_t i = 0;
  while (i < bytes.size()) {
    const unsigned char c = static_cast<unsigned char>(bytes[i]);
    if (c < 0x80) {
      out += bytes[i++];
      continue;
    }
    const Lead lead = lead_of(c);
    size_t n = 1;  // bytes of the character that are right
    while (lead.size > 0 && n < static_cast<size_t>(lead.size) && i + n < bytes.size()) {
      const unsigned char next = static_cast<unsigned char>(bytes[i + n]);
      if (n == 1 ? next < lead.low || next > lead.high : (next & 0xC0) != 0x80) break;
      ++n;
    }
    // The first two bytes of an encoded surrogate are held too, as Python's incremental decoder does; they come
    // out as U+FFFD with what follows.
    const bool half_surrogate =
        c == 0xED && i + 2 == bytes.size() && (static_cast<unsigned char>(bytes[i + 1]) & 0xE0) == 0xA0;
    if (half_surrogate && !is_last) return i;
    if (n == static_cast<size_t>(lead.size)) {
      out.append(bytes, i, n);
    } else if (lead.size > 0 && i + n == bytes.size() && !is_last) {
      return i;
    } else {
      out += "\xEF\xBF\xBD";
    }
    i += n;
  }
  return i;
}

}  // namespace hadal::text
