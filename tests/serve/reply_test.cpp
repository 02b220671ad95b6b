// Tokens in, bytes of every wire format out: a stream put together by that format's own rules is the whole answer.

#include "serve/reply.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "serve/chat_request.h"
#include "text/templates.h"
#include "text/tokenizer_json.h"

namespace hadal::serve {
namespace {

using json::Value;

const text::Tokenizer& tokenizer() {
  static const text::Tokenizer kTokenizer =
      text::Tokenizer::parse(json::dump(text::tokenizer_json({}, false)), "bytes").value();
  return kTokenizer;
}

class Written final : public HttpReply {
 public:
  void send(int status_code, Headers, std::string text) override {
    status = status_code;
    body = std::move(text);
    ended = true;
  }
  void begin(int status_code, Headers) override { status = status_code; }
  void write(std::string chunk) override { body += chunk; }
  void end() override { ended = true; }
  void on_gone(std::function<void()>) override {}
  int status = 0;
  std::string body;
  bool ended = false;
};

enum class Wire { kChat, kMessages, kResponses };
constexpr Wire kWires[] = {Wire::kChat, Wire::kMessages, Wire::kResponses};

struct Case {
  std::string text;  // as sampled, without end of sentence
  bool thinking = true;
  engine::Finish finish = engine::Finish::kStop;
  std::vector<std::string> stop = {};
  bool offers_tools = true;
};

std::string answer_of(const Case& c, Wire wire, bool stream, Status status = {}, bool logprobs = false,
                      Charge charge = {}) {
  Turn turn;
  turn.model = "m";
  turn.effort = c.thinking ? Effort::kHigh : Effort::kOff;
  turn.stream = stream;
  turn.stop = c.stop;
  turn.logprobs = logprobs;
  if (c.offers_tools) turn.tools.push_back(json::Object{{"name", "f"}});
  Prompt prompt;
  prompt.ids = {0, 1, 2};
  prompt.thinking_open = c.thinking;
  const FormatContext context{&tokenizer(), "fp", "id"};
  ReplyContext replies;
  replies.tokenizer = &tokenizer();
  auto http = std::make_shared<Written>();
  auto format = wire == Wire::kChat       ? chat_format(turn, context)
                : wire == Wire::kMessages ? messages_format(turn, context)
                                          : responses_format(turn, context, {});
  Reply reply(turn, prompt, replies, std::move(format), http, "id", {}, std::move(charge));
  reply.started({});
  for (const TokenId id : tokenizer().encode(c.text))
    if (!reply.token({.token = id, .logprob = 0, .top = {}})) break;
  engine::Completion completion;
  completion.finish = c.finish;
  reply.done(status, completion);
  EXPECT_EQ(http->ended, status.ok() || status.error().code != Code::kCancelled);  // else nobody listens
  return http->body;
}

// {event or "", data}
std::vector<std::pair<std::string, std::string>> events_of(const std::string& body) {
  std::vector<std::pair<std::string, std::string>> events;
  std::string name;
  for (size_t at = 0; at < body.size();) {
    const size_t end = body.find('\n', at);
    const std::string line = body.substr(at, end - at);
    if (line.starts_with("event: ")) name = line.substr(7);
    if (line.starts_with("data: ")) {
      events.emplace_back(name, line.substr(6));
      name.clear();
    }
    at = end + 1;
  }
  return events;
}
Value parse(const std::string& text) {
  auto value = json::parse(text);
  EXPECT_TRUE(value.ok()) << text;
  return value.ok() ? std::move(value).value() : Value();
}
std::string text_of(const Value& object, const char* key) {
  const Value* value = object.find(key);
  return value && value->is_string() ? value->as_string() : "";
}

// What a client ends up with: reasoning, text, calls as name(arguments), and how it ended.
struct Seen {
  std::string reasoning, content, end;
  std::vector<std::string> calls;
  bool operator==(const Seen&) const = default;
};
std::ostream& operator<<(std::ostream& out, const Seen& seen) {
  out << "{" << seen.reasoning << "|" << seen.content << "|" << seen.end;
  for (const std::string& call : seen.calls) out << "|" << call;
  return out << "}";
}

Seen chat_whole(const std::string& body) {
  const Value all = parse(body);
  const Value& choice = all.find("choices")->as_array().at(0);
  const Value& message = *choice.find("message");
  Seen seen{text_of(message, "reasoning_content"), text_of(message, "content"), text_of(choice, "finish_reason"), {}};
  if (const Value* calls = message.find("tool_calls"))
    for (const Value& call : calls->as_array())
      seen.calls.push_back(text_of(*call.find("function"), "name") + "(" +
                           text_of(*call.find("function"), "arguments") + ")");
  return seen;
}
Seen chat_stream(const std::string& body) {
  Seen seen;
  std::vector<std::pair<std::string, std::string>> calls;
  bool done = false;
  for (const auto& [name, data] : events_of(body)) {
    EXPECT_FALSE(done);
    if (data == "[DONE]") {
      done = true;
      continue;
    }
    const Value chunk = parse(data);
    const Value& choice = chunk.find("choices")->as_array().at(0);
    const Value& delta = *choice.find("delta");
    seen.reasoning += text_of(delta, "reasoning_content");
    seen.content += text_of(delta, "content");
    if (const Value* list = delta.find("tool_calls"))
      for (const Value& call : list->as_array()) {
        const auto index = static_cast<size_t>(*call.find("index")->to_int64());
        if (index == calls.size()) {
          EXPECT_TRUE(text_of(call, "id").starts_with("call_0"));
          calls.emplace_back(text_of(*call.find("function"), "name"), "");
        }
        calls.at(index).second += text_of(*call.find("function"), "arguments");
      }
    if (const std::string finish = text_of(choice, "finish_reason"); !finish.empty()) {
      seen.end = finish;
      EXPECT_NE(chunk.find("usage"), nullptr);
    }
  }
  EXPECT_TRUE(done);
  for (const auto& [name, arguments] : calls) seen.calls.push_back(name + "(" + arguments + ")");
  return seen;
}

Seen messages_whole(const Value& message) {
  Seen seen;
  for (const Value& block : message.find("content")->as_array()) {
    const std::string type = text_of(block, "type");
    if (type == "thinking") {
      EXPECT_TRUE(text_of(block, "signature").starts_with("hd1."));
      seen.reasoning += text_of(block, "thinking");
    } else if (type == "text") {
      seen.content += text_of(block, "text");
    } else {
      EXPECT_EQ(type, "tool_use");
      seen.calls.push_back(text_of(block, "name") + "(" + json::dump(*block.find("input")) + ")");
    }
  }
  seen.end = text_of(message, "stop_reason");
  return seen;
}
Seen messages_stream(const std::string& body) {
  Value message;
  json::Array content;
  std::string partial;
  bool stopped = false;
  int64_t open = -1;
  for (const auto& [name, data] : events_of(body)) {
    EXPECT_FALSE(stopped) << "nothing after message_stop";
    const Value event = parse(data);
    EXPECT_EQ(text_of(event, "type"), name);
    if (name == "message_start") {
      EXPECT_TRUE(message.is_null());
      message = *event.find("message");
    } else if (name == "content_block_start") {
      EXPECT_EQ(open, -1) << "blocks are nested";
      open = *event.find("index")->to_int64();
      EXPECT_EQ(static_cast<size_t>(open), content.size());
      content.push_back(*event.find("content_block"));
      partial.clear();
    } else if (name == "content_block_delta") {
      EXPECT_EQ(*event.find("index")->to_int64(), open);
      const Value& delta = *event.find("delta");
      const std::string type = text_of(delta, "type");
      if (type == "input_json_delta") partial += text_of(delta, "partial_json");
      for (const char* key : {"text", "thinking", "signature"})
        if (delta.find(key)) content.back().set(key, text_of(content.back(), key) + text_of(delta, key));
    } else if (name == "content_block_stop") {
      if (text_of(content.back(), "type") == "tool_use")
        content.back().set("input", json::parse(partial).ok() ? parse(partial) : Value("cut"));
      open = -1;
    } else if (name == "message_delta") {
      message.set("stop_reason", *event.find("delta")->find("stop_reason"));
      message.set("usage", *event.find("usage"));
    } else {
      stopped = name == "message_stop";
    }
  }
  EXPECT_TRUE(stopped);
  message.set("content", content);
  return messages_whole(message);
}

Seen responses_whole(const Value& response) {
  Seen seen;
  for (const Value& item : response.find("output")->as_array()) {
    const std::string type = text_of(item, "type");
    if (type == "function_call") {
      seen.calls.push_back(text_of(item, "name") + "(" + text_of(item, "arguments") + ")");
      continue;
    }
    for (const Value& part : item.find("content")->as_array())
      (type == "reasoning" ? seen.reasoning : seen.content) += text_of(part, "text");
  }
  seen.end = text_of(response, "status");
  return seen;
}
// The deltas, and beside them the last event's own account, which must be the same.
Seen responses_stream(const std::string& body) {
  Seen told;
  Value last;
  int64_t sequence = 0;
  for (const auto& [name, data] : events_of(body)) {
    const Value event = parse(data);
    EXPECT_EQ(text_of(event, "type"), name);
    EXPECT_EQ(*event.find("sequence_number")->to_int64(), sequence++);
    if (name == "response.reasoning_text.delta") told.reasoning += text_of(event, "delta");
    if (name == "response.output_text.delta") told.content += text_of(event, "delta");
    if (name == "response.output_item.added" && text_of(*event.find("item"), "type") == "function_call")
      told.calls.push_back(text_of(*event.find("item"), "name") + "(");
    if (name == "response.function_call_arguments.delta") told.calls.back() += text_of(event, "delta");
    if (const Value* response = event.find("response")) last = *response;
  }
  for (std::string& call : told.calls) call += ")";
  told.end = text_of(last, "status");
  EXPECT_EQ(told, responses_whole(last));
  return told;
}

Seen whole(const Case& c, Wire wire) {
  const std::string body = answer_of(c, wire, false);
  return wire == Wire::kChat       ? chat_whole(body)
         : wire == Wire::kMessages ? messages_whole(parse(body))
                                   : responses_whole(parse(body));
}
Seen streamed(const Case& c, Wire wire) {
  const std::string body = answer_of(c, wire, true);
  EXPECT_EQ(body.find("DSML"), std::string::npos) << body;
  return wire == Wire::kChat       ? chat_stream(body)
         : wire == Wire::kMessages ? messages_stream(body)
                                   : responses_stream(body);
}

const std::string kCalls =
    "\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"f\">\n<｜DSML｜parameter name=\"a\" "
    "string=\"true\">x \"y\"</｜DSML｜parameter>\n<｜DSML｜parameter name=\"n\" "
    "string=\"false\">12</｜DSML｜parameter>\n</｜DSML｜invoke>\n<｜DSML｜invoke "
    "name=\"f\">\n\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>";

TEST(Reply, AStreamIsTheWholeAnswerInEveryFormat) {
  const std::string ends[3][4] = {{"stop", "length", "tool_calls", "stop"},
                                  {"end_turn", "max_tokens", "tool_use", "stop_sequence"},
                                  {"completed", "incomplete", "completed", "completed"}};
  for (size_t w = 0; w < 3; ++w) {
    const Wire wire = kWires[w];
    SCOPED_TRACE(w);
    const auto check = [&](const Case& c, const Seen& expected) {
      EXPECT_EQ(whole(c, wire), expected) << c.text;
      EXPECT_EQ(streamed(c, wire), expected) << c.text;
    };
    check({.text = "why not</think>because ä 漢 😀"}, {"why not", "because ä 漢 😀", ends[w][0], {}});
    check({.text = "hello", .thinking = false}, {"", "hello", ends[w][0], {}});
    check({.text = "", .thinking = false}, {"", "", ends[w][0], {}});
    check({.text = "never closed"}, {"never closed", "", ends[w][0], {}});
    check({.text = "a</think>cut", .finish = engine::Finish::kLength}, {"a", "cut", ends[w][1], {}});
    check({.text = "t</think>look" + kCalls}, {"t", "look", ends[w][2], {R"(f({"a": "x \"y\"", "n": 12}))", "f({})"}});
    check({.text = "t</think>" + kCalls}, {"t", "", ends[w][2], {R"(f({"a": "x \"y\"", "n": 12}))", "f({})"}});
    check({.text = "t</think>one STOP two", .stop = {"STOP"}}, {"t", "one ", ends[w][3], {}});
    check({.text = "t</think>look" + kCalls, .offers_tools = false}, {"t", "look", ends[w][0], {}});
  }
}

TEST(Reply, ALengthDropsOnlyTheCallThatItCut) {
  const size_t second = kCalls.find("<｜DSML｜invoke", kCalls.find("<｜DSML｜invoke") + 1);
  const Case c{.text = "t</think>" + kCalls.substr(0, second + 40), .finish = engine::Finish::kLength};
  const std::vector<std::string> first = {R"(f({"a": "x \"y\"", "n": 12}))"};
  for (const Wire wire : kWires) EXPECT_EQ(whole(c, wire).calls, first);
  EXPECT_EQ(whole(c, Wire::kChat).end, "length");
  EXPECT_EQ(whole(c, Wire::kMessages).end, "max_tokens");
}

TEST(Reply, LogprobsAreOfTextOnly) {
  const auto logged = [](const Case& c, bool stream) {
    const std::string body = answer_of(c, Wire::kChat, stream, {}, true);
    std::string reasoning, content;
    const auto add = [&](const Value& choice) {
      const Value* logprobs = choice.find("logprobs");
      if (!logprobs || logprobs->is_null()) return;
      for (const auto& [key, into] : {std::pair{"reasoning_content", &reasoning}, std::pair{"content", &content}})
        if (const Value* list = logprobs->find(key); list && list->is_array())
          for (const Value& entry : list->as_array()) *into += text_of(entry, "token");
    };
    if (!stream) add(parse(body).find("choices")->as_array().at(0));
    if (stream)
      for (const auto& [name, data] : events_of(body))
        if (data != "[DONE]") add(parse(data).find("choices")->as_array().at(0));
    return reasoning + "|" + content;
  };
  for (const bool stream : {false, true}) {
    EXPECT_EQ(logged({.text = "why</think>so it is"}, stream), "why|so it is");
    EXPECT_EQ(logged({.text = "why</think>look" + kCalls}, stream), "why|look");
    EXPECT_EQ(logged({.text = "why</think>one STOP two", .stop = {"STOP"}}, stream), "why|one ");
    EXPECT_EQ(logged({.text = "a\n\nb", .thinking = false}, stream), "|a\n\nb");
  }
}

TEST(Reply, AFailureIsToldInEveryFormat) {
  const Status busy = Error{Code::kBusy, "busy"};
  for (const Wire wire : kWires) {
    const std::string before = answer_of({.text = "", .thinking = false}, wire, true, busy);
    EXPECT_NE(before.find("overloaded"), std::string::npos) << before;
    const std::string within = answer_of({.text = "hello", .thinking = false}, wire, true, busy);
    EXPECT_NE(within.find("overloaded"), std::string::npos) << within;
    EXPECT_EQ(within.find("[DONE]"), std::string::npos);
    EXPECT_EQ(within.find("message_stop"), std::string::npos);
    EXPECT_EQ(within.find("response.completed"), std::string::npos);
  }
}

TEST(Reply, AResponseGivesToolsBackUnderTheNamesThatItsClientKnows) {
  const auto body = json::parse(R"({"model":"hadal-nano","input":"x","tools":[
    {"type":"namespace","name":"agents","tools":[{"type":"function","name":"wait","parameters":{}}]},
    {"type":"custom","name":"apply_patch"},{"type":"web_search"}]})");
  auto read = read_responses_request(body.value(), {});
  ASSERT_TRUE(std::holds_alternative<ResponsesRequest>(read));
  auto request = std::get<ResponsesRequest>(std::move(read));
  ASSERT_EQ(request.turn.tools.size(), 2u);
  EXPECT_EQ(text_of(request.turn.tools[0], "name"), "agents__wait");
  const auto format = responses_format(request.turn, {&tokenizer(), "", ""}, request.echo);
  Answer answer;
  answer.calls = {{"call_00_x", "agents__wait", R"({"a": 1})", true},
                  {"call_01_x", "apply_patch", R"({"input": "*** Begin"})", true}};
  answer.ending = Ending::kToolCalls;
  const Value whole = parse(format->whole(answer));
  const json::Array& output = whole.find("output")->as_array();
  EXPECT_EQ(text_of(output.at(0), "name"), "wait");
  EXPECT_EQ(text_of(output.at(0), "namespace"), "agents");
  EXPECT_EQ(text_of(output.at(1), "type"), "custom_tool_call");
  EXPECT_EQ(text_of(output.at(1), "input"), "*** Begin");
}

// Reasoning tokens of usage, and the text of the logprobs' entries: reasoning, "|", content.
std::pair<int64_t, std::string> counted(const Case& c) {
  const Value all = parse(answer_of(c, Wire::kChat, false, {}, true));
  const Value& details = *all.find("usage")->find("completion_tokens_details");
  const Value& logprobs = *all.find("choices")->as_array().at(0).find("logprobs");
  std::string text;
  for (const char* key : {"reasoning_content", "content"}) {
    if (const Value* list = logprobs.find(key); list && list->is_array())
      for (const Value& entry : list->as_array())
        for (const Value& byte : entry.find("bytes")->as_array()) text += static_cast<char>(*byte.to_int64());
    if (*key == 'r') text += '|';
  }
  return {*details.find("reasoning_tokens")->to_int64(), text};
}

TEST(Reply, CallsInTheReasoningAreNoReasoning) {
  const std::string block =
      "\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"f\">\n\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>";
  const int64_t plain = counted({.text = "hm"}).first;
  EXPECT_EQ(counted({.text = "hm" + block}).first, plain);
  EXPECT_EQ(counted({.text = "hm" + block}).second, "hm|");
  EXPECT_GT(counted({.text = "hm" + block + " is how"}).first, plain);  // a quotation is
}

TEST(Reply, LogprobsStayWithTheirTextBesideMarkup) {
  EXPECT_EQ(counted({.text = "a <｜DSML｜nonsense x=\"y\"> b</think>c </｜DSML｜stray> d"}).second, "a  b|c  d");
  EXPECT_EQ(counted({.text = "a</think>b", .stop = {"bx"}}).second, "a|b");
  EXPECT_EQ(counted({.text = "a</think>1X2", .stop = {"X"}}).second, "a|1");
  EXPECT_EQ(counted({.text = "a</think>b<think>c</think>d", .stop = {"bd"}}).second, "ac|bd");
  EXPECT_EQ(counted({.text = "\u20ac</think>\u20ac!"}).second, "\u20ac|\u20ac!");
}

TEST(Reply, WhatTheEngineGaveUpSaysSo) {
  const Status gave_up = Error{Code::kUnsupported, "no token is allowed at position 3"};
  const Case c{.text = "hm</think>so far"};
  const Value whole = parse(answer_of(c, Wire::kChat, false, gave_up));
  const Value& choice = whole.find("choices")->as_array().at(0);
  EXPECT_EQ(text_of(choice, "finish_reason"), "insufficient_system_resource");
  EXPECT_EQ(text_of(*choice.find("message"), "content"), "so far");
  EXPECT_EQ(chat_stream(answer_of(c, Wire::kChat, true, gave_up)).end, "insufficient_system_resource");
  EXPECT_EQ(text_of(*parse(answer_of(c, Wire::kMessages, false, gave_up)).find("error"), "type"), "api_error");
}

// Whoever has something of an answer owes it, however it ended.
TEST(Reply, OnlyWhatDeliveredNothingIsFree) {
  const auto charged = [](const std::string& text, Wire wire, bool stream, const Status& status) {
    std::string said;
    answer_of({.text = text, .thinking = false}, wire, stream, status, false,
              [&](const Answer& answer, const char* ending, bool is_owed, const Timing&) -> std::optional<PicoUsd> {
                said += fmt::format("{} {} {}", ending, answer.tokens, is_owed ? "owed" : "free");
                return std::nullopt;
              });
    return said;
  };
  const Error gave_up{Code::kUnsupported, "no token is allowed"}, failed{Code::kIo, "a step failed"},
      left{Code::kCancelled, "cancelled"};
  EXPECT_EQ(charged("hey", Wire::kChat, false, {}), "stop 3 owed");
  EXPECT_EQ(charged("hey", Wire::kChat, false, gave_up), "error 3 owed");
  EXPECT_EQ(charged("hey", Wire::kChat, true, gave_up), "error 3 owed");
  EXPECT_EQ(charged("", Wire::kChat, false, gave_up), "error 0 free");
  for (const Wire wire : kWires) {
    EXPECT_EQ(charged("hey", wire, true, failed), "error 3 owed");
    EXPECT_EQ(charged("hey", wire, false, failed), "error 3 free");  // it came as 500
    EXPECT_EQ(charged("", wire, true, failed), "error 0 free");
    EXPECT_EQ(charged("hey", wire, false, left), "cancelled 3 owed");  // of its own will
  }
  EXPECT_EQ(charged("hey", Wire::kMessages, false, gave_up), "error 3 free");
  EXPECT_EQ(charged("hey", Wire::kMessages, true, gave_up), "error 3 owed");
}

}  // namespace
}  // namespace hadal::serve
