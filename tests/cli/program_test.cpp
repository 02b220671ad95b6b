// The program as people and scripts meet it: exit statuses, error lines, what goes to stdout.

#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/json.h"
#include "tests/support/program.h"
#include "tests/support/shared.h"

namespace hadal {
namespace {

using testing::fixture;
using testing::hadal;
using testing::Outcome;
using testing::temp_dir;

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
       {"run -m /nonexistent -p hi", "inspect /nonexistent", "bench -m /nonexistent", "synth --config nonexistent -o x",
        "quantize /nonexistent -o x", "tokenize --tokenizer /nonexistent",
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
  EXPECT_EQ(
      first.out,
      hadal("run -m " + nano() + " -p - --raw -n 12 --seed 4 --threads 1 --isa reference --chunk 2", "Hello").out);
  EXPECT_NE(first.out, hadal("run -m " + nano() + " -p Hello --raw -n 12 --seed 5").out);
  const Outcome greedy = hadal("run -m " + nano() + " -p Hello --raw -n 12 --temp 0");
  EXPECT_EQ(greedy.out, hadal("run -m " + nano() + " -p Hello --raw -n 12 --temp 0 --seed 9").out);
  const std::string taps = temp_dir("taps") + "/t.safetensors";
  EXPECT_EQ(hadal("run -m " + nano() + " -p Hi --raw -n 1 --dump-taps " + taps).status, 0);
  const std::string written = read_file(taps).value();
  EXPECT_NE(written.find("tap.layers.1.index_sel"), std::string::npos);
  EXPECT_NE(written.find("tap.mtp.0.route_sel"), std::string::npos);
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
  const Outcome outcome = hadal("chat -m " + nano() + " -n 6 --seed 2",
                                "hi\n/nothink\nagain\n/think max\n/bogus\n/save " + saved + "\n/reset\n/load " + saved +
                                    "\n/system Be brief.\nmore\n/quit\nnever\n");
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_NE(outcome.out.find("/bogus: no such command"), std::string::npos) << outcome.out;
  EXPECT_NE(outcome.out.find("4 messages saved"), std::string::npos) << outcome.out;
  EXPECT_NE(outcome.out.find("4 messages loaded"), std::string::npos) << outcome.out;
  EXPECT_NE(outcome.out.find("kept)"), std::string::npos) << outcome.out;
  EXPECT_EQ(outcome.out.find('\x1b'), std::string::npos);
}

TEST(Program, ASessionGoesOnFromDiskAndCacheSaysWhatIsThere) {
  const std::string model = std::string(HADAL_SOURCE_DIR) + "/models/hadal-nano", home = temp_dir("session");
  const std::string cache = " --cache-dir " + home + "/kv";
  ::setenv("XDG_STATE_HOME", home.c_str(), 1);
  std::string story = "Listen:";
  for (int i = 0; i < 60; ++i) story += " The fox went to the river.";
  const std::string chat = "chat -m " + model + " --temp 0 -n 20 --think off --session s" + cache;
  const Outcome first = hadal(chat, story + "\n");
  EXPECT_EQ(first.status, 0) << first.err;
  struct stat about {};
  ASSERT_EQ(::stat((home + "/hadal/sessions/s.jsonl").c_str(), &about), 0);
  EXPECT_EQ(about.st_mode & 0777, 0600u);
  const Outcome next = hadal(chat, "And then?\n");
  EXPECT_NE(next.out.find("2 messages of"), std::string::npos) << next.out;
  EXPECT_NE(next.out.find(" kept)"), std::string::npos) << next.out;  // tokens that were not read again
  EXPECT_EQ(hadal("chat -m " + model + " --session ../x", "x\n").status, 1);
  ::unsetenv("XDG_STATE_HOME");

  const auto stat = json::parse(hadal("cache stat --json" + cache).out);
  ASSERT_TRUE(stat.ok());
  EXPECT_GT(stat.value().find("units")->to_int64(), 0);
  EXPECT_EQ(stat.value().find("damaged")->to_int64(), 0);
  const std::string request = home + "/request.json";
  const auto ask = [&](const std::string& text) {
    std::ofstream(request) << json::dump(
        json::Object{{"model", "hadal-nano"},
                     {"thinking", json::Object{{"type", "disabled"}}},
                     {"messages", json::Array{json::Object{{"role", "user"}, {"content", text}}}}});
    return hadal("cache explain -m " + model + cache + " " + request).out;
  };
  EXPECT_NE(ask(story).find("are on disk"), std::string::npos) << ask(story);
  const std::string parted = ask(story.substr(0, 1200) + " And a dog.");
  EXPECT_NE(parted.find("the most similar unit shares "), std::string::npos) << parted;
  EXPECT_NE(ask("Something else").find("none of which is on disk"), std::string::npos);

  EXPECT_EQ(hadal("cache verify" + cache).status, 0);
  const Outcome listed = hadal("cache ls" + cache);
  const std::string unit = listed.out.substr(listed.out.find('\n') + 1, 32);
  std::fstream(home + "/kv/" + unit + ".kv", std::ios::in | std::ios::out | std::ios::binary)
      .seekp(700)
      .put('x')
      .put('y');
  for (const char* age : {"new", "old"}) {
    const std::string part = home + "/kv/.part-0-1-" + age;
    std::ofstream(part) << "torn";
    if (age == std::string_view("old"))  // a new one may be in the making
      std::filesystem::last_write_time(part, std::filesystem::file_time_type::clock::now() - std::chrono::hours(2));
  }
  const Outcome verified = hadal("cache verify" + cache);
  EXPECT_EQ(verified.status, 1);
  EXPECT_NE(verified.out.find("2 wrong"), std::string::npos) << verified.out;
  EXPECT_EQ(hadal("cache prune" + cache).status, 0);
  EXPECT_EQ(hadal("cache prune --cache-dir " + home + "/kw").status, 1);
  EXPECT_FALSE(std::filesystem::exists(home + "/kw"));
  EXPECT_EQ(hadal("cache prune --keep 1e12" + cache).status, 2);
  EXPECT_NE(hadal("cache stat" + cache).out.find("all                             0"), std::string::npos);
}

TEST(Program, JsonLineCommandsAnswerEveryLine) {
  const Outcome tokens =
      hadal("tokenize --tokenizer " + nano(), "{\"text\": \"Hi <think>\"}\nnot json\n{\"text\": 3}\n");
  EXPECT_EQ(tokens.status, 1);
  EXPECT_EQ(std::count(tokens.out.begin(), tokens.out.end(), '\n'), 3) << tokens.out;
  EXPECT_NE(tokens.out.find("line 2"), std::string::npos) << tokens.out;
  const Outcome text =
      hadal("tokenize --decode --tokenizer " + nano(), tokens.out.substr(0, tokens.out.find('\n')) + "\n");
  EXPECT_EQ(text.out, "{\"text\":\"Hi <think>\"}\n");
  const Outcome prompt = hadal("encode",
                               "{\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}], "
                               "\"options\": {\"thinking_mode\": \"chat\"}}\n");
  EXPECT_EQ(prompt.status, 0);
  EXPECT_NE(prompt.out.find("<｜User｜>Hi<｜Assistant｜></think>"), std::string::npos) << prompt.out;
  const Outcome error =
      hadal("encode", "{\"messages\": [{\"role\": \"robot\"}], \"options\": {\"thinking_mode\": \"chat\"}}\n");
  EXPECT_NE(error.out.find("\"kind\":\"unknown_role\""), std::string::npos) << error.out;
  EXPECT_NE(hadal("parse", "{\"text\": \"x\", \"thinking_mode\": \"chat\"}\n").out.find("missing_eos"),
            std::string::npos);
}

TEST(Program, InspectAndBenchGiveJson) {
  const auto summary = json::parse(hadal("inspect --json --sha256 " + nano()).out);
  ASSERT_TRUE(summary.ok());
  EXPECT_EQ(summary.value().find("fingerprint")->as_string().size(), 64u);
  const auto bench = json::parse(hadal("bench --json --repetitions 1 --prompt 8 --tokens 2 -m " + nano()).out);
  ASSERT_TRUE(bench.ok());
  EXPECT_GT(bench.value().find("decode")->find("tokens_per_s")->to_double(), 0);
}

TEST(Program, QuantizeTellsWhatItDidAndLeavesNothingWhenItCannot) {
  const std::string output = temp_dir("quantize") + "/out";
  const Outcome table = hadal("quantize " + nano() + " --experts fp8 -o " + output);
  EXPECT_EQ(table.status, 0) << table.err;
  EXPECT_NE(table.out.find("routed experts"), std::string::npos) << table.out;
  EXPECT_NE(table.out.find("exact"), std::string::npos) << table.out;
  EXPECT_EQ(table.err, "");
  const Outcome again = hadal("quantize " + nano() + " -o " + output);
  EXPECT_EQ(again.status, 1);
  EXPECT_EQ(again.err, "hadal: " + output + ": already holds config.json; expected a new directory\n");
  const auto figures = json::parse(hadal("quantize " + output + " --json -o " + output + "2").out);
  ASSERT_TRUE(figures.ok());
  const json::Value* experts = figures.value().find("groups")->find("routed experts");
  EXPECT_EQ(experts->find("converted")->to_int64(), experts->find("tensors")->to_int64());
  EXPECT_EQ(figures.value().find("total")->find("saturated")->to_int64(), 0);
  EXPECT_EQ(read_file(nano() + "/tokenizer.json").value(), read_file(output + "2/tokenizer.json").value());
  EXPECT_EQ(hadal("run -m " + output + "2 -p Hi --raw -n 2").status, 0);

  EXPECT_EQ(hadal("quantize /nonexistent -o " + output + "3").status, 1);
  EXPECT_FALSE(is_directory(output + "3"));
  EXPECT_EQ(hadal("quantize " + nano()).status, 2);
  EXPECT_EQ(hadal("quantize " + nano() + " -o x --experts int4").status, 2);
}

// A limit on file sizes stands for a full disk: write() fails half way.
TEST(Program, QuantizeOnAFullDiskIsOneLineAndNoFiles) {
  const std::string directory = temp_dir("full"), output = directory + "/out";
  const std::string command = "trap '' XFSZ; ulimit -f 100; exec " + std::string(HADAL_PROGRAM) + " quantize " +
                              nano() + " -o " + output + " 2>&1 | cat >" + directory + "/said";
  EXPECT_EQ(WEXITSTATUS(std::system(command.c_str())), 0);
  const std::string said = read_file(directory + "/said").value();
  EXPECT_TRUE(said.starts_with("hadal: " + output + "/model.safetensors: cannot write: ")) << said;
  EXPECT_EQ(std::count(said.begin(), said.end(), '\n'), 1) << said;
  EXPECT_TRUE(std::filesystem::is_empty(output));
}

TEST(Program, TokenizeLearnsAVocabulary) {
  const std::string directory = temp_dir("train"), file = directory + "/tokenizer.json";
  std::string lines;
  for (int i = 0; i < 50; ++i) lines += "{\"text\": \"the cat sat on the mat, the hat of 1234 cats\"}\n";
  const Outcome trained = hadal("tokenize --train --vocab 290 --single-digits -o " + file, lines);
  EXPECT_EQ(trained.status, 0) << trained.err;
  EXPECT_EQ(trained.out, "");
  EXPECT_NE(trained.err.find("290 tokens from 2200 bytes"), std::string::npos) << trained.err;
  const std::string ids = hadal("tokenize --tokenizer " + file, "{\"text\": \"the cat 12\"}\n").out;
  EXPECT_EQ(std::count(ids.begin(), ids.end(), ','), 4) << ids;  // "the", " cat", " ", "1", "2"
  EXPECT_EQ(hadal("tokenize --decode --tokenizer " + file, ids).out, "{\"text\":\"the cat 12\"}\n");

  EXPECT_EQ(hadal("tokenize --train --vocab 290 -o " + file, lines).status, 1);  // not over another
  std::ofstream(directory + "/plain.txt") << lines;
  std::ofstream(directory + "/lines.jsonl") << lines;
  EXPECT_EQ(hadal("tokenize --train --vocab 290 --single-digits -o " + file + "2 " + directory + "/lines.jsonl").status,
            0);
  EXPECT_EQ(read_file(file).value(), read_file(file + "2").value());
  EXPECT_EQ(hadal("tokenize --train --vocab 290 -o " + file + "3 " + directory + "/plain.txt").status, 0);
  const Outcome bad = hadal("tokenize --train --vocab 290 -o " + file + "4", lines + "{}\n");
  EXPECT_EQ(bad.err, "hadal: standard input: line 51: expected {\"text\": ...}\n");
  EXPECT_EQ(hadal("tokenize --train --vocab 4000 -o " + file + "5", lines).status, 1);
  EXPECT_FALSE(file_exists(file + "5"));
  EXPECT_EQ(hadal("tokenize").status, 2);
  EXPECT_EQ(hadal("tokenize --train -o " + file + "6").status, 2);
  EXPECT_EQ(hadal("tokenize --vocab 290 --tokenizer " + file).status, 2);
  EXPECT_EQ(hadal("tokenize --train --vocab 100 -o " + file + "6").status, 2);
}

TEST(Program, DataListsShowsWritesChecks) {
  const auto lines = [](const std::string& text) {
    std::vector<std::string> out;
    std::istringstream in(text);
    for (std::string line; std::getline(in, line);) out.push_back(line);
    return out;
  };
  const auto listed = lines(hadal("data list --json").out);
  EXPECT_GT(listed.size(), 400u);
  for (const std::string& line : listed) EXPECT_TRUE(json::parse(line).ok()) << line;

  const Outcome shown = hadal("data show shop/verify/paged --seed 2 --difficulty 2 --mode max");
  EXPECT_EQ(shown.status, 0) << shown.err;
  EXPECT_NE(shown.out.find("verdict: pass"), std::string::npos);
  for (const std::string& line : lines(shown.out))
    EXPECT_LE(line.size(), 84u) << line;  // 80 columns: the title's dots are two bytes
  EXPECT_EQ(shown.out, hadal("data show shop/verify/paged --seed 2 --difficulty 2 --mode max").out);
  EXPECT_EQ(hadal("data show nowhere").status, 1);
  EXPECT_EQ(hadal("data show add --mode fast").status, 2);

  const auto written = lines(hadal("data write --mixture sft --seed 4 --count 3").out);
  ASSERT_EQ(written.size(), 3u);
  for (const std::string& line : written) EXPECT_NE(json::parse(line).value().find("text"), nullptr);
  EXPECT_EQ(hadal("data write --corpus /nowhere").status, 1);
  EXPECT_EQ(hadal("data check --only talk --seeds 3").status, 0);
  EXPECT_EQ(hadal("data check --only nothing").status, 1);
}

}  // namespace
}  // namespace hadal
