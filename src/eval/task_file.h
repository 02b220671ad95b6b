// Tasks from a file, for those who bring their own: JSON lines, one task each.
//
//   {"id": "capital-1", "kind": "geography",        id and kind name the task and its row of the report; optional
//    "system": "Be brief.",                         optional
//    "tools": [...], "response_format": {...},      optional, as in the API; no tool is run
//    "turns": [{"user": "Capital of France?",       what the user says; each turn has its verifier
//               "verifier": {"kind": "text", "value": "Paris"}}]}
//
// Verifier kinds: "text" (equal, up to outer blanks and a final dot), "contains" ("values": each must occur, '|'
// separates alternatives, in any case), "json" ("value": equal, whatever the order of keys).
#pragma once

#include <string>
#include <vector>

#include "data/task.h"

namespace hadal::eval {

// Errors name file, line, expected and found.
Result<std::vector<data::Task>> read_task_file(const std::string& path);

}  // namespace hadal::eval
