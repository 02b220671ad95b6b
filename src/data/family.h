// The list of all environments. A family builds tasks of one environment id, at difficulties 0 ..
// hardest; those above `trained` are never trained on, nor is any task of a held-out family.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "data/draft.h"

namespace hadal::data {

struct Family {
  std::string id;    // "add", "shop/link/paged"
  std::string kind;  // "tool", "list", "number", "logic", "text", "json", "recall", "chat", "talk",
                     // "word", "story"
  int trained = 0;   // largest difficulty that is trained
  int hardest = 0;
  int chance = 10;  // percent of tasks that a policy without understanding may pass
  bool held_out = false;
  std::function<void(Draft&)> build = nullptr;
};

const std::vector<Family>& families();
const Family* find_family(std::string_view id);

// kNotFound: no such environment; kInvalid: no such difficulty.
Result<Task> make_task(const TaskKey& key);

// The parts of the list.
void add_tool_families(std::vector<Family>& list);
void add_list_families(std::vector<Family>& list);
void add_number_families(std::vector<Family>& list);
void add_measure_families(std::vector<Family>& list);
void add_logic_families(std::vector<Family>& list);
void add_machine_families(std::vector<Family>& list);
void add_text_families(std::vector<Family>& list);
void add_json_families(std::vector<Family>& list);
void add_recall_families(std::vector<Family>& list);
void add_chat_families(std::vector<Family>& list);
void add_talk_families(std::vector<Family>& list);
void add_word_families(std::vector<Family>& list);
void add_story_families(std::vector<Family>& list);

}  // namespace hadal::data
