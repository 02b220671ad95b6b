#include "data/draft.h"

#include <fmt/format.h>

#include <algorithm>

namespace hadal::data {

std::string fill(std::string_view pattern, const Slots& slots) {
  std::string out;
  for (size_t i = 0; i < pattern.size();) {
    const size_t close = pattern[i] == '{' ? pattern.find('}', i) : std::string_view::npos;
    if (close != std::string_view::npos) {
      const std::string_view name = pattern.substr(i + 1, close - i - 1);
      const auto slot = std::find_if(slots.begin(), slots.end(), [&](const auto& s) { return s.first == name; });
      HADAL_CHECK(slot != slots.end());
      out += slot->second;
      i = close + 1;
    } else {
      out += pattern[i++];
    }
  }
  return out;
}

std::string join(const std::vector<std::string>& items, std::string_view separator) {
  return fmt::format("{}", fmt::join(items, separator));
}

Draft::Draft(const TaskKey& key, uint64_t attempt)
    : rng(combine(hash(key.environment, static_cast<uint64_t>(key.difficulty) * 4 + static_cast<uint64_t>(key.split)),
                  combine(key.seed, attempt))),
      split(key.split),
      new_phrasing(key.new_phrasing),
      difficulty(key.difficulty),
      environment_(key.environment) {
  task.key = key;
}

bool Draft::admits(std::string_view content) {
  task.instance = fmt::format("{}:{}", environment_, content);
  const uint64_t place = hash(task.instance) % 100;
  admitted_ = (place >= 2 ? Split::kTrain : place == 0 ? Split::kDev : Split::kTest) == split;
  return admitted_;
}

size_t Draft::element(std::string_view space, size_t n) {
  HADAL_CHECK(n >= 3);
  const size_t part = std::max<size_t>(1, n / 100);
  const size_t place = split == Split::kDev    ? rng.below(part)
                       : split == Split::kTest ? part + rng.below(part)
                                               : 2 * part + rng.below(n - 2 * part);
  const std::string name = fmt::format("{}:{}", environment_, space);
  const size_t index = permute(place, n, hash(name));
  task.instance = fmt::format("{}#{}", name, index);
  admitted_ = true;
  return index;
}

std::string_view Draft::phrase(const std::vector<std::string_view>& ways) {
  const size_t held = ways.size() >= 6 ? 2 : 1;
  HADAL_CHECK(ways.size() > held);
  const size_t trained = ways.size() - held;
  return new_phrasing ? ways[trained + rng.below(held)] : ways[rng.below(trained)];
}

void Draft::say(std::string content, std::string reasoning, std::string check) {
  say(content, std::move(reasoning), std::move(check), {.values = {content}});
}

void Draft::say(std::string content, std::string reasoning, std::string check, Expectation expected) {
  while (reasoning.ends_with(' ')) reasoning.pop_back();  // of steps put together
  task.turns.back().expected = std::move(expected);
  if (check.empty()) check = fmt::format("I check it once more. The answer is: {}", content.substr(0, 60));
  task.solution.push_back({std::move(reasoning), std::move(check), std::move(content), {}});
}

}  // namespace hadal::data
