// What a loaded server answers is what the engine alone and `hadal run` answer, token for token.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <set>
#include <thread>

#include "base/json.h"
#include "engine/batch.h"
#include "tests/support/http_client.h"
#include "tests/support/model_server.h"
#include "text/templates.h"

namespace hadal {
namespace {

struct Question {
  std::string text;
  bool thinks = false;
  uint64_t seed = 0;
  double temperature = 1, top_p = 1;
};
constexpr int64_t kMostTokens = 60;

std::vector<Question> questions() {
  const char* texts[] = {"What is 23 + 48?", "Repeat: blue stone river",    "Tell me a story about a fox.",
                         "Hello!",           "Sort these numbers: 9 4 7 1", "What can you do?"};
  std::vector<Question> all;
  for (uint64_t i = 0; i < 24; ++i)
    all.push_back({.text = texts[i % 6],
                   .thinks = i % 2 == 1,
                   .seed = 1000 + 7 * i,
                   .temperature = i % 3 == 0 ? 0.7 : 1.1,
                   .top_p = i % 4 == 0 ? 0.96 : 1});
  return all;
}

// The tokens that show: reasoning, "|", content.
using Shown = std::vector<std::string>;

Shown of_engine(engine::Engine& engine, const text::Tokenizer& tokenizer, text::Encoding encoding, const Question& q) {
  text::EncodeOptions options;
  options.encoding = encoding;
  options.thinking_mode = q.thinks ? "thinking" : "chat";
  if (q.thinks) options.reasoning_effort = "high";
  const auto prompt = text::encode_prompt(json::Array{json::Object{{"role", "user"}, {"content", q.text}}}, options);
  engine::Batch batch(engine);
  const int id = batch
                     .add({.prompt = tokenizer.encode(std::get<text::EncodedPrompt>(prompt).text),
                           .start = {},
                           .sampling = {.temperature = static_cast<float>(q.temperature),
                                        .top_p = static_cast<float>(q.top_p),
                                        .seed = q.seed},
                           .max_tokens = kMostTokens})
                     .value();
  std::vector<engine::Event> events;
  while (!batch.empty()) EXPECT_TRUE(batch.step(events).ok());
  Shown shown;
  if (!q.thinks) shown.push_back("|");
  for (const TokenId token : batch.take(id).completion.tokens) {
    const std::string piece(tokenizer.piece(token));
    if (piece == text::kThinkClose && q.thinks) shown.push_back("|");
    if (tokenizer.is_added(token)) {
      EXPECT_EQ(piece, text::kThinkClose);
    } else {
      shown.push_back(piece);
    }
  }
  if (std::find(shown.begin(), shown.end(), "|") == shown.end()) shown.push_back("|");
  return shown;
}

void add_entries(const json::Value* list, Shown& shown) {
  if (!list || !list->is_array()) return;
  for (const json::Value& entry : list->as_array()) {
    std::string piece;
    for (const json::Value& byte : entry.find("bytes")->as_array()) piece += static_cast<char>(*byte.to_int64());
    shown.push_back(piece);
  }
}

Shown of_server(uint16_t port, const Question& q, bool stream) {
  const auto answer = testing::talk(
      port, testing::post_request(
                "/v1/chat/completions",
                json::dump(json::Object{{"model", "hadal-nano"},
                                        {"messages", json::Array{json::Object{{"role", "user"}, {"content", q.text}}}},
                                        {"thinking", json::Object{{"type", q.thinks ? "enabled" : "disabled"}}},
                                        {"seed", static_cast<int64_t>(q.seed)},
                                        {"temperature", q.temperature},
                                        {"top_p", q.top_p},
                                        {"max_tokens", kMostTokens},
                                        {"logprobs", true},
                                        {"stream", stream}})));
  EXPECT_EQ(answer.status, 200) << answer.body;
  std::vector<std::string> pieces;
  if (stream) {
    for (const auto& event : testing::events_of(answer.body)) pieces.push_back(event.data);
  } else {
    pieces.push_back(answer.body);
  }
  Shown reasoning, content;
  for (const std::string& piece : pieces) {
    const auto parsed = json::parse(piece);
    if (!parsed.ok()) continue;  // [DONE]
    const json::Value& logprobs = *parsed.value().find("choices")->as_array().at(0).find("logprobs");
    add_entries(logprobs.find("reasoning_content"), reasoning);
    add_entries(logprobs.find("content"), content);
  }
  reasoning.push_back("|");
  reasoning.insert(reasoning.end(), content.begin(), content.end());
  return reasoning;
}

std::string of_program(const Question& q) {
  const std::string command = fmt::format(
      "{} run -m {} --think {} --seed {} --temp {} --top-p {} -n {} -p '{}' 2>/dev/null", HADAL_PROGRAM,
      testing::kShippedModel, q.thinks ? "high" : "off", q.seed, q.temperature, q.top_p, kMostTokens, q.text);
  std::string text;
  FILE* pipe = popen(command.c_str(), "r");
  char buffer[4096];
  while (const size_t n = fread(buffer, 1, sizeof buffer, pipe)) text.append(buffer, n);
  EXPECT_EQ(pclose(pipe), 0) << command;
  return text;
}

TEST(Serving, ALoadedServerAnswersAsTheEngineAlone) {
  const std::vector<Question> all = questions();
  const auto tokenizer = text::Tokenizer::load(testing::kShippedModel).value();
  const auto encoding = text::encoding_of_checkpoint(testing::kShippedModel).value();
  const auto engine = engine::Engine::open({.model = testing::kShippedModel, .threads = 1}).value();
  const testing::ModelServer server;
  std::vector<Shown> served(all.size());
  std::vector<std::thread> threads;
  for (size_t i = 0; i < all.size(); ++i)
    threads.emplace_back([&, i] { served[i] = of_server(server.port(), all[i], i % 4 < 2); });
  for (std::thread& thread : threads) thread.join();
  std::set<std::string> different;
  for (size_t i = 0; i < all.size(); ++i) {
    EXPECT_EQ(served[i], of_engine(*engine, tokenizer, encoding, all[i])) << all[i].text << ", seed " << all[i].seed;
    different.insert(fmt::format("{}", fmt::join(served[i], "")));
    if (i % 8 >= 2) continue;
    std::string content;
    for (auto it = std::find(served[i].begin(), served[i].end(), "|") + 1; it != served[i].end(); ++it) content += *it;
    EXPECT_EQ(content, of_program(all[i]));
  }
  EXPECT_GT(different.size(), all.size() / 2);  // it does sample
}

}  // namespace
}  // namespace hadal
