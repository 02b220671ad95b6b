// Constraints from a request's fields to the tokens of an answer: what is asked for is what comes, whatever the model
// would write (here letters at random, or nothing but the lowest token), and a suspended answer goes on as it was.

#include "serve/constraints.h"

#include <gtest/gtest.h>

#include <random>

#include "engine/batch.h"
#include "serve/chat_request.h"
#include "tests/support/fake_decoder.h"
#include "text/parse_completion.h"
#include "text/templates.h"
#include "text/tokenizer_json.h"

namespace hadal::serve {
namespace {

using testing::FakeDecoder;

const text::Tokenizer& tokenizer() {
  static const text::Tokenizer kTokenizer =
      text::Tokenizer::parse(json::dump(text::tokenizer_json({}, false)), "bytes").value();
  return kTokenizer;
}

json::Value parse(const std::string& text) {
  auto value = json::parse(text);
  EXPECT_TRUE(value.ok()) << text;
  return value.ok() ? std::move(value).value() : json::Value();
}

constexpr char kTools[] =
    R"("tools":[{"type":"function","function":{"name":"f","strict":true,"parameters":{"type":"object","properties":{
        "unit":{"enum":["C","F"]},"days":{"type":"integer","minimum":1,"maximum":9}},"required":["unit","days"],
        "additionalProperties":false}}},{"type":"function","function":{"name":"g","parameters":{"type":"object"}}}])";
constexpr char kSchema[] =
    R"("response_format":{"type":"json_schema","json_schema":{"name":"n","strict":true,"schema":{"type":"object",
        "properties":{"a":{"enum":["x","y"]},"b":{"type":"array","items":{"type":"boolean"},"maxItems":3}},
        "required":["a","b"],"additionalProperties":false}}})";

Turn turn_of(const std::string& more, const std::string& last = R"({"role":"user","content":"A"})") {
  auto read = read_chat_request(
      parse(R"({"model":"hadal-nano","thinking":{"type":"disabled"},"messages":[)" + last + "]," + more + "}"), {});
  if (const auto* error = std::get_if<ApiError>(&read)) ADD_FAILURE() << error->message;
  return std::get<Turn>(std::move(read));
}

std::variant<Demand, ApiError> demand_of(const Turn& turn, bool thinking_open = false) {
  static Constraints constraints(tokenizer(), {*tokenizer().id_of(text::kEos)});
  Prompt prompt;
  prompt.thinking_open = thinking_open;
  return constraints.of(turn, prompt);
}
std::string refusal(const Turn& turn) {
  const auto demanded = demand_of(turn);
  const auto* error = std::get_if<ApiError>(&demanded);
  return error ? error->message : "";
}

// An answer under the turn's constraint. suspended: it is now and then.
std::string answer(const Turn& turn, uint64_t seed, float temperature, bool suspended, bool thinking_open = false) {
  auto demanded = demand_of(turn, thinking_open);
  EXPECT_TRUE(std::holds_alternative<Demand>(demanded));
  FakeDecoder decoder(tokenizer().size(), 100000);
  engine::Batch batch(decoder);
  engine::Request request;
  request.prompt = {5, 6, 7};
  request.sampling.temperature = temperature;
  request.sampling.seed = seed;
  request.sampling.n_logprobs = 0;
  request.max_tokens = 4000;
  request.constraint = std::get<Demand>(demanded).constraint;
  EXPECT_TRUE(request.constraint);
  const int id = batch.add(std::move(request)).value();
  std::mt19937_64 random(seed);
  std::vector<engine::Event> events;
  std::vector<TokenId> ids;
  while (!batch.empty()) {
    if (suspended && random() % 5 == 0) {
      batch.suspend(id);
      batch.resume(id);
    }
    EXPECT_TRUE(batch.step(events).ok());
    for (const engine::Event& event : events) {
      EXPECT_TRUE(event.error.ok()) << event.error.error().message;
      if (event.kind != engine::Event::Kind::kToken) continue;
      ids.push_back(event.choice.token);
      EXPECT_GT(event.choice.logprob, -20);  // of the model, in which no token is impossible
      EXPECT_LE(event.choice.logprob, 0);
    }
  }
  EXPECT_EQ(batch.take(id).completion.finish, engine::Finish::kStop);
  return tokenizer().decode(ids);
}

TEST(Constraints, JsonComesAsItWasAskedFor) {
  const Turn schema = turn_of(kSchema);
  for (uint64_t seed = 0; seed < 12; ++seed) {
    const float temperature = seed == 0 ? 0.0f : 1.0f;
    const std::string text = answer(schema, seed, temperature, false);
    const json::Value value = parse(text);
    ASSERT_TRUE(value.find("a") && value.find("b") && value.as_object().size() == 2) << text;
    EXPECT_TRUE(value.find("a")->as_string() == "x" || value.find("a")->as_string() == "y");
    EXPECT_LE(value.find("b")->as_array().size(), 3u);
    EXPECT_EQ(answer(schema, seed, temperature, true), text) << "suspended";
  }
  const Turn object = turn_of(R"("response_format":{"type":"json_object"})");
  for (uint64_t seed = 1; seed < 6; ++seed) EXPECT_TRUE(parse(answer(object, seed, 1.5f, false)).is_object());
}

TEST(Constraints, ThinkingIsFreeAndTheAnswerIsNot) {
  const Turn schema = turn_of(kSchema);
  for (uint64_t seed = 1; seed < 6; ++seed) {
    const std::string text = answer(schema, seed, 3.0f, false, true);
    const auto parsed = text::parse_completion(text + text::kEos, true);
    const auto* message = std::get_if<text::AssistantMessage>(&parsed);
    ASSERT_TRUE(message) << text;
    EXPECT_TRUE(parse(message->content).find("a"));
    EXPECT_GT(message->reasoning.size(), 0u);
  }
}

TEST(Constraints, ForcedToolsAreCalled) {
  const auto calls_of = [&](const std::string& more, uint64_t seed, float temperature) {
    const std::string text = answer(turn_of(std::string(kTools) + more), seed, temperature, seed % 2 == 0);
    const auto parsed = text::parse_completion(text + text::kEos, false);
    const auto* message = std::get_if<text::AssistantMessage>(&parsed);
    EXPECT_TRUE(message) << text;
    return message ? message->tool_calls : std::vector<text::ToolCall>{};
  };
  for (uint64_t seed = 0; seed < 8; ++seed) {
    const auto named =
        calls_of(R"(,"tool_choice":{"type":"function","function":{"name":"f"}})", seed, seed == 0 ? 0.0f : 1.0f);
    ASSERT_EQ(named.size(), 1u);
    EXPECT_EQ(named[0].name, "f");
    const json::Value arguments = parse(named[0].arguments);
    ASSERT_TRUE(arguments.find("unit") && arguments.find("days")) << named[0].arguments;
    const int64_t days = arguments.find("days")->to_int64().value_or(0);
    EXPECT_TRUE(days >= 1 && days <= 9);
  }
}

TEST(Constraints, WhatIsAskedForAndWhatIsLeftFree) {
  const auto constrained = [](const Turn& turn) {
    auto demanded = demand_of(turn);
    EXPECT_TRUE(std::holds_alternative<Demand>(demanded));
    return std::get<Demand>(demanded).constraint;
  };
  const auto accepts = [&](const Turn& turn, const std::string& text) {
    const auto constraint = constrained(turn);
    auto& matcher = dynamic_cast<constrain::Matcher&>(*constraint);
    for (const TokenId id : tokenizer().encode(text)) matcher.accept(id);
    return matcher.may_end();
  };
  EXPECT_EQ(constrained(turn_of(R"("stop":"x")")), nullptr);
  EXPECT_EQ(constrained(turn_of(std::string(kTools) + R"(,"tool_choice":"none")")), nullptr);
  const std::string f =
      "<｜DSML｜invoke name=\"f\">\n<｜DSML｜parameter name=\"unit\" string=\"true\">C</｜DSML｜parameter>\n"
      "<｜DSML｜parameter name=\"days\" string=\"false\">3</｜DSML｜parameter>\n</｜DSML｜invoke>";
  const std::string g =
      "<｜DSML｜invoke name=\"g\">\n<｜DSML｜parameter name=\"any\" string=\"false\">[1]</｜DSML｜parameter>\n"
      "</｜DSML｜invoke>";
  const auto calls = [](const std::string& inside) {
    return "\n\n<｜DSML｜tool_calls>\n" + inside + "\n</｜DSML｜tool_calls>";
  };
  const Turn free = turn_of(kTools), required = turn_of(std::string(kTools) + R"(,"tool_choice":"required")"),
             one = turn_of(std::string(kTools) + R"(,"parallel_tool_calls":false)"),
             named = turn_of(std::string(kTools) + R"(,"tool_choice":{"type":"function","name":"g"})"),
             with_json = turn_of(std::string(kTools) + "," + kSchema);
  EXPECT_TRUE(accepts(free, "Hello"));
  EXPECT_TRUE(accepts(free, "Hello" + calls(f + "\n" + g)));
  EXPECT_FALSE(accepts(required, "Hello"));
  EXPECT_TRUE(accepts(required, calls(f + "\n" + g)));
  EXPECT_TRUE(accepts(one, "Hello" + calls(g)));
  EXPECT_FALSE(accepts(one, calls(f + "\n" + g)));
  EXPECT_TRUE(accepts(named, calls(g)));
  EXPECT_FALSE(accepts(named, calls(f)));
  EXPECT_FALSE(accepts(named, calls(g + "\n" + g)));
  EXPECT_TRUE(accepts(with_json, R"({"a": "x", "b": []})"));
  EXPECT_TRUE(accepts(with_json, calls(f)));
  EXPECT_FALSE(accepts(with_json, "Hello"));
  EXPECT_FALSE(accepts(free, calls("<｜DSML｜invoke name=\"h\">\n\n</｜DSML｜invoke>")));
}

TEST(Constraints, RefusalsAndWhatIsIgnored) {
  const auto format = [](const std::string& schema, bool strict) {
    return turn_of(R"("response_format":{"type":"json_schema","json_schema":{"name":"n","strict":)" +
                   std::string(strict ? "true" : "false") + R"(,"schema":)" + schema + "}}");
  };
  EXPECT_EQ(refusal(format(R"({"type":"string","not":{}})", true)),
            "Invalid response_format schema : /: not is not supported");
  EXPECT_NE(refusal(format(R"({"type":"integer","minimum":2,"maximum":1})", false)).find("no value fits"),
            std::string::npos);
  EXPECT_EQ(refusal(turn_of(R"("tools":[{"function":{"name":"f","strict":true,"parameters":{"type":"object",
      "properties":{"a":{"type":"string","contentX":1}},"required":["a"],"additionalProperties":false}}}])")),
            "Invalid tool parameters schema : f: /properties/a: contentX is not supported");
  const auto ignored = [&](const std::string& schema) {
    return std::get<Demand>(demand_of(format(schema, false))).ignored;
  };
  EXPECT_EQ(ignored(R"({"type":"array","uniqueItems":true})"), std::vector<std::string>{"/uniqueItems"});
  EXPECT_EQ(ignored(R"({"$ref":"http://x"})").size(), 1u);
  // A prefix is the beginning of the answer.
  const auto begun = [](const std::string& prefix) {
    return turn_of(kSchema, R"({"role":"user","content":"A"},{"role":"assistant","prefix":true,"content":)" +
                                json::quote(prefix) + "}");
  };
  EXPECT_EQ(refusal(begun("{\"a\":")), "");
  EXPECT_NE(refusal(begun("Sure: ")).find("Invalid prefix"), std::string::npos);
}

}  // namespace
}  // namespace hadal::serve
