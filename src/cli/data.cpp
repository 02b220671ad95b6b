// hadal data: the synthetic tasks that hadal-nano is trained and judged on.

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>
#include <optional>

#include "base/thread_pool.h"
#include "cli/commands.h"
#include "data/check.h"
#include "data/mixture.h"

namespace hadal::cli {
namespace {

using namespace hadal::data;
using json::Value;

int report(const Error& error) {
  fmt::print(stderr, "hadal data: {}\n", error.message);
  return 1;
}
void print_line(const Value& value) { fmt::print("{}\n", json::dump(value, json::kCompact)); }

int list(bool as_json) {
  size_t held_out = 0, tools = 0;
  if (!as_json) fmt::print("{:<28} {:<7} {:<9} {:>7} {:>7}\n", "id", "kind", "role", "trained", "hardest");
  for (const Family& family : families()) {
    const char* role = family.held_out ? "held-out" : "train";
    held_out += family.held_out;
    tools += family.kind == "tool";
    if (as_json)
      print_line(json::Object{{"id", family.id},
                              {"kind", family.kind},
                              {"role", role},
                              {"trained", family.trained},
                              {"hardest", family.hardest},
                              {"chance_percent", family.chance}});
    else
      fmt::print("{:<28} {:<7} {:<9} {:>7} {:>7}\n", family.id, family.kind, role, family.trained, family.hardest);
  }
  if (!as_json)
    fmt::print("{} environments: {} with tools, {} without; {} held out\n", families().size(), tools,
               families().size() - tools, held_out);
  return 0;
}

// Lines of at most 78 columns under an indent of two, broken at blanks where there are any.
void print_wrapped(std::string_view text) {
  constexpr size_t kWidth = 78;
  for (size_t begin = 0; begin <= text.size();) {
    size_t end = std::min(text.find('\n', begin), text.size());
    size_t next = end + 1;
    if (end - begin > kWidth) {
      const size_t blank = text.rfind(' ', begin + kWidth);
      const bool breaks = blank != std::string_view::npos && blank > begin;
      end = breaks ? blank : begin + kWidth;
      next = breaks ? blank + 1 : end;
    }
    fmt::print("  {}\n", text.substr(begin, end - begin));
    begin = next;
  }
}

void print_message(const Value& message) {
  const auto text_of = [&](std::string_view key) {
    const Value* value = message.find(key);
    return value && value->is_string() ? value->as_string() : std::string();
  };
  fmt::print("{}\n", text_of("role"));
  if (const std::string reasoning = text_of("reasoning_content"); !reasoning.empty())
    print_wrapped("<think> " + reasoning);
  if (const std::string content = text_of("content"); !content.empty()) print_wrapped(content);
  if (const Value* tools = message.find("tools"))
    for (const Value& tool : tools->as_array()) {
      const Value& function = *tool.find("function");
      std::string parameters;
      for (const auto& [name, schema] : function.find("parameters")->find("properties")->as_object())
        parameters += fmt::format("{}{}: {}", parameters.empty() ? "" : ", ", name, schema.find("type")->as_string());
      print_wrapped(fmt::format("tool {}({}): {}", function.find("name")->as_string(), parameters,
                                function.find("description")->as_string()));
    }
  if (const Value* format = message.find("response_format")) print_wrapped("format " + json::dump(*format));
  if (const Value* calls = message.find("tool_calls"))
    for (const Value& call : calls->as_array()) {
      const Value& function = *call.find("function");
      print_wrapped(
          fmt::format("call {} {}", function.find("name")->as_string(), function.find("arguments")->as_string()));
    }
}

int show(const TaskKey& key, Mode mode, bool as_json, bool raw) {
  const auto made = make_task(key);
  if (!made.ok()) return report(made.error());
  const Task& task = made.value();
  const Played played = play_solution(task, mode);
  if (raw) {
    fmt::print("{}\n", render(task, mode, Form::kSft).text);
    return played.verdict.pass ? 0 : 1;
  }
  if (as_json) {
    print_line(json::Object{{"id", key.environment},
                            {"split", split_name(key.split)},
                            {"seed", static_cast<int64_t>(key.seed)},
                            {"difficulty", key.difficulty},
                            {"mode", mode_name(mode)},
                            {"instance", task.instance},
                            {"messages", played.messages},
                            {"pass", played.verdict.pass},
                            {"reason", played.verdict.reason}});
    return played.verdict.pass ? 0 : 1;
  }
  fmt::print("{} · {} · seed {} · difficulty {} · {}\n", key.environment, split_name(key.split), key.seed,
             key.difficulty, mode_name(mode));
  for (const Value& message : played.messages) print_message(message);
  fmt::print("verdict: {}\n", played.verdict.pass ? "pass" : "FAIL: " + played.verdict.reason);
  return played.verdict.pass ? 0 : 1;
}

struct WriteArguments {
  std::string mixture = "base", corpus, tokenizer;
  uint64_t seed = 0, count = 100;
  int length = 1024;
};

int write(const WriteArguments& args) {
  std::optional<Corpus> corpus;
  if (!args.corpus.empty()) {
    auto loaded = Corpus::load(args.corpus);
    if (!loaded.ok()) return report(loaded.error());
    corpus = std::move(loaded).value();
  }
  std::optional<text::Tokenizer> tokenizer;
  if (!args.tokenizer.empty()) {
    auto loaded = text::Tokenizer::load(args.tokenizer);
    if (!loaded.ok()) return report(loaded.error());
    tokenizer.emplace(std::move(loaded).value());
  }
  const auto mixture = Mixture::named(args.mixture, tokenizer ? &*tokenizer : nullptr, corpus ? &*corpus : nullptr);
  if (!mixture.ok()) return report(mixture.error());
  for (uint64_t i = 0; i < args.count; ++i) {
    json::Object line;
    if (tokenizer) {
      const Row row = mixture.value().row(args.seed, 0, i, args.length);
      json::Array ids, documents, weights;
      for (size_t k = 0; k < row.ids.size(); ++k) {
        ids.emplace_back(row.ids[k]);
        documents.emplace_back(row.documents[k]);
        weights.push_back(Value::number(fmt::format("{:g}", row.weights[k]), false));
      }
      line = {{"ids", std::move(ids)}, {"documents", std::move(documents)}, {"weights", std::move(weights)}};
    } else {
      Rng rng(combine(args.seed, i));
      line = {{"text", mixture.value().document(rng, args.length).text}};
    }
    print_line(line);
    if (std::ferror(stdout)) return 1;
  }
  return 0;
}

int check(int seeds, int threads, const std::string& only, bool as_json) {
  std::vector<const Family*> chosen;
  for (const Family& family : families())
    if (only.empty() || family.id.starts_with(only) || family.kind == only) chosen.push_back(&family);
  if (chosen.empty()) return report({Code::kNotFound, fmt::format("environment: no {}", only)});
  std::vector<FamilyReport> reports(chosen.size());
  ThreadPool pool(threads);
  pool.run(static_cast<int64_t>(chosen.size()), [&](int64_t i, int) {
    reports[static_cast<size_t>(i)] = check_family(*chosen[static_cast<size_t>(i)], seeds);
  });
  FamilyReport total;
  size_t failures = 0;
  for (size_t i = 0; i < reports.size(); ++i) {
    const FamilyReport& r = reports[i];
    total.tasks += r.tasks;
    for (size_t p = 0; p < std::size(kPolicies); ++p) {
      total.plays[p] += r.plays[p];
      total.passes[p] += r.passes[p];
    }
    failures += !r.failures.empty();
    for (const std::string& failure : r.failures) fmt::print(stderr, "{}\n", failure);
    if (!as_json) continue;
    json::Object line{{"id", chosen[i]->id}, {"tasks", r.tasks}, {"ok", r.failures.empty()}};
    for (const Policy policy : kPolicies)
      if (r.plays[static_cast<size_t>(policy)])
        line.emplace_back(policy_name(policy), Value::number(fmt::format("{:.4f}", r.rate(policy)), false));
    print_line(line);
  }
  const std::string summary = fmt::format(
      "{} environments, {} tasks, {} environments with failures; passed by policies: nothing "
      "{:.2f} %, copy {:.2f} %, random {:.2f} %, other world {:.2f} %",
      chosen.size(), total.tasks, failures, 100 * total.rate(Policy::kNothing), 100 * total.rate(Policy::kCopy),
      100 * total.rate(Policy::kRandom), 100 * total.rate(Policy::kOtherWorld));
  fmt::print(as_json ? stderr : stdout, "{}\n", summary);
  return failures ? 1 : 0;
}

}  // namespace

void add_data(CLI::App& app, int& exit_status) {
  CLI::App* command = app.add_subcommand("data", "Synthetic tasks: list, show, write training text, check");
  command->require_subcommand(1);
  struct Arguments {
    TaskKey key;
    std::string split = "train", mode = "high", only;
    bool json = false, raw = false;
    int seeds = 20, threads = ThreadPool::default_threads();
    WriteArguments write;
  };
  auto args = std::make_shared<Arguments>();

  CLI::App* list_command = command->add_subcommand("list", "All environments: id, kind, role, difficulties");
  list_command->add_flag("--json", args->json, "one JSON object a line");
  list_command->callback([args, &exit_status] { exit_status = list(args->json); });

  CLI::App* show_command = command->add_subcommand("show", "One task with its reference solution and verdict");
  show_command->add_option("id", args->key.environment, "environment, as listed")->required();
  show_command->add_option("--seed", args->key.seed, "which task")->capture_default_str();
  show_command->add_option("--difficulty", args->key.difficulty, "0 and up")->capture_default_str();
  show_command->add_option("--split", args->split, "train, dev or test")
      ->check(CLI::IsMember({"train", "dev", "test"}))
      ->capture_default_str();
  show_command->add_option("--mode", args->mode, "plain, high or max")
      ->check(CLI::IsMember({"plain", "high", "max"}))
      ->capture_default_str();
  show_command->add_flag("--json", args->json, "the messages as JSON");
  show_command->add_flag("--raw", args->raw, "the encoded conversation");
  show_command->callback([args, &exit_status] {
    args->key.split = split_by_name(args->split).value();
    exit_status = show(args->key, mode_by_name(args->mode).value(), args->json, args->raw);
  });

  CLI::App* write_command =
      command->add_subcommand("write", "Training data as JSON lines: {\"text\"}, or rows of ids with --tokenizer");
  write_command->add_option("--mixture", args->write.mixture, "base, long, tools, skills, calls or sft")
      ->check(CLI::IsMember(Mixture::names()))
      ->capture_default_str();
  write_command->add_option("--seed", args->write.seed, "of the random numbers")->capture_default_str();
  write_command->add_option("--count", args->write.count, "documents or rows")->capture_default_str();
  write_command->add_option("--length", args->write.length, "tokens of a row")
      ->check(CLI::Range(16, 65536))
      ->capture_default_str();
  write_command->add_option("--corpus", args->write.corpus, "English text made by tools/corpus.sh");
  write_command->add_option("--tokenizer", args->write.tokenizer, "tokenizer.json or its directory");
  write_command->callback([args, &exit_status] { exit_status = write(args->write); });

  CLI::App* check_command = command->add_subcommand("check", "Prove the properties of all environments");
  check_command->add_option("--seeds", args->seeds, "training tasks per environment")
      ->check(CLI::Range(1, 1000000))
      ->capture_default_str();
  check_command->add_option("--threads", args->threads, "threads")->check(CLI::Range(1, 1024))->capture_default_str();
  check_command->add_option("--only", args->only, "ids that begin so, or a kind");
  check_command->add_flag("--json", args->json, "one JSON object per environment; the summary goes to stderr");
  check_command->callback(
      [args, &exit_status] { exit_status = check(args->seeds, args->threads, args->only, args->json); });
}

}  // namespace hadal::cli
