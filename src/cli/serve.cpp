// hadal serve: a model behind the DeepSeek API.

#include <fmt/format.h>
#include <signal.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <memory>

#include "checkpoint/plan.h"
#include "checkpoint/summary.h"
#include "cli/cache_option.h"
#include "cli/commands.h"
#include "cli/model_option.h"
#include "cli/terminal.h"
#include "engine/engine.h"
#include "serve/server.h"

namespace hadal::cli {
namespace {

struct ServeOptions {
  std::string model, host = "127.0.0.1", isa = "auto", encoding = "auto";
  int port = 8080, threads = 0;
  double kv_gib = 0;
  serve::Limits limits;
  serve::RequestRules rules;
  serve::AccountOptions accounts;
  std::string tls_certificate, tls_key;
  bool no_keep_alive = false, log_prompts = false;
  double drain_seconds = 30;
  CacheOptions cache;
};

std::atomic<serve::Server*> g_server{nullptr};

void on_signal(int) {
  if (serve::Server* server = g_server.load()) server->stop();
}

Result<int> run_serve(ServeOptions options) {
  if (options.accounts.keys.empty() && options.host != "127.0.0.1" && options.host != "::1")
    return Error{
        Code::kUnsupported,
        fmt::format("--host {}: expected 127.0.0.1 or ::1, or --keys FILE, which keeps others out", options.host)};
  options.rules.model = std::filesystem::weakly_canonical(options.model).filename().string();
  options.accounts.model = options.rules.model;
  // What is wrong with these is said before weights are read.
  auto accounts = HADAL_TRY(serve::Accounts::open(options.accounts));
  if (accounts->is_granted() && !accounts->has_prices())
    fmt::print(stderr, "hadal: keys have balances, but without --price-table nothing costs\n");
  serve::ServerOptions server_options;
  server_options.http.tls_certificate = options.tls_certificate;
  server_options.http.tls_key = options.tls_key;
  HADAL_TRY(serve::check_tls(server_options.http));
  if (options.tls_key.empty() && options.host != "127.0.0.1" && options.host != "::1")
    fmt::print(stderr, "hadal: without TLS (--tls-cert, or a proxy) keys can be read on their way\n");
  const auto tokenizer = HADAL_TRY(text::Tokenizer::load(options.model));
  ProgressBar bar("loading weights");
  engine::OpenProgress progress;
  progress.plan = [](const checkpoint::Plan& plan) { fmt::print(stderr, "{}\n", plan.sentence); };
  progress.warm_up = [&bar](int64_t done, int64_t total) { bar.update(done, total); };
  const auto engine = HADAL_TRY(
      engine::Engine::open({.model = options.model, .isa = options.isa, .threads = options.threads}, progress));
  bar.clear();

  server_options.http.host = options.host;
  server_options.http.port = static_cast<uint16_t>(options.port);
  server_options.limits = options.limits;
  server_options.limits.kv_bytes =
      options.kv_gib > 0 ? static_cast<int64_t>(options.kv_gib * (1 << 30)) : checkpoint::available_memory() / 2;
  server_options.rules = options.rules;
  server_options.keep_alive = !options.no_keep_alive;
  server_options.log_prompts = options.log_prompts;
  server_options.drain_seconds = options.drain_seconds;
  server_options.encoding = options.encoding == "auto" ? HADAL_TRY(text::encoding_of_checkpoint(options.model))
                                                       : HADAL_TRY(text::encoding_by_name(options.encoding));
  server_options.version = "hadal 0.1.0";
  // Changes when answers may: with the checkpoint, or with the arithmetic (docs/numerics.md).
  server_options.fingerprint = "fp_" + HADAL_TRY(checkpoint::sampled_fingerprint(options.model)).substr(0, 8) +
                               fmt::format("{:02x}", engine::kArithmeticVersion);
  server_options.temperature = engine->defaults().temperature;
  server_options.top_p = engine->defaults().top_p;
  if (auto card = read_file(options.model + "/README.md", 1 << 20); card.ok())
    server_options.card = std::move(card).value();
  const auto store = HADAL_TRY(open_store(options.cache, *engine, options.model));
  server_options.store = store.get();
  const auto server = HADAL_TRY(serve::Server::open(*engine, tokenizer, server_options, std::move(accounts)));
  g_server.store(server.get());
  signal(SIGPIPE, SIG_IGN);
  signal(SIGINT, on_signal);
  signal(SIGTERM, on_signal);
  const bool is_v6 = options.host.find(':') != std::string::npos;
  const std::string host = options.host == "0.0.0.0" ? "127.0.0.1" : options.host == "::" ? "::1" : options.host;
  const std::string url = fmt::format("{}://{}{}{}:{}", options.tls_key.empty() ? "http" : "https", is_v6 ? "[" : "",
                                      host, is_v6 ? "]" : "", server->port());
  const char* const key = options.accounts.keys.empty() ? "local" : "sk-...";
  fmt::print(
      "{} serves {}; Ctrl-C ends it\n"
      "  Browsers:          {}/\n"
      "  OpenAI clients:    export OPENAI_BASE_URL={}/v1 OPENAI_API_KEY={}\n"
      "  Anthropic clients: export ANTHROPIC_BASE_URL={}/anthropic ANTHROPIC_AUTH_TOKEN={}\n",
      url, server_options.rules.model, url, url, key, url, key);
  std::fflush(stdout);
  server->run();
  g_server.store(nullptr);
  return 0;
}

}  // namespace

void add_serve(CLI::App& app, int& exit_status) {
  CLI::App* command = app.add_subcommand("serve", "Serve the DeepSeek API");
  auto options = std::make_shared<ServeOptions>();
  const auto option = [&](const char* names, auto& value, const char* type, const char* help) {
    return command->add_option(names, value, help)->type_name(type);
  };
  add_model_option(*command, options->model);
  option("--host", options->host, "IP", "address to listen on (127.0.0.1)");
  option("--port", options->port, "N", "0: any free one (8080)")->check(CLI::Range(0, 65535))->default_str("");
  // An empty name would be none: keys, say, that a shell's unset variable should have named.
  const CLI::Validator named([](std::string& path) { return path.empty() ? "expected a file" : std::string(); }, "");
  option("--keys", options->accounts.keys, "FILE", "who may ask (hadal key); without, loopback only")->check(named);
  CLI::Option* prices =
      option("--price-table", options->accounts.prices, "FILE", "what tokens cost (models/prices.json)")->check(named);
  option("--price-as", options->accounts.price_as, "NAME", "a model of that table (the served one)")->needs(prices);
  option("--ledger", options->accounts.ledger, "FILE", "a SQLite file of what was asked (hadal usage)")->check(named);
  CLI::Option* certificate =
      option("--tls-cert", options->tls_certificate, "FILE", "HTTPS: a certificate with its chain, PEM");
  CLI::Option* tls_key = option("--tls-key", options->tls_key, "FILE", "and its private key, PEM");
  certificate->needs(tls_key);
  tls_key->needs(certificate);
  option("--threads", options->threads, "N", "(one per core)")->check(CLI::Range(1, 1024));
  option("--max-running", options->limits.max_running, "N", "answers at once (16)")->check(CLI::Range(1, 4096));
  option("--max-queue", options->limits.max_waiting, "N", "requests that wait (64)")->check(CLI::Range(1, 65536));
  option("--max-concurrency-per-key", options->limits.max_per_key, "N", "(no limit)")->check(CLI::Range(0, 65536));
  option("--kv-gib", options->kv_gib, "G", "memory of conversations (half of what is free)")
      ->check(CLI::Range(0.0, 1e6))
      ->check(CLI::PositiveNumber);
  add_cache_options(*command, options->cache);
  command->add_flag("--cache-shared", options->limits.share_cache, "between all keys and users");
  option("--drain-seconds", options->drain_seconds, "S", "at the end, for answers that run (30)")
      ->check(CLI::NonNegativeNumber);
  option("--isa", options->isa, "NAME", "reference, avx2, avx512 or auto");
  option("--encoding", options->encoding, "NAME", "v4, v4-0731 or auto");
  command->add_flag("--strict-compat", options->rules.strict, "refuse what DeepSeek refuses");
  command->add_flag("--accept-any-model", options->rules.any_model, "every model name is this one");
  command->add_flag("--repair-history", options->rules.repair_history, "missing tool results are empty ones");
  command->add_flag("--clamp-max-tokens", options->rules.clamp_max_tokens, "too large a max_tokens is the largest");
  command->add_flag("--log-prompts", options->log_prompts, "what clients ask, to stderr");
  command->add_flag("--no-keepalive", options->no_keep_alive, "no comments while an answer is on its way");
  command->callback([options, &exit_status] {
    const auto status = run_serve(*options);
    exit_status = status.ok() ? status.value() : report_failure(status.error());
  });
}

}  // namespace hadal::cli
