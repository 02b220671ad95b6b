#include "base/json.h"

#include <gtest/gtest.h>

#include <fmt/format.h>

#include <cmath>
#include <random>

namespace hadal::json {
namespace {

TEST(Json, PrintsWhatPythonPrints) {
  const std::pair<const char*, const char*> cases[] = {
      {"1e3", "1000.0"},
      {"1e16", "1e+16"},
      {"1e-5", "1e-05"},
      {"0.0001", "0.0001"},
      {"1e22", "1e+22"},
      {"2.50", "2.5"},
      {"-0", "0"},
      {"-0.0", "-0.0"},
      {"1E400", "Infinity"},
      {"-1e999", "-Infinity"},
      {"1e-400", "0.0"},
      {"NaN", "NaN"},
      {"-Infinity", "-Infinity"},
      {"123456789012345678901234567890", "123456789012345678901234567890"},
      {"1e15", "1000000000000000.0"},
      {"5e-324", "5e-324"},
      {"0.1", "0.1"},
      {"100", "100"},
      {"[1,2 , 3]", "[1, 2, 3]"},
      {"{\"b\":1,\"a\":{}}", "{\"b\": 1, \"a\": {}}"},
      {"{\"a\":1,\"b\":2,\"a\":3}", "{\"a\": 3, \"b\": 2}"},
      {"\"\\u00e9\\/\\u001f\\u007f\\n\"", "\"é/\\u001f\x7f\\n\""},
      {"\"\\ud83d\\ude42\"", "\"🙂\""},
      {" \n\t true ", "true"},
      {"null", "null"},
      {"[]", "[]"}};
  for (const auto& [text, printed] : cases) {
    const auto value = parse(text);
    ASSERT_TRUE(value.ok()) << text << ": " << value.error().message;
    EXPECT_EQ(dump(value.value()), printed) << text;
  }
  EXPECT_EQ(dump(parse("\"é🙂\"").value(), {.ascii = true}), "\"\\u00e9\\ud83d\\ude42\"");
  EXPECT_EQ(dump(parse("\"\\ud800x\"").value(), {.ascii = true}), "\"\\ud800x\"");
  // A line for another program is UTF-8: half a pair stays an escape, even as a key, and comes back.
  const Value half = parse("{\"\\udc00\": \"é\\ud800\\ud83d\\ude42\"}").value();
  EXPECT_EQ(dump(half, kCompact), "{\"\\udc00\":\"é\\ud800🙂\"}");
  EXPECT_EQ(parse(dump(half, kCompact)).value(), half);
}

TEST(Json, RefusesWhatPythonRefuses) {
  for (const std::string text : {"",
                                 "{",
                                 "[1,]",
                                 "{\"a\":}",
                                 "{a:1}",
                                 "01",
                                 "+1",
                                 "1.",
                                 ".5",
                                 "'a'",
                                 "\"a",
                                 "\"\n\"",
                                 "\"\\x\"",
                                 "\"\\u12g4\"",
                                 "tru",
                                 "1 2",
                                 "[1 2]",
                                 "\xEF\xBB\xBF{}",
                                 "\"\xFF\"",
                                 "\"\xC0\x80\"",
                                 "\"\xED\xA0\x80\"",
                                 "nan",
                                 "Infinity1",
                                 "{\"a\":1,}",
                                 "--1"})
    EXPECT_FALSE(parse(text).ok()) << text;
  EXPECT_FALSE(parse(std::string(100000, '[')).ok());
  for (const int depth : {900, 901, 902}) {
    const std::string text =
        std::string(static_cast<size_t>(depth), '[') + std::string(static_cast<size_t>(depth), ']');
    EXPECT_EQ(parse(text).ok(), depth <= kMaxDepth + 1) << depth;
    if (depth <= kMaxDepth) {
      EXPECT_EQ(dump(parse(text).value()), text);
    }
  }
  EXPECT_FALSE(parse("{\"a\":1,\"a\":1}", Duplicates::kReject).ok());
  EXPECT_NE(parse("[1,\n x]").error().message.find("byte 5"), std::string::npos);
}

TEST(Json, ManyKeysKeepOrderAndTheLastValue) {
  std::string text = "{";
  for (int i = 0; i < 5000; ++i) text += fmt::format("{}\"k{}\": {}", i ? "," : "", i % 3000, i);
  const auto value = parse(text + "}");
  ASSERT_TRUE(value.ok());
  ASSERT_EQ(value.value().as_object().size(), 3000u);
  EXPECT_EQ(value.value().as_object()[7].first, "k7");
  EXPECT_EQ(value.value().find("k7")->to_int64(), 3007);
  EXPECT_EQ(value.value().find("k2999")->to_int64(), 2999);
  EXPECT_FALSE(parse(text + "}", Duplicates::kReject).ok());
}

Value random_value(std::mt19937_64& random, int depth) {
  switch (random() % (depth > 3 ? 5 : 7)) {
    case 0:
      return Value();
    case 1:
      return Value(random() % 2 == 0);
    case 2:
      return Value(static_cast<int64_t>(random()));
    case 3:
      return Value(
          std::ldexp(static_cast<double>(static_cast<int64_t>(random())), static_cast<int>(random() % 200) - 150));
    case 4: {
      std::string text;
      for (uint64_t i = 0; i < random() % 8; ++i) text += std::string("a\n\"\\\x01é🙂/ ").substr(random() % 5, 1);
      return Value(text);
    }
    case 5: {
      Array items;
      for (uint64_t i = 0; i < random() % 5; ++i) items.push_back(random_value(random, depth + 1));
      return Value(std::move(items));
    }
    default: {
      Object members;
      for (uint64_t i = 0; i < random() % 5; ++i)
        members.emplace_back("k" + std::to_string(i), random_value(random, depth + 1));
      return Value(std::move(members));
    }
  }
}

TEST(Json, RandomValuesComeBack) {
  for (uint64_t seed = 0; seed < 2000; ++seed) {
    std::mt19937_64 random(seed);
    const Value value = random_value(random, 0);
    for (const Style& style : {Style{}, kCompact, Style{.ascii = true}, Style{.indent = 2}}) {
      const auto back = parse(dump(value, style));
      ASSERT_TRUE(back.ok()) << seed << dump(value, style);
      EXPECT_EQ(back.value(), value) << seed;
    }
  }
}

}  // namespace
}  // namespace hadal::json
