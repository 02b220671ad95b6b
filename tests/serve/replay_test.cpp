// Answers that come back as text are continued as they were sampled.

#include "serve/replay.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <thread>

#include "serve/server.h"
#include "tests/support/byte_tokenizer.h"
#include "tests/support/fake_decoder.h"
#include "tests/support/fast_disk.h"
#include "tests/support/http_client.h"
#include "tests/support/scripted_decoder.h"
#include "tests/support/shared.h"

namespace hadal::serve {
namespace {

Digest digest(char c) { return sha256(std::string(1, c)); }

TEST(ReplayMemory, FindsByCallAndByPromptWithinASpaceAndForgetsTheOldest) {
  ReplayMemory memory(nullptr, 0, 20'000);
  memory.remember("a", digest('1'), {"why", "text ", {{"call_1", "read", "{}"}, {"call_2", "read", "{}"}}, 7, {1, 2}});
  ASSERT_TRUE(memory.of_call("a", "call_2"));
  EXPECT_EQ(memory.of_call("a", "call_2")->ids, (std::vector<TokenId>{1, 2}));
  EXPECT_TRUE(memory.after("a", digest('1'), " text\n"));
  EXPECT_FALSE(memory.after("a", digest('1'), "texts"));
  EXPECT_FALSE(memory.after("a", digest('2'), "text"));
  EXPECT_FALSE(memory.of_call("b", "call_1"));
  EXPECT_FALSE(memory.of_call("a", ""));
  EXPECT_FALSE(memory.after("b", digest('1'), "text"));
  for (int i = 0; i < 100; ++i) memory.remember("a", digest('3'), {"", std::to_string(i), {}, 7, {1}});
  EXPECT_FALSE(memory.of_call("a", "call_1"));
  EXPECT_TRUE(memory.after("a", digest('3'), "99"));
  EXPECT_FALSE(memory.after("a", digest('3'), "1"));
  // What is asked for stays.
  memory.remember("a", digest('4'), {"", "kept", {}, 7, {1}});
  for (int i = 0; i < 300; ++i) {
    memory.remember("a", digest('5'), {"", std::to_string(i), {}, 7, {1}});
    ASSERT_TRUE(memory.after("a", digest('4'), "kept"));
  }
}

std::unique_ptr<cache::Store> open_store(const std::string& directory, engine::Decoder& decoder,
                                         const std::string& fingerprint = "f", int64_t budget = 1 << 30) {
  return cache::Store::open({.directory = directory,
                             .budget = budget,
                             .identity = {.model = "fake", .fingerprint = fingerprint, .arithmetic = 1},
                             .layout = std::make_shared<const kv::Layout>(decoder.new_sequence().layout()),
                             .disk = &testing::fast_disk()})
      .value();
}

TEST(ReplayMemory, IsThereAgainAfterARestartAndAtAnotherServer) {
  testing::FakeDecoder decoder(64, 1000);
  const std::string directory = testing::temp_dir("replay-disk") + "/cache";
  const Said said{"why \"not\"", "text \xc3\xa4\n", {{"call_1", "read", R"({"path": "a"})"}}, 7, {1, 2, 63}};
  {
    const auto store = open_store(directory, decoder), second = open_store(directory, decoder);
    ReplayMemory memory(store.get(), 64), other(second.get(), 64);
    memory.remember("a", digest('1'), said);
    store->flush();
    EXPECT_FALSE(other.of_call("a", "call_1"));
    ASSERT_TRUE(second->rescan().ok());
    EXPECT_TRUE(other.of_call("a", "call_1"));
  }
  {
    const auto store = open_store(directory, decoder);
    ReplayMemory memory(store.get(), 64);
    for (const auto& found : {memory.of_call("a", "call_1"), memory.after("a", digest('1'), said.content)}) {
      ASSERT_TRUE(found);
      EXPECT_EQ(found->ids, said.ids);
      EXPECT_EQ(found->think, 7);
      EXPECT_EQ(found->reasoning, said.reasoning);
      EXPECT_EQ(found->content, said.content);
      ASSERT_EQ(found->calls.size(), 1u);
      EXPECT_EQ(found->calls[0].arguments, said.calls[0].arguments);
    }
    EXPECT_FALSE(memory.of_call("b", "call_1")) << "another's";
  }
  {
    const auto store = open_store(directory, decoder);
    EXPECT_FALSE(ReplayMemory(store.get(), 63).of_call("a", "call_1")) << "ids that this vocabulary lacks";
    const auto changed = open_store(directory, decoder, "g");
    EXPECT_FALSE(ReplayMemory(changed.get(), 64).of_call("a", "call_1")) << "another model's";
  }
  // Damage is a miss and is removed.
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    std::filesystem::permissions(entry.path(), std::filesystem::perms::owner_all);
    std::fstream file(entry.path(), std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(600);
    file.put('\0');
  }
  const auto store = open_store(directory, decoder);
  EXPECT_EQ(store->counters().units, 1);
  EXPECT_FALSE(ReplayMemory(store.get(), 64).of_call("a", "call_1"));
  EXPECT_EQ(store->counters().units, 0);
  EXPECT_EQ(store->counters().damaged, 1);
}

TEST(ReplayMemory, OnDiskAnswersMakeRoomToo) {
  testing::FakeDecoder decoder(64, 1000);
  const std::string directory = testing::temp_dir("replay-budget") + "/cache";
  {
    const auto store = open_store(directory, decoder, "f", 20'000);
    ReplayMemory memory(store.get(), 64);
    for (int i = 0; i < 100; ++i) memory.remember("a", digest('1'), {"", std::to_string(i), {}, 7, {1}});
    store->flush();
    EXPECT_LE(store->counters().bytes, 20'000);
    EXPECT_GT(store->counters().evicted, 50);
    EXPECT_TRUE(memory.after("a", digest('1'), "3")) << "in memory there was room";
  }
  const auto store = open_store(directory, decoder, "f", 20'000);
  ReplayMemory memory(store.get(), 64);
  EXPECT_FALSE(memory.after("a", digest('1'), "3"));
  EXPECT_TRUE(memory.after("a", digest('1'), "99"));
}

TEST(ReplayMemory, WhatAgrees) {
  const Said sampled{"why", "On it.", {{"1", "read", R"({"path": "a", "n": 1})"}}, 7, {1}};
  EXPECT_TRUE(agrees(sampled, {"", "On it.\n\n", {{"1", "read", R"({"path":"a","n":1})"}}, 0, {}}));
  EXPECT_TRUE(agrees(sampled, {"why\n", "On it.", {{"1", "read", R"({"path":"a","n":1})"}}, 0, {}}));
  EXPECT_FALSE(agrees(sampled, {"because", "On it.", {{"1", "read", R"({"path":"a","n":1})"}}, 0, {}}));
  EXPECT_FALSE(agrees(sampled, {"", "On it!", {{"1", "read", R"({"path":"a","n":1})"}}, 0, {}}));
  EXPECT_FALSE(agrees(sampled, {"", "On it.", {{"1", "read", R"({"path":"b","n":1})"}}, 0, {}}));
  EXPECT_FALSE(agrees(sampled, {"", "On it.", {{"1", "write", R"({"path":"a","n":1})"}}, 0, {}}));
  EXPECT_FALSE(agrees(sampled, {"", "On it.", {}, 0, {}}));
}

struct Served {
  std::unique_ptr<cache::Store> store;
  std::unique_ptr<Server> server;
  std::thread thread;
  Served(engine::Decoder& decoder, const text::Tokenizer& tokenizer, bool strict = false,
         const std::string& directory = "") {
    if (!directory.empty()) store = open_store(directory, decoder);
    ServerOptions options;
    options.http.port = 0;
    options.rules.strict = strict;
    options.store = store.get();
    server = Server::open(decoder, tokenizer, options).value();
    thread = std::thread([this] { server->run(); });
  }
  ~Served() {
    server->stop();
    thread.join();
  }
  json::Value ask(json::Value body, const std::string& path = "/chat/completions") {
    const auto answer = testing::talk(server->port(), testing::post_request(path, json::dump(body)));
    EXPECT_EQ(answer.status, 200) << answer.body;
    return json::parse(answer.body).value();
  }
};

int64_t usage(const json::Value& body, const char* key) { return *body.find("usage")->find(key)->to_int64(); }

// A decoder that writes letter by letter, and a tokenizer that would not: what comes back is tokenized otherwise.
TEST(Replay, SampledIdsGoOnWhereTheTokenizerWouldCutOtherwise) {
  const auto tokenizer = text::Tokenizer::load(std::string(HADAL_SOURCE_DIR) + "/models/hadal-nano").value();
  testing::FakeDecoder decoder(tokenizer.size(), 100000);
  decoder.first = tokenizer.encode("a", false)[0];
  decoder.last = decoder.first + 20;
  decoder.ends = false;
  struct Case {
    bool edits = false, strict = false, restarts = false;
  };
  for (const auto [edits, strict, restarts] :
       {Case{}, Case{.edits = true}, Case{.strict = true}, Case{.restarts = true}, Case{true, false, true}}) {
    SCOPED_TRACE(::testing::Message() << edits << strict << restarts);
    const std::string directory = restarts ? testing::temp_dir("replay-restart") + "/cache" : "";
    auto served = std::make_unique<Served>(decoder, tokenizer, strict, directory);
    json::Array messages{json::Object{{"role", "user"}, {"content", "Write letters."}}};
    const json::Object head{
        {"model", "hadal-nano"}, {"temperature", 0}, {"thinking", json::Object{{"type", "disabled"}}}};
    const auto body = [&](int max_tokens) {
      json::Value value = head;
      value.set("max_tokens", max_tokens);
      value.set("messages", messages);
      return value;
    };
    // A stop string would be no whole answer; the fake ends by itself here.
    decoder.ends = true;
    json::Value first = served->ask(body(20));
    for (int i = 0; usage(first, "completion_tokens") < 200 && i < 300; ++i) {
      messages[0].set("content", "Write letters, " + std::to_string(i) + ".");
      first = served->ask(body(2000));
    }
    ASSERT_GE(usage(first, "completion_tokens"), 200);
    json::Value message = *first.find("choices")->as_array()[0].find("message");
    const std::string text = message.find("content")->as_string();
    ASSERT_NE(static_cast<int64_t>(tokenizer.encode(text, false).size()), usage(first, "completion_tokens"));
    if (edits) message.set("content", text + "!");
    messages.push_back(message);
    messages.push_back(json::Object{{"role", "user"}, {"content", "More."}});
    if (restarts) {
      served.reset();
      served = std::make_unique<Served>(decoder, tokenizer, strict, directory);
    }
    const json::Value second = served->ask(body(5));
    const int64_t whole = usage(first, "prompt_tokens") + usage(first, "completion_tokens");
    if (edits || strict) {
      EXPECT_LT(usage(second, "prompt_cache_hit_tokens"), whole / 128 * 128);
    } else {
      EXPECT_EQ(usage(second, "prompt_cache_hit_tokens"), whole / 128 * 128);
      EXPECT_GT(usage(second, "prompt_tokens"), whole);
    }
  }
}

TEST(Replay, ReasoningThatAClientLostIsThereAndWrittenArgumentsMayDiffer) {
  const text::Tokenizer& tokenizer = testing::tokenizer();
  testing::ScriptedDecoder decoder(tokenizer);
  Served served(decoder, tokenizer);
  const json::Value tools = json::parse(R"([{"type":"function","function":{"name":"read","parameters":{
      "type":"object","properties":{"path":{"type":"string"}}}}}])")
                                .value();
  json::Array messages{json::Object{{"role", "user"}, {"content", R"(CALL read {"path": "notes"})"}}};
  json::Value body = json::Object{{"model", "hadal-nano"}, {"tools", tools}};
  body.set("messages", messages);
  const json::Value first = served.ask(body);
  json::Value message = *first.find("choices")->as_array()[0].find("message");
  ASSERT_EQ(message.find("reasoning_content")->as_string(), "Let me see.");
  json::Value lost = json::Object{{"role", "assistant"}, {"content", *message.find("content")}};
  json::Value call = message.find("tool_calls")->as_array()[0];
  call.find("function")->set("arguments", "{\n  \"path\":   \"notes\"\n}");
  lost.set("tool_calls", json::Array{call});
  messages.push_back(lost);
  messages.push_back(json::Object{{"role", "tool"}, {"tool_call_id", *call.find("id")}, {"content", "some notes"}});
  body.set("messages", messages);
  const json::Value second = served.ask(body);
  EXPECT_EQ(usage(second, "prompt_cache_hit_tokens"),
            (usage(first, "prompt_tokens") + usage(first, "completion_tokens")) / 128 * 128);
  const json::Value seen = served.ask(body, "/tokenize");
  EXPECT_NE(seen.find("text")->as_string().find("Let me see."), std::string::npos) << seen.find("text")->as_string();
  // Another user has no part in it.
  body.set("user", "somebody else");
  EXPECT_EQ(served.ask(body, "/tokenize").find("text")->as_string().find("Let me see."), std::string::npos);
}

}  // namespace
}  // namespace hadal::serve
