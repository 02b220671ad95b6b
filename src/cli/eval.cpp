// hadal eval: held-out tasks and texts through the engine, with intervals.

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <map>
#include <memory>
#include <optional>
#include <tuple>

#include "base/file.h"
#include "cli/commands.h"
#include "cli/model_option.h"
#include "cli/terminal.h"
#include "data/family.h"
#include "eval/endpoint.h"
#include "eval/runner.h"
#include "eval/statistics.h"
#include "eval/task_file.h"
#include "eval/texts.h"

namespace hadal::cli {
namespace {

struct EvalCommand {
  std::string model, isa = "auto", numerics = "faithful", file, transcripts, perplexity, reproduction, languages,
                     by = "kind", split = "test", url, key, api_model = "deepseek-v4-flash";
  std::vector<std::string> tasks, modes = {"plain", "high", "max"};
  int count = 10, side_by_side = 16, threads = 0, timeout = 600;
  int64_t max_tokens = 1024, prefix = 64, length = 128, longest = 4096;
  uint64_t seed = 1;
  double temperature = 0;
  bool json = false;
};

// What of a trial has not been trained on.
enum class HeldOut { kInstance, kPhrasing, kEnvironment, kDifficulty, kFile };
constexpr const char* kHeldOutNames[] = {"instance", "phrasing", "environment", "difficulty", "own file"};

struct Labelled {
  eval::Trial trial;
  std::string kind;
  HeldOut held_out = HeldOut::kInstance;
};

// Of every family that `wanted` names (by id or kind; all if empty): `count` tasks of the split per held-out class.
Result<std::vector<Labelled>> held_out_trials(const EvalCommand& command) {
  const data::Split split = HADAL_TRY(data::split_by_name(command.split));
  std::vector<Labelled> trials;
  std::vector<bool> used(command.tasks.size(), false);
  for (const data::Family& family : data::families()) {
    bool wanted = command.tasks.empty();
    for (size_t i = 0; i < command.tasks.size(); ++i)
      if (command.tasks[i] == family.id || command.tasks[i] == family.kind) wanted = used[i] = true;
    if (!wanted) continue;
    for (const HeldOut held_out :
         {family.held_out ? HeldOut::kEnvironment : HeldOut::kInstance, HeldOut::kPhrasing, HeldOut::kDifficulty}) {
      const bool harder = held_out == HeldOut::kDifficulty;
      if (harder && family.hardest <= family.trained) continue;
      if (held_out == HeldOut::kPhrasing && family.held_out) continue;
      for (int i = 0; i < command.count; ++i) {
        const int difficulty =
            harder ? family.trained + 1 + i % (family.hardest - family.trained) : i % (family.trained + 1);
        const auto task = HADAL_TRY(data::make_task({.environment = family.id,
                                                     .split = split,
                                                     .seed = command.seed * 1000003 + static_cast<uint64_t>(i),
                                                     .difficulty = difficulty,
                                                     .new_phrasing = held_out == HeldOut::kPhrasing}));
        for (const std::string& mode : command.modes)
          trials.push_back({{task, HADAL_TRY(data::mode_by_name(mode))}, family.kind, held_out});
      }
    }
  }
  for (size_t i = 0; i < used.size(); ++i)
    if (!used[i])
      return Error{Code::kNotFound, fmt::format("--tasks {}: no such environment or kind; hadal data list shows them",
                                                command.tasks[i])};
  return trials;
}

Result<std::vector<Labelled>> file_trials(const EvalCommand& command) {
  std::vector<Labelled> trials;
  for (const data::Task& task : HADAL_TRY(eval::read_task_file(command.file)))
    for (const std::string& mode : command.modes)
      trials.push_back({{task, HADAL_TRY(data::mode_by_name(mode))}, task.key.environment, HeldOut::kFile});
  return trials;
}

struct Row {
  eval::Share solved, well_formed, valid_calls, valid_json;
  int64_t tokens = 0;

  void add(const eval::Outcome& outcome) {
    solved.count(outcome.solved);
    well_formed.hits += outcome.well_formed;
    well_formed.n += outcome.messages;
    valid_calls.hits += outcome.valid_calls;
    valid_calls.n += outcome.calls;
    valid_json.hits += outcome.valid_json;
    valid_json.n += outcome.json_answers;
    tokens += outcome.completion_tokens;
  }
};
using Rows = std::map<std::tuple<std::string, HeldOut, data::Mode>, Row>;

std::string percent(const eval::Share& share) { return share.n ? fmt::format("{:.1f} %", 100 * share.value()) : "-"; }

void print_rows(const Rows& rows, int width) {
  fmt::print("{:<{}} {:<11} {:<5} {:>5} {:>8} {:>12} {:>8} {:>7} {:>7} {:>6}\n", "tasks", width, "held out", "mode",
             "n", "solved", "95 %", "well-f.", "calls", "json", "tokens");
  for (const auto& [key, row] : rows) {
    const auto& [name, held_out, mode] = key;
    fmt::print("{:<{}} {:<11} {:<5} {:>5} {:>8} {:>12} {:>8} {:>7} {:>7} {:>6.0f}\n", name, width,
               kHeldOutNames[static_cast<int>(held_out)], data::mode_name(mode), row.solved.n, percent(row.solved),
               fmt::format("{:.1f} - {:.1f}", 100 * row.solved.low(), 100 * row.solved.high()),
               percent(row.well_formed), percent(row.valid_calls), percent(row.valid_json),
               static_cast<double>(row.tokens) / static_cast<double>(row.solved.n));
  }
}

json::Value to_json(const eval::Share& share) {
  return json::Object{
      {"hits", share.hits}, {"n", share.n}, {"share", share.value()}, {"low", share.low()}, {"high", share.high()}};
}

json::Value to_json(const Rows& rows) {
  json::Array out;
  for (const auto& [key, row] : rows) {
    const auto& [name, held_out, mode] = key;
    out.push_back(json::Object{{"tasks", name},
                               {"held_out", kHeldOutNames[static_cast<int>(held_out)]},
                               {"mode", data::mode_name(mode)},
                               {"solved", to_json(row.solved)},
                               {"well_formed", to_json(row.well_formed)},
                               {"valid_calls", to_json(row.valid_calls)},
                               {"valid_json", to_json(row.valid_json)},
                               {"completion_tokens", row.tokens}});
  }
  return out;
}

Status write_transcripts(const std::string& path, const std::vector<Labelled>& trials,
                         const std::vector<eval::Outcome>& outcomes) {
  std::FILE* file = std::fopen(path.c_str(), "wb");
  if (!file) return Error{Code::kIo, fmt::format("{}: cannot write: {}", path, std::strerror(errno))};
  bool ok = true;
  for (size_t i = 0; i < trials.size(); ++i) {
    const auto& key = trials[i].trial.task.key;
    const std::string line = json::dump(json::Object{{"environment", key.environment},
                                                     {"seed", std::to_string(key.seed)},
                                                     {"difficulty", key.difficulty},
                                                     {"mode", data::mode_name(trials[i].trial.mode)},
                                                     {"solved", outcomes[i].solved},
                                                     {"reason", outcomes[i].reason},
                                                     {"messages", outcomes[i].transcript}}) +
                             "\n";
    ok = std::fwrite(line.data(), 1, line.size(), file) == line.size() && ok;
  }
  if (std::fclose(file) != 0 || !ok) return Error{Code::kIo, fmt::format("{}: cannot write", path)};
  return {};
}

// The strings under `keys` of every JSON line of a file.
Result<std::vector<std::vector<std::string>>> read_lines(const std::string& path,
                                                         const std::vector<const char*>& keys) {
  const std::string text = HADAL_TRY(read_file(path, int64_t{1} << 31));
  std::vector<std::vector<std::string>> lines;
  size_t number = 0;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    const auto parsed = json::parse(std::string_view(text).substr(begin, end - begin));
    begin = end + 1;
    ++number;
    if (!parsed.ok())
      return Error{Code::kInvalid, fmt::format("{}: line {}: {}", path, number, parsed.error().message)};
    std::vector<std::string> values;
    for (const char* key : keys) {
      const json::Value* value = parsed.value().find(key);
      if (!value || !value->is_string())
        return Error{Code::kInvalid, fmt::format("{}: line {}: expected a string {}, found {}", path, number, key,
                                                 value ? value->kind_name() : "nothing")};
      values.push_back(value->as_string());
    }
    lines.push_back(std::move(values));
  }
  return lines;
}

Result<std::vector<std::string>> read_texts(const std::string& path) {
  std::vector<std::string> texts;
  for (auto& line : HADAL_TRY(read_lines(path, {"text"}))) texts.push_back(std::move(line[0]));
  return texts;
}

Result<std::vector<eval::Outcome>> ask_endpoint(const EvalCommand& command, const std::vector<eval::Trial>& trials,
                                                const eval::RunOptions& options) {
  const auto endpoint = HADAL_TRY(eval::open_endpoint({.url = command.url,
                                                       .key = command.key,
                                                       .model = command.api_model,
                                                       .sampling = options.sampling,
                                                       .max_tokens = options.max_tokens,
                                                       .timeout_s = command.timeout}));
  return eval::run_trials(*endpoint, trials, options);
}

Result<int> evaluate(const EvalCommand& command) {
  const bool texts_only = command.tasks.empty() && command.file.empty() &&
                          !(command.perplexity.empty() && command.reproduction.empty() && command.languages.empty());
  std::vector<Labelled> trials;
  if (!command.file.empty())
    trials = HADAL_TRY(file_trials(command));
  else if (!texts_only)
    trials = HADAL_TRY(held_out_trials(command));
  const bool is_remote = !command.url.empty();
  for (const auto& [name, file] : {std::pair{"--perplexity", &command.perplexity},
                                   {"--reproduction", &command.reproduction},
                                   {"--languages", &command.languages}})
    if (is_remote && !file->empty())
      return Error{Code::kInvalid, fmt::format("{} {}: expected a checkpoint, found --url", name, *file)};
  std::optional<text::Tokenizer> own_tokenizer;
  std::unique_ptr<engine::Engine> engine;
  text::Encoding encoding = text::Encoding::kV4;
  if (!is_remote) {
    own_tokenizer = HADAL_TRY(text::Tokenizer::load(command.model));
    engine = HADAL_TRY(
        engine::Engine::open({.model = command.model,
                              .numerics = command.numerics == "exact" ? Numerics::kExact : Numerics::kFaithful,
                              .isa = command.isa,
                              .threads = command.threads}));
    encoding = HADAL_TRY(text::encoding_of_checkpoint(command.model));
  }
  json::Object report{{"model", is_remote ? command.api_model : command.model}};
  report.emplace_back(is_remote ? "url" : "numerics", is_remote ? command.url : command.numerics);
  report.emplace_back("seed", std::to_string(command.seed));

  if (!trials.empty()) {
    std::vector<eval::Trial> plain;
    for (const Labelled& labelled : trials) plain.push_back(labelled.trial);
    ProgressBar bar("tasks");
    eval::RunOptions options;
    options.sampling = {.temperature = static_cast<float>(command.temperature), .seed = command.seed};
    options.max_tokens = command.max_tokens;
    options.side_by_side = command.side_by_side;
    options.progress = [&](int64_t done, int64_t total) { bar.update(done, total); };
    const auto outcomes = HADAL_TRY(is_remote ? ask_endpoint(command, plain, options)
                                              : eval::run_trials(*engine, *own_tokenizer, encoding, plain, options));
    bar.clear();
    Rows rows;
    size_t width = 10;
    for (size_t i = 0; i < trials.size(); ++i) {
      const data::TaskKey& key = trials[i].trial.task.key;
      const std::string name = command.by == "kind"          ? trials[i].kind
                               : command.by == "environment" ? key.environment
                                                             : fmt::format("{} {}", key.environment, key.difficulty);
      width = std::max(width, name.size());
      rows[{name, trials[i].held_out, trials[i].trial.mode}].add(outcomes[i]);
    }
    if (!command.json) print_rows(rows, static_cast<int>(width));
    report.emplace_back("tasks", to_json(rows));
    if (!command.transcripts.empty()) HADAL_TRY(write_transcripts(command.transcripts, trials, outcomes));
  }
  ProgressBar bar("texts");
  const eval::Progress progress = [&](int64_t done, int64_t total) { bar.update(done, total); };
  if (!command.perplexity.empty()) {
    const auto texts = HADAL_TRY(read_texts(command.perplexity));
    const auto result = HADAL_TRY(eval::perplexity(*engine, *own_tokenizer, texts, command.longest, progress));
    bar.clear();
    if (!command.json)
      fmt::print(
          "perplexity: {} texts, {} tokens: {:.3f} per token, {:.4f} bits per byte, first choice right {:.1f} %\n",
          result.texts, result.tokens, result.per_token(), result.bits_per_byte(),
          result.tokens ? 100.0 * static_cast<double>(result.likeliest) / static_cast<double>(result.tokens) : 0.0);
    report.emplace_back("perplexity", json::Object{{"texts", result.texts},
                                                   {"tokens", result.tokens},
                                                   {"bytes", result.bytes},
                                                   {"per_token", result.per_token()},
                                                   {"bits_per_byte", result.bits_per_byte()},
                                                   {"likeliest", result.likeliest}});
  }
  if (!command.reproduction.empty()) {
    const auto texts = HADAL_TRY(read_texts(command.reproduction));
    const auto result =
        HADAL_TRY(eval::reproduction(*engine, *own_tokenizer, texts, command.prefix, command.length, progress));
    bar.clear();
    if (!command.json)
      fmt::print(
          "reproduction: {} texts after {} of their tokens: longest run {} tokens, {:.2f} % of {} tokens in runs of {} "
          "or more, {} whole\n",
          result.texts, command.prefix, result.longest_run,
          result.tokens ? 100.0 * static_cast<double>(result.in_runs) / static_cast<double>(result.tokens) : 0.0,
          result.tokens, eval::Reproduction::kRun, result.exact);
    report.emplace_back("reproduction", json::Object{{"texts", result.texts},
                                                     {"prefix", command.prefix},
                                                     {"tokens", result.tokens},
                                                     {"longest_run", result.longest_run},
                                                     {"in_runs", result.in_runs},
                                                     {"exact", result.exact}});
  }
  if (!command.languages.empty()) {
    std::vector<eval::LanguagePrompt> prompts;
    for (auto& line : HADAL_TRY(read_lines(command.languages, {"language", "prompt"})))
      prompts.push_back({line[0], line[1]});
    const auto results =
        HADAL_TRY(eval::languages(*engine, *own_tokenizer, encoding, prompts, command.max_tokens, progress));
    bar.clear();
    json::Object languages;
    if (!command.json)
      fmt::print("{:<12} {:>8} {:>12} {:>10} {:>22}\n", "language", "prompts", "well-formed", "tokens",
                 "letters in its script");
    for (const auto& [language, r] : results) {
      const double n = static_cast<double>(r.prompts), letters = static_cast<double>(std::max<int64_t>(1, r.letters));
      if (!command.json)
        fmt::print("{:<12} {:>8} {:>10.1f} % {:>10.1f} {:>20.1f} %\n", language, r.prompts,
                   100.0 * static_cast<double>(r.well_formed) / n, static_cast<double>(r.tokens) / n,
                   100.0 * static_cast<double>(r.in_script) / letters);
      languages.emplace_back(language, json::Object{{"prompts", r.prompts},
                                                    {"well_formed", r.well_formed},
                                                    {"tokens", r.tokens},
                                                    {"letters", r.letters},
                                                    {"in_script", r.in_script}});
    }
    report.emplace_back("languages", std::move(languages));
  }
  if (command.json) fmt::print("{}\n", json::dump(json::Value(std::move(report))));
  return 0;
}

}  // namespace

void add_eval(CLI::App& app, int& exit_status) {
  CLI::App* command = app.add_subcommand("eval", "Measure a model on held-out tasks and on texts");
  auto o = std::make_shared<EvalCommand>();
  const auto option = [&](const char* names, auto& value, const char* type, const char* help) {
    return command->add_option(names, value, help)->type_name(type)->capture_default_str();
  };
  const auto one_of = [](std::vector<std::string> names) { return CLI::IsMember(std::move(names)).description(""); };
  add_model_option(*command, o->model);
  option("--url", o->url, "URL", "ask this endpoint (https://HOST/v1) instead of a checkpoint");
  option("--key", o->key, "KEY", "its key")->envname("HADAL_API_KEY")->default_str("");
  option("--api-model", o->api_model, "NAME", "the model's name there");
  option("--timeout", o->timeout, "S", "of an answer from there")->check(CLI::Range(1, 86400).description(""));
  option("--tasks", o->tasks, "NAME ...", "environments or kinds (hadal data list); all")->delimiter(',');
  option("--file", o->file, "FILE", "your own tasks (JSON lines, docs/evaluation.md) instead");
  option("--mode", o->modes, "MODE ...", "plain, high, max")->delimiter(',')->check(one_of({"plain", "high", "max"}));
  option("--split", o->split, "SPLIT", "train, dev or test")->check(one_of({"train", "dev", "test"}));
  option("--count", o->count, "N", "tasks of an environment")->check(CLI::Range(1, 1000000).description(""));
  option("--seed", o->seed, "N", "same seed, same tasks");
  option("--by", o->by, "WHAT", "rows: kind, environment or difficulty (of each environment)")
      ->check(one_of({"kind", "environment", "difficulty"}));
  option("--transcripts", o->transcripts, "FILE", "write every conversation (JSON lines)");
  option("--perplexity", o->perplexity, "FILE", "texts (JSON lines with text): bits per byte");
  option("--reproduction", o->reproduction, "FILE", "training texts: how much comes back verbatim");
  option("--prefix", o->prefix, "N", "tokens given of each text")->check(CLI::Range(1, 1000000).description(""));
  option("--length", o->length, "N", "tokens compared after them")->check(CLI::Range(1, 1000000).description(""));
  option("--longest", o->longest, "N", "perplexity reads so many tokens of a text")
      ->check(CLI::Range(2, 1048576).description(""));
  option("--languages", o->languages, "FILE", "prompts (JSON lines with language, prompt)");
  option("--temp", o->temperature, "T", "0: greedy")->check(CLI::Range(0.0, 100.0).description(""));
  option("-n,--max-tokens", o->max_tokens, "N", "of an answer")->check(CLI::Range(1, 1048576).description(""));
  option("--side-by-side", o->side_by_side, "N", "conversations at once")->check(CLI::Range(1, 4096).description(""));
  option("--numerics", o->numerics, "NAME", "faithful or exact")->check(one_of({"faithful", "exact"}));
  option("--isa", o->isa, "NAME", "reference, avx2, avx512 or auto")
      ->check(one_of({"reference", "avx2", "avx512", "auto"}));
  option("--threads", o->threads, "N", "0: one per core")->check(CLI::Range(0, 1024).description(""));
  command->add_flag("--json", o->json, "one JSON object");
  command->callback([o, &exit_status] {
    const auto status = evaluate(*o);
    exit_status = status.ok() ? status.value() : report_failure(status.error());
  });
}

}  // namespace hadal::cli
