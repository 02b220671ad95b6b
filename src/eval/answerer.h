// Who answers the conversations of an evaluation: the engine, or an endpoint somewhere (endpoint.h).
#pragma once

#include <string>
#include <variant>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "data/task.h"
#include "text/parse_completion.h"

namespace hadal::eval {

struct Malformed {
  std::string reason, text;  // what came instead of a message
};
struct Refused {
  std::string reason;  // nothing came, nor will: the conversation ends
};
struct Answer {
  int conversation = 0;
  std::variant<text::AssistantMessage, Malformed, Refused> said;
  int64_t prompt_tokens = 0, completion_tokens = 0;
};

class Answerer {
 public:
  virtual ~Answerer() = default;
  // Asks for the next message of a conversation that waits for none. The task must live until end().
  virtual void ask(int conversation, const data::Task& task, data::Mode mode, const json::Array& messages) = 0;
  // Waits for one answer or more, while any has been asked for. Errors end the evaluation.
  virtual Result<std::vector<Answer>> answers() = 0;
  virtual void end(int conversation) = 0;
};

}  // namespace hadal::eval
