// Plays tasks with a model: many conversations side by side, each to its end, and says how each went.
//
// The engine's answers are generated from the official prompt of the conversation so far and read by the strict parser;
// an endpoint (endpoint.h) answers as it does. Tool calls are run in the task's own environment. With the engine, a
// conversation's outcome depends on its task, mode and the options only, never on what runs beside it.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "data/task.h"
#include "engine/batch.h"
#include "engine/engine.h"
#include "eval/answerer.h"
#include "text/encode_prompt.h"
#include "text/tokenizer.h"

namespace hadal::eval {

struct Trial {
  data::Task task;
  data::Mode mode = data::Mode::kPlain;
};

struct Outcome {
  bool solved = false;
  std::string reason;                    // why not
  int messages = 0, well_formed = 0;     // answers, and those that are messages
  int calls = 0, valid_calls = 0;        // tool calls, and those of a known tool with arguments that its schema allows
  int json_answers = 0, valid_json = 0;  // answers that must be JSON, and those that are, of the shape asked for
  int64_t prompt_tokens = 0;             // of the last prompt
  int64_t completion_tokens = 0;         // of all answers
  int64_t reasoning_bytes = 0, content_bytes = 0;
  json::Array transcript;  // every message
};

struct RunOptions {
  sample::Options sampling = {.temperature = 0};
  int64_t max_tokens = 1024;    // per answer
  int side_by_side = 16;        // conversations
  int64_t rows_per_step = 512;  // of the engine
  std::function<void(int64_t done, int64_t total)> progress;
};

// Outcomes in the order of the trials. A conversation that outgrows the model's context fails, with that reason.
// Errors: those of who answers.
Result<std::vector<Outcome>> run_trials(Answerer& answerer, const std::vector<Trial>& trials,
                                        const RunOptions& options);
Result<std::vector<Outcome>> run_trials(engine::Engine& engine, const text::Tokenizer& tokenizer,
                                        text::Encoding encoding, const std::vector<Trial>& trials,
                                        const RunOptions& options);

// Whether `call` names one of `tools` (as encode_prompt takes them) and its arguments are an object that holds all
// required parameters and no unknown one, each of its declared type.
bool is_valid_call(const json::Value& tools, const text::ToolCall& call);

}  // namespace hadal::eval
