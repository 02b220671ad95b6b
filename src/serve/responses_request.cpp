// Responses bodies (api.md 1.11.1, 1.11.2) and FIM completions (1.8).
#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "serve/request_fields.h"

namespace hadal::serve {
namespace {

using json::Value;

// Items into messages: an assistant's turn gathers reasoning, text and calls until somebody else speaks.
class Items {
 public:
  explicit Items(Turn& turn) : turn_(turn) {}

  void say(const std::string& role, const std::string& text) {
    end_turn();
    if (role == "user") spoken_ = true;
    // Whatever instructs before anyone has spoken is the system's; later the model knows users only.
    turn_.messages.push_back(json::Object{{"role", role == "user" || spoken_ ? "user" : "system"}, {"content", text}});
  }
  void answer(const std::string& text, bool is_open) {
    if (!calls_.empty()) end_turn();
    spoken_ = has_turn_ = true;
    if (!content_.empty() && !text.empty()) content_ += "\n\n";
    content_ += text;
    is_open_ = is_open;
  }
  void think(const std::string& text) {
    if (!calls_.empty()) end_turn();
    spoken_ = has_turn_ = true;
    reasoning_ = reasoning_.value_or("") + text;
  }
  bool call(const std::string& id, const std::string& name, Value arguments) {
    spoken_ = has_turn_ = true;
    calls_.push_back(json::Object{{"id", id},
                                  {"type", "function"},
                                  {"function", json::Object{{"name", name}, {"arguments", std::move(arguments)}}}});
    return ids_.insert(id).second;
  }
  bool result(const std::string& id, const std::string& text) {
    end_turn();
    turn_.messages.push_back(json::Object{{"role", "tool"}, {"tool_call_id", id}, {"content", text}});
    return ids_.contains(id);
  }
  void end() { end_turn(true); }

 private:
  void end_turn(bool is_last = false) {
    if (!has_turn_) return;
    json::Object message{{"role", "assistant"}, {"content", std::exchange(content_, {})}};
    if (reasoning_) message.emplace_back("reasoning_content", *reasoning_);
    if (!calls_.empty()) message.emplace_back("tool_calls", std::exchange(calls_, {}));
    if (is_last && is_open_) message.emplace_back("prefix", true);
    reasoning_.reset();
    has_turn_ = is_open_ = false;
    turn_.messages.emplace_back(std::move(message));
  }

  Turn& turn_;
  std::set<std::string> ids_;
  bool spoken_ = false, has_turn_ = false, is_open_ = false;
  std::string content_;
  std::optional<std::string> reasoning_;
  json::Array calls_;
};

std::string full_name(const std::string& space, const std::string& name) {
  return space.empty() ? name : space.ends_with("__") ? space + name : space + "__" + name;
}

std::string parts_text(const Value* parts) {
  std::string all;
  if (parts && parts->is_array())
    for (const Value& part : parts->as_array()) all += word_of(part, "text");
  return all;
}

// A tool of any type that the client runs becomes a function; what others run is left out.
void read_tool(Body& body, const Value& tool, const std::string& path, const std::string& space, Turn& turn,
               ResponseEcho& echo) {
  Body fields(tool, path);
  if (fields.error()) return body.fail(*fields.error());
  const std::string type = fields.text("type").value_or("function");
  const auto add = [&](std::string name, const Value* description, Value parameters) {
    json::Object function{{"name", name}};
    if (description && description->is_string()) function.emplace_back("description", *description);
    function.emplace_back("parameters", std::move(parameters));
    add_tool(body, function, path, turn);
  };
  const auto object_of = [](json::Object properties, json::Array required) {
    return json::Object{{"type", "object"}, {"properties", std::move(properties)}, {"required", std::move(required)}};
  };
  if (type == "namespace") {
    const std::string name = word_of(tool, "name");
    if (const json::Array* tools = fields.list("tools"))
      for (size_t i = 0; i < tools->size() && !body.error(); ++i)
        read_tool(body, (*tools)[i], fmt::format("{}.tools[{}]", path, i), name, turn, echo);
  } else if (type == "function") {
    const Value* nested = tool.find("function");  // Chat's form is understood too
    const Value& function = nested && nested->is_object() ? *nested : tool;
    const std::string name = word_of(function, "name");
    const Value* parameters = function.find("parameters");
    if (parameters && parameters->is_null()) parameters = nullptr;
    if (parameters && !parameters->is_object()) return body.mistype("tools", *parameters, "a map");
    if (!space.empty()) echo.origins[full_name(space, name)] = {.name = name, .space = space};
    add(full_name(space, name), function.find("description"),
        parameters ? *parameters : Value(json::Object{{"type", "object"}, {"properties", json::Object{}}}));
    if (const Value* strict = function.find("strict"); strict && strict->is_bool() && strict->as_bool())
      turn.strict_tools.push_back(full_name(space, name));
  } else if (type == "custom") {
    const std::string name = word_of(tool, "name");
    std::string description = word_of(tool, "description");
    if (const Value* format = tool.find("format"); format && word_of(*format, "type") == "grammar")
      description += fmt::format("\n\nThe input follows this {} grammar:\n{}", word_of(*format, "syntax"),
                                 word_of(*format, "definition"));
    const Value described(description);
    echo.origins[full_name(space, name)] = {.name = name, .space = space, .is_custom = true};
    add(full_name(space, name), &described,
        object_of({{"input", json::Object{{"type", "string"}}}}, json::Array{"input"}));
  } else if (type == "tool_search") {
    const Value* parameters = tool.find("parameters");
    const Value described("Find tools that are not listed here.");
    const Value* description = tool.find("description");
    echo.origins["tool_search"] = {.name = "tool_search", .space = "", .is_search = true};
    add("tool_search", description ? description : &described,
        parameters && parameters->is_object()
            ? *parameters
            : Value(object_of({{"query", json::Object{{"type", "string"}}}}, json::Array{"query"})));
  } else if (type == "local_shell") {
    const Value described("Run a command on the user's machine.");
    add("local_shell", &described,
        object_of({{"command", json::Object{{"type", "array"}, {"items", json::Object{{"type", "string"}}}}},
                   {"working_directory", json::Object{{"type", "string"}}},
                   {"timeout_ms", json::Object{{"type", "integer"}}}},
                  json::Array{"command"}));
  }
}

void read_item(Body& body, const Value& item, const std::string& path, Items& items, Turn& turn, ResponseEcho& echo) {
  Body fields(item, path);
  if (fields.error()) return body.fail(*fields.error());
  const std::string role = word_of(item, "role");
  const std::string type = fields.text("type").value_or(role.empty() ? "" : "message");
  const auto id_of = [&] {
    const auto id = fields.text("call_id");
    if (!fields.error() && (!id || id->empty())) fields.refuse("", "missing field `call_id`");
    return id.value_or("");
  };
  const auto call = [&](const std::string& id, const std::string& name, Value arguments) {
    if (!items.call(id, name, std::move(arguments)))
      fields.fail(invalid(fmt::format("Invalid '{}.call_id': '{}' is there twice", path, id), path + ".call_id"));
  };
  if (type == "message") {
    if (role != "user" && role != "assistant" && role != "system" && role != "developer")
      fields.refuse("role", fmt::format("unknown variant `{}`, expected one of `user`, `assistant`, `system`, "
                                        "`developer`",
                                        role));
    const Value* content = fields.find("content");
    if (content && !content->is_string() && !content->is_array())
      fields.mistype("content", *content, "a string or a sequence of parts");
    if (fields.error()) return body.fail(*fields.error());
    if (role == "assistant") {
      items.answer(content_text(content, ""), word_of(item, "status") == "in_progress");
    } else {
      items.say(role, content_text(content, "\n\n"));
    }
  } else if (type == "reasoning") {
    std::string text = parts_text(item.find("content"));
    if (text.empty()) text = parts_text(item.find("summary"));
    items.think(text);
  } else if (type == "function_call") {
    const Value* arguments = fields.find("arguments");
    call(id_of(), full_name(word_of(item, "namespace"), word_of(item, "name")), arguments ? *arguments : Value("{}"));
  } else if (type == "custom_tool_call") {
    call(id_of(), full_name(word_of(item, "namespace"), word_of(item, "name")),
         json::Object{{"input", word_of(item, "input")}});
  } else if (type == "local_shell_call") {
    const Value* action = fields.find("action");
    call(id_of(), "local_shell", action && action->is_object() ? *action : Value(json::Object{}));
  } else if (type == "tool_search_call") {
    const Value* arguments = fields.find("arguments");
    if (fields.find("call_id")) call(id_of(), "tool_search", arguments ? *arguments : Value(json::Object{}));
  } else if (type == "function_call_output" || type == "custom_tool_call_output" || type == "local_shell_call_output" ||
             type == "tool_search_output") {
    const bool is_search = type == "tool_search_output";
    if (is_search && !fields.find("call_id")) return;
    const std::string id = id_of();
    const Value* found = is_search ? item.find("tools") : nullptr;
    // Searches find the same tools again, and more than fit: those that are there already stay.
    if (found && found->is_array())
      for (size_t i = 0; i < found->as_array().size() && !body.error() && turn.tools.size() < kMostTools; ++i)
        if (!has_tool(turn, word_of(found->as_array()[i], "name")))
          read_tool(body, found->as_array()[i], fmt::format("{}.tools[{}]", path, i), "", turn, echo);
    const Value* output = is_search ? item.find("tools") : fields.find("output");
    const bool is_text = !output || output->is_string() || output->is_array();
    const std::string text = is_search && output ? json::dump(*output)
                             : is_text           ? content_text(output, "\n\n")
                                                 : json::dump(*output);
    if (!fields.error() && !items.result(id, text))
      fields.fail(invalid(fmt::format("No tool call found for function call output with call_id {}.", id), path));
  } else if (type == "item_reference") {
    fields.fail(invalid("item_reference is not supported; send the item itself", path));
  }
  // Others, which servers ran or clients keep for themselves, say nothing to a model.
  if (fields.error()) body.fail(*fields.error());
}

void read_choice(Body& body, const RequestRules& rules, Turn& turn) {
  if (const Value* choice = body.find("tool_choice")) {
    if (choice->is_string()) {
      const std::string& word = choice->as_string();
      if (word == "none") {
        turn.tool_choice.kind = ToolChoice::Kind::kNone;
      } else if (word == "required") {
        turn.tool_choice.kind = ToolChoice::Kind::kRequired;
      } else if (word != "auto") {
        body.refuse("tool_choice",
                    fmt::format("unknown variant `{}`, expected one of `none`, `auto`, `required`", word));
      }
    } else if (choice->is_object()) {
      const std::string name = full_name(word_of(*choice, "namespace"), word_of(*choice, "name"));
      if (!name.empty()) turn.tool_choice = {ToolChoice::Kind::kNamed, name};
    } else {
      body.mistype("tool_choice", *choice, "a string or a map");
    }
  }
  check_choice(body, rules, turn);
}

void read_format(Body& body, Turn& turn) {
  const Value* text = body.object("text");
  const Value* format = text ? text->find("format") : nullptr;
  if (!format || format->is_null()) return;
  Body fields(*format, "text.format");
  const std::string type = fields.text("type").value_or("");
  if (type == "json_object") {
    turn.format.kind = OutputFormat::Kind::kJsonObject;
  } else if (type == "json_schema") {
    turn.format.kind = OutputFormat::Kind::kJsonSchema;
    const Value* schema = fields.object("schema");
    turn.format.schema = schema ? *schema : Value(json::Object{});
    turn.format.strict = fields.flag("strict").value_or(false);
  } else if (type != "text") {
    fields.refuse("type",
                  fmt::format("unknown variant `{}`, expected one of `text`, `json_object`, `json_schema`", type));
  }
  if (fields.error()) body.fail(*fields.error());
}

// What the response repeats of the request, in the order in which it is written.
// Asked for by a number of alternatives, or by name, without any.
void read_logprobs(Body& body, Turn& turn) {
  if (const auto top = body.integer("top_logprobs")) {
    if (*top < 0 || *top > 20)
      body.fail(invalid("Invalid top_logprobs value, the valid range of top_logprobs is [0, 20]", "top_logprobs"));
    turn.logprobs = *top > 0;
    turn.sampling.n_logprobs = static_cast<int>(*top);
  }
  if (const Value* include = body.find("include"); include && include->is_array())
    for (const Value& name : include->as_array())
      turn.logprobs |= name.is_string() && name.as_string() == "message.output_text.logprobs";
  turn.sampling.n_logprobs = turn.logprobs ? std::max(0, turn.sampling.n_logprobs) : -1;
}

json::Object echo_of(const Value& root, const Turn& turn) {
  const auto given = [&](std::string_view key, Value otherwise = {}) {
    const Value* value = root.find(key);
    return value && !value->is_null() ? *value : std::move(otherwise);
  };
  static constexpr const char* kEfforts[] = {"none", "low", "high", "max"};
  json::Object text{{"format", json::Object{{"type", "text"}}}, {"verbosity", "medium"}};
  if (const Value* asked = root.find("text"); asked && asked->is_object())
    for (auto& [key, value] : text)
      if (const Value* own = asked->find(key); own && !own->is_null()) value = *own;
  return {{"instructions", given("instructions")},
          {"max_output_tokens", given("max_output_tokens")},
          {"max_tool_calls", Value()},
          {"parallel_tool_calls", turn.parallel_calls},
          {"previous_response_id", Value()},
          {"prompt_cache_key", given("prompt_cache_key")},
          {"reasoning", json::Object{{"effort", kEfforts[static_cast<size_t>(turn.effort)]}, {"summary", Value()}}},
          {"safety_identifier", Value()},
          {"service_tier", "default"},
          {"store", false},
          {"temperature", static_cast<double>(turn.sampling.temperature)},
          {"text", std::move(text)},
          {"tool_choice", given("tool_choice", "auto")},
          {"tools", given("tools", json::Array{})},
          {"top_logprobs", std::max(0, turn.sampling.n_logprobs)},
          {"top_p", static_cast<double>(turn.sampling.top_p)},
          {"truncation", "disabled"},
          {"user", Value()},
          {"metadata", given("metadata", json::Object{})}};
}

}  // namespace

std::variant<ResponsesRequest, ApiError> read_responses_request(const Value& root, const RequestRules& rules) {
  Body body(root, "");
  if (body.error()) return *body.error();
  ResponsesRequest request;
  Turn& turn = request.turn;
  const auto model = read_model(body, rules, turn);
  std::optional<Effort> effort;
  if (const Value* reasoning = body.object("reasoning")) {
    Body fields(*reasoning, "reasoning");
    effort = read_effort(fields, "effort");
    if (fields.error()) body.fail(*fields.error());
  }
  turn.effort = effort ? *effort : !model || model->thinks ? Effort::kHigh : Effort::kOff;
  for (const char* key : {"previous_response_id", "conversation"})
    if (body.find(key)) body.fail(invalid(fmt::format("{} is not supported; send the full input instead", key), key));

  Items items(turn);
  const auto instructions = body.text("instructions");
  if (instructions) items.say("system", *instructions);
  const Value* input = body.find("input");
  if (!body.error() && !instructions && !input) body.refuse("", "missing field `input`");
  if (const json::Array* tools = body.list("tools"))
    for (size_t i = 0; i < tools->size() && !body.error(); ++i)
      read_tool(body, (*tools)[i], fmt::format("tools[{}]", i), "", turn, request.echo);
  if (input && input->is_string()) {
    items.say("user", input->as_string());
  } else if (input && input->is_array()) {
    for (size_t i = 0; i < input->as_array().size() && !body.error(); ++i)
      read_item(body, input->as_array()[i], fmt::format("input[{}]", i), items, turn, request.echo);
  } else if (input) {
    body.mistype("input", *input, "a string or a sequence of items");
  }
  items.end();
  read_choice(body, rules, turn);
  turn.parallel_calls = body.flag("parallel_tool_calls").value_or(true);
  read_format(body, turn);
  read_sampling(body, rules, turn);
  read_logprobs(body, turn);
  read_limit(body, "max_output_tokens", kMostOutput, rules, turn);
  if (const Value* user = body.find("user"); user && user->is_string()) turn.user = namespace_of(user->as_string());
  turn.stream = body.flag("stream").value_or(false);
  read_usage(body, turn);
  if (body.error()) return *body.error();
  request.echo.fields = echo_of(root, turn);
  return request;
}

std::variant<CompletionRequest, ApiError> read_completion_request(const Value& root, const RequestRules& rules) {
  Body body(root, "");
  if (body.error()) return *body.error();
  CompletionRequest request;
  Turn& turn = request.turn;
  read_model(body, rules, turn);
  turn.effort = Effort::kOff;
  const Value* prompt = body.require("prompt");
  if (prompt && prompt->is_array() && prompt->as_array().size() == 1) prompt = &prompt->as_array()[0];
  if (prompt && prompt->is_string()) {
    request.prompt = prompt->as_string();
  } else if (prompt) {
    body.mistype("prompt", *prompt, "a string");
  }
  request.suffix = body.text("suffix");
  request.echo = body.flag("echo").value_or(false);
  turn.max_tokens.reset();
  read_limit(body, "max_tokens", kMostCompletion, rules, turn);
  if (!turn.max_tokens) turn.max_tokens = kMostCompletion;
  read_sampling(body, rules, turn);
  turn.sampling.frequency_penalty = turn.sampling.presence_penalty = 0;
  read_stop(body, "stop", turn);
  if (const auto n = body.integer("n"); n && *n != 1)
    body.fail(invalid("Invalid n value (currently only n = 1 is supported)", "n"));
  if (const auto logprobs = body.integer("logprobs")) {
    if (*logprobs < 0 || *logprobs > 20)
      body.fail(invalid("Invalid logprobs value, the valid range of logprobs is [0, 20]", "logprobs"));
    turn.logprobs = true;
    turn.sampling.n_logprobs = static_cast<int>(*logprobs);
  }
  for (const char* key : {"user_id", "user"})
    if (const Value* user = body.find(key); user && user->is_string()) turn.user = namespace_of(user->as_string());
  turn.stream = body.flag("stream").value_or(false);
  read_usage(body, turn);
  if (const Value* options = body.object("stream_options"))
    if (const Value* usage = options->find("include_usage")) turn.include_usage = usage->is_bool() && usage->as_bool();
  if (body.error()) return *body.error();
  return request;
}

}  // namespace hadal::serve
