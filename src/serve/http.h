// An HTTP/1.1 server: connections in, requests to a handler, replies whole or streamed out. One thread does all
// reading and writing; handlers run on it and must not block. Only http.cpp knows Boost.Beast.
//
// A reply may be filled from any thread, now or later. Limits and slow clients: headers over 32 KB 431, bodies over
// max_body 413, what does not arrive in time 408, what is no HTTP 400; the connection then closes. The same holds
// inside TLS (1.2 or later), where what is no TLS is closed without a word.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace hadal::serve {

struct HttpRequest {
  std::string method, path, query;             // path without the query, as sent
  std::map<std::string, std::string> headers;  // names in lower case; the last of several
  std::string body;
  std::string key;  // the name of the key it came with; whoever checks keys sets it
  std::string header(const std::string& name) const {
    const auto it = headers.find(name);
    return it == headers.end() ? "" : it->second;
  }
};

using Headers = std::vector<std::pair<std::string, std::string>>;

class HttpReply {
 public:
  virtual ~HttpReply() = default;
  // Whole: once, and nothing else.
  virtual void send(int status, Headers headers, std::string body) = 0;
  // Streamed: begin, write any number of times, end. Each write is one chunk, flushed.
  virtual void begin(int status, Headers headers) = 0;
  virtual void write(std::string chunk) = 0;
  virtual void end() = 0;
  // Called once, on the server's thread, when the client goes away before the end.
  virtual void on_gone(std::function<void()> call) = 0;
};

using HttpHandler = std::function<void(HttpRequest request, std::shared_ptr<HttpReply> reply)>;

struct HttpOptions {
  std::string host = "127.0.0.1";
  uint16_t port = 8080;  // 0: any free one
  uint64_t max_body = uint64_t{64} << 20;
  // Asked before a body is read, of a request without it. false: it is handled without, and the connection closes.
  std::function<bool(const HttpRequest& head)> wants_body{};
  int header_seconds = 30, body_seconds = 120, idle_seconds = 600;
  int write_seconds = 60;                // for a chunk, or 256 KB of a whole answer; who takes none for so long is gone
  std::string server = "hadal";          // the Server header
  std::string tls_certificate, tls_key;  // PEM files, the certificate with its chain; both or none: plain HTTP
};

// Whether the files of TLS, if there are any, are what they must be: kNotFound, kInvalid.
Status check_tls(const HttpOptions& options);

class HttpServer {
 public:
  // kIo: the address cannot be listened on. Else as check_tls().
  static Result<std::unique_ptr<HttpServer>> listen(const HttpOptions& options, HttpHandler handler);
  virtual ~HttpServer() = default;
  virtual uint16_t port() const = 0;
  virtual void run() = 0;  // until stop()
  // From any thread. No new connections; those that are open go on.
  virtual void close_listener() = 0;
  virtual void stop() = 0;
  virtual void post(std::function<void()> call) = 0;                   // on the server's thread
  virtual void after(double seconds, std::function<void()> call) = 0;  // the same, later
};

}  // namespace hadal::serve
