#include "data/task.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

namespace hadal::data {
namespace {

using json::Value;

template <class Enum, size_t kCount>
Result<Enum> by_name(std::string_view what, std::string_view name,
                     const std::pair<const char*, Enum> (&names)[kCount]) {
  std::string known;
  for (const auto& [text, value] : names) {
    if (name == text) return value;
    known += (known.empty() ? "" : ", ") + std::string(text);
  }
  return Error{Code::kInvalid, fmt::format("{}: expected one of {}, found {}", what, known, name)};
}
constexpr std::pair<const char*, Split> kSplitNames[] = {
    {"train", Split::kTrain}, {"dev", Split::kDev}, {"test", Split::kTest}};
constexpr std::pair<const char*, Mode> kModeNames[] = {
    {"plain", Mode::kPlain}, {"high", Mode::kHigh}, {"max", Mode::kMax}};

std::string_view trimmed(std::string_view text) {
  constexpr std::string_view kBlank = " \n\t\r";
  const size_t begin = text.find_first_not_of(kBlank);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kBlank) - begin + 1);
}

std::string_view bare(std::string_view text) {
  text = trimmed(text);
  if (text.ends_with('.')) text.remove_suffix(1);
  return text;
}

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return out;
}

Value sorted(const Value& value) {  // keys in order, so that == does not depend on it
  if (value.is_array()) {
    json::Array items;
    for (const Value& item : value.as_array()) items.push_back(sorted(item));
    return items;
  }
  if (!value.is_object()) return value;
  json::Object members;
  for (const auto& [key, item] : value.as_object()) members.emplace_back(key, sorted(item));
  std::sort(members.begin(), members.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  return members;
}

Verdict fail(std::string reason) { return {false, std::move(reason)}; }

Verdict contains_all(const std::vector<std::string>& values, std::string_view answer) {
  const std::string low = lower(answer);
  for (const std::string& value : values) {
    bool found = false;
    for (size_t begin = 0; begin <= value.size() && !found;) {
      const size_t end = std::min(value.find('|', begin), value.size());
      found = low.find(lower(std::string_view(value).substr(begin, end - begin))) != std::string::npos;
      begin = end + 1;
    }
    if (!found) return fail(fmt::format("expected \"{}\" in the answer", value));
  }
  return {true, ""};
}

Verdict judge_story(const Expectation& expected, std::string_view answer) {
  std::set<std::string_view> sentences;
  int words = 0;
  for (size_t begin = 0; begin < answer.size();) {
    const size_t end = std::min(answer.find_first_of(".!?", begin), answer.size());
    const std::string_view sentence = trimmed(answer.substr(begin, end - begin));
    if (!sentence.empty() && !sentences.insert(sentence).second)
      return fail(fmt::format("the story says \"{}\" twice", sentence));
    words += sentence.empty() ? 0 : 1 + static_cast<int>(std::count(sentence.begin(), sentence.end(), ' '));
    begin = end + 1;
  }
  if (words < expected.min_words)
    return fail(fmt::format("expected at least {} words, found {}", expected.min_words, words));
  return contains_all(expected.values, answer);
}

}  // namespace

const char* split_name(Split split) { return kSplitNames[static_cast<size_t>(split)].first; }
Result<Split> split_by_name(std::string_view name) { return by_name("split", name, kSplitNames); }
const char* mode_name(Mode mode) { return kModeNames[static_cast<size_t>(mode)].first; }
Result<Mode> mode_by_name(std::string_view name) { return by_name("mode", name, kModeNames); }

text::EncodeOptions encode_options(Mode mode) {
  text::EncodeOptions options;
  options.thinking_mode = mode == Mode::kPlain ? "chat" : "thinking";
  if (mode == Mode::kMax) options.reasoning_effort = "max";
  return options;
}

text::AssistantMessage message_of(const Step& step, Mode mode) {
  text::AssistantMessage message;
  message.content = step.content;
  message.tool_calls = step.calls;
  if (mode == Mode::kPlain) return message;
  message.reasoning = step.reasoning;
  if (mode == Mode::kMax && !step.check.empty()) message.reasoning += (step.reasoning.empty() ? "" : "\n") + step.check;
  return message;
}

Verdict judge(const Expectation& expected, std::string_view answer) {
  switch (expected.kind) {
    case Expectation::Kind::kText:
      if (bare(answer) == bare(expected.values[0])) return {true, ""};
      return fail(
          fmt::format("expected {}, found {}", json::quote(expected.values[0]), json::quote(answer.substr(0, 200))));
    case Expectation::Kind::kContains:
      return contains_all(expected.values, answer);
    case Expectation::Kind::kJson: {
      const auto parsed = json::parse(trimmed(answer));
      if (!parsed.ok()) return fail("expected JSON: " + parsed.error().message);
      if (sorted(parsed.value()) == sorted(expected.json)) return {true, ""};
      return fail(fmt::format("expected {}, found {}", json::dump(expected.json), json::dump(parsed.value())));
    }
    case Expectation::Kind::kStory:
      return judge_story(expected, answer);
  }
  return fail("");
}

namespace {
bool same_shape(const Value& a, const Value& b) {
  if (a.is_number() && b.is_number()) return true;
  if (a.kind() != b.kind()) return false;
  if (a.is_array())
    return std::all_of(b.as_array().begin(), b.as_array().end(),
                       [&](const Value& item) { return !a.as_array().empty() && same_shape(a.as_array()[0], item); });
  if (!a.is_object()) return true;
  if (a.as_object().size() != b.as_object().size()) return false;
  return std::all_of(a.as_object().begin(), a.as_object().end(), [&](const auto& member) {
    const Value* other = b.find(member.first);
    return other && same_shape(member.second, *other);
  });
}
}  // namespace

bool has_shape(const Expectation& expected, std::string_view answer) {
  const auto parsed = json::parse(trimmed(answer));
  return parsed.ok() && same_shape(expected.json, parsed.value());
}

json::Array Task::prompt() const {
  json::Array messages;
  if (!system.empty() || !tools.is_null() || !response_format.is_null()) {
    json::Object first{{"role", "system"}, {"content", system}};
    if (!tools.is_null()) first.emplace_back("tools", tools);
    if (!response_format.is_null()) first.emplace_back("response_format", response_format);
    messages.push_back(std::move(first));
  }
  messages.push_back(json::Object{{"role", "user"}, {"content", turns.at(0).user}});
  return messages;
}

Episode::Episode(const Task& task)
    : task_(task), environment_(task.environment ? task.environment->clone() : nullptr), messages_(task.prompt()) {}

void Episode::answer(const text::AssistantMessage& message) {
  HADAL_CHECK(!done_);
  Value said = text::to_json(message);
  Value& calls = *said.find("tool_calls");
  const int first_call = calls_;
  for (Value& call : calls.as_array()) call.set("id", fmt::format("call_{}", ++calls_));
  messages_.push_back(std::move(said));
  done_ = ++steps_ >= kMaxSteps;
  if (message.tool_calls.empty()) {
    answers_.push_back(message.content);
    if (answers_.size() == task_.turns.size())
      done_ = true;
    else
      messages_.push_back(json::Object{{"role", "user"}, {"content", task_.turns[answers_.size()].user}});
    return;
  }
  for (size_t i = 0; i < message.tool_calls.size(); ++i) {
    const text::ToolCall& call = message.tool_calls[i];
    const auto arguments = json::parse(call.arguments);
    std::string result;
    if (!environment_)
      result = R"({"error": "there are no tools"})";
    else if (!arguments.ok())
      result = R"({"error": "the arguments are not JSON"})";
    else
      result = environment_->call(call.name, arguments.value());
    messages_.push_back(json::Object{{"role", "tool"},
                                     {"tool_call_id", fmt::format("call_{}", first_call + static_cast<int>(i) + 1)},
                                     {"content", std::move(result)}});
  }
}

Verdict Episode::verdict() const {
  if (answers_.size() < task_.turns.size())
    return fail(fmt::format("expected {} answers, found {}", task_.turns.size(), answers_.size()));
  for (size_t i = 0; i < answers_.size(); ++i) {
    Verdict verdict = judge(task_.turns[i].expected, answers_[i]);
    if (!verdict.pass) return verdict;
  }
  if (!environment_) return {true, ""};
  // An answer that asked nobody is a guess.
  if (environment_->successful_calls() == 0) return fail("no tool was called with success");
  if (environment_->state() != task_.end_state)
    return fail(fmt::format("expected the state {}, found {}", task_.end_state, environment_->state()));
  return {true, ""};
}

Played play_solution(const Task& task, Mode mode) {
  Episode episode(task);
  for (const Step& step : task.solution) {
    if (episode.done()) return {episode.messages(), fail("the solution goes on after the end")};
    episode.answer(message_of(step, mode));
  }
  if (!episode.done()) return {episode.messages(), fail("the solution stops before the end")};
  return {episode.messages(), episode.verdict()};
}

}  // namespace hadal::data
