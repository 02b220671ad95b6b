#include "tests/support/http_client.h"

#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>

namespace hadal::testing {

HttpClient::HttpClient(uint16_t port, int patience_seconds) : socket_(::socket(AF_INET, SOCK_STREAM, 0)) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const timeval patience{patience_seconds, 0};
  ::setsockopt(socket_, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  ::setsockopt(socket_, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
  if (::connect(socket_, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) close();
}

void HttpClient::close() {
  if (socket_ >= 0) ::close(socket_);
  socket_ = -1;
}
void HttpClient::finish_sending() { ::shutdown(socket_, SHUT_WR); }

bool HttpClient::send(const std::string& text) {
  for (size_t done = 0; done < text.size();) {
    const ssize_t n = ::send(socket_, text.data() + done, text.size() - done, MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    done += static_cast<size_t>(n);
  }
  return true;
}

std::string HttpClient::read(const std::string& until) {
  std::string text;
  char buffer[65536];
  while (until.empty() || text.find(until) == std::string::npos) {
    const ssize_t n = ::recv(socket_, buffer, sizeof buffer, 0);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    text.append(buffer, static_cast<size_t>(n));
  }
  return text;
}

std::string HttpAnswer::header(const std::string& name) const {
  const auto it = headers.find(name);
  return it == headers.end() ? "" : it->second;
}

HttpAnswer parse_answer(const std::string& bytes) {
  HttpAnswer answer;
  const size_t end = bytes.find("\r\n\r\n");
  if (end == std::string::npos || bytes.size() < 12) return answer;
  answer.version = bytes.substr(0, 8);
  answer.status = std::atoi(bytes.c_str() + 9);
  for (size_t at = bytes.find("\r\n") + 2; at < end;) {
    const size_t line_end = bytes.find("\r\n", at), colon = bytes.find(": ", at);
    std::string name = bytes.substr(at, colon - at);
    std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return std::tolower(c); });
    answer.headers[name] = bytes.substr(colon + 2, line_end - colon - 2);
    at = line_end + 2;
  }
  answer.body = bytes.substr(end + 4);
  if (const auto it = answer.headers.find("transfer-encoding"); it == answer.headers.end() || it->second != "chunked") {
    const auto length = answer.headers.find("content-length");
    answer.is_whole = length == answer.headers.end() || std::stoull(length->second) == answer.body.size();
    return answer;
  }
  std::string body;
  for (size_t at = 0; at < answer.body.size();) {
    const size_t size = std::strtoull(answer.body.c_str() + at, nullptr, 16);
    at = answer.body.find("\r\n", at);
    if (at == std::string::npos) break;
    if (size == 0) {
      answer.is_whole = true;
      break;
    }
    body += answer.body.substr(at + 2, size);
    at += 2 + size + 2;
  }
  answer.body = std::move(body);
  return answer;
}

std::vector<ServerEvent> events_of(const std::string& body) {
  std::vector<ServerEvent> events;
  std::string name;
  for (size_t at = 0; at < body.size();) {
    const size_t end = std::min(body.find('\n', at), body.size());
    const std::string line = body.substr(at, end - at);
    if (line.starts_with("event: ")) name = line.substr(7);
    if (line.starts_with("data: ")) events.push_back({std::exchange(name, ""), line.substr(6)});
    at = end + 1;
  }
  return events;
}

std::string post_request(const std::string& path, const std::string& body, const std::string& more) {
  return "POST " + path + " HTTP/1.1\r\nHost: localhost\r\n" + more + "Content-Length: " + std::to_string(body.size()) +
         "\r\n\r\n" + body;
}

HttpAnswer talk(uint16_t port, const std::string& request) {
  HttpClient client(port);
  client.send(request);
  return parse_answer(client.read());
}

}  // namespace hadal::testing
