#include "serve/http.h"

#include <fmt/format.h>
#include <poll.h>

#include <algorithm>
#include <array>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/ssl.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <chrono>
#include <deque>
#include <optional>
#include <sstream>
#include <string_view>
#include <type_traits>

#include "base/file.h"

namespace hadal::serve {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;
using tcp = asio::ip::tcp;
using TlsStream = asio::ssl::stream<beast::tcp_stream>;
using boost::system::error_code;
using std::chrono::seconds;

constexpr uint32_t kHeaderLimit = 32 * 1024;
constexpr int kLingerSeconds = 1;        // after an early error: what the client still sends is read so long
constexpr size_t kMostQueued = 8 << 20;  // bytes of a stream that nobody reads; then its reader counts as gone
constexpr size_t kLingerBytes = 1 << 20;
constexpr size_t kPiece = 256 << 10;  // bytes of a whole answer that are written at once
constexpr size_t kFirstBytes = 4096;  // of a request on a connection that rested
constexpr std::chrono::milliseconds kLookAgain{500};

std::string lower(std::string_view text) {
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(), [](unsigned char c) { return std::tolower(c); });
  return out;
}

// PEM files; a key that wants a password is refused, not asked for.
Result<asio::ssl::context> open_tls(const HttpOptions& options) {
  asio::ssl::context tls(asio::ssl::context::tls_server);
  SSL_CTX_set_min_proto_version(tls.native_handle(), TLS1_2_VERSION);
  SSL_CTX_set_options(tls.native_handle(), SSL_OP_NO_RENEGOTIATION);
  error_code ec;
  tls.set_password_callback([](size_t, asio::ssl::context::password_purpose) { return std::string(); }, ec);
  const auto check = [&](const std::string& path, const char* expected) -> Status {
    if (!ec) return {};
    const Code code = file_exists(path) ? Code::kInvalid : Code::kNotFound;
    return Error{code, fmt::format("{}: expected {}: {}", path, expected, ec.message())};
  };
  tls.use_certificate_chain_file(options.tls_certificate, ec);
  HADAL_TRY(check(options.tls_certificate, "a certificate in PEM"));
  tls.use_private_key_file(options.tls_key, asio::ssl::context::pem, ec);
  HADAL_TRY(check(options.tls_key, "the certificate's private key in PEM, without a password"));
  return tls;
}

tcp::socket& socket_of(beast::tcp_stream& stream) { return stream.socket(); }
tcp::socket& socket_of(TlsStream& stream) { return stream.next_layer().socket(); }

// What a handler fills and a connection empties; both on the server's thread but for the posts.
class Reply final : public HttpReply, public std::enable_shared_from_this<Reply> {
 public:
  explicit Reply(asio::io_context& context)
      : context_(context), wake_(context, asio::steady_timer::time_point::max()) {}

  void send(int code, Headers fields, std::string text) override {
    post([code, fields = std::move(fields), text = std::move(text)](Reply& self) mutable {
      self.status = code;
      self.headers = std::move(fields);
      self.body = std::move(text);
      self.whole = self.ended = true;
    });
  }
  void begin(int code, Headers fields) override {
    post([code, fields = std::move(fields)](Reply& self) mutable {
      self.status = code;
      self.headers = std::move(fields);
    });
  }
  void write(std::string chunk) override {
    post([chunk = std::move(chunk)](Reply& self) mutable {
      self.queued += chunk.size();
      self.chunks.push_back(std::move(chunk));
      if (self.queued > kMostQueued) self.lose();
    });
  }
  void end() override {
    post([](Reply& self) { self.ended = true; });
  }
  void on_gone(std::function<void()> call) override {
    post([call = std::move(call)](Reply& self) mutable {
      self.when_gone = std::move(call);
      if (self.gone) self.tell_gone();
    });
  }

  void lose() {
    gone = true;
    wake_.cancel();
    error_code ignored;
    if (socket) socket->cancel(ignored);  // a write that goes nowhere
    tell_gone();
  }
  asio::steady_timer& wake() { return wake_; }

  int status = 0;  // 0: not begun
  Headers headers;
  std::string body;
  bool whole = false, ended = false, gone = false;
  std::deque<std::string> chunks;
  size_t queued = 0;  // bytes in them
  std::function<void()> when_gone;
  tcp::socket* socket = nullptr;  // while the answer is written to it

 private:
  template <class Change>
  void post(Change change) {
    asio::post(context_, [self = shared_from_this(), change = std::move(change)]() mutable {
      change(*self);
      self->wake_.cancel();
    });
  }
  void tell_gone() {
    if (const auto call = std::exchange(when_gone, nullptr); call && !ended) call();
  }

  asio::io_context& context_;
  asio::steady_timer wake_;
};

class Server final : public HttpServer {
 public:
  Server(const HttpOptions& options, HttpHandler handler)
      : options_(options), handler_(std::move(handler)), acceptor_(context_) {}

  Status open() {
    error_code ec;
    const auto address = asio::ip::make_address(options_.host, ec);
    if (ec) return Error{Code::kInvalid, fmt::format("{}: expected an IP address", options_.host)};
    if (!options_.tls_certificate.empty()) tls_ = HADAL_TRY(open_tls(options_));
    const tcp::endpoint endpoint(address, options_.port);
    acceptor_.open(endpoint.protocol(), ec);
    if (!ec) acceptor_.set_option(asio::socket_base::reuse_address(true), ec);
    if (!ec) acceptor_.bind(endpoint, ec);
    if (!ec) acceptor_.listen(1024, ec);
    if (ec)
      return Error{Code::kIo, fmt::format("{}:{}: cannot listen: {}", options_.host, options_.port, ec.message())};
    asio::co_spawn(context_, accept(), asio::detached);
    return {};
  }

  uint16_t port() const override { return acceptor_.local_endpoint().port(); }
  void run() override { context_.run(); }
  void close_listener() override {
    post([this] {
      error_code ignored;
      acceptor_.close(ignored);
    });
  }
  void stop() override { context_.stop(); }
  void post(std::function<void()> call) override { asio::post(context_, std::move(call)); }
  void after(double delay, std::function<void()> call) override {
    auto timer = std::make_shared<asio::steady_timer>(context_);
    timer->expires_after(
        std::chrono::duration_cast<std::chrono::steady_clock::duration>(std::chrono::duration<double>(delay)));
    timer->async_wait([timer, call = std::move(call)](error_code ec) {
      if (!ec) call();
    });
  }

 private:
  asio::awaitable<void> accept() {
    while (acceptor_.is_open()) {
      error_code ec;
      tcp::socket socket = co_await acceptor_.async_accept(asio::redirect_error(asio::use_awaitable, ec));
      if (ec == asio::error::operation_aborted || ec == asio::error::bad_descriptor) co_return;
      if (ec) {  // out of descriptors: those that are open go on
        asio::steady_timer pause(context_, std::chrono::milliseconds(100));
        co_await pause.async_wait(asio::redirect_error(asio::use_awaitable, ec));
        continue;
      }
      socket.set_option(tcp::no_delay(true), ec);
      if (tls_) {
        asio::co_spawn(context_, shake_hands(std::move(socket)), asio::detached);
      } else {
        asio::co_spawn(context_, serve(beast::tcp_stream(std::move(socket))), asio::detached);
      }
    }
  }

  // Cancels what a connection waits for when its time is up. (tcp_stream's own timeout would close the socket, and the
  // client would never read why.) Each begins anew with the next one, or ends with the guard.
  class Deadline {
   public:
    Deadline(asio::io_context& context, tcp::socket& socket, int delay)
        : state_(std::make_shared<State>(State{asio::steady_timer(context, seconds(delay))})) {
      state_->timer.async_wait([state = state_, &socket](error_code ec) {
        if (ec || !state->armed) return;
        state->hit = true;
        socket.cancel(ec);
      });
    }
    ~Deadline() {
      state_->armed = false;
      state_->timer.cancel();
    }
    Deadline(const Deadline&) = delete;
    bool hit() const { return state_->hit; }

   private:
    struct State {
      asio::steady_timer timer;
      bool armed = true, hit = false;
    };
    std::shared_ptr<State> state_;
  };

  asio::awaitable<void> shake_hands(tcp::socket socket) {
    TlsStream stream(std::move(socket), *tls_);
    {
      error_code ec;
      const Deadline deadline(context_, socket_of(stream), options_.header_seconds);
      co_await stream.async_handshake(TlsStream::server, asio::redirect_error(asio::use_awaitable, ec));
      if (ec) co_return;
    }
    co_await serve(std::move(stream));
  }

  // Stream: plain or TLS.
  template <class Stream>
  asio::awaitable<void> serve(Stream stream) {
    tcp::socket& socket = socket_of(stream);
    beast::flat_buffer buffer;
    error_code ec;
    for (bool first = true;; first = false) {
      http::request_parser<http::string_body> parser;
      parser.header_limit(kHeaderLimit);
      parser.body_limit(options_.max_body);
      if (!first && buffer.size() == 0) {  // between requests a connection may rest longer
        const Deadline deadline(context_, socket, options_.idle_seconds);
        buffer.commit(co_await stream.async_read_some(buffer.prepare(kFirstBytes),
                                                      asio::redirect_error(asio::use_awaitable, ec)));
        if (ec) co_return;
      }
      {
        const Deadline deadline(context_, socket, options_.header_seconds);
        co_await http::async_read_header(stream, buffer, parser, asio::redirect_error(asio::use_awaitable, ec));
        if (deadline.hit()) ec = beast::error::timeout;
      }
      HttpRequest request;
      if (!ec) request = head_of(parser.get());
      const bool reads = parser.is_done() || !options_.wants_body || options_.wants_body(request);
      if (!ec && reads) {
        const Deadline deadline(context_, socket, options_.body_seconds);
        if (lower(request.header("expect")) == "100-continue") {
          http::response<http::empty_body> go_on(http::status::continue_, 11);
          co_await http::async_write(stream, go_on, asio::redirect_error(asio::use_awaitable, ec));
        }
        if (!ec) co_await http::async_read(stream, buffer, parser, asio::redirect_error(asio::use_awaitable, ec));
        if (deadline.hit()) ec = beast::error::timeout;
      }
      if (ec) {
        co_await refuse(stream, parser.got_some() || buffer.size() > 0, ec);
        co_return;
      }
      auto message = parser.release();
      const unsigned version = message.version();
      const bool keep_alive = message.keep_alive() && reads, is_head = message.method() == http::verb::head;
      if (reads) request.body = std::move(message.body());
      auto reply = std::make_shared<Reply>(context_);
      reply->socket = &socket;
      handler_(std::move(request), reply);
      auto watching = std::make_shared<bool>(true);
      asio::co_spawn(context_, watch(socket, reply, watching), asio::detached);
      const bool sent = co_await answer(stream, *reply, keep_alive, is_head, version);
      *watching = false;
      reply->socket = nullptr;
      socket.cancel(ec);
      if (!sent) {
        reply->lose();
        co_return;
      }
      if (!reads) co_return co_await linger(socket);
      if (!keep_alive || (version < 11 && !reply->whole)) break;  // HTTP/1.0 has no chunks: the close is the end
    }
    if constexpr (std::is_same_v<Stream, TlsStream>) {  // says goodbye, and waits a moment for the client's
      const Deadline deadline(context_, socket, kLingerSeconds);
      co_await stream.async_shutdown(asio::redirect_error(asio::use_awaitable, ec));
    }
    socket.shutdown(tcp::socket::shutdown_send, ec);
  }

  // While an answer is on its way: a client that closes its side is gone. Behind what it sent (the next request, or the
  // goodbye of TLS) the end of the stream cannot be read, but asked for.
  asio::awaitable<void> watch(tcp::socket& socket, std::shared_ptr<Reply> reply, std::shared_ptr<bool> watching) {
    error_code ec;
    co_await socket.async_wait(tcp::socket::wait_read, asio::redirect_error(asio::use_awaitable, ec));
    while (*watching && !ec) {
      pollfd descriptor{.fd = socket.native_handle(), .events = POLLRDHUP, .revents = 0};
      if (::poll(&descriptor, 1, 0) != 0) co_return reply->lose();
      asio::steady_timer pause(context_, kLookAgain);
      co_await pause.async_wait(asio::redirect_error(asio::use_awaitable, ec));
    }
  }

  static HttpRequest head_of(const http::request<http::string_body>& message) {
    HttpRequest request;
    request.method = std::string(message.method_string());
    const std::string target(message.target());
    const size_t mark = target.find('?');
    request.path = target.substr(0, mark);
    if (mark != std::string::npos) request.query = target.substr(mark + 1);
    for (const auto& field : message) request.headers[lower(field.name_string())] = std::string(field.value());
    return request;
  }

  template <bool kRequest, class Body>
  void fill(http::message<kRequest, Body>& message, const Reply& reply, bool keep_alive) const {
    message.result(static_cast<unsigned>(reply.status));
    message.set(http::field::server, options_.server);
    message.set(http::field::date, date());
    for (const auto& [name, value] : reply.headers) message.set(name, value);
    message.keep_alive(keep_alive);
  }
  static std::string date() {
    const std::time_t now = std::time(nullptr);
    std::tm utc{};
    gmtime_r(&now, &utc);
    char text[64];
    return {text, std::strftime(text, sizeof text, "%a, %d %b %Y %H:%M:%S GMT", &utc)};
  }

  // false: the client is gone.
  template <class Stream>
  asio::awaitable<bool> answer(Stream& stream, Reply& reply, bool keep_alive, bool is_head, unsigned version) {
    error_code ec;
    const auto wait = [&]() -> asio::awaitable<void> {
      reply.wake().expires_at(asio::steady_timer::time_point::max());
      error_code ignored;
      co_await reply.wake().async_wait(asio::redirect_error(asio::use_awaitable, ignored));
    };
    const auto write = [&](const auto& buffers) -> asio::awaitable<void> {
      const Deadline deadline(context_, socket_of(stream), options_.write_seconds);
      co_await asio::async_write(stream, buffers, asio::redirect_error(asio::use_awaitable, ec));
    };
    while (reply.status == 0 && !reply.gone) co_await wait();
    if (reply.gone) co_return false;
    http::response<http::empty_body> head;
    head.version(version);
    const bool has_chunks = !reply.whole && version >= 11;
    fill(head, reply, keep_alive && (reply.whole || has_chunks));
    if (reply.whole) head.content_length(reply.body.size());
    if (has_chunks) head.chunked(true);
    std::ostringstream written;
    written << head.base();
    const std::string head_text = std::move(written).str();
    if (reply.whole) {
      const std::string body = std::move(reply.body);
      std::string_view rest = is_head ? std::string_view() : body;
      std::array buffers{asio::buffer(head_text), asio::buffer(rest.substr(0, kPiece))};
      co_await write(buffers);
      while (!ec && !reply.gone && rest.size() > kPiece) {
        rest.remove_prefix(kPiece);
        co_await write(asio::buffer(rest.substr(0, kPiece)));
      }
      co_return !ec && !reply.gone;
    }
    co_await write(asio::buffer(head_text));
    while (!ec && !reply.gone) {
      if (reply.chunks.empty()) {
        if (reply.ended) break;
        co_await wait();
        continue;
      }
      const std::string chunk = std::move(reply.chunks.front());
      reply.chunks.pop_front();
      reply.queued -= chunk.size();
      if (chunk.empty()) continue;  // an empty chunk would be the end
      if (has_chunks) {
        co_await write(http::make_chunk(asio::buffer(chunk)));
      } else {
        co_await write(asio::buffer(chunk));
      }
    }
    if (has_chunks && !ec && !reply.gone) co_await write(http::make_chunk_last());
    co_return !ec && !reply.gone;
  }

  // What never became a request. Write, stop sending, read on for a moment, close: a plain close would reset the
  // connection before the client has read why.
  template <class Stream>
  asio::awaitable<void> refuse(Stream& stream, bool began, error_code why) {
    const bool is_timeout = why == beast::error::timeout;
    if (why == http::error::end_of_stream || why == asio::error::eof || why == asio::error::connection_reset ||
        why == http::error::partial_message || (is_timeout && !began))
      co_return;
    int status = 400;
    std::string message = "Bad Request: " + why.message();
    if (is_timeout) {
      status = 408;
      message = "Request Timeout";
    } else if (why == http::error::header_limit) {
      status = 431;
      message = "Request Header Fields Too Large";
    } else if (why == http::error::body_limit) {
      status = 413;
      message = fmt::format("Payload Too Large: the limit is {} bytes", options_.max_body);
    }
    Reply reply(context_);
    reply.status = status;
    reply.headers = {{"content-type", "application/json"}, {"x-should-retry", "false"}};
    http::response<http::string_body> response;
    response.version(11);
    fill(response, reply, false);
    response.body() = fmt::format(
        R"({{"error":{{"message":"{}","type":"invalid_request_error","param":null,"code":"invalid_request_error"}}}})",
        message);
    response.prepare_payload();
    error_code ec;
    tcp::socket& socket = socket_of(stream);
    const Deadline deadline(context_, socket, kLingerSeconds);
    co_await http::async_write(stream, response, asio::redirect_error(asio::use_awaitable, ec));
    co_await linger(socket);
  }

  // The end of an answer whose request was not read to its end: stop sending, read on for a moment.
  asio::awaitable<void> linger(tcp::socket& socket) {
    error_code ec;
    socket.shutdown(tcp::socket::shutdown_send, ec);
    const Deadline deadline(context_, socket, kLingerSeconds);
    std::vector<char> rest(16384);  // under TLS as it comes: nobody looks at it
    for (size_t total = 0; !ec && total < kLingerBytes;)
      total += co_await socket.async_read_some(asio::buffer(rest), asio::redirect_error(asio::use_awaitable, ec));
  }

  const HttpOptions options_;
  const HttpHandler handler_;
  std::optional<asio::ssl::context> tls_;  // before the context, which holds connections to its end
  asio::io_context context_{1};
  tcp::acceptor acceptor_;
};

}  // namespace

Status check_tls(const HttpOptions& options) {
  if (!options.tls_certificate.empty()) HADAL_TRY(open_tls(options));
  return {};
}

Result<std::unique_ptr<HttpServer>> HttpServer::listen(const HttpOptions& options, HttpHandler handler) {
  auto server = std::make_unique<Server>(options, std::move(handler));
  HADAL_TRY(server->open());
  return std::unique_ptr<HttpServer>(std::move(server));
}

}  // namespace hadal::serve
