// Anthropic Messages bodies (api.md 1.10.1).
#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <string_view>

#include "serve/request_fields.h"

namespace hadal::serve {
namespace {

using json::Value;

// A block as text; what is none is named.
std::string block_text(const Value& block) {
  if (block.is_string()) return block.as_string();
  const std::string type = word_of(block, "type");
  if (type == "text" || type.empty()) return word_of(block, "text");
  if (type == "document")
    if (const Value* source = block.find("source"); source && word_of(*source, "type") == "text")
      return word_of(*source, "data");
  return fmt::format("[Unsupported {}]", type);
}
std::string blocks_text(const Value* content) {
  if (!content || content->is_null()) return "";
  if (!content->is_array()) return content->is_string() ? content->as_string() : "";
  std::string all;
  for (const Value& block : content->as_array()) {
    if (!all.empty()) all += "\n\n";
    all += block_text(block);
  }
  return all;
}

void read_system(Body& body, Turn& turn) {
  const Value* system = body.find("system");
  if (!system) return;
  if (!system->is_string() && !system->is_array()) return body.mistype("system", *system, "a string or a sequence");
  Value kept = *system;
  // Telemetry that changes with every request, and would spoil every shared prefix.
  if (kept.is_array())
    std::erase_if(kept.as_array(),
                  [](const Value& block) { return block_text(block).starts_with("x-anthropic-billing-header:"); });
  turn.messages.push_back(json::Object{{"role", "system"}, {"content", blocks_text(&kept)}});
}

void read_user_blocks(Body& fields, const json::Array& blocks, Turn& turn) {
  std::optional<std::string> text;
  const auto flush = [&] {
    if (text) turn.messages.push_back(json::Object{{"role", "user"}, {"content", *text}});
    text.reset();
  };
  for (size_t i = 0; i < blocks.size(); ++i) {
    if (word_of(blocks[i], "type") != "tool_result") {
      if (text) {
        *text += "\n\n";
        *text += block_text(blocks[i]);
      } else {
        text = block_text(blocks[i]);
      }
      continue;
    }
    flush();
    Body block(blocks[i], fmt::format("{}[{}]", fields.path("content"), i));
    const auto id = block.text("tool_use_id");
    if (!block.error() && !id) block.refuse("", "missing field `tool_use_id`");
    if (block.error()) return fields.fail(*block.error());
    turn.messages.push_back(
        json::Object{{"role", "tool"}, {"tool_call_id", *id}, {"content", blocks_text(block.find("content"))}});
  }
  flush();
}

void read_assistant_blocks(Body& fields, const json::Array& blocks, Turn& turn) {
  std::string text;
  std::optional<std::string> reasoning;
  json::Array calls;
  for (size_t i = 0; i < blocks.size(); ++i) {
    Body block(blocks[i], fmt::format("{}[{}]", fields.path("content"), i));
    if (block.error()) return fields.fail(*block.error());
    const std::string type = word_of(blocks[i], "type");
    if (type == "thinking") {
      reasoning = reasoning.value_or("") + word_of(blocks[i], "thinking");
    } else if (type == "tool_use") {
      const auto id = block.text("id"), name = block.text("name");
      if (!block.error() && !id) block.refuse("", "missing field `id`");
      if (!block.error() && !name) block.refuse("", "missing field `name`");
      if (block.error()) return fields.fail(*block.error());
      const Value* input = block.find("input");
      calls.push_back(json::Object{
          {"id", *id},
          {"type", "function"},
          {"function", json::Object{{"name", *name}, {"arguments", input ? *input : Value(json::Object{})}}}});
    } else if (type != "redacted_thinking") {
      text += block_text(blocks[i]);
    }
  }
  json::Object message{{"role", "assistant"}, {"content", std::move(text)}};
  if (reasoning) message.emplace_back("reasoning_content", std::move(*reasoning));
  if (!calls.empty()) message.emplace_back("tool_calls", std::move(calls));
  turn.messages.emplace_back(std::move(message));
}

void read_message(Body& body, const Value& message, const std::string& path, bool is_last, Turn& turn) {
  Body fields(message, path);
  const std::string role = fields.text("role").value_or("");
  if (!fields.error() && role != "user" && role != "assistant" && role != "system")
    fields.refuse("role", fmt::format("unknown variant `{}`, expected one of `user`, `assistant`, `system`", role));
  const Value* content = fields.find("content");
  if (!fields.error() && !content) fields.refuse("", "missing field `content`");
  if (content && !content->is_string() && !content->is_array())
    fields.mistype("content", *content, "a string or a sequence of blocks");
  if (fields.error()) return body.fail(*fields.error());
  if (role == "system" || content->is_string()) {
    turn.messages.push_back(json::Object{{"role", role}, {"content", blocks_text(content)}});
  } else if (role == "user") {
    read_user_blocks(fields, content->as_array(), turn);
  } else {
    read_assistant_blocks(fields, content->as_array(), turn);
  }
  if (fields.error()) return body.fail(*fields.error());
  // The last word of an assistant is what the answer goes on from; calls without results are history, and refused.
  if (is_last && role == "assistant" && !turn.messages.back().find("tool_calls"))
    turn.messages.back().set("prefix", true);
}

// Tools that Anthropic defines and the client runs: the model sees their parameters written out.
const Value* defined_tool(const std::string& type) {
  static const Value kBash = json::parse(R"({"name":"bash","description":"Run a command in a bash shell.",
    "parameters":{"type":"object","properties":{"command":{"type":"string"},"restart":{"type":"boolean"}}}})")
                                 .value();
  static const Value kEditor =
      json::parse(R"({"name":"str_replace_based_edit_tool","description":"View, create and edit text files.",
    "parameters":{"type":"object","properties":{
      "command":{"type":"string","enum":["view","create","str_replace","insert"]},"path":{"type":"string"},
      "file_text":{"type":"string"},"old_str":{"type":"string"},"new_str":{"type":"string"},
      "insert_line":{"type":"integer"},"insert_text":{"type":"string"},
      "view_range":{"type":"array","items":{"type":"integer"}}},"required":["command","path"]}})")
          .value();
  return type.starts_with("bash_") ? &kBash : type.starts_with("text_editor_") ? &kEditor : nullptr;
}

void read_tools(Body& body, const RequestRules& rules, Turn& turn) {
  if (const json::Array* tools = body.list("tools")) {
    for (size_t i = 0; i < tools->size() && !body.error(); ++i) {
      Body tool((*tools)[i], fmt::format("tools[{}]", i));
      const std::string type = tool.text("type").value_or("custom");
      if (type != "custom") {
        if (const Value* defined = defined_tool(type)) {
          Value named = *defined;
          if (const auto name = tool.text("name")) named.set("name", *name);
          add_tool(body, named, tool.path(""), turn);
        }
        continue;  // the others run on Anthropic's servers: nothing we could do
      }
      const Value* schema = tool.object("input_schema");
      if (tool.error()) return body.fail(*tool.error());
      json::Object function;
      if (const Value* name = tool.find("name")) function.emplace_back("name", *name);
      if (const auto description = tool.text("description")) function.emplace_back("description", *description);
      function.emplace_back("parameters",
                            schema ? *schema : Value(json::Object{{"type", "object"}, {"properties", json::Object{}}}));
      add_tool(body, function, tool.path(""), turn);
      if (tool.flag("strict").value_or(false) && !body.error())
        turn.strict_tools.push_back(function.front().second.as_string());
    }
  }
  if (const Value* choice = body.object("tool_choice")) {
    Body fields(*choice, "tool_choice");
    const std::string type = fields.text("type").value_or("");
    if (type == "any") {
      turn.tool_choice.kind = ToolChoice::Kind::kRequired;
    } else if (type == "none") {
      turn.tool_choice.kind = ToolChoice::Kind::kNone;
    } else if (type == "tool") {
      const auto name = fields.text("name");
      if (!name) fields.refuse("", "missing field `name`");
      turn.tool_choice = {ToolChoice::Kind::kNamed, name.value_or("")};
    } else if (type != "auto") {
      fields.refuse("type", fmt::format("unknown variant `{}`, expected one of `auto`, `any`, `tool`, `none`", type));
    }
    turn.parallel_calls = !fields.flag("disable_parallel_tool_use").value_or(false);
    if (fields.error()) return body.fail(*fields.error());
  }
  check_choice(body, rules, turn);
}

void read_thinking(Body& body, bool thinks_by_name, Turn& turn) {
  std::optional<Effort> effort;
  std::optional<bool> thinks;
  if (const Value* config = body.object("output_config")) {
    Body fields(*config, "output_config");
    effort = read_effort(fields, "effort");
    if (fields.error()) return body.fail(*fields.error());
  }
  if (const Value* thinking = body.object("thinking")) {
    Body fields(*thinking, "thinking");
    const std::string type = fields.text("type").value_or("");
    if (!fields.error() && type != "enabled" && type != "adaptive" && type != "disabled")
      fields.refuse("type",
                    fmt::format("unknown variant `{}`, expected one of `enabled`, `disabled`, `adaptive`", type));
    if (fields.error()) return body.fail(*fields.error());
    thinks = type != "disabled";
  }
  if (!thinks) thinks = effort ? *effort != Effort::kOff : thinks_by_name;
  turn.effort = !*thinks ? Effort::kOff : effort && *effort != Effort::kOff ? *effort : Effort::kHigh;
}

void read_format(Body& body, Turn& turn) {
  const Value* format = nullptr;
  if (const Value* config = body.object("output_config")) format = config->find("format");
  if (!format) format = body.object("output_format");  // its name while it was a beta
  if (!format || format->is_null()) return;
  Body fields(*format, "output_config.format");
  if (const std::string type = fields.text("type").value_or(""); type != "json_schema")
    fields.refuse("type", fmt::format("unknown variant `{}`, expected `json_schema`", type));
  if (const Value* schema = fields.object("schema")) turn.format.schema = *schema;
  if (!fields.error() && turn.format.schema.is_null()) fields.refuse("", "missing field `schema`");
  if (fields.error()) return body.fail(*fields.error());
  turn.format.kind = OutputFormat::Kind::kJsonSchema;
}

bool is_hex(std::string_view text) {
  return !text.empty() && text.find_first_not_of("0123456789abcdefABCDEF") == std::string_view::npos;
}
bool is_uuid(std::string_view text) {
  std::string digits;
  for (size_t i = 0; i < text.size(); ++i)
    if (text[i] != '-' || (i != 8 && i != 13 && i != 18 && i != 23)) digits += text[i];
  return text.size() == 36 && digits.size() == 32 && is_hex(digits);
}
// user_HEX_account_UUID_session_UUID, where the first UUID may be absent: up to its session. Else the whole.
std::string_view without_session(std::string_view id) {
  constexpr std::string_view kUser = "user_", kAccount = "_account_", kSession = "_session_";
  const size_t account = id.find(kAccount), session = id.rfind(kSession);
  if (!id.starts_with(kUser) || account == std::string_view::npos || session == std::string_view::npos) return id;
  const size_t begin = account + kAccount.size();
  if (account < kUser.size() || session < begin) return id;
  const std::string_view uuid = id.substr(begin, session - begin);
  const bool is_form = is_hex(id.substr(kUser.size(), account - kUser.size())) && (uuid.empty() || is_uuid(uuid)) &&
                       is_uuid(id.substr(session + kSession.size()));
  return is_form ? id.substr(0, session) : id;
}

// The session is no part of whose it is: two sessions of an agent share its system prompt (api.md 8). Only in the forms
// that Claude Code sends: what others call a session may be all that tells two users apart.
std::string user_of(const std::string& id) {
  if (auto parsed = json::parse(id);
      parsed.ok() && parsed.value().is_object() && !word_of(parsed.value(), "device_id").empty()) {
    json::Object rest;
    for (auto& [key, value] : parsed.value().as_object())
      if (key != "session_id") rest.emplace_back(key, std::move(value));
    return namespace_of(json::dump(rest));
  }
  return namespace_of(std::string(without_session(id)));
}

}  // namespace

std::variant<Turn, ApiError> read_messages_request(const Value& root, const RequestRules& rules, bool counts_only) {
  Body body(root, "");
  if (body.error()) return *body.error();
  Turn turn;
  const auto model = read_model(body, rules, turn);
  read_thinking(body, !model || model->thinks, turn);
  if (!body.error() && !counts_only && !body.find("max_tokens")) body.refuse("", "missing field `max_tokens`");
  read_limit(body, "max_tokens", kMostOutput, rules, turn);
  read_system(body, turn);
  const json::Array* messages = body.list("messages");
  if (!body.error() && !messages) body.refuse("", "missing field `messages`");
  if (messages && messages->empty()) body.fail(invalid("messages: at least one message is required", "messages"));
  for (size_t i = 0; messages && !body.error() && i < messages->size(); ++i)
    read_message(body, (*messages)[i], fmt::format("messages[{}]", i), i + 1 == messages->size(), turn);
  read_tools(body, rules, turn);
  read_format(body, turn);
  read_sampling(body, rules, turn);
  if (turn.thinks()) turn.sampling.top_k = 0;
  read_stop(body, "stop_sequences", turn);
  if (const Value* metadata = body.object("metadata"))
    if (const std::string id = word_of(*metadata, "user_id"); !id.empty()) turn.user = user_of(id);
  turn.stream = body.flag("stream").value_or(false);
  read_usage(body, turn);
  if (body.error()) return *body.error();
  return turn;
}

}  // namespace hadal::serve
