// How answers and errors are written down: Chat Completions and FIM completions (api.md 1.4, 1.8), Messages (1.10),
// Responses (1.11).
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "sample/sampler.h"
#include "serve/http.h"
#include "serve/turn.h"
#include "text/tokenizer.h"

namespace hadal::serve {

enum class Ending { kStop, kStopString, kLength, kToolCalls, kGivenUp };  // kGivenUp: the engine could not go on

struct Call {
  std::string id, name, arguments;
  bool is_whole = false;  // its closing tag came
};

// What has been said so far.
struct Answer {
  std::string reasoning, content, stop_string;
  std::vector<Call> calls;
  std::vector<sample::Choice> content_choices, reasoning_choices;  // for logprobs; a streaming format takes them
  Ending ending = Ending::kStop;
  int64_t prompt_tokens = 0, reused_tokens = 0;  // reused in units of 128
  int64_t tokens = 0, reasoning_tokens = 0;      // of the answer
  std::optional<double> cost_usd;                // where the client wants to be told, once it is known
};

// The shape of errors: OpenAI's, or Anthropic's with OpenAI's keys beside its own.
enum class ErrorStyle { kOpenAi, kAnthropic };
std::string error_body(const ApiError& error, ErrorStyle style, const std::string& request_id);
int error_status(const ApiError& error, ErrorStyle style);
Headers common_headers(const std::string& request_id);
Headers error_headers(const ApiError& error, const std::string& request_id);  // with what tells clients when to retry

std::string random_hex(size_t digits);
std::string random_base62(size_t digits);
std::string uuid();

class Format {
 public:
  virtual ~Format() = default;
  virtual ErrorStyle style() const { return ErrorStyle::kOpenAi; }
  virtual bool knows_giving_up() const { return false; }  // else it is an error

  // A stream: open, then what is told, then close or failed. Each returns the bytes to send.
  virtual std::string open(const Answer& answer) = 0;
  virtual std::string text(Answer& answer, bool is_reasoning, const std::string& piece) = 0;
  virtual std::string call(Answer& answer, size_t index) = 0;  // begins: id and name are known
  virtual std::string arguments(Answer& answer, size_t index, const std::string& piece) = 0;
  virtual std::string close(Answer& answer) = 0;
  virtual std::string failed(const Answer& answer, const ApiError& error) = 0;
  // The answer in one piece.
  virtual std::string whole(Answer& answer) = 0;
};

struct FormatContext {
  const text::Tokenizer* tokenizer = nullptr;
  std::string fingerprint, request_id;
};

// A token of `choices` each, in the shape of OpenAI's logprobs; they are taken.
json::Array take_entries(const text::Tokenizer& tokenizer, std::vector<sample::Choice>& choices);

std::unique_ptr<Format> chat_format(const Turn& turn, const FormatContext& context);
// echo: a text that goes before the completion.
std::unique_ptr<Format> completion_format(const Turn& turn, const FormatContext& context, std::string echo);
std::unique_ptr<Format> messages_format(const Turn& turn, const FormatContext& context);

// Responses: names of tools as the client knows them, and the fields of the request that the response repeats.
struct ToolOrigin {
  std::string name, space;  // space: of a namespace, empty: none
  bool is_custom = false, is_search = false;
};
struct ResponseEcho {
  json::Object fields;
  std::map<std::string, ToolOrigin> origins;  // by the name that the model knows; absent: a plain function
};
std::unique_ptr<Format> responses_format(const Turn& turn, const FormatContext& context, ResponseEcho echo);

}  // namespace hadal::serve
