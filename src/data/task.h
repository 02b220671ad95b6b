// A task: what is asked, the world it is asked about, a reference solution, and what counts as
// solved.
//
// A task is a pure function of its key: the same bytes on any machine. Whoever solves it plays an Episode:
//
//   Episode episode(task);
//   while (!episode.done()) episode.answer(model(episode.messages()));  // tool calls are run
//   Verdict verdict = episode.verdict();
//
// Const methods of Task are safe from any thread; an Episode belongs to one.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "text/encode_prompt.h"
#include "text/parse_completion.h"

namespace hadal::data {

enum class Split { kTrain, kDev, kTest };
const char* split_name(Split split);  // "train", "dev", "test"
Result<Split> split_by_name(std::string_view name);

// How the assistant answers: at once, with reasoning, or with reasoning and the prompt's demand for
// the utmost of it.
enum class Mode { kPlain, kHigh, kMax };
inline constexpr Mode kModes[] = {Mode::kPlain, Mode::kHigh, Mode::kMax};
const char* mode_name(Mode mode);  // "plain", "high", "max"
Result<Mode> mode_by_name(std::string_view name);
text::EncodeOptions encode_options(Mode mode);

struct TaskKey {
  std::string environment;
  Split split = Split::kTrain;
  uint64_t seed = 0;
  int difficulty = 0;
  bool new_phrasing = false;  // asked in ways that are never trained on; the instance is the same
};

// State and tools of a task. Results and errors are texts: what the tool message holds.
class Environment {
 public:
  virtual ~Environment() = default;
  virtual std::string call(std::string_view tool, const json::Value& arguments) = 0;
  virtual std::string state() const = 0;  // canonical
  virtual int successful_calls() const = 0;
  virtual std::unique_ptr<Environment> clone() const = 0;
};

// One message of the reference solution. `check` is the further reasoning of mode max.
struct Step {
  std::string reasoning, check, content;
  std::vector<text::ToolCall> calls;
};
text::AssistantMessage message_of(const Step& step, Mode mode);

// What the answer to one user turn must be.
struct Expectation {
  enum class Kind {
    kText,      // values[0], up to outer blanks and a final dot
    kContains,  // every one of `values`, each a list of alternatives separated by '|', in any case
    kJson,      // `json`, whatever the order of keys
    kStory,     // every one of `values`, at least `min_words` words in sentences that do not repeat
  };
  Kind kind = Kind::kText;
  std::vector<std::string> values;
  json::Value json;
  int min_words = 0;
};

struct Verdict {
  bool pass = false;
  std::string reason;  // "" when passed
};
Verdict judge(const Expectation& expected, std::string_view answer);
// JSON with the keys and the kinds of values of the expected one, whatever the values. Of kind kJson only.
bool has_shape(const Expectation& expected, std::string_view answer);

struct Turn {
  std::string user;
  Expectation expected;
};

struct Task {
  TaskKey key;
  std::string instance;                // canonical content: what splits are made of
  std::string system;                  // may be empty
  json::Value tools, response_format;  // null, or as encode_prompt takes them
  std::vector<Turn> turns;             // what the user says; the next follows a message without tool calls
  std::vector<Step> solution;
  std::shared_ptr<const Environment> environment;  // at the start; null without tools
  std::string end_state;                           // required state at the end
  std::vector<std::string> filler;                 // stretches of the user's texts that nobody can predict

  json::Array prompt() const;  // the messages before the first answer
};

class Episode {
 public:
  explicit Episode(const Task& task);
  const json::Array& messages() const { return messages_; }
  bool done() const { return done_; }
  const Expectation& expected() const { return task_.turns[answers_.size()].expected; }  // of the next answer; not done
  // The next message of the assistant. Tool calls are run; an answer brings the next user turn or
  // the end.
  void answer(const text::AssistantMessage& message);
  Verdict verdict() const;
  int steps() const { return steps_; }

  static constexpr int kMaxSteps = 64;  // messages of the assistant; an episode that goes on fails

 private:
  const Task& task_;
  std::unique_ptr<Environment> environment_;
  json::Array messages_;
  std::vector<std::string> answers_;  // one per user turn
  int steps_ = 0, calls_ = 0;
  bool done_ = false;
};

// The whole conversation with the reference solution, and its verdict.
struct Played {
  json::Array messages;
  Verdict verdict;
};
Played play_solution(const Task& task, Mode mode);

}  // namespace hadal::data
