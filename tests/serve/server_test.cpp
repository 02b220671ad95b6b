// The server over real sockets, with a decoder that needs no weights.

#include "serve/server.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <zlib.h>

#include <future>
#include <set>
#include <thread>

#include "serve/stats.h"
#include "serve/worker.h"
#include "tests/support/served.h"

namespace hadal::serve {
namespace {

using namespace testing;

// role, content, reasoning and calls of a streamed answer put together, and the last chunk
struct Streamed {
  std::string content, reasoning, finish;
  json::Value last;
  bool done = false;
};
Streamed put_together(const HttpAnswer& answer) {
  Streamed all;
  EXPECT_EQ(answer.status, 200) << answer.body;
  for (const auto& [name, event] : events_of(answer.body)) {
    EXPECT_FALSE(all.done);
    if (event == "[DONE]") {
      all.done = true;
      continue;
    }
    const auto chunk = json::parse(event);
    EXPECT_TRUE(chunk.ok()) << event;
    const json::Value& choice = chunk.value().find("choices")->as_array().at(0);
    const json::Value& delta = *choice.find("delta");
    if (const json::Value* text = delta.find("content"); text && text->is_string()) all.content += text->as_string();
    if (const json::Value* text = delta.find("reasoning_content"); text && text->is_string())
      all.reasoning += text->as_string();
    if (const json::Value* finish = choice.find("finish_reason"); finish->is_string()) all.finish = finish->as_string();
    all.last = chunk.value();
  }
  return all;
}

TEST(Server, SchemasAreEnforcedRefusedAndNamed) {
  const Running running;
  const auto format = [](const std::string& schema, bool strict) {
    return R"(,"thinking":{"type":"disabled"},"response_format":{"type":"json_schema","json_schema":{"name":"n","strict":)" +
           std::string(strict ? "true" : "false") + R"(,"schema":)" + schema + "}}";
  };
  const std::string schema = R"({"type":"object","properties":{"a":{"enum":["x","y"]}},"required":["a"],"not":{},
      "additionalProperties":false})";
  for (const bool stream : {false, true}) {
    const HttpAnswer response =
        talk(running.port(), post_request("/v1/chat/completions", ask("q", 300, stream, format(schema, false))));
    EXPECT_EQ(response.header("x-hadal-ignored-schema"), "/not") << response.body;
    const std::string content =
        stream ? put_together(response).content
               : body_of(response).find("choices")->as_array().at(0).find("message")->find("content")->as_string();
    const auto value = json::parse(content);
    ASSERT_TRUE(value.ok()) << content;
    EXPECT_TRUE(value.value().find("a"));
  }
  const HttpAnswer refused =
      talk(running.port(), post_request("/v1/chat/completions", ask("q", 60, false, format(schema, true))));
  EXPECT_EQ(refused.status, 400);
  EXPECT_NE(refused.body.find("/: not is not supported"), std::string::npos) << refused.body;
}

TEST(Server, AStreamIsTheWholeAnswerInPieces) {
  const Running running;
  for (const char* thinking : {R"(,"thinking":{"type":"disabled"})", R"(,"thinking":{"type":"enabled"})"}) {
    for (int i = 0; i < 5; ++i) {
      const std::string question = "question " + std::to_string(i);
      const auto whole =
          body_of(talk(running.port(), post_request("/v1/chat/completions", ask(question, 60, false, thinking))));
      const auto streamed =
          put_together(talk(running.port(), post_request("/chat/completions", ask(question, 60, true, thinking))));
      const json::Value& choice = whole.find("choices")->as_array().at(0);
      const json::Value& message = *choice.find("message");
      EXPECT_EQ(message.find("content")->as_string(), streamed.content);
      if (const json::Value* reasoning = message.find("reasoning_content")) {
        EXPECT_EQ(reasoning->as_string(), streamed.reasoning);
      }
      EXPECT_EQ(choice.find("finish_reason")->as_string(), streamed.finish);
      EXPECT_TRUE(streamed.done);
      const json::Value& usage = *whole.find("usage");
      const json::Value& last = *streamed.last.find("usage");
      EXPECT_EQ(*usage.find("completion_tokens"), *last.find("completion_tokens"));
      EXPECT_EQ(usage.find("prompt_tokens")->to_int64(), *usage.find("prompt_cache_hit_tokens")->to_int64() +
                                                             *usage.find("prompt_cache_miss_tokens")->to_int64());
    }
  }
}

TEST(Server, EachWrongRequestHasItsStatus) {
  ServerOptions options;
  options.http.max_body = 100000;
  options.http.header_seconds = 1;
  const Running running(options);
  EXPECT_EQ(talk(running.port(), post_request("/v1/chat/completions", "{bad")).status, 400);
  EXPECT_EQ(talk(running.port(), post_request("/v1/chat/completions", std::string(2000, '['))).status, 400);
  EXPECT_EQ(talk(running.port(), post_request("/v1/chat/completions", "\"\xff\xfe\"")).status, 400);
  EXPECT_EQ(talk(running.port(), post_request("/v1/nothing", "{}")).status, 404);
  EXPECT_EQ(talk(running.port(), "PUT /v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").status,
            405);
  EXPECT_EQ(
      talk(running.port(), post_request("/chat/completions", "{}", "Content-Encoding: br\r\nConnection: close\r\n"))
          .status,
      415);
  EXPECT_EQ(talk(running.port(), post_request("/chat/completions", std::string(200000, ' '))).status, 413);
  EXPECT_EQ(talk(running.port(), "GET / HTTP/1.1\r\nX: " + std::string(40000, 'x') + "\r\n\r\n").status, 431);
  EXPECT_EQ(talk(running.port(), "NONSENSE\r\n\r\n").status, 400);
  EXPECT_EQ(talk(running.port(), "GET /health HTTP/1.1\r\nHos").status, 408);  // and never more
  EXPECT_EQ(talk(running.port(), "HEAD /v1 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").status, 200);
  EXPECT_EQ(talk(running.port(), "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").status, 200);
}

TEST(Server, ThePageLetsNothingElseRun) {
  const Running running;
  const auto get = [&](const std::string& path, const std::string& more = "", const char* method = "GET") {
    return talk(running.port(),
                method + (" " + path) + " HTTP/1.1\r\nHost: localhost\r\n" + more + "Connection: close\r\n\r\n");
  };
  const HttpAnswer page = get("/");
  EXPECT_EQ(page.status, 200);
  EXPECT_EQ(page.header("content-type"), "text/html; charset=utf-8");
  const std::string policy = page.header("content-security-policy");
  EXPECT_NE(policy.find("default-src 'none'; script-src 'self';"), std::string::npos);
  EXPECT_EQ((policy + page.body).find("unsafe-"), std::string::npos);
  EXPECT_EQ((policy + page.body).find("://"), std::string::npos) << "something from elsewhere";
  EXPECT_EQ(get("/index.html").body, page.body);
  for (const char* path :
       {"/app.js", "/theme.js", "/style.css", "/icon.svg", "/markdown-it.min.js", "/purify.min.js"}) {
    EXPECT_EQ(get(path).status, 200) << path;
    EXPECT_NE(page.body.find(path + 1), std::string::npos) << path;
  }
  const HttpAnswer known = get("/", "If-None-Match: " + page.header("etag") + "\r\n");
  EXPECT_EQ(known.status, 304);
  EXPECT_EQ(known.body, "");
  EXPECT_EQ(get("/", "If-None-Match: \"other\"\r\n").status, 200);
  EXPECT_EQ(get("/", "", "HEAD").status, 200);
  EXPECT_EQ(get("/", "", "HEAD").body, "");
  EXPECT_EQ(get("/../app.js").status, 404);
  EXPECT_EQ(talk(running.port(), post_request("/app.js", "{}")).status, 404);
}

TEST(Server, StatsCountWhatWasDone) {
  ServerOptions options;
  options.rules.model = "hadal-nano";
  options.card = "# A card\n";
  const Running running(options);
  const auto get = [&](const std::string& path) {
    return talk(running.port(), "GET " + path + " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
  };
  const auto number = [&](const json::Value& stats, const char* key) { return stats.find(key)->to_int64().value(); };
  const json::Value before = body_of(get("/stats"));
  EXPECT_EQ(before.find("model")->as_string(), "hadal-nano");
  EXPECT_EQ(number(before, "tokens"), 0);
  EXPECT_GT(number(before, "resident_bytes"), 1 << 20);
  EXPECT_EQ(talk(running.port(), post_request("/chat/completions", ask("x", 12, false))).status, 200);
  json::Value after = body_of(get("/stats"));
  for (int i = 0; i < 100 && number(after, "finished") == 0; ++i)  // counted with the end of the step, after the answer
    after = body_of(get("/stats"));
  EXPECT_GT(number(after, "tokens"), 0);
  EXPECT_GT(number(after, "prompt_tokens"), 0);
  EXPECT_EQ(number(after, "running"), 0);
  EXPECT_EQ(number(after, "finished"), 1);
  EXPECT_EQ(get("/card").body, "# A card\n");
  EXPECT_EQ(talk(Running().port(), "GET /card HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").status, 404);
}

TEST(Server, MetricsAreWellFormedAndTrue) {
  const Running running;
  const auto get = [&] {
    return talk(running.port(), "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").body;
  };
  EXPECT_EQ(talk(running.port(), post_request("/v1/chat/completions", ask("x", 12, true))).status, 200);
  EXPECT_EQ(talk(running.port(), post_request("/v1/chat/completions", "{bad")).status, 400);
  EXPECT_EQ(talk(running.port(), post_request("/v1/nothing", "{}")).status, 404);
  std::string text = get();
  for (int i = 0; i < 100 && text.find("hadal_generation_tokens_total{model=\"hadal-nano\"} 0\n") != std::string::npos;
       ++i)
    text = get();
  const auto has = [&](const std::string& line) { return text.find(line + "\n") != std::string::npos; };
  EXPECT_TRUE(has(R"(hadal_requests_total{model="hadal-nano",endpoint="/chat/completions",code="200"} 1)")) << text;
  EXPECT_TRUE(has(R"(hadal_requests_total{model="hadal-nano",endpoint="/chat/completions",code="400"} 1)")) << text;
  EXPECT_TRUE(has(R"(hadal_requests_total{model="hadal-nano",endpoint="other",code="404"} 1)")) << text;
  EXPECT_TRUE(has(R"(hadal_time_to_first_token_seconds_count{model="hadal-nano"} 1)")) << text;
  EXPECT_TRUE(has(R"(vllm:e2e_request_latency_seconds_bucket{model_name="hadal-nano",le="+Inf"} 1)")) << text;
  std::set<std::string> families;
  std::string family;
  for (size_t at = 0, end = 0; at < text.size(); at = end + 1) {
    end = text.find('\n', at);
    const std::string line = text.substr(at, end - at);
    if (line.starts_with("# TYPE ")) {
      family = line.substr(7, line.find(' ', 7) - 7);
      EXPECT_TRUE(families.insert(family).second) << family << " twice";
    } else if (!line.starts_with('#')) {
      EXPECT_TRUE(line.starts_with(family)) << line;
      EXPECT_NE(line.find("} "), std::string::npos) << line;
    }
  }
}

TEST(Rate, IsOfTheLastSeconds) {
  Rate rate;
  EXPECT_EQ(rate.per_second(), 0);
  for (int i = 0; i <= 100; ++i) rate.sample(0.2 * i, 10 * i);
  EXPECT_NEAR(rate.per_second(), 50, 1e-9);
  for (int i = 101; i <= 120; ++i) rate.sample(0.2 * i, 1000);  // four seconds of nothing
  EXPECT_EQ(rate.per_second(), 0);
}

TEST(Worker, DoesJobsInTurnAndRefusesWhatIsTooMuch) {
  std::promise<void> begin, end;
  std::string done;
  {
    Worker worker(10);
    EXPECT_TRUE(worker.is_idle());
    EXPECT_TRUE(worker.give(100, [&] {  // alone it may be any size
      EXPECT_TRUE(worker.is_here());
      begin.get_future().wait();
      done += 'a';
    }));
    EXPECT_FALSE(worker.give(1, [&] { done += 'x'; }));
    EXPECT_FALSE(worker.is_idle());
    EXPECT_FALSE(worker.is_here());
    begin.set_value();
    while (!worker.is_idle()) std::this_thread::yield();
    EXPECT_TRUE(worker.give(5, [&] { done += 'b'; }));
    while (!worker.is_idle()) std::this_thread::yield();
    for (const char c : {'c', 'd'}) EXPECT_TRUE(worker.give(5, [&, c] { done += c; }));
    EXPECT_TRUE(worker.give(0, [&] { end.set_value(); }));
    end.get_future().wait();
  }
  EXPECT_EQ(done, "abcd");
}

TEST(Server, EveryEndpointAnswersUnderEveryName) {
  const Running running;
  const std::string chat = ask("x", 5, false);
  const std::string messages =
      R"({"model":"hadal-nano","max_tokens":5,"temperature":0,"messages":[{"role":"user","content":"x"}]})";
  const std::string response = R"({"model":"hadal-nano","max_output_tokens":5,"temperature":0,"input":"x"})";
  const std::string completion = R"({"model":"hadal-nano","max_tokens":5,"temperature":0,"prompt":"x"})";
  const auto object_of = [&](const std::string& path, const std::string& body) {
    const HttpAnswer answer = talk(running.port(), post_request(path, body));
    EXPECT_EQ(answer.status, 200) << path << "\n" << answer.body;
    const json::Value value = body_of(answer);
    const json::Value* kind = value.find("object") ? value.find("object") : value.find("type");
    return kind ? kind->as_string() : std::to_string(*value.find("input_tokens")->to_int64());
  };
  std::string counted;
  for (const char* prefix : {"", "/v1", "/beta", "/beta/v1"}) {
    EXPECT_EQ(object_of(prefix + std::string("/chat/completions"), chat), "chat.completion");
    EXPECT_EQ(object_of(prefix + std::string("/responses/"), response), "response");
    EXPECT_EQ(object_of(prefix + std::string("/completions"), completion), "text_completion");
  }
  for (const char* prefix : {"/anthropic/v1", "/anthropic", "/v1", ""}) {
    EXPECT_EQ(object_of(prefix + std::string("/messages?beta=true"), messages), "message");
    const std::string count = object_of(prefix + std::string("/messages/count_tokens"), messages);
    EXPECT_TRUE(counted.empty() || counted == count);
    counted = count;
  }
  EXPECT_GT(std::atoi(counted.c_str()), 4);
  const HttpAnswer refused = talk(running.port(), post_request("/anthropic/v1/messages", R"({"model":"hadal-nano"})"));
  EXPECT_EQ(refused.status, 400);
  EXPECT_NE(refused.body.find(R"({"type":"error","error":{"type":"invalid_request_error")"), std::string::npos);
  EXPECT_NE(talk(running.port(), "GET /anthropic/v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                .body.find("has_more"),
            std::string::npos);
}

std::string gzipped(const std::string& text) {
  z_stream stream{};
  EXPECT_EQ(deflateInit2(&stream, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
  std::string out(deflateBound(&stream, text.size()) + 32, 0);
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = static_cast<uInt>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  EXPECT_EQ(deflate(&stream, Z_FINISH), Z_STREAM_END);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

TEST(Server, WhatCannotFitIsRefusedByItsBytes) {
  const Running running;
  const std::string x(3000000, 'x'), messages = R"("messages":[{"role":"user","content":")" + x + "\"}]";
  for (const auto& [path, body] :
       {std::pair("/chat/completions", messages), std::pair("/completions", R"("prompt":")" + x + "\""),
        std::pair("/responses", R"("input":")" + x + "\""), std::pair("/tokenize", R"("prompt":")" + x + "\""),
        std::pair("/tokenize", messages)}) {
    const HttpAnswer refused = talk(running.port(), post_request(path, R"({"model":"hadal-nano",)" + body + "}"));
    EXPECT_EQ(refused.status, 400) << path;
    EXPECT_NE(refused.body.find("maximum context length is 100000 tokens. However, you requested 1"), std::string::npos)
        << path << refused.body.substr(0, 300);
    EXPECT_NE(refused.body.find("At least so many"), std::string::npos) << path;
  }
  for (const char* path : {"/messages", "/messages/count_tokens"}) {
    const HttpAnswer refused =
        talk(running.port(), post_request(path, R"({"model":"hadal-nano","max_tokens":5,)" + messages + "}"));
    EXPECT_EQ(refused.status, 400) << path;
    EXPECT_NE(refused.body.find("prompt is too long: 1034"), std::string::npos) << path << refused.body.substr(0, 300);
  }
  std::string zeros = R"({"tokens":[0)";
  for (int i = 0; i < 100000; ++i) zeros += ",0";
  EXPECT_EQ(talk(running.port(), post_request("/detokenize", zeros + "]}")).status, 400);
}

TEST(Server, PagesOfOtherSitesAreRefused) {
  const Running running;
  const auto status_with = [&](const std::string& host, const std::string& origin) {
    const std::string body = ask("x", 2, false);
    return talk(running.port(), "POST /v1/chat/completions HTTP/1.1\r\nHost: " + host +
                                    (origin.empty() ? "" : "\r\nOrigin: " + origin) +
                                    "\r\nConnection: close\r\nContent-Length: " + std::to_string(body.size()) +
                                    "\r\n\r\n" + body)
        .status;
  };
  EXPECT_EQ(status_with("127.0.0.1:8080", ""), 200);
  EXPECT_EQ(status_with("127.0.0.1:8080", "http://127.0.0.1:8080"), 200);
  EXPECT_EQ(status_with("localhost:8080", "http://localhost:8080"), 200);
  EXPECT_EQ(status_with("[::1]:8080", "http://[::1]:8080"), 200);
  EXPECT_EQ(status_with("127.0.0.1:8080", "vscode-file://vscode-app"), 200);
  EXPECT_EQ(status_with("127.0.0.1:8080", "https://evil.example"), 403);
  EXPECT_EQ(status_with("127.0.0.1:8080", "null"), 403);                         // a sandboxed frame
  EXPECT_EQ(status_with("evil.example:8080", "http://evil.example:8080"), 403);  // its name points here
  EXPECT_EQ(status_with("LOCALHOST", ""), 200);
  EXPECT_EQ(status_with("localhost.evil.example", ""), 403);
}

// Such a name shows in the Host of what a browser gets without an Origin, too: nothing may be read under it.
TEST(Server, WithoutKeysOnlyLoopbackNamesAreAnswered) {
  const Running running;
  for (const char* path : {"/", "/app.js", "/health", "/metrics", "/stats", "/card", "/v1/models", "/version"}) {
    const auto under = [&](const std::string& host) {
      return talk(running.port(), std::string("GET ") + path + " HTTP/1.1\r\n" + host + "Connection: close\r\n\r\n")
          .status;
    };
    EXPECT_EQ(under("Host: evil.example:8080\r\n"), 403) << path;
    EXPECT_EQ(under("Host: 192.168.0.7\r\n"), 403) << path;
    EXPECT_NE(under("Host: [::1]\r\n"), 403) << path;
    EXPECT_NE(under(""), 403) << path;  // no browser sends none
  }
}

TEST(Server, BodiesMayComePacked) {
  ServerOptions options;
  options.http.max_body = 1 << 20;
  const Running running(options);
  const std::string packed = "Content-Encoding: gzip\r\nConnection: close\r\n";
  const std::string whole = gzipped(ask("x", 5, false));
  EXPECT_EQ(talk(running.port(), post_request("/chat/completions", whole, packed)).status, 200);
  EXPECT_EQ(talk(running.port(), post_request("/chat/completions", whole.substr(0, whole.size() / 2), packed)).status,
            400);
  EXPECT_EQ(talk(running.port(), post_request("/chat/completions", "not packed", packed)).status, 400);
  EXPECT_EQ(talk(running.port(), post_request("/chat/completions", gzipped(std::string(64 << 20, ' ')), packed)).status,
            413);
}

TEST(Server, AConnectionServesOneRequestAfterAnother) {
  const Running running;
  HttpClient client(running.port());
  for (int i = 0; i < 3; ++i) {
    client.send("GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n");
    EXPECT_EQ(parse_answer(client.read("]}")).status, 200);
    client.send(post_request("/v1/chat/completions", ask("x", 5, true), ""));
    EXPECT_NE(client.read("0\r\n\r\n").find("[DONE]"), std::string::npos);
  }
}

TEST(Server, AClientThatLeavesMakesRoom) {
  ServerOptions options;
  options.limits.max_running = 1;
  const Running running(options, false);
  for (int i = 0; i < 3; ++i) {
    HttpClient client(running.port());
    client.send(post_request("/v1/chat/completions", ask("endless " + std::to_string(i), 90000, true), ""));
    EXPECT_EQ(parse_answer(client.read("reasoning_content")).status, 200);
    client.close();
    // The only place is free again: or this would wait for ninety thousand tokens.
    EXPECT_EQ(talk(running.port(), post_request("/v1/chat/completions", ask("next", 3, false))).status, 200);
  }
}

TEST(Server, AClientThatDoesNotReadMakesRoomToo) {
  ServerOptions options;
  options.limits.max_running = 1;
  options.http.write_seconds = 1;
  Running running(options, false);
  running.decoder.pace = {};
  HttpClient client(running.port());
  client.send(post_request("/v1/chat/completions", ask("endless", 99000, true), ""));
  client.read("reasoning_content");  // and never again: the socket's buffers fill
  EXPECT_EQ(talk(running.port(), post_request("/v1/chat/completions", ask("next", 3, false))).status, 200);
  EXPECT_EQ(client.read().find("[DONE]"), std::string::npos);  // it was given up, not written to its end
}

// Much more than what sockets buffer, so that it cannot all be sent to who does not read.
constexpr size_t kMuch = 5 << 19;
std::string ask_for_much() { return post_request("/tokenize", R"({"prompt":")" + std::string(kMuch, 'x') + "\"}"); }

TEST(Server, AWholeAnswerThatNobodyReadsIsGivenUp) {
  ServerOptions options;
  options.http.write_seconds = 1;
  const Running running(options);
  HttpClient client(running.port());
  client.send(ask_for_much());
  std::string text = client.read("\r\n\r\n");
  std::this_thread::sleep_for(std::chrono::seconds(3));
  text += client.read();
  EXPECT_EQ(parse_answer(text).status, 200);
  EXPECT_FALSE(parse_answer(text).is_whole);
  const HttpAnswer read = talk(running.port(), ask_for_much());  // who reads gets all of it
  EXPECT_TRUE(read.is_whole);
  EXPECT_EQ(body_of(read).find("tokens")->as_array().size(), kMuch);
}

TEST(Server, AWholeAnswerEndsWithItsClient) {
  ServerOptions options;
  options.http.write_seconds = 600;
  const Running running(options);
  HttpClient client(running.port());
  client.send(ask_for_much());
  std::string text = client.read("\r\n\r\n");
  client.finish_sending();
  std::this_thread::sleep_for(std::chrono::seconds(2));
  text += client.read();
  EXPECT_EQ(parse_answer(text).status, 200);
  EXPECT_FALSE(parse_answer(text).is_whole);
}

TEST(Server, LargeBodiesLetOthersThrough) {
  const Running running;
  std::string slow = R"({"prompt":"x","other":[)";  // to read
  for (int i = 0; i < 5000000; ++i) slow += "[],";
  HttpClient client(running.port());
  client.send(post_request("/tokenize", slow + "[]]}"));
  std::this_thread::sleep_for(std::chrono::milliseconds(200));  // the last bytes are there
  int answered = 0;
  for (char byte = 0; ::recv(client.socket(), &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0; ++answered)
    EXPECT_EQ(talk(running.port(), "GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").status, 200);
  EXPECT_GT(answered, 5);
  EXPECT_EQ(parse_answer(client.read()).status, 200);
}

TEST(Server, LargeBodiesAreAnsweredInTurn) {
  const Running running;
  std::vector<std::unique_ptr<HttpClient>> clients;
  for (int i = 0; i < 4; ++i) {
    clients.push_back(std::make_unique<HttpClient>(running.port()));
    clients.back()->send(ask_for_much());
  }
  clients[1]->close();
  for (const size_t i : {0, 2, 3}) {
    const HttpAnswer answer = parse_answer(clients[i]->read());
    EXPECT_EQ(answer.status, 200);
    EXPECT_TRUE(answer.is_whole);
  }
}

TEST(Server, LargeBodiesAreAnsweredAsSmallOnes) {
  ServerOptions options;
  options.limits.max_running = 1;
  const Running running(options);
  const std::string padding(300000, ' ');
  const auto chosen = [&](const std::string& body) {
    return body_of(talk(running.port(), post_request("/chat/completions", body))).find("choices")->as_array().at(0);
  };
  EXPECT_EQ(chosen(ask("x", 20, false) + padding), chosen(ask("x", 20, false)));
  EXPECT_EQ(put_together(talk(running.port(), post_request("/chat/completions", ask("x", 20, true) + padding))).finish,
            "length");
  EXPECT_EQ(talk(running.port(), post_request("/chat/completions", "{" + padding)).status, 400);
  EXPECT_EQ(talk(running.port(), post_request("/messages", R"({"model":"hadal-nano")" + padding + "}")).status, 400);
  EXPECT_EQ(talk(running.port(),
                 "GET /stats HTTP/1.1\r\nHost: localhost\r\nContent-Length: 300000\r\n"
                 "Connection: close\r\n\r\n" +
                     padding)
                .status,
            200);
}

TEST(Server, AClientOfALargeBodyThatLeavesMakesRoom) {
  ServerOptions options;
  options.limits.max_running = 1;
  const Running running(options, false);
  for (int i = 0; i < 3; ++i) {
    HttpClient before(running.port()), client(running.port());
    if (i > 0) before.send(ask_for_much());
    client.send(post_request("/chat/completions", ask("endless", 90000, true) + std::string(300000, ' '), ""));
    if (i < 2) std::this_thread::sleep_for(std::chrono::milliseconds(100));
    if (i == 0) client.read("reasoning_content");
    client.close();
    EXPECT_EQ(talk(running.port(), post_request("/chat/completions", ask("next", 3, false) + std::string(300000, ' ')))
                  .status,
              200);
  }
}

TEST(Server, ManyAtOnceGetWhatEachWouldGetAlone) {
  const Running running;
  constexpr int kClients = 24;
  std::vector<std::string> alone(kClients), together(kClients);
  for (int i = 0; i < kClients; ++i)
    alone[static_cast<size_t>(i)] =
        put_together(
            talk(running.port(), post_request("/v1/chat/completions", ask("n " + std::to_string(i), 80, true))))
            .reasoning;
  std::vector<std::thread> threads;
  for (int i = 0; i < kClients; ++i)
    threads.emplace_back([&, i] {
      together[static_cast<size_t>(i)] =
          put_together(
              talk(running.port(), post_request("/v1/chat/completions", ask("n " + std::to_string(i), 80, true))))
              .reasoning;
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(alone, together);
}

TEST(Server, AFullQueueIsSaidAndShuttingDownLetsAnswersEnd) {
  ServerOptions options;
  options.limits.max_running = 1;
  options.limits.max_waiting = 1;
  options.drain_seconds = 0.2;
  auto running = std::make_unique<Running>(options, false);
  HttpClient first(running->port()), second(running->port());
  first.send(post_request("/v1/chat/completions", ask("one", 90000, true)));
  first.read("reasoning_content");
  second.send(post_request("/v1/chat/completions", ask("two", 90000, true)));
  HttpAnswer full;
  for (int i = 0; i < 200 && full.status != 503; ++i)
    full = talk(running->port(), post_request("/v1/chat/completions", ask("three", 2, false)));
  EXPECT_EQ(full.status, 503);
  EXPECT_NE(full.header("retry-after"), "");
  running->server->stop();
  EXPECT_NE(first.read().find("server_overloaded"), std::string::npos);  // told, not cut
  EXPECT_EQ(parse_answer(second.read()).status, 503);
}

}  // namespace
}  // namespace hadal::serve
