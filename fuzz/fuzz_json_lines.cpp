// Any bytes as JSON lines of `hadal encode`: every line is answered, none crashes.
#include <sstream>
#include <string>

#include "cli/json_lines.h"
#include "text/encode_prompt.h"

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, size_t size) {
  using namespace hadal;
  std::istringstream in(std::string(reinterpret_cast<const char*>(data), size));
  std::ostringstream out;
  (void)cli::for_each_json_line(in, out, [](const json::Value& line) -> Result<json::Value> {
    const json::Value* messages = line.is_array() ? &line : line.find("messages");
    if (!messages || !messages->is_array()) return Error{Code::kInvalid, "messages"};
    text::EncodeOptions options;
    if (const json::Value* mode = line.find("mode"); mode && mode->is_string())
      options.thinking_mode = mode->as_string();
    const auto encoded = text::encode_prompt(messages->as_array(), options);
    return json::Value(std::holds_alternative<text::EncodedPrompt>(encoded));
  });
  return 0;
}
