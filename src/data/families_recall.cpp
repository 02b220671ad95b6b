// Recall at a distance: a fact, that many tokens of something else, and the question.
//
// Difficulty chooses the distance between the last fact that is asked for and the question: 32, 96,
// 128, 256, 512, 1024, 2048 tokens; 4096 is held out. Distances count tokens by rule of thumb
// (story.h): a task does not depend on a tokenizer. Facts nobody asks for lie around and among the
// filler.

#include <fmt/format.h>

#include <algorithm>

#include "data/family.h"
#include "data/story.h"

namespace hadal::data {
namespace {

constexpr int kDistances[] = {32, 96, 128, 256, 512, 1024, 2048, 4096};

struct Fact {
  std::string about, value, said;
};

// Text in which the first `asked` facts lie before the distance and the others anywhere after.
void hide(Draft& d, const std::vector<Fact>& facts, size_t asked, std::string_view intro, const std::string& question) {
  const int distance = kDistances[d.difficulty];
  std::vector<std::string> values, recalled;
  for (size_t i = 0; i < asked; ++i) {
    values.push_back(facts[i].value);
    recalled.push_back(facts[i].said);
  }
  std::vector<std::string> parts;
  std::string text(intro);
  const auto put_filler = [&](int tokens) {
    if (tokens <= 0) return;
    std::string stretch = filler(d.rng, tokens);
    text += " " + stretch;
    d.task.filler.push_back(std::move(stretch));
  };
  put_filler(d.rng.range(0, 20));
  for (size_t i = 0; i < asked; ++i) text += " " + facts[i].said;
  int left = distance;
  const int stretches = static_cast<int>(facts.size() - asked) + 1;
  for (size_t i = asked; i < facts.size(); ++i) {
    const int tokens = d.rng.range(0, 2 * distance / stretches);
    put_filler(std::min(tokens, left));
    left -= tokens + rough_tokens(facts[i].said);
    text += " " + facts[i].said;
  }
  put_filler(left - rough_tokens(question));
  d.ask(text.substr(text.find_first_not_of(' ')) + "\n" + question);
  d.say(join(values), fmt::format("I remember: {}", join(recalled, " ")));
}

std::string questions(Draft& d, std::initializer_list<std::string_view> ways, const std::vector<Fact>& facts,
                      size_t asked) {
  std::vector<std::string> about;
  for (size_t i = 0; i < asked; ++i) about.push_back(facts[i].about);
  std::string all = about[0];
  for (size_t i = 1; i < about.size(); ++i) all += (i + 1 == about.size() ? " and " : ", ") + about[i];
  return d.phrase(ways, {{"x", all}});
}

std::string canonical(const std::vector<Fact>& facts) {
  std::string out;
  for (const Fact& fact : facts) out += fact.said;
  return out;
}

// How many facts, and how many of them are asked for.
size_t total_facts(Draft& d) { return static_cast<size_t>(3 + std::min(d.difficulty, 6) / 2 + d.rng.range(0, 2)); }

void hide_codes(Draft& d, size_t asked) {
  const size_t n = total_facts(d);
  std::vector<Fact> facts;
  for (const size_t i : d.rng.sample(words::kNames.size(), n)) {
    const std::string name = words::kNames[i], code = fmt::format("{}", d.rng.range(1000, 9999));
    facts.push_back({name, code, fmt::format("The code of {} is {}.", name, code)});
  }
  if (!d.admits(fmt::format("{} {}", asked, canonical(facts)))) return;
  hide(d, facts, asked, "",
       questions(d,
                 {"What is the code of {x}?", "Give the code of {x}.", "Which code has {x}?",
                  "Tell me the code of {x}.", "The code of {x}, please.", "I forgot the code of {x}. What was it?"},
                 facts, asked));
}

void needle(Draft& d) { hide_codes(d, 1); }
void needles(Draft& d) { hide_codes(d, 2); }

void store(Draft& d) {
  const size_t n = total_facts(d), asked = 1 + d.rng.below(2);
  std::vector<Fact> facts;
  for (const size_t i : d.rng.sample(words::kColours.size(), std::min<size_t>(n, 9))) {
    const std::string box = std::string("the ") + words::kColours[i] + " box", value = d.rng.pick(words::kShort);
    facts.push_back({box, value, fmt::format("The word {} is put into {}.", value, box)});
  }
  if (!d.admits(fmt::format("{} {}", asked, canonical(facts)))) return;
  hide(d, facts, asked, "",
       questions(d,
                 {"Which word is in {x}?", "What word did I put into {x}?", "Tell me the word in {x}.",
                  "Name the word that is in {x}.", "What lies in {x}?", "The word in {x}?"},
                 facts, asked));
}

void ledger(Draft& d) {
  // Nothing but facts: as many lines as the distance takes.
  const int distance = kDistances[d.difficulty];
  std::vector<Fact> facts;
  static constexpr int kLine = 8;
  const size_t asked = 1 + d.rng.below(2), n = asked + static_cast<size_t>(distance / kLine);
  const size_t pairs = words::kNames.size() * words::kFoods.size();
  for (size_t i = 0, start = d.rng.below(pairs); i < n; ++i) {
    const size_t pair = permute((start + i) % pairs, pairs, 7);
    const std::string name = words::kNames[pair / words::kFoods.size()],
                      food = words::kFoods[pair % words::kFoods.size()];
    const std::string paid = text(d.rng.range(2, 99));
    facts.push_back({fmt::format("{} for {}", name, food), paid, fmt::format("{} paid {} for {}.", name, paid, food)});
  }
  if (!d.admits(
          fmt::format("{} {}", asked,
                      canonical({facts.begin(), facts.begin() + static_cast<std::ptrdiff_t>(std::min<size_t>(n, 6))}))))
    return;
  const std::string question =
      questions(d,
                {"How much did {x} pay?", "What was paid by {x}?", "Give the sum paid by {x}.", "How much was it: {x}?",
                 "Look up what was paid by {x}.", "In the list, what did {x} cost?"},
                facts, asked);
  std::vector<std::string> lines, values, recalled;
  for (size_t i = 0; i < n; ++i) {
    lines.push_back(facts[i].said);
    if (i >= asked) continue;
    values.push_back(facts[i].value);
    recalled.push_back(facts[i].said);
  }
  const std::string all = join(lines, " ");
  d.ask(all + "\n" + question);
  d.task.filler.push_back(all);
  d.say(join(values), fmt::format("I remember: {}", join(recalled, " ")));
}

void key_value(Draft& d) {
  const int distance = kDistances[d.difficulty];
  static constexpr int kLine = 6;
  const size_t asked = 1 + d.rng.below(2);
  // Two-word keys, so that there are enough of them.
  const size_t n_keys = words::kAdjectives.size() * words::kShort.size();
  const size_t n = std::min(asked + static_cast<size_t>(distance / kLine), n_keys), start = d.rng.below(n_keys);
  std::vector<Fact> facts;
  for (size_t i = 0; i < n; ++i) {
    const size_t key = permute((start + i) % n_keys, n_keys, 11);
    const std::string name =
        fmt::format("{} {}", words::kAdjectives[key / words::kShort.size()], words::kShort[key % words::kShort.size()]);
    const std::string value = text(d.rng.range(10, 99));
    facts.push_back({name, value, fmt::format("{}: {}", name, value)});
  }
  if (!d.admits(
          fmt::format("{} {}", asked,
                      canonical({facts.begin(), facts.begin() + static_cast<std::ptrdiff_t>(std::min<size_t>(n, 6))}))))
    return;
  const std::string question = questions(d,
                                         {"What is the value of {x}?", "Give the value of {x}.", "{x}?", "Look up {x}.",
                                          "Which number belongs to {x}?", "Find the number of {x}."},
                                         facts, asked);
  std::vector<std::string> lines, values, recalled;
  for (size_t i = 0; i < n; ++i) {
    lines.push_back(facts[i].said);
    if (i >= asked) continue;
    values.push_back(facts[i].value);
    recalled.push_back(facts[i].said);
  }
  const std::string all = join(lines, "\n");
  d.ask(all + "\n" + question);
  d.task.filler.push_back(all);
  d.say(join(values), fmt::format("I look back: {}.", join(recalled)));
}

void latest(Draft& d) {  // what was said last counts
  const std::string who = d.rng.pick(words::kNames);
  const auto places = d.rng.sample(words::kPlaces.size(), static_cast<size_t>(2 + d.rng.range(0, 2)));
  std::vector<Fact> facts;
  std::string moves;
  for (const size_t i : places) {
    const std::string place = words::kPlaces[i];
    facts.push_back({who, place, fmt::format("{} went to the {}.", who, place)});
    moves += " " + facts.back().said;
  }
  if (!d.admits(moves)) return;
  const std::string answer = facts.back().value;
  std::string text = "";
  const auto stretch = [&](int tokens) {
    std::string words = filler(d.rng, tokens);
    text += " " + words;
    d.task.filler.push_back(std::move(words));
  };
  for (const Fact& fact : facts) {
    text += (text.empty() ? "" : " ") + fact.said;
    if (&fact != &facts.back()) stretch(d.rng.range(8, 30));
  }
  stretch(kDistances[d.difficulty]);
  d.ask(text + "\n" +
        d.phrase({"Where is {n} now?", "In which place is {n}?", "Where did {n} go last?", "Tell me where {n} is.",
                  "Where can I find {n}?", "Do you know where {n} is now?"},
                 {{"n", who}}));
  d.say(answer, fmt::format("{} moved:{} The last place counts.", who, moves));
}

}  // namespace

void add_recall_families(std::vector<Family>& list) {
  const auto put = [&](const char* id, void (*build)(Draft&)) {
    list.push_back({.id = id, .kind = "recall", .trained = 6, .hardest = 7, .chance = 35, .build = build});
  };
  put("recall-needle", needle);
  put("recall-needles", needles);
  put("recall-store", store);
  put("recall-ledger", ledger);
  put("recall-key-value", key_value);
  put("recall-latest", latest);
}

}  // namespace hadal::data
