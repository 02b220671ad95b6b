// The wire format, case by case: tests/serve/cases/*.json against a server over real sockets, whose model is the
// scripted decoder (tests/support/scripted_decoder.h). tests/serve/cases/README.md says how a case is written.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <regex>
#include <thread>

#include "base/file.h"
#include "serve/server.h"
#include "tests/support/http_client.h"
#include "tests/support/scripted_decoder.h"

namespace hadal::serve {
namespace {

using json::Value;
namespace fs = std::filesystem;

const text::Tokenizer& tokenizer() {
  static const text::Tokenizer kTokenizer = text::Tokenizer::load(HADAL_SOURCE_DIR "/models/hadal-nano").value();
  return kTokenizer;
}

std::string word(const Value& object, std::string_view key, std::string otherwise = "") {
  const Value* value = object.find(key);
  return value && value->is_string() ? value->as_string() : otherwise;
}

// "" when `found` is as `expected` asks; else where it is not, and how.
std::string difference(const Value& expected, const Value& found, const std::string& path = "") {
  const auto differs = [&](const std::string& wanted) {
    return fmt::format("{}: expected {}, found {}", path.empty() ? "the whole" : path, wanted, json::dump(found));
  };
  if (expected.is_string()) {
    const std::string& text = expected.as_string();
    if (text == "<any>") return "";
    if (text == "<string>") return found.is_string() ? "" : differs(text);
    if (text == "<int>") return found.is_int() ? "" : differs(text);
    if (text == "<number>") return found.is_number() ? "" : differs(text);
    if (text == "<object>") return found.is_object() ? "" : differs(text);
    if (text == "<array>") return found.is_array() ? "" : differs(text);
    if (text.starts_with("~"))
      return found.is_string() && std::regex_search(found.as_string(), std::regex(text.substr(1))) ? "" : differs(text);
    return expected == found ? "" : differs(json::dump(expected));
  }
  if (expected.is_array()) {
    const json::Array& wanted = expected.as_array();
    const bool is_open = !wanted.empty() && wanted.back() == Value("...");
    const size_t n = wanted.size() - is_open;
    if (!found.is_array() || (is_open ? found.as_array().size() < n : found.as_array().size() != n))
      return differs(fmt::format("a list of {}{}", n, is_open ? " or more" : ""));
    for (size_t i = 0; i < n; ++i)
      if (auto why = difference(wanted[i], found.as_array()[i], fmt::format("{}[{}]", path, i)); !why.empty())
        return why;
    return "";
  }
  if (expected.is_object()) {
    if (!found.is_object()) return differs("an object");
    bool is_open = false;
    std::vector<std::string> names;
    for (const auto& [key, value] : expected.as_object()) {
      if (key == "...") {
        is_open = true;
        continue;
      }
      const Value* own = found.find(key);
      if (value == Value("<absent>")) {
        if (own) return fmt::format("{}.{}: expected nothing, found {}", path, key, json::dump(*own));
        continue;
      }
      if (!own) return fmt::format("{}.{}: missing in {}", path, key, json::dump(found));
      names.push_back(key);
      if (auto why = difference(value, *own, path + "." + key); !why.empty()) return why;
    }
    if (is_open) return "";
    std::vector<std::string> all;
    for (const auto& [key, value] : found.as_object()) all.push_back(key);
    return all == names ? "" : differs(fmt::format("the keys {}", fmt::join(names, ", ")));
  }
  return expected == found ? "" : differs(json::dump(expected));
}

// "choices.0.delta.content"
const Value* at_path(const Value& root, const std::string& path) {
  const Value* at = &root;
  for (size_t begin = 0; at && begin <= path.size();) {
    const size_t end = std::min(path.find('.', begin), path.size());
    const std::string step = path.substr(begin, end - begin);
    if (at->is_array()) {
      const size_t i = std::stoul(step);
      at = i < at->as_array().size() ? &at->as_array()[i] : nullptr;
    } else {
      at = at->find(step);
    }
    begin = end + 1;
  }
  return at;
}

std::string event_difference(const Value& expected, const testing::ServerEvent& event) {
  if (expected.is_string()) return expected.as_string() == event.data ? "" : "found " + event.data;
  const Value* data = expected.find("data");
  if (!data) data = expected.find("many");
  if (word(expected, "event") != event.name)
    return fmt::format("expected event \"{}\", found \"{}\": {}", word(expected, "event"), event.name, event.data);
  const auto parsed = json::parse(event.data);
  return parsed.ok() ? difference(*data, parsed.value()) : "no JSON: " + event.data;
}

void check_events(const json::Array& expected, const std::vector<testing::ServerEvent>& events) {
  size_t at = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    SCOPED_TRACE(fmt::format("event {}, expectation {}", at, i));
    ASSERT_LT(at, events.size());
    const std::string why = event_difference(expected[i], events[at]);
    ASSERT_EQ(why, "");
    const size_t first = at++;
    if (!expected[i].find("many")) continue;
    while (at < events.size() && event_difference(expected[i], events[at]).empty()) ++at;
    const Value* joined = expected[i].find("joined");
    if (!joined) continue;
    for (const auto& [path, text] : joined->as_object()) {
      std::string all;
      for (size_t k = first; k < at; ++k) {
        const Value event = json::parse(events[k].data).value();
        if (const Value* piece = at_path(event, path)) all += piece->as_string();
      }
      EXPECT_EQ(all, text.as_string());
    }
  }
  EXPECT_EQ(at, events.size()) << "more: " << events[std::min(at, events.size() - 1)].data;
}

class Running {
 public:
  explicit Running(const Value& settings) : decoder_(tokenizer(), integer(settings, "window", 1 << 20)) {
    ServerOptions options;
    options.http.port = 0;
    options.http.max_body = static_cast<uint64_t>(integer(settings, "max_body", 1 << 20));
    options.http.header_seconds = 1;
    options.http.body_seconds = 1;
    options.limits.max_waiting = static_cast<int>(integer(settings, "max_waiting", 64));
    options.limits.max_per_key = static_cast<int>(integer(settings, "max_per_key", 0));
    options.rules.model = "hadal-nano";
    options.rules.strict = is_set(settings, "strict_compat");
    options.rules.any_model = is_set(settings, "accept_any_model");
    options.rules.repair_history = is_set(settings, "repair_history");
    options.rules.clamp_max_tokens = is_set(settings, "clamp_max_tokens");
    options.version = "hadal 0.1.0";
    options.fingerprint = "fp_0123456789";
    options.temperature = 0;
    options.drain_seconds = 0.1;
    server_ = Server::open(decoder_, tokenizer(), options).value();
    thread_ = std::thread([this] { server_->run(); });
  }
  ~Running() {
    server_->stop();
    thread_.join();
  }
  uint16_t port() const { return server_->port(); }

 private:
  static int64_t integer(const Value& settings, const char* key, int64_t otherwise) {
    const Value* value = settings.find(key);
    return value ? value->to_int64().value() : otherwise;
  }
  static bool is_set(const Value& settings, const char* key) { return settings.find(key) != nullptr; }

  testing::ScriptedDecoder decoder_;
  std::unique_ptr<Server> server_;
  std::thread thread_;
};

std::string bytes_of(const Value& request) {
  const Value* body = request.find("body");
  std::string text = body ? body->is_string() ? body->as_string() : json::dump(*body) : "";
  const auto times = [&](const char* key, char c) {
    const Value* n = request.find(key);
    return std::string(n ? static_cast<size_t>(n->to_int64().value()) : 0, c);
  };
  text += times("fill", 'x') + times("nest", '[');
  std::string bytes =
      fmt::format("{} {} HTTP/{}\r\nHost: 127.0.0.1\r\n", word(request, "method", text.empty() ? "GET" : "POST"),
                  word(request, "path"), word(request, "version", "1.1"));
  if (const Value* headers = request.find("headers"))
    for (const auto& [name, value] : headers->as_object()) bytes += name + ": " + value.as_string() + "\r\n";
  if (!request.find("headers") || !request.find("headers")->find("Connection")) bytes += "Connection: close\r\n";
  if (const std::string wide = times("wide_header", 'x'); !wide.empty()) bytes += "X: " + wide + "\r\n";
  if (!text.empty()) bytes += fmt::format("Content-Length: {}\r\n", text.size());
  return bytes + "\r\n" + text;
}

void run_case(const Value& test, uint16_t port) {
  std::optional<testing::HttpClient> beside;
  if (const Value* other = test.find("beside")) {
    beside.emplace(port);
    beside->send(bytes_of(*other));
    beside->read("data: ");
  }
  const Value& request = *test.find("request");
  const std::string raw = word(request, "raw");
  const auto answer = testing::talk(port, raw.empty() ? bytes_of(request) : raw);
  ASSERT_EQ(answer.status, test.find("status")->to_int64().value()) << answer.body;
  EXPECT_TRUE(answer.is_whole || word(request, "method") == "HEAD");
  if (const Value* headers = test.find("headers")) {
    json::Object found;
    for (const auto& [name, value] : answer.headers) found.emplace_back(name, value);
    Value expected = *headers;
    expected.set("...", true);
    EXPECT_EQ(difference(expected, Value(std::move(found)), "headers"), "");
  }
  if (const Value* text = test.find("text")) {
    EXPECT_EQ(difference(*text, Value(answer.body)), "");
  }
  if (const Value* body = test.find("body")) {
    const auto parsed = json::parse(answer.body);
    ASSERT_TRUE(parsed.ok()) << answer.body;
    EXPECT_EQ(difference(*body, parsed.value()), "");
  }
  if (const Value* events = test.find("events")) {
    check_events(events->as_array(), testing::events_of(answer.body));
    EXPECT_EQ(answer.body.find("DSML"), std::string::npos);
  }
}

TEST(Conformance, EveryCase) {
  std::map<std::string, std::unique_ptr<Running>> servers;  // by their settings
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(HADAL_SOURCE_DIR "/tests/serve/cases"))
    if (entry.path().extension() == ".json") files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  int n = 0;
  for (const fs::path& file : files) {
    const auto cases = json::parse(read_file(file.string()).value());
    ASSERT_TRUE(cases.ok()) << file << ": " << cases.error().message;
    for (const Value& test : cases.value().as_array()) {
      SCOPED_TRACE(file.filename().string() + ": " + word(test, "name"));
      const Value* settings = test.find("server");
      auto& running = servers[settings ? json::dump(*settings) : ""];
      if (!running) running = std::make_unique<Running>(settings ? *settings : Value(json::Object{}));
      run_case(test, running->port());
      ++n;
    }
  }
  EXPECT_GT(n, 250);
}

}  // namespace
}  // namespace hadal::serve
