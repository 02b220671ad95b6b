// hadal serve: the endpoints, over one engine thread (scheduler.h), one thread of connections (http.h), and one that
// reads large bodies and cuts them into tokens (worker.h).
#pragma once

#include <memory>
#include <string>

#include "base/result.h"
#include "cache/store.h"
#include "engine/decoder.h"
#include "serve/accounts.h"
#include "serve/chat_request.h"
#include "serve/http.h"
#include "serve/scheduler.h"
#include "text/encode_prompt.h"
#include "text/tokenizer.h"

namespace hadal::serve {

struct ServerOptions {
  HttpOptions http;
  Limits limits;
  RequestRules rules;
  bool keep_alive = true;
  bool log_prompts = false;  // to stderr; else no text of clients goes anywhere
  double drain_seconds = 30;
  text::Encoding encoding = text::Encoding::kV4;
  std::string version, fingerprint;
  cache::Store* store = nullptr;     // the cache on disk, if any; outlives the server
  std::string card;                  // what the checkpoint says about itself (README.md); may be empty
  float temperature = 1, top_p = 1;  // where a request names none
};

class Server {
 public:
  // The decoder and the tokenizer must outlive it. No accounts: everybody may, and nothing costs. kIo: the address
  // cannot be listened on.
  static Result<std::unique_ptr<Server>> open(engine::Decoder& decoder, const text::Tokenizer& tokenizer,
                                              const ServerOptions& options, std::unique_ptr<Accounts> accounts = {});
  virtual ~Server() = default;
  virtual uint16_t port() const = 0;
  // Serves until stop() was called and what runs has ended; after drain_seconds it is told to.
  virtual void run() = 0;
  virtual void stop() = 0;  // from any thread, also from a signal handler
};

}  // namespace hadal::serve
