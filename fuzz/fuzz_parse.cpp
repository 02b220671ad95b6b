// Any text as a completion, in pieces: the streaming parser ends where the strict one does and
// shows no markup of what the strict one refuses.
#include <cstdlib>
#include <string>

#include "text/stream_parser.h"

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, size_t size) {
  using namespace hadal::text;
  if (size < 2) return 0;
  const bool thinking = data[0] & 1;
  const size_t piece = 1 + data[1] % 16;
  const std::string_view text(reinterpret_cast<const char*>(data) + 2, size - 2);
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
