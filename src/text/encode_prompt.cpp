#include "text/encode_prompt.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <vector>

#include "base/file.h"
#include "text/templates.h"

namespace hadal::text {
namespace {

using json::Value;

// Errors travel as values: every step that can fail returns an optional error.
using Failure = std::optional<EncodeError>;

Failure fail(std::string kind, std::string message) { return EncodeError{std::move(kind), std::move(message)}; }

#define HADAL_ENCODE_TRY(expr) \
  if (Failure failure = (expr)) return failure

bool truthy(const Value* value) {  // as Python's bool()
  if (!value) return false;
  switch (value->kind()) {
    case Value::Kind::kNull:
      return false;
    case Value::Kind::kBool:
      return value->as_bool();
    case Value::Kind::kInt:
    case Value::Kind::kFloat:
      return value->to_double() != 0.0;
    case Value::Kind::kString:
      return !value->as_string().empty();
    case Value::Kind::kArray:
      return !value->as_array().empty();
    case Value::Kind::kObject:
      return !value->as_object().empty();
  }
  return false;
}

std::string to_json(const Value& value) {
  const std::string text = json::dump(value);
  // Lone surrogates cannot be written as UTF-8: Python's caller falls back to ASCII escapes for the whole value.
  for (size_t i = 0; i + 1 < text.size(); ++i)
    if (text[i] == '\xED' && static_cast<unsigned char>(text[i + 1]) >= 0xA0) return json::dump(value, {.ascii = true});
  return text;
}

struct ToolResult {
  std::string id, text;
};
struct Part {  // of a user turn
  std::string text;
  bool is_result = false;
  std::string call_id;
};

struct Turn {
  std::string role;
  const Value* message = nullptr;  // all but merged parts come from here; null for turns opened by a tool
  std::vector<Part> parts;         // role user
  bool has_task = false;
  std::optional<EncodeError> bad;  // found while merging, reported when the turn is rendered
  bool drops_reasoning = false;

  const Value* field(std::string_view name) const { return message ? message->find(name) : nullptr; }
};

bool has_task(const Value& message) {
  const Value* task = message.find("task");
  return task && !task->is_null();
}

// Text of a message field that may be absent or null ("" then); anything but a string is refused.
Failure text_field(const Turn& turn, std::string_view name, std::string& out) {
  const Value* value = turn.field(name);
  out.clear();
  if (!value || value->is_null()) return {};
  if (!value->is_string())
    return fail("bad_content_type", fmt::format("{} of {} {} message: expected a string, found {}", name,
                                                turn.role == "assistant" ? "an" : "a", turn.role, value->kind_name()));
  out = value->as_string();
  return {};
}

std::string tool_content(const Value* content, std::optional<EncodeError>& bad) {
  if (!content) return "";
  if (content->is_string()) return content->as_string();
  if (content->is_array()) {
    std::string text;
    bool first = true;
    for (const Value& part : content->as_array()) {
      if (!first) text += "\n\n";
      first = false;
      const Value* type = part.find("type");
      const Value* part_text = part.find("text");
      if (type && *type == Value("text")) {
        if (part_text && !part_text->is_string())
          bad = EncodeError{
              "bad_content_type",
              fmt::format("text of a part of a tool message: expected a string, found {}", part_text->kind_name())};
        if (part_text && part_text->is_string()) text += part_text->as_string();
      } else if (part.is_object() && (!type || type->is_null() || type->is_string())) {
        text += fmt::format("[Unsupported {}]", type && type->is_string() ? type->as_string() : "None");
      } else {
        bad = EncodeError{
            "bad_content_type",
            fmt::format("a part of a tool message: expected an object with a type, found {}", json::dump(part))};
      }
    }
    return text;
  }
  bad = EncodeError{"bad_content_type", fmt::format("content of a tool message: expected a string or parts, found {}",
                                                    content->kind_name())};
  return "";
}

// User and tool messages become user turns of parts.
std::vector<Turn> merge(const json::Array& messages) {
  std::vector<Turn> turns;
  for (const Value& message : messages) {
    const Value* role_value = message.find("role");
    const std::string role = role_value && role_value->is_string() ? role_value->as_string() : "";
    const bool after_user = !turns.empty() && turns.back().role == "user";
    if (role == "tool") {
      if (!after_user) turns.push_back({.role = "user"});
      Turn& turn = turns.back();
      const Value* id = message.find("tool_call_id");
      turn.parts.push_back({"<tool_result>" + tool_content(message.find("content"), turn.bad) + "</tool_result>", true,
                            id && id->is_string() ? id->as_string() : ""});
    } else if (role == "user") {
      if (!after_user || turns.back().has_task)
        turns.push_back({.role = "user", .message = &message, .has_task = has_task(message)});
      Turn& turn = turns.back();
      const Value* content = message.find("content");
      if (content && !content->is_string())
        turn.bad = EncodeError{"bad_content_type", fmt::format("content of a user message: expected a string, found {}",
                                                               content->kind_name())};
      turn.parts.push_back({content && content->is_string() ? content->as_string() : "", false, ""});
    } else {
      turns.push_back({.role = role, .message = &message, .has_task = has_task(message)});
    }
  }
  return turns;
}

// The id of a call stands on it, or in its function; calls without one have no place in the order.
std::string id_of_call(const Value& call) {
  const Value* function = call.find("function");
  for (const Value* id : {call.find("id"), function ? function->find("id") : nullptr})
    if (truthy(id)) return id->is_string() ? id->as_string() : "";
  return "";
}

// Tool results take the order of the latest assistant's calls; texts keep their places.
void sort_results(std::vector<Turn>& turns) {
  std::map<std::string, size_t> order;
  for (Turn& turn : turns) {
    const Value* calls = turn.role == "assistant" ? turn.field("tool_calls") : nullptr;
    if (calls && calls->is_array() && !calls->as_array().empty()) {
      order.clear();
      for (size_t i = 0; i < calls->as_array().size(); ++i) {
        const std::string id = id_of_call(calls->as_array()[i]);
        if (!id.empty()) order[id] = i;
      }
    }
    if (turn.role != "user" || order.empty()) continue;
    std::vector<Part> results;
    for (const Part& part : turn.parts)
      if (part.is_result) results.push_back(part);
    const auto rank = [&](const Part& part) {
      const auto it = order.find(part.call_id);
      return it == order.end() ? 0 : it->second;
    };
    std::stable_sort(results.begin(), results.end(), [&](const Part& a, const Part& b) { return rank(a) < rank(b); });
    size_t next = 0;
    for (Part& part : turn.parts)
      if (part.is_result) part = results[next++];
  }
}

int last_user_index(const std::vector<Turn>& turns) {
  for (size_t i = turns.size(); i-- > 0;)
    if (turns[i].role == "user" || turns[i].role == "developer") return static_cast<int>(i);
  return -1;
}

std::vector<Turn> drop_reasoning(std::vector<Turn> turns) {
  const int last_user = last_user_index(turns);
  std::vector<Turn> kept;
  for (size_t i = 0; i < turns.size(); ++i) {
    Turn& turn = turns[i];
    static constexpr std::array<std::string_view, 4> kKept = {"user", "system", "latest_reminder",
                                                              "direct_search_results"};
    const bool keeps =
        static_cast<int>(i) >= last_user || std::find(kKept.begin(), kKept.end(), turn.role) != kKept.end();
    if (!keeps && turn.role == "assistant") turn.drops_reasoning = true;
    if (keeps || turn.role == "assistant") kept.push_back(std::move(turn));
  }
  return kept;
}

constexpr std::pair<std::string_view, std::string_view> kTasks[] = {
    {"action", "<｜action｜>"}, {"query", "<｜query｜>"}, {"authority", "<｜authority｜>"},
    {"domain", "<｜domain｜>"}, {"title", "<｜title｜>"}, {"read_url", "<｜read_url｜>"}};

class Renderer {
 public:
  Renderer(const EncodeOptions& options, const std::vector<Turn>& turns, bool drops)
      : options_(options), turns_(turns), drops_(drops), last_user_(last_user_index(turns)) {}

  Failure render(size_t i, EncodedPrompt& prompt) {
    const Turn& turn = turns_[i];
    std::string& out = prompt.text;
    // In the official order, which decides which of several errors is told.
    HADAL_ENCODE_TRY(check_mode());
    HADAL_ENCODE_TRY(check_tools(turn));
    HADAL_ENCODE_TRY(check_effort());
    if (turn.bad) return turn.bad;
    if (i == 0 && thinking()) out += effort_;
    if (turn.role == "system") {
      std::string content;
      HADAL_ENCODE_TRY(text_field(turn, "content", content));
      out += content;
      tools_and_format(turn, out);
    } else if (turn.role == "developer") {
      std::string content;
      HADAL_ENCODE_TRY(text_field(turn, "content", content));
      if (content.empty()) return fail("empty_developer", "a developer message: expected content, found none");
      out += kUser + content;
      tools_and_format(turn, out);
    } else if (turn.role == "user") {
      out += kUser;
      for (size_t k = 0; k < turn.parts.size(); ++k) out += (k ? "\n\n" : "") + turn.parts[k].text;
    } else if (turn.role == "latest_reminder") {
      const Value* content = turn.field("content");
      if (!content || !content->is_string())
        return fail("bad_content_type", "content of a latest_reminder message: expected a string");
      out += kLatestReminder + content->as_string();
    } else if (turn.role == "assistant") {
      HADAL_ENCODE_TRY(assistant(i, out));
    } else {
      return fail("unknown_role", "role: expected system, user, assistant, tool, developer or latest_reminder, found " +
                                      json::quote(turn.role));
    }
    return transition(i, prompt);
  }

 private:
  bool thinking() const { return options_.thinking_mode == "thinking"; }

  Failure check_mode() const {
    if (options_.thinking_mode != "thinking" && options_.thinking_mode != "chat")
      return fail("invalid_thinking_mode",
                  "thinking_mode: expected \"thinking\" or \"chat\", found " + json::quote(options_.thinking_mode));
    return {};
  }

  // Tools and calls must have their parts on a message of any role, though only some roles show them.
  static Failure check_tools(const Turn& turn) {
    if (turn.role == "user") return {};
    if (const Value* tools = turn.field("tools"); truthy(tools)) {
      if (!tools->is_array()) return fail("bad_tool_schema", "tools: expected a list");
      for (const Value& tool : tools->as_array())
        if (!tool.find("function")) return fail("bad_tool_schema", "a tool: expected the key function");
    }
    if (const Value* calls = turn.field("tool_calls"); truthy(calls)) {
      if (!calls->is_array()) return fail("bad_tool_schema", "tool_calls: expected a list");
      for (const Value& call : calls->as_array()) {
        const Value* function = call.find("function");
        const Value* name = function ? function->find("name") : nullptr;
        if (!name || !name->is_string()) return fail("bad_tool_schema", "a tool call: expected function with a name");
        if (!function->find("arguments"))
          return fail("missing_arguments", "the call of " + name->as_string() + ": expected arguments");
      }
    }
    return {};
  }

  Failure check_effort() {
    const Value& effort = options_.reasoning_effort;
    const bool is_0731 = options_.encoding == Encoding::kV4_0731;
    const std::string name = effort.is_string() ? effort.as_string() : "";
    if (effort.is_null() || (is_0731 && (!truthy(&effort) || name == "low"))) {
      effort_ = "";
    } else if (name == "high") {
      effort_ = is_0731 ? kEffortAbsolute : "";
    } else if (name == "max") {
      effort_ = is_0731 ? kEffortBeyond : kEffortAbsolute;
    } else {
      return fail("invalid_effort",
                  fmt::format("reasoning_effort: expected {}\"high\" or \"max\" ({}), found {}",
                              is_0731 ? "\"low\", " : "none, ", encoding_name(options_.encoding), json::dump(effort)));
    }
    return {};
  }

  static void tools_and_format(const Turn& turn, std::string& out) {
    const Value* tools = turn.field("tools");
    if (truthy(tools)) {
      out += std::string("\n\n") + kToolsHead;
      bool first = true;
      for (const Value& tool : tools->as_array()) {
        out += (first ? "" : "\n") + to_json(*tool.find("function"));
        first = false;
      }
      out += kToolsTail;
    }
    if (const Value* format = turn.field("response_format"); truthy(format))
      out += std::string("\n\n") + kResponseFormat + to_json(*format);
  }

  Failure assistant(size_t i, std::string& out) {
    const Turn& turn = turns_[i];
    const bool after_task = i > 0 && turns_[i - 1].has_task;
    if (thinking() && !after_task && (!drops_ || static_cast<int>(i) > last_user_)) {
      std::string reasoning;
      if (!turn.drops_reasoning) HADAL_ENCODE_TRY(text_field(turn, "reasoning_content", reasoning));
      out += reasoning + kThinkClose;
    }
    std::string content;
    HADAL_ENCODE_TRY(text_field(turn, "content", content));
    out += content;
    if (const Value* calls = turn.field("tool_calls"); truthy(calls)) HADAL_ENCODE_TRY(tool_calls(*calls, out));
    if (!truthy(turn.field("wo_eos"))) out += kEos;
    return {};
  }

  static Failure tool_calls(const Value& calls, std::string& out) {
    out += fmt::format("\n\n<{}tool_calls>\n", kDsml);
    bool first = true;
    for (const Value& call : calls.as_array()) {
      const Value& function = *call.find("function");
      const std::string& name = function.find("name")->as_string();
      const Value* arguments = function.find("arguments");
      out += fmt::format("{}<{}invoke name=\"{}\">\n", first ? "" : "\n", kDsml, name);
      first = false;
      // What is no JSON text, an object that was never written as text too, is one parameter.
      Value parsed = json::Object{{"arguments", *arguments}};
      if (arguments->is_string()) {
        auto value = json::parse(arguments->as_string());
        if (value.ok()) parsed = std::move(value).value();
      }
      if (!parsed.is_object())
        return fail("arguments_not_object", fmt::format("the call of {}: arguments: expected a JSON object, found {}",
                                                        name, parsed.kind_name()));
      const json::Object& members = parsed.as_object();
      for (size_t k = 0; k < members.size(); ++k) {
        const auto& [key, value] = members[k];
        out += fmt::format("{}<{}parameter name=\"{}\" string=\"{}\">{}</{}parameter>", k ? "\n" : "", kDsml, key,
                           value.is_string() ? "true" : "false", value.is_string() ? value.as_string() : to_json(value),
                           kDsml);
      }
      out += fmt::format("\n</{}invoke>", kDsml);
    }
    out += fmt::format("\n</{}tool_calls>", kDsml);
    return {};
  }

  // What follows turn i: a task's token, or the header of the assistant's answer.
  Failure transition(size_t i, EncodedPrompt& prompt) {
    const Turn& turn = turns_[i];
    std::string& out = prompt.text;
    if (i + 1 < turns_.size() && turns_[i + 1].role != "assistant" && turns_[i + 1].role != "latest_reminder")
      return {};
    const bool is_user = turn.role == "user" || turn.role == "developer";
    prompt.header_begin = out.size();
    if (turn.has_task) {
      const Value* task = turn.field("task");
      const auto* known = std::find_if(std::begin(kTasks), std::end(kTasks), [&](const auto& entry) {
        return task->is_string() && task->as_string() == entry.first;
      });
      if (known == std::end(kTasks))
        return fail("invalid_task",
                    "task: expected action, query, authority, domain, title or read_url, found " + json::dump(*task));
      if (known->first == "action") out += std::string(kAssistant) + (thinking() ? kThinkOpen : kThinkClose);
      out += known->second;
    } else if (is_user) {
      const bool thinks = thinking() && (!drops_ || static_cast<int>(i) >= last_user_);
      out += std::string(kAssistant) + (thinks ? kThinkOpen : kThinkClose);
    }
    return {};
  }

  const EncodeOptions& options_;
  const std::vector<Turn>& turns_;
  bool drops_;
  int last_user_;
  std::string effort_;
};

}  // namespace

const char* encoding_name(Encoding encoding) { return encoding == Encoding::kV4 ? "v4" : "v4-0731"; }

Result<Encoding> encoding_by_name(std::string_view name) {
  if (name == "v4") return Encoding::kV4;
  if (name == "v4-0731") return Encoding::kV4_0731;
  return Error{Code::kInvalid, fmt::format("encoding: expected v4 or v4-0731, found {}", name)};
}

Result<Encoding> encoding_of_checkpoint(const std::string& directory) {
  const std::string descriptor = directory + "/encoding/encoding.json";
  if (const auto text = read_file(descriptor, 1 << 16); text.ok()) {
    const auto parsed = json::parse(text.value());
    const Value* name = parsed.ok() ? parsed.value().find("encoding") : nullptr;
    const auto encoding = encoding_by_name(name && name->is_string() ? name->as_string() : "");
    if (!encoding.ok())
      return Error{Code::kCorrupt, fmt::format("{}: encoding: expected v4 or v4-0731, found {}", descriptor,
                                               name ? json::dump(*name) : "nothing")};
    return encoding;
  }
  if (const auto script = read_file(directory + "/encoding/encoding_dsv4.py", 1 << 22); script.ok())
    return script.value().find("REASONING_EFFORT_PROMPTS") != std::string::npos ? Encoding::kV4_0731 : Encoding::kV4;
  if (const auto config = read_file(directory + "/config.json", 1 << 20); config.ok())
    if (config.value().find("\"dspark_") != std::string::npos) return Encoding::kV4_0731;
  return Encoding::kV4;
}

std::variant<EncodedPrompt, EncodeError> encode_prompt(const json::Array& messages, const EncodeOptions& options) {
  for (const json::Array* list : {&messages, &options.context})
    for (const Value& message : *list)
      if (!message.is_object())
        return EncodeError{"bad_message", fmt::format("a message: expected an object, found {}", message.kind_name())};
  std::vector<Turn> turns = merge(options.context);
  size_t n_context = turns.size();
  std::vector<Turn> own = merge(messages);
  turns.insert(turns.end(), std::make_move_iterator(own.begin()), std::make_move_iterator(own.end()));
  sort_results(turns);  // results among the messages may answer calls of the context

  bool any_tools = false;
  for (const Turn& turn : turns) any_tools = any_tools || (turn.role != "user" && truthy(turn.field("tools")));
  const bool drops = options.drop_thinking && !any_tools;
  if (options.thinking_mode == "thinking" && drops) {
    // As the official encoder counts: what the context keeps when it is dropped from alone. Where its last user
    // message is a developer's, which goes when users follow, that swallows one of the messages.
    n_context = drop_reasoning({turns.begin(), turns.begin() + static_cast<ptrdiff_t>(n_context)}).size();
    turns = drop_reasoning(std::move(turns));
  }

  EncodedPrompt prompt;
  if (options.add_default_bos_token && options.context.empty()) prompt.text = kBos;
  Renderer renderer(options, turns, drops);
  prompt.header_begin = std::string::npos;
  for (size_t i = n_context; i < turns.size(); ++i)
    if (Failure failure = renderer.render(i, prompt)) return *failure;
  prompt.header_begin = std::min(prompt.header_begin, prompt.text.size());
  return prompt;
}

}  // namespace hadal::text
