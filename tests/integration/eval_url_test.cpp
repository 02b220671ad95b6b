// Evaluation through an endpoint: what a server of the shipped model is asked comes out as with the engine, and what
// endpoints do wrong is told.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <atomic>
#include <deque>
#include <mutex>
#include <thread>

#include "data/family.h"
#include "eval/endpoint.h"
#include "eval/runner.h"
#include "serve/http.h"
#include "tests/support/model_server.h"

namespace hadal::eval {
namespace {

TEST(EvalUrl, OutcomesAreThoseOfTheEngine) {
  std::vector<Trial> trials;
  const auto add = [&](const char* id, std::initializer_list<data::Mode> modes, uint64_t n = 2) {
    for (uint64_t seed = 0; seed < n; ++seed)
      for (const data::Mode mode : modes) {
        auto task = data::make_task({.environment = id, .split = data::Split::kTest, .seed = seed});
        ASSERT_TRUE(task.ok()) << task.error().message;
        trials.push_back({std::move(task).value(), mode});
      }
  };
  add("add", {data::Mode::kPlain, data::Mode::kMax});
  for (const char* world : {"store/lookup/direct", "bank/lookup/direct", "notes/lookup/direct"})
    add(world, {data::Mode::kPlain, data::Mode::kHigh}, 2);  // loops of tools
  int n_json = 0;
  for (const data::Family& family : data::families())
    if (family.kind == "json" && n_json++ < 3) add(family.id.c_str(), {data::Mode::kPlain});

  RunOptions options;
  options.sampling = {.temperature = 0.2f, .seed = 11};
  options.max_tokens = 200;
  options.side_by_side = 8;
  const auto engine = engine::Engine::open({.model = testing::kShippedModel, .threads = 2}).value();
  const auto tokenizer = text::Tokenizer::load(testing::kShippedModel).value();
  const auto encoding = text::encoding_of_checkpoint(testing::kShippedModel).value();
  const auto own = run_trials(*engine, tokenizer, encoding, trials, options).value();

  const testing::ModelServer server;
  const auto endpoint = open_endpoint({.url = fmt::format("http://127.0.0.1:{}/v1/", server.port()),
                                       .model = "hadal-nano",
                                       .sampling = options.sampling,
                                       .max_tokens = options.max_tokens})
                            .value();
  const auto asked = run_trials(*endpoint, trials, options);
  ASSERT_TRUE(asked.ok()) << asked.error().message;
  int n_solved = 0, n_calls = 0;
  for (size_t i = 0; i < trials.size(); ++i) {
    SCOPED_TRACE(trials[i].task.key.environment);
    const Outcome &a = own[i], &b = asked.value()[i];
    // The server keeps calls to their grammar, the engine leaves the model free: where that breaks it they part.
    if (a.messages != a.well_formed) continue;
    EXPECT_EQ(a.solved, b.solved);
    EXPECT_EQ(a.reason, b.reason);
    EXPECT_EQ(a.messages, b.messages);
    EXPECT_EQ(a.calls, b.calls);
    EXPECT_EQ(a.valid_calls, b.valid_calls);
    EXPECT_EQ(a.valid_json, b.valid_json);
    EXPECT_EQ(a.prompt_tokens, b.prompt_tokens);
    EXPECT_EQ(a.completion_tokens, b.completion_tokens);
    EXPECT_EQ(a.transcript, b.transcript);
    n_solved += b.solved;
    n_calls += b.calls;
  }
  EXPECT_GT(n_solved, 0);
  EXPECT_GT(n_calls, 0);
}

// Answers with what it was given, one after the other, the last again and again; keeps what it was asked.
class StandIn {
 public:
  struct Reply {
    int status = 200;
    std::string body;
    serve::Headers headers = {};
  };
  explicit StandIn(std::deque<Reply> replies) : replies_(std::move(replies)) {
    serve::HttpOptions options;
    options.port = 0;
    http_ =
        serve::HttpServer::listen(options, [this](serve::HttpRequest request, std::shared_ptr<serve::HttpReply> reply) {
          const std::lock_guard lock(mutex_);
          asked.push_back(std::move(request));
          const Reply& next = replies_.front();
          if (next.status != 0) reply->send(next.status, next.headers, next.body);  // 0: never
          if (replies_.size() > 1) replies_.pop_front();
        }).value();
    thread_ = std::thread([this] { http_->run(); });
  }
  ~StandIn() {
    http_->stop();
    thread_.join();
  }
  std::string url() const { return fmt::format("http://127.0.0.1:{}", http_->port()); }
  std::vector<serve::HttpRequest> asked;

 private:
  std::mutex mutex_;
  std::deque<Reply> replies_;
  std::unique_ptr<serve::HttpServer> http_;
  std::thread thread_;
};

Result<std::vector<Outcome>> run(const StandIn& endpoint, const char* task, int timeout_s = 30, int most_tries = 4) {
  const auto answerer =
      open_endpoint(
          {.url = endpoint.url(), .key = "sk-secret", .model = "m", .timeout_s = timeout_s, .most_tries = most_tries})
          .value();
  const std::vector<Trial> trials{
      {data::make_task({.environment = task, .split = data::Split::kTest, .seed = 1}).value(), data::Mode::kMax}};
  return run_trials(*answerer, trials, {});
}
std::string said(const std::string& message, const char* finish = "stop") {
  return fmt::format(
      R"({{"choices":[{{"message":{},"finish_reason":"{}"}}],"usage":{{"prompt_tokens":5,"completion_tokens":3}}}})",
      message, finish);
}

TEST(EvalUrl, WhatIsAskedAndHowABusyEndpointIsAskedAgain) {
  StandIn endpoint({{503, "{}"}, {429, "busy", {{"retry-after", "1"}}}, {200, said(R"({"content":"no idea"})")}});
  const auto start = std::chrono::steady_clock::now();
  const auto outcomes = run(endpoint, "store/lookup/direct");
  ASSERT_TRUE(outcomes.ok()) << outcomes.error().message;
  EXPECT_GT(std::chrono::steady_clock::now() - start, std::chrono::milliseconds(1400));  // half a second, and one
  EXPECT_EQ(outcomes.value()[0].well_formed, 1);
  EXPECT_EQ(outcomes.value()[0].completion_tokens, 3);
  ASSERT_EQ(endpoint.asked.size(), 3u);
  const serve::HttpRequest& request = endpoint.asked.back();
  EXPECT_EQ(request.path, "/chat/completions");
  EXPECT_EQ(request.header("authorization"), "Bearer sk-secret");
  const json::Value body = json::parse(request.body).value();
  EXPECT_EQ(*body.find("model"), json::Value("m"));
  EXPECT_EQ(*body.find("reasoning_effort"), json::Value("max"));
  EXPECT_EQ(*body.find("thinking")->find("type"), json::Value("enabled"));
  EXPECT_EQ(*body.find("seed"), json::Value(0));
  EXPECT_TRUE(body.find("tools")->is_array());
  for (const json::Value& message : body.find("messages")->as_array()) EXPECT_FALSE(message.find("tools"));
}

TEST(EvalUrl, WhatIsNoMessageIsNotWellFormed) {
  const struct {
    std::string message;
    const char *finish, *reason;
  } cases[] = {
      {R"({"content":"x"})", "length", "no end within the token limit"},
      {R"({"content":"x"})", "content_filter", "malformed: it ended with content_filter"},
      {R"({"content":null,"tool_calls":[{"id":"c","function":{"name":"rm","arguments":"{}"}}]})", "tool_calls",
       "malformed: no tool is named \"rm\""},
      {"null", "stop", "no message in the answer"},
  };
  for (const auto& c : cases) {
    const auto outcomes = run(StandIn({{200, said(c.message, c.finish)}}), "store/lookup/direct");
    ASSERT_TRUE(outcomes.ok()) << outcomes.error().message;
    EXPECT_EQ(outcomes.value()[0].reason, c.reason);
    EXPECT_EQ(outcomes.value()[0].messages, 1);
    EXPECT_EQ(outcomes.value()[0].well_formed, 0);
  }
  const auto too_long =
      run(StandIn({{400, R"({"error":{"message":"too long","code":"context_length_exceeded"}})"}}), "add");
  ASSERT_TRUE(too_long.ok());
  EXPECT_EQ(too_long.value()[0].reason, "too long");
  EXPECT_EQ(too_long.value()[0].messages, 0);
}

TEST(EvalUrl, ErrorsNameTheUrlAndTheStatus) {
  const auto message_of = [](StandIn::Reply reply, int timeout_s = 30, int most_tries = 2) {
    const StandIn endpoint({std::move(reply)});
    const auto outcomes = run(endpoint, "add", timeout_s, most_tries);
    EXPECT_FALSE(outcomes.ok());
    std::string message = outcomes.ok() ? "" : outcomes.error().message;
    const std::string url = endpoint.url() + "/chat/completions: ";
    EXPECT_TRUE(message.starts_with(url)) << message;
    return message.substr(std::min(url.size(), message.size()));
  };
  EXPECT_EQ(message_of({401, R"({"error":{"message":"no such key"}})"}), "status 401: no such key");
  EXPECT_EQ(message_of({404, "<html>\nnothing"}), "status 404: <html> nothing");
  EXPECT_EQ(message_of({503, R"({"error":{"message":"busy"}})"}), "status 503: busy");
  EXPECT_EQ(message_of({200, "nonsense"}), "status 200: expected JSON, found \"nonsense\"");
  EXPECT_EQ(message_of({200, R"({"error":{"message":"gave up"}})"}), "status 200: gave up");
  EXPECT_EQ(message_of({0, ""}, 1), "expected an answer within 1 s, found none");
  EXPECT_EQ(open_endpoint({.url = "ftp://x"}).error().message, "ftp://x: expected a URL of http or https");
  const auto answerer = open_endpoint({.url = "http://127.0.0.1:1", .most_tries = 2}).value();
  const std::vector<Trial> trials{{data::make_task({.environment = "add"}).value(), data::Mode::kPlain}};
  const auto refused = run_trials(*answerer, trials, {});
  ASSERT_FALSE(refused.ok());
  EXPECT_TRUE(refused.error().message.starts_with("http://127.0.0.1:1/chat/completions: ")) << refused.error().message;
}

}  // namespace
}  // namespace hadal::eval
