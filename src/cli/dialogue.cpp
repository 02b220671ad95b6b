#include "cli/dialogue.h"

#include <fmt/format.h>
#include <signal.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <atomic>
#include <random>

#include "cli/model_option.h"
#include "cli/terminal.h"
#include "sample/stop.h"
#include "text/stream_parser.h"
#include "text/templates.h"

namespace hadal::cli {
namespace {

std::atomic<bool> g_interrupted{false};
std::atomic<engine::Session*> g_session{nullptr};

void on_interrupt(int) {
  g_interrupted.store(true);
  if (engine::Session* session = g_session.load()) session->stop();
}

constexpr const char* kThinkNames[] = {"off", "low", "high", "max"};

}  // namespace

void install_interrupt_handler() {
  struct sigaction action = {};
  action.sa_handler = on_interrupt;  // no SA_RESTART: reading a line must return
  sigaction(SIGINT, &action, nullptr);
}
bool interrupted() { return g_interrupted.load(); }
void clear_interrupt() { g_interrupted.store(false); }

Result<Think> think_by_name(const std::string& name) {
  for (int i = 0; i < 4; ++i)
    if (name == kThinkNames[i]) return static_cast<Think>(i);
  return Error{Code::kInvalid, "thinking: expected off, low, high or max, found " + name};
}
const char* think_name(Think think) { return kThinkNames[static_cast<int>(think)]; }

// A check whose rule does not crowd the help.
static CLI::Validator quiet(CLI::Validator validator) { return validator.description(""); }

void add_model_options(CLI::App& command, ModelOptions& o) {
  const auto option = [&](const char* names, auto& value, const char* type, const char* help) {
    return command.add_option(names, value, help)->type_name(type);
  };
  add_model_option(command, o.model);
  option("--think", o.think, "HOW", "off, low, high or max (high)")
      ->check(quiet(CLI::IsMember({"off", "low", "high", "max"})));
  option("-n,--max-tokens", o.max_tokens, "N", "at most so many tokens")->check(quiet(CLI::PositiveNumber));
  option("--temp", o.temperature, "T", "temperature, 0: greedy (the model's)")->check(quiet(CLI::Range(0.0, 100.0)));
  option("--top-p", o.top_p, "P", "likeliest tokens that sum to P (the model's)")->check(quiet(CLI::Range(0.0, 1.0)));
  option("--top-k", o.top_k, "K", "the K likeliest tokens (all)")->check(quiet(CLI::NonNegativeNumber));
  option("--min-p", o.min_p, "P", "tokens from P times the likeliest's share on")->check(quiet(CLI::Range(0.0, 1.0)));
  option("--repetition-penalty", o.repetition_penalty, "R", "divides what was seen (1)");
  option("--frequency-penalty", o.frequency_penalty, "F", "per earlier use (0)");
  option("--presence-penalty", o.presence_penalty, "F", "if used before (0)");
  option("--seed", o.seed, "N", "same seed, same text")->check(quiet(CLI::NonNegativeNumber));
  option("--stop", o.stop, "TEXT", "end before this text; may be repeated");
  option("--threads", o.threads, "N", "(one per core)")->check(quiet(CLI::Range(1, 1024)));
  option("--chunk", o.chunk, "N", "prompt tokens per call (512)")->check(quiet(CLI::Range(1, 65536)));
  option("--numerics", o.numerics, "NAME", "faithful or exact (faithful)")
      ->check(quiet(CLI::IsMember({"faithful", "exact"})));
  option("--isa", o.isa, "NAME", "reference, avx2, avx512 or auto (auto)")
      ->check(quiet(CLI::IsMember({"reference", "avx2", "avx512", "auto"})));
  option("--encoding", o.encoding, "NAME", "v4, v4-0731 or auto (auto)")
      ->check(quiet(CLI::IsMember({"v4", "v4-0731", "auto"})));
}

Result<std::unique_ptr<Dialogue>> Dialogue::open(const ModelOptions& options) {
  std::unique_ptr<Dialogue> dialogue(new Dialogue);
  dialogue->options_ = options;
  // Before the weights: without a tokenizer there is nothing to say.
  if (is_directory(options.model) && !file_exists(options.model + "/tokenizer.json"))
    return Error{Code::kNotFound,
                 options.model + ": expected a tokenizer.json (verify and bench do without), found none"};
  ProgressBar bar("loading weights");
  engine::OpenProgress progress;
  progress.plan = [](const checkpoint::Plan& plan) {
    if (plan.verdict == checkpoint::Plan::Verdict::kPages || stderr_is_terminal())
      fmt::print(stderr, "{}\n", plan.sentence);
  };
  progress.warm_up = [&bar](int64_t done, int64_t total) { bar.update(done, total); };
  progress.cancel = &g_interrupted;
  dialogue->engine_ =
      HADAL_TRY(engine::Engine::open({.model = options.model,
                                      .numerics = options.numerics == "exact" ? Numerics::kExact : Numerics::kFaithful,
                                      .isa = options.isa,
                                      .threads = options.threads},
                                     progress));
  bar.clear();
  dialogue->tokenizer_ = std::make_unique<text::Tokenizer>(HADAL_TRY(text::Tokenizer::load(options.model)));
  if (dialogue->tokenizer_->size() > dialogue->engine_->config().vocab_size)
    return Error{Code::kCorrupt,
                 fmt::format("{}/tokenizer.json: expected at most {} tokens (vocab_size), found {}", options.model,
                             dialogue->engine_->config().vocab_size, dialogue->tokenizer_->size())};
  dialogue->encoding_ = options.encoding == "auto" ? HADAL_TRY(text::encoding_of_checkpoint(options.model))
                                                   : HADAL_TRY(text::encoding_by_name(options.encoding));
  for (const char* name : text::kTurnStarts)
    if (const auto id = dialogue->tokenizer_->id_of(name)) dialogue->turn_ends_.push_back(*id);
  dialogue->session_ = std::make_unique<engine::Session>(*dialogue->engine_);
  const auto& defaults = dialogue->engine_->defaults();
  sample::Options& s = dialogue->sampling_;
  s.temperature = options.temperature >= 0 ? options.temperature : defaults.temperature;
  s.top_p = options.top_p >= 0 ? options.top_p : defaults.top_p;
  s.top_k = options.top_k;
  s.min_p = options.min_p;
  s.repetition_penalty = options.repetition_penalty;
  s.frequency_penalty = options.frequency_penalty;
  s.presence_penalty = options.presence_penalty;
  if (options.seed >= 0) s.seed = static_cast<uint64_t>(options.seed);
  HADAL_TRY(sample::check(s));
  return dialogue;
}

Result<Dialogue::Answer> Dialogue::answer(const json::Array& messages, Think think, const Sink& sink) {
  text::EncodeOptions options;
  options.encoding = encoding_;
  options.thinking_mode = think == Think::kOff ? "chat" : "thinking";
  const bool is_0731 = encoding_ == text::Encoding::kV4_0731;
  if (think == Think::kMax || think == Think::kHigh || (think == Think::kLow && is_0731))
    options.reasoning_effort = think_name(think);
  const auto encoded = text::encode_prompt(messages, options);
  if (const auto* error = std::get_if<text::EncodeError>(&encoded)) return Error{Code::kInvalid, error->message};
  const auto& prompt = std::get<text::EncodedPrompt>(encoded);
  // The header begins with a special token, so the ids of both parts are those of the whole.
  const std::string_view whole(prompt.text);
  std::vector<TokenId> ids = tokenizer_->encode(whole.substr(0, prompt.header_begin));
  const int64_t header_at = static_cast<int64_t>(ids.size());
  for (const TokenId id : tokenizer_->encode(whole.substr(prompt.header_begin))) ids.push_back(id);
  return generate(ids, header_at, true, think != Think::kOff, sink);
}

Result<Dialogue::Answer> Dialogue::complete(const std::string& text, const Sink& sink) {
  const std::vector<TokenId> ids = tokenizer_->encode(text);
  if (ids.empty()) return Error{Code::kInvalid, "prompt: expected some text, found none"};
  return generate(ids, 0, false, false, sink);
}

Result<Dialogue::Answer> Dialogue::generate(const std::vector<TokenId>& ids, int64_t header_at, bool parse,
                                            bool thinking, const Sink& sink) {
  Answer answer;
  // Without --seed no two answers are alike, not even to the same question after /reset.
  if (options_.seed < 0) sampling_.seed = std::random_device{}();
  text::StreamParser parser(thinking);
  text::IncrementalDecoder decoder(*tokenizer_);
  sample::StopMatcher stops(options_.stop);
  const auto show = [&](bool is_reasoning, const std::string& text) {
    if (text.empty()) return;
    (is_reasoning ? answer.reasoning : answer.content) += text;
    sink(is_reasoning, text);
  };
  const auto show_deltas = [&](const std::vector<text::Delta>& deltas) {
    for (const text::Delta& delta : deltas) {
      if (delta.kind == text::Delta::Kind::kReasoning) show(true, delta.text);
      if (delta.kind == text::Delta::Kind::kContent) show(false, delta.text);
    }
  };
  const auto take = [&](const std::string& text) {
    if (parse) {
      show_deltas(parser.feed(text));
    } else {
      show(false, text);
    }
  };
  ProgressBar bar("reading prompt");
  const engine::GenerateOptions options{
      .sampling = sampling_,
      .max_tokens = options_.max_tokens,
      .chunk = options_.chunk,
      .header_at = header_at,
      .prefill =
          [&](int64_t done, int64_t total) {
            bar.update(done, total);
            if (done == total) bar.clear();
          },
      .token =
          [&](const sample::Choice& choice) {
            if (parse && std::find(turn_ends_.begin(), turn_ends_.end(), choice.token) != turn_ends_.end())
              return false;
            take(stops.feed(decoder.feed(choice.token)));
            return !stops.stopped();
          }};
  g_session.store(session_.get());
  auto completion = session_->generate(ids, options);
  g_session.store(nullptr);
  if (!completion.ok()) return completion.error();
  answer.completion = std::move(completion).value();
  answer.ids = ids;
  answer.ids.insert(answer.ids.end(), answer.completion.tokens.begin(), answer.completion.tokens.end());
  if (!stops.stopped()) {
    take(stops.feed(decoder.finish()));
    if (!stops.stopped()) take(stops.finish());
  }
  if (parse) {
    std::vector<text::Delta> rest;
    const bool ended = answer.completion.finish == engine::Finish::kStop && !stops.stopped();
    if (ended) parser.feed(text::kEos);
    const auto message = ended ? parser.finish(rest) : text::ParseError{};
    if (const auto* whole = std::get_if<text::AssistantMessage>(&message)) {
      answer.tool_calls = whole->tool_calls;
      show_deltas(rest);
    } else {
      show_deltas(parser.cut());
    }
  }
  return answer;
}

std::string Dialogue::statistics(const engine::Completion& c) {
  const auto rate = [](int64_t n, double seconds) { return seconds > 0 ? static_cast<double>(n) / seconds : 0.0; };
  const int64_t read = c.prompt_tokens - c.reused_tokens, n = static_cast<int64_t>(c.tokens.size());
  std::string text = fmt::format("prompt {} tokens", c.prompt_tokens);
  if (c.reused_tokens > 0) text += fmt::format(" ({} kept)", c.reused_tokens);
  text += fmt::format(", {:.1f}/s; answer {} tokens, {:.1f}/s", rate(read, c.prefill_s), n, rate(n, c.decode_s));
  if (c.finish == engine::Finish::kLength) text += "; stopped at the limit";
  if (c.finish == engine::Finish::kCancelled) text += "; stopped";
  return text;
}

}  // namespace hadal::cli
