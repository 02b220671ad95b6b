// A server over real sockets with a decoder that needs no weights, and what a client needs to talk to it.
#pragma once

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/json.h"
#include "serve/server.h"
#include "tests/support/byte_tokenizer.h"
#include "tests/support/fake_decoder.h"

namespace hadal::testing {

struct Running {
  FakeDecoder decoder{tokenizer().size(), 100000};
  std::unique_ptr<serve::Server> server;
  std::thread thread;

  // Answers are letters; ends false: only a limit or the client ends them.
  explicit Running(serve::ServerOptions options = {}, bool ends = true) {
    options.http.port = 0;
    decoder.first = *letter('a');
    decoder.last = *letter('z');
    decoder.ends = ends;
    server = serve::Server::open(decoder, tokenizer(), options).value();
    thread = std::thread([this] { server->run(); });
  }
  ~Running() {
    server->stop();
    thread.join();
  }
};

class Client {
 public:
  explicit Client(const Running& running) : socket_(::socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(running.server->port());
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(::connect(socket_, reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
    const timeval patience{30, 0};
    ::setsockopt(socket_, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  }
  Client(const Client&) = delete;
  ~Client() { close(); }
  int fd() const { return socket_; }
  void close() {
    if (socket_ >= 0) ::close(socket_);
    socket_ = -1;
  }
  void send(const std::string& text) {
    for (size_t done = 0; done < text.size();) {
      const ssize_t n = ::send(socket_, text.data() + done, text.size() - done, MSG_NOSIGNAL);
      if (n <= 0) return;  // the server may have answered and closed already
      done += static_cast<size_t>(n);
    }
  }
  // Until the text holds `until`, or the other side closes.
  std::string read(const std::string& until = "") {
    std::string text;
    char buffer[65536];
    while (until.empty() || text.find(until) == std::string::npos) {
      const ssize_t n = ::recv(socket_, buffer, sizeof buffer, 0);
      if (n <= 0) break;
      text.append(buffer, static_cast<size_t>(n));
    }
    return text;
  }

 private:
  int socket_;
};

inline std::string post(const std::string& path, const std::string& body,
                        const std::string& more = "Connection: close\r\n") {
  return "POST " + path + " HTTP/1.1\r\nHost: localhost\r\n" + more + "Content-Length: " + std::to_string(body.size()) +
         "\r\n\r\n" + body;
}
inline std::string talk(const Running& running, const std::string& request) {
  Client client(running);
  client.send(request);
  return client.read();
}
inline int status_of(const std::string& response) {
  return response.size() > 12 ? std::atoi(response.c_str() + std::string("HTTP/1.1 ").size()) : 0;
}
inline json::Value body_of(const std::string& response) {
  auto parsed = json::parse(response.substr(response.find("\r\n\r\n") + 4));
  EXPECT_TRUE(parsed.ok()) << response;
  return parsed.ok() ? std::move(parsed).value() : json::Value();
}
// The payloads of a stream: chunk framing and "data: " taken off.
inline std::vector<std::string> events_of(const std::string& response) {
  std::string text;
  for (size_t at = response.find("\r\n\r\n") + 4; at < response.size();) {
    const size_t size = std::stoul(response.substr(at), nullptr, 16);
    if (size == 0) break;
    at = response.find("\r\n", at) + 2;
    text += response.substr(at, size);
    at += size + 2;
  }
  std::vector<std::string> events;
  for (size_t at = 0; (at = text.find("data: ", at)) != std::string::npos;) {
    const size_t end = text.find("\n\n", at);
    events.push_back(text.substr(at + 6, end - at - 6));
    at = end;
  }
  return events;
}
inline std::string ask(const std::string& content, int max_tokens, bool stream, const std::string& more = "") {
  return R"({"model":"hadal-nano","temperature":0,"messages":[{"role":"user","content":")" + content +
         R"("}],"max_tokens":)" + std::to_string(max_tokens) + (stream ? R"(,"stream":true)" : "") + more + "}";
}

}  // namespace hadal::testing
