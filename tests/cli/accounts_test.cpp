// hadal key, hadal usage, and hadal serve with keys, prices and a ledger, as an operator meets them.

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <sstream>

#include "base/json.h"
#include "base/output_file.h"
#include "base/utc.h"
#include "serve/ledger.h"
#include "tests/support/program.h"
#include "tests/support/shared.h"

namespace hadal {
namespace {

using testing::hadal;
using testing::Outcome;
using testing::temp_dir;

void expect_80_columns(const std::string& text) {
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) EXPECT_LE(line.size(), 80u) << line;
}
void expect_failure(const std::string& arguments, const std::string& line) {
  const Outcome outcome = hadal(arguments);
  EXPECT_EQ(outcome.status, 1) << arguments;
  EXPECT_EQ(outcome.err, "hadal: " + line + "\n");
  EXPECT_EQ(outcome.out, "");
}

TEST(KeyCommand, AddsListsAndRemoves) {
  const std::string file = temp_dir("keys") + "/keys";
  const Outcome first = hadal("key add " + file +
                              " alice --concurrent 2 --requests-per-minute 60 --tokens-per-minute 1000000000"
                              " --granted 12.5");
  EXPECT_EQ(first.status, 0) << first.err;
  EXPECT_EQ(first.out.size(), 68u);
  EXPECT_TRUE(first.out.starts_with("sk-")) << first.out;
  EXPECT_EQ(first.err, "");  // of a script: the key and nothing else
  const std::string bob = "a-name-of-sixty-four-letters-is-the-longest-that-may-name-a-key.";
  EXPECT_EQ(hadal("key add " + file + " " + bob).status, 0);
  const Outcome listed = hadal("key list " + file);
  EXPECT_EQ(listed.status, 0);
  EXPECT_NE(listed.out.find("alice                             2         60   1000000000        12.50\n"),
            std::string::npos)
      << listed.out;
  EXPECT_NE(listed.out.find(bob + "\n"), std::string::npos);
  expect_80_columns(listed.out);
  EXPECT_EQ((listed.out + read_file(file).value()).find(first.out.substr(3, 64)), std::string::npos);

  expect_failure("key add " + file + " alice", file + ": expected a new name, found alice in it");
  expect_failure("key remove " + file + " carol", file + ": no key is named carol");
  EXPECT_EQ(hadal("key remove " + file + " alice").status, 0);
  EXPECT_EQ(hadal("key list " + file).out.find("alice"), std::string::npos);
  EXPECT_EQ(hadal("key list /nonexistent").status, 1);
  for (const char* wrong : {"key", "key add", "key add x", "key add x 'a b'", "key add x a --concurrent 0",
                            "key add x a --granted -1", "key add x a --granted much", "key add x a --granted 1e-9",
                            "key add x a --granted 0.0000015", "key remove x", "key nonsense x"})
    EXPECT_EQ(hadal(wrong).status, 2) << wrong;
}

TEST(UsageCommand, AddsUpInThreeForms) {
  const std::string path = temp_dir("usage") + "/ledger";
  {
    auto file = serve::LedgerFile::open(path).value();
    const auto row = [](const char* key, const char* time, const char* model, int64_t tokens, serve::PicoUsd cost) {
      return serve::LedgerRow{.time_ms = *parse_utc(time) * 1000,
                              .key = key,
                              .endpoint = "/chat/completions",
                              .model = model,
                              .finish = "stop",
                              .prompt_tokens = tokens,
                              .hit_tokens = tokens / 2,
                              .output_tokens = tokens,
                              .cost = cost};
    };
    ASSERT_TRUE(file.write({row("alice", "2026-09-10T23:59:59Z", "deepseek-v4-flash", 1'234'567'890, 98765432100000000),
                            row("bob", "2026-09-11T00:00:00Z", "a,\"model\"\x1b[31m", 10, 1),
                            row("", "2026-09-12T00:00:00Z", "deepseek-v4-flash", 10, 0)})
                    .ok());
  }
  const Outcome table = hadal("usage --ledger " + path);
  EXPECT_EQ(table.status, 0) << table.err;
  EXPECT_EQ(table.out,
            "key               requests        prompt  of it cached        output         USD\n"
            "(no key)                 1            10             5            10    0.000000\n"
            "alice                    1 1,234,567,890   617,283,945 1,234,567,890    98765.43\n"
            "bob                      1            10             5            10    0.000000\n"
            "total                    3 1,234,567,910   617,283,955 1,234,567,910    98765.43\n");
  expect_80_columns(table.out);
  for (const char* by : {"key", "day", "model", "endpoint"}) {
    const Outcome outcome = hadal("usage --ledger " + path + " --by " + by);
    EXPECT_EQ(outcome.out.find('\x1b'), std::string::npos);
    EXPECT_TRUE(outcome.out.starts_with(by));
  }
  EXPECT_EQ(hadal("usage --ledger " + path + " --by model --format csv --since 2026-09-11 --until 2026-09-12").out,
            "model,requests,prompt_tokens,hit_tokens,output_tokens,reasoning_tokens,cost_usd\n"
            "\"a,\"\"model\"\"\x1b[31m\",1,10,5,10,0,0.000000000001\n");
  const auto days =
      json::parse(hadal("usage --ledger " + path + " --by day --format json --until 2026-09-12T00:00:00Z").out);
  ASSERT_TRUE(days.ok());
  EXPECT_EQ(days.value().find("rows")->as_array().size(), 2u);
  EXPECT_EQ(days.value().find("rows")->as_array()[0].find("day")->as_string(), "2026-09-10");
  EXPECT_EQ(json::dump(*days.value().find("total")->find("cost_usd")), "98765.4321");
  EXPECT_EQ(hadal("usage --ledger " + path + " --since 2030-01-01 --format csv").status, 0);

  expect_failure("usage --ledger /nonexistent", "/nonexistent: no such file");
  expect_failure("usage --ledger " + path + " --since yesterday",
                 "--since yesterday: expected 2026-09-10 or 2026-09-10T04:00:00Z");
  const std::string text = path + ".txt";
  ASSERT_TRUE(write_file(text, "not a ledger, and long enough to be looked at").ok());
  expect_failure("usage --ledger " + text, text + ": expected a ledger: file is not a database");
  EXPECT_EQ(hadal("usage").status, 2);
  EXPECT_EQ(hadal("usage --ledger " + path + " --by user").status, 2);
}

TEST(ServeCommand, RefusesToOpenUpWithoutKeys) {
  const std::string directory = temp_dir("serve");
  expect_failure("serve -m /nonexistent --host 0.0.0.0",
                 "--host 0.0.0.0: expected 127.0.0.1 or ::1, or --keys FILE, which keeps others out");
  EXPECT_EQ(hadal("serve --tls-cert x").status, 2);
  for (const char* option : {"--keys", "--price-table", "--ledger"})  // of a shell's variable that is not set, say
    EXPECT_EQ(hadal(std::string("serve -m /nonexistent ") + option + " ''").status, 2) << option;
  EXPECT_EQ(hadal("serve --tls-key x").status, 2);
  expect_failure("serve -m /nonexistent --tls-cert /nonexistent --tls-key x",
                 "/nonexistent: expected a certificate in PEM: No such file or directory");
  expect_80_columns(hadal("serve --help").out + hadal("key add --help").out + hadal("usage --help").out);
}

// hadal serve in the background, and one request to it.
struct Served {
  pid_t pid = -1;
  int out = -1;
  std::string said, err_path;

  explicit Served(const std::string& arguments) : err_path(temp_dir("served") + "/err") {
    int ends[2];
    EXPECT_EQ(::pipe(ends), 0);
    pid = ::fork();
    if (pid == 0) {
      ::dup2(ends[1], 1);
      ::close(ends[0]);
      const std::string command = "exec " HADAL_PROGRAM " serve --threads 1 --port 0 " + arguments + " 2>" + err_path;
      ::execl("/bin/sh", "sh", "-c", command.c_str(), nullptr);
      ::_exit(127);
    }
    ::close(ends[1]);
    out = ends[0];
    char byte;
    while (said.find("ANTHROPIC_AUTH_TOKEN") == std::string::npos && ::read(out, &byte, 1) == 1) said += byte;
  }
  ~Served() {
    ::kill(pid, SIGTERM);
    int status = 0;
    ::waitpid(pid, &status, 0);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    ::close(out);
  }
  std::string talk(const std::string& request) const {
    const size_t at = said.find("127.0.0.1:");
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(std::atoi(said.c_str() + at + 10)));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    const int fd = ::socket(AF_INET, SOCK_STREAM, 0);
    EXPECT_EQ(::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
    EXPECT_EQ(::send(fd, request.data(), request.size(), MSG_NOSIGNAL), static_cast<ssize_t>(request.size()));
    std::string text;
    char buffer[4096];
    for (ssize_t n; (n = ::recv(fd, buffer, sizeof buffer, 0)) > 0;) text.append(buffer, static_cast<size_t>(n));
    ::close(fd);
    return text;
  }
};

TEST(ServeCommand, KeysPricesAndLedgerWorkTogether) {
  const std::string directory = temp_dir("serve"), model = directory + "/nano", keys = directory + "/keys",
                    ledger = directory + "/ledger";
  ASSERT_EQ(hadal("synth --config nano --seed 1 -o " + model).status, 0);
  expect_failure("serve -m " + model + " --keys " + keys, keys + ": no such file; hadal key add makes it");
  std::string key = hadal("key add " + keys + " alice").out;
  key.pop_back();
  const std::string body = R"({"model":"nano","max_tokens":3,"messages":[{"role":"user","content":"hi"}]})";
  const std::string rest =
      "Host: any.example\r\nConnection: close\r\nContent-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body;
  const std::string prices = HADAL_SOURCE_DIR "/models/prices.json";
  expect_failure("serve -m " + model + " --price-table " + prices,
                 prices +
                     ": expected a price of nano that holds now, or --price-as with one of: deepseek-chat, "
                     "deepseek-flash, deepseek-pro, deepseek-reasoner, deepseek-v4-flash, deepseek-v4-pro");
  EXPECT_EQ(hadal("serve -m " + model + " --price-as deepseek-v4-flash").status, 2);
  {
    const Served served("-m " + model + " --host 0.0.0.0 --keys " + keys + " --ledger " + ledger + " --price-table " +
                        prices + " --price-as deepseek-v4-flash");
    EXPECT_NE(served.said.find("OPENAI_API_KEY=sk-..."), std::string::npos) << served.said;
    EXPECT_NE(read_file(served.err_path).value().find("without TLS"), std::string::npos);
    expect_80_columns(read_file(served.err_path).value());
    EXPECT_TRUE(served.talk("POST /v1/chat/completions HTTP/1.1\r\n" + rest).starts_with("HTTP/1.1 401"));
    const std::string answer = served.talk("POST /v1/chat/completions HTTP/1.1\r\nx-api-key: " + key + "\r\n" + rest);
    EXPECT_TRUE(answer.starts_with("HTTP/1.1 200")) << answer;
    EXPECT_NE(answer.find("x-hadal-cost-usd: 0.00000"), std::string::npos) << answer;
    EXPECT_EQ(read_file(served.err_path).value().find(key.substr(3)), std::string::npos);
  }
  const Outcome usage = hadal("usage --ledger " + ledger + " --format csv");
  EXPECT_NE(usage.out.find("\nalice,1,"), std::string::npos) << usage.out;
}

}  // namespace
}  // namespace hadal
