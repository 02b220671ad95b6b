#include "serve/server.h"

#include <fmt/format.h>
#include <zlib.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <ctime>
#include <random>
#include <thread>

#include "base/utc.h"
#include "serve/constraints.h"
#include "serve/formats.h"
#include "serve/metrics.h"
#include "serve/page.h"
#include "serve/reply.h"
#include "serve/request_fields.h"
#include "serve/stats.h"
#include "serve/worker.h"
#include "text/templates.h"

namespace hadal::serve {
namespace {

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

std::string compact(const json::Value& value) { return json::dump(value, json::kCompact); }

constexpr int64_t kPlainOutput = 8192, kThinkingOutput = 65536, kMaxOutput = 131072;  // where none is asked for
constexpr double kTick = 0.2;                                                         // seconds
constexpr int kLastTicks = 3;
constexpr int kReload = 5;       // ticks
constexpr int kMostDepth = 128;  // of a body
// Bodies that are large, or may become so, are read beside the connections.
constexpr size_t kLarge = 256 << 10, kMostLarge = 256 << 20;  // bytes of one, of all that wait

// "/beta/v1/chat/completions/" → "/chat/completions", "/anthropic/v1/messages" → "/messages"
std::string canonical(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  for (const std::string_view prefix : {"/beta", "/anthropic", "/v1"})
    if (path.starts_with(prefix) && (path.size() == prefix.size() || path[prefix.size()] == '/'))
      path.erase(0, prefix.size());
  return path.empty() ? "/" : path;
}

std::string lower(std::string text) {
  for (char& c : text) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return text;
}

int depth_of(const json::Value& value) {
  int deepest = 0;
  if (value.is_array())
    for (const json::Value& item : value.as_array()) deepest = std::max(deepest, depth_of(item));
  if (value.is_object())
    for (const auto& [key, item] : value.as_object()) deepest = std::max(deepest, depth_of(item));
  return deepest + 1;
}

// Half a pair of an escape ("\\ud83d" alone), which the reader keeps as three bytes, becomes U+FFFD.
std::string without_surrogates(std::string text) {
  for (size_t at = text.find('\xED'); at != std::string::npos; at = text.find('\xED', at + 3))
    if (at + 2 < text.size() && static_cast<unsigned char>(text[at + 1]) >= 0xA0) text.replace(at, 3, "\uFFFD");
  return text;
}
void mend_surrogates(json::Value& value) {
  if (value.is_string()) value = without_surrogates(value.as_string());
  if (value.is_array())
    for (json::Value& item : value.as_array()) mend_surrogates(item);
  if (value.is_object())
    for (auto& [key, item] : value.as_object()) {
      key = without_surrogates(std::move(key));
      mend_surrogates(item);
    }
}

// gzip and deflate, up to `most` bytes. false: the error says why.
bool inflate_body(const std::string& encoding, const std::string& packed, uint64_t most, std::string& out,
                  ApiError& error) {
  if (encoding != "gzip" && encoding != "deflate" && encoding != "x-gzip") {
    error = {.status = 415, .message = "Unsupported content-encoding: expected gzip or deflate, found " + encoding};
    return false;
  }
  z_stream stream{};
  constexpr int kEitherHeader = 15 + 32;
  if (inflateInit2(&stream, kEitherHeader) != Z_OK) {
    error = {.status = 500, .type = "server_error", .code = "server_error", .message = "zlib cannot start"};
    return false;
  }
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(packed.data()));
  stream.avail_in = static_cast<uInt>(packed.size());
  char buffer[65536];
  int state = Z_OK;
  while (state == Z_OK && out.size() <= most) {
    stream.next_out = reinterpret_cast<Bytef*>(buffer);
    stream.avail_out = sizeof buffer;
    state = ::inflate(&stream, Z_NO_FLUSH);
    out.append(buffer, sizeof buffer - stream.avail_out);
  }
  inflateEnd(&stream);
  if (out.size() > most) {
    error = {.status = 413, .message = fmt::format("Request body too large: more than {} bytes", most)};
  } else if (state != Z_STREAM_END) {
    error =
        invalid(fmt::format("Failed to deserialize the JSON body into the target type: it is no {} data", encoding));
  } else {
    return true;
  }
  return false;
}

// Without keys whoever reaches the port may ask, and a browser reaches it for any page that it shows. It says where the
// page comes from and what it called us: no page but our own may ask, neither from another origin, nor under a name
// that somebody else has made point here. Programs send no Origin. (With keys all this is nothing: pages have none to
// send.) nullptr: it may.
const char* foreign(const HttpRequest& request) {
  const std::string origin = request.header("origin"), host = lower(request.header("host"));
  const size_t colon = host.rfind(':');
  const std::string name = colon == std::string::npos || host.ends_with(']') ? host : host.substr(0, colon);
  const bool is_local = name == "localhost" || name == "127.0.0.1" || name == "[::1]";
  if (!is_local && !host.empty())
    return "Without keys, requests to other host names than localhost, 127.0.0.1 and [::1] are refused";
  const size_t scheme = origin.find("://");
  const bool is_site = origin == "null" || (scheme != std::string::npos && origin.starts_with("http"));
  const bool is_own = scheme != std::string::npos && lower(origin.substr(scheme + 3)) == host;
  return is_site && !is_own ? "Requests of other sites' pages are refused" : nullptr;
}

ApiError overloaded() {
  return {.status = 503,
          .type = "server_error",
          .code = "server_overloaded",
          .message = "The server is overloaded, please try again later"};
}

// Tells the metrics how a request was answered.
class CountedReply final : public HttpReply {
 public:
  CountedReply(std::shared_ptr<HttpReply> reply, std::string endpoint, Metrics& metrics)
      : reply_(std::move(reply)), endpoint_(std::move(endpoint)), metrics_(metrics) {}
  void send(int status, Headers headers, std::string body) override {
    metrics_.request(endpoint_, status);
    reply_->send(status, std::move(headers), std::move(body));
  }
  void begin(int status, Headers headers) override {
    metrics_.request(endpoint_, status);
    reply_->begin(status, std::move(headers));
  }
  void write(std::string chunk) override { reply_->write(std::move(chunk)); }
  void end() override { reply_->end(); }
  void on_gone(std::function<void()> call) override { reply_->on_gone(std::move(call)); }

 private:
  const std::shared_ptr<HttpReply> reply_;
  const std::string endpoint_;
  Metrics& metrics_;
};

class ServerImpl final : public Server {
 public:
  ServerImpl(engine::Decoder& decoder, const text::Tokenizer& tokenizer, const ServerOptions& options,
             std::unique_ptr<Accounts> accounts)
      : decoder_(decoder),
        tokenizer_(tokenizer),
        options_(options),
        prompts_(tokenizer, options.encoding, decoder.max_tokens()),
        constraints_(tokenizer, decoder.end_tokens()),
        accounts_(std::move(accounts)),
        replays_memory_(options.rules.strict ? nullptr : options.store, tokenizer.size()),
        scheduler_(decoder, options.limits, options.store) {
    if (options.store) options.store->on_loaded([this] { wake(); });
    replies_.tokenizer = &tokenizer;
    for (const char* name : text::kTurnStarts)
      if (const auto id = tokenizer.id_of(name)) replies_.turn_ends.push_back(*id);
    replies_.keep_alive = options.keep_alive;
    replies_.metrics = &metrics_;
    replies_.replays = &replays_memory_;
  }

  Status listen() {
    HttpOptions http = options_.http;  // nobody without a key fills our memory
    http.wants_body = [this](const HttpRequest& head) { return accounts_->name_of(head).index() == 0; };
    http_ = HADAL_TRY(HttpServer::listen(http, [this](HttpRequest request, std::shared_ptr<HttpReply> reply) {
      handle(std::move(request), std::move(reply));
    }));
    return {};
  }
  uint16_t port() const override { return http_->port(); }

  void run() override {
    std::thread engine([this] { run_engine(); });
    http_->after(kTick, [this] { tick(); });
    http_->run();
    scheduler_.drain(true);  // what still runs ends with the next step
    {
      const std::lock_guard lock(mutex_);
      over_ = true;
    }
    work_.notify_all();
    engine.join();
  }
  void stop() override { stopping_.store(true); }
  ~ServerImpl() override {
    if (options_.store) options_.store->on_loaded({});
  }

 private:
  void run_engine() {
    while (true) {
      if (scheduler_.step(now())) continue;
      std::unique_lock lock(mutex_);
      if (over_) return;
      work_.wait_for(lock, std::chrono::milliseconds(200), [this] { return over_ || has_work_; });
      has_work_ = false;
    }
  }
  void wake() {
    {
      const std::lock_guard lock(mutex_);
      has_work_ = true;
    }
    work_.notify_all();
  }

  // Every kTick, on the server's thread: signs of life, and the steps of a shutdown.
  void tick() {
    const double time = now();
    rate_.sample(time, scheduler_.seen().tokens);
    if (++ticks_ % kReload == 0) accounts_->reload();
    std::erase_if(open_, [&](const std::weak_ptr<Reply>& weak) {
      const auto reply = weak.lock();
      return !reply || !reply->tick(time);
    });
    if (stopping_.load() && stop_at_ == 0) {
      stop_at_ = time;
      http_->close_listener();
      scheduler_.drain(false);
    }
    if (stop_at_ > 0) {
      const bool idle = open_.empty() && worker_.is_idle();
      if (!idle && time - stop_at_ > options_.drain_seconds) scheduler_.drain(true);
      idle_ticks_ = idle ? idle_ticks_ + 1 : 0;  // the last bytes are on their way for a while
      if (idle_ticks_ > kLastTicks || time - stop_at_ > options_.drain_seconds + 2) return http_->stop();
    }
    http_->after(kTick, [this] { tick(); });
  }

  void send_json(HttpReply& reply, int status, const json::Value& body, const std::string& id, Headers more = {}) {
    Headers headers = common_headers(id);
    headers.emplace_back("content-type", "application/json");
    for (auto& header : more) headers.push_back(std::move(header));
    reply.send(status, std::move(headers), compact(body));
  }
  void send_error(HttpReply& reply, const ApiError& error, const std::string& id,
                  ErrorStyle style = ErrorStyle::kOpenAi) {
    reply.send(error_status(error, style), error_headers(error, id), error_body(error, style, id));
  }

  void handle(HttpRequest request, std::shared_ptr<HttpReply> given) {
    const std::string id = random_hex(32), path = canonical(request.path);
    // An answer has its price, work is counted by the minute; what is open asks for no key.
    enum class Kind { kAnswer, kWork, kLook, kOpen };
    struct Route {
      std::string_view path, method;
      void (ServerImpl::*serve)(const HttpRequest&, const std::shared_ptr<HttpReply>&, const std::string&);
      Kind kind = Kind::kLook;
    };
    static constexpr Route kRoutes[] = {
        {"/chat/completions", "POST", &ServerImpl::chat, Kind::kAnswer},
        {"/completions", "POST", &ServerImpl::complete, Kind::kAnswer},
        {"/responses", "POST", &ServerImpl::responses, Kind::kAnswer},
        {"/messages", "POST", &ServerImpl::messages, Kind::kAnswer},
        {"/messages/count_tokens", "POST", &ServerImpl::count_tokens, Kind::kWork},
        {"/models", "GET", &ServerImpl::models},
        {"/health", "GET", &ServerImpl::health, Kind::kOpen},
        {"/healthz", "GET", &ServerImpl::health, Kind::kOpen},
        {"/ready", "GET", &ServerImpl::health, Kind::kOpen},
        {"/version", "GET", &ServerImpl::version},
        {"/tokenize", "POST", &ServerImpl::tokenize, Kind::kWork},
        {"/detokenize", "POST", &ServerImpl::detokenize, Kind::kWork},
        {"/stats", "GET", &ServerImpl::stats},
        {"/metrics", "GET", &ServerImpl::metrics},
        {"/card", "GET", &ServerImpl::card},
        {"/user/balance", "GET", &ServerImpl::balance},
    };
    const Route* const route =
        std::find_if(std::begin(kRoutes), std::end(kRoutes), [&](const Route& one) { return one.path == path; });
    const bool is_known = route != std::end(kRoutes);
    const auto reply = std::make_shared<CountedReply>(given, is_known ? path : "other", metrics_);
    const ErrorStyle style = path.starts_with("/messages") ? ErrorStyle::kAnthropic : ErrorStyle::kOpenAi;
    if (const char* why = accounts_->has_keys() ? nullptr : foreign(request))
      return send_error(*reply, {.status = 403, .type = "permission_error", .message = why}, id, style);
    if (serve_page(request, *given, common_headers(id))) return;
    if (request.method == "HEAD" && path == "/") return reply->send(200, common_headers(id), "");
    if (!is_known || route->kind != Kind::kOpen) {
      auto name = accounts_->name_of(request);
      if (const auto* error = std::get_if<ApiError>(&name)) return send_error(*reply, *error, id, style);
      request.key = std::get<std::string>(std::move(name));
    }
    if (is_known && request.method == route->method) {
      if (route->kind == Kind::kAnswer || route->kind == Kind::kWork)
        if (const auto error = accounts_->refusal(request.key, now())) return send_error(*reply, *error, id, style);
      if (route->kind == Kind::kWork) accounts_->started(request.key, 0, now());
      const bool may_be_large =
          request.method == "POST" && (request.body.size() > kLarge || !request.header("content-encoding").empty());
      if (!may_be_large) return (this->*route->serve)(request, reply, id);
      const auto gone = std::make_shared<std::atomic<bool>>(false);
      reply->on_gone([gone] { gone->store(true); });
      const size_t size = request.body.size();
      const bool is_taken = worker_.give(
          size,
          [this, serve = route->serve, kept = std::make_shared<HttpRequest>(std::move(request)), reply, id, gone] {
            if (!gone->load()) (this->*serve)(*kept, reply, id);
          });
      if (!is_taken) send_error(*reply, overloaded(), id, style);
      return;
    }
    if (is_known) {
      const ApiError error{.status = 405, .message = "Method Not Allowed"};
      Headers headers = error_headers(error, id);
      headers.emplace_back("allow", std::string(route->method));
      return reply->send(405, std::move(headers), error_body(error, style, id));
    }
    if (path.starts_with("/models/") && request.method == "GET") return models(request, reply, id);
    send_error(*reply, {.status = 404, .message = "Not Found"}, id);
  }

  // From here to submit() on the server's thread, or the worker's.

  std::optional<json::Value> body_of(const HttpRequest& request, HttpReply& reply, const std::string& id,
                                     ErrorStyle style = ErrorStyle::kOpenAi) {
    std::string inflated;
    const std::string* text = &request.body;
    if (const std::string encoding = lower(request.header("content-encoding"));
        !encoding.empty() && encoding != "identity") {
      ApiError error;
      if (!inflate_body(encoding, request.body, options_.http.max_body, inflated, error)) {
        send_error(reply, error, id, style);
        return std::nullopt;
      }
      text = &inflated;
    }
    auto parsed = json::parse(*text);
    if (parsed.ok() && depth_of(parsed.value()) <= kMostDepth) {
      json::Value body = std::move(parsed).value();
      if (text->find("\\ud") != std::string::npos || text->find("\\uD") != std::string::npos) mend_surrogates(body);
      return body;
    }
    send_error(reply,
               invalid("Failed to deserialize the JSON body into the target type: " +
                       (parsed.ok() ? fmt::format("more than {} levels", kMostDepth) : parsed.error().message)),
               id, style);
    return std::nullopt;
  }

  void chat(const HttpRequest& request, const std::shared_ptr<HttpReply>& reply, const std::string& id) {
    const auto body = body_of(request, *reply, id);
    if (!body) return;
    auto read = read_chat_request(*body, options_.rules);
    if (const auto* error = std::get_if<ApiError>(&read)) return send_error(*reply, *error, id);
    Turn turn = std::get<Turn>(std::move(read));
    answer(request, *body, turn, prompt_of(request, turn), chat_format(turn, format(id)), reply, id);
  }
  void complete(const HttpRequest& request, const std::shared_ptr<HttpReply>& reply, const std::string& id) {
    const auto body = body_of(request, *reply, id);
    if (!body) return;
    auto read = read_completion_request(*body, options_.rules);
    if (const auto* error = std::get_if<ApiError>(&read)) return send_error(*reply, *error, id);
    CompletionRequest asked = std::get<CompletionRequest>(std::move(read));
    answer(request, *body, asked.turn, prompts_.make_completion(asked.prompt, asked.suffix),
           completion_format(asked.turn, format(id), asked.echo ? asked.prompt : ""), reply, id);
  }
  void messages(const HttpRequest& request, const std::shared_ptr<HttpReply>& reply, const std::string& id) {
    const auto body = body_of(request, *reply, id, ErrorStyle::kAnthropic);
    if (!body) return;
    auto read = read_messages_request(*body, options_.rules);
    if (const auto* error = std::get_if<ApiError>(&read)) return send_error(*reply, *error, id, ErrorStyle::kAnthropic);
    Turn turn = std::get<Turn>(std::move(read));
    answer(request, *body, turn, prompt_of(request, turn), messages_format(turn, format(id)), reply, id);
  }
  void responses(const HttpRequest& request, const std::shared_ptr<HttpReply>& reply, const std::string& id) {
    const auto body = body_of(request, *reply, id);
    if (!body) return;
    auto read = read_responses_request(*body, options_.rules);
    if (const auto* error = std::get_if<ApiError>(&read)) return send_error(*reply, *error, id);
    ResponsesRequest asked = std::get<ResponsesRequest>(std::move(read));
    answer(request, *body, asked.turn, prompt_of(request, asked.turn),
           responses_format(asked.turn, format(id), std::move(asked.echo)), reply, id);
  }
  void count_tokens(const HttpRequest& request, const std::shared_ptr<HttpReply>& reply, const std::string& id) {
    const auto body = body_of(request, *reply, id, ErrorStyle::kAnthropic);
    if (!body) return;
    const auto read = read_messages_request(*body, options_.rules, true);
    if (const auto* error = std::get_if<ApiError>(&read)) return send_error(*reply, *error, id, ErrorStyle::kAnthropic);
    const auto made = prompt_of(request, std::get<Turn>(read));
    if (const auto* error = std::get_if<ApiError>(&made)) return send_error(*reply, *error, id, ErrorStyle::kAnthropic);
    const Prompt& prompt = std::get<Prompt>(made);
    if (prompt.at_least > 0)
      return send_error(*reply, too_long(ErrorStyle::kAnthropic, prompt, 0), id, ErrorStyle::kAnthropic);
    const auto count = static_cast<int64_t>(prompt.ids.size());
    json::Object counted{{"input_tokens", count}};
    if (body->find("context_management"))
      counted.emplace_back("context_management", json::Object{{"original_input_tokens", count}});
    send_json(*reply, 200, std::move(counted), id);
  }

  // With --strict-compat the prompt is what the client sent.
  std::variant<Prompt, ApiError> prompt_of(const HttpRequest& request, const Turn& turn) {
    Replays replays;
    if (!options_.rules.strict) replays = {&replays_memory_, cache::space_of(request.key, turn.user)};
    return prompts_.make(turn, options_.rules.repair_history, replays);
  }

  FormatContext format(const std::string& id) const { return {&tokenizer_, options_.fingerprint, id}; }

  // The end of every endpoint that answers: from here on the wire format is the Format's business.
  void answer(const HttpRequest& request, const json::Value& body, Turn& turn, std::variant<Prompt, ApiError> made,
              std::unique_ptr<Format> format, const std::shared_ptr<HttpReply>& reply, const std::string& id) {
    const ErrorStyle style = format->style();
    if (const auto* error = std::get_if<ApiError>(&made)) return send_error(*reply, *error, id, style);
    Prompt prompt = std::get<Prompt>(std::move(made));
    const int64_t asked = turn.max_tokens.value_or(turn.effort == Effort::kOff   ? kPlainOutput
                                                   : turn.effort == Effort::kMax ? kMaxOutput
                                                                                 : kThinkingOutput);
    if (prompt.at_least > 0) return send_error(*reply, too_long(style, prompt, asked), id, style);
    const auto absent = [&](const char* key) {
      const json::Value* value = body.find(key);
      return !value || value->is_null();
    };
    if (absent("temperature")) turn.sampling.temperature = options_.temperature;
    if (absent("top_p")) turn.sampling.top_p = options_.top_p;
    if (!turn.seeded) turn.sampling.seed = std::random_device{}();

    if (options_.log_prompts)
      fmt::print(stderr, "{} prompt of {} tokens: {}\n", id, prompt.ids.size(), compact(json::Value(prompt.text)));

    const int64_t window = decoder_.max_tokens(), used = static_cast<int64_t>(prompt.ids.size());
    if (used >= window || (options_.rules.strict && turn.max_tokens && used + asked > window))
      return send_error(*reply, too_long(style, prompt, asked), id, style);

    const auto ready = std::make_shared<Ready>(Ready{request.key, canonical(request.path), std::move(turn),
                                                     std::move(prompt), std::move(format), asked, reply, id});
    if (!worker_.is_here()) return submit(*ready);
    http_->post([this, ready] {
      // Others with its key came while it waited.
      if (const auto error = accounts_->refusal(ready->key, now()))
        return send_error(*ready->reply, *error, ready->id, ready->format->style());
      submit(*ready);
    });
  }

  // All that an answer needs.
  struct Ready {
    std::string key, endpoint;
    Turn turn;
    Prompt prompt;
    std::unique_ptr<Format> format;
    int64_t asked;  // tokens
    std::shared_ptr<HttpReply> reply;
    std::string id;
  };
  void submit(Ready& ready) {
    auto& [key, endpoint, turn, prompt, format, asked, reply, id] = ready;
    const ErrorStyle style = format->style();
    const int64_t window = decoder_.max_tokens(), used = static_cast<int64_t>(prompt.ids.size());
    const auto since = std::chrono::system_clock::now().time_since_epoch();
    const int64_t time_ms = std::chrono::duration_cast<std::chrono::milliseconds>(since).count();
    const int64_t wanted = std::min(asked, window - used);
    auto admitted = accounts_->admit(key, used, wanted, time_ms);
    if (const auto* error = std::get_if<ApiError>(&admitted)) return send_error(*reply, *error, id, style);
    const auto admission = std::get<Accounts::Admission>(std::move(admitted));

    auto demanded = constraints_.of(turn, prompt);
    if (const auto* error = std::get_if<ApiError>(&demanded)) return send_error(*reply, *error, id, style);
    const Demand& demand = std::get<Demand>(demanded);
    Headers more = ignored_header(demand.ignored);
    if (admission.max_tokens < wanted) more.emplace_back("x-hadal-max-tokens", std::to_string(admission.max_tokens));
    if (!turn.retired.empty()) {
      more.emplace_back("deprecation", fmt::format("@{}", parse_utc(turn.retired).value_or(0)));
      more.emplace_back("x-hadal-warning", fmt::format("{} is a retired name since {}", turn.model, turn.retired));
    }
    const auto sink = std::make_shared<Reply>(turn, prompt, replies_, std::move(format), reply, id, std::move(more),
                                              charge_of(key, endpoint, turn, time_ms, admission.hold));
    Submission submission;
    submission.request.constraint = demand.constraint;
    submission.request.prompt = std::move(prompt.ids);
    submission.request.sampling = turn.sampling;
    submission.request.max_tokens = admission.max_tokens;
    submission.system_end = prompt.system_end;
    submission.header_at = prompt.header_at;
    submission.key = key;
    const int64_t of_key = accounts_->concurrent(key);
    const int max_per_key = of_key > 0 ? static_cast<int>(of_key) : options_.limits.max_per_key;
    submission.max_per_key = max_per_key;
    submission.user = turn.user;
    submission.sink = sink;
    const auto ticket = scheduler_.submit(std::move(submission), now());
    if (ticket.refused) {
      if (*ticket.refused == Refusal::kKeyLimit)
        return send_error(*reply,
                          {.status = 429,
                           .type = "rate_limit_error",
                           .code = "rate_limit_exceeded",
                           .message = fmt::format("Rate limit reached: {} concurrent requests", max_per_key),
                           .retry_after = 1},  // nobody knows when one ends
                          id, style);
      return send_error(*reply, overloaded(), id, style);
    }
    accounts_->started(key, used, now());
    open_.push_back(sink);
    reply->on_gone([this, job = ticket.id] {
      scheduler_.cancel(job);
      wake();
    });
    wake();
  }

  // It owns the hold: a reply that never ended gives it back when it goes.
  Charge charge_of(const std::string& key, const std::string& endpoint, const Turn& turn, int64_t time_ms,
                   std::shared_ptr<Accounts::Hold> hold) {
    LedgerRow row{.time_ms = time_ms,
                  .key = key,
                  .user = turn.user.empty() ? "" : namespace_of(turn.user),
                  .endpoint = endpoint,
                  .model = turn.model};
    return [this, row = std::move(row), hold = std::move(hold)](const Answer& answer, const char* ending, bool is_owed,
                                                                const Timing& timing) mutable {
      row.finish = ending;
      row.seconds = timing.done;
      if (timing.started >= 0) {  // else nothing of it was read
        row.prompt_tokens = answer.prompt_tokens;
        row.hit_tokens = answer.reused_tokens;
      }
      row.output_tokens = answer.tokens;
      row.reasoning_tokens = answer.reasoning_tokens;
      return accounts_->finished(std::move(row), now(), is_owed, hold.get());
    };
  }

  // Names what is not enforced. Header values are ASCII, and no longer than clients take.
  static Headers ignored_header(const std::vector<std::string>& ignored) {
    if (ignored.empty()) return {};
    std::string all;
    for (const std::string& one : ignored) all += (all.empty() ? "" : ", ") + one;
    for (char& c : all)
      if (c < 0x20 || c > 0x7E) c = '?';
    if (all.size() > 1000) all.replace(1000, all.size(), "...");
    return {{"x-hadal-ignored-schema", std::move(all)}};
  }

  // Clients read numbers out of these sentences, and compact their conversation by them.
  ApiError too_long(ErrorStyle style, const Prompt& prompt, int64_t asked) const {
    const int64_t window = decoder_.max_tokens();
    const int64_t used = prompt.at_least > 0 ? prompt.at_least : static_cast<int64_t>(prompt.ids.size());
    ApiError error{.code = "context_length_exceeded", .param = "messages"};
    if (style == ErrorStyle::kOpenAi) {
      error.message = fmt::format(
          "This model's maximum context length is {} tokens. However, you requested {} tokens ({} in the messages, "
          "{} in the completion). Please reduce the length of the messages or completion.",
          window, used + asked, used, asked);
    } else if (used >= window) {
      error.message = fmt::format("prompt is too long: {} tokens > {} maximum", used, window);
    } else {
      error.message = fmt::format(
          "input length and `max_tokens` exceed context limit: {} + {} > {}, decrease input length or `max_tokens` "
          "and try again",
          used, asked, window);
    }
    if (prompt.at_least > 0) error.message += " (At least so many: it is too much to be counted.)";
    return error;
  }

  void models(const HttpRequest& request, const std::shared_ptr<HttpReply>& reply, const std::string& id) {
    const json::Object model{{"id", options_.rules.model},
                             {"object", "model"},
                             {"owned_by", "deepseek"},
                             {"context_length", decoder_.max_tokens()},
                             {"max_model_len", decoder_.max_tokens()}};
    const std::string path = canonical(request.path);
    if (request.path.starts_with("/anthropic") || !request.header("anthropic-version").empty())
      return anthropic_models(path, *reply, id);
    if (path == "/models")
      return send_json(*reply, 200, json::Object{{"object", "list"}, {"data", json::Array{model}}}, id);
    if (path == "/models/" + options_.rules.model) return send_json(*reply, 200, model, id);
    send_error(*reply, {.status = 404, .message = "Model Not Exist"}, id);
  }
  void anthropic_models(const std::string& path, HttpReply& reply, const std::string& id) {
    const std::string& name = options_.rules.model;
    const json::Object model{{"type", "model"},
                             {"id", name},
                             {"display_name", name},
                             {"created_at", "2026-04-24T00:00:00Z"},
                             {"max_input_tokens", decoder_.max_tokens()},
                             {"max_tokens", std::min(kMostOutput, decoder_.max_tokens())}};
    if (path == "/models/" + name) return send_json(reply, 200, model, id);
    if (path != "/models")
      return send_error(reply, {.status = 404, .message = "Model Not Exist"}, id, ErrorStyle::kAnthropic);
    send_json(reply, 200,
              json::Object{{"data", json::Array{model}}, {"has_more", false}, {"first_id", name}, {"last_id", name}},
              id);
  }
  void health(const HttpRequest&, const std::shared_ptr<HttpReply>& reply, const std::string& id) {
    const bool leaving = stopping_.load();
    send_json(*reply, leaving ? 503 : 200, json::Object{{"status", leaving ? "shutting down" : "ok"}}, id);
  }
  void version(const HttpRequest&, const std::shared_ptr<HttpReply>& reply, const std::string& id) {
    send_json(*reply, 200,
              json::Object{{"version", options_.version},
                           {"model", options_.rules.model},
                           {"encoding", text::encoding_name(options_.encoding)},
                           {"fingerprint", options_.fingerprint}},
              id);
  }
  // The live view of the page. Rates are of the last seconds.
  void metrics(const HttpRequest&, const std::shared_ptr<HttpReply>& reply, const std::string& id) {
    Headers headers = common_headers(id);
    headers.emplace_back("content-type", "text/plain; version=0.0.4; charset=utf-8");
    reply->send(
        200, std::move(headers),
        metrics_.text({scheduler_.seen(), options_.rules.model, options_.limits.kv_bytes, resident_bytes(),
                       options_.store ? std::optional(options_.store->counters()) : std::nullopt, accounts_->seen()}));
  }
  void balance(const HttpRequest& request, const std::shared_ptr<HttpReply>& reply, const std::string& id) {
    send_json(*reply, 200, accounts_->balance(request.key), id);
  }
  void stats(const HttpRequest&, const std::shared_ptr<HttpReply>& reply, const std::string& id) {
    const Counters seen = scheduler_.seen();
    send_json(*reply, 200,
              json::Object{{"model", options_.rules.model},
                           {"version", options_.version},
                           {"encoding", text::encoding_name(options_.encoding)},
                           {"context_length", decoder_.max_tokens()},
                           {"uptime_seconds", now() - started_},
                           {"running", seen.running},
                           {"waiting", seen.waiting},
                           {"finished", seen.finished},
                           {"tokens_per_second", rate_.per_second()},
                           {"tokens", seen.tokens},
                           {"prompt_tokens", seen.prompt_tokens},
                           {"cached_tokens", seen.reused_tokens},
                           {"cached_tokens_from_disk", seen.from_disk_tokens},
                           {"cache_disk_bytes", options_.store ? options_.store->counters().bytes : 0},
                           {"resident_bytes", resident_bytes()},
                           {"conversation_bytes", seen.state_bytes + seen.resting_bytes},
                           {"conversation_bytes_limit", options_.limits.kv_bytes}},
              id);
  }
  void card(const HttpRequest&, const std::shared_ptr<HttpReply>& reply, const std::string& id) {
    if (options_.card.empty()) return send_error(*reply, {.status = 404, .message = "The model has no card"}, id);
    Headers headers = common_headers(id);
    headers.emplace_back("content-type", "text/plain; charset=utf-8");
    reply->send(200, std::move(headers), options_.card);
  }
  void tokenize(const HttpRequest& request, const std::shared_ptr<HttpReply>& reply, const std::string& id) {
    const auto body = body_of(request, *reply, id);
    if (!body) return;
    Prompt prompt;
    if (const json::Value* given = body->find("prompt"); given && given->is_string()) {
      prompt.text = given->as_string();
      prompt.at_least = prompts_.too_many(prompt.text.size());
      if (prompt.at_least == 0) prompt.ids = tokenizer_.encode(prompt.text);
    } else {
      json::Value with_model = *body;
      if (with_model.is_object() && !with_model.find("model")) with_model.set("model", options_.rules.model);
      const auto read = read_chat_request(with_model, options_.rules);
      if (const auto* error = std::get_if<ApiError>(&read)) return send_error(*reply, *error, id);
      auto made = prompt_of(request, std::get<Turn>(read));
      if (const auto* error = std::get_if<ApiError>(&made)) return send_error(*reply, *error, id);
      prompt = std::get<Prompt>(std::move(made));
    }
    if (prompt.at_least > 0) return send_error(*reply, too_long(ErrorStyle::kOpenAi, prompt, 0), id);
    json::Array tokens;
    for (const TokenId token : prompt.ids) tokens.emplace_back(static_cast<int64_t>(token));
    const auto count = static_cast<int64_t>(prompt.ids.size());
    send_json(*reply, 200, json::Object{{"count", count}, {"tokens", std::move(tokens)}, {"text", prompt.text}}, id);
  }
  void detokenize(const HttpRequest& request, const std::shared_ptr<HttpReply>& reply, const std::string& id) {
    const auto body = body_of(request, *reply, id);
    if (!body) return;
    const json::Value* tokens = body->find("tokens");
    if (!tokens || !tokens->is_array()) return send_error(*reply, invalid("missing field `tokens`", "tokens"), id);
    if (const auto n = static_cast<int64_t>(tokens->as_array().size()); n > decoder_.max_tokens())
      return send_error(
          *reply, invalid(fmt::format("tokens: expected at most {} ids, found {}", decoder_.max_tokens(), n), "tokens"),
          id);
    std::vector<TokenId> ids;
    for (const json::Value& token : tokens->as_array()) {
      const auto value = token.is_number() ? token.to_int64() : std::nullopt;
      if (!value || *value < 0 || *value >= decoder_.vocab_size())
        return send_error(*reply, invalid(fmt::format("tokens: expected ids from 0 to {}", decoder_.vocab_size() - 1)),
                          id);
      ids.push_back(static_cast<TokenId>(*value));
    }
    send_json(*reply, 200, json::Object{{"text", tokenizer_.decode(ids)}}, id);
  }

  engine::Decoder& decoder_;
  const text::Tokenizer& tokenizer_;
  const ServerOptions options_;
  const PromptMaker prompts_;
  Constraints constraints_;  // the server's thread
  Metrics metrics_;          // before what reports to it, as accounts
  const std::unique_ptr<Accounts> accounts_;
  ReplayMemory replays_memory_;
  ReplyContext replies_;
  std::unique_ptr<HttpServer> http_;  // before the scheduler: replies that it still holds live on its thread
  Scheduler scheduler_;
  std::vector<std::weak_ptr<Reply>> open_;  // the server's thread
  double stop_at_ = 0;
  int ticks_ = 0, idle_ticks_ = 0;
  const double started_ = now();
  Rate rate_;
  std::atomic<bool> stopping_{false};

  std::mutex mutex_;
  std::condition_variable work_;
  bool has_work_ = false, over_ = false;

  Worker worker_{kMostLarge};  // last: its jobs use the others
};

}  // namespace

Result<std::unique_ptr<Server>> Server::open(engine::Decoder& decoder, const text::Tokenizer& tokenizer,
                                             const ServerOptions& options, std::unique_ptr<Accounts> accounts) {
  if (!accounts) accounts = HADAL_TRY(Accounts::open({}));
  auto server = std::make_unique<ServerImpl>(decoder, tokenizer, options, std::move(accounts));
  HADAL_TRY(server->listen());
  return std::unique_ptr<Server>(std::move(server));
}

}  // namespace hadal::serve
