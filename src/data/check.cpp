#include "data/check.h"

#include <fmt/format.h>

#include <cmath>
#include <map>

#include "data/document.h"
#include "data/tool_tasks.h"

namespace hadal::data {
namespace {

using json::Value;

constexpr size_t kMostFailures = 5;

std::vector<std::string> words_of(std::string_view text) {
  std::vector<std::string> out;
  std::string word;
  for (const char c : text) {
    const bool inside =
        (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_';
    if (inside)
      word += c;
    else if (!word.empty())
      out.push_back(std::exchange(word, {}));
  }
  if (!word.empty()) out.push_back(word);
  return out;
}

// Well-formed and blind: a call of a tool that is there, with words of the conversation, then a
// word or number.
text::AssistantMessage random_message(const Episode& episode, const Task& task, Rng& rng) {
  const json::Array& messages = episode.messages();
  const std::vector<std::string> seen = words_of(messages.back().find("content")->as_string());
  const auto any_word = [&] { return seen.empty() || rng.chance(10) ? std::string("no") : rng.pick(seen); };
  text::AssistantMessage message;
  if (!task.tools.is_null() && episode.steps() < 3) {
    const Value& tool = *rng.pick(task.tools.as_array()).find("function");
    json::Object arguments;
    for (const auto& [name, schema] : tool.find("parameters")->find("properties")->as_object())
      arguments.emplace_back(
          name, schema.find("type")->as_string() == "integer" ? Value(rng.range(1, 99)) : Value(any_word()));
    message.tool_calls.push_back({tool.find("name")->as_string(), json::dump(arguments)});
    return message;
  }
  static constexpr const char* kUsual[] = {"yes", "no", "true", "false", "even", "odd", "Done.", "[]", "{}"};
  const size_t kind = rng.below(4);
  message.content = kind == 0 ? rng.pick(kUsual) : kind == 1 ? text(rng.range(0, 20)) : any_word();
  return message;
}

bool plays(Policy policy, const Family& family) { return policy != Policy::kOtherWorld || family.kind == "tool"; }

// The solution of the same goal and interface in the next world that has it.
Task other_world(const Family& family, const TaskKey& key) {
  const std::string id = family.id, rest = id.substr(id.find('/'));
  const auto all = worlds();
  size_t at = 0;
  while (all[at].id != id.substr(0, id.find('/'))) ++at;
  for (size_t i = 1;; ++i)
    if (const std::string other = all[(at + i) % all.size()].id + rest; find_family(other))
      return make_task({other, key.split, key.seed, key.difficulty, key.new_phrasing}).value();
}

Verdict play(Policy policy, const Family& family, const Task& task) {
  if (policy == Policy::kOtherWorld) {
    const Task other = other_world(family, task.key);
    Episode episode(task);
    for (const Step& step : other.solution)
      if (!episode.done()) episode.answer(message_of(step, Mode::kHigh));
    return episode.verdict();
  }
  Episode episode(task);
  Rng rng(hash(task.instance, 17));
  while (!episode.done()) {
    text::AssistantMessage message;
    if (policy == Policy::kCopy) message.content = episode.messages().back().find("content")->as_string();
    if (policy == Policy::kRandom) message = random_message(episode, task, rng);
    episode.answer(message);
  }
  return episode.verdict();
}

std::string serialised(const Task& task) {
  std::string out = task.instance + json::dump(task.prompt()) + task.end_state;
  for (const Turn& turn : task.turns) out += turn.user;
  for (const Step& step : task.solution) {
    out += step.reasoning + step.check + step.content;
    for (const text::ToolCall& call : step.calls) out += call.name + call.arguments;
  }
  return out + (task.environment ? task.environment->state() : "");
}

class Checker {
 public:
  explicit Checker(const Family& family) : family_(family) {}

  FamilyReport run(int seeds) {
    check_split(Split::kTrain, seeds);
    const int few = std::max(2 * (family_.hardest + 1), seeds / 10);
    check_split(Split::kDev, few);
    check_split(Split::kTest, few);
    for (const Policy policy : kPolicies) {
      const int n = report_.plays[static_cast<size_t>(policy)], passes = report_.passes[static_cast<size_t>(policy)];
      const double p = family_.chance / 100.0, most = n * p + 3 * std::sqrt(n * p * (1 - p)) + 1;
      if (passes > most)
        fail(fmt::format("the policy \"{}\" passes {} of {}, stated chance {} %", policy_name(policy), passes, n,
                         family_.chance));
    }
    return std::move(report_);
  }

 private:
  void fail(std::string message) {
    if (report_.failures.size() < kMostFailures) report_.failures.push_back(fmt::format("{}: {}", family_.id, message));
  }

  void check_split(Split split, int seeds) {
    for (int i = 0; i < seeds; ++i) {
      const bool new_phrasing = split != Split::kTrain && i / (family_.hardest + 1) % 2 == 1;
      const TaskKey key{family_.id, split, static_cast<uint64_t>(i), i % (family_.hardest + 1), new_phrasing};
      const std::string where = fmt::format("{} seed {} difficulty {}", split_name(split), key.seed, key.difficulty);
      const Result<Task> made = make_task(key);
      if (!made.ok()) {
        fail(made.error().message);
        continue;
      }
      const Task& task = made.value();
      ++report_.tasks;
      const auto [seen, fresh] = splits_.emplace(task.instance, split);
      if (!fresh && seen->second != split)
        fail(fmt::format("{}: {} is also in {}", where, task.instance, split_name(seen->second)));
      if (serialised(make_task(key).value()) != serialised(task)) fail(where + ": the same key gave another task");
      check_solution(task, where);
      for (const Policy policy : kPolicies) {
        if (!plays(policy, family_)) continue;
        ++report_.plays[static_cast<size_t>(policy)];
        report_.passes[static_cast<size_t>(policy)] += play(policy, family_, task).pass;
      }
    }
  }

  void check_solution(const Task& task, const std::string& where) {
    for (const Turn& turn : task.turns)
      for (const char c : turn.user)
        if (static_cast<unsigned char>(c) >= 0x80 || (c < ' ' && c != '\n'))
          return fail(where + ": a question is not plain ASCII");
    for (const Mode mode : kModes) {
      const std::string at = fmt::format("{} {}", where, mode_name(mode));
      const Played played = play_solution(task, mode);
      if (!played.verdict.pass) return fail(fmt::format("{}: the solution fails: {}", at, played.verdict.reason));
      const auto encoded = text::encode_prompt(played.messages, encode_options(mode));
      if (const auto* error = std::get_if<text::EncodeError>(&encoded))
        return fail(fmt::format("{}: {}", at, error->message));
      const std::string& text = std::get<text::EncodedPrompt>(encoded).text;
      const auto spans = assistant_spans(text);
      if (spans.size() != task.solution.size())
        return fail(fmt::format("{}: {} messages became {}", at, task.solution.size(), spans.size()));
      for (size_t i = 0; i < spans.size(); ++i) {
        text::AssistantMessage expected = message_of(task.solution[i], mode);
        if (expected.content.size() > kLongestAnswer)
          return fail(fmt::format("{}: an answer of {} bytes", at, expected.content.size()));
        if (!spans[i].thinking) expected.reasoning.clear();  // dropped from earlier turns
        const auto parsed = text::parse_completion(
            std::string_view(text).substr(spans[i].begin, spans[i].end - spans[i].begin), spans[i].thinking);
        const auto* message = std::get_if<text::AssistantMessage>(&parsed);
        if (!message)
          return fail(
              fmt::format("{}: message {} does not parse: {}", at, i, std::get<text::ParseError>(parsed).message));
        if (!(*message == expected)) return fail(fmt::format("{}: message {} parses back to another", at, i));
      }
    }
  }

  const Family& family_;
  FamilyReport report_;
  std::map<std::string, Split> splits_;
};

}  // namespace

const char* policy_name(Policy policy) {
  static constexpr const char* kNames[] = {"nothing", "copy", "random", "other world"};
  return kNames[static_cast<size_t>(policy)];
}

double FamilyReport::rate(Policy policy) const {
  const auto i = static_cast<size_t>(policy);
  return plays[i] ? static_cast<double>(passes[i]) / plays[i] : 0;
}

FamilyReport check_family(const Family& family, int seeds) { return Checker(family).run(seeds); }

}  // namespace hadal::data
