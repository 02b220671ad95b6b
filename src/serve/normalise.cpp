#include "serve/normalise.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <set>
#include <unordered_map>

#include "text/templates.h"

namespace hadal::serve {
namespace {

using json::Value;

std::string text_of(const Value& message, std::string_view key) {
  const Value* value = message.find(key);
  return value && value->is_string() ? value->as_string() : "";
}
bool is(const Value& message, std::string_view role) { return text_of(message, "role") == role; }
const json::Array& calls_of(const Value& message) {
  static const json::Array kNone;
  const Value* calls = message.find("tool_calls");
  return calls && calls->is_array() ? calls->as_array() : kNone;
}
Value message_of(const char* role, std::string content) {
  return json::Object{{"role", role}, {"content", std::move(content)}};
}

// A string that holds JSON is read once more; what is no object becomes {"arguments": it}. Text that is no JSON stays:
// the encoder has its own form for it.
std::string arguments_text(const Value& given) {
  const auto wrapped = [](const Value& value) { return json::dump(json::Object{{"arguments", value}}); };
  if (given.is_object()) return json::dump(given);
  if (!given.is_string()) return wrapped(given);
  const std::string& text = given.as_string();
  if (text.find_first_not_of(" \t\r\n") == std::string::npos) return "{}";
  const auto first = json::parse(text);
  if (!first.ok() || first.value().is_object()) return text;
  if (!first.value().is_string()) return wrapped(first.value());
  const auto second = json::parse(first.value().as_string());
  if (!second.ok()) return wrapped(first.value());
  return second.value().is_object() ? first.value().as_string() : wrapped(second.value());
}

// "</tool_result>" in a result would end it early for the model, which knows it as plain text.
std::string without_result_end(std::string text) {
  constexpr std::string_view kEnd = "</tool_result>";
  std::string out;
  size_t done = 0;
  for (size_t at = text.find(kEnd); at != std::string::npos; at = text.find(kEnd, done)) {
    out.append(text, done, at - done);
    out += "&lt;";
    done = at + 1;
  }
  return done == 0 ? std::move(text) : out.append(text, done);
}

// Leading systems become one; later ones, which the model has no place for, text of a user.
json::Array settle_roles(const json::Array& messages) {
  json::Array out;
  std::optional<std::string> system;
  bool leading = true;
  for (const Value& message : messages) {
    const bool instructs = is(message, "system") || is(message, "developer");
    leading = leading && instructs;
    if (leading) {
      if (system) {
        *system += "\n\n";
        *system += text_of(message, "content");
      } else {
        system = text_of(message, "content");
      }
    } else if (instructs) {
      out.push_back(message_of("user", text_of(message, "content")));
    } else {
      out.push_back(message);
    }
  }
  if (system) out.insert(out.begin(), message_of("system", *system));
  return out;
}

// Results follow their calls; what stands between comes after them.
std::variant<json::Array, ApiError> settle_results(const json::Array& messages, bool repair) {
  json::Array out;
  std::vector<char> taken(messages.size(), 0);
  for (size_t i = 0; i < messages.size(); ++i) {
    if (taken[i]) continue;
    const Value& message = messages[i];
    if (is(message, "tool"))
      return invalid("Messages with role 'tool' must be a response to a preceding message with 'tool_calls'",
                     fmt::format("messages[{}].role", i));
    out.push_back(message);
    if (!is(message, "assistant") || calls_of(message).empty()) continue;
    std::multiset<std::string> waiting;
    for (const Value& call : calls_of(message)) waiting.insert(text_of(call, "id"));
    for (size_t j = i + 1; j < messages.size() && calls_of(messages[j]).empty(); ++j) {
      if (!is(messages[j], "tool") || taken[j]) continue;
      if (waiting.empty()) break;
      const auto call = waiting.find(text_of(messages[j], "tool_call_id"));
      if (call == waiting.end()) continue;
      waiting.erase(call);
      taken[j] = 1;
      out.push_back(messages[j]);
    }
    if (!waiting.empty() && !repair)
      return invalid(
          "An assistant message with 'tool_calls' must be followed by tool messages responding to each "
          "'tool_call_id'. (insufficient tool messages following tool_calls message)",
          fmt::format("messages[{}].tool_calls", i));
    for (const std::string& id : waiting) {
      Value result = message_of("tool", "");
      result.set("tool_call_id", id);
      out.push_back(std::move(result));
    }
  }
  return out;
}

// Assistants in a row are one turn.
void merge_assistants(json::Array& messages) {
  json::Array out;
  for (size_t i = 0; i < messages.size();) {
    size_t end = i + 1;
    while (is(messages[i], "assistant") && end < messages.size() && is(messages[end], "assistant")) ++end;
    Value merged = std::move(messages[i]);
    if (end - i > 1) {
      std::string content = text_of(merged, "content"), reasoning = text_of(merged, "reasoning_content");
      json::Array calls = calls_of(merged);
      const auto join = [](std::string& all, const std::string& more) {
        if (!all.empty() && !more.empty()) all += "\n\n";
        all += more;
      };
      for (size_t j = i + 1; j < end; ++j) {
        join(content, text_of(messages[j], "content"));
        join(reasoning, text_of(messages[j], "reasoning_content"));
        calls.insert(calls.end(), calls_of(messages[j]).begin(), calls_of(messages[j]).end());
        for (const char* key : {"prefix", "task"})
          if (const Value* value = messages[j].find(key)) merged.set(key, *value);
      }
      merged.set("content", std::move(content));
      if (!reasoning.empty()) merged.set("reasoning_content", std::move(reasoning));
      if (!calls.empty()) merged.set("tool_calls", std::move(calls));
    }
    out.push_back(std::move(merged));
    i = end;
  }
  messages = std::move(out);
}

}  // namespace

std::variant<json::Array, ApiError> normalise(const Turn& turn, bool repair_history) {
  json::Array told = settle_roles(turn.messages);
  merge_assistants(told);  // each of several calls may have come as a message of its own, results after them all
  auto settled = settle_results(told, repair_history);
  if (std::holds_alternative<ApiError>(settled)) return std::get<ApiError>(std::move(settled));
  json::Array messages = std::get<json::Array>(std::move(settled));
  merge_assistants(messages);

  const size_t first = !messages.empty() && is(messages[0], "system") ? 1 : 0;
  if (first < messages.size() && is(messages[first], "assistant"))  // an assistant has its header from a user turn
    messages.insert(messages.begin() + static_cast<ptrdiff_t>(first), message_of("user", ""));
  // Only a user's turn is answered.
  if (std::none_of(messages.begin(), messages.end(),
                   [](const Value& message) { return is(message, "user") || is(message, "tool"); }))
    messages.push_back(message_of("user", ""));
  // Reminders stand before the last user turn: after it the encoder has already written the answer's header.
  const auto last_user =
      std::find_if(messages.rbegin(), messages.rend(), [](const Value& message) { return is(message, "user"); });
  if (last_user != messages.rend()) {
    const auto from = last_user.base() - 1;
    std::stable_partition(from, messages.end(), [](const Value& message) { return is(message, "latest_reminder"); });
  }

  for (Value& message : messages) {
    if (is(message, "tool")) message.set("content", without_result_end(text_of(message, "content")));
    if (const Value* calls = message.find("tool_calls")) {
      json::Array settled_calls = calls->as_array();
      for (Value& call : settled_calls)
        if (Value* function = call.find("function"))
          function->set("arguments", arguments_text(function->find("arguments") ? *function->find("arguments") : "{}"));
      message.set("tool_calls", std::move(settled_calls));
    }
    if (const Value* prefix = message.find("prefix"); prefix && prefix->is_bool() && prefix->as_bool())
      message.set("wo_eos", true);
  }

  const bool shows_tools = !turn.tools.empty() && turn.tool_choice.kind != ToolChoice::Kind::kNone;
  const bool shows_schema = turn.format.kind == OutputFormat::Kind::kJsonSchema;
  if (shows_tools || shows_schema) {
    if (first == 0) messages.insert(messages.begin(), message_of("system", ""));
    if (shows_tools) {
      json::Array tools;
      for (const Value& function : turn.tools)
        tools.push_back(json::Object{{"type", "function"}, {"function", function}});
      messages[0].set("tools", std::move(tools));
    }
    if (shows_schema) messages[0].set("response_format", turn.format.schema);
  }
  return messages;
}

// The added tokens of a tokenizer, found in text.
class PromptMaker::AddedTokens {
 public:
  explicit AddedTokens(const text::Tokenizer& tokenizer) {
    for (TokenId id = 0; id < tokenizer.size(); ++id) {
      const std::string_view piece = tokenizer.piece(id);
      if (!tokenizer.is_added(id) || piece.empty()) continue;
      ids_.emplace(piece, id);
      auto& lengths = lengths_[static_cast<unsigned char>(piece[0])];
      if (std::find(lengths.begin(), lengths.end(), piece.size()) == lengths.end()) lengths.push_back(piece.size());
    }
    for (auto& lengths : lengths_) std::sort(lengths.rbegin(), lengths.rend());  // the longest that fits
  }
  struct Token {
    std::string_view text;
    TokenId id = 0;
  };
  // The first at or after `from`; text.size(): none.
  size_t find(std::string_view text, size_t from, Token& found) const {
    for (size_t at = from; at < text.size(); ++at)
      for (const size_t length : lengths_[static_cast<unsigned char>(text[at])]) {
        if (length > text.size() - at) continue;
        const auto it = ids_.find(text.substr(at, length));
        if (it == ids_.end()) continue;
        found = {it->first, it->second};
        return at;
      }
    return text.size();
  }

 private:
  std::unordered_map<std::string_view, TokenId> ids_;
  std::vector<size_t> lengths_[256];  // of the tokens that begin with a byte
};

// Strings of clients with a stand-in inside whatever would be read as a token.
class PromptMaker::Shield {
 public:
  explicit Shield(const AddedTokens& added) : added_(added) {}

  // A message: what is ours in it, roles and ids, stays.
  void cover_message(Value& message) {
    for (auto& [key, item] : message.as_object()) {
      if (key == "role" || key == "tool_call_id" || key == "task") continue;
      if (key != "tool_calls") {
        cover(item);
        continue;
      }
      for (Value& call : item.as_array())
        if (Value* function = call.find("function")) cover(*function);
    }
  }
  void cover(Value& value) {
    if (value.is_string()) {
      AddedTokens::Token token;
      const std::string& text = value.as_string();
      size_t at = added_.find(text, 0, token);
      if (at == text.size()) return;
      std::string covered;
      size_t done = 0;
      for (; at < text.size(); at = added_.find(text, done, token)) {
        const size_t first = at + 1 + continuation(std::string_view(text).substr(at + 1));
        covered.append(text, done, first - done);
        covered += kStandIn;
        covered.append(text, first, at + token.text.size() - first);
        done = at + token.text.size();
      }
      covered.append(text, done, text.size() - done);
      value = Value(std::move(covered));
      used_ = true;
    } else if (value.is_array()) {
      for (Value& item : value.as_array()) cover(item);
    } else if (value.is_object()) {
      for (auto& [key, item] : value.as_object()) {
        Value name(key);
        cover(name);
        key = name.as_string();
        cover(item);
      }
    }
  }
  bool used() const { return used_; }
  static std::string lift(std::string_view text) {
    std::string out;
    size_t done = 0;
    for (size_t at = text.find(kStandIn); at != std::string_view::npos; at = text.find(kStandIn, done)) {
      out.append(text, done, at - done);
      done = at + kStandIn.size();
    }
    return out.append(text, done);
  }

 private:
  // U+F8FF of the private use area, twice: what a client itself would have to write to lose it.
  static constexpr std::string_view kStandIn = "\uF8FF\uF8FF";
  static size_t continuation(std::string_view text) {
    size_t n = 0;
    while (n < text.size() && (static_cast<unsigned char>(text[n]) & 0xC0) == 0x80) ++n;
    return n;
  }
  const AddedTokens& added_;
  bool used_ = false;
};

PromptMaker::PromptMaker(const text::Tokenizer& tokenizer, text::Encoding encoding, int64_t window)
    : tokenizer_(tokenizer), encoding_(encoding), window_(window), added_(std::make_unique<AddedTokens>(tokenizer)) {
  for (TokenId id = 0; id < tokenizer.size(); ++id) longest_ = std::max(longest_, tokenizer.piece(id).size());
}
PromptMaker::~PromptMaker() = default;

int64_t PromptMaker::too_many(size_t bytes) const {
  const auto least = static_cast<int64_t>((bytes + longest_ - 1) / longest_);
  return least > window_ ? least : 0;
}

std::vector<TokenId> PromptMaker::ids_of(std::string_view text, bool shielded) const {
  if (!shielded) return tokenizer_.encode(text);
  std::vector<TokenId> ids;
  AddedTokens::Token token;
  for (size_t done = 0; done < text.size();) {
    const size_t at = added_->find(text, done, token);
    if (at > done) {
      const auto more = tokenizer_.encode(Shield::lift(text.substr(done, at - done)), false);
      ids.insert(ids.end(), more.begin(), more.end());
    }
    if (at < text.size()) ids.push_back(token.id);
    done = at < text.size() ? at + token.text.size() : at;
  }
  return ids;
}

// Which part of a conversation came before something: a chain, a link for each assistant's header.
static Digest fold(const Digest& before, std::span<const TokenId> ids) {
  std::string all(reinterpret_cast<const char*>(before.data()), before.size());
  all.append(reinterpret_cast<const char*>(ids.data()), ids.size() * sizeof(TokenId));
  return sha256(all);
}

// Puts the sampled ids in the place of those that the text of an assistant's turn gives, where the turn still says the
// same behind the same header. sent: the assistants of the conversation. Returns the chain up to the last of their
// headers, which ends at `folded`.
Digest PromptMaker::replay(const Replays& replays, const std::vector<Said>& sent, std::vector<TokenId>& ids,
                           size_t& folded) const {
  const auto assistant = tokenizer_.id_of(text::kAssistant), eos = tokenizer_.id_of(text::kEos);
  Digest digest{};
  folded = 0;
  if (!assistant || !eos) return digest;
  std::vector<std::pair<size_t, size_t>> turns;  // header, end token
  for (size_t i = 0; i < ids.size(); ++i)
    if (ids[i] == *assistant) {
      const auto end = std::find(ids.begin() + static_cast<ptrdiff_t>(i), ids.end(), *eos);
      if (end == ids.end() || end - ids.begin() < static_cast<ptrdiff_t>(i) + 2) break;
      turns.emplace_back(i, end - ids.begin());
    }
  const bool fits = replays.memory && turns.size() == sent.size();
  std::vector<TokenId> out;
  size_t at = 0;
  for (size_t k = 0; k < turns.size(); ++k) {
    const auto [header, end] = turns[k];
    const size_t begin = header + 2;  // behind the think token
    out.insert(out.end(), ids.begin() + static_cast<ptrdiff_t>(at), ids.begin() + static_cast<ptrdiff_t>(begin));
    digest = fold(digest, std::span(out).subspan(folded));
    folded = out.size();
    std::shared_ptr<const Said> said;
    if (fits)
      said = sent[k].calls.empty() ? replays.memory->after(replays.space, digest, sent[k].content)
                                   : replays.memory->of_call(replays.space, sent[k].calls[0].id);
    if (said && said->think == ids[header + 1] && agrees(*said, sent[k]))
      out.insert(out.end(), said->ids.begin(), said->ids.end());
    else
      out.insert(out.end(), ids.begin() + static_cast<ptrdiff_t>(begin), ids.begin() + static_cast<ptrdiff_t>(end));
    at = end;
  }
  out.insert(out.end(), ids.begin() + static_cast<ptrdiff_t>(at), ids.end());
  ids = std::move(out);
  return digest;
}

std::variant<Prompt, ApiError> PromptMaker::make(const Turn& turn, bool repair_history, const Replays& replays) const {
  auto normal = normalise(turn, repair_history);
  if (std::holds_alternative<ApiError>(normal)) return std::get<ApiError>(std::move(normal));
  json::Array messages = std::get<json::Array>(std::move(normal));

  // A prefix of reasoning alone: the block stays open, and the answer goes on thinking.
  std::string open_reasoning;
  bool continues = false;
  if (!messages.empty() && is(messages.back(), "assistant")) {
    const Value& last = messages.back();
    const Value* prefix = last.find("prefix");
    continues = prefix && prefix->is_bool() && prefix->as_bool();
    if (continues && turn.thinks() && text_of(last, "content").empty() && calls_of(last).empty() &&
        !text_of(last, "reasoning_content").empty()) {
      open_reasoning = text_of(last, "reasoning_content");
      messages.pop_back();
    }
  }

  std::vector<Said> sent;
  for (Value& message : messages) {
    if (!is(message, "assistant")) continue;
    Said said{text_of(message, "reasoning_content"), text_of(message, "content"), {}, 0, {}};
    for (const Value& call : calls_of(message))
      if (const Value* function = call.find("function"))
        said.calls.push_back({text_of(call, "id"), text_of(*function, "name"), text_of(*function, "arguments")});
    // Reasoning that the client lost, and that the model should still see.
    if (turn.thinks() && replays.memory && said.reasoning.empty() && !said.calls.empty())
      if (const auto sampled = replays.memory->of_call(replays.space, said.calls[0].id);
          sampled && agrees(*sampled, said))
        message.set("reasoning_content", sampled->reasoning);
    sent.push_back(std::move(said));
  }

  Shield shield(*added_);
  for (Value& message : messages) shield.cover_message(message);
  Value open(open_reasoning);
  shield.cover(open);

  text::EncodeOptions options;
  options.encoding = encoding_;
  options.thinking_mode = turn.thinks() ? "thinking" : "chat";
  static constexpr const char* kEfforts[] = {"", "low", "high", "max"};
  const bool names_low = encoding_ == text::Encoding::kV4_0731;
  if (turn.thinks() && (turn.effort != Effort::kLow || names_low))
    options.reasoning_effort = kEfforts[static_cast<size_t>(turn.effort)];
  auto encoded = text::encode_prompt(messages, options);
  if (const auto* error = std::get_if<text::EncodeError>(&encoded)) return invalid(error->message);
  text::EncodedPrompt prompt = std::get<text::EncodedPrompt>(std::move(encoded));
  // An assistant at the end that is no prefix is history: a new turn of the assistant follows.
  const bool has_task = !messages.empty() && !text_of(messages.back(), "task").empty();
  const bool ends_in_history = !messages.empty() && is(messages.back(), "assistant") && !continues && !has_task;
  if (ends_in_history) {
    prompt.header_begin = prompt.text.size();
    prompt.text += text::kAssistant;
    prompt.text += turn.thinks() ? text::kThinkOpen : text::kThinkClose;
  }
  prompt.text += open.as_string();

  Prompt result;
  result.at_least = too_many(shield.used() ? Shield::lift(prompt.text).size() : prompt.text.size());
  if (result.at_least > 0) return result;
  result.thinking_open = turn.thinks() && (!continues || !open_reasoning.empty()) && !has_task;
  const std::string_view whole(prompt.text);
  result.ids = ids_of(whole.substr(0, prompt.header_begin), shield.used());
  size_t folded = 0;
  const Digest before = replay(replays, sent, result.ids, folded);
  result.header_at = static_cast<int64_t>(result.ids.size());
  if (const auto user = tokenizer_.id_of(text::kUser))
    result.system_end = std::find(result.ids.begin(), result.ids.end(), *user) - result.ids.begin();
  for (const TokenId id : ids_of(whole.substr(prompt.header_begin), shield.used())) result.ids.push_back(id);
  result.space = replays.space;
  if (!continues && !has_task) result.digest = fold(before, std::span(result.ids).subspan(folded));
  result.text = shield.used() ? Shield::lift(prompt.text) : std::move(prompt.text);
  return result;
}

std::variant<Prompt, ApiError> PromptMaker::make_completion(const std::string& prompt,
                                                            const std::optional<std::string>& suffix) const {
  Prompt result;
  result.raw = true;
  result.at_least = too_many(prompt.size() + (suffix ? suffix->size() : 0));
  if (result.at_least > 0) return result;
  const auto special = [&](const char* name) {
    const auto id = tokenizer_.id_of(name);
    if (!id) return false;
    result.ids.push_back(*id);
    result.text += name;
    return true;
  };
  const auto text = [&](const std::string& piece) {
    const auto ids = tokenizer_.encode(piece, false);
    result.ids.insert(result.ids.end(), ids.begin(), ids.end());
    result.text += piece;
  };
  special(text::kBos);
  const bool has_tokens = !suffix || special(text::kFimBegin);
  text(prompt);
  if (suffix) {
    const bool has_hole = special(text::kFimHole);
    text(*suffix);
    if (!has_tokens || !has_hole || !special(text::kFimEnd))
      return invalid("this model's tokenizer has no tokens to fill in the middle", "suffix");
  }
  return result;
}

}  // namespace hadal::serve
