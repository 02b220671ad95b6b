// What the server's parser makes of well-formed and of broken completions (api.md 1.14.6, rows by number), for every
// way in which the text may come.

#include "text/serving_parser.h"

#include <gtest/gtest.h>

#include <random>

#include "base/file.h"
#include "tests/support/shared.h"
#include "text/templates.h"

namespace hadal::text {
namespace {

const json::Array& tools() {
  static const json::Value kTools = json::parse(R"([
    {"name":"get","parameters":{"type":"object","properties":{"city":{"type":"string"},"days":{"type":"integer"},
      "tags":{"type":"array"},"where":{"type":"object"}},"required":["city"]}},
    {"name":"now","parameters":{"type":"object","properties":{}}}])")
                                        .value();
  return kTools.as_array();
}

struct Seen {
  std::string reasoning, content;
  std::vector<std::string> calls;  // name(arguments), with "..." behind what has no end
  bool operator==(const Seen&) const = default;
};
std::ostream& operator<<(std::ostream& out, const Seen& seen) {
  out << "{" << seen.reasoning << " | " << seen.content;
  for (const std::string& call : seen.calls) out << " | " << call;
  return out << "}";
}

// The text as a model samples it: specials are tokens, but "[[DSML]]" stands for text that only spells one.
Seen parse(std::string text, bool thinking, bool cut, std::mt19937* rng, int* repaired = nullptr) {
  static const std::pair<std::string, ServingParser::Special> kSpecials[] = {
      {kThinkOpen, ServingParser::Special::kThinkOpen},
      {kThinkClose, ServingParser::Special::kThinkClose},
      {kDsml, ServingParser::Special::kDsml},
      {kUser, ServingParser::Special::kOther}};
  ServingParser parser(thinking, tools());
  Seen seen;
  std::string fed;  // with blanks for specials
  size_t told = 0;
  const auto take = [&](const std::vector<Delta>& deltas) {
    for (const Delta& delta : deltas) {
      if (delta.kind == Delta::Kind::kReasoning || delta.kind == Delta::Kind::kContent) {
        EXPECT_GE(delta.begin, told);
        told = delta.begin + 1;
        if (delta.text.find("｜｜DSML｜｜") == std::string::npos) {
          EXPECT_EQ(fed.substr(delta.begin, delta.text.size()), delta.text) << text;
        }
      }
      if (delta.kind == Delta::Kind::kReasoning) seen.reasoning += delta.text;
      if (delta.kind == Delta::Kind::kContent) seen.content += delta.text;
      if (delta.kind == Delta::Kind::kToolCall) {
        EXPECT_EQ(delta.call, seen.calls.size());
        seen.calls.push_back(delta.text + "(");
      }
      if (delta.kind == Delta::Kind::kArguments) seen.calls.at(delta.call) += delta.text;
    }
  };
  const auto plain = [&](std::string piece) {
    for (size_t at = piece.find("[[DSML]]"); at != std::string::npos; at = piece.find("[[DSML]]"))
      piece.replace(at, 8, kDsml);
    for (size_t at = 0; at < piece.size() && !parser.over();) {
      size_t n = rng ? 1 + (*rng)() % 7 : piece.size() - at;
      while (at + n < piece.size() && (static_cast<unsigned char>(piece[at + n]) & 0xC0) == 0x80) ++n;
      fed += piece.substr(at, n);
      take(parser.text(piece.substr(at, n)));
      at += n;
    }
  };
  while (!text.empty() && !parser.over()) {
    size_t first = text.size();
    const std::pair<std::string, ServingParser::Special>* which = nullptr;
    for (const auto& special : kSpecials)
      if (const size_t at = text.find(special.first); at < first) {
        first = at;
        which = &special;
      }
    plain(text.substr(0, first));
    if (which && !parser.over()) {
      const auto deltas = parser.special(which->second, which->first);
      fed.resize(parser.n_fed(), ' ');
      take(deltas);
    }
    text.erase(0, first + (which ? which->first.size() : 0));
  }
  take(parser.finish(cut));
  if (repaired) *repaired = parser.n_repaired();
  for (size_t i = 0; i < seen.calls.size(); ++i) seen.calls[i] += parser.whole_calls().at(i) ? ")" : "...";
  return seen;
}

const std::string kOpen = "\n\n<｜DSML｜tool_calls>\n", kClose = "\n</｜DSML｜tool_calls>";
std::string invoke(const std::string& name, const std::string& body) {
  return "<｜DSML｜invoke name=\"" + name + "\">\n" + body + "\n</｜DSML｜invoke>";
}
std::string parameter(const std::string& name, const std::string& value, const char* is_string = "true") {
  return "<｜DSML｜parameter name=\"" + name + "\" string=\"" + is_string + "\">" + value + "</｜DSML｜parameter>";
}
std::string nested(const std::string& name, const std::string& value) {
  return "<｜DSML｜parameter name=\"" + name + "\">" + value + "</｜DSML｜parameter>";
}
const std::string kPlain =
    "<tool_calls>\n<invoke name=\"get\">\n<parameter name=\"city\" string=\"true\">Bern</parameter>\n</invoke>\n"
    "</tool_calls>";
const std::string kBern = invoke("get", parameter("city", "Bern"));
const std::string kBernCall = R"(get({"city": "Bern"}))";

struct Row {
  const char* name;
  std::string text;
  Seen expected;
  bool thinking = false, cut = false;
};

TEST(ServingParser, TheTableOfRepairs) {
  const Row rows[] = {
      {"plain", "a < b </x> \n\n<", {"", "a < b </x> \n\n<", {}}},
      {"thinking", "hm</think>so", {"hm", "so", {}}, true},
      {"never closed", "hm", {"hm", "", {}}, true},
      {"two calls", "x" + kOpen + kBern + "\n" + invoke("now", "") + kClose, {"", "x", {kBernCall, "now({})"}}},
      {"newlines stay but for the wrapper's", "x\n" + kOpen + kBern + kClose, {"", "x\n", {kBernCall}}},
      {"values are raw",
       kOpen + invoke("get", parameter("city", " <b>\n\"x\" & </b> ")) + kClose,
       {"", "", {R"(get({"city": " <b>\n\"x\" & </b> "}))"}}},
      {"JSON values",
       kOpen + invoke("get", parameter("city", "B") + "\n" + parameter("tags", " [1, 2] ", "false")) + kClose,
       {"", "", {R"(get({"city": "B", "tags": [1, 2]}))"}}},
      {"spelled tags are text",
       "see <[[DSML]]tool_calls> and <[[DSML]]invoke",
       {"", "see <｜DSML｜tool_calls> and <｜DSML｜invoke", {}}},
      {"spelled tags in a value",
       kOpen + invoke("get", parameter("city", "</[[DSML]]parameter>")) + kClose,
       {"", "", {R"(get({"city": "</｜DSML｜parameter>"}))"}}},
      {"specials in a value",
       kOpen + invoke("get", parameter("city", "a<think>b<｜User｜>c")) + kClose,
       {"", "", {R"(get({"city": "a<think>b<｜User｜>c"}))"}}},
      {"specials in text", "a<｜User｜>b", {"", "ab", {}}},
      {"1 in reasoning", "hm" + kOpen + kBern + kClose, {"hm", "", {kBernCall}}, true},
      {"1 with blanks behind", "hm" + kOpen + kBern + kClose + "\n\n", {"hm", "", {kBernCall}}, true},
      {"1 a quotation, thought on",
       "hm" + kOpen + kBern + kClose + " is how",
       {"hm\n\n<｜｜DSML｜｜tool_calls>\n<｜｜DSML｜｜invoke name=\"get\">\n<｜｜DSML｜｜parameter name=\"city\" "
        "string=\"true\">Bern</｜｜DSML｜｜parameter>\n</｜｜DSML｜｜invoke>\n</｜｜DSML｜｜tool_calls> is how",
        "",
        {}},
       true},
      {"1 a quotation, answered",
       "the <｜DSML｜tool_calls> tag</think>yes",
       {"the <｜｜DSML｜｜tool_calls> tag", "yes", {}},
       true},
      {"1 undeclared",
       "hm" + kOpen + invoke("rm", "") + kClose,
       {"hm\n\n<｜｜DSML｜｜tool_calls>\n<｜｜DSML｜｜invoke "
        "name=\"rm\">\n\n</｜｜DSML｜｜invoke>\n</｜｜DSML｜｜tool_calls>",
        "",
        {}},
       true},
      {"2 without a wrapper", "x\n\n" + kBern, {"", "x", {kBernCall}}},
      {"2 but in a sentence", "x <｜DSML｜invoke name=\"get\"> y", {"", "x  y", {}}},
      {"3 corrupted opener", "\n\n<｜DSML｜toolcalls>\n" + kBern + kClose, {"", "", {kBernCall}}},
      {"3 a blank after the token", "\n\n<｜DSML｜ tool_calls>\n" + kBern + kClose, {"", "", {kBernCall}}},
      {"4 the older name",
       "\n\n<｜DSML｜function_calls>\n" + kBern + "\n</｜DSML｜function_calls>",
       {"", "", {kBernCall}}},
      {"5 no close", kOpen + kBern, {"", "", {kBernCall}}},
      {"6 cut in a value",
       kOpen + "<｜DSML｜invoke name=\"get\">\n<｜DSML｜parameter name=\"city\" string=\"true\">Be",
       {"", "", {R"(get({"city": "Be...)"}},
       false,
       true},
      {"6 ended in a value",
       kOpen + "<｜DSML｜invoke name=\"get\">\n<｜DSML｜parameter name=\"city\" string=\"true\">Bern",
       {"", "", {kBernCall}}},
      {"6 ended before what is required", kOpen + "<｜DSML｜invoke name=\"get\">\n", {"", "", {"get(..."}}},
      {"7 blanks",
       "<｜DSML｜tool_calls>  \r\n <｜DSML｜invoke name=\"get\">" + parameter("city", "Bern") +
           "  </｜DSML｜invoke></｜DSML｜tool_calls>",
       {"", "", {kBernCall}}},
      {"8 no string attribute",
       kOpen +
           invoke("get",
                  "<｜DSML｜parameter name=\"city\">12</｜DSML｜parameter>\n<｜DSML｜parameter "
                  "name=\"days\">3</｜DSML｜parameter>") +
           kClose,
       {"", "", {R"(get({"city": "12", "days": 3}))"}}},
      {"9 a number as string stays",
       kOpen + invoke("get", parameter("days", "3")) + kClose,
       {"", "", {R"(get({"days": "3"}))"}}},
      {"10 Python",
       kOpen + invoke("get", parameter("city", "None", "false") + parameter("tags", "['a',]", "false")) + kClose,
       {"", "", {R"(get({"city": null, "tags": ["a"]}))"}}},
      {"10 bare text", kOpen + invoke("get", parameter("city", "Bern", "false")) + kClose, {"", "", {kBernCall}}},
      {"11 wrapped",
       kOpen + invoke("get", parameter("arguments", R"({"city": "Bern"})", "false")) + kClose,
       {"", "", {kBernCall}}},
      {"11 not wrapped",
       kOpen + invoke("get", parameter("input", "Bern")) + kClose,
       {"", "", {R"(get({"input": "Bern"}))"}}},
      {"12 parameters in a parameter",
       kOpen +
           invoke("get", parameter("city", "B") + "\n" +
                             nested("where", "\n" + parameter("x", "1", "false") + parameter("y", "a") + "\n")) +
           kClose,
       {"", "", {R"(get({"city": "B", "where": {"x": 1, "y": "a"}}))"}}},
      {"12 and in those",
       kOpen +
           invoke("get",
                  parameter("city", "B") + nested("where", nested("at", parameter("x", "1")) + nested("n", "2"))) +
           kClose,
       {"", "", {R"(get({"city": "B", "where": {"at": {"x": "1"}, "n": 2}}))"}}},
      {"12 all arguments",
       kOpen + invoke("get", nested("arguments", parameter("city", "Bern"))) + kClose,
       {"", "", {kBernCall}}},
      {"12 without an end",
       kOpen + "<｜DSML｜invoke name=\"get\">\n" + parameter("city", "B") + "<｜DSML｜parameter name=\"where\">" +
           parameter("x", "1"),
       {"", "", {R"(get({"city": "B", "where": {"x": "1"}}))"}}},
      {"12 but not where the schema says text",
       kOpen + invoke("get", "<｜DSML｜parameter name=\"city\">\n" + parameter("days", "2", "false")) + kClose,
       {"", "", {R"(get({"city": "\n", "days": 2}))"}}},
      {"18 plain XML", "x\n\n" + kPlain, {"", "x", {kBernCall}}},
      {"18 the short form",
       "<DSML｜tool_calls>\n<DSML｜invoke name=\"get\">\n<DSML｜parameter name=\"city\" "
       "string=\"true\">Bern</DSML｜parameter>\n</DSML｜invoke>\n</DSML｜tool_calls>\n",
       {"", "", {kBernCall}}},
      {"18 but not before more", "x\n\n" + kPlain + "\nis how", {"", "x\n\n" + kPlain + "\nis how", {}}},
      {"18 nor in a fence", "```\n" + kPlain + "\n```", {"", "```\n" + kPlain + "\n```", {}}},
      {"18 nor in a sentence", "x " + kPlain, {"", "x " + kPlain, {}}},
      {"18 nor undeclared",
       "<tool_calls>\n<invoke name=\"rm\">\n</invoke>\n</tool_calls>",
       {"", "<tool_calls>\n<invoke name=\"rm\">\n</invoke>\n</tool_calls>", {}}},
      {"18 nor cut", "\n\n<tool_calls>\n<invoke na", {"", "\n\n<tool_calls>\n<invoke na", {}}, false, true},
      {"18 nor before a token", "<tool_calls>\n<think>b", {"", "<tool_calls>\nb", {}}},
      {"18 nor in reasoning", kPlain, {kPlain, "", {}}, true},
      {"18 doubled bars",
       "\n\n<｜[[DSML]]｜tool_calls>\n</｜[[DSML]]｜tool_calls>",
       {"", "\n\n<｜｜DSML｜｜tool_calls>\n</｜｜DSML｜｜tool_calls>", {}}},
      {"18 twice begun", "<tool_calls>\n\n" + kPlain, {"", "<tool_calls>", {kBernCall}}},
      {"13 a JSON body", kOpen + invoke("get", R"({"city": "Bern"})") + kClose, {"", "", {kBernCall}}},
      {"14 twice",
       kOpen + invoke("get", parameter("city", "A") + parameter("city", "B")) + kClose,
       {"", "", {R"(get({"city": "A", "city": "B"}))"}}},
      {"15 no close of a parameter",
       kOpen +
           invoke("get",
                  "<｜DSML｜parameter name=\"city\" string=\"true\">Bern<｜DSML｜parameter name=\"days\" "
                  "string=\"false\">2</｜DSML｜parameter>") +
           kClose,
       {"", "", {R"(get({"city": "Bern", "days": 2}))"}}},
      {"16 junk in a name", kOpen + invoke("get {", parameter("city", "Bern")) + kClose, {"", "", {kBernCall}}},
      {"16 junk and no such tool", kOpen + invoke("rm {", ""), {"", "", {}}},
      {"17 undeclared", kOpen + invoke("rm", "") + kClose, {"", "", {"rm({})"}}},
      {"21 think tags", "<think>hm</think></think>so", {"hm", "so", {}}, true},
      {"21 in chat", "so</think> it<think> is", {"", "so it is", {}}},
      {"23 text between", kOpen + kBern + " and " + invoke("now", "") + kClose, {"", "", {kBernCall, "now({})"}}},
      {"after the end", kOpen + kBern + kClose + "more", {"", "", {kBernCall}}},
      {"NaN is no JSON",
       kOpen + invoke("get", parameter("city", "[NaN]", "false")) + kClose,
       {"", "", {R"(get({"city": "[NaN]"}))"}}},
      {"a long header",
       kOpen + invoke("get", parameter(std::string(400, 'k'), "v")) + kClose,
       {"", "", {"get({\"" + std::string(400, 'k') + "\": \"v\"})"}}},
      {"a name with >", kOpen + invoke("get", parameter("a>b", "v")) + kClose, {"", "", {R"(get({"a>b": "v"}))"}}},
      {"a special in a name",
       kOpen + invoke("get", parameter("a<think>b", "v")) + kClose,
       {"", "", {R"(get({"a<think>b": "v"}))"}}},
      {"2 undeclared is no text", "x\n\n" + invoke("rm", parameter("file", "secret")) + " y", {"", "x y", {}}},
      {"2 cut is no text",
       "x\n\n<｜DSML｜invoke name=\"get\">\n<｜DSML｜parameter name=\"city\" string=\"true\">Be",
       {"", "x", {}},
       false,
       true},
      {"a special in a tag that is none", "a <｜DSML｜nonsense <｜User｜>b> c", {"", "a  c", {}}},
      {"a special between calls",
       kOpen + kBern + "<｜User｜>" + invoke("now", "") + kClose,
       {"", "", {kBernCall, "now({})"}}},
      {"no tag at all", "a ｜DSML｜b <｜DSML｜nonsense x=\"y\"> c", {"", "a  c", {}}},
  };
  std::mt19937 rng(11);
  for (const Row& row : rows) {
    SCOPED_TRACE(row.name);
    EXPECT_EQ(parse(row.text, row.thinking, row.cut, nullptr), row.expected);
    for (int i = 0; i < 40; ++i) EXPECT_EQ(parse(row.text, row.thinking, row.cut, &rng), row.expected);
  }
}

TEST(ServingParser, AHeaderThatNeverEndsIsTheSameForEverySplit) {
  std::mt19937 rng(12);
  const std::string text = kOpen + invoke("get", parameter(std::string(700, 'k'), "v")) + kClose;
  const Seen whole = parse(text, false, false, nullptr);
  for (int i = 0; i < 40; ++i) EXPECT_EQ(parse(text, false, false, &rng), whole);
}

// Tags, halves of tags and text in any order.
TEST(ServingParser, AnyTextIsTheSameForEverySplit) {
  const std::string pieces[] = {kOpen,
                                kClose,
                                kBern,
                                kPlain,
                                "<｜DSML｜",
                                "</｜DSML｜",
                                "<｜DSML｜invoke name=\"get\">",
                                "</｜DSML｜invoke>",
                                "<｜DSML｜parameter name=\"where\">",
                                "<｜DSML｜parameter name=\"city\" string=\"true\">",
                                "</｜DSML｜parameter>",
                                "<think>",
                                "</think>",
                                "<｜User｜>",
                                "｜DSML｜",
                                "\n",
                                "\n\n",
                                "<",
                                "</",
                                ">",
                                "\"",
                                "{",
                                "}",
                                " ",
                                "text",
                                "é",
                                "<tool_calls>",
                                "<tool_ca",
                                "</tool_calls>",
                                "<invoke name=\"get\">",
                                "</invoke>",
                                "<parameter name=\"city\">",
                                "</parameter>",
                                "<DSML｜tool_calls>",
                                "tool_calls>",
                                "invoke",
                                "parameter",
                                " name=\"x\"",
                                "1",
                                "[1,]"};
  std::mt19937 rng(13);
  for (int i = 0; i < 20000; ++i) {
    std::string text;
    for (size_t n = rng() % 14; n > 0; --n) text += pieces[rng() % std::size(pieces)];
    const bool thinking = rng() % 2, cut = rng() % 4 == 0;
    const Seen whole = parse(text, thinking, cut, nullptr);
    for (int k = 0; k < 3; ++k) ASSERT_EQ(parse(text, thinking, cut, &rng), whole) << text << "\nrow " << i;
  }
}

// Well-formed texts are what the strict parser says, and of whatever is not nothing ever leaks.
TEST(ServingParser, AgreesWithTheStrictParserAndNeverLeaks) {
  const std::string path = testing::shared_path("golden/parses.jsonl");
  if (path.empty()) GTEST_SKIP() << "shared/golden is not there";
  const std::string lines = read_file(path).value();
  std::mt19937 rng(5);
  int n = 0;
  for (size_t at = 0; at < lines.size();) {
    const size_t end = std::min(lines.find('\n', at), lines.size());
    const auto line = json::parse(lines.substr(at, end - at));
    at = end + 1;
    if (!line.ok()) continue;
    std::string text = line.value().find("text")->as_string();
    const bool thinking = line.value().find("thinking_mode")->as_string() == "thinking";
    const auto strict = parse_completion(text, thinking);
    if (text.ends_with(kEos)) text.resize(text.size() - std::string(kEos).size());
    const bool has_others = text.find("<｜") != std::string::npos && text.find(kDsml) == std::string::npos;
    int repaired = 0;
    const Seen seen = parse(text, thinking, false, &rng, &repaired);
    for (const std::string& shown : {seen.reasoning, seen.content}) {
      EXPECT_EQ(shown.find("<think>"), std::string::npos) << text;
      EXPECT_EQ(shown.find("</think>"), std::string::npos) << text;
      for (size_t mark = shown.find(kDsml); mark != std::string::npos; mark = shown.find(kDsml, mark + 1))
        EXPECT_TRUE(shown.substr(0, mark).ends_with("｜")) << text;
    }
    const auto* message = std::get_if<AssistantMessage>(&strict);
    // Of the broken ones the strict parser takes some as they stand; they are repaired here.
    if (!message || line.value().find("tag")->as_string() != "valid" || has_others) continue;
    EXPECT_EQ(repaired, 0) << text;
    ++n;
    EXPECT_EQ(seen.reasoning, message->reasoning) << text;
    EXPECT_EQ(seen.content, message->content) << text;
    ASSERT_EQ(seen.calls.size(), message->tool_calls.size()) << text;
    for (size_t i = 0; i < seen.calls.size(); ++i) {
      const auto& call = message->tool_calls[i];
      if (json::parse(call.arguments).ok()) {
        EXPECT_EQ(seen.calls[i], call.name + "(" + call.arguments + ")") << text;
      }
    }
  }
  EXPECT_GT(n, 60);
}

}  // namespace
}  // namespace hadal::text
