#include "serve/replay.h"

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

}  // namespace

void ReplayMemory::remember(const std::string& space, const Digest& prompt, Said said) {
  Kept kept;
  kept.bytes = sizeof(Kept) + sizeof(Said) + said.reasoning.size() + said.content.size() +
               said.ids.size() * sizeof(TokenId) + 200;
  for (const SaidCall& call : said.calls) {
    kept.keys.push_back(call_key(space, call.id));
    kept.bytes += call.id.size() + call.name.size() + call.arguments.size() + 200;
  }
  kept.keys.push_back(prompt_key(space, prompt, said.content));
  kept.said = std::make_shared<const Said>(std::move(said));
  const std::lock_guard lock(mutex_);
  for (const Digest& key : kept.keys) by_key_[key] = kept.said;  // of the same prompt and text the latest
  bytes_ += kept.bytes;
  kept_.push_back(std::move(kept));
  while (bytes_ > most_bytes_) {
    const Kept& oldest = kept_.front();
    for (const Digest& key : oldest.keys)
      if (const auto it = by_key_.find(key); it != by_key_.end() && it->second == oldest.said) by_key_.erase(it);
    bytes_ -= oldest.bytes;
    kept_.pop_front();
  }
}

std::shared_ptr<const Said> ReplayMemory::find(const Digest& key) const {
  const std::lock_guard lock(mutex_);
  const auto it = by_key_.find(key);
  return it == by_key_.end() ? nullptr : it->second;
}

std::shared_ptr<const Said> ReplayMemory::of_call(const std::string& space, std::string_view call_id) const {
  return call_id.empty() ? nullptr : find(call_key(space, call_id));
}

std::shared_ptr<const Said> ReplayMemory::after(const std::string& space, const Digest& prompt,
                                                std::string_view content) const {
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
