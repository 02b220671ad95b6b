// Families over short lists: copy, reverse, sort, choose, count, sets.

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "data/family.h"

namespace hadal::data {
namespace {

using Items = std::vector<std::string>;

Items draw(Draft& d, Words words, int n) {
  Items out;  // different ones while there are enough
  if (static_cast<size_t>(n) > words.size())
    for (int i = 0; i < n; ++i) out.emplace_back(d.rng.pick(words));
  else
    for (const size_t i : d.rng.sample(words.size(), static_cast<size_t>(n))) out.emplace_back(words[i]);
  return out;
}

std::string ordinal(int n) {
  static constexpr const char* kNames[] = {"first", "second",  "third",  "fourth", "fifth",
                                           "sixth", "seventh", "eighth", "ninth"};
  return kNames[n - 1];
}

std::string numbered(const Items& items) {
  std::string out;
  for (size_t i = 0; i < items.size(); ++i) out += fmt::format("{}{} {}", i ? ", " : "", i + 1, items[i]);
  return out;
}

Items draw_mixed(Draft& d, int n) {  // letters, words or digits
  const size_t kind = d.rng.below(3);
  if (kind == 0) return draw(d, words::kLetters, n);
  if (kind == 1) return draw(d, words::kShort, n);
  Items out;
  for (int i = 0; i < n; ++i) out.push_back(text(d.rng.range(0, 9)));
  return out;
}

// Up to 20 items are trained; the held-out difficulty has 22 to 30.
int draw_length(Draft& d) {
  return d.difficulty == 5 ? d.rng.range(22, 30)
                           : d.rng.range(3 + 2 * d.difficulty, 6 + 3 * d.difficulty + d.difficulty / 2);
}

void copy(Draft& d) {
  const std::string list = join(draw_mixed(d, draw_length(d)), " ");
  if (!d.admits(list)) return;
  d.ask(d.phrase({"Repeat: {x}", "Say this again: {x}", "Copy this: {x}", "Write the same: {x}",
                  "Please repeat after me: {x}", "Echo: {x}"},
                 {{"x", list}}));
  d.say(list, fmt::format("I repeat it word by word: {}", list));
}

void reverse(Draft& d) {
  Items items = draw_mixed(d, draw_length(d));
  const std::string list = join(items, " "), listed = numbered(items);
  std::reverse(items.begin(), items.end());
  if (join(items, " ") == list || !d.admits(list)) return;
  d.ask(d.phrase({"Reverse: {x}", "Say it backwards: {x}", "Turn the order around: {x}", "Write in reverse order: {x}",
                  "From last to first: {x}", "Give the reverse of: {x}"},
                 {{"x", list}}));
  d.say(join(items, " "), fmt::format("The items: {}. From the last to the first: {}", listed, join(items, " ")));
}

void sort_numbers(Draft& d) {
  std::vector<int> numbers;
  for (const size_t i : d.rng.sample(90, static_cast<size_t>(3 + d.difficulty)))
    numbers.push_back(static_cast<int>(i) + 10);
  const bool down = d.rng.chance(30);
  const auto texts = [](const std::vector<int>& list) {
    Items out;
    for (const int n : list) out.push_back(text(n));
    return out;
  };
  const std::string list = join(texts(numbers));
  std::sort(numbers.begin(), numbers.end());
  if (down) std::reverse(numbers.begin(), numbers.end());
  const std::string sorted = join(texts(numbers));
  if (sorted == list || !d.admits(fmt::format("{} {}", list, down))) return;
  d.ask(d.phrase({"Sort from {a} to {b}: {x}", "Order these from {a} to {b}: {x}", "Put in order, {a} first: {x}",
                  "Arrange from {a} to {b}: {x}", "List from {a} to {b}: {x}", "Rank {x} from {a} to {b}."},
                 {{"a", down ? "large" : "small"}, {"b", down ? "small" : "large"}, {"x", list}}));
  std::string steps;
  for (size_t i = 0; i < numbers.size(); ++i) steps += fmt::format("{}{}", i ? ", then " : "", numbers[i]);
  d.say(sorted, fmt::format("I take the {} of what is left each time: {}.", down ? "largest" : "smallest", steps));
}

void sort_words(Draft& d) {
  Items items = draw(d, words::kShort, 3 + d.difficulty);
  const std::string list = join(items, " ");
  std::sort(items.begin(), items.end());
  if (join(items, " ") == list || !d.admits(list)) return;
  d.ask(d.phrase({"Sort by the alphabet: {x}", "Put in ABC order: {x}", "Order these words from a to z: {x}",
                  "Arrange by letter: {x}", "Alphabetical order, please: {x}", "As in a dictionary: {x}"},
                 {{"x", list}}));
  Items first;
  for (const std::string& item : items) first.push_back(fmt::format("{} {}", item.substr(0, 1), item));
  d.say(join(items, " "), fmt::format("By first letters: {}.", join(first)));
}

void dedupe(Draft& d) {
  const Items base = draw(d, words::kShort, 2 + d.difficulty);
  Items items = base, kept;
  for (int i = 0; i < 1 + d.difficulty / 2 + d.difficulty % 2; ++i) items.push_back(d.rng.pick(base));
  d.rng.shuffle(items);
  std::string steps;
  for (const std::string& item : items) {
    const bool fresh = std::find(kept.begin(), kept.end(), item) == kept.end();
    if (fresh) kept.push_back(item);
    steps += fmt::format(" {} {}.", item, fresh ? "new" : "seen");
  }
  const std::string list = join(items, " ");
  if (!d.admits(list)) return;
  d.ask(d.phrase({"Remove the repeated words: {x}", "Keep each word once: {x}", "Drop the doubles: {x}",
                  "Without repeats: {x}", "Say each word only once, in order: {x}", "Only the first of each: {x}"},
                 {{"x", list}}));
  d.say(join(kept, " "), fmt::format("I go through them.{}", steps));
}

void nth(Draft& d) {
  const Items items = draw_mixed(d, 4 + d.difficulty);
  const int n = d.rng.range(1, static_cast<int>(items.size()));
  const bool last = d.rng.chance(20);
  const std::string list = join(items, " ");
  if (!d.admits(fmt::format("{} {}", list, last ? 0 : n))) return;
  d.ask(d.phrase({"What is the {n} item of: {x}", "Give the {n} one: {x}", "Which is {n} in this list: {x}",
                  "The {n} of these: {x}", "Tell me the {n} item: {x}", "Pick the {n}: {x}"},
                 {{"n", last ? "last" : ordinal(n)}, {"x", list}}));
  d.say(last ? items.back() : items[static_cast<size_t>(n - 1)], fmt::format("I number them: {}.", numbered(items)));
}

void position(Draft& d) {
  const Items items = draw(d, words::kShort, 4 + d.difficulty);
  const size_t at = d.rng.below(items.size());
  if (!d.admits(fmt::format("{} {}", join(items, " "), at))) return;
  d.ask(d.phrase(
      {"At which place is {w} in: {x}", "What number is {w} in this list: {x}", "Where in the list is {w}: {x}",
       "The place of {w} in: {x}", "Which position has {w}: {x}", "Count to {w} in: {x}"},
      {{"w", items[at]}, {"x", join(items, " ")}}));
  d.say(text(static_cast<int>(at) + 1), fmt::format("I number them: {}.", numbered(items)));
}

void count_words(Draft& d) {
  const Items base = draw(d, words::kAnimals, 2);
  const int n = 4 + 2 * d.difficulty, hits = d.rng.range(1, n - 1);
  Items items;
  for (int i = 0; i < n; ++i) items.push_back(base[i < hits ? 0 : 1]);
  d.rng.shuffle(items);
  const std::string list = join(items, " ");
  if (!d.admits(fmt::format("{} {}", base[0], list))) return;
  d.ask(d.phrase({"How many times is {w} here: {x}", "Count {w} in: {x}", "How often do you see {w}: {x}",
                  "The number of {w} in: {x}", "Count each {w}: {x}", "How many are {w}: {x}"},
                 {{"w", base[0]}, {"x", list}}));
  std::string steps;
  int seen = 0;
  for (const std::string& item : items) {
    seen += item == base[0];
    steps += fmt::format(" {} {}", item, seen);
  }
  d.say(text(hits), fmt::format("I count along:{}.", steps));
}

void set_operation(Draft& d) {
  const Items pool = draw(d, words::kShort, 4 + 2 * d.difficulty);
  Items a, b;
  for (const std::string& word : pool) {
    const size_t where = d.rng.below(3);
    if (where != 1) a.push_back(word);
    if (where != 0) b.push_back(word);
  }
  d.rng.shuffle(b);
  const size_t kind = d.rng.below(3);
  static constexpr const char* kWhat[] = {"are in both", "are only in the first", "are in one or both"};
  Items result;
  std::string steps;
  for (const std::string& word : a) {
    const bool both = std::find(b.begin(), b.end(), word) != b.end();
    if (kind == 2 || both == (kind == 0)) result.push_back(word);
    steps += fmt::format(" {} {}.", word, both ? "both" : "first");
  }
  if (kind == 2)
    for (const std::string& word : b)
      if (std::find(a.begin(), a.end(), word) == a.end()) result.push_back(word);
  if (a.empty() || b.empty() || result.empty() || result.size() == pool.size()) return;
  if (!d.admits(fmt::format("{}|{}|{}", join(a), join(b), kind))) return;
  d.ask(d.phrase(
      {"First: {a}. Second: {b}. Which words {what}?", "List one: {a}. List two: {b}. Name the words that {what}.",
       "Here are two lists. First: {a}. Second: {b}. Tell me which {what}.",
       "First: {a}. Second: {b}. Find all that {what}.", "Compare {a} with {b}. Which {what}?"},
      {{"a", join(a, " ")}, {"b", join(b, " ")}, {"what", kWhat[kind]}}));
  d.say(join(result, " "), fmt::format("I look at each of the first:{} So: {}.", steps, join(result, " ")));
}

void most_common(Draft& d) {
  const Items base = draw(d, words::kFruits, 3);
  const int n = 2 + d.difficulty / 2;
  Items items;
  for (int i = 0; i < n + 1; ++i) items.push_back(base[0]);
  for (int i = 0; i < n; ++i) items.push_back(base[1]);
  for (int i = 0; i < std::max(1, n - 1 + d.difficulty % 2); ++i) items.push_back(base[2]);
  d.rng.shuffle(items);
  std::vector<int> counts(3);
  for (const std::string& item : items)
    ++counts[static_cast<size_t>(std::find(base.begin(), base.end(), item) - base.begin())];
  if (counts[2] >= counts[0] || !d.admits(join(items, " "))) return;
  d.ask(d.phrase(
      {"Which word comes most often: {x}", "What is the most common word: {x}", "Find the word that is there most: {x}",
       "Most frequent of: {x}", "Which one is repeated the most: {x}", "What word wins by count: {x}"},
      {{"x", join(items, " ")}}));
  d.say(base[0], fmt::format("{} {}, {} {}, {} {}. The most: {}.", base[0], counts[0], base[1], counts[1], base[2],
                             counts[2], base[0]));
}

void sum_list(Draft& d) {
  Items items;
  std::string steps;
  int total = 0;
  for (int i = 0; i < 3 + d.difficulty; ++i) {
    const int n = d.rng.range(1, 20);
    if (i > 0) steps += fmt::format(" {} + {} = {}.", total, n, total + n);
    total += n;
    items.push_back(text(n));
  }
  if (!d.admits(join(items))) return;
  d.ask(d.phrase({"Add up: {x}", "What is the sum of {x}?", "The total of {x}?", "Sum these numbers: {x}",
                  "Add all of these: {x}", "How much is it together: {x}"},
                 {{"x", join(items)}}));
  d.say(text(total), fmt::format("One by one:{}", steps));
}

void extreme(Draft& d) {
  Items items;
  std::vector<int> numbers;
  for (const size_t i : d.rng.sample(900, static_cast<size_t>(3 + d.difficulty))) {
    numbers.push_back(static_cast<int>(i) + 100);
    items.push_back(text(numbers.back()));
  }
  const bool high = d.rng.chance(50);
  int best = numbers[0];
  std::string steps = text(best);
  for (const int n : numbers)
    if (high ? n > best : n < best) {
      best = n;
      steps += fmt::format(", then {}", n);
    }
  if (!d.admits(fmt::format("{} {}", join(items), high))) return;
  d.ask(d.phrase({"What is the {e} of {x}?", "Find the {e} number: {x}", "Which is the {e}: {x}",
                  "Name the {e} of these: {x}", "Tell me the {e}: {x}", "Pick out the {e}: {x}"},
                 {{"e", high ? "largest" : "smallest"}, {"x", join(items)}}));
  d.say(text(best), fmt::format("The {} so far: {}.", high ? "largest" : "smallest", steps));
}

void missing(Draft& d) {
  const int n = 4 + d.difficulty, start = d.rng.range(1, 80), gap = d.rng.range(1, n - 2);
  Items items;
  for (int i = 0; i < n; ++i)
    if (i != gap) items.push_back(text(start + i));
  if (!d.admits(join(items))) return;
  d.ask(d.phrase({"Which number is missing: {x}", "Find the missing number: {x}", "One number is left out: {x}",
                  "What is not there: {x}", "Fill the gap: {x}", "Name the lost number: {x}"},
                 {{"x", join(items, " ")}}));
  d.say(text(start + gap),
        fmt::format("After {} should come {}, but there is {}.", start + gap - 1, start + gap, start + gap + 1));
}

}  // namespace

void add_list_families(std::vector<Family>& list) {
  const auto add = [&](const char* id, int chance, void (*build)(Draft&)) {
    list.push_back({.id = id, .kind = "list", .trained = 4, .hardest = 5, .chance = chance, .build = build});
  };
  add("copy", 2, copy);
  add("reverse", 2, reverse);
  add("sort-numbers", 2, sort_numbers);
  add("sort-words", 2, sort_words);
  add("dedupe", 2, dedupe);
  add("nth", 25, nth);
  add("position", 30, position);
  add("count-words", 30, count_words);
  add("set-operation", 15, set_operation);
  add("most-common", 30, most_common);
  add("sum", 5, sum_list);
  add("extreme", 30, extreme);
  add("missing", 10, missing);
}

}  // namespace hadal::data
