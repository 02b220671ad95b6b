// Letters, words and sentences: spelling, edits, order, names of keys.

#include <fmt/format.h>

#include <algorithm>

#include "data/family.h"

namespace hadal::data {
namespace {

std::string noun(Draft& d) { return d.rng.pick(words::vocabulary()); }

std::string letters_of(const std::string& word, std::string_view separator) {
  std::string out;
  for (const char c : word) out += (out.empty() ? "" : std::string(separator)) + std::string(1, c);
  return out;
}

// A plain sentence of some six words.
std::string sentence(Draft& d, std::vector<std::string>* parts = nullptr) {
  static constexpr const char* kDoes[] = {"saw", "found", "took", "lost", "painted", "sold", "bought", "carried"};
  const std::vector<std::string> words = {d.rng.pick(words::kNames),
                                          d.rng.pick(kDoes),
                                          "the",
                                          d.rng.pick(words::kColours),
                                          d.rng.pick(words::kObjects),
                                          "near",
                                          "the",
                                          d.rng.pick(words::kPlaces)};
  if (parts) *parts = words;
  return join(words, " ");
}

std::string random_words(Draft& d, int n) {
  std::vector<std::string> out;
  for (int i = 0; i < n; ++i) out.push_back(noun(d));
  return join(out, " ");
}

void spelling(Draft& d) {
  const std::string word = d.difficulty == 0 ? words::vocabulary()[d.element("word", words::vocabulary().size())]
                                             : random_words(d, 1 + d.difficulty);
  const bool back = d.rng.chance(40);
  std::string plain;
  for (const char c : word)
    if (c != ' ') plain += c;
  if (d.difficulty > 0 && !d.admits(plain)) return;
  if (!back) {
    d.ask(d.phrase({"Spell: {w}", "How do you spell {w}?", "Spell the letters of {w}.", "Letter by letter: {w}",
                    "Give the letters of {w}.", "Write {w} in single letters."},
                   {{"w", word}}));
    d.say(letters_of(plain, " "), fmt::format("{} has {} letters.", word, plain.size()));
  } else {
    d.ask(d.phrase({"Join the letters: {w}", "Which word is {w}?", "Write without blanks: {w}", "Put together: {w}",
                    "Make one word of {w}", "Close the gaps: {w}"},
                   {{"w", letters_of(plain, " ")}}));
    d.say(plain, fmt::format("I join {} letters.", plain.size()));
  }
}

void count_letter(Draft& d) {
  const std::string word = random_words(d, 1 + d.difficulty);
  const char letter = d.rng.chance(80) ? word[d.rng.below(word.size())] : static_cast<char>('a' + d.rng.below(26));
  if (letter == ' ' || !d.admits(fmt::format("{} {}", letter, word))) return;
  std::string steps;
  int seen = 0;
  for (const char c : word) {
    if (c == ' ') continue;
    seen += c == letter;
    steps += c == letter ? fmt::format(" {} {}", c, seen) : fmt::format(" {}", c);
  }
  d.ask(d.phrase(
      {"How many times is the letter {c} in: {w}", "Count the letter {c} in: {w}", "How often does {c} occur in: {w}",
       "The number of {c} in: {w}", "How many {c} do you see: {w}", "Find every {c} and count: {w}"},
      {{"c", std::string(1, letter)}, {"w", word}}));
  d.say(text(seen), fmt::format("Letters:{}. So {}.", steps, seen));
}

void word_length(Draft& d) {
  const std::string word = random_words(d, 1 + d.difficulty);
  int n = 0;
  std::string steps;
  for (const char c : word)
    if (c != ' ') steps += fmt::format(" {} {}", c, ++n);
  if (!d.admits(word)) return;
  d.ask(d.phrase({"How many letters are in: {w}", "Count the letters: {w}", "How long is: {w} (in letters)",
                  "The number of letters in: {w}", "Letters in: {w}", "Count each letter of: {w}"},
                 {{"w", word}}));
  d.say(text(n), fmt::format("I count:{}.", steps));
}

void change_case(Draft& d) {
  const std::string phrase = random_words(d, 2 + d.difficulty);
  const size_t kind = d.rng.below(3);
  std::string out = upper(phrase);
  if (kind == 1) {
    out = capital(phrase);
    for (size_t i = 1; i < out.size(); ++i)
      if (out[i - 1] == ' ') out[i] = static_cast<char>(out[i] - 'a' + 'A');
  }
  const std::string from = kind == 2 ? upper(phrase) : phrase, to = kind == 2 ? phrase : out;
  static constexpr const char* kWhat[] = {"in capital letters", "with a capital at each word", "in small letters"};
  if (!d.admits(fmt::format("{} {}", kind, phrase))) return;
  d.ask(d.phrase({"Write {what}: {x}", "Put {what}: {x}", "Say it {what}: {x}", "Change to be {what}: {x}",
                  "Please write {what}: {x}", "Make it {what}: {x}"},
                 {{"what", kWhat[kind]}, {"x", from}}));
  d.say(to, fmt::format("I write it {}.", kWhat[kind]));
}

void replace_word(Draft& d) {
  std::vector<std::string> parts;
  std::string before = sentence(d, &parts);
  std::vector<std::string> after = parts, pairs;
  static constexpr size_t kPlaces[] = {4, 7, 3};
  const Words kNew[] = {words::kAnimals, words::kRooms, words::kAdjectives};
  for (int i = 0; i < 1 + d.difficulty && i < 3; ++i) {
    const size_t at = kPlaces[i];
    after[at] = d.rng.pick(kNew[i]);
    if (after[at] == parts[at]) return;
    pairs.push_back(fmt::format("{} by {}", parts[at], after[at]));
  }
  if (!d.admits(before + join(pairs))) return;
  d.ask(d.phrase({"Replace {p}: {s}", "Change {p} in: {s}", "In this sentence, replace {p}: {s}",
                  "Write it with {p}: {s}", "Exchange {p}: {s}", "Put another word, {p}: {s}"},
                 {{"p", join(pairs, " and ")}, {"s", before}}));
  d.say(join(after, " "), fmt::format("I change {}.", join(pairs, " and ")));
}

void insert_word(Draft& d) {
  std::vector<std::string> parts;
  const std::string before = sentence(d, &parts);
  const int n = 1 + d.difficulty;
  std::vector<std::string> said;
  for (int i = 0; i < n; ++i) {
    const std::string word = d.rng.pick(words::kAdjectives);
    static constexpr const char* kAfter[] = {"the", "near"};
    const bool first = d.rng.chance(50);
    const std::string anchor = first ? parts.front() : kAfter[1];
    const auto at = std::find(parts.begin(), parts.end(), anchor);
    parts.insert(at + 1, word);
    said.push_back(fmt::format("{} after {}", word, anchor));
  }
  if (!d.admits(before + join(said))) return;
  d.ask(d.phrase({"Insert {p}: {s}", "Add {p} in: {s}", "Put in {p}: {s}", "Write the sentence with {p}: {s}",
                  "Place {p}: {s}", "The sentence with {p}, please: {s}"},
                 {{"p", join(said, ", then ")}, {"s", before}}));
  d.say(join(parts, " "), fmt::format("I put {}.", join(said, ", then ")));
}

void remove_letter(Draft& d) {
  const std::string word = random_words(d, 1 + d.difficulty);
  const char letter = word[d.rng.below(word.size())];
  std::string out;
  for (const char c : word)
    if (c != letter) out += c;
  if (letter == ' ' || out.empty() || !d.admits(fmt::format("{} {}", letter, word))) return;
  d.ask(d.phrase({"Take out every {c}: {w}", "Remove the letter {c}: {w}", "Write without {c}: {w}",
                  "Delete each {c}: {w}", "Leave out {c}: {w}", "Drop all {c}: {w}"},
                 {{"c", std::string(1, letter)}, {"w", word}}));
  d.say(out, fmt::format("Without {}: {}", letter, letters_of(out, " ")));
}

void reorder(Draft& d) {
  static constexpr const char* kThings[] = {"bread",     "a hat",       "two cups",  "old maps",  "a lamp",
                                            "red paint", "a warm coat", "some fish", "new shoes", "a clock"};
  static constexpr const char* kEnds[] = {"today", "at noon", "on Monday", "in May", "at night", "in the rain"};
  std::vector<std::string> parts = {d.rng.pick(words::kNames), d.rng.chance(50) ? "buys" : "sells",
                                    d.rng.pick(kThings)};
  if (d.difficulty >= 1) parts.push_back(std::string("in the ") + d.rng.pick(words::kPlaces));
  if (d.difficulty >= 2) parts.push_back(d.rng.pick(kEnds));
  if (d.difficulty >= 3) parts.push_back("with " + with_article(d.rng.pick(words::kAnimals)));
  std::vector<std::string> mixed = parts;
  d.rng.shuffle(mixed);
  if (mixed == parts || !d.admits(join(mixed, "/"))) return;
  d.ask(d.phrase({"Make a sentence, {o}: {x}", "Put the parts in order, {o}: {x}", "Order these parts, {o}: {x}",
                  "Build one sentence, {o}: {x}", "Form a sentence, {o}: {x}", "Which sentence is it, {o}: {x}"},
                 {{"o", d.difficulty == 0   ? "who does what"
                        : d.difficulty == 1 ? "who does what where"
                        : d.difficulty == 2 ? "who does what where when"
                                            : "who does what where when with whom"},
                  {"x", join(mixed, " / ")}}));
  d.say(join(parts, " "), fmt::format("Who: {}. What: {} {}.", parts[0], parts[1], parts[2]));
}

void key_style(Draft& d) {
  std::vector<std::string> parts;
  for (int i = 0; i < 2 + d.difficulty; ++i) parts.push_back(noun(d));
  std::string title;
  for (const std::string& part : parts) title += (title.empty() ? "" : " ") + capital(part);
  const size_t kind = d.rng.below(3);
  std::string out = kind == 0 ? join(parts, "_") : kind == 1 ? join(parts, "-") : upper(join(parts, "_"));
  static constexpr const char* kStyles[] = {"small letters with _ between", "small letters with - between",
                                            "capital letters with _ between"};
  if (!d.admits(fmt::format("{} {}", kind, title))) return;
  d.ask(d.phrase({"Write as a key, {s}: {x}", "Make a key in {s}: {x}", "Turn into {s}: {x}",
                  "Give the name in {s}: {x}", "Normalise to {s}: {x}", "The key, {s}: {x}"},
                 {{"s", kStyles[kind]}, {"x", title}}));
  d.say(out, fmt::format("The words: {}. I join them.", join(parts)));
}

void first_letters(Draft& d) {
  std::vector<std::string> parts;
  std::string out;
  const bool last = d.rng.chance(30);
  for (int i = 0; i < 3 + d.difficulty; ++i) {
    parts.push_back(noun(d));
    out += last ? parts.back().back() : parts.back().front();
  }
  if (!d.admits(fmt::format("{} {}", last, join(parts)))) return;
  d.ask(d.phrase({"Take the {e} letter of each word: {x}", "Write the {e} letters: {x}", "Join the {e} letters of: {x}",
                  "What do the {e} letters spell: {x}", "The {e} letters of {x}?", "Give only the {e} letters: {x}"},
                 {{"e", last ? "last" : "first"}, {"x", join(parts, " ")}}));
  d.say(out, fmt::format("They are {}.", letters_of(out, ", ")));
}

void count_sentence(Draft& d) {
  std::vector<std::string> parts;
  for (int i = 0; i < 4 + 2 * d.difficulty + static_cast<int>(d.rng.below(3)); ++i) parts.push_back(noun(d));
  if (!d.admits(join(parts))) return;
  d.ask(d.phrase({"How many words: {x}", "Count the words: {x}", "The number of words in: {x}",
                  "How many words do you see: {x}", "How long in words: {x}", "Number of words: {x}"},
                 {{"x", join(parts, " ")}}));
  std::string steps;
  for (size_t i = 0; i < parts.size(); ++i) steps += fmt::format(" {} {}", i + 1, parts[i]);
  d.say(text(static_cast<int>(parts.size())), fmt::format("I number them:{}.", steps));
}

void wildcard(Draft& d) {
  const int n = 4 + d.difficulty;
  std::vector<std::string> items, hits;
  for (const size_t i : d.rng.sample(words::kShort.size(), static_cast<size_t>(n)))
    items.emplace_back(words::kShort[i]);
  const std::string pivot = d.rng.pick(items);
  const bool starts = d.rng.chance(50);
  const std::string piece = starts ? pivot.substr(0, 1) : pivot.substr(pivot.size() - 1);
  for (const std::string& item : items)
    if (starts ? item.starts_with(piece) : item.ends_with(piece)) hits.push_back(item);
  const std::string pattern = starts ? piece + "*" : "*" + piece;
  if (!d.admits(fmt::format("{} {}", pattern, join(items)))) return;
  d.ask(d.phrase(
      {"Which of these match {p}: {x}", "Find the words like {p}: {x}", "The pattern is {p}. Which words fit: {x}",
       "List what matches {p}: {x}", "Keep the words that fit {p}: {x}", "Filter by {p}: {x}"},
      {{"p", pattern}, {"x", join(items, " ")}}));
  d.say(join(hits, " "), fmt::format("Words that {} with {}: {}.", starts ? "start" : "end", piece, join(hits)));
}

}  // namespace

void add_text_families(std::vector<Family>& list) {
  const auto put = [&](const char* id, int trained, int chance, void (*build)(Draft&)) {
    list.push_back(
        {.id = id, .kind = "text", .trained = trained, .hardest = trained + 1, .chance = chance, .build = build});
  };
  put("spelling", 2, 2, spelling);
  put("count-letter", 2, 65, count_letter);
  put("word-length", 2, 20, word_length);
  put("change-case", 3, 2, change_case);
  put("replace-word", 1, 2, replace_word);
  put("insert-word", 2, 2, insert_word);
  put("remove-letter", 2, 2, remove_letter);
  put("reorder", 2, 20, reorder);
  put("key-style", 2, 2, key_style);
  put("first-letters", 4, 2, first_letters);
  put("count-all-words", 3, 30, count_sentence);
  put("wildcard", 4, 30, wildcard);
}

}  // namespace hadal::data
