#include "data/family.h"

#include <fmt/format.h>

#include <map>

#include "data/tool_tasks.h"

namespace hadal::data {
namespace {

constexpr uint64_t kMaxAttempts = 50000;  // dev and test take one draw in a hundred

// Some conversations open with a system message that changes nothing.
void add_system(Task& task) {
  static constexpr const char* kSystems[] = {"You are a helpful assistant.",    "You are hadal-nano.",
                                             "Answer with few words.",          "Be kind and brief.",
                                             "You are a small language model.", "Answer the user."};
  Rng rng(hash(task.instance, 5));
  if (task.system.empty() && task.tools.is_null() && rng.chance(25)) task.system = rng.pick(kSystems);
}

}  // namespace

void add_tool_families(std::vector<Family>& list) {
  for (const World& world : worlds())
    for (const Goal goal : kGoals) {
      if (*dropped_because(world, goal)) continue;
      for (const Interface interface : kInterfaces)
        list.push_back(
            {.id = fmt::format("{}/{}/{}", world.id, goal_name(goal), interface_name(interface)),
             .kind = "tool",
             .trained = kToolTrained,
             .hardest = kToolTrained + 1,
             .chance = 2,
             .held_out = tool_task_held_out(world, goal, interface),
             .build = [&world, goal, interface](Draft& draft) { build_tool_task(draft, world, goal, interface); }});
    }
}

const std::vector<Family>& families() {
  static const std::vector<Family> kFamilies = [] {
    std::vector<Family> list;
    add_tool_families(list);
    add_list_families(list);
    add_number_families(list);
    add_measure_families(list);
    add_logic_families(list);
    add_machine_families(list);
    add_text_families(list);
    add_json_families(list);
    add_recall_families(list);
    add_chat_families(list);
    add_talk_families(list);
    add_word_families(list);
    add_story_families(list);
    return list;
  }();
  return kFamilies;
}

const Family* find_family(std::string_view id) {
  static const std::map<std::string, const Family*, std::less<>> kById = [] {
    std::map<std::string, const Family*, std::less<>> by_id;
    for (const Family& family : families()) HADAL_CHECK(by_id.emplace(family.id, &family).second);
    return by_id;
  }();
  const auto it = kById.find(id);
  return it == kById.end() ? nullptr : it->second;
}

Result<Task> make_task(const TaskKey& key) {
  const Family* family = find_family(key.environment);
  if (!family)
    return Error{Code::kNotFound, fmt::format("environment: no {} (hadal data list names them)", key.environment)};
  if (key.difficulty < 0 || key.difficulty > family->hardest)
    return Error{Code::kInvalid, fmt::format("difficulty of {}: expected 0 to {}, found {}", key.environment,
                                             family->hardest, key.difficulty)};
  for (uint64_t attempt = 0; attempt < kMaxAttempts; ++attempt) {
    Draft draft(key, attempt);
    family->build(draft);
    if (!draft.complete()) continue;
    add_system(draft.task);
    return std::move(draft.task);
  }
  return Error{Code::kInvalid, fmt::format("{} {} seed {} difficulty {}: no instance in {} draws", key.environment,
                                           split_name(key.split), key.seed, key.difficulty, kMaxAttempts)};
}

}  // namespace hadal::data
