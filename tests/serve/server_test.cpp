// The server over real sockets, with a decoder that needs no weights.

#include "serve/server.h"

#include <gtest/gtest.h>
#include <zlib.h>

#include <set>
#include <thread>

#include "serve/stats.h"
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
Streamed put_together(const std::string& response) {
  Streamed all;
  EXPECT_EQ(status_of(response), 200) << response;
  for (const std::string& event : events_of(response)) {
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
    const std::string response =
        talk(running, post("/v1/chat/completions", ask("q", 300, stream, format(schema, false))));
    EXPECT_NE(response.find("x-hadal-ignored-schema: /not\r\n"), std::string::npos) << response;
    const std::string content =
        stream ? put_together(response).content
               : body_of(response).find("choices")->as_array().at(0).find("message")->find("content")->as_string();
    const auto value = json::parse(content);
    ASSERT_TRUE(value.ok()) << content;
    EXPECT_TRUE(value.value().find("a"));
  }
  const std::string refused = talk(running, post("/v1/chat/completions", ask("q", 60, false, format(schema, true))));
  EXPECT_EQ(status_of(refused), 400);
  EXPECT_NE(refused.find("/: not is not supported"), std::string::npos) << refused;
}

TEST(Server, AStreamIsTheWholeAnswerInPieces) {
  const Running running;
  for (const char* thinking : {R"(,"thinking":{"type":"disabled"})", R"(,"thinking":{"type":"enabled"})"}) {
    for (int i = 0; i < 5; ++i) {
      const std::string question = "question " + std::to_string(i);
      const auto whole = body_of(talk(running, post("/v1/chat/completions", ask(question, 60, false, thinking))));
      const auto streamed = put_together(talk(running, post("/chat/completions", ask(question, 60, true, thinking))));
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
  EXPECT_EQ(status_of(talk(running, post("/v1/chat/completions", "{bad"))), 400);
  EXPECT_EQ(status_of(talk(running, post("/v1/chat/completions", std::string(2000, '[')))), 400);
  EXPECT_EQ(status_of(talk(running, post("/v1/chat/completions", "\"\xff\xfe\""))), 400);
  EXPECT_EQ(status_of(talk(running, post("/v1/nothing", "{}"))), 404);
  EXPECT_EQ(status_of(talk(running, "PUT /v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")), 405);
  EXPECT_EQ(status_of(talk(running, post("/chat/completions", "{}", "Content-Encoding: br\r\nConnection: close\r\n"))),
            415);
  EXPECT_EQ(status_of(talk(running, post("/chat/completions", std::string(200000, ' ')))), 413);
  EXPECT_EQ(status_of(talk(running, "GET / HTTP/1.1\r\nX: " + std::string(40000, 'x') + "\r\n\r\n")), 431);
  EXPECT_EQ(status_of(talk(running, "NONSENSE\r\n\r\n")), 400);
  EXPECT_EQ(status_of(talk(running, "GET /health HTTP/1.1\r\nHos")), 408);  // and never more
  EXPECT_EQ(status_of(talk(running, "HEAD /v1 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")), 200);
  EXPECT_EQ(status_of(talk(running, "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")), 200);
}

TEST(Server, ThePageLetsNothingElseRun) {
  const Running running;
  const auto get = [&](const std::string& path, const std::string& more = "", const char* method = "GET") {
    return talk(running,
                method + (" " + path) + " HTTP/1.1\r\nHost: localhost\r\n" + more + "Connection: close\r\n\r\n");
  };
  const std::string page = get("/");
  EXPECT_EQ(status_of(page), 200);
  EXPECT_NE(page.find("text/html; charset=utf-8"), std::string::npos);
  EXPECT_NE(page.find("default-src 'none'; script-src 'self';"), std::string::npos);
  EXPECT_EQ(page.find("unsafe-"), std::string::npos);
  EXPECT_EQ(page.find("://"), std::string::npos) << "something from elsewhere";
  EXPECT_EQ(get("/index.html").substr(get("/index.html").find("\r\n\r\n")), page.substr(page.find("\r\n\r\n")));
  for (const char* path :
       {"/app.js", "/theme.js", "/style.css", "/icon.svg", "/markdown-it.min.js", "/purify.min.js"}) {
    EXPECT_EQ(status_of(get(path)), 200) << path;
    EXPECT_NE(page.find(path + 1), std::string::npos) << path;
  }
  const size_t at = page.find("etag: ") + 6;
  const std::string tag = page.substr(at, page.find("\r\n", at) - at);
  const std::string known = get("/", "If-None-Match: " + tag + "\r\n");
  EXPECT_EQ(status_of(known), 304);
  EXPECT_TRUE(known.ends_with("\r\n\r\n"));
  EXPECT_EQ(status_of(get("/", "If-None-Match: \"other\"\r\n")), 200);
  EXPECT_TRUE(get("/", "", "HEAD").ends_with("\r\n\r\n"));
  EXPECT_EQ(status_of(get("/../app.js")), 404);
  EXPECT_EQ(status_of(talk(running, post("/app.js", "{}"))), 404);
}

TEST(Server, StatsCountWhatWasDone) {
  ServerOptions options;
  options.rules.model = "hadal-nano";
  options.card = "# A card\n";
  const Running running(options);
  const auto get = [&](const std::string& path) {
    return talk(running, "GET " + path + " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
  };
  const auto number = [&](const json::Value& stats, const char* key) { return stats.find(key)->to_int64().value(); };
  const json::Value before = body_of(get("/stats"));
  EXPECT_EQ(before.find("model")->as_string(), "hadal-nano");
  EXPECT_EQ(number(before, "tokens"), 0);
  EXPECT_GT(number(before, "resident_bytes"), 1 << 20);
  EXPECT_EQ(status_of(talk(running, post("/chat/completions", ask("x", 12, false)))), 200);
  json::Value after = body_of(get("/stats"));
  for (int i = 0; i < 100 && number(after, "finished") == 0; ++i)  // counted with the end of the step, after the answer
    after = body_of(get("/stats"));
  EXPECT_GT(number(after, "tokens"), 0);
  EXPECT_GT(number(after, "prompt_tokens"), 0);
  EXPECT_EQ(number(after, "running"), 0);
  EXPECT_EQ(number(after, "finished"), 1);
  EXPECT_TRUE(get("/card").ends_with("# A card\n"));
  EXPECT_EQ(status_of(talk(Running(), "GET /card HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")), 404);
}

TEST(Server, MetricsAreWellFormedAndTrue) {
  const Running running;
  const auto get = [&] {
    const std::string answer = talk(running, "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    return answer.substr(answer.find("\r\n\r\n") + 4);
  };
  EXPECT_EQ(status_of(talk(running, post("/v1/chat/completions", ask("x", 12, true)))), 200);
  EXPECT_EQ(status_of(talk(running, post("/v1/chat/completions", "{bad"))), 400);
  EXPECT_EQ(status_of(talk(running, post("/v1/nothing", "{}"))), 404);
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

TEST(Server, EveryEndpointAnswersUnderEveryName) {
  const Running running;
  const std::string chat = ask("x", 5, false);
  const std::string messages =
      R"({"model":"hadal-nano","max_tokens":5,"temperature":0,"messages":[{"role":"user","content":"x"}]})";
  const std::string response = R"({"model":"hadal-nano","max_output_tokens":5,"temperature":0,"input":"x"})";
  const std::string completion = R"({"model":"hadal-nano","max_tokens":5,"temperature":0,"prompt":"x"})";
  const auto object_of = [&](const std::string& path, const std::string& body) {
    const std::string answer = talk(running, post(path, body));
    EXPECT_EQ(status_of(answer), 200) << path << "\n" << answer;
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
  const std::string refused = talk(running, post("/anthropic/v1/messages", R"({"model":"hadal-nano"})"));
  EXPECT_EQ(status_of(refused), 400);
  EXPECT_NE(refused.find(R"({"type":"error","error":{"type":"invalid_request_error")"), std::string::npos);
  EXPECT_NE(talk(running, "GET /anthropic/v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                .find("has_more"),
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

TEST(Server, PagesOfOtherSitesAreRefused) {
  const Running running;
  const auto status_with = [&](const std::string& host, const std::string& origin) {
    const std::string body = ask("x", 2, false);
    return status_of(talk(running, "POST /v1/chat/completions HTTP/1.1\r\nHost: " + host +
                                       (origin.empty() ? "" : "\r\nOrigin: " + origin) +
                                       "\r\nConnection: close\r\nContent-Length: " + std::to_string(body.size()) +
                                       "\r\n\r\n" + body));
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
      return status_of(
          talk(running, std::string("GET ") + path + " HTTP/1.1\r\n" + host + "Connection: close\r\n\r\n"));
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
  EXPECT_EQ(status_of(talk(running, post("/chat/completions", whole, packed))), 200);
  EXPECT_EQ(status_of(talk(running, post("/chat/completions", whole.substr(0, whole.size() / 2), packed))), 400);
  EXPECT_EQ(status_of(talk(running, post("/chat/completions", "not packed", packed))), 400);
  EXPECT_EQ(status_of(talk(running, post("/chat/completions", gzipped(std::string(64 << 20, ' ')), packed))), 413);
}

TEST(Server, AConnectionServesOneRequestAfterAnother) {
  const Running running;
  Client client(running);
  for (int i = 0; i < 3; ++i) {
    client.send("GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n");
    EXPECT_EQ(status_of(client.read("]}")), 200);
    client.send(post("/v1/chat/completions", ask("x", 5, true), ""));
    EXPECT_NE(client.read("0\r\n\r\n").find("[DONE]"), std::string::npos);
  }
}

TEST(Server, AClientThatLeavesMakesRoom) {
  ServerOptions options;
  options.limits.max_running = 1;
  const Running running(options, false);
  for (int i = 0; i < 3; ++i) {
    Client client(running);
    client.send(post("/v1/chat/completions", ask("endless " + std::to_string(i), 90000, true), ""));
    EXPECT_EQ(status_of(client.read("reasoning_content")), 200);
    client.close();
    // The only place is free again: or this would wait for ninety thousand tokens.
    EXPECT_EQ(status_of(talk(running, post("/v1/chat/completions", ask("next", 3, false)))), 200);
  }
}

TEST(Server, AClientThatDoesNotReadMakesRoomToo) {
  ServerOptions options;
  options.limits.max_running = 1;
  options.http.write_seconds = 1;
  const Running running(options, false);
  Client client(running);
  client.send(post("/v1/chat/completions", ask("endless", 99000, true), ""));
  client.read("reasoning_content");  // and never again: the socket's buffers fill
  EXPECT_EQ(status_of(talk(running, post("/v1/chat/completions", ask("next", 3, false)))), 200);
  EXPECT_EQ(client.read().find("[DONE]"), std::string::npos);  // it was given up, not written to its end
}

TEST(Server, ManyAtOnceGetWhatEachWouldGetAlone) {
  const Running running;
  constexpr int kClients = 24;
  std::vector<std::string> alone(kClients), together(kClients);
  for (int i = 0; i < kClients; ++i)
    alone[static_cast<size_t>(i)] =
        put_together(talk(running, post("/v1/chat/completions", ask("n " + std::to_string(i), 80, true)))).reasoning;
  std::vector<std::thread> threads;
  for (int i = 0; i < kClients; ++i)
    threads.emplace_back([&, i] {
      together[static_cast<size_t>(i)] =
          put_together(talk(running, post("/v1/chat/completions", ask("n " + std::to_string(i), 80, true)))).reasoning;
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
  Client first(*running), second(*running);
  first.send(post("/v1/chat/completions", ask("one", 90000, true)));
  first.read("reasoning_content");
  second.send(post("/v1/chat/completions", ask("two", 90000, true)));
  std::string full;
  for (int i = 0; i < 200 && status_of(full) != 503; ++i)
    full = talk(*running, post("/v1/chat/completions", ask("three", 2, false)));
  EXPECT_EQ(status_of(full), 503);
  EXPECT_NE(full.find("retry-after"), std::string::npos);
  running->server->stop();
  EXPECT_NE(first.read().find("server_overloaded"), std::string::npos);  // told, not cut
  EXPECT_EQ(status_of(second.read()), 503);
}

}  // namespace
}  // namespace hadal::serve
