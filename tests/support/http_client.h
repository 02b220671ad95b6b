// A client of raw sockets, for tests that must see every byte, or send what no client should.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace hadal::testing {

class HttpClient {
 public:
  explicit HttpClient(uint16_t port, int patience_seconds = 30);  // connects to loopback
  HttpClient(const HttpClient&) = delete;
  ~HttpClient() { close(); }
  void close();
  void finish_sending();
  bool send(const std::string& text);               // false: the other side has closed
  std::string read(const std::string& until = "");  // until the text holds `until`, or the other side closes

  int socket() const { return socket_; }

 private:
  int socket_;
};

struct HttpAnswer {
  int status = 0;
  std::string version;                         // "HTTP/1.1"
  std::map<std::string, std::string> headers;  // names in lower case
  std::string body;                            // without chunks
  bool is_whole = false;                       // its length, or the last chunk, is there

  std::string header(const std::string& name) const;  // empty: none
};
HttpAnswer parse_answer(const std::string& bytes);

struct ServerEvent {
  std::string name, data;  // name: of the "event:" line; empty: none
};
std::vector<ServerEvent> events_of(const std::string& body);

// With Content-Length, and closed after the answer unless `more` says something else.
std::string post_request(const std::string& path, const std::string& body,
                         const std::string& more = "Connection: close\r\n");
// Sends it and reads until the other side closes.
HttpAnswer talk(uint16_t port, const std::string& request);

}  // namespace hadal::testing
