#include "serve/chat_request.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "serve/body.h"
#include "serve/request_fields.h"

namespace hadal::serve {
namespace {

using json::Value;

constexpr std::array<std::string_view, 7> kRoles = {"system",    "user",     "assistant",      "tool",
                                                    "developer", "function", "latest_reminder"};
const Value kEmpty{json::Object{}};
constexpr std::string_view kRoleNames = "`system`, `user`, `assistant`, `tool`, `latest_reminder`";

// The reasoning of an assistant message, under any of the names that clients use.
std::optional<std::string> reasoning_of(const Value& message) {
  for (const char* key : {"reasoning_content", "reasoning"})
    if (const Value* value = message.find(key); value && value->is_string()) return value->as_string();
  const Value* details = message.find("reasoning_details");
  if (!details || !details->is_array()) return std::nullopt;
  std::string all;
  for (const Value& detail : details->as_array())
    if (const Value* text = detail.find("text"); text && text->is_string()) all += text->as_string();
  return all;
}

void read_message(Body& body, const Value& message, const std::string& path, bool is_last, const RequestRules& rules,
                  Turn& turn) {
  Body fields(message, path);
  const auto role = fields.text("role");
  if (!fields.error() && !role) fields.refuse("", "missing field `role`");
  if (role && std::find(kRoles.begin(), kRoles.end(), *role) == kRoles.end())
    fields.refuse("role", fmt::format("unknown variant `{}`, expected one of {}", *role, kRoleNames));
  if (role == "developer" && rules.strict)
    fields.refuse("role", fmt::format("unknown variant `developer`, expected one of {}", kRoleNames));
  if (fields.error()) return body.fail(*fields.error());
  const Value* content = fields.find("content");
  if (content && !content->is_string() && !content->is_array())
    fields.mistype("content", *content, "a string or a sequence of parts");
  const bool is_tool = role == "tool" || role == "function";
  json::Object out{{"role", is_tool ? "tool" : *role}, {"content", content_text(content, is_tool ? "\n\n" : "")}};
  if (is_tool) {
    const auto id = fields.text("tool_call_id");
    if (!id && role == "tool") fields.refuse("", "missing field `tool_call_id`");
    out.emplace_back("tool_call_id", id.value_or(fields.text("name").value_or("")));
  }
  if (role == "assistant") {
    if (const auto reasoning = reasoning_of(message)) out.emplace_back("reasoning_content", *reasoning);
    json::Array calls;
    if (const json::Array* given = fields.list("tool_calls")) {
      for (size_t i = 0; i < given->size(); ++i) {
        Body call((*given)[i], fmt::format("{}.tool_calls[{}]", path, i));
        const Value* function = call.require("function");
        Body inner(function ? *function : kEmpty, call.path("function"));
        const auto name = inner.text("name");
        if (function && !inner.error() && !name) inner.refuse("", "missing field `name`");
        Value arguments = inner.find("arguments") ? *inner.find("arguments") : Value("{}");
        const std::string id = call.text("id").value_or(fmt::format("call_{}", i));
        for (const Body* one : {&call, &inner})
          if (one->error()) fields.fail(*one->error());
        calls.push_back(
            json::Object{{"id", id},
                         {"type", "function"},
                         {"function", json::Object{{"name", name.value_or("")}, {"arguments", std::move(arguments)}}}});
      }
    }
    // As calls were written before there were several: its result is the next message of role function.
    if (const Value* call = calls.empty() ? fields.object("function_call") : nullptr) {
      Body inner(*call, path + ".function_call");
      const auto name = inner.text("name");
      if (!inner.error() && !name) inner.refuse("", "missing field `name`");
      const Value* arguments = inner.find("arguments");
      if (inner.error()) fields.fail(*inner.error());
      calls.push_back(json::Object{{"id", name.value_or("")},
                                   {"type", "function"},
                                   {"function", json::Object{{"name", name.value_or("")},
                                                             {"arguments", arguments ? *arguments : Value("{}")}}}});
    }
    const bool says_nothing = (!content || content->is_null()) && calls.empty();
    if (says_nothing && rules.strict)
      fields.fail(invalid("Invalid assistant message: content or tool_calls must be set", path));
    if (!calls.empty()) out.emplace_back("tool_calls", std::move(calls));
    if (fields.flag("prefix").value_or(false)) {
      if (!is_last) fields.fail(invalid("`prefix` is allowed on the last message only", fields.path("prefix")));
      out.emplace_back("prefix", true);
    }
  } else if (fields.flag("prefix").value_or(false)) {
    fields.fail(invalid("`prefix` is allowed on an assistant message only", fields.path("prefix")));
  }
  if (fields.error()) return body.fail(*fields.error());
  turn.messages.emplace_back(std::move(out));
}

void read_tools(Body& body, const RequestRules& rules, Turn& turn) {
  const json::Array* tools = body.list("tools");
  const json::Array* functions = tools ? nullptr : body.list("functions");  // their names before 2024
  const auto add = [&](const Value& function, const std::string& path) {
    Body fields(function, path);
    fields.object("parameters");
    if (fields.error()) return body.fail(*fields.error());
    add_tool(body, function, path, turn);
  };
  if (tools)
    for (size_t i = 0; i < tools->size(); ++i) {
      const std::string path = fmt::format("tools[{}]", i);
      Body tool((*tools)[i], path);
      const auto type = tool.text("type");
      if (type && *type != "function") continue;  // tools of other services: nothing we could call
      if (const Value* function = tool.require("function")) add(*function, path + ".function");
      if (tool.error()) return body.fail(*tool.error());
    }
  turn.legacy_call = functions != nullptr;
  if (functions)
    for (size_t i = 0; i < functions->size(); ++i) add((*functions)[i], fmt::format("functions[{}]", i));

  const Value* choice = body.find(tools || !functions ? "tool_choice" : "function_call");
  if (!choice) return;
  if (choice->is_string()) {
    const std::string& word = choice->as_string();
    if (word == "none") {
      turn.tool_choice.kind = ToolChoice::Kind::kNone;
    } else if (word == "required" || word == "any") {
      turn.tool_choice.kind = ToolChoice::Kind::kRequired;
    } else if (word != "auto") {
      body.refuse("tool_choice", fmt::format("unknown variant `{}`, expected one of `none`, `auto`, `required`", word));
    }
  } else if (choice->is_object()) {
    const Value* function = choice->find("function");
    const Value* name = function && function->is_object() ? function->find("name") : choice->find("name");
    const Value* type = choice->find("type");
    if (name && name->is_string()) {
      turn.tool_choice = {ToolChoice::Kind::kNamed, name->as_string()};
    } else if (type && type->is_string() && (type->as_string() == "any" || type->as_string() == "required")) {
      turn.tool_choice.kind = ToolChoice::Kind::kRequired;
    } else if (type && type->is_string() && type->as_string() == "none") {
      turn.tool_choice.kind = ToolChoice::Kind::kNone;
    } else if (!type || !type->is_string() || type->as_string() != "auto") {
      body.refuse("tool_choice.function", "missing field `name`");
    }
  } else {
    body.mistype("tool_choice", *choice, "a string or a map");
  }
  check_choice(body, rules, turn);
}

// thinking.type, else an effort, else what the model's name means (api.md 1.5).
void read_thinking(Body& body, bool thinks_by_name, Turn& turn) {
  std::optional<bool> thinks;
  if (const Value* thinking = body.find("thinking")) {
    if (thinking->is_bool()) {
      thinks = thinking->as_bool();
    } else if (thinking->is_object()) {
      const Value* type = thinking->find("type");
      const std::string word = type && type->is_string() ? type->as_string() : "";
      if (word == "enabled" || word == "adaptive") {
        thinks = true;
      } else if (word == "disabled") {
        thinks = false;
      } else if (type && !type->is_null()) {
        body.refuse("thinking.type",
                    fmt::format("unknown variant `{}`, expected one of `enabled`, `disabled`, `adaptive`", word));
      }
    } else {
      body.mistype("thinking", *thinking, "a map");
    }
  }
  std::optional<Effort> effort = read_effort(body, "reasoning_effort");
  if (const Value* template_ = body.object("chat_template_kwargs")) {  // as other servers spell it
    Body inner(*template_, "chat_template_kwargs");
    for (const char* key : {"thinking", "enable_thinking"})
      if (const Value* value = template_->find(key); value && value->is_bool() && !thinks) thinks = value->as_bool();
    if (!effort) effort = read_effort(inner, "reasoning_effort");
    if (inner.error()) body.fail(*inner.error());
  }
  if (!thinks) thinks = effort ? *effort != Effort::kOff : thinks_by_name;
  turn.effort = !*thinks ? Effort::kOff : effort && *effort != Effort::kOff ? *effort : Effort::kHigh;
}

void read_format(Body& body, Turn& turn) {
  const Value* given = body.object("response_format");
  if (!given) return;
  Body fields(*given, "response_format");
  const std::string type = fields.text("type").value_or("");
  if (type == "json_object") {
    turn.format.kind = OutputFormat::Kind::kJsonObject;
  } else if (type == "json_schema") {
    turn.format.kind = OutputFormat::Kind::kJsonSchema;
    if (const Value* named = fields.require("json_schema")) {
      Body inner(*named, "response_format.json_schema");
      if (const Value* schema = inner.object("schema")) turn.format.schema = *schema;
      if (turn.format.schema.is_null()) turn.format.schema = json::Object{};
      turn.format.strict = inner.flag("strict").value_or(false);
      if (inner.error()) fields.fail(*inner.error());
    }
  } else if (type != "text") {
    fields.refuse("type",
                  fmt::format("unknown variant `{}`, expected one of `text`, `json_object`, `json_schema`", type));
  }
  if (fields.error()) body.fail(*fields.error());
}

void read_logprobs(Body& body, Turn& turn) {
  sample::Options& s = turn.sampling;
  turn.logprobs = body.flag("logprobs").value_or(false);
  if (const auto top = body.integer("top_logprobs")) {
    if (*top < 0 || *top > 20)
      body.fail(invalid("Invalid top_logprobs value, the valid range of top_logprobs is [0, 20]", "top_logprobs"));
    if (*top > 0 && !turn.logprobs)
      body.fail(invalid("Invalid top_logprobs value, it needs logprobs to be true", "top_logprobs"));
    s.n_logprobs = static_cast<int>(*top);
  }
  if (turn.logprobs) s.n_logprobs = std::max(s.n_logprobs, 0);
  if (!turn.logprobs) s.n_logprobs = -1;
}

void read_user(Body& body, Turn& turn) {
  if (const auto user = body.text("user_id")) {
    const bool plain = !user->empty() && user->size() <= 512 &&
                       std::all_of(user->begin(), user->end(),
                                   [](unsigned char c) { return std::isalnum(c) || c == '-' || c == '_'; });
    if (!plain) body.fail(invalid("Invalid user_id value, expected 1 to 512 letters, digits, '-' or '_'", "user_id"));
    turn.user = *user;
  } else if (const Value* name = body.find("user"); name && name->is_string()) {
    turn.user = namespace_of(name->as_string());
  }
}

}  // namespace

std::variant<Turn, ApiError> read_chat_request(const Value& root, const RequestRules& rules) {
  Body body(root, "");
  if (body.error()) return *body.error();
  Turn turn;
  const auto model = read_model(body, rules, turn);
  read_thinking(body, !model || model->thinks, turn);

  const json::Array* messages = body.list("messages");
  if (!body.error() && !messages) body.refuse("", "missing field `messages`");
  if (messages && messages->empty()) body.fail(invalid("Empty input messages", "messages"));
  for (size_t i = 0; messages && !body.error() && i < messages->size(); ++i)
    read_message(body, (*messages)[i], fmt::format("messages[{}]", i), i + 1 == messages->size(), rules, turn);
  if (const auto task = body.text("task"); task && !turn.messages.empty()) turn.messages.back().set("task", *task);

  read_tools(body, rules, turn);
  turn.parallel_calls = body.flag("parallel_tool_calls").value_or(true) && !turn.legacy_call;
  read_format(body, turn);
  read_sampling(body, rules, turn);
  if (const auto n = body.integer("n"); n && *n != 1)
    body.fail(invalid("Invalid n value (currently only n = 1 is supported)", "n"));
  for (const char* key : {"max_tokens", "max_completion_tokens"}) read_limit(body, key, kMostOutput, rules, turn);
  read_stop(body, "stop", turn);
  read_logprobs(body, turn);
  read_user(body, turn);
  turn.stream = body.flag("stream").value_or(false);
  if (const Value* options = body.object("stream_options"))
    if (const Value* usage = options->find("include_usage")) turn.include_usage = usage->is_bool() && usage->as_bool();
  read_usage(body, turn);
  if (body.error()) return *body.error();
  return turn;
}

}  // namespace hadal::serve
