// A server over real sockets with a decoder that needs no weights, what to ask it, and its answers as JSON.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <thread>

#include "base/json.h"
#include "serve/server.h"
#include "tests/support/byte_tokenizer.h"
#include "tests/support/fake_decoder.h"
#include "tests/support/http_client.h"

namespace hadal::testing {

struct Running {
  FakeDecoder decoder{tokenizer().size(), 100000};
  std::unique_ptr<serve::Server> server;
  std::thread thread;

  // Answers are letters; ends false: only a limit or the client ends them, and they take their time, so that nobody who
  // does not read them is given up before a test is through.
  explicit Running(serve::ServerOptions options = {}, bool ends = true, const serve::AccountOptions& accounts = {}) {
    options.http.port = 0;
    decoder.first = *letter('a');
    decoder.last = *letter('z');
    decoder.ends = ends;
    if (!ends) decoder.pace = std::chrono::milliseconds(1);
    server = serve::Server::open(decoder, tokenizer(), options, serve::Accounts::open(accounts).value()).value();
    thread = std::thread([this] { server->run(); });
  }
  ~Running() {
    server->stop();
    thread.join();
  }
  uint16_t port() const { return server->port(); }
};

inline json::Value body_of(const HttpAnswer& answer) {
  auto parsed = json::parse(answer.body);
  EXPECT_TRUE(parsed.ok()) << answer.body;
  return parsed.ok() ? std::move(parsed).value() : json::Value();
}
inline std::string ask(const std::string& content, int max_tokens, bool stream, const std::string& more = "") {
  return R"({"model":"hadal-nano","temperature":0,"messages":[{"role":"user","content":")" + content +
         R"("}],"max_tokens":)" + std::to_string(max_tokens) + (stream ? R"(,"stream":true)" : "") + more + "}";
}

}  // namespace hadal::testing
