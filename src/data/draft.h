// What builds a task: the random numbers of its key, the split it must fall into, and the
// conversation so far.
//
// A family draws an instance, asks whether it belongs to the split (`admits`), and returns at once
// when it does not: make_task then tries the next one. Small spaces are enumerated instead
// (`element`): their parts are fixed shares.
//
//   void build_add(Draft& draft) {
//     const int a = draft.rng.range(10, 99), b = draft.rng.range(10, 99);
//     if (!draft.admits(fmt::format("{}+{}", a, b))) return;
//     draft.ask(draft.phrase({"{a} + {b}?", "Add {a}, {b}."}, {{"a", text(a)}, {"b", text(b)}}));
//     draft.say(text(a + b), "...");
//   }
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "data/rng.h"
#include "data/task.h"
#include "data/words.h"

namespace hadal::data {

using Slots = std::vector<std::pair<std::string_view, std::string>>;
std::string fill(std::string_view pattern, const Slots& slots);  // {name} becomes its text
inline std::string text(int number) { return std::to_string(number); }
std::string join(const std::vector<std::string>& items, std::string_view separator = ", ");

class Draft {
 public:
  Draft(const TaskKey& key, uint64_t attempt);

  Rng rng;
  const Split split;
  const bool new_phrasing;
  const int difficulty;
  Task task;

  // Names the instance; false: it belongs to another split.
  bool admits(std::string_view content);
  // One of `n` elements of the space of that name, of those that belong to the split (98 : 1 : 1,
  // at least one each). Names the instance.
  size_t element(std::string_view space, size_t n);
  // Of a task put together from parts that were each admitted to the split.
  void admit_parts() { admitted_ = true; }
  bool complete() const { return admitted_; }

  // One way to say it. The last of the list (of six and more: the last two) are those of `new_phrasing` only.
  std::string_view phrase(std::initializer_list<std::string_view> ways) {
    return phrase(std::vector<std::string_view>(ways));
  }
  std::string_view phrase(const std::vector<std::string_view>& ways);
  std::string phrase(std::initializer_list<std::string_view> ways, const Slots& slots) {
    return fill(phrase(ways), slots);
  }

  void ask(std::string_view user) { task.turns.push_back({std::string(user), {}}); }
  // The answer to the last question, which must be exactly this.
  void say(std::string content, std::string reasoning, std::string check = "");
  // The same with another demand.
  void say(std::string content, std::string reasoning, std::string check, Expectation expected);

 private:
  std::string environment_;
  bool admitted_ = false;
};

}  // namespace hadal::data
