#include "eval/task_file.h"

#include <fmt/format.h>

#include "base/file.h"

namespace hadal::eval {
namespace {

constexpr int64_t kLargestFile = int64_t{1} << 30;

Result<std::string> text_of(const json::Value& object, const char* key, const char* otherwise) {
  const json::Value* value = object.find(key);
  if (!value && otherwise) return std::string(otherwise);
  if (!value || !value->is_string())
    return Error{Code::kInvalid,
                 fmt::format("{}: expected a string, found {}", key, value ? value->kind_name() : "nothing")};
  return value->as_string();
}

Result<data::Expectation> expectation_of(const json::Value* verifier) {
  using Kind = data::Expectation::Kind;
  if (!verifier || !verifier->is_object())
    return Error{Code::kInvalid,
                 fmt::format("verifier: expected an object, found {}", verifier ? verifier->kind_name() : "nothing")};
  data::Expectation expected;
  const std::string kind = HADAL_TRY(text_of(*verifier, "kind", nullptr));
  if (kind == "text") {
    expected.kind = Kind::kText;
    expected.values.push_back(HADAL_TRY(text_of(*verifier, "value", nullptr)));
  } else if (kind == "contains") {
    expected.kind = Kind::kContains;
    const json::Value* values = verifier->find("values");
    if (!values || !values->is_array() || values->as_array().empty())
      return Error{Code::kInvalid, "verifier.values: expected a list of strings, found " +
                                       std::string(values ? values->kind_name() : "nothing")};
    for (const json::Value& value : values->as_array()) {
      if (!value.is_string())
        return Error{Code::kInvalid, std::string("verifier.values: expected strings, found ") + value.kind_name()};
      expected.values.push_back(value.as_string());
    }
  } else if (kind == "json") {
    expected.kind = Kind::kJson;
    const json::Value* value = verifier->find("value");
    if (!value) return Error{Code::kInvalid, "verifier.value: expected any JSON, found nothing"};
    expected.json = *value;
  } else {
    return Error{Code::kInvalid, "verifier.kind: expected text, contains or json, found " + kind};
  }
  return expected;
}

Result<data::Task> task_of(const json::Value& line, size_t number) {
  data::Task task;
  task.instance = HADAL_TRY(text_of(line, "id", fmt::format("line {}", number).c_str()));
  task.key.environment = HADAL_TRY(text_of(line, "kind", "file"));
  task.system = HADAL_TRY(text_of(line, "system", ""));
  if (const json::Value* tools = line.find("tools")) task.tools = *tools;
  if (const json::Value* format = line.find("response_format")) task.response_format = *format;
  const json::Value* turns = line.find("turns");
  if (!turns || !turns->is_array() || turns->as_array().empty())
    return Error{Code::kInvalid,
                 fmt::format("turns: expected a list of turns, found {}", turns ? turns->kind_name() : "nothing")};
  for (const json::Value& turn : turns->as_array()) {
    std::string user = HADAL_TRY(text_of(turn, "user", nullptr));
    data::Expectation expected = HADAL_TRY(expectation_of(turn.find("verifier")));
    task.turns.push_back({std::move(user), std::move(expected)});
  }
  return task;
}

}  // namespace

Result<std::vector<data::Task>> read_task_file(const std::string& path) {
  const std::string text = HADAL_TRY(read_file(path, kLargestFile));
  std::vector<data::Task> tasks;
  size_t number = 0;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    const std::string_view line = std::string_view(text).substr(begin, end - begin);
    begin = end + 1;
    ++number;
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    const auto parsed = json::parse(line);
    if (!parsed.ok())
      return Error{Code::kInvalid, fmt::format("{}: line {}: {}", path, number, parsed.error().message)};
    auto task = task_of(parsed.value(), number);
    if (!task.ok()) return Error{Code::kInvalid, fmt::format("{}: line {}: {}", path, number, task.error().message)};
    tasks.push_back(std::move(task).value());
  }
  if (tasks.empty()) return Error{Code::kInvalid, path + ": expected tasks, one JSON object a line, found none"};
  return tasks;
}

}  // namespace hadal::eval
