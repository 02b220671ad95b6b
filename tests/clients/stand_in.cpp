// hadal's server over the scripted stand-in, for tests with real clients: prints its port and serves until its input
// ends. stand_in TOKENIZER.json [PORT]

#include <fmt/format.h>
#include <unistd.h>

#include <cstdlib>
#include <thread>

#include "serve/server.h"
#include "tests/support/scripted_decoder.h"

int main(int argc, char** argv) {
  using namespace hadal;
  if (argc < 2) return fmt::print(stderr, "usage: stand_in TOKENIZER.json [PORT]\n"), 2;
  const auto tokenizer = text::Tokenizer::load(argv[1]);
  if (!tokenizer.ok()) return fmt::print(stderr, "{}\n", tokenizer.error().message), 1;
  testing::ScriptedDecoder decoder(tokenizer.value());
  serve::ServerOptions options;
  options.http.port = static_cast<uint16_t>(argc > 2 ? std::atoi(argv[2]) : 0);
  options.rules.model = "stand-in";
  options.temperature = 0;
  options.drain_seconds = 1;
  auto server = serve::Server::open(decoder, tokenizer.value(), options);
  if (!server.ok()) return fmt::print(stderr, "{}\n", server.error().message), 1;
  fmt::print("{}\n", server.value()->port());
  std::fflush(stdout);
  std::thread parent([&] {
    char byte;
    while (::read(0, &byte, 1) > 0) {
    }
    server.value()->stop();
  });
  server.value()->run();
  parent.join();
  return 0;
}
