#include "serve/request_fields.h"

#include <fmt/format.h>
#include <openssl/evp.h>

#include <algorithm>

namespace hadal::serve {
namespace {

using json::Value;

bool is_tool_name(std::string_view name) {
  return !name.empty() && name.size() <= 128 && std::all_of(name.begin(), name.end(), [](unsigned char c) {
    return std::isalnum(c) || c == '_' || c == '-' || c == '.' || c == ':';
  });
}

}  // namespace

bool has_tool(const Turn& turn, std::string_view name) {
  return std::any_of(turn.tools.begin(), turn.tools.end(), [&](const Value& tool) {
    const Value* found = tool.find("name");
    return found && found->is_string() && found->as_string() == name;
  });
}

std::optional<ModelName> read_model(Body& body, const RequestRules& rules, Turn& turn) {
  const auto asked = body.text("model");
  if (!body.error() && !asked) body.refuse("", "missing field `model`");
  if (!asked) return std::nullopt;
  auto model = find_model(*asked, rules.model, rules.any_model, rules.strict);
  if (model) {
    turn.model = model->name;
    turn.retired = model->retired;
  } else {
    body.fail({.message = "Model Not Exist", .param = "model"});
  }
  return model;
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
}

void read_limit(Body& body, std::string_view key, int64_t most, const RequestRules& rules, Turn& turn) {
  auto value = body.integer(key);
  if (!value) return;
  if (rules.clamp_max_tokens && *value > most) value = most;
  if (*value < 1 || *value > most) {
    body.fail(invalid(fmt::format("Invalid max_tokens value, the valid range of max_tokens is [1, {}]", most),
                      std::string(key)));
  } else {
    turn.max_tokens = std::min(*value, turn.max_tokens.value_or(*value));
  }
}

void read_usage(Body& body, Turn& turn) {
  if (const Value* usage = body.find("usage"))
    if (const Value* include = usage->find("include")) turn.with_cost = include->is_bool() && include->as_bool();
}

void read_stop(Body& body, std::string_view key, Turn& turn) {
  const Value* stop = body.find(key);
  if (!stop) return;
  const json::Array list = stop->is_array() ? stop->as_array() : json::Array{*stop};
  size_t bytes = 0;
  for (const Value& one : list) {
    if (!one.is_string()) return body.mistype(key, one, "a string or a sequence of strings");
    if (!one.as_string().empty()) turn.stop.push_back(one.as_string());
    bytes += one.as_string().size();
  }
  if (bytes > kMostStopBytes)
    body.fail(
        invalid(fmt::format("Invalid {} value, at most {} bytes are supported, found {}", key, kMostStopBytes, bytes),
                std::string(key)));
  if (turn.stop.size() > kMostStops)
    body.fail(invalid(fmt::format("Invalid {} value, at most {} are supported", key, kMostStops), std::string(key)));
}

void add_tool(Body& body, const Value& function, const std::string& path, Turn& turn) {
  Body fields(function, path);
  const auto name = fields.text("name");
  if (!fields.error() && !name) fields.refuse("", "missing field `name`");
  if (name && !is_tool_name(*name))
    fields.fail(invalid(
        fmt::format("Invalid '{}.name': expected 1 to 128 letters, digits, '_' or '-', found '{}'", path, *name),
        fields.path("name")));
  if (name && has_tool(turn, *name))
    fields.fail(invalid(fmt::format("Invalid '{}.name': '{}' is there twice", path, *name), fields.path("name")));
  if (turn.tools.size() == kMostTools)
    fields.fail(invalid(fmt::format("Invalid 'tools': expected at most {}", kMostTools), "tools"));
  if (fields.error()) return body.fail(*fields.error());
  turn.tools.push_back(function);
}

void check_choice(Body& body, const RequestRules& rules, Turn& turn) {
  const ToolChoice& choice = turn.tool_choice;
  const bool forced = choice.kind == ToolChoice::Kind::kRequired || choice.kind == ToolChoice::Kind::kNamed;
  if (forced && turn.tools.empty())
    body.fail(invalid("Invalid 'tool_choice': it asks for a tool and there are no tools", "tool_choice"));
  if (choice.kind == ToolChoice::Kind::kNamed && !has_tool(turn, choice.name))
    body.fail(invalid(fmt::format("Invalid 'tool_choice': no tool is named '{}'", choice.name), "tool_choice"));
  if (forced && turn.thinks() && rules.strict)
    body.fail(invalid("Thinking mode does not support this tool_choice", "tool_choice"));
}

std::optional<Effort> read_effort(Body& body, std::string_view key) {
  const auto name = body.text(key);
  if (!name) return std::nullopt;
  const auto effort = effort_by_name(*name);
  if (!effort)
    body.refuse(key, fmt::format("unknown variant `{}`, expected one of `none`, `minimal`, `low`, `medium`, `high`, "
                                 "`xhigh`, `max`",
                                 *name));
  return effort;
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

std::optional<Effort> effort_by_name(std::string_view name) {
  if (name == "none" || name == "off") return Effort::kOff;
  if (name == "minimal" || name == "low") return Effort::kLow;
  if (name == "medium" || name == "high" || name == "xhigh") return Effort::kHigh;
  if (name == "max" || name == "ultra") return Effort::kMax;
  return std::nullopt;
}

std::string word_of(const Value& object, std::string_view key) {
  const Value* value = object.find(key);
  return value && value->is_string() ? value->as_string() : "";
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
    if (!text) text = part.find("refusal");
    const Value* type = part.find("type");
    const std::string kind = type && type->is_string() ? type->as_string() : "part";
    const bool is_text = kind == "text" || kind == "input_text" || kind == "output_text" || kind == "refusal" || !type;
    if (is_text && text && text->is_string()) {
      all += text->as_string();
    } else if (!is_text) {
      const bool is_image = kind == "image_url" || kind == "input_image" || kind == "image";
      all += fmt::format("[Unsupported {}]", is_image ? "image" : kind);
    }
  }
  return all;
}

}  // namespace hadal::serve
