// A server of the shipped model, as `hadal serve` opens it, in this process.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <thread>

#include "engine/engine.h"
#include "serve/server.h"
#include "text/encode_prompt.h"
#include "text/tokenizer.h"

namespace hadal::testing {

inline const std::string kShippedModel = HADAL_SOURCE_DIR "/models/hadal-nano";

class ModelServer {
 public:
  ModelServer() : tokenizer_(text::Tokenizer::load(kShippedModel).value()) {
    engine_ = engine::Engine::open({.model = kShippedModel, .threads = 2}).value();
    serve::ServerOptions options;
    options.http.port = 0;
    options.rules.model = "hadal-nano";
    options.encoding = text::encoding_of_checkpoint(kShippedModel).value();
    options.temperature = engine_->defaults().temperature;
    options.top_p = engine_->defaults().top_p;
    options.drain_seconds = 1;
    server_ = serve::Server::open(*engine_, tokenizer_, options).value();
    thread_ = std::thread([this] { server_->run(); });
  }
  ~ModelServer() {
    server_->stop();
    thread_.join();
  }
  uint16_t port() const { return server_->port(); }

 private:
  const text::Tokenizer tokenizer_;
  std::unique_ptr<engine::Engine> engine_;
  std::unique_ptr<serve::Server> server_;
  std::thread thread_;
};

}  // namespace hadal::testing
