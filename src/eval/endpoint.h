// An endpoint of Chat Completions, ours or another, as who answers. Many requests at once, from one thread.
//
// A busy endpoint (429, 503, 529) and a connection that fails are asked again, after the time that retry-after names or
// one that doubles. An answer counts as a message when its calls name tools that were offered, with arguments that are
// a JSON object. Everything else ends the evaluation, with an error that names URL and status; but a conversation that
// is too long for the model ends alone.
#pragma once

#include <memory>
#include <string>

#include "eval/answerer.h"
#include "sample/sampler.h"

namespace hadal::eval {

struct EndpointOptions {
  std::string url;                          // https://host or https://host/v1: what /chat/completions follows
  std::string key;                          // sent as Bearer; empty: none
  std::string model = "deepseek-v4-flash";  // its name there
  sample::Options sampling = {.temperature = 0};
  int64_t max_tokens = 1024;
  int timeout_s = 600;  // for one answer
  int most_tries = 8;
};

// kInvalid: no http or https URL.
Result<std::unique_ptr<Answerer>> open_endpoint(const EndpointOptions& options);

}  // namespace hadal::eval
