// The server under load, on loopback, with a decoder that needs no weights. A few seconds by default; `make load-test`
// is the long one. Times are printed, never asserted.

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <mutex>
#include <random>
#include <thread>

#include "serve/server.h"
#include "serve/stats.h"
#include "tests/support/fake_decoder.h"
#include "tests/support/http_client.h"
#include "text/tokenizer_json.h"

namespace hadal::serve {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;
using testing::HttpClient;
using testing::post_request;

int given(const char* name, int otherwise) {
  const char* text = std::getenv(name);
  return text ? std::atoi(text) : otherwise;
}

const text::Tokenizer& tokenizer() {
  static const text::Tokenizer kTokenizer =
      text::Tokenizer::parse(json::dump(text::tokenizer_json({}, false)), "bytes").value();
  return kTokenizer;
}

// A step takes as long as a model's would: without that the clients, which share the processor, could not keep up.
class PacedDecoder final : public testing::FakeDecoder {
 public:
  PacedDecoder(milliseconds step, bool comes_to_an_end) : FakeDecoder(tokenizer().size(), 100000), step_(step) {
    const auto letter = [](const char* c) {
      TokenId id = 0;
      while (tokenizer().piece(id) != c) ++id;
      return id;
    };
    first = letter("a");
    last = letter("z");
    ends = comes_to_an_end;
  }
  Status forward(std::span<const model::Sequence> batch, std::vector<float>& logits) override {
    std::this_thread::sleep_until(next_);
    next_ = std::max(next_, steady_clock::now()) + step_;
    for (const model::Sequence& sequence : batch) n_tokens += sequence.n_logits;
    return FakeDecoder::forward(batch, logits);
  }
  std::atomic<int64_t> n_tokens{0};

 private:
  const milliseconds step_;
  steady_clock::time_point next_{};
};

class Running {
 public:
  Running(ServerOptions options, milliseconds step, bool ends) : decoder(step, ends) {
    options.http.port = 0;
    options.drain_seconds = 0.2;
    server_ = Server::open(decoder, tokenizer(), options).value();
    thread_ = std::thread([this] { server_->run(); });
  }
  ~Running() {
    server_->stop();
    thread_.join();
  }
  uint16_t port() const { return server_->port(); }
  int64_t stat(const char* key) const {
    const auto answer = testing::talk(port(), "GET /stats HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    const auto stats = json::parse(answer.body);
    return stats.ok() && stats.value().find(key) ? stats.value().find(key)->to_int64().value() : -1;
  }

  PacedDecoder decoder;

 private:
  std::unique_ptr<Server> server_;
  std::thread thread_;
};

std::string chat(const std::string& question, int64_t max_tokens, bool stream) {
  return fmt::format(
      R"({{"model":"hadal-nano","temperature":0,"stream":{},"max_tokens":{},"messages":[{{"role":"user","content":"{}"}}]}})",
      stream, max_tokens, question);
}

int64_t open_files() {
  int64_t n = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) ++n;
  return n;
}
void allow_files(rlim_t n) {
  rlimit limit{};
  ::getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = std::max(limit.rlim_cur, std::min(n, limit.rlim_max));
  ::setrlimit(RLIMIT_NOFILE, &limit);
}
double seconds_of(clockid_t clock) {
  timespec time{};
  ::clock_gettime(clock, &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}
template <class Condition>
bool comes_true(Condition condition) {
  for (int i = 0; i < 200 && !condition(); ++i) std::this_thread::sleep_for(milliseconds(50));
  return condition();
}

TEST(Load, StreamsGoOnBesideIdleConnectionsAndAFreshRequestIsAnswered) {
  constexpr int kStreams = 64, kIdle = 500;
  const int seconds = given("HADAL_LOAD_SECONDS", 2);
  allow_files(4096);
  ServerOptions options;
  options.limits.max_running = kStreams + 8;
  Running running(options, milliseconds(10), false);
  std::vector<std::unique_ptr<HttpClient>> idle, streams;
  for (int i = 0; i < kIdle; ++i) {
    idle.push_back(std::make_unique<HttpClient>(running.port()));
    ASSERT_TRUE(idle.back()->send("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"));
    ASSERT_NE(idle.back()->read("\"ok\"}").find("200 OK"), std::string::npos);
  }
  for (int i = 0; i < kStreams; ++i) {
    streams.push_back(std::make_unique<HttpClient>(running.port()));
    ASSERT_TRUE(streams.back()->send(post_request("/v1/chat/completions", chat(fmt::format("n {}", i), 90000, true))));
  }
  // Streams are read by one thread, whose own work is not the server's.
  std::vector<pollfd> waits;
  for (const auto& stream : streams) waits.push_back({stream->socket(), POLLIN, 0});
  std::vector<int64_t> bytes(kStreams, 0);
  int n_ended = 0;
  std::atomic<bool> over{false};
  double reader_cpu = 0;
  std::thread reader([&] {
    std::vector<char> buffer(1 << 16);
    while (!over.load()) {
      ::poll(waits.data(), waits.size(), 100);
      for (size_t i = 0; i < waits.size(); ++i) {
        if (!(waits[i].revents & (POLLIN | POLLHUP))) continue;
        const ssize_t n = ::recv(waits[i].fd, buffer.data(), buffer.size(), MSG_DONTWAIT);
        if (n > 0) bytes[i] += n;
        if (n == 0) {
          waits[i].fd = -1;
          ++n_ended;
        }
      }
    }
    reader_cpu = seconds_of(CLOCK_THREAD_CPUTIME_ID);
  });
  ASSERT_TRUE(comes_true([&] { return running.decoder.n_tokens.load() > 10 * kStreams; }));  // all are in

  const double own_before = seconds_of(CLOCK_THREAD_CPUTIME_ID), cpu_before = seconds_of(CLOCK_PROCESS_CPUTIME_ID);
  const int64_t tokens_before = running.decoder.n_tokens.load();
  const auto until = steady_clock::now() + std::chrono::seconds(seconds);
  std::vector<double> fresh;
  while (steady_clock::now() < until) {
    std::this_thread::sleep_for(milliseconds(200));
    const auto start = steady_clock::now();
    const auto answer = testing::talk(running.port(), post_request("/v1/chat/completions", chat("fresh", 4, false)));
    fresh.push_back(std::chrono::duration<double, std::milli>(steady_clock::now() - start).count());
    EXPECT_EQ(answer.status, 200) << answer.body;
  }
  over = true;
  reader.join();
  const double own = seconds_of(CLOCK_THREAD_CPUTIME_ID) - own_before;
  const double cpu = seconds_of(CLOCK_PROCESS_CPUTIME_ID) - cpu_before - own - reader_cpu;
  const auto n_tokens = static_cast<double>(running.decoder.n_tokens.load() - tokens_before);
  std::sort(fresh.begin(), fresh.end());
  fmt::print(
      "{} streams, {} idle connections, {} s: {:.0f} tokens/s, {:.1f} us of CPU per streamed token; a fresh "
      "request of 4 tokens (steps of 10 ms): median {:.0f} ms, longest {:.0f} ms of {}\n",
      kStreams, kIdle, seconds, n_tokens / seconds, cpu / n_tokens * 1e6, fresh[fresh.size() / 2], fresh.back(),
      fresh.size());
  EXPECT_EQ(n_ended, 0);
  int64_t all = 0;
  for (const int64_t n : bytes) {
    EXPECT_GT(n, 1000);
    all += n;
  }
  EXPECT_GT(static_cast<double>(all), 200 * n_tokens) << "tokens that were not streamed";
  for (const auto& client : idle) {  // they are still served
    ASSERT_TRUE(client->send("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"));
    ASSERT_NE(client->read("\"ok\"}").find("200 OK"), std::string::npos);
  }
  const int64_t files = open_files();
  streams.clear();
  idle.clear();
  EXPECT_TRUE(comes_true([&] { return running.stat("running") == 0; }));
  EXPECT_TRUE(comes_true([&] { return open_files() <= files - 2 * (kStreams + kIdle) + 8; }));
}

// One request of a random kind, good or bad. "" when the server did what it should, else what it did.
std::string try_something(uint16_t port, std::mt19937& random) {
  const auto draw = [&](int n) { return static_cast<int>(random() % static_cast<unsigned>(n)); };
  const std::string good = chat(fmt::format("question {}", draw(1000)), 1 + draw(40), false);
  const std::string path = "/v1/chat/completions";
  const auto expect = [&](int status, const std::string& request) -> std::string {
    const auto answer = testing::talk(port, request);
    if (answer.status == status && answer.is_whole) return "";
    return fmt::format("expected {}, found {} {}: {}", status, answer.status, answer.body.substr(0, 200),
                       request.substr(0, 200));
  };
  HttpClient client(port);
  switch (draw(18)) {
    case 0:
      return expect(200, post_request(path, good));
    case 1:
    case 2: {
      const auto answer = testing::talk(port, post_request(path, chat("stream", 1 + draw(60), true)));
      const auto events = testing::events_of(answer.body);
      if (answer.status == 200 && answer.is_whole && !events.empty() && events.back().data == "[DONE]") return "";
      return fmt::format("a stream without its end: {}", answer.body.substr(0, 300));
    }
    case 3:
      return expect(200, post_request("/anthropic/v1/messages", good));
    case 4:
      return expect(200, post_request("/v1/responses", R"({"model":"hadal-nano","max_output_tokens":9,"input":"x"})"));
    case 5:
    case 6:  // goes away in the middle
      client.send(post_request(path, chat("cancelled", 90000, true), ""));
      client.read(draw(2) ? "data: " : "\"content\"");
      return "";
    case 7:  // before it has asked
      client.send(post_request(path, good).substr(0, static_cast<size_t>(draw(100))));
      return "";
    case 8:  // closes its side, which is how a client leaves
      client.send(post_request(path, chat("half", 90000, true), ""));
      client.finish_sending();
      return client.read().ends_with("[DONE]\n\n") ? "answered who had left" : "";
    case 9:
      return expect(400, post_request(path, good.substr(0, static_cast<size_t>(draw(static_cast<int>(good.size()))))));
    case 10: {
      std::string broken = good;
      broken.insert(broken.size() - 5, draw(2) ? "\xC3\x28" : "\xED\xA0\x80");
      return expect(400, post_request(path, broken));
    }
    case 11:
      return expect(400, post_request(path, std::string(static_cast<size_t>(200 + draw(80000)), draw(2) ? '[' : '{')));
    case 12: {
      std::string noise;
      for (int i = 0; i < 200; ++i) noise += static_cast<char>(1 + draw(255));
      return expect(400, post_request(path, noise));
    }
    case 13:
      return expect(431, fmt::format("GET /health HTTP/1.1\r\nX: {}\r\n\r\n", std::string(40000, 'x')));
    case 14:
      return expect(413, post_request(path, std::string(static_cast<size_t>(200000 + draw(1 << 19)), ' ')));
    case 15:
      return draw(2) ? expect(404, post_request("/v1/nothing", good))
                     : expect(405, "PUT /v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    case 16: {  // one byte now and then, and never all of them
      const std::string whole = draw(2) ? post_request(path, good) : "GET /health HTTP/1.1\r\nHost: localhost\r\nX: 1";
      const size_t n = whole.size() - 5;
      client.send(whole.substr(0, n - 3));
      for (size_t i = n - 3; i < n; ++i) {
        std::this_thread::sleep_for(milliseconds(100));
        client.send(whole.substr(i, 1));
      }
      const auto answer = testing::parse_answer(client.read());
      return answer.status == 408 ? "" : fmt::format("expected 408, found {}", answer.status);
    }
    default:  // several on one connection
      for (int i = 0; i < 3; ++i) {
        client.send("GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n");
        if (client.read("]}").find("200 OK") == std::string::npos) return "a connection was not kept";
      }
      return "";
  }
}

TEST(Load, SurvivesWhateverClientsSend) {
  const int n_requests = given("HADAL_LOAD_REQUESTS", 200);
  const auto seed = static_cast<unsigned>(given("HADAL_LOAD_SEED", static_cast<int>(std::random_device{}() >> 1)));
  fmt::print("HADAL_LOAD_SEED={}\n", seed);
  ServerOptions options;
  options.http.max_body = 100000;
  options.http.header_seconds = options.http.body_seconds = 1;
  options.limits.kv_bytes = int64_t{16} << 20;
  Running running(options, milliseconds(1), true);
  constexpr int kClients = 16;
  std::atomic<int> left{0};
  std::mutex mutex;
  std::vector<std::string> wrong;
  const auto play = [&](int n, unsigned round) {
    left = n;
    std::vector<std::thread> threads;
    for (unsigned i = 0; i < kClients; ++i)
      threads.emplace_back([&, i] {
        std::mt19937 random(seed + round * kClients + i);
        while (left.fetch_sub(1) > 0)
          if (const std::string why = try_something(running.port(), random); !why.empty()) {
            const std::lock_guard lock(mutex);
            wrong.push_back(why);
          }
      });
    for (std::thread& thread : threads) thread.join();
    EXPECT_TRUE(comes_true([&] { return running.stat("running") == 0 && running.stat("waiting") == 0; }));
  };
  play(n_requests / 4, 0);  // until everything has been used once
  EXPECT_TRUE(comes_true([] { return open_files() < 64; }));
  const int64_t memory = resident_bytes(), files = open_files();
  play(n_requests - n_requests / 4, 1);
  for (const std::string& why : wrong) ADD_FAILURE() << why;
  EXPECT_TRUE(comes_true([&] { return open_files() <= files + 2; })) << files << " before, " << open_files() << " now";
  EXPECT_LT(resident_bytes(), memory + (int64_t{64} << 20));
  EXPECT_LE(running.stat("conversation_bytes"), options.limits.kv_bytes);
  const auto answer = testing::talk(running.port(), post_request("/v1/chat/completions", chat("alive", 3, false)));
  EXPECT_EQ(answer.status, 200);
}

}  // namespace
}  // namespace hadal::serve
