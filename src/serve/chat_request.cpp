#include "serve/chat_request.h"

#include <fmt/format.h>
#include <openssl/evp.h>

#include <algorithm>
#include <array>
#include <set>

#include "serve/body.h"
#include "serve/catalog.h"

namespace hadal::serve {
namespace {

using json::Value;

constexpr std::array<std::string_view, 7> kRoles = {"system",    "user",     "assistant",      "tool",
                                                    "developer", "function", "latest_reminder"};
const Value kEmpty{json::Object{}};
constexpr std::string_view kRoleNames = "`system`, `user`, `assistant`, `tool`, `latest_reminder`";

bool is_tool_name(std::string_view name) {
  return !name.empty() && name.size() <= 128 && std::all_of(name.begin(), name.end(), [](unsigned char c) {
    return std::isalnum(c) || c == '_' || c == '-' || c == '.' || c == ':';
  });
}

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
  std::set<std::string> names;
  const auto add = [&](const Value& function, const std::string& path) {
    Body fields(function, path);
    const auto name = fields.text("name");
    if (!fields.error() && !name) fields.refuse("", "missing field `name`");
    if (name && !is_tool_name(*name))
      fields.fail(invalid(
          fmt::format("Invalid '{}.name': expected 1 to 128 letters, digits, '_' or '-', found '{}'", path, *name),
          fields.path("name")));
    if (name && !names.insert(*name).second)
      fields.fail(invalid(fmt::format("Invalid '{}.name': '{}' is there twice", path, *name), fields.path("name")));
    fields.object("parameters");
    if (fields.error()) return body.fail(*fields.error());
    turn.tools.push_back(function);
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
  if (functions)
    for (size_t i = 0; i < functions->size(); ++i) add((*functions)[i], fmt::format("functions[{}]", i));
  if (turn.tools.size() > kMostTools)
    body.fail(
        invalid(fmt::format("Invalid 'tools': expected at most {}, found {}", kMostTools, turn.tools.size()), "tools"));

  const Value* choice = body.find(tools || !functions ? "tool_choice" : "function_call");
  if (!choice) return;
  const auto named = [&](const std::string& name) {
    if (!names.contains(name))
      return body.fail(invalid(fmt::format("Invalid 'tool_choice': no tool is named '{}'", name), "tool_choice"));
    turn.tool_choice = {ToolChoice::Kind::kNamed, name};
  };
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
      named(name->as_string());
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
  const bool forced =
      turn.tool_choice.kind == ToolChoice::Kind::kRequired || turn.tool_choice.kind == ToolChoice::Kind::kNamed;
  if (forced && turn.tools.empty())
    body.fail(invalid("Invalid 'tool_choice': it asks for a tool and there are no tools", "tool_choice"));
  if (forced && turn.thinks() && rules.strict)
    body.fail(invalid("Thinking mode does not support this tool_choice", "tool_choice"));
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
  std::optional<Effort> effort;
  const auto set_effort = [&](std::string_view path, const std::string& name) {
    effort = effort_by_name(name);
    if (!effort)
      body.refuse(path, fmt::format("unknown variant `{}`, expected one of `none`, `minimal`, `low`, `medium`, `high`, "
                                    "`xhigh`, `max`",
                                    name));
  };
  if (const auto name = body.text("reasoning_effort")) set_effort("reasoning_effort", *name);
  if (const Value* template_ = body.object("chat_template_kwargs")) {  // as other servers spell it
    for (const char* key : {"thinking", "enable_thinking"})
      if (const Value* value = template_->find(key); value && value->is_bool() && !thinks) thinks = value->as_bool();
    if (const Value* value = template_->find("reasoning_effort"); value && value->is_string() && !effort)
      set_effort("chat_template_kwargs.reasoning_effort", value->as_string());
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

void read_sampling(Body& body, const RequestRules& rules, Turn& turn) {
  const auto ranged = [&](const char* key, float& out, double low, double high, bool open, const char* range) {
    const auto value = body.number(key);
    if (!value) return;
    if (!(*value >= low && *value <= high) || (open && *value == low))
      return body.fail(invalid(fmt::format("Invalid {} value, the valid range of {} is {}", key, key, range), key));
    out = static_cast<float>(*value);
  };
  sample::Options& s = turn.sampling;
  ranged("temperature", s.temperature, 0, 2, false, "[0, 2]");
  ranged("top_p", s.top_p, 0, 1, true, "(0, 1.0]");
  ranged("min_p", s.min_p, 0, 1, false, "[0, 1]");
  ranged("repetition_penalty", s.repetition_penalty, 0, 100, true, "(0, 100]");
  ranged("frequency_penalty", s.frequency_penalty, -2, 2, false, "[-2, 2]");
  ranged("presence_penalty", s.presence_penalty, -2, 2, false, "[-2, 2]");
  if (const auto k = body.integer("top_k")) s.top_k = static_cast<int>(std::clamp<int64_t>(*k, 0, 1 << 30));
  if (const auto seed = body.integer("seed")) {
    s.seed = static_cast<uint64_t>(*seed);
    turn.seeded = true;
  }
  if (rules.strict) {  // the original has neither penalties nor, while it thinks, a temperature
    s.frequency_penalty = s.presence_penalty = 0;
    if (turn.thinks()) {
      s.temperature = 1;
      s.top_p = std::max(s.top_p, 0.95f);
    } else {
      s.top_p = 1;
    }
  }
  if (const auto n = body.integer("n"); n && *n != 1)
    body.fail(invalid("Invalid n value (currently only n = 1 is supported)", "n"));

  for (const char* key : {"max_tokens", "max_completion_tokens"}) {
    auto value = body.integer(key);
    if (!value) continue;
    if (rules.clamp_max_tokens && *value > kMostOutput) value = kMostOutput;
    if (*value < 1 || *value > kMostOutput) {
      body.fail(
          invalid(fmt::format("Invalid max_tokens value, the valid range of max_tokens is [1, {}]", kMostOutput), key));
    } else {
      turn.max_tokens = std::min(*value, turn.max_tokens.value_or(*value));
    }
  }

  if (const Value* stop = body.find("stop")) {
    const json::Array list = stop->is_array() ? stop->as_array() : json::Array{*stop};
    for (const Value& one : list) {
      if (!one.is_string()) return body.mistype("stop", one, "a string or a sequence of strings");
      if (!one.as_string().empty()) turn.stop.push_back(one.as_string());
    }
    size_t bytes = 0;
    for (const std::string& one : turn.stop) bytes += one.size();
    if (bytes > kMostStopBytes)
      body.fail(invalid(
          fmt::format("Invalid stop value, at most {} bytes are supported, found {}", kMostStopBytes, bytes), "stop"));
    if (turn.stop.size() > kMostStops)
      body.fail(invalid(fmt::format("Invalid stop value, at most {} are supported", kMostStops), "stop"));
  }

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

// Names of other services may be anything, of any length: what counts is that the same name gives the same one.
std::string namespace_of(const std::string& name) {
  unsigned char digest[32];
  unsigned int size = 0;
  EVP_Digest(name.data(), name.size(), digest, &size, EVP_sha256(), nullptr);
  std::string hex;
  for (size_t i = 0; i < 16; ++i) hex += fmt::format("{:02x}", digest[i]);
  return hex;
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

std::optional<Effort> effort_by_name(std::string_view name) {
  if (name == "none" || name == "off") return Effort::kOff;
  if (name == "minimal" || name == "low") return Effort::kLow;
  if (name == "medium" || name == "high" || name == "xhigh") return Effort::kHigh;
  if (name == "max" || name == "ultra") return Effort::kMax;
  return std::nullopt;
}

std::string content_text(const Value* content, std::string_view between) {
  if (!content || content->is_null()) return "";
  if (content->is_string()) return content->as_string();
  std::string all;
  if (!content->is_array()) return all;
  bool first = true;
  for (const Value& part : content->as_array()) {
    if (!first) all += between;
    first = false;
    if (part.is_string()) {
      all += part.as_string();
      continue;
    }
    const Value* text = part.find("text");
    const Value* type = part.find("type");
    const std::string kind = type && type->is_string() ? type->as_string() : "part";
    const bool is_text = kind == "text" || kind == "input_text" || kind == "output_text" || !type;
    if (is_text && text && text->is_string()) {
      all += text->as_string();
    } else if (!is_text) {
      const bool is_image = kind == "image_url" || kind == "input_image" || kind == "image";
      all += fmt::format("[Unsupported {}]", is_image ? "image" : kind);
    }
  }
  return all;
}

std::variant<Turn, ApiError> read_chat_request(const Value& root, const RequestRules& rules) {
  Body body(root, "");
  if (body.error()) return *body.error();
  Turn turn;
  const auto asked = body.text("model");
  if (!body.error() && !asked) body.refuse("", "missing field `model`");
  std::optional<ModelName> model;
  if (asked) {
    model = find_model(*asked, rules.model, rules.any_model, rules.strict);
    if (!model) body.fail({.message = "Model Not Exist", .param = "model"});
  }
  if (model) turn.model = model->name;
  read_thinking(body, !model || model->thinks, turn);

  const json::Array* messages = body.list("messages");
  if (!body.error() && !messages) body.refuse("", "missing field `messages`");
  if (messages && messages->empty()) body.fail(invalid("Empty input messages", "messages"));
  for (size_t i = 0; messages && !body.error() && i < messages->size(); ++i)
    read_message(body, (*messages)[i], fmt::format("messages[{}]", i), i + 1 == messages->size(), rules, turn);
  if (const auto task = body.text("task"); task && !turn.messages.empty()) turn.messages.back().set("task", *task);

  read_tools(body, rules, turn);
  turn.parallel_calls = body.flag("parallel_tool_calls").value_or(true);
  read_format(body, turn);
  read_sampling(body, rules, turn);
  read_user(body, turn);
  turn.stream = body.flag("stream").value_or(false);
  if (const Value* options = body.object("stream_options"))
    if (const Value* usage = options->find("include_usage")) turn.include_usage = usage->is_bool() && usage->as_bool();
  if (const Value* usage = body.find("usage"))
    if (const Value* include = usage->find("include")) turn.with_cost = include->is_bool() && include->as_bool();
  if (body.error()) return *body.error();
  return turn;
}

}  // namespace hadal::serve
