// Any text as a completion, in pieces: the streaming parser ends where the strict one does and
// shows no markup of what the strict one refuses; the server's parser says the same however the text is cut.
#include <algorithm>
#include <cstdlib>
#include <string>

#include "text/serving_parser.h"
#include "text/stream_parser.h"
#include "text/templates.h"

namespace {

// All deltas as one text; structure where the text spells it. piece 0: whole stretches.
std::string serve(std::string_view text, bool thinking, size_t piece, bool cut) {
  using namespace hadal::text;
  static const hadal::json::Value kTools =
      hadal::json::parse(R"([{"name":"f","parameters":{"properties":{"a":{"type":"string"}},"required":["a"]}}])")
          .value();
  static constexpr std::pair<const char*, ServingParser::Special> kSpecials[] = {
      {kThinkOpen, ServingParser::Special::kThinkOpen},
      {kThinkClose, ServingParser::Special::kThinkClose},
      {kDsml, ServingParser::Special::kDsml},
      {kUser, ServingParser::Special::kOther}};
  ServingParser parser(thinking, kTools.as_array());
  std::string said[4];
  const auto take = [&](const std::vector<Delta>& deltas) {
    for (const Delta& delta : deltas) said[static_cast<size_t>(delta.kind)] += delta.text;
  };
  while (!text.empty() && !parser.over()) {
    size_t first = text.size();
    const std::pair<const char*, ServingParser::Special>* which = nullptr;
    for (const auto& special : kSpecials)
      if (const size_t at = text.find(special.first); at < first) {
        first = at;
        which = &special;
      }
    for (size_t at = 0, n = 0; at < first && !parser.over(); at += n) {
      n = piece ? std::min(piece, first - at) : first - at;
      take(parser.text(text.substr(at, n)));
    }
    if (which && !parser.over()) take(parser.special(which->second, which->first));
    text.remove_prefix(first + (which ? std::string_view(which->first).size() : 0));
  }
  take(parser.finish(cut));
  return said[0] + "\1" + said[1] + "\1" + said[2] + "\1" + said[3];
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, size_t size) {
  using namespace hadal::text;
  if (size < 2) return 0;
  const bool thinking = data[0] & 1;
  const size_t piece = 1 + data[1] % 16;
  const std::string_view text(reinterpret_cast<const char*>(data) + 2, size - 2);
  const bool cut = data[0] & 2;
  const bool has_marks = text.find_first_of("\xFE\xFF") != std::string_view::npos;  // no text of a tokenizer has them
  if (!has_marks && serve(text, thinking, piece, cut) != serve(text, thinking, 0, cut)) std::abort();
  StreamParser parser(thinking);
  for (size_t i = 0; i < text.size(); i += piece) (void)parser.feed(text.substr(i, piece));
  std::vector<Delta> rest;
  const auto verdict = parser.finish(rest);
  const auto strict = parse_completion(text, thinking);
  if (verdict.index() != strict.index()) std::abort();
  if (const auto* message = std::get_if<AssistantMessage>(&strict)) {
    if (!(parser.so_far() == *message)) std::abort();
  } else {
    for (const char* markup : {"｜DSML｜", "<think>", "</think>", "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"})
      for (const std::string& shown : {parser.so_far().content, parser.so_far().reasoning})
        if (shown.find(markup) != std::string::npos) std::abort();
    for (const ToolCall& call : parser.so_far().tool_calls)
      if ((call.name + call.arguments).find("｜DSML｜") != std::string::npos) std::abort();
  }
  return 0;
}
