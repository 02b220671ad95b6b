// hadal chat: a conversation in the terminal.
//
// Every turn is encoded anew by the official rules (which drop earlier reasoning); the state before the last
// answer's header is kept, so only what changed is computed. Without a terminal on stdin it reads one message
// per line.

#include <fmt/format.h>
#include <histedit.h>
#include <sys/stat.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <clocale>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <memory>
#include <optional>

#include "base/file.h"
#include "base/output_file.h"
#include "cli/cache_option.h"
#include "cli/commands.h"
#include "cli/dialogue.h"
#include "cli/terminal.h"
#include "data/family.h"

namespace hadal::cli {
namespace {

constexpr int kMaxSame = 2;     // rounds of the same calls
constexpr int kMaxRounds = 32;  // tool calls in a row before the user is asked again

constexpr const char* kHelp =
    "  /think [low|high|max]  think before answering (high)   /nothink  answer at once\n"
    "  /max                   think as hard as it can         /system TEXT  set the system message\n"
    "  /reset                 start over                      /save FILE, /load FILE  the conversation\n"
    "  /help                  this list                       /quit  leave (or Ctrl-D)\n"
    "  Ctrl-C stops an answer.";

// Lines from the terminal, with editing and history, or plainly from a pipe.
class LineReader {
 public:
  LineReader() : interactive_(isatty(0) && isatty(1)) {
    if (!interactive_) return;
    if (!std::setlocale(LC_CTYPE, "") || std::string(std::setlocale(LC_CTYPE, nullptr)) == "C")
      std::setlocale(LC_CTYPE, "C.UTF-8");
    edit_ = el_init("hadal", stdin, stdout, stderr);
    history_ = history_init();
    HistEvent event;
    history(history_, &event, H_SETSIZE, 1000);
    history(history_, &event, H_SETUNIQUE, 1);
    el_set(edit_, EL_HIST, history, history_);
    el_set(
        edit_, EL_PROMPT, +[](EditLine*) -> char* {
          static char prompt[] = "> ";
          return prompt;
        });
    el_set(edit_, EL_EDITOR, "emacs");
    el_set(edit_, EL_SIGNAL, 0);
    el_source(edit_, nullptr);
    const char* state = std::getenv("XDG_STATE_HOME");
    const char* home = std::getenv("HOME");
    if (state && *state) {
      path_ = std::string(state) + "/hadal";
    } else if (home && *home) {
      path_ = std::string(home) + "/.local/state/hadal";
    }
    if (path_.empty()) return;
    std::error_code ignored;
    std::filesystem::create_directories(path_, ignored);
    path_ += "/chat_history";
    history(history_, &event, H_LOAD, path_.c_str());
  }
  ~LineReader() {
    if (!interactive_) return;
    HistEvent event;
    if (!path_.empty() && history(history_, &event, H_SAVE, path_.c_str()) >= 0) chmod(path_.c_str(), 0600);
    history_end(history_);
    el_end(edit_);
  }
  LineReader(const LineReader&) = delete;
  LineReader& operator=(const LineReader&) = delete;

  bool interactive() const { return interactive_; }

  // The next line without its end; nothing at the end of input. An interrupted line is empty.
  std::optional<std::string> next() {
    if (!interactive_) {
      std::string line;
      if (!std::getline(std::cin, line)) return std::nullopt;
      return line;
    }
    clear_interrupt();
    int n = 0;
    errno = 0;
    const char* line = el_gets(edit_, &n);
    if (interrupted() || (!line && errno == EINTR)) {
      el_reset(edit_);
      fmt::print("^C\n");
      return "";
    }
    if (!line || n <= 0) {
      fmt::print("\n");
      return std::nullopt;
    }
    std::string text(line, static_cast<size_t>(n));
    while (!text.empty() && (text.back() == '\n' || text.back() == '\r')) text.pop_back();
    HistEvent event;
    if (!text.empty()) history(history_, &event, H_ENTER, text.c_str());
    return text;
  }

 private:
  bool interactive_;
  EditLine* edit_ = nullptr;
  History* history_ = nullptr;
  std::string path_;
};

class Chat {
 public:
  Chat(Dialogue& dialogue, Think think, std::string system, bool interactive)
      : dialogue_(dialogue), think_(think), system_(std::move(system)), interactive_(interactive) {}

  // From now on the model has the tools of a generated environment, and its calls are run there.
  void enter(const data::Task& task) {
    if (system_.empty()) system_ = task.system;
    tools_ = task.tools;
    start_ = task.environment;
    world_ = start_->clone();
  }

  // false: the user wants to leave.
  bool line(const std::string& text) {
    if (text.empty()) return true;
    if (text[0] != '/') {
      say(text);
      return true;
    }
    const size_t space = text.find(' ');
    const std::string command = text.substr(0, space);
    const std::string argument =
        space == std::string::npos
            ? ""
            : text.substr(text.find_last_not_of(' ') < space ? text.size() : text.find_first_not_of(' ', space));
    if (command == "/quit" || command == "/exit") return false;
    if (command == "/help") {
      fmt::print("{}\n", kHelp);
    } else if (command == "/think") {
      const auto think = think_by_name(argument.empty() ? "high" : argument);
      think.ok() ? set_think(think.value()) : note(think.error().message);
    } else if (command == "/nothink") {
      set_think(Think::kOff);
    } else if (command == "/max") {
      set_think(Think::kMax);
    } else if (command == "/system") {
      system_ = argument;
      note(system_.empty() ? "no system message" : "system message set; it holds from the next turn on");
    } else if (command == "/reset") {
      messages_.clear();
      if (start_) world_ = start_->clone();
      dialogue_.forget();
      note("a new conversation");
    } else if (command == "/save" || command == "/load") {
      if (argument.empty()) {
        note(command + ": expected a file name");
      } else {
        const Status status = command == "/save" ? save(argument) : load(argument);
        note(status.ok() ? fmt::format("{} messages {} {}", messages_.size(),
                                       command == "/save" ? "saved to" : "loaded from", argument)
                         : status.error().message);
      }
    } else {
      note(command + ": no such command; /help lists them");
    }
    return true;
  }

  bool failed() const { return failed_; }

  // From now on the conversation is kept in this file, after every answer; what is there is gone on with.
  Status keep_in(const std::string& path) {
    session_ = path;
    if (!file_exists(path)) return {};
    const std::string given = system_;
    HADAL_TRY(load(path));
    if (!given.empty()) system_ = given;
    note(fmt::format("{} messages of {}", messages_.size(), path));
    return {};
  }

 private:
  void note(const std::string& text) const {
    fmt::print("{}{}{}\n", interactive_ ? "\x1b[2m" : "", text, interactive_ ? "\x1b[0m" : "");
  }
  void set_think(Think think) {
    think_ = think;
    note(think == Think::kOff ? "thinking off" : fmt::format("thinking {}", think_name(think)));
  }

  json::Array with_system() const {
    json::Array all;
    if (!system_.empty() || !tools_.is_null()) {
      json::Object system{{"role", "system"}, {"content", system_}};
      if (!tools_.is_null()) system.emplace_back("tools", tools_);
      all.push_back(std::move(system));
    }
    all.insert(all.end(), messages_.begin(), messages_.end());
    return all;
  }

  // Asks until the model answers without calling a tool.
  void say(const std::string& text) {
    const size_t before = messages_.size();
    messages_.push_back(json::Object{{"role", "user"}, {"content", text}});
    clear_interrupt();
    std::string last_asked;
    int n_same = 0;
    for (int round = 0; round < kMaxRounds; ++round) {
      const auto answer = one_answer();
      if (!answer.ok()) {
        messages_.resize(before);
        failed_ = true;
        fmt::print(stderr, "hadal: {}\n", answer.error().message);
        return;
      }
      const std::vector<text::ToolCall>& calls = answer.value().tool_calls;
      json::Value message = text::to_json({answer.value().reasoning, answer.value().content, calls});
      for (json::Value& call : message.find("tool_calls")->as_array())
        call.set("id", fmt::format("call_{}", ++n_calls_));
      messages_.push_back(std::move(message));
      if (calls.empty() || interrupted()) break;
      for (size_t i = 0; i < calls.size(); ++i)
        messages_.push_back(json::Object{{"role", "tool"},
                                         {"tool_call_id", fmt::format("call_{}", n_calls_ - calls.size() + i + 1)},
                                         {"content", run_tool(calls[i])}});
      // A small model that does not get on repeats itself.
      const std::string asked = json::dump(text::to_json({"", "", calls}));
      n_same = asked == last_asked ? n_same + 1 : 1;
      last_asked = asked;
      if (n_same > kMaxSame) {
        note("the same calls again: this goes nowhere");
        break;
      }
    }
    if (interactive_) fmt::print("\n");
    if (session_.empty()) return;
    if (const Status saved = save(session_); !saved.ok()) fmt::print(stderr, "hadal: {}\n", saved.error().message);
    ::chmod(session_.c_str(), 0600);
  }

  Result<Dialogue::Answer> one_answer() {
    bool in_reasoning = false;
    const auto dim = [&](bool on) {
      if (on == in_reasoning) return;
      in_reasoning = on;
      fmt::print("{}", on ? (interactive_ ? "\x1b[2m" : "") : (interactive_ ? "\x1b[0m\n\n" : "\n\n"));
    };
    auto answer = dialogue_.answer(with_system(), think_, [&](bool is_reasoning, const std::string& piece) {
      dim(is_reasoning);
      fmt::print("{}", interactive_ ? printable(piece) : piece);
      std::fflush(stdout);
    });
    if (in_reasoning) fmt::print("{}", interactive_ ? "\x1b[0m" : "");
    if (!answer.ok()) return answer;
    fmt::print("\n");
    note(Dialogue::statistics(answer.value().completion));
    return answer;
  }

  // The result, or what is wrong with the call: both are what the model reads next.
  std::string run_tool(const text::ToolCall& call) {
    const auto arguments = json::parse(call.arguments);
    const std::string result = !world_           ? R"({"error": "there are no tools"})"
                               : !arguments.ok() ? R"({"error": "the arguments are not JSON"})"
                                                 : world_->call(call.name, arguments.value());
    note(printable(fmt::format("{} {}\n  = {}", call.name, call.arguments, result)));
    return result;
  }

  // JSON lines, one message each, the system message first.
  Status save(const std::string& path) const {
    std::string text;
    for (const json::Value& message : with_system()) text += json::dump(message) + "\n";
    return write_file(path, text);
  }

  Status load(const std::string& path) {
    const std::string text = HADAL_TRY(read_file(path, 1 << 28));
    json::Array loaded;
    std::string system;
    size_t number = 0;
    for (size_t begin = 0; begin < text.size();) {
      const size_t end = std::min(text.find('\n', begin), text.size());
      ++number;
      const auto parsed = json::parse(std::string_view(text).substr(begin, end - begin));
      begin = end + 1;
      const json::Value* role = parsed.ok() ? parsed.value().find("role") : nullptr;
      const json::Value* content = parsed.ok() ? parsed.value().find("content") : nullptr;
      if (!role || !role->is_string() || !content || !content->is_string())
        return Error{Code::kCorrupt,
                     fmt::format("{}: line {}: expected a message with role and content", path, number)};
      if (number == 1 && role->as_string() == "system") {
        system = content->as_string();
      } else {
        loaded.push_back(parsed.value());
      }
    }
    messages_ = std::move(loaded);
    n_calls_ = 0;  // ids count the calls
    for (const json::Value& message : messages_)
      if (const json::Value* calls = message.find("tool_calls"); calls && calls->is_array())
        n_calls_ += calls->as_array().size();
    system_ = std::move(system);
    dialogue_.forget();
    return {};
  }

  Dialogue& dialogue_;
  Think think_;
  std::string system_;
  bool interactive_;
  bool failed_ = false;
  json::Array messages_;
  size_t n_calls_ = 0;
  std::string session_;  // file; empty: none
  json::Value tools_;    // null without a world
  std::shared_ptr<const data::Environment> start_;
  std::unique_ptr<data::Environment> world_;
};

struct ChatOptions {
  ModelOptions model;
  std::string system, world, session;
  CacheOptions cache;
  uint64_t world_seed = 1;
};

Result<std::string> session_file(const std::string& name) {
  constexpr std::string_view kAllowed = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
  if (name.find_first_not_of(kAllowed) != std::string::npos || name[0] == '.' || name.size() > 100)
    return Error{Code::kInvalid, fmt::format("--session: expected letters, digits, . _ and -, found {}", name)};
  const char *state = std::getenv("XDG_STATE_HOME"), *home = std::getenv("HOME");
  if (!(state && *state) && !(home && *home)) return Error{Code::kNotFound, "--session: HOME is not set"};
  const std::string directory =
      (state && *state ? std::string(state) : std::string(home) + "/.local/state") + "/hadal/sessions";
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  if (error) return Error{Code::kIo, fmt::format("{}: cannot create: {}", directory, error.message())};
  ::chmod(directory.c_str(), 0700);
  return directory + "/" + name + ".jsonl";
}

Result<int> chat(const ChatOptions& all) {
  const ModelOptions& options = all.model;
  std::optional<data::Task> task;
  if (!all.world.empty()) {
    task = HADAL_TRY(data::make_task(
        {.environment = all.world, .split = data::Split::kTest, .seed = all.world_seed, .difficulty = 0}));
    if (!task->environment)
      return Error{Code::kInvalid,
                   all.world + ": expected an environment with tools (hadal data list), found one without"};
  }
  const std::string session = all.session.empty() ? "" : HADAL_TRY(session_file(all.session));
  auto dialogue = HADAL_TRY(Dialogue::open(options));
  if (!session.empty()) HADAL_TRY(dialogue->keep_states(all.cache));
  LineReader reader;
  const Think think = HADAL_TRY(think_by_name(options.think));
  if (reader.interactive()) {
    fmt::print("{}, {} threads, {}; /help lists the commands\n", options.model, dialogue->engine().n_threads(),
               dialogue->engine().isa().name);
    if (dialogue->engine().defaults().untrained)
      fmt::print("\x1b[1mThis model is untrained: its weights are random, and so is what it says.\x1b[0m\n");
  }
  if (reader.interactive() && !task && std::filesystem::weakly_canonical(options.model).filename() == "hadal-nano")
    fmt::print(
        "Ask, for example: Who are you?   What is 27 + 48?   Repeat: sun moon rain\n"
        "With a tool to look things up: hadal chat --world store/lookup/direct\n");
  Chat conversation(*dialogue, think, all.system, reader.interactive());
  if (!session.empty()) HADAL_TRY(conversation.keep_in(session));
  if (task) {
    conversation.enter(*task);
    if (reader.interactive()) fmt::print("The model has tools here. For example, ask: {}\n", task->turns.at(0).user);
  }
  while (const auto line = reader.next())
    if (!conversation.line(*line)) break;
  return conversation.failed() && !reader.interactive() ? 1 : 0;
}

}  // namespace

void add_chat(CLI::App& app, int& exit_status) {
  CLI::App* command = app.add_subcommand("chat", "Talk with the model");
  auto options = std::make_shared<ChatOptions>();
  add_model_options(*command, options->model);
  command->add_option("--system", options->system, "system message")->type_name("TEXT");
  command->add_option("--world", options->world, "tools of a generated environment (hadal data list)")->type_name("ID");
  command->add_option("--session", options->session, "keep the conversation, and go on with it next time")
      ->type_name("NAME");
  add_cache_options(*command, options->cache);
  command->add_option("--world-seed", options->world_seed, "which one of it (1)")->type_name("N");
  command->callback([options, &exit_status] {
    install_interrupt_handler();
    const auto status = chat(*options);
    exit_status = status.ok() ? status.value() : report_failure(status.error());
  });
}

}  // namespace hadal::cli
