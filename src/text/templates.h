// The literal texts of the V4 prompt, as data of the format (official encoding_dsv4.py and its 0731 revision).
#pragma once

namespace hadal::text {

inline constexpr char kBos[] = "<｜begin▁of▁sentence｜>";
inline constexpr char kEos[] = "<｜end▁of▁sentence｜>";
inline constexpr char kUser[] = "<｜User｜>";
inline constexpr char kAssistant[] = "<｜Assistant｜>";
inline constexpr char kLatestReminder[] = "<｜latest_reminder｜>";
inline constexpr char kThinkOpen[] = "<think>";
inline constexpr char kThinkClose[] = "</think>";
inline constexpr char kDsml[] = "｜DSML｜";
inline constexpr char kFimBegin[] = "<｜fim▁begin｜>";
inline constexpr char kFimHole[] = "<｜fim▁hole｜>";
inline constexpr char kFimEnd[] = "<｜fim▁end｜>";

// Tokens that begin something else than an answer: a model that writes one has ended its turn.
inline constexpr const char* kTurnStarts[] = {kBos,
                                              kEos,
                                              kUser,
                                              kAssistant,
                                              kLatestReminder,
                                              kFimBegin,
                                              kFimHole,
                                              kFimEnd,
                                              "<｜action｜>",
                                              "<｜query｜>",
                                              "<｜authority｜>",
                                              "<｜domain｜>",
                                              "<｜title｜>",
                                              "<｜read_url｜>",
                                              "<｜extracted_url｜>"};

inline constexpr char kToolsHead[] =
    "## Tools\n"
    "\n"
    "You have access to a set of tools to help answer the user's question. You can invoke tools by "
    "writing a \"<｜DSML｜tool_calls>\" block like the following:\n"
    "\n"
    "<｜DSML｜tool_calls>\n"
    "<｜DSML｜invoke name=\"$TOOL_NAME\">\n"
    "<｜DSML｜parameter name=\"$PARAMETER_NAME\" "
    "string=\"true|false\">$PARAMETER_VALUE</｜DSML｜parameter>\n"
    "...\n"
    "</｜DSML｜invoke>\n"
    "<｜DSML｜invoke name=\"$TOOL_NAME2\">\n"
    "...\n"
    "</｜DSML｜invoke>\n"
    "</｜DSML｜tool_calls>\n"
    "\n"
    "String parameters should be specified as is and set `string=\"true\"`. For all other types "
    "(numbers, booleans, arrays, objects), pass the value in JSON format and set "
    "`string=\"false\"`.\n"
    "\n"
    "If thinking_mode is enabled (triggered by <think>), you MUST output your complete reasoning "
    "inside <think>...</think> BEFORE any tool calls or final response.\n"
    "\n"
    "Otherwise, output directly after </think> with tool calls or final response.\n"
    "\n"
    "### Available Tool Schemas\n"
    "\n";
inline constexpr char kToolsTail[] =
    "\n"
    "\n"
    "You MUST strictly follow the above defined tool name and parameter schemas to invoke tool "
    "calls.\n";
inline constexpr char kResponseFormat[] =
    "## Response Format:\n"
    "\n"
    "You MUST strictly adhere to the following schema to reply:\n";

// Reasoning effort: the preview's "max", which the 0731 revision calls "high", and that revision's "max".
inline constexpr char kEffortAbsolute[] =
    "Reasoning Effort: Absolute maximum with no shortcuts permitted.\n"
    "You MUST be very thorough in your thinking and comprehensively decompose the problem to resolve "
    "the root cause, rigorously stress-testing your logic against all potential paths, edge cases, "
    "and adversarial scenarios.\n"
    "Explicitly write out your entire deliberation process, documenting every intermediate step, "
    "considered alternative, and rejected hypothesis to ensure absolutely no assumption is left "
    "unchecked.\n"
    "\n";
inline constexpr char kEffortBeyond[] =
    "Reasoning Effort: Beyond maximum — exhaustive, relentless, and uncompromising.\n"
    "You MUST reason with the utmost depth and rigor, leaving absolutely nothing to chance: "
    "exhaustively decompose the problem into its most fundamental components, trace every causal "
    "chain to its root, and resolve the underlying cause rather than any surface symptom.\n"
    "Do not stop reasoning until you have independently verified the solution from multiple angles "
    "and are certain that no assumption remains unchecked and no error remains undiscovered.\n"
    "\n";

}  // namespace hadal::text
