// Truth, brackets, families, graphs: small worlds with one right answer.

#include <fmt/format.h>

#include <algorithm>
#include <deque>
#include <map>

#include "data/family.h"

namespace hadal::data {
namespace {

const char* truth(bool value) { return value ? "true" : "false"; }

// A random formula of n operators over A, B, C: its text, its value, and the steps to it.
struct Formula {
  std::string written;
  bool value;
};
Formula formula(Draft& d, int n, const bool (&values)[3], std::string& steps) {
  if (n == 0) {
    const size_t i = d.rng.below(3);
    return {std::string(1, static_cast<char>('A' + i)), values[i]};
  }
  if (d.rng.chance(25)) {
    const Formula inner = formula(d, n - 1, values, steps);
    const Formula out{"not " + inner.written, !inner.value};
    steps += fmt::format("{} is {}. ", out.written, truth(out.value));
    return out;
  }
  const int left = static_cast<int>(d.rng.below(static_cast<size_t>(n)));
  const Formula a = formula(d, left, values, steps), b = formula(d, n - 1 - left, values, steps);
  const bool both = d.rng.chance(50);
  const Formula out{fmt::format("({} {} {})", a.written, both ? "and" : "or", b.written),
                    both ? a.value && b.value : a.value || b.value};
  steps += fmt::format("{} is {}. ", out.written, truth(out.value));
  return out;
}

void truth_table(Draft& d) {
  const bool values[3] = {d.rng.chance(50), d.rng.chance(50), d.rng.chance(50)};
  std::string steps;
  const Formula f = formula(d, 1 + d.difficulty, values, steps);
  const std::string given =
      fmt::format("A is {}, B is {}, C is {}.", truth(values[0]), truth(values[1]), truth(values[2]));
  if (!d.admits(given + f.written)) return;
  d.ask(given + " " +
        d.phrase({"What is {f}?", "Is {f} true or false?", "Give the value of {f}.", "Work out {f}.", "Evaluate {f}.",
                  "True or false: {f}"},
                 {{"f", f.written}}));
  d.say(truth(f.value), steps);
}

std::string random_brackets(Draft& d, int pairs, std::string_view kinds) {
  std::string out, open;
  for (int made = 0; made < pairs || !open.empty();) {
    const bool opens = made < pairs && (open.empty() || d.rng.chance(60));
    if (opens) {
      const size_t kind = d.rng.below(kinds.size() / 2);
      out += kinds[kind * 2];
      open += kinds[kind * 2 + 1];
      ++made;
    } else {
      out += open.back();
      open.pop_back();
    }
  }
  return out;
}

std::string spaced(std::string_view text) {
  std::string out;
  for (const char c : text) out += (out.empty() ? "" : " ") + std::string(1, c);
  return out;
}

constexpr std::string_view kBrackets = "()[]{}";
char closing(char open) { return kBrackets[kBrackets.find(open) + 1]; }

void balanced(Draft& d) {
  std::string brackets = random_brackets(d, 3 + d.difficulty, kBrackets.substr(0, 4));
  if (d.rng.chance(50)) {
    const size_t at = d.rng.below(brackets.size());
    brackets[at] = kBrackets[(kBrackets.find(brackets[at]) + 1 + d.rng.below(3)) % 4];
  }
  std::string stack, steps;
  bool good = true;
  for (const char c : brackets) {
    if (kBrackets.find(c) % 2 == 0) {
      stack += c;
    } else if (!stack.empty() && closing(stack.back()) == c) {
      stack.pop_back();
    } else {
      steps += fmt::format("{} closes nothing. ", c);
      good = false;
      break;
    }
    steps += fmt::format("{}: open {}. ", c, stack.empty() ? "none" : spaced(stack));
  }
  good = good && stack.empty();
  if (!d.admits(brackets)) return;
  d.ask(d.phrase({"Are these brackets balanced: {x}", "Is this balanced: {x}", "Do all brackets close: {x}",
                  "Check the brackets: {x} Answer yes or no.", "Balanced or not, yes or no: {x}",
                  "Yes or no, are they balanced: {x}"},
                 {{"x", spaced(brackets)}}));
  d.say(good ? "yes" : "no", steps);
}

void close_brackets(Draft& d) {
  const std::string all = random_brackets(d, 3 + d.difficulty, kBrackets);
  const std::string given = all.substr(0, d.rng.below(all.size() - 1) + 1);
  std::string stack, rest;
  for (const char c : given) {
    if (kBrackets.find(c) % 2 == 0)
      stack += c;
    else
      stack.pop_back();
  }
  if (stack.empty()) return;
  for (size_t i = stack.size(); i-- > 0;) rest += closing(stack[i]);
  if (!d.admits(given)) return;
  d.ask(d.phrase({"Close the open brackets: {x}", "Which brackets must follow: {x}", "Finish this: {x}",
                  "What is needed to close: {x}", "Add the closing brackets for: {x}", "Complete the brackets: {x}"},
                 {{"x", spaced(given)}}));
  d.say(spaced(rest), fmt::format("Still open: {}. I close the last one first: {}", spaced(stack), spaced(rest)));
}

void family_tree(Draft& d) {
  const auto who = d.rng.sample(words::kNames.size(), static_cast<size_t>(4 + d.difficulty));
  // A chain of parents with names[i] the parent of names[i + 1], told in random order.
  std::vector<std::string> facts;
  for (size_t i = 0; i + 1 < who.size(); ++i) {
    const std::string p = words::kNames[who[i]], c = words::kNames[who[i + 1]];
    facts.push_back(d.rng.chance(50) ? fmt::format("{} is the parent of {}.", p, c)
                                     : fmt::format("{} is the child of {}.", c, p));
  }
  d.rng.shuffle(facts);
  const size_t kind = d.rng.below(2), span = 2 + (d.difficulty >= 3 ? 1 : 0);
  const size_t at = d.rng.below(who.size() - span);
  const bool up = kind == 0;
  const std::string grand = span == 2 ? "grand" : "great-grand";
  const std::string child = words::kNames[who[at + span]], parent = words::kNames[who[at]];
  if (!d.admits(join(facts) + grand + (up ? child : "^" + parent))) return;
  d.ask(join(facts, " ") + " " +
        d.phrase({"Who is the {r} of {n}?", "Name the {r} of {n}.", "Tell me the {r} of {n}.", "Find the {r} of {n}.",
                  "Which person is the {r} of {n}?"},
                 {{"r", grand + (up ? "parent" : "child")}, {"n", up ? child : parent}}));
  std::string steps;
  for (size_t i = 0; i < span; ++i) {
    const size_t a = up ? at + span - i : at + i;
    steps += fmt::format("The {} of {} is {}. ", up ? "parent" : "child", words::kNames[who[a]],
                         words::kNames[up ? who[a - 1] : who[a + 1]]);
  }
  d.say(up ? parent : child, steps);
}

struct Graph {
  int n = 0;
  std::vector<std::pair<int, int>> edges;
  std::vector<int> distances(int from, std::vector<int>& before) const {
    std::vector<int> distance(static_cast<size_t>(n), -1);
    before.assign(static_cast<size_t>(n), -1);
    distance[static_cast<size_t>(from)] = 0;
    for (std::deque<int> queue{from}; !queue.empty(); queue.pop_front()) {
      const int at = queue.front();
      for (const auto& [a, b] : edges) {
        const int to = a == at ? b : b == at ? a : -1;
        if (to < 0 || distance[static_cast<size_t>(to)] >= 0) continue;
        distance[static_cast<size_t>(to)] = distance[static_cast<size_t>(at)] + 1;
        before[static_cast<size_t>(to)] = at;
        queue.push_back(to);
      }
    }
    return distance;
  }
};

// A random graph of towns A, B, ..: `n` nodes, few roads.
Graph random_graph(Draft& d, int n, int edges) {
  Graph graph{.n = n, .edges = {}};
  while (static_cast<int>(graph.edges.size()) < edges) {
    const int a = static_cast<int>(d.rng.below(static_cast<size_t>(n))),
              b = static_cast<int>(d.rng.below(static_cast<size_t>(n)));
    const std::pair<int, int> edge{std::min(a, b), std::max(a, b)};
    if (a != b && std::find(graph.edges.begin(), graph.edges.end(), edge) == graph.edges.end())
      graph.edges.push_back(edge);
  }
  return graph;
}
char town(int i) { return static_cast<char>('A' + i); }
std::string roads(const Graph& graph) {
  std::vector<std::string> out;
  for (const auto& [a, b] : graph.edges) out.push_back(fmt::format("{}-{}", town(a), town(b)));
  return join(out);
}
std::string route(const std::vector<int>& before, int to) {
  std::string out(1, town(to));
  for (int at = before[static_cast<size_t>(to)]; at >= 0; at = before[static_cast<size_t>(at)])
    out = fmt::format("{} {}", town(at), out);
  return out;
}

void reachable(Draft& d) {
  const int n = 4 + d.difficulty;
  const Graph graph = random_graph(d, n, n - 1);
  const int from = static_cast<int>(d.rng.below(static_cast<size_t>(n))), to = (from + d.rng.range(1, n - 1)) % n;
  std::vector<int> before;
  const auto distance = graph.distances(from, before);
  const bool yes = distance[static_cast<size_t>(to)] >= 0;
  if (distance[static_cast<size_t>(to)] == 1 || (yes && d.rng.chance(70))) return;  // as often yes as no
  const std::string list = roads(graph);
  if (!d.admits(fmt::format("{} {} {}", list, from, to))) return;
  d.ask(d.phrase({"Roads: {r}. Can I go from {a} to {b}?", "There are roads {r}. Is there a way from {a} to {b}?",
                  "Roads: {r}. Do {a} and {b} connect, yes or no?", "With the roads {r}, can one reach {b} from {a}?",
                  "Roads: {r}. Is {b} reachable from {a}?"},
                 {{"r", list}, {"a", std::string(1, town(from))}, {"b", std::string(1, town(to))}}));
  std::string seen;
  for (int i = 0; i < n; ++i)
    if (distance[static_cast<size_t>(i)] >= 0) seen += fmt::format(" {}", town(i));
  d.say(yes ? "yes" : "no", fmt::format("From {} I reach:{}. {}", town(from), seen,
                                        yes ? fmt::format("The way is {}.", route(before, to))
                                            : fmt::format("{} is not there.", town(to))));
}

void shortest_path(Draft& d) {
  const int n = 4 + d.difficulty;
  const Graph graph = random_graph(d, n, n);
  const int from = static_cast<int>(d.rng.below(static_cast<size_t>(n))), to = (from + d.rng.range(1, n - 1)) % n;
  std::vector<int> before;
  const auto distance = graph.distances(from, before);
  const int steps = distance[static_cast<size_t>(to)];
  if (steps < 2 || (steps == 2 && d.rng.chance(70))) return;  // most are near
  const std::string list = roads(graph);
  if (!d.admits(fmt::format("{} {} {}", list, from, to))) return;
  d.ask(d.phrase({"Roads: {r}. How many roads are on the shortest way from {a} to {b}?",
                  "There are roads {r}. How many steps from {a} to {b} at least?",
                  "Roads: {r}. The shortest way from {a} to {b} has how many roads?",
                  "With the roads {r}, how far is it from {a} to {b}?",
                  "Roads: {r}. Give the smallest number of roads between {a} and {b}."},
                 {{"r", list}, {"a", std::string(1, town(from))}, {"b", std::string(1, town(to))}}));
  std::string reached;
  for (int far = 0; far <= steps; ++far) {
    reached += fmt::format("{}{}:", reached.empty() ? "" : ". ", far);
    for (int i = 0; i < n; ++i)
      if (distance[static_cast<size_t>(i)] == far) reached += fmt::format(" {}", town(i));
  }
  d.say(text(steps), fmt::format("After so many steps I am at {}. So {} by {}.", reached, steps, route(before, to)));
}

void ordering(Draft& d) {
  struct Relation {
    const char *than, *most, *least;
  };
  static constexpr Relation kRelations[] = {{"taller", "tallest", "shortest"},
                                            {"older", "oldest", "youngest"},
                                            {"faster", "fastest", "slowest"},
                                            {"stronger", "strongest", "weakest"}};
  const auto& [than, most, least] = d.rng.pick(kRelations);
  const auto who = d.rng.sample(words::kNames.size(), static_cast<size_t>(3 + d.difficulty));
  std::vector<std::string> facts, chain;
  for (size_t i = 0; i + 1 < who.size(); ++i)
    facts.push_back(fmt::format("{} is {} than {}.", words::kNames[who[i]], than, words::kNames[who[i + 1]]));
  for (const size_t i : who) chain.emplace_back(words::kNames[i]);
  d.rng.shuffle(facts);
  const bool top = d.rng.chance(50);
  if (!d.admits(join(facts) + (top ? "1" : "0"))) return;
  d.ask(join(facts, " ") + " " +
        d.phrase({"Who is the {m}?", "Name the {m} person.", "Which of them is the {m}?", "Tell me who is the {m}.",
                  "Who is {m} of all?"},
                 {{"m", top ? most : least}}));
  d.say(top ? chain.front() : chain.back(), fmt::format("In order: {}.", join(chain)));
}

}  // namespace

void add_logic_families(std::vector<Family>& list) {
  const auto put = [&](const char* id, int trained, int chance, void (*build)(Draft&)) {
    list.push_back(
        {.id = id, .kind = "logic", .trained = trained, .hardest = trained + 1, .chance = chance, .build = build});
  };
  put("truth", 3, 60, truth_table);
  put("balanced", 4, 65, balanced);
  put("close-brackets", 4, 30, close_brackets);
  put("family-tree", 3, 40, family_tree);
  put("reachable", 3, 60, reachable);
  put("shortest-path", 3, 60, shortest_path);
  put("ordering", 3, 45, ordering);
}

}  // namespace hadal::data
