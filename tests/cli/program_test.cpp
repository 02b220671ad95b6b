// The program as people and scripts meet it: exit statuses, error lines, what goes to stdout.

#include <gtest/gtest.h>

#include <fstream>
#include <string>

#include "base/file.h"
#include "base/json.h"
#include "tests/support/shared.h"

namespace hadal {
namespace {

using testing::fixture;
using testing::temp_dir;

struct Outcome {
  int status = -1;
  std::string out, err;
};

Outcome hadal(const std::string& arguments, const std::string& input = "") {
  const std::string directory = temp_dir("cli");
  std::ofstream(directory + "/in", std::ios::binary) << input;
  const std::string command = std::string(HADAL_PROGRAM) + " " + arguments + " <" + directory +
                              "/in >" + directory + "/out 2>" + directory + "/err";
  const int status = std::system(command.c_str());
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, read_file(directory + "/out").value(),
          read_file(directory + "/err").value()};
}

const std::string& nano() {  // a synthetic model, made once
  static const std::string kDirectory = [] {
    const std::string directory = temp_dir("nano") + "/model";
    EXPECT_EQ(hadal("synth --config nano --seed 1 -o " + directory).status, 0);
    return directory;
  }();
  return kDirectory;
}

TEST(Program, UsageErrorsAreStatus2AndFailuresStatus1) {
  EXPECT_EQ(hadal("").status, 2);
  EXPECT_EQ(hadal("nonsense").status, 2);
  EXPECT_EQ(hadal("run").status, 2);
  EXPECT_EQ(hadal("run -m x -p y --think sometimes").status, 2);
  EXPECT_EQ(hadal("--version").status, 0);
  EXPECT_EQ(hadal("run --help").status, 0);
  for (const char* arguments :
       {"run -m /nonexistent -p hi", "inspect /nonexistent", "bench -m /nonexistent",
        "synth --config nonexistent -o x", "tokenize --tokenizer /nonexistent",
        "verify -m /nonexistent --golden /nonexistent", "train /nonexistent -o /nonexistent"}) {
    const Outcome outcome = hadal(arguments);
    EXPECT_EQ(outcome.status, 1) << arguments;
    EXPECT_TRUE(outcome.err.starts_with("hadal: ")) << outcome.err;
    EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << outcome.err;
  }
}

TEST(Program, RunWritesTheAnswerAndNothingElseToStdout) {
  const Outcome first = hadal("run -m " + nano() + " -p Hello --raw -n 12 --seed 4");
  EXPECT_EQ(first.status, 0) << first.err;
  EXPECT_FALSE(first.out.empty());
  EXPECT_EQ(first.out, hadal("run -m " + nano() +
                                 " -p - --raw -n 12 --seed 4 --threads 1 --isa reference --chunk 2",
                             "Hello")
                           .out);
  EXPECT_NE(first.out, hadal("run -m " + nano() + " -p Hello --raw -n 12 --seed 5").out);
  const Outcome greedy = hadal("run -m " + nano() + " -p Hello --raw -n 12 --temp 0");
  EXPECT_EQ(greedy.out, hadal("run -m " + nano() + " -p Hello --raw -n 12 --temp 0 --seed 9").out);
  const std::string taps = temp_dir("taps") + "/t.safetensors";
  EXPECT_EQ(hadal("run -m " + nano() + " -p Hi --raw -n 1 --dump-taps " + taps).status, 0);
  EXPECT_NE(read_file(taps).value().find("tap.layers.1.index_sel"), std::string::npos);
}

TEST(Program, WithoutTokenizerRunAndChatRefuseInOneLine) {
  for (const char* command : {"run -p hi -m ", "chat -m "}) {
    const Outcome outcome = hadal(command + fixture("micro"));
    EXPECT_EQ(outcome.status, 1);
    EXPECT_NE(outcome.err.find("tokenizer.json"), std::string::npos) << outcome.err;
  }
}

TEST(Program, ChatTakesCommandsAndMessagesFromAPipe) {
  const std::string saved = temp_dir("chat") + "/c.jsonl";
  const Outcome outcome =
      hadal("chat -m " + nano() + " -n 6 --seed 2",
            "hi\n/nothink\nagain\n/think max\n/bogus\n/save " + saved + "\n/reset\n/load " + saved +
                "\n/system Be brief.\nmore\n/quit\nnever\n");
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_NE(outcome.out.find("/bogus: no such command"), std::string::npos) << outcome.out;
  EXPECT_NE(outcome.out.find("4 messages saved"), std::string::npos) << outcome.out;
  EXPECT_NE(outcome.out.find("4 messages loaded"), std::string::npos) << outcome.out;
  EXPECT_NE(outcome.out.find("kept)"), std::string::npos) << outcome.out;
  EXPECT_EQ(outcome.out.find('\x1b'), std::string::npos);
}

TEST(Program, JsonLineCommandsAnswerEveryLine) {
  const Outcome tokens = hadal("tokenize --tokenizer " + nano(),
                               "{\"text\": \"Hi <think>\"}\nnot json\n{\"text\": 3}\n");
  EXPECT_EQ(tokens.status, 1);
  EXPECT_EQ(std::count(tokens.out.begin(), tokens.out.end(), '\n'), 3) << tokens.out;
  EXPECT_NE(tokens.out.find("line 2"), std::string::npos) << tokens.out;
  const Outcome text = hadal("tokenize --decode --tokenizer " + nano(),
                             tokens.out.substr(0, tokens.out.find('\n')) + "\n");
  EXPECT_EQ(text.out, "{\"text\":\"Hi <think>\"}\n");
  const Outcome prompt = hadal("encode",
                               "{\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}], "
                               "\"options\": {\"thinking_mode\": \"chat\"}}\n");
  EXPECT_EQ(prompt.status, 0);
  EXPECT_NE(prompt.out.find("<｜User｜>Hi<｜Assistant｜></think>"), std::string::npos)
      << prompt.out;
  const Outcome error = hadal(
      "encode",
      "{\"messages\": [{\"role\": \"robot\"}], \"options\": {\"thinking_mode\": \"chat\"}}\n");
  EXPECT_NE(error.out.find("\"kind\":\"unknown_role\""), std::string::npos) << error.out;
  EXPECT_NE(
      hadal("parse", "{\"text\": \"x\", \"thinking_mode\": \"chat\"}\n").out.find("missing_eos"),
      std::string::npos);
}

TEST(Program, InspectAndBenchGiveJson) {
  const auto summary = json::parse(hadal("inspect --json --sha256 " + nano()).out);
  ASSERT_TRUE(summary.ok());
  EXPECT_EQ(summary.value().find("fingerprint")->as_string().size(), 64u);
  const auto bench =
      json::parse(hadal("bench --json --repetitions 1 --prompt 8 --tokens 2 -m " + nano()).out);
  ASSERT_TRUE(bench.ok());
  EXPECT_GT(bench.value().find("decode")->find("tokens_per_s")->to_double(), 0);
}

}  // namespace
}  // namespace hadal
