// Conversations: later turns that lean on earlier ones, and whole small talks put together from
// other families.

#include <fmt/format.h>

#include <array>

#include "data/family.h"
#include "data/story.h"
#include "data/world.h"

namespace hadal::data {
namespace {

Expectation contains(std::vector<std::string> values) {
  return {.kind = Expectation::Kind::kContains, .values = std::move(values), .json = {}};
}

void running_sum(Draft& d) {
  int x = d.rng.range(2, 20);
  const int first = d.rng.range(2, 20);
  std::vector<std::array<int, 2>> changes;
  std::string canonical = fmt::format("{} {}", x, first);
  for (int i = 0; i < 1 + d.difficulty; ++i) {
    changes.push_back({static_cast<int>(d.rng.below(3)), d.rng.range(1, 9)});
    canonical += fmt::format(" {}{}", changes.back()[0], changes.back()[1]);
  }
  if (!d.admits(canonical)) return;
  d.ask(d.phrase({"What is {a} + {b}?", "Add {a} and {b}.", "{a} + {b}?", "How much is {a} plus {b}?",
                  "Please add {a} and {b}.", "Sum up {a} and {b}."},
                 {{"a", text(x)}, {"b", text(first)}}));
  d.say(text(x + first), fmt::format("{} + {} = {}.", x, first, x + first));
  x += first;
  for (const auto& [kind, by] : changes) {
    const int n = kind == 2 ? 2 : kind == 1 && by > x ? 1 : by;
    const Slots slots = {{"n", text(n)}};
    if (kind == 0)
      d.ask(d.phrase(
          {"Now add {n}.", "Add {n} to that.", "And {n} more?", "Plus {n}?", "Then add {n}.", "With {n} more?"},
          slots));
    else if (kind == 1)
      d.ask(d.phrase({"Now take away {n}.", "Take {n} from that.", "And {n} less?", "Minus {n}?", "Then take away {n}.",
                      "With {n} less?"},
                     slots));
    else
      d.ask(d.phrase({"Now double it.", "Twice that?", "Times two?", "Take it two times.", "Then double that.",
                      "And the double?"}));
    const int now = kind == 0 ? x + n : kind == 1 ? x - n : x * 2;
    d.say(text(now), fmt::format("It was {}. {} {} {} = {}.", x, x, kind == 0 ? "+" : kind == 1 ? "-" : "x", n, now));
    x = now;
  }
}

void about_list(Draft& d) {
  std::vector<std::string> items;
  for (const size_t i : d.rng.sample(words::kObjects.size(), static_cast<size_t>(4 + d.difficulty)))
    items.emplace_back(words::kObjects[i]);
  if (!d.admits(join(items))) return;
  d.ask(d.phrase(
      {"Here is a list: {x}. How many are there?", "My list: {x}. Count it.", "I have {x}. How many things is that?",
       "Take this list: {x}. How long is it?", "List: {x}. The number of items?"},
      {{"x", join(items)}}));
  d.say(text(static_cast<int>(items.size())), fmt::format("The list: {}.", join(items)));
  for (int i = 0; i < 1 + d.difficulty; ++i) {
    const std::string list = join(items);
    switch (d.rng.below(4)) {
      case 0:
        d.ask(d.phrase(
            {"Which is the last?", "And the last one?", "Name the last.", "What is at the end?", "The last one is?"}));
        d.say(items.back(), fmt::format("The list is {}.", list));
        break;
      case 1:
        d.ask(d.phrase({"Which is the first?", "And the first one?", "Name the first.", "What is at the start?",
                        "The first one is?"}));
        d.say(items.front(), fmt::format("The list is {}.", list));
        break;
      case 2: {
        const size_t at = d.rng.below(items.size() - 1);
        d.ask(d.phrase({"What comes after {w}?", "Which follows {w}?", "Name the one after {w}.",
                        "After {w} comes what?", "What stands behind {w}?"},
                       {{"w", items[at]}}));
        d.say(items[at + 1], fmt::format("The list is {}.", list));
        break;
      }
      default: {
        const size_t at = 1 + d.rng.below(items.size() - 1);
        d.ask(d.phrase({"What comes before {w}?", "Which is right before {w}?", "Name the one before {w}.",
                        "Before {w} comes what?", "What stands ahead of {w}?"},
                       {{"w", items[at]}}));
        d.say(items[at - 1], fmt::format("The list is {}.", list));
      }
    }
  }
}

struct Fact {
  const char *told, *short_reply;
  std::array<std::string_view, 5> asks;
  std::array<std::string_view, 2> answers;
  Words values;
};

// Facts about the user, told first and asked for later; small talk may lie between.
void remember(Draft& d) {
  static const Fact kFacts[] = {
      {"My name is {v}.",
       "Nice to meet you, {v}!",
       {"What is my name?", "Do you remember my name?", "Who am I?", "How am I called?", "Say my name."},
       {"Your name is {v}.", "You are {v}."},
       words::kNames},
      {"I live in {v}.",
       "{v} is a nice place.",
       {"Where do I live?", "Which city do I live in?", "What is my city?", "Do you remember where I live?",
        "In which city is my home?"},
       {"You live in {v}.", "Your city is {v}."},
       words::kCities},
      {"I have a {v}.",
       "A {v}! That is nice.",
       {"Which animal do I have?", "What is my pet?", "Do you remember my pet?", "What pet do I have?",
        "Which pet lives with me?"},
       {"You have a {v}.", "Your pet is a {v}."},
       words::kAnimals},
      {"My favourite colour is {v}.",
       "I will remember: {v}.",
       {"What is my favourite colour?", "Which colour do I like?", "Do you remember my colour?",
        "What colour is my favourite?", "Which colour did I name?"},
       {"Your favourite colour is {v}.", "You like {v}."},
       words::kColours},
      {"I work as a {v}.",
       "That is a good job.",
       {"What is my job?", "What do I work as?", "Do you remember my job?", "What do I do for work?",
        "Which job do I have?"},
       {"You work as a {v}.", "Your job: {v}."},
       words::kJobs},
      {"Today I ate {v}.",
       "I hope it was good.",
       {"What did I eat?", "What did I eat today?", "Do you remember what I ate?", "Which food did I eat?",
        "What was my food today?"},
       {"You ate {v}.", "You had {v} today."},
       words::kFoods}};
  const size_t n = static_cast<size_t>(1 + d.difficulty);
  const auto which = d.rng.sample(std::size(kFacts), n);
  std::vector<std::string> values;
  std::string canonical;
  for (const size_t i : which) {
    values.emplace_back(d.rng.pick(kFacts[i].values));
    canonical += fill(kFacts[i].told, {{"v", values.back()}});
  }
  const size_t asked = d.rng.below(n);
  const size_t small = d.rng.below(3);
  if (!d.admits(fmt::format("{} {} {}", canonical, asked, small))) return;
  for (size_t i = 0; i < n; ++i) {
    const Fact& fact = kFacts[which[i]];
    const Slots slots = {{"v", values[i]}};
    d.ask(d.phrase(
        {"{t}", "Hello. {t}", "By the way: {t}", "You should know: {t}", "Please note: {t}", "I tell you this: {t}"},
        {{"t", fill(fact.told, slots)}}));
    d.say("I see. " + fill(fact.short_reply, slots), "The user tells me something. I will remember it.", "",
          contains({"i see"}));
  }
  if (small == 1) {
    const int a = d.rng.range(1, 9), b = d.rng.range(1, 9);
    d.ask(d.phrase(
        {"What is {a} + {b}?", "{a} + {b}?", "Add {a} and {b}.", "How much is {a} plus {b}?", "And {a} plus {b}?"},
        {{"a", text(a)}, {"b", text(b)}}));
    d.say(text(a + b), fmt::format("{} + {} = {}.", a, b, a + b));
  } else if (small == 2) {
    d.ask(d.phrase({"Are you still there?", "Do you listen?", "Did you get that?", "Is that clear?", "Understood?"}));
    d.say("Yes, I am here.", "The user wants to know if I listen.", "", contains({"yes"}));
  }
  const Fact& fact = kFacts[which[asked]];
  d.ask(d.phrase({fact.asks.begin(), fact.asks.end()}));
  d.say(fill(d.rng.pick(fact.answers), {{"v", values[asked]}}),
        fmt::format("The user said: {}", fill(fact.told, {{"v", values[asked]}})), "", contains({values[asked]}));
}

void correction(Draft& d) {
  const int a = d.rng.range(2, 30), b = d.rng.range(2, 30), wrong = d.rng.range(2, 30);
  if (wrong == b || !d.admits(fmt::format("{} {} {}", a, b, wrong))) return;
  d.ask(d.phrase(
      {"What is {a} + {w}?", "Add {a} and {w}.", "{a} + {w}?", "How much is {a} plus {w}?", "Please add {a} and {w}."},
      {{"a", text(a)}, {"w", text(wrong)}}));
  d.say(text(a + wrong), fmt::format("{} + {} = {}.", a, wrong, a + wrong));
  d.ask(d.phrase({"Sorry, I meant {b}, not {w}.", "No, not {w} but {b}.", "I was wrong: {b} instead of {w}.",
                  "Please take {b} and not {w}.", "Make that {b}, not {w}."},
                 {{"b", text(b)}, {"w", text(wrong)}}));
  d.say(text(a + b), fmt::format("So it is {} + {} = {}.", a, b, a + b));
}

// Which one fits after "and": the same question about something else.
void and_what_about(Draft& d) {
  std::vector<std::string> names;
  std::vector<int> ages;
  std::string told;
  for (const size_t i : d.rng.sample(words::kNames.size(), static_cast<size_t>(3 + d.difficulty))) {
    names.emplace_back(words::kNames[i]);
    ages.push_back(d.rng.range(5, 80));
    told += fmt::format("{}{} is {}.", told.empty() ? "" : " ", names.back(), ages.back());
  }
  if (!d.admits(told)) return;
  std::vector<size_t> order = d.rng.sample(names.size(), static_cast<size_t>(2 + d.difficulty));
  for (size_t i = 0; i < order.size(); ++i) {
    const Slots slots = {{"n", names[order[i]]}, {"t", told}};
    d.ask(i == 0 ? d.phrase({"{t} How old is {n}?", "{t} What is the age of {n}?", "Note the ages: {t} How old is {n}?",
                             "{t} Tell me the age of {n}.", "{t} Give the age of {n}."},
                            slots)
                 : d.phrase({"And {n}?", "What about {n}?", "And how about {n}?", "Now {n}?", "And for {n}?"}, slots));
    d.say(text(ages[order[i]]), fmt::format("{} is {}.", names[order[i]], ages[order[i]]));
  }
}

bool append(Draft& d, const std::string& id, int difficulty) {
  const Family* family = find_family(id);
  HADAL_CHECK(family != nullptr);
  Draft part({id, d.split, d.rng.next(), difficulty, d.new_phrasing}, 0);
  family->build(part);
  if (!part.complete()) return false;
  d.task.turns.insert(d.task.turns.end(), part.task.turns.begin(), part.task.turns.end());
  d.task.solution.insert(d.task.solution.end(), part.task.solution.begin(), part.task.solution.end());
  d.task.instance += (d.task.instance.empty() ? "" : " & ") + part.task.instance;
  return true;
}

// What somebody asks who meets the model: who it is, some tasks, a story, thanks; every part by its own family, of the
// same split.
void small_talk(Draft& d) {
  static constexpr const char* kOpen[] = {"talk-greet", "talk-greet", "talk-who", "talk-can", "talk-feel"};
  static constexpr const char* kParts[] = {
      "talk-who",     "talk-can",    "talk-made",      "talk-project", "talk-cannot", "talk-feel",  "talk-thanks",
      "story-any",    "story-any",   "story-tell",     "add",          "add",         "subtract",   "copy",
      "reverse",      "sort-words",  "spelling",       "opposite",     "explain",     "category",   "nth",
      "number-words", "simple-fact", "cannot-weather", "cannot-image", "cannot-news", "cannot-time"};
  Task kept = d.task;
  const auto part = [&](const char* id) {
    // In dev and test one draw in a hundred is right: try again here instead of starting over.
    for (int i = 0; i < 2000; ++i)
      if (append(d, id, 0)) return true;
    return false;
  };
  d.task.instance.clear();
  bool good = !d.rng.chance(70) || part(d.rng.pick(kOpen));
  for (int i = 0; good && i < 2 + d.difficulty; ++i) good = part(d.rng.pick(kParts));
  if (good && d.rng.chance(50)) good = part(d.rng.chance(50) ? "talk-thanks" : "talk-bye");
  if (good)
    d.admit_parts();
  else
    d.task = std::move(kept);
}

// Tools are there, but nothing asks for them.
void no_tool_needed(Draft& d) {
  static constexpr const char* kTasks[] = {"talk-greet", "talk-thanks",    "talk-who",    "talk-can",
                                           "add",        "opposite",       "explain",     "simple-fact",
                                           "reverse",    "cannot-weather", "cannot-image"};
  const World& world = d.rng.pick(worlds());
  const Interface interface = d.rng.chance(50) ? Interface::kDirect : Interface::kPaged;
  const bool reads = interface == Interface::kDirect;
  d.task.instance.clear();
  if (!append(d, d.rng.pick(kTasks), 0)) return;
  d.task.tools = tool_schemas(world, interface,
                              {.get = reads, .list = !reads || d.rng.chance(50), .set = world.set && d.rng.chance(50)});
  d.admit_parts();
}

}  // namespace

void add_chat_families(std::vector<Family>& list) {
  const auto put = [&](const char* id, int trained, int chance, void (*build)(Draft&)) {
    list.push_back(
        {.id = id, .kind = "chat", .trained = trained, .hardest = trained + 1, .chance = chance, .build = build});
  };
  put("running-sum", 2, 5, running_sum);
  put("about-list", 2, 5, about_list);
  put("remember", 2, 5, remember);
  list.push_back({.id = "correction", .kind = "chat", .trained = 0, .hardest = 0, .chance = 5, .build = correction});
  put("what-about", 2, 5, and_what_about);
  put("small-talk", 2, 5, small_talk);
  list.push_back(
      {.id = "no-tool-needed", .kind = "chat", .trained = 0, .hardest = 0, .chance = 5, .build = no_tool_needed});
}

}  // namespace hadal::data
