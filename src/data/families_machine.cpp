// Following rules step by step: variables, stacks, automata, lists under commands, walks on a grid.

#include <fmt/format.h>

#include <algorithm>

#include "data/family.h"

namespace hadal::data {
namespace {

void variables(Draft& d) {
  const int hops = 1 + d.difficulty, others = 2 + d.difficulty;
  const auto letters = d.rng.sample(26, static_cast<size_t>(hops + others));
  const auto name = [&](int i) { return words::kLetters[letters[static_cast<size_t>(i)]]; };
  const int value = d.rng.range(10, 99);
  std::vector<std::string> chain{fmt::format("{} = {}", name(0), value)};
  for (int i = 1; i < hops; ++i) chain.push_back(fmt::format("{} = {}", name(i), name(i - 1)));
  // Others lie between the lines of the chain, whose order stays.
  std::vector<std::string> lines = chain;
  for (int i = 0; i < others; ++i) {
    const std::string line = fmt::format("{} = {}", name(hops + i), d.rng.range(10, 99));
    lines.insert(lines.begin() + static_cast<std::ptrdiff_t>(d.rng.below(lines.size() + 1)), line);
  }
  const std::string program = join(lines, "; ");
  if (!d.admits(program + "?" + name(hops - 1))) return;
  d.ask(program + ". " +
        d.phrase({"What is {v}?", "The value of {v}?", "What does {v} hold?", "Tell me the value of {v}.",
                  "Now {v} is what?", "Give {v}."},
                 {{"v", name(hops - 1)}}));
  std::reverse(chain.begin(), chain.end());
  d.say(text(value), fmt::format("{}.", join(chain, ". ")));
}

void program(Draft& d) {
  int x = d.rng.range(1, 9);
  std::string lines = fmt::format("x = {}", x), steps = fmt::format("x is {}.", x);
  for (int i = 0; i < 2 + d.difficulty; ++i) {
    const size_t kind = d.rng.below(x > 60 ? 2 : 3);
    const int n = kind == 2 ? 2 : d.rng.range(1, 9);
    const int now = kind == 0 ? x + n : kind == 1 ? x - n : x * n;
    if (now < 0) continue;
    const char* sign = kind == 0 ? "+" : kind == 1 ? "-" : "x";
    lines += fmt::format("; {} {}", kind == 0 ? "add" : kind == 1 ? "take away" : "times", n);
    steps += fmt::format(" {} {} {} = {}.", x, sign, n, now);
    x = now;
  }
  if (!d.admits(lines)) return;
  d.ask(d.phrase({"Follow the steps: {p}. What is x at the end?", "Run this: {p}. Give x.", "{p}. What is x now?",
                  "Start and do: {p}. The result?", "Carry out: {p}. Which number comes out?",
                  "Do these in order: {p}. What is x?"},
                 {{"p", lines}}));
  d.say(text(x), steps);
}

void stack(Draft& d) {
  std::vector<std::string> items, commands, steps;
  const int n = 3 + 2 * d.difficulty;
  for (int i = 0; i < n; ++i) {
    if (items.size() > 1 && d.rng.chance(40)) {
      items.pop_back();
      commands.emplace_back("pop");
    } else {
      items.emplace_back(d.rng.pick(words::kLetters));
      commands.push_back("push " + items.back());
    }
    steps.push_back(join(items, " "));
  }
  const std::string list = join(commands);
  if (!d.admits(list)) return;
  d.ask(d.phrase(
      {"A stack is empty. Then: {x}. What is on the stack, from bottom to top?",
       "Stack commands: {x}. Show the stack from the bottom.", "Do {x} on an empty stack. What is in it, bottom first?",
       "Start with an empty stack: {x}. List it, bottom first.",
       "After {x} on an empty stack, what remains, bottom first?"},
      {{"x", list}}));
  d.say(join(items, " "), fmt::format("Step by step: {}.", join(steps, ", ")));
}

void automaton(Draft& d) {
  const int n = 3 + d.difficulty / 2;
  std::vector<int> next[2];
  std::vector<std::string> rules;
  for (int s = 0; s < n; ++s)
    for (int c = 0; c < 2; ++c) {
      next[c].push_back(static_cast<int>(d.rng.below(static_cast<size_t>(n))));
      rules.push_back(fmt::format("S{} {} S{}", s, c ? "b" : "a", next[c].back()));
    }
  std::string input, steps = "S0";
  int at = 0;
  for (int i = 0; i < 3 + d.difficulty; ++i) {
    const size_t c = d.rng.below(2);
    at = next[c][static_cast<size_t>(at)];
    input += fmt::format("{}{}", i ? " " : "", c ? "b" : "a");
    steps += fmt::format(", {} S{}", c ? "b" : "a", at);
  }
  if (!d.admits(join(rules) + input)) return;
  d.ask(d.phrase(
      {"Rules: {r}. Start in S0 and read: {x}. Where do you end?",
       "A machine starts in S0 with the rules {r}. It reads {x}. Which state is last?",
       "Rules: {r}. From S0, what state follows {x}?", "Start S0. Rules: {r}. Input: {x}. Give the last state.",
       "With the rules {r}, which state is reached from S0 by {x}?"},
      {{"r", join(rules)}, {"x", input}}));
  d.say(fmt::format("S{}", at), steps + ".");
}

void list_commands(Draft& d) {
  std::vector<std::string> items, said, steps;
  for (const size_t i : d.rng.sample(26, 4)) items.emplace_back(words::kLetters[i]);
  const std::string start = join(items, " ");
  for (int i = 0; i < 1 + d.difficulty; ++i) {
    switch (d.rng.below(5)) {
      case 0:
        std::reverse(items.begin(), items.end());
        said.emplace_back("reverse it");
        break;
      case 1:
        if (items.size() < 2) continue;
        items.erase(items.begin());
        said.emplace_back("drop the first");
        break;
      case 2:
        if (items.size() < 2) continue;
        items.pop_back();
        said.emplace_back("drop the last");
        break;
      case 3:
        items.emplace_back(d.rng.pick(words::kLetters));
        said.push_back("add " + items.back() + " at the end");
        break;
      default:
        std::swap(items.front(), items.back());
        said.emplace_back("swap the first and the last");
    }
    steps.push_back(join(items, " "));
  }
  if (said.empty() || join(items, " ") == start || !d.admits(start + join(said))) return;
  d.ask(d.phrase({"Take the list {a}. {c}. What is the list now?", "List: {a}. Do this: {c}. Show the list.",
                  "Start with {a}. {c}. What do you have?", "{a}: {c}. Give the result.",
                  "The list is {a}. {c}. Write the list.", "With {a} do: {c}. The result?"},
                 {{"a", start}, {"c", join(said, ", then ")}}));
  d.say(join(items, " "), fmt::format("{}. So: {}", join(steps, ". "), join(items, " ")));
}

void walk(Draft& d) {
  static constexpr const char* kNames[] = {"north", "east", "south", "west"};
  int x = 0, y = 0;
  std::vector<std::string> moves, steps;
  for (int i = 0; i < 2 + d.difficulty; ++i) {
    const size_t dir = d.rng.below(4);
    const int n = d.rng.range(1, 5);
    if (dir % 2 == 0)
      y += dir == 0 ? n : -n;
    else
      x += dir == 1 ? n : -n;
    moves.push_back(fmt::format("{} {}", n, kNames[dir]));
    steps.push_back(fmt::format("{} {}", x, y));
  }
  if (!d.admits(join(moves))) return;
  d.ask(d.phrase({"I start at 0 0 and walk {m}. East adds to the first number, north to the second. Where am "
                  "I?",
                  "Start: 0 0. East adds to the first number, north to the second. Moves: {m}. The end?",
                  "A robot at 0 0 goes {m}. East adds to the first number, north to the second. Give its "
                  "place.",
                  "From 0 0 go {m}. East adds to the first number, north to the second. Which point is it?",
                  "East adds to the first number, north to the second. Walking {m} from 0 0 leads where?"},
                 {{"m", join(moves)}}));
  d.say(fmt::format("{} {}", x, y), fmt::format("0 0, {}.", join(steps)));
}

void pattern(Draft& d) {
  const int period = 2 + d.difficulty / 2,
            shown = period * 2 + static_cast<int>(d.rng.below(static_cast<size_t>(period)));
  std::vector<std::string> unit, items;
  for (const size_t i : d.rng.sample(words::kShort.size(), static_cast<size_t>(period)))
    unit.emplace_back(words::kShort[i]);
  const int ask = 1 + d.difficulty % 2;
  for (int i = 0; i < shown; ++i) items.push_back(unit[static_cast<size_t>(i % period)]);
  std::vector<std::string> next;
  for (int i = 0; i < ask; ++i) next.push_back(unit[static_cast<size_t>((shown + i) % period)]);
  if (!d.admits(fmt::format("{} {}", join(items), ask))) return;
  d.ask(
      d.phrase({"{x}: what comes next? Give {n}.", "Go on with {n} more: {x}", "The pattern is {x}. Say the next {n}.",
                "Continue the pattern with {n}: {x}", "Which {n} should follow {x}?", "Next {n} of the pattern {x}?"},
               {{"x", join(items, " ")}, {"n", text(ask)}}));
  d.say(join(next, " "),
        fmt::format("It repeats: {}. The last is {}, so next: {}.", join(unit, " "), items.back(), join(next, " ")));
}

void cipher(Draft& d) {
  const int shift = 1 + static_cast<int>(d.rng.below(static_cast<size_t>(3 + d.difficulty)));
  const std::string word = d.rng.pick(words::vocabulary());
  std::string out, steps;
  for (const char c : word) {
    out += static_cast<char>('a' + (c - 'a' + shift) % 26);
    steps += fmt::format(" {} {}.", c, out.back());
  }
  if (!d.admits(fmt::format("{} {}", word, shift))) return;
  d.ask(d.phrase({"Move every letter of {w} by {n} in the alphabet.", "Shift {w} by {n} letters.",
                  "Write {w} with each letter {n} later.", "Code the word {w} with shift {n}.",
                  "Each letter {n} further: {w}", "Turn {w} into code, shift {n}."},
                 {{"w", word}, {"n", text(shift)}}));
  d.say(out, fmt::format("Letter by letter:{}", steps));
}

}  // namespace

void add_machine_families(std::vector<Family>& list) {
  const auto put = [&](const char* id, int trained, int chance, void (*build)(Draft&)) {
    list.push_back(
        {.id = id, .kind = "logic", .trained = trained, .hardest = trained + 1, .chance = chance, .build = build});
  };
  put("variables", 3, 30, variables);
  put("program", 4, 15, program);
  put("stack", 3, 5, stack);
  put("automaton", 4, 60, automaton);
  put("list-commands", 3, 10, list_commands);
  put("walk", 3, 10, walk);
  put("pattern", 4, 60, pattern);
  put("cipher", 3, 2, cipher);
}

}  // namespace hadal::data
