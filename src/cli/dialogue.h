// What run and chat share: a model with its tokenizer and prompt encoding, the messages of a
// conversation, and one answer streamed to a terminal.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "engine/session.h"
#include "text/encode_prompt.h"
#include "text/parse_completion.h"
#include "text/tokenizer.h"

namespace CLI {
class App;
}

namespace hadal::cli {

// The options that run and chat have in common.
struct ModelOptions {
  std::string model, think = "high", numerics = "faithful", isa = "auto", encoding = "auto";
  int threads = 0;
  int64_t chunk = 512, max_tokens = -1;
  float temperature = -1, top_p = -1, min_p = 0;
  int top_k = 0;
  float repetition_penalty = 1, frequency_penalty = 0, presence_penalty = 0;
  int64_t seed = -1;
  std::vector<std::string> stop;
};
void add_model_options(CLI::App& command, ModelOptions& options);

enum class Think { kOff, kLow, kHigh, kMax };
Result<Think> think_by_name(const std::string& name);
const char* think_name(Think think);

class Dialogue {
 public:
  // Opens the model, with plan, warm-up and their progress on stderr.
  static Result<std::unique_ptr<Dialogue>> open(const ModelOptions& options);

  struct Answer {
    std::string reasoning, content;
    std::vector<text::ToolCall> tool_calls;  // of a well-formed answer
    engine::Completion completion;
    std::vector<TokenId> ids;  // prompt and answer
  };
  // Receives text as it comes; is_reasoning tells which kind.
  using Sink = std::function<void(bool is_reasoning, const std::string& text)>;

  // The answer to messages (see text/encode_prompt.h), by the official encoding.
  Result<Answer> answer(const json::Array& messages, Think think, const Sink& sink);
  // The continuation of a text as it is.
  Result<Answer> complete(const std::string& text, const Sink& sink);

  engine::Engine& engine() { return *engine_; }
  text::Encoding encoding() const { return encoding_; }
  void forget() { session_->forget(); }
  static std::string statistics(const engine::Completion& completion);  // one line

 private:
  Dialogue() = default;
  Result<Answer> generate(const std::vector<TokenId>& ids, int64_t header_at, bool parse, bool thinking,
                          const Sink& sink);

  ModelOptions options_;
  std::unique_ptr<engine::Engine> engine_;
  std::unique_ptr<engine::Session> session_;
  std::unique_ptr<text::Tokenizer> tokenizer_;
  text::Encoding encoding_ = text::Encoding::kV4;
  sample::Options sampling_;
  std::vector<TokenId> turn_ends_;  // tokens that begin something else than an answer: the turn is over
};

// Ctrl-C stops the answer that is being generated. interrupted() tells whether it came since the
// last clear.
void install_interrupt_handler();
bool interrupted();
void clear_interrupt();

}  // namespace hadal::cli
