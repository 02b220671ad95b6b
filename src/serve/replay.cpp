#include "serve/replay.h"

#include <chrono>
#include <iterator>
#include <optional>

#include "base/json.h"

namespace hadal::serve {
namespace {

std::string_view trimmed(std::string_view text) {
  const size_t begin = text.find_first_not_of(" \t\r\n");
  return begin == std::string_view::npos ? "" : text.substr(begin, text.find_last_not_of(" \t\r\n") + 1 - begin);
}

Digest key_of(char kind, std::string_view space, std::string_view first, std::string_view second) {
  std::string all(1, kind);
  for (const std::string_view part : {space, first, second}) {
    const Digest digest = sha256(part);  // of fixed size: no part can run into the next
    all.append(reinterpret_cast<const char*>(digest.data()), digest.size());
  }
  return sha256(all);
}
Digest call_key(std::string_view space, std::string_view id) { return key_of('c', space, id, ""); }
Digest prompt_key(std::string_view space, const Digest& prompt, std::string_view content) {
  return key_of('p', space, {reinterpret_cast<const char*>(prompt.data()), prompt.size()}, trimmed(content));
}

bool same_json(const std::string& a, const std::string& b) {
  if (a == b) return true;
  const auto x = json::parse(a), y = json::parse(b);
  return x.ok() && y.ok() && json::dump(x.value()) == json::dump(y.value());
}

// The form on disk (docs/formats.md).
std::string to_text(const Said& said, const std::vector<Digest>& keys) {
  json::Array names, ids, calls;
  for (const Digest& key : keys) names.push_back(hex(key));
  for (const TokenId id : said.ids) ids.push_back(int64_t{id});
  for (const SaidCall& call : said.calls)
    calls.push_back(json::Object{{"id", call.id}, {"name", call.name}, {"arguments", call.arguments}});
  return json::dump(json::Object{{"keys", std::move(names)},
                                 {"think", int64_t{said.think}},
                                 {"ids", std::move(ids)},
                                 {"reasoning", said.reasoning},
                                 {"content", said.content},
                                 {"calls", std::move(calls)}});
}

struct Read {
  Said said;
  std::vector<Digest> keys;
};

// nullopt: it is not of this form.
std::optional<Read> of_text(const std::string& text, int vocab_size) {
  const auto parsed = json::parse(text);
  if (!parsed.ok() || !parsed.value().is_object()) return std::nullopt;
  bool is_good = true;
  const auto member = [&](const json::Value& of, const char* name, bool (json::Value::*is)() const) {
    const json::Value* value = of.is_object() ? of.find(name) : nullptr;
    is_good = is_good && value && (value->*is)();
    return is_good ? value : nullptr;
  };
  const auto string = [&](const json::Value& of, const char* name) {
    const json::Value* value = member(of, name, &json::Value::is_string);
    return value ? value->as_string() : std::string();
  };
  const auto array = [&](const char* name) {
    const json::Value* value = member(parsed.value(), name, &json::Value::is_array);
    return value ? value->as_array() : json::Array();
  };
  const auto token = [&](const json::Value& value) {
    const auto id = value.is_number() ? value.to_int64() : std::nullopt;
    is_good = is_good && id && *id >= 0 && *id < vocab_size;
    return is_good ? static_cast<TokenId>(*id) : 0;
  };
  Read read;
  for (const json::Value& key : array("keys")) {
    const auto digest = key.is_string() ? digest_of_hex(key.as_string()) : std::nullopt;
    if (!digest) return std::nullopt;
    read.keys.push_back(*digest);
  }
  if (const json::Value* think = member(parsed.value(), "think", &json::Value::is_number))
    read.said.think = token(*think);
  for (const json::Value& id : array("ids")) read.said.ids.push_back(token(id));
  read.said.reasoning = string(parsed.value(), "reasoning");
  read.said.content = string(parsed.value(), "content");
  for (const json::Value& call : array("calls"))
    read.said.calls.push_back({string(call, "id"), string(call, "name"), string(call, "arguments")});
  if (!is_good) return std::nullopt;
  return read;
}

constexpr double kTellAgain = 60;  // seconds until the store hears again that an answer is used

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

}  // namespace

ReplayMemory::ReplayMemory(cache::Store* store, int vocab_size, int64_t most_bytes)
    : store_(store), most_bytes_(most_bytes) {
  if (!store_) return;
  store_->on_answer(
      [this, vocab_size](const std::string& text) {
        if (auto read = of_text(text, vocab_size))
          keep(std::make_shared<const Said>(std::move(read->said)), std::move(read->keys));
      },
      most_bytes_);
}

ReplayMemory::~ReplayMemory() {
  if (store_) store_->on_answer({}, 0);
}

void ReplayMemory::remember(const std::string& space, const Digest& prompt, Said said) {
  std::vector<Digest> keys;
  for (const SaidCall& call : said.calls) keys.push_back(call_key(space, call.id));
  keys.push_back(prompt_key(space, prompt, said.content));
  if (store_) store_->save_answer_later(to_text(said, keys));
  keep(std::make_shared<const Said>(std::move(said)), std::move(keys));
}

void ReplayMemory::keep(std::shared_ptr<const Said> said, std::vector<Digest> keys) {
  if (keys.empty()) return;
  Kept kept{std::move(said), std::move(keys), 0, now()};
  kept.bytes =
      static_cast<int64_t>(sizeof(Kept) + sizeof(Said) + kept.said->reasoning.size() + kept.said->content.size() +
                           kept.said->ids.size() * sizeof(TokenId) + kept.keys.size() * 200);
  for (const SaidCall& call : kept.said->calls)
    kept.bytes += static_cast<int64_t>(call.id.size() + call.name.size() + call.arguments.size());
  const std::lock_guard lock(mutex_);
  if (const auto it = by_key_.find(kept.keys[0]); it != by_key_.end() && it->second->said->ids == kept.said->ids) {
    kept_.splice(kept_.end(), kept_, it->second);  // said again, or told again
    return;
  }
  bytes_ += kept.bytes;
  kept_.push_back(std::move(kept));
  for (const Digest& key : kept_.back().keys)
    by_key_[key] = std::prev(kept_.end());  // of the same prompt and text the latest
  while (bytes_ > most_bytes_) {
    for (const Digest& key : kept_.front().keys)
      if (const auto it = by_key_.find(key); it != by_key_.end() && it->second == kept_.begin()) by_key_.erase(it);
    bytes_ -= kept_.front().bytes;
    kept_.pop_front();
  }
}

std::shared_ptr<const Said> ReplayMemory::find(const Digest& key) {
  std::shared_ptr<const Said> said;
  std::vector<Digest> keys;
  {
    const std::lock_guard lock(mutex_);
    const auto it = by_key_.find(key);
    if (it == by_key_.end()) return nullptr;
    Kept& kept = *it->second;
    kept_.splice(kept_.end(), kept_, it->second);
    said = kept.said;
    if (const double time = now(); store_ && time - kept.told > kTellAgain) {
      kept.told = time;
      keys = kept.keys;
    }
  }
  if (!keys.empty()) store_->save_answer_later(to_text(*said, keys));
  return said;
}

std::shared_ptr<const Said> ReplayMemory::of_call(const std::string& space, std::string_view call_id) {
  return call_id.empty() ? nullptr : find(call_key(space, call_id));
}

std::shared_ptr<const Said> ReplayMemory::after(const std::string& space, const Digest& prompt,
                                                std::string_view content) {
  return find(prompt_key(space, prompt, content));
}

bool agrees(const Said& sampled, const Said& sent) {
  if (trimmed(sampled.content) != trimmed(sent.content) || sampled.calls.size() != sent.calls.size()) return false;
  if (!trimmed(sent.reasoning).empty() && trimmed(sent.reasoning) != trimmed(sampled.reasoning)) return false;
  for (size_t i = 0; i < sent.calls.size(); ++i)
    if (sampled.calls[i].name != sent.calls[i].name || !same_json(sampled.calls[i].arguments, sent.calls[i].arguments))
      return false;
  return true;
}

}  // namespace hadal::serve
