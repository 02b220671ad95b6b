// Prompt encoding and completion parsing against the golden lines: a covering choice of them lies in the
// repository, all of them in shared/.

#include <gtest/gtest.h>

#include <ctime>
#include <filesystem>
#include <fstream>
#include <random>

#include "base/file.h"
#include "base/json.h"
#include "tests/support/shared.h"
#include "text/encode_prompt.h"
#include "text/stream_parser.h"
#include "text/templates.h"

namespace hadal::text {
namespace {

using json::Value;
using testing::fixture;
using testing::shared_path;

std::vector<Value> lines_of(const std::string& path) {
  std::vector<Value> lines;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    auto parsed = json::parse(line);
    EXPECT_TRUE(parsed.ok()) << line;
    if (parsed.ok()) lines.push_back(std::move(parsed).value());
  }
  EXPECT_FALSE(lines.empty()) << path;
  return lines;
}

std::string text_of(const Value& object, std::string_view key) {
  const Value* value = object.find(key);
  return value && value->is_string() ? value->as_string() : "";
}

void check_prompts(const std::string& path) {
  for (const Value& line : lines_of(path)) {
    SCOPED_TRACE(json::dump(line).substr(0, 300));
    EncodeOptions options;
    options.encoding = encoding_by_name(text_of(line, "encoding")).value();
    const Value& given = *line.find("options");
    options.thinking_mode = text_of(given, "thinking_mode");
    if (const Value* v = given.find("drop_thinking")) options.drop_thinking = v->as_bool();
    if (const Value* v = given.find("add_default_bos_token")) options.add_default_bos_token = v->as_bool();
    if (const Value* v = given.find("reasoning_effort")) options.reasoning_effort = *v;
    if (const Value* v = given.find("context"); v && v->is_array()) options.context = v->as_array();
    const auto encoded = encode_prompt(line.find("messages")->as_array(), options);
    if (const Value* error = line.find("error")) {
      ASSERT_TRUE(std::holds_alternative<EncodeError>(encoded));
      EXPECT_EQ(std::get<EncodeError>(encoded).kind, text_of(*error, "kind"));
      continue;
    }
    ASSERT_TRUE(std::holds_alternative<EncodedPrompt>(encoded)) << std::get<EncodeError>(encoded).message;
    const auto& prompt = std::get<EncodedPrompt>(encoded);
    EXPECT_EQ(prompt.text, text_of(line, "prompt"));
    EXPECT_LE(prompt.header_begin, prompt.text.size());
  }
}

// Fed in the given pieces; the deltas together, and the verdict.
struct Streamed {
  AssistantMessage told;
  std::variant<AssistantMessage, ParseError> verdict;
};
Streamed stream(const std::vector<std::string_view>& pieces, bool thinking) {
  StreamParser parser(thinking);
  Streamed result;
  const auto take = [&](const std::vector<Delta>& deltas) {
    for (const Delta& delta : deltas) {
      switch (delta.kind) {
        case Delta::Kind::kReasoning:
          result.told.reasoning += delta.text;
          break;
        case Delta::Kind::kContent:
          result.told.content += delta.text;
          break;
        case Delta::Kind::kToolCall:
          ASSERT_EQ(delta.call, result.told.tool_calls.size());
          result.told.tool_calls.push_back({delta.text, ""});
          break;
        case Delta::Kind::kArguments:
          result.told.tool_calls.at(delta.call).arguments += delta.text;
          break;
      }
    }
  };
  for (const std::string_view piece : pieces) take(parser.feed(piece));
  std::vector<Delta> rest;
  result.verdict = parser.finish(rest);
  take(rest);
  return result;
}

void expect_no_markup(const std::string& text) {
  for (const char* markup : {kThinkOpen, kThinkClose, kBos, kEos, kDsml, "<｜"})
    EXPECT_EQ(text.find(markup), std::string::npos) << markup << " in " << text;
}

void check_streams(const std::string& text, bool thinking, const std::vector<std::string_view>& pieces,
                   const std::variant<AssistantMessage, ParseError>& strict) {
  const Streamed streamed = stream(pieces, thinking);
  if (const auto* message = std::get_if<AssistantMessage>(&strict)) {
    ASSERT_TRUE(std::holds_alternative<AssistantMessage>(streamed.verdict));
    EXPECT_EQ(streamed.told, *message) << text;
    return;
  }
  ASSERT_TRUE(std::holds_alternative<ParseError>(streamed.verdict));
  EXPECT_EQ(std::get<ParseError>(streamed.verdict).kind, std::get<ParseError>(strict).kind);
  expect_no_markup(streamed.told.reasoning);
  expect_no_markup(streamed.told.content);
  for (const ToolCall& call : streamed.told.tool_calls)
    EXPECT_EQ(call.arguments.find(kDsml), std::string::npos) << call.arguments;
}

void check_parses(const std::string& path) {
  for (const Value& line : lines_of(path)) {
    SCOPED_TRACE(json::dump(line).substr(0, 400));
    const std::string text = text_of(line, "text");
    const bool thinking = text_of(line, "thinking_mode") == "thinking";
    const auto strict = parse_completion(text, thinking);
    if (const Value* error = line.find("error")) {
      ASSERT_TRUE(std::holds_alternative<ParseError>(strict));
      EXPECT_EQ(std::get<ParseError>(strict).kind, text_of(*error, "kind"));
    } else {
      ASSERT_TRUE(std::holds_alternative<AssistantMessage>(strict));
      EXPECT_EQ(json::dump(to_json(std::get<AssistantMessage>(strict))), json::dump(*line.find("message")));
    }
    const std::string_view whole(text);
    for (size_t split = 0; split <= text.size(); ++split)
      check_streams(text, thinking, {whole.substr(0, split), whole.substr(split)}, strict);
    std::vector<std::string_view> bytes;
    for (size_t i = 0; i < text.size(); ++i) bytes.push_back(whole.substr(i, 1));
    check_streams(text, thinking, bytes, strict);
    if (::testing::Test::HasFailure()) return;
  }
}

TEST(EncodePrompt, GoldenLinesOfTheRepository) { check_prompts(fixture("prompts.jsonl")); }
// What the goldens lack, answered by the official encoder: contexts that lose a developer's message, ids in other
// places, arguments that are no text, and which of several errors is told.
TEST(EncodePrompt, EdgesAsTheOfficialEncoder) { check_prompts(fixture("prompts_edge.jsonl")); }
TEST(EncodePrompt, AllGoldenLines) {
  HADAL_NEEDS_SHARED("golden/prompts.jsonl");
  check_prompts(shared_path("golden/prompts.jsonl"));
}

TEST(EncodePrompt, OfficialPairsByteForByte) {
  HADAL_NEEDS_SHARED("golden/official_pairs/manifest.json");
  const std::string directory = shared_path("golden/official_pairs") + "/";
  const Value manifest = json::parse(read_file(directory + "manifest.json").value()).value();
  for (const Value& pair : manifest.find("pairs")->as_array()) {
    Value input = json::parse(read_file(directory + text_of(pair, "input")).value()).value();
    json::Array messages;
    if (input.is_object()) {
      messages = input.find("messages")->as_array();
      messages[0].set("tools", *input.find("tools"));
    } else {
      messages = input.as_array();
    }
    for (const Encoding encoding : {Encoding::kV4, Encoding::kV4_0731}) {
      EncodeOptions options;
      options.encoding = encoding;
      options.thinking_mode = text_of(pair, "thinking_mode");
      const auto encoded = encode_prompt(messages, options);
      ASSERT_TRUE(std::holds_alternative<EncodedPrompt>(encoded));
      EXPECT_EQ(std::get<EncodedPrompt>(encoded).text, read_file(directory + text_of(pair, "output")).value());
    }
  }
}

TEST(EncodePrompt, TheHeaderIsWhereTheAnswerBegins) {
  EncodeOptions options;
  options.thinking_mode = "chat";
  const json::Array messages = {json::Object{{"role", "user"}, {"content", "Hi"}}};
  const auto prompt = std::get<EncodedPrompt>(encode_prompt(messages, options));
  EXPECT_EQ(prompt.text.substr(prompt.header_begin), std::string(kAssistant) + kThinkClose);
}

TEST(ParseCompletion, GoldenLinesOfTheRepositoryAtEverySplit) { check_parses(fixture("parses.jsonl")); }
TEST(ParseCompletion, AllGoldenLinesAtEverySplit) {
  HADAL_NEEDS_SHARED("golden/parses.jsonl");
  check_parses(shared_path("golden/parses.jsonl"));
}

TEST(ParseCompletion, RandomTextsStreamAsTheyParse) {
  const char* parts[] = {"a",
                         "word ",
                         "\n",
                         "\n\n",
                         "<",
                         "</",
                         ">",
                         "<think>",
                         "</think>",
                         "｜",
                         "｜DSML｜",
                         "<｜DSML｜tool_calls>\n",
                         "\n\n<｜DSML｜tool_calls>\n",
                         "<｜DSML｜invoke name=\"f\">\n",
                         "<｜DSML｜parameter name=\"x\" string=\"true\">",
                         "<｜DSML｜parameter name=\"y\" string=\"false\">",
                         "</｜DSML｜parameter>\n",
                         "</｜DSML｜invoke>\n",
                         "</｜DSML｜tool_calls>",
                         kEos,
                         kBos,
                         "é",
                         "🙂",
                         "\"",
                         "{\"a\": 1}",
                         "string=\"true\">"};
  for (uint64_t seed = 0; seed < 3000; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937_64 random(seed);
    std::string text;
    for (uint64_t i = 0, n = random() % 14; i < n; ++i) text += parts[random() % std::size(parts)];
    const bool thinking = random() % 2 == 0;
    const auto strict = parse_completion(text, thinking);
    std::vector<std::string_view> pieces;
    for (std::string_view rest(text); !rest.empty();) {
      const size_t n = 1 + random() % std::min<size_t>(rest.size(), 9);
      pieces.push_back(rest.substr(0, n));
      rest.remove_prefix(n);
    }
    check_streams(text, thinking, pieces, strict);
    if (HasFailure()) return;
  }
}

// Every text in pieces of a few bytes, damaged ones too: golden texts with a stretch deleted, doubled or replaced.
TEST(ParseCompletion, DamagedTextsStreamAsTheyParse) {
  const char* parts[] = {"",
                         "<",
                         "\n",
                         "</think>",
                         "<think>",
                         kEos,
                         kBos,
                         "｜DSML｜",
                         "\n\n<｜DSML｜tool_calls",
                         "</｜DSML｜parameter>\n",
                         "/｜DSML｜parameter",
                         "<\n",
                         "<｜User｜>",
                         "</｜",
                         "\" string=\"false\">",
                         "\">\n"};
  const std::vector<Value> lines = lines_of(fixture("parses.jsonl"));
  for (uint64_t seed = 0; seed < 6000; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937_64 random(seed);
    const Value& line = lines[random() % lines.size()];
    std::string text = text_of(line, "text");
    for (uint64_t n = random() % 3; n > 0; --n) {
      const size_t at = random() % (text.size() + 1), size = random() % 30;
      if (random() % 3 == 0) {
        text.insert(at, text.substr(at, size));
      } else {
        text.replace(at, random() % 2 ? size : 0, parts[random() % std::size(parts)]);
      }
    }
    const bool thinking = text_of(line, "thinking_mode") == "thinking";
    const auto strict = parse_completion(text, thinking);
    const size_t most = 1 + random() % 40;
    std::vector<std::string_view> pieces;
    for (std::string_view rest(text); !rest.empty(); rest.remove_prefix(pieces.back().size()))
      pieces.push_back(rest.substr(0, 1 + random() % most));
    check_streams(text, thinking, pieces, strict);
    if (HasFailure()) return;
  }
}

TEST(StreamParser, AValueWithThinkTagsComesWhenItCloses) {
  StreamParser parser(false);
  std::string arguments;
  const auto feed = [&](const std::string& text) {
    for (const Delta& delta : parser.feed(text))
      if (delta.kind == Delta::Kind::kArguments) arguments += delta.text;
    return arguments;
  };
  EXPECT_EQ(
      feed("\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"f\">\n<｜DSML｜parameter name=\"x\" string=\"true\">a"),
      "{\"x\": \"a");
  EXPECT_EQ(feed("b<think"), "{\"x\": \"ab");
  EXPECT_EQ(feed("> and <｜User｜> c"), "{\"x\": \"ab");
  EXPECT_EQ(feed("</｜DSML｜parameter>\n"), "{\"x\": \"ab<think> and <｜User｜> c\"");
  EXPECT_EQ(feed("<｜DSML｜parameter name=\"y\" string=\"false\">1"),
            "{\"x\": \"ab<think> and <｜User｜> c\", \"y\": 1");
}

// Quadratic work would take minutes here.
TEST(StreamParser, LongTextsInSmallPiecesAreQuick) {
  std::string calls = "\n\n<｜DSML｜tool_calls>\n";
  for (int i = 0; i < 20000; ++i) calls += "<｜DSML｜invoke name=\"f\">\n\n</｜DSML｜invoke>\n";
  std::string parameters = "\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"f\">\n";
  for (int i = 0; i < 20000; ++i)
    parameters += "<｜DSML｜parameter name=\"k" + std::to_string(i) + "\" string=\"true\">x</｜DSML｜parameter>\n";
  const std::string end = std::string("</｜DSML｜tool_calls>") + kEos,
                    invoke = "\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke";
  const std::string header = invoke + " name=\"f\">\n<｜DSML｜parameter name=\"";
  const std::string texts[] = {calls + end,
                               parameters + "</｜DSML｜invoke>\n" + end,
                               invoke + std::string(500000, 'n'),
                               header + std::string(500000, 'k'),
                               header + "k\" string=\"true\"><think>" + std::string(500000, 'v'),
                               std::string(500000, '<'),
                               std::string(500000, '\n')};
  const std::clock_t begin = std::clock();
  for (const std::string& text : texts)
    for (const size_t size : {size_t{3}, text.size()}) {
      StreamParser parser(false);
      for (size_t i = 0; i < text.size(); i += size) parser.feed(std::string_view(text).substr(i, size));
      std::vector<Delta> rest;
      const auto verdict = parser.finish(rest);
      if (const auto* message = std::get_if<AssistantMessage>(&verdict)) {
        EXPECT_EQ(*message, parser.so_far());
      }
    }
  EXPECT_LT(static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC, 15.0);
}

TEST(StreamParser, TextComesAsSoonAsItIsCertain) {
  StreamParser parser(false);
  const auto first = parser.feed("2 < 3");
  ASSERT_EQ(first.size(), 1u);
  EXPECT_EQ(first[0].text, "2 < 3");
  EXPECT_TRUE(parser.feed("\n\n").empty());  // tool calls may follow
  EXPECT_EQ(parser.feed("x")[0].text, "\n\nx");
  EXPECT_TRUE(parser.feed("<").empty());
  EXPECT_EQ(parser.cut()[0].text, "<");
}

TEST(Encoding, OfACheckpointIsWhatItsDescriptorSaysOrWhatComesWithIt) {
  const std::string directory = testing::temp_dir("encoding");
  const auto encoding = [&] { return encoding_of_checkpoint(directory); };
  const auto write = [&](const std::string& name, const std::string& content) {
    std::filesystem::create_directories(directory + "/encoding");
    std::ofstream(directory + "/" + name) << content;
  };
  EXPECT_EQ(encoding().value(), Encoding::kV4);
  write("config.json", R"({"dspark_block_size": 5})");
  EXPECT_EQ(encoding().value(), Encoding::kV4_0731);
  write("encoding/encoding_dsv4.py", "# the preview's");
  EXPECT_EQ(encoding().value(), Encoding::kV4);
  write("encoding/encoding.json", R"({"encoding": "v4-0731"})");
  EXPECT_EQ(encoding().value(), Encoding::kV4_0731);
  for (const char* wrong : {R"({"encoding": "v5"})", "{}", "[", R"({"encoding": 4})"}) {
    write("encoding/encoding.json", wrong);
    ASSERT_FALSE(encoding().ok()) << wrong;
    EXPECT_NE(encoding().error().message.find("encoding.json: encoding: expected v4 or v4-0731"), std::string::npos);
  }
}

}  // namespace
}  // namespace hadal::text
