#include "eval/endpoint.h"

#include <curl/curl.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <map>

namespace hadal::eval {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr size_t kMostReply = size_t{64} << 20;
constexpr long kConnectSeconds = 20;
constexpr milliseconds kFirstPause{500}, kLongestPause{60000};

std::string text_at(const json::Value& object, std::string_view key) {
  const json::Value* value = object.find(key);
  return value && value->is_string() ? value->as_string() : "";
}

// Messages as an API takes them: tools and formats have their own places, and nothing empty stands for nothing.
json::Array for_api(const json::Array& messages, data::Mode mode) {
  json::Array out;
  for (const json::Value& message : messages) {
    if (text_at(message, "role") == "system" && text_at(message, "content").empty()) continue;
    json::Object kept;
    for (const auto& [key, value] : message.as_object()) {
      if (key == "tools" || key == "response_format") continue;
      if (key == "reasoning_content" && mode == data::Mode::kPlain) continue;
      if (key != "tool_calls") {
        kept.emplace_back(key, value);
        continue;
      }
      json::Array calls = value.as_array();
      for (json::Value& call : calls) call.set("type", "function");
      if (!calls.empty()) kept.emplace_back(key, std::move(calls));
    }
    out.emplace_back(std::move(kept));
  }
  return out;
}

bool is_offered(const json::Value& tools, const std::string& name) {
  return tools.is_array() &&
         std::any_of(tools.as_array().begin(), tools.as_array().end(), [&](const json::Value& tool) {
           const json::Value* function = tool.find("function");
           return function && text_at(*function, "name") == name;
         });
}

// What an answer says, or why it says nothing.
std::variant<text::AssistantMessage, Malformed, Refused> read_choice(const json::Value& reply, const data::Task& task) {
  const json::Value* choices = reply.find("choices");
  const json::Value* choice =
      choices && choices->is_array() && !choices->as_array().empty() ? &choices->as_array()[0] : nullptr;
  const json::Value* said = choice ? choice->find("message") : nullptr;
  if (!said || !said->is_object()) return Malformed{"no message in the answer", json::dump(reply)};
  const std::string text = json::dump(*said), finish = text_at(*choice, "finish_reason");
  if (finish == "length") return Malformed{"no end within the token limit", text};
  if (finish != "stop" && finish != "tool_calls") return Malformed{"malformed: it ended with " + finish, text};
  text::AssistantMessage message;
  message.content = text_at(*said, "content");
  message.reasoning = text_at(*said, "reasoning_content");
  if (const json::Value* calls = said->find("tool_calls"); calls && calls->is_array())
    for (const json::Value& call : calls->as_array()) {
      const json::Value* function = call.find("function");
      const std::string name = function ? text_at(*function, "name") : "";
      const std::string arguments = function ? text_at(*function, "arguments") : "";
      if (!is_offered(task.tools, name)) return Malformed{"malformed: no tool is named \"" + name + '"', text};
      const auto parsed = json::parse(arguments);
      if (!parsed.ok() || !parsed.value().is_object())
        return Malformed{"malformed: the arguments of " + name + " are no JSON object", text};
      message.tool_calls.push_back({name, arguments});
    }
  return message;
}

int64_t count_at(const json::Value& reply, const char* key) {
  const json::Value* usage = reply.find("usage");
  const json::Value* count = usage ? usage->find(key) : nullptr;
  return count && count->is_number() ? count->to_int64().value_or(0) : 0;
}

class Endpoint final : public Answerer {
 public:
  Endpoint(const EndpointOptions& options, std::string url) : options_(options), url_(std::move(url)) {
    static const CURLcode kStarted = curl_global_init(CURL_GLOBAL_DEFAULT);
    HADAL_CHECK(kStarted == CURLE_OK);
    multi_ = curl_multi_init();
    headers_ = curl_slist_append(headers_, "Content-Type: application/json");
    headers_ = curl_slist_append(headers_, "Expect:");  // no round trip before the body
    if (!options.key.empty()) headers_ = curl_slist_append(headers_, ("Authorization: Bearer " + options.key).c_str());
  }
  ~Endpoint() override {
    while (!calls_.empty()) end(calls_.begin()->first);
    curl_multi_cleanup(multi_);
    curl_slist_free_all(headers_);
  }

  void ask(int conversation, const data::Task& task, data::Mode mode, const json::Array& messages) override {
    json::Object body{{"model", options_.model},
                      {"messages", for_api(messages, mode)},
                      {"thinking", json::Object{{"type", mode == data::Mode::kPlain ? "disabled" : "enabled"}}},
                      {"temperature", static_cast<double>(options_.sampling.temperature)},
                      {"top_p", static_cast<double>(options_.sampling.top_p)},
                      {"seed", static_cast<int64_t>(options_.sampling.seed)},
                      {"max_tokens", options_.max_tokens},
                      {"stream", false}};
    if (mode != data::Mode::kPlain) body.emplace_back("reasoning_effort", mode == data::Mode::kMax ? "max" : "high");
    if (!task.tools.is_null()) body.emplace_back("tools", task.tools);
    if (!task.response_format.is_null())
      body.emplace_back(
          "response_format",
          json::Object{{"type", "json_schema"},
                       {"json_schema", json::Object{{"name", "answer"}, {"schema", task.response_format}}}});
    Call& call = calls_[conversation];
    call.task = &task;
    call.body = json::dump(json::Value(std::move(body)), json::kCompact);
    start(conversation, call);
  }

  Result<std::vector<Answer>> answers() override {
    std::vector<Answer> answers;
    while (answers.empty() && !calls_.empty()) {
      const auto now = steady_clock::now();
      milliseconds patience{1000};
      for (auto& [conversation, call] : calls_) {
        if (call.easy) continue;
        if (call.not_before <= now) start(conversation, call);
        patience =
            std::clamp(std::chrono::duration_cast<milliseconds>(call.not_before - now), milliseconds{1}, patience);
      }
      int n_running = 0, n_left = 0;
      curl_multi_perform(multi_, &n_running);
      while (const CURLMsg* message = curl_multi_info_read(multi_, &n_left)) {
        if (message->msg != CURLMSG_DONE) continue;
        void* known = nullptr;
        curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &known);
        const int conversation = static_cast<int>(reinterpret_cast<intptr_t>(known));
        auto answer = HADAL_TRY(hear(calls_.at(conversation), message->data.result));
        if (!answer) continue;
        answer->conversation = conversation;
        end(conversation);
        answers.push_back(std::move(*answer));
      }
      if (answers.empty()) curl_multi_poll(multi_, nullptr, 0, static_cast<int>(patience.count()), nullptr);
    }
    return answers;
  }

  void end(int conversation) override {
    const auto it = calls_.find(conversation);
    if (it == calls_.end()) return;
    drop(it->second);
    calls_.erase(it);
  }

 private:
  struct Call {
    const data::Task* task = nullptr;
    std::string body, reply;
    CURL* easy = nullptr;  // null: it waits for another try
    char why[CURL_ERROR_SIZE] = "";
    int tries = 0;
    steady_clock::time_point not_before;
  };

  static size_t receive(char* bytes, size_t, size_t n, void* call) {
    std::string& reply = static_cast<Call*>(call)->reply;
    if (reply.size() + n > kMostReply) return 0;
    reply.append(bytes, n);
    return n;
  }

  void start(int conversation, Call& call) {
    ++call.tries;
    call.reply.clear();
    call.easy = curl_easy_init();
    const auto set = [&](CURLoption option, auto value) {
      HADAL_CHECK(curl_easy_setopt(call.easy, option, value) == CURLE_OK);
    };
    set(CURLOPT_URL, url_.c_str());
    set(CURLOPT_PROTOCOLS_STR, "http,https");
    set(CURLOPT_HTTPHEADER, headers_);
    set(CURLOPT_POSTFIELDS, call.body.c_str());
    set(CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(call.body.size()));
    set(CURLOPT_WRITEFUNCTION, &receive);
    set(CURLOPT_WRITEDATA, &call);
    set(CURLOPT_ERRORBUFFER, call.why);
    set(CURLOPT_PRIVATE, reinterpret_cast<void*>(static_cast<intptr_t>(conversation)));
    set(CURLOPT_CONNECTTIMEOUT, kConnectSeconds);
    set(CURLOPT_TIMEOUT, static_cast<long>(options_.timeout_s));
    set(CURLOPT_NOSIGNAL, 1L);
    set(CURLOPT_USERAGENT, "hadal");
    HADAL_CHECK(curl_multi_add_handle(multi_, call.easy) == CURLM_OK);
  }
  void drop(Call& call) {
    if (!call.easy) return;
    curl_multi_remove_handle(multi_, call.easy);
    curl_easy_cleanup(call.easy);
    call.easy = nullptr;
  }

  // A request has come to its end. nullopt: it will be tried again.
  Result<std::optional<Answer>> hear(Call& call, CURLcode result) {
    if (result == CURLE_OPERATION_TIMEDOUT)
      return Error{Code::kIo, fmt::format("{}: expected an answer within {} s, found none", url_, options_.timeout_s)};
    if (result != CURLE_OK) {
      const bool may_pass = result == CURLE_COULDNT_CONNECT || result == CURLE_RECV_ERROR ||
                            result == CURLE_SEND_ERROR || result == CURLE_GOT_NOTHING || result == CURLE_PARTIAL_FILE;
      if (may_pass && again(call, {})) return std::optional<Answer>();
      return Error{Code::kIo, fmt::format("{}: {}", url_, *call.why ? call.why : curl_easy_strerror(result))};
    }
    long status = 0;
    curl_easy_getinfo(call.easy, CURLINFO_RESPONSE_CODE, &status);
    const auto reply = json::parse(call.reply);
    if (status == 200) {
      if (!reply.ok())
        return Error{Code::kIo,
                     fmt::format("{}: status 200: expected JSON, found \"{}\"", url_, beginning(call.reply))};
      if (!reply.value().find("error")) {
        Answer answer;
        answer.said = read_choice(reply.value(), *call.task);
        answer.prompt_tokens = count_at(reply.value(), "prompt_tokens");
        answer.completion_tokens = count_at(reply.value(), "completion_tokens");
        return std::optional(std::move(answer));
      }
    }
    const bool is_busy = status == 429 || status == 503 || status == 529;
    curl_off_t named = 0;  // seconds, from retry-after in either form
    curl_easy_getinfo(call.easy, CURLINFO_RETRY_AFTER, &named);
    if (is_busy && again(call, std::chrono::seconds(named))) return std::optional<Answer>();
    const json::Value* error = reply.ok() ? reply.value().find("error") : nullptr;
    std::string why = error ? error->is_string() ? error->as_string() : text_at(*error, "message") : "";
    if (why.empty()) why = beginning(call.reply);
    const bool is_too_long = status == 400 && ((error && text_at(*error, "code") == "context_length_exceeded") ||
                                               why.find("maximum context length") != std::string::npos);
    if (is_too_long) return std::optional(Answer{.conversation = 0, .said = Refused{why}});
    return Error{Code::kIo, fmt::format("{}: status {}: {}", url_, status, why)};
  }

  bool again(Call& call, milliseconds named) {
    if (call.tries >= options_.most_tries) return false;
    const milliseconds doubled = kFirstPause * (1 << std::min(call.tries - 1, 10));
    call.not_before = steady_clock::now() + std::min(named.count() > 0 ? named : doubled, kLongestPause);
    drop(call);
    return true;
  }

  static std::string beginning(const std::string& text) {
    std::string line = text.substr(0, 200);
    for (char& c : line)
      if (static_cast<unsigned char>(c) < 0x20) c = ' ';
    return line;
  }

  const EndpointOptions options_;
  const std::string url_;
  CURLM* multi_ = nullptr;
  curl_slist* headers_ = nullptr;
  std::map<int, Call> calls_;  // by conversation
};

}  // namespace

Result<std::unique_ptr<Answerer>> open_endpoint(const EndpointOptions& options) {
  std::string url = options.url;
  if (!url.starts_with("http://") && !url.starts_with("https://"))
    return Error{Code::kInvalid, fmt::format("{}: expected a URL of http or https", url)};
  while (url.ends_with('/')) url.pop_back();
  if (!url.ends_with("/chat/completions")) url += "/chat/completions";
  return std::unique_ptr<Answerer>(std::make_unique<Endpoint>(options, std::move(url)));
}

}  // namespace hadal::eval
