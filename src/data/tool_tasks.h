// Tool tasks: world x goal x interface. A goal is generic logic over a world's description.
#pragma once

#include "data/draft.h"
#include "data/world.h"

namespace hadal::data {

enum class Goal { kLookup, kLink, kCount, kExtreme, kUpdate, kMove, kConditional, kVerify };
inline constexpr Goal kGoals[] = {Goal::kLookup, Goal::kLink, Goal::kCount,       Goal::kExtreme,
                                  Goal::kUpdate, Goal::kMove, Goal::kConditional, Goal::kVerify};
const char* goal_name(Goal goal);

// Difficulty 0..3 is trained; 4 is one step longer (another record to read or change, another hop,
// more to list).
inline constexpr int kToolTrained = 3;

// Why the pair makes no sense, or "" when it does.
const char* dropped_because(const World& world, Goal goal);
// One in ten compositions is never trained on.
bool tool_task_held_out(const World& world, Goal goal, Interface interface);

void build_tool_task(Draft& draft, const World& world, Goal goal, Interface interface);

}  // namespace hadal::data
