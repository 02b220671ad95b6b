// Keys, limits and money over real sockets: each status, its words, its headers.

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>

#include "base/file.h"
#include "base/output_file.h"
#include "tests/support/served.h"
#include "tests/support/shared.h"

namespace hadal::serve {
namespace {

using namespace testing;

const std::string kA = "sk-aaaaaaaaaaaaaaaa", kB = "sk-bbbbbbbbbbbbbbbb";

struct Bank {
  const std::string directory = temp_dir("bank");
  AccountOptions accounts{.keys = directory + "/keys",
                          .prices = directory + "/prices",
                          .ledger = directory + "/ledger",
                          .model = "hadal-nano"};

  explicit Bank(const std::string& more_of_a = "") {
    write_keys(more_of_a);
    const std::string prices = R"({"default": "deepseek-v4-flash", "models": {
        "deepseek-v4-flash": [{"from": "2020-01-01", "hit": 1, "miss": 10, "output": 100}],
        "deepseek-v4-pro": [{"from": "2020-01-01", "hit": 2, "miss": 20, "output": 200}],
        "deepseek-chat": [{"from": "2020-01-01", "alias_of": "deepseek-v4-flash"},
                          {"from": "2020-01-02", "retired": true}]}})";
    EXPECT_TRUE(write_file(accounts.prices, prices).ok());
  }
  void write_keys(const std::string& more_of_a) const {
    EXPECT_TRUE(write_file(accounts.keys, R"({"name": "a", "sha256": ")" + key_hash(kA) + "\"" + more_of_a + "}\n" +
                                              R"({"name": "b", "sha256": ")" + key_hash(kB) + "\"}\n")
                    .ok());
  }
};

std::string bearer(const std::string& key) { return "Authorization: Bearer " + key + "\r\nConnection: close\r\n"; }
HttpAnswer get(const Running& running, const std::string& path, const std::string& more = "Connection: close\r\n",
               const std::string& method = "GET") {
  return talk(running.port(), method + " " + path + " HTTP/1.1\r\nHost: served.example\r\n" + more + "\r\n");
}
std::string message_of(const HttpAnswer& answer) { return body_of(answer).find("error")->find("message")->as_string(); }
std::string error_of(const HttpAnswer& answer) {  // type / code
  const json::Value body = body_of(answer);
  return body.find("error")->find("type")->as_string() + " / " + body.find("error")->find("code")->as_string();
}
template <class F>
bool eventually(F&& f) {
  for (int i = 0; i < 3000; ++i) {
    if (f()) return true;
    ::usleep(10000);
  }
  return false;
}
const std::string kMessages = R"({"model":"hadal-nano","max_tokens":5,"messages":[{"role":"user","content":"x"}]})";

TEST(ServerKeys, AllButHealthAndThePageAskForOne) {
  const Bank bank;
  const Running running({}, true, bank.accounts);
  for (const char* path : {"/", "/app.js", "/index.html", "/health", "/healthz", "/ready"})
    EXPECT_EQ(get(running, path).status, 200) << path;
  EXPECT_EQ(get(running, "/v1", "Connection: close\r\n", "HEAD").status, 200);
  for (const char* path : {"/v1/models", "/models/hadal-nano", "/version", "/stats", "/metrics", "/card",
                           "/user/balance", "/v1/user/balance", "/nothing", "/anthropic/v1/models", "/healthy"}) {
    const HttpAnswer refused = get(running, path);
    EXPECT_EQ(refused.status, 401) << path;
    EXPECT_EQ(message_of(refused), "Authentication Fails (auth header format should be Bearer sk-...)");
    EXPECT_EQ(error_of(refused), "authentication_error / invalid_request_error");
    EXPECT_NE(get(running, path, bearer(kA)).status, 401) << path;
  }
  for (const char* path : {"/chat/completions", "/completions", "/responses", "/tokenize", "/detokenize", "/messages",
                           "/messages/count_tokens", "/files"})
    EXPECT_EQ(talk(running.port(), post_request(path, "{}")).status, 401) << path;
  const HttpAnswer wrong = get(running, "/v1/models", bearer("sk-0000000000wxyz"));
  EXPECT_EQ(wrong.status, 401);
  EXPECT_EQ(message_of(wrong), "Authentication Fails, Your api key: ****wxyz is invalid");
  EXPECT_EQ(wrong.body.find("0000000"), std::string::npos);
  for (const auto& [name, value] : wrong.headers) EXPECT_EQ(value.find("0000000"), std::string::npos) << name;
  const HttpAnswer anthropic = talk(running.port(), post_request("/anthropic/v1/messages", kMessages,
                                                                 "x-api-key: sk-0123456789wxyz\r\n"
                                                                 "Connection: close\r\n"));
  EXPECT_EQ(anthropic.status, 401);
  EXPECT_NE(
      anthropic.body.find(R"({"type":"error","error":{"type":"authentication_error","message":"Authentication Fails)"),
      std::string::npos);
  EXPECT_EQ(get(running, "/v1/models", "x-api-key: " + kB + "\r\nConnection: close\r\n").status, 200);
  EXPECT_EQ(get(running, "/v1/models", "x-api-key: " + kB + "\r\n" + bearer("wrong")).status, 200);
  // Other names and pages are fine, with a key.
  EXPECT_EQ(get(running, "/v1/models", "Origin: https://served.example\r\n" + bearer(kB)).status, 200);
  EXPECT_EQ(talk(running.port(), post_request("/v1/chat/completions", ask("x", 5, false), bearer(kA))).status, 200);
  EXPECT_EQ(talk(running.port(), post_request("/v1/messages", kMessages, bearer(kA))).status, 200);
}

TEST(ServerKeys, WithoutOneNoBodyIsRead) {
  const Bank bank;
  const Running running({}, true, bank.accounts);
  const std::string head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 60000000\r\n";
  for (const char* more : {"", "Expect: 100-continue\r\n"}) {
    const HttpAnswer refused = talk(running.port(), head + more + "\r\n");  // and never the body
    EXPECT_EQ(refused.status, 401);
    EXPECT_EQ(refused.header("connection"), "close");
  }
  const HttpAnswer whole = talk(running.port(), head + "\r\n" + std::string(60000000, ' '));
  EXPECT_EQ(whole.status, 401);
  HttpClient client(running.port());  // what has no body keeps its connection
  for (int i = 0; i < 2; ++i) {
    client.send("GET /health HTTP/1.1\r\nHost: x\r\n\r\n");
    EXPECT_EQ(parse_answer(client.read("}")).status, 200);
  }
}

TEST(ServerKeys, ChangeWhileItRuns) {
  const Bank bank;
  const Running running({}, true, bank.accounts);
  const std::string secret = new_key();
  Key key;
  key.name = "c";
  key.hash = key_hash(secret);
  EXPECT_EQ(get(running, "/v1/models", bearer(secret)).status, 401);
  ASSERT_TRUE(add_key(bank.accounts.keys, key).ok());
  EXPECT_TRUE(eventually([&] { return get(running, "/v1/models", bearer(secret)).status == 200; }));
  ASSERT_TRUE(remove_key(bank.accounts.keys, "a").ok());
  EXPECT_TRUE(eventually([&] { return get(running, "/v1/models", bearer(kA)).status == 401; }));
  EXPECT_EQ(get(running, "/v1/models", bearer(secret)).status, 200);
}

TEST(ServerKeys, LimitsAre429WithWhenToComeAgain) {
  const Bank bank(R"(, "requests_per_minute": 2)");
  const Running running({}, true, bank.accounts);
  EXPECT_EQ(talk(running.port(), post_request("/v1/chat/completions", "{}", bearer(kA))).status,
            400);  // does not count
  for (int i = 0; i < 2; ++i)
    EXPECT_EQ(talk(running.port(), post_request("/v1/chat/completions", ask("x", 2, false), bearer(kA))).status, 200);
  for (const char* path : {"/v1/chat/completions", "/anthropic/v1/messages"}) {
    const HttpAnswer refused = talk(running.port(), post_request(path, kMessages, bearer(kA)));
    EXPECT_EQ(refused.status, 429);
    EXPECT_EQ(message_of(refused), "Rate limit reached: 2 requests per minute");
    EXPECT_EQ(error_of(refused), "rate_limit_error / rate_limit_exceeded");
    const int wait = std::atoi(refused.header("retry-after").c_str());
    EXPECT_GE(wait, 1);
    EXPECT_LE(wait, 61);
  }
  EXPECT_EQ(get(running, "/v1/models", bearer(kA)).status, 200);  // costs nothing
  EXPECT_EQ(talk(running.port(), post_request("/v1/chat/completions", ask("x", 2, false), bearer(kB))).status, 200);
}

TEST(ServerKeys, CountingTokensCountsAsARequest) {
  const Bank bank(R"(, "requests_per_minute": 4)");
  const Running running({}, true, bank.accounts);
  const auto status_of = [&](const std::string& path, const std::string& body) {
    return talk(running.port(), post_request(path, body, bearer(kA))).status;
  };
  EXPECT_EQ(status_of("/tokenize", R"({"prompt":"x"})"), 200);
  EXPECT_EQ(status_of("/detokenize", R"({"tokens":[1]})"), 200);
  EXPECT_EQ(status_of("/v1/messages/count_tokens", kMessages), 200);
  EXPECT_EQ(status_of("/tokenize", "{"), 400);  // it is the reading that costs
  for (const char* path : {"/tokenize", "/detokenize", "/v1/messages/count_tokens", "/v1/messages"})
    EXPECT_EQ(status_of(path, kMessages), 429) << path;
  EXPECT_EQ(get(running, "/v1/models", bearer(kA)).status, 200);
  const Bank empty(R"(, "granted_usd": 0)");
  const Running broke({}, true, empty.accounts);
  EXPECT_EQ(talk(broke.port(), post_request("/tokenize", R"({"prompt":"x"})", bearer(kA))).status, 402);
}

// They are let in when they come, and counted when they have been read.
TEST(ServerKeys, LimitsHoldForLargeBodiesThatCameTogether) {
  const Bank bank(R"(, "requests_per_minute": 2)");
  const Running running({}, true, bank.accounts);
  std::vector<std::unique_ptr<HttpClient>> clients;
  for (int i = 0; i < 6; ++i) {
    clients.push_back(std::make_unique<HttpClient>(running.port()));
    clients.back()->send(
        post_request("/v1/chat/completions", ask("x", 2, false) + std::string(1 << 20, ' '), bearer(kA)));
  }
  int let_in = 0, refused = 0;
  for (const auto& client : clients) {
    const int status = parse_answer(client->read()).status;
    let_in += status == 200;
    refused += status == 429;
  }
  EXPECT_EQ(let_in, 2);
  EXPECT_EQ(refused, 4);
}

TEST(ServerKeys, TokensAreCountedWithTheAnswer) {
  const Bank bank(R"(, "tokens_per_minute": 8)");
  const Running running({}, true, bank.accounts);
  EXPECT_EQ(talk(running.port(), post_request("/v1/chat/completions", ask("x", 4, false), bearer(kA))).status, 200);
  const HttpAnswer refused = talk(running.port(), post_request("/v1/chat/completions", ask("x", 4, false), bearer(kA)));
  EXPECT_EQ(refused.status, 429);
  EXPECT_EQ(message_of(refused), "Rate limit reached: 8 tokens per minute");
  EXPECT_NE(refused.header("retry-after"), "");
}

TEST(ServerKeys, ConcurrencyIsThatOfTheKey) {
  const Bank bank(R"(, "concurrent": 1)");
  const Running running({}, false, bank.accounts);
  HttpClient first(running.port());
  first.send(post_request("/v1/chat/completions", ask("endless", 90000, true), "Authorization: Bearer " + kA + "\r\n"));
  first.read("reasoning_content");
  const HttpAnswer refused = talk(running.port(), post_request("/v1/chat/completions", ask("x", 2, false), bearer(kA)));
  EXPECT_EQ(refused.status, 429);
  EXPECT_EQ(message_of(refused), "Rate limit reached: 1 concurrent requests");
  EXPECT_EQ(refused.header("retry-after"), "1");
  EXPECT_EQ(talk(running.port(), post_request("/v1/chat/completions", ask("x", 2, false), bearer(kB))).status, 200);
  first.close();
  EXPECT_TRUE(eventually([&] {
    return talk(running.port(), post_request("/v1/chat/completions", ask("x", 2, false), bearer(kA))).status == 200;
  }));
}

TEST(ServerMoney, AnswersSayWhatTheyCost) {
  const Bank bank;
  const Running running({}, true, bank.accounts);
  const std::string with_cost = R"(,"usage":{"include":true},"thinking":{"type":"disabled"})";
  const auto expected = [](const json::Value& usage, double miss, double output) {
    return 1e-6 * (miss * static_cast<double>(*usage.find("prompt_tokens")->to_int64()) +
                   output * static_cast<double>(*usage.find("completion_tokens")->to_int64()));
  };
  const HttpAnswer whole =
      talk(running.port(), post_request("/v1/chat/completions", ask("one", 9, false, with_cost), bearer(kA)));
  const json::Value usage = *body_of(whole).find("usage");
  ASSERT_TRUE(usage.find("cost_usd")) << whole.body;
  EXPECT_NEAR(*usage.find("cost_usd")->to_double(), expected(usage, 10, 100), 1e-12);
  EXPECT_NEAR(std::stod(whole.header("x-hadal-cost-usd")), expected(usage, 10, 100), 1e-12);

  const HttpAnswer unasked =
      talk(running.port(), post_request("/v1/chat/completions", ask("two", 9, false), bearer(kA)));
  EXPECT_EQ(unasked.body.find("cost_usd"), std::string::npos);
  EXPECT_NE(unasked.header("x-hadal-cost-usd"), "");

  // Whatever the client calls it; a stream tells at its end, when its headers are long sent.
  std::string body = ask("three", 9, true, with_cost);
  body.replace(body.find("hadal-nano"), 10, "deepseek-v4-pro");
  const HttpAnswer stream = talk(running.port(), post_request("/v1/chat/completions", body, bearer(kA)));
  EXPECT_EQ(stream.header("x-hadal-cost-usd"), "");
  const auto events = events_of(stream.body);
  ASSERT_GE(events.size(), 2u);
  const auto last = json::parse(events[events.size() - 2].data);
  const json::Value streamed = *last.value().find("usage");
  ASSERT_TRUE(streamed.find("cost_usd")) << stream.body;
  EXPECT_NEAR(*streamed.find("cost_usd")->to_double(), expected(streamed, 10, 100), 1e-12);

  for (const auto& [path, rest] : std::vector<std::pair<std::string, std::string>>{
           {"/v1/messages", R"("max_tokens":5,"messages":[{"role":"user","content":"x"}])"},
           {"/v1/responses", R"("max_output_tokens":5,"input":"x")"},
           {"/v1/completions", R"("max_tokens":5,"prompt":"x")"}})
    for (const char* streams : {"false", "true"}) {
      const HttpAnswer answer =
          talk(running.port(), post_request(path,
                                            R"({"model":"hadal-nano","usage":{"include":true},"stream":)" +
                                                std::string(streams) + "," + rest + "}",
                                            bearer(kA)));
      EXPECT_EQ(answer.status, 200) << answer.body;
      EXPECT_NE(answer.body.find("\"cost_usd\":"), std::string::npos) << path << answer.body;
    }
  const std::string metrics = get(running, "/metrics", bearer(kB)).body;
  EXPECT_NE(metrics.find("hadal_cost_usd_total{model=\"hadal-nano\",kind=\"output\"} 0.00"), std::string::npos);
  EXPECT_EQ(metrics.find("hadal_cost_usd_total{model=\"hadal-nano\",kind=\"output\"} 0.00\n"), std::string::npos);
}

TEST(ServerMoney, RetiredNamesAreWarnedAboutAtTheServedModelsPrice) {
  const Bank bank;
  const Running running({}, true, bank.accounts);
  std::string body = ask("x", 3, false, R"(,"usage":{"include":true})");
  body.replace(body.find("hadal-nano"), 10, "deepseek-chat");
  const HttpAnswer answer = talk(running.port(), post_request("/v1/chat/completions", body, bearer(kA)));
  EXPECT_EQ(answer.status, 200);
  EXPECT_EQ(answer.header("deprecation"), "@1784851200");
  EXPECT_EQ(answer.header("x-hadal-warning"), "deepseek-chat is a retired name since 2026-07-24");
  const json::Value usage = *body_of(answer).find("usage");
  EXPECT_NEAR(
      *usage.find("cost_usd")->to_double(),
      1e-6 * (10 * *usage.find("prompt_tokens")->to_double() + 100 * *usage.find("completion_tokens")->to_double()),
      1e-12);
  EXPECT_EQ(
      talk(running.port(), post_request("/v1/chat/completions", ask("x", 3, false), bearer(kA))).header("deprecation"),
      "");
}

TEST(ServerMoney, AnEmptyBalanceIs402AndSurvivesARestart) {
  const Bank bank(R"(, "granted_usd": 0.0025)");
  const auto total = [](const Running& running) {
    const json::Value balance = body_of(get(running, "/user/balance", bearer(kA)));
    return std::pair{balance.find("is_available")->as_bool(),
                     balance.find("balance_infos")->as_array()[0].find("total_balance")->as_string()};
  };
  {
    const Running running({}, true, bank.accounts);
    EXPECT_EQ(total(running), (std::pair{true, std::string("0.0025")}));
    int n = 0;
    while (talk(running.port(), post_request("/v1/chat/completions", ask("x", 8, false), bearer(kA))).status == 200 &&
           n < 50)
      ++n;
    EXPECT_GT(n, 1);
    EXPECT_LT(n, 50);
    const double left = std::stod(total(running).second);  // what does not pay for eight more tokens
    EXPECT_GE(left, 0);
    EXPECT_LT(left, 0.0012);
  }
  bank.write_keys(R"(, "granted_usd": 0.0005)");  // less than it has cost
  const Running running({}, true, bank.accounts);
  for (const char* path : {"/v1/chat/completions", "/v1/responses", "/completions"}) {
    const HttpAnswer refused = talk(running.port(), post_request(path, "{}", bearer(kA)));
    EXPECT_EQ(refused.status, 402) << path;
    EXPECT_EQ(message_of(refused), "Insufficient Balance");
    EXPECT_EQ(error_of(refused), "unknown_error / invalid_request_error");
  }
  const HttpAnswer anthropic = talk(running.port(), post_request("/anthropic/v1/messages", kMessages, bearer(kA)));
  EXPECT_EQ(anthropic.status, 402);
  EXPECT_NE(anthropic.body.find(R"("type":"billing_error")"), std::string::npos);
  EXPECT_EQ(talk(running.port(), post_request("/v1/chat/completions", ask("x", 8, false), bearer(kB))).status, 200);
  EXPECT_EQ(get(running, "/v1/models", bearer(kA)).status, 200);
  bank.write_keys(R"(, "granted_usd": 1)");
  EXPECT_TRUE(eventually([&] { return total(running).first; }));
  EXPECT_EQ(talk(running.port(), post_request("/v1/chat/completions", ask("x", 8, false), bearer(kA))).status, 200);
}

TEST(ServerMoney, ManyAtOnceCostNoMoreThanTheGrant) {
  const Bank bank(R"(, "granted_usd": 0.02)");
  {
    const Running running({}, false, bank.accounts);
    std::vector<std::unique_ptr<HttpClient>> clients;
    for (int i = 0; i < 40; ++i) {
      clients.push_back(std::make_unique<HttpClient>(running.port()));
      clients.back()->send(post_request("/v1/chat/completions", ask("x", 50, false), bearer(kA)));
    }
    int served = 0;
    for (const auto& client : clients) {
      const int status = parse_answer(client->read()).status;
      EXPECT_TRUE(status == 200 || status == 402) << status;
      served += status == 200;
    }
    EXPECT_EQ(served, 3);
  }
  const auto sums = LedgerFile::open_to_read(bank.accounts.ledger).value().sums(LedgerFile::By::kKey).value();
  EXPECT_LE(sums.at(0).cost, kUsd / 50);
  EXPECT_EQ(sums[0].output_tokens, 150);
}

TEST(ServerMoney, TheRestOfAGrantCutsAnAnswerAndComesBackWhenItEnds) {
  const Bank bank(R"(, "granted_usd": 0.5)");
  const Running running({}, false, bank.accounts);
  const auto status = [&] {
    return talk(running.port(), post_request("/v1/chat/completions", ask("x", 8, false), bearer(kA))).status;
  };
  HttpClient first(running.port());
  first.send(post_request("/v1/chat/completions", ask("endless", 90000, true), "Authorization: Bearer " + kA + "\r\n"));
  const std::string begun = first.read("reasoning_content");
  const size_t at = begun.find("x-hadal-max-tokens: 4");  // all 5,000 but the prompt
  EXPECT_NE(at, std::string::npos) << begun;
  EXPECT_EQ(status(), 402);
  first.close();
  EXPECT_TRUE(eventually([&] { return status() == 200; }));
  for (const char* refused : {R"({"model":"nothing"})", R"({"model":"hadal-nano","messages":7})",
                              R"({"model":"hadal-nano","messages":[{"role":"user","content":"x"}],"max_tokens":9,)"
                              R"("response_format":{"type":"json_schema","json_schema":{"name":"n","strict":true,)"
                              R"("schema":{"type":"nonsense"}}}})"})
    EXPECT_EQ(talk(running.port(), post_request("/v1/chat/completions", refused, bearer(kA))).status, 400) << refused;
  EXPECT_EQ(status(), 200);  // and what was refused holds nothing
  const HttpAnswer all = talk(running.port(), post_request("/v1/chat/completions", ask("x", 2000, false), bearer(kA)));
  EXPECT_EQ(all.status, 200);
  EXPECT_EQ(all.header("x-hadal-max-tokens"), "");
}

TEST(ServerMoney, TheLedgerHasARowForEachAnswerAndNoText) {
  const Bank bank;
  {
    const Running running({}, false, bank.accounts);
    const std::string body = ask("a secret question", 6, false, R"(,"user_id":"somebody")");
    EXPECT_EQ(talk(running.port(), post_request("/beta/v1/chat/completions", body, bearer(kA))).status, 200);
    EXPECT_EQ(talk(running.port(), post_request("/v1/chat/completions", "{}", bearer(kA))).status,
              400);  // no answer, no row
    HttpClient leaver(running.port());
    leaver.send(post_request("/v1/messages",
                             R"({"model":"deepseek-v4-pro","max_tokens":90000,"stream":true,)"
                             R"("messages":[{"role":"user","content":"x"}]})",
                             "x-api-key: " + kB + "\r\n"));
    leaver.read("content_block_delta");
    leaver.close();
    EXPECT_TRUE(eventually([&] {
      return get(running, "/metrics", bearer(kA)).body.find("hadal_ledger_rows_total{model=\"hadal-nano\"} 2\n") !=
             std::string::npos;
    }));
  }
  const auto file = LedgerFile::open_to_read(bank.accounts.ledger).value();
  const auto sums = file.sums(LedgerFile::By::kKey).value();
  ASSERT_EQ(sums.size(), 2u);
  EXPECT_EQ(sums[0].name, "a");
  EXPECT_EQ(sums[0].output_tokens, 6);
  EXPECT_EQ(sums[0].reasoning_tokens, 6);
  EXPECT_EQ(sums[0].cost, (sums[0].prompt_tokens * 10 + 600) * 1'000'000);
  EXPECT_EQ(sums[1].name, "b");
  EXPECT_GT(sums[1].output_tokens, 0);  // who leaves has had what he had
  EXPECT_EQ(sums[1].cost, (sums[1].prompt_tokens * 10 + sums[1].output_tokens * 100) * 1'000'000);
  const auto endpoints = file.sums(LedgerFile::By::kEndpoint).value();
  ASSERT_EQ(endpoints.size(), 2u);
  EXPECT_EQ(endpoints[0].name, "/chat/completions");
  EXPECT_EQ(endpoints[1].name, "/messages");
  for (const std::string& path : {bank.accounts.ledger, bank.accounts.keys}) {
    const std::string bytes = read_file(path).value();
    for (const char* never : {"secret question", "somebody", kA.c_str(), kB.c_str()})
      EXPECT_EQ(bytes.find(never), std::string::npos) << path << " holds " << never;
  }
}

TEST(ServerMoney, WithoutKeysEverythingCostsAndNothingIsRefused) {
  Bank bank;
  bank.accounts.keys.clear();
  const Running running({}, true, bank.accounts);
  const HttpAnswer answer = talk(running.port(), post_request("/v1/chat/completions", ask("x", 3, false)));
  EXPECT_EQ(answer.status, 200);
  EXPECT_NE(answer.header("x-hadal-cost-usd"), "");
  const HttpAnswer balance =
      talk(running.port(), "GET /user/balance HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
  EXPECT_TRUE(
      balance.body.ends_with(R"({"is_available":true,"balance_infos":[{"currency":"USD","total_balance":"0.00",)"
                             R"("granted_balance":"0.00","topped_up_balance":"0.00"}]})"))
      << balance.body;
  const HttpAnswer none =
      talk(Running().port(), post_request("/v1/chat/completions", ask("x", 3, false, R"(,"usage":{"include":true})")));
  EXPECT_EQ(none.status, 200);
  EXPECT_EQ(none.body.find("cost"), std::string::npos);  // no prices, no cost
  EXPECT_EQ(none.header("x-hadal-cost-usd"), "");
}

}  // namespace
}  // namespace hadal::serve
