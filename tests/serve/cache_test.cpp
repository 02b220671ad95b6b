// The context cache in the scheduler and the server: whatever is reused, answers are those of a decoder that never saw
// anything before; and agents that send their conversation again get what they sent before for nothing.

#include "cache/store.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <filesystem>
#include <mutex>
#include <random>
#include <thread>

#include "base/file.h"
#include "serve/scheduler.h"
#include "serve/server.h"
#include "tests/support/byte_tokenizer.h"
#include "tests/support/fake_decoder.h"
#include "tests/support/fast_disk.h"
#include "tests/support/http_client.h"
#include "tests/support/scripted_decoder.h"
#include "tests/support/shared.h"

namespace hadal::serve {
namespace {

namespace fs = std::filesystem;

struct Record : Sink {
  std::vector<TokenId> tokens;
  Reuse reuse;
  Status status;
  bool is_done = false;
  void started(const Reuse& with) override { reuse = with; }
  void read(int64_t) override {}
  bool token(const sample::Choice& choice) override {
    tokens.push_back(choice.token);
    return true;
  }
  void done(const Status& with, engine::Completion) override {
    status = with;
    is_done = true;
  }
};

std::unique_ptr<cache::Store> open_store(const std::string& directory, engine::Decoder& decoder, int64_t budget) {
  return cache::Store::open({.directory = directory,
                             .budget = budget,
                             .identity = {.model = "fake", .fingerprint = "f", .arithmetic = 1},
                             .layout = std::make_shared<const kv::Layout>(decoder.new_sequence().layout()),
                             .disk = &testing::fast_disk()})
      .value();
}

// Conversations that go on, part, are edited in the middle, under budgets that are too small, in spaces that must not
// meet, over restarts.
TEST(Cache, WhateverIsReusedTheAnswersAreThoseOfNoCache) {
  Counters sum;
  cache::StoreCounters disk;
  int64_t n_restarts = 0;
  for (uint64_t seed = 1; seed <= 12; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937_64 random(seed);
    const auto pick = [&](int64_t low, int64_t high) {
      return low + static_cast<int64_t>(random() % static_cast<uint64_t>(high - low + 1));
    };
    testing::FakeDecoder decoder(64, 4096);
    const int64_t one = decoder.new_sequence().capacity_bytes();
    const std::string directory = testing::temp_dir("serve-cache") + "/" + std::to_string(seed);
    struct Conversation {
      std::vector<TokenId> ids;
      std::string user;
    };
    std::vector<Conversation> conversations;
    for (int life = 0; life < 4; ++life) {
      const Limits limits{.max_running = static_cast<int>(pick(1, 5)),
                          .kv_bytes = one * pick(4, 30),
                          .rows_per_step = pick(30, 500),
                          .share_cache = pick(0, 4) == 0,
                          .save_every = 128 * pick(1, 8)};
      const auto store = open_store(directory, decoder, pick(0, 1) ? 1 << 20 : 60'000);
      Scheduler scheduler(decoder, limits, store.get());
      struct Asked {
        std::shared_ptr<Record> record;
        std::vector<TokenId> prompt, expected;
        std::string user;
      };
      std::vector<Asked> asked;
      double now = 0;
      for (int turn = 0; turn < 200 || scheduler.counters().running + scheduler.counters().waiting > 0; ++turn) {
        ASSERT_LT(turn, 400000) << "somebody never comes to an end";
        if (turn < 200) now += 0.1;  // nobody waits too long for a disk that takes its time
        if (turn < 200 && pick(0, 2) == 0) {
          Conversation next{{}, std::string(1, static_cast<char>('a' + pick(0, 1)))};
          if (!conversations.empty() && pick(0, 4) != 0) {
            next = conversations[static_cast<size_t>(pick(0, static_cast<int64_t>(conversations.size()) - 1))];
            if (pick(0, 3) == 0) next.ids.resize(static_cast<size_t>(pick(0, static_cast<int64_t>(next.ids.size()))));
            if (pick(0, 5) == 0 && !next.ids.empty())
              next.ids[static_cast<size_t>(pick(0, static_cast<int64_t>(next.ids.size()) - 1))] ^= 1;
            if (pick(0, 9) == 0) next.user = next.user == "a" ? "b" : "a";
          }
          for (int64_t n = pick(1, pick(0, 3) == 0 ? 700 : 60); n > 0; --n)
            next.ids.push_back(static_cast<TokenId>(pick(2, 63)));
          if (next.ids.size() > 2500) continue;
          const int64_t most = pick(1, 200);
          Asked one_more{std::make_shared<Record>(), next.ids, decoder.expected(next.ids, most), next.user};
          Submission submission;
          submission.request.prompt = next.ids;
          submission.request.sampling.temperature = 0;
          submission.request.max_tokens = most;
          submission.user = next.user;
          submission.sink = one_more.record;
          submission.header_at = pick(0, static_cast<int64_t>(next.ids.size()));
          submission.system_end = pick(0, submission.header_at);
          const auto ticket = scheduler.submit(std::move(submission), now);
          if (ticket.refused) continue;
          next.ids.insert(next.ids.end(), one_more.expected.begin(), one_more.expected.end());
          conversations.push_back(std::move(next));
          if (pick(0, 20) == 0) scheduler.cancel(ticket.id);
          asked.push_back(std::move(one_more));
        }
        if (!scheduler.step(now)) std::this_thread::yield();
        if (turn % 8 == 0) store->flush();  // else a fast decoder outruns the disk, and little is saved
        ASSERT_LE(store->counters().bytes, 1 << 20);
      }
      for (const Asked& one_asked : asked) {
        ASSERT_TRUE(one_asked.record->is_done);
        if (!one_asked.record->status.ok()) {
          ASSERT_EQ(one_asked.record->status.error().code, Code::kCancelled);
          continue;
        }
        ASSERT_EQ(one_asked.record->tokens, one_asked.expected);
        ASSERT_LT(one_asked.record->reuse.tokens, static_cast<int64_t>(one_asked.prompt.size()));
      }
      const Counters counters = scheduler.counters();
      sum.reused_tokens += counters.reused_tokens;
      sum.from_disk_tokens += counters.from_disk_tokens;
      sum.evicted += counters.evicted;
      sum.suspended += counters.suspended;
      sum.resumed += counters.resumed;
      sum.cancelled += counters.cancelled;
      disk.evicted += store->counters().evicted;
      disk.saved += store->counters().saved;
      EXPECT_EQ(store->counters().damaged, 0);
      ++n_restarts;
    }
  }
  EXPECT_GT(sum.reused_tokens, 10'000);
  EXPECT_GT(sum.from_disk_tokens, 10'000);
  EXPECT_GT(sum.evicted, 100);
  EXPECT_GT(sum.suspended, 10);
  EXPECT_GT(sum.cancelled, 0);
  EXPECT_GT(disk.evicted, 100);
  EXPECT_GT(disk.saved, 300);
  EXPECT_EQ(n_restarts, 48);
}

TEST(Cache, SpacesNeverMeetUnlessTheyAreShared) {
  for (const bool share : {false, true}) {
    testing::FakeDecoder decoder(64, 4096);
    const std::string directory = testing::temp_dir("serve-spaces") + (share ? "/shared" : "/apart");
    std::vector<TokenId> prompt;
    for (int i = 0; i < 1000; ++i) prompt.push_back(2 + i * 7 % 60);
    const auto ask = [&](const std::string& key, const std::string& user) {
      const auto store = open_store(directory, decoder, 1 << 20);
      Scheduler scheduler(decoder, {.share_cache = share}, store.get());
      const auto record = std::make_shared<Record>();
      Submission submission;
      submission.request.prompt = prompt;
      submission.request.max_tokens = 1;
      submission.key = key;
      submission.user = user;
      submission.header_at = 990;
      submission.sink = record;
      scheduler.submit(std::move(submission), 0);
      while (!record->is_done) scheduler.step(0);
      return record->reuse;
    };
    EXPECT_EQ(ask("k", "u").tokens, 0);
    const Reuse again = ask("k", "u");
    EXPECT_EQ(again.tokens, 896);
    EXPECT_EQ(again.from, Reuse::From::kDisk);
    EXPECT_EQ(ask("k", "v").tokens, share ? 896 : 0);
    EXPECT_EQ(ask("l", "u").tokens, share ? 896 : 0);
    EXPECT_EQ(ask("", "").tokens, share ? 896 : 0);
  }
}

// Reading takes its time here.
class SlowDisk : public testing::FastDisk {
 public:
  int64_t preadv(int fd, const iovec* parts, int n, int64_t offset) override {
    if (is_slow.load()) std::this_thread::sleep_for(std::chrono::milliseconds(30));
    return Disk::preadv(fd, parts, n, offset);
  }
  std::atomic<bool> is_slow{false};
};

TEST(Cache, WhoWaitsForTheDiskIsAskedForNothingAndCanBeCancelled) {
  testing::FakeDecoder decoder(64, 4096);
  SlowDisk disk;
  const auto store = cache::Store::open({.directory = testing::temp_dir("serve-slow") + "/cache",
                                         .identity = {.model = "fake", .fingerprint = "f", .arithmetic = 1},
                                         .layout = std::make_shared<const kv::Layout>(decoder.new_sequence().layout()),
                                         .disk = &disk})
                         .value();
  std::vector<TokenId> prompt;
  for (int i = 0; i < 1000; ++i) prompt.push_back(2 + i * 7 % 60);
  const auto submit = [&](Scheduler& scheduler, const std::shared_ptr<Record>& record) {
    Submission submission;
    submission.request.prompt = prompt;
    submission.request.max_tokens = 1;
    submission.header_at = 990;
    submission.sink = record;
    return scheduler.submit(std::move(submission), 0).id;
  };
  {
    Scheduler first(decoder, {}, store.get());
    const auto record = std::make_shared<Record>();
    submit(first, record);
    while (!record->is_done) first.step(0);
    store->flush();
  }
  for (const bool cancels : {false, true}) {
    disk.is_slow = true;
    Scheduler scheduler(decoder, {}, store.get());
    const auto record = std::make_shared<Record>();
    const uint64_t id = submit(scheduler, record);
    EXPECT_FALSE(scheduler.step(0)) << "nothing to do until it is read";
    EXPECT_EQ(scheduler.counters().running, 1);
    if (cancels) scheduler.cancel(id);
    int64_t n_busy = 0;
    while (!record->is_done) {
      n_busy += scheduler.step(0);
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    EXPECT_LT(n_busy, 10);
    if (cancels) {
      EXPECT_EQ(record->status.error().code, Code::kCancelled);
    } else {
      EXPECT_EQ(record->reuse.from, Reuse::From::kDisk);
      EXPECT_EQ(record->tokens, decoder.expected(prompt, 1));
    }
  }
}

// Nothing is durable here before it is allowed.
class StuckDisk : public testing::FastDisk {
 public:
  int fsync(int fd) override {
    std::unique_lock lock(mutex);
    may_go.wait(lock, [this] { return !is_stuck; });
    return FastDisk::fsync(fd);
  }
  void let_go() {
    {
      const std::lock_guard lock(mutex);
      is_stuck = false;
    }
    may_go.notify_all();
  }
  std::mutex mutex;
  std::condition_variable may_go;
  bool is_stuck = true;
};

// Agents start several sessions at once: what they share is found in memory at once, with a disk that takes its time
// and with none.
TEST(Cache, SharedPrefixesAreThereBeforeTheDiskHasThem) {
  for (const bool has_store : {true, false}) {
    testing::FakeDecoder decoder(64, 4096);
    StuckDisk disk;
    std::unique_ptr<cache::Store> store;
    if (has_store)
      store = cache::Store::open({.directory = testing::temp_dir("serve-stuck") + "/cache",
                                  .identity = {.model = "fake", .fingerprint = "f", .arithmetic = 1},
                                  .layout = std::make_shared<const kv::Layout>(decoder.new_sequence().layout()),
                                  .disk = &disk})
                  .value();
    Scheduler scheduler(decoder, {}, store.get());
    const auto ask = [&](int session, int64_t system_end) {
      std::vector<TokenId> prompt;
      for (int i = 0; i < 1000; ++i) prompt.push_back(2 + i * 7 % 60);
      for (int i = 0; i < 200; ++i) prompt.push_back(2 + (i * 11 + session) % 60);
      const auto record = std::make_shared<Record>();
      Submission submission;
      submission.request.prompt = prompt;
      submission.request.max_tokens = 5;
      submission.header_at = 1190;
      submission.system_end = system_end;
      submission.sink = record;
      scheduler.submit(std::move(submission), 0);
      while (!record->is_done) scheduler.step(0);
      EXPECT_EQ(record->tokens, decoder.expected(prompt, 5));
      return record->reuse;
    };
    EXPECT_EQ(ask(0, 1000).tokens, 0);
    const Reuse second = ask(1, 1000);
    EXPECT_EQ(second.tokens, 896);
    EXPECT_EQ(second.same, 1000);
    EXPECT_EQ(second.from, Reuse::From::kMemory);
    disk.let_go();
  }
}

// ---- agents

struct Served {
  const text::Tokenizer& tokenizer = testing::tokenizer();
  testing::ScriptedDecoder& decoder;
  std::unique_ptr<cache::Store> store;
  std::unique_ptr<Server> server;
  std::thread thread;

  Served(testing::ScriptedDecoder& with, const std::string& directory) : decoder(with) {
    store = open_store(directory, decoder, int64_t{1} << 30);
    ServerOptions options;
    options.http.port = 0;
    options.rules.any_model = true;
    options.store = store.get();
    server = Server::open(decoder, tokenizer, options).value();
    thread = std::thread([this] { server->run(); });
  }
  ~Served() {
    server->stop();
    thread.join();
  }
};

struct Answered {
  json::Value body;
  int64_t prompt = 0, cached = 0, output = 0, same = 0;
};

int64_t number(const json::Value* value) { return value && value->is_number() ? value->to_int64().value_or(-1) : -1; }

Answered ask(const Served& served, const std::string& path, const json::Value& body) {
  const auto answer = testing::talk(served.server->port(), testing::post_request(path, json::dump(body)));
  EXPECT_EQ(answer.status, 200) << answer.body;
  Answered out;
  out.body = json::parse(answer.body).value();
  const json::Value& usage = *out.body.find("usage");
  if (path == "/chat/completions") {
    out.prompt = number(usage.find("prompt_tokens"));
    out.cached = number(usage.find("prompt_cache_hit_tokens"));
    out.output = number(usage.find("completion_tokens"));
    EXPECT_EQ(out.cached + number(usage.find("prompt_cache_miss_tokens")), out.prompt);
  } else if (path == "/messages") {
    out.cached = number(usage.find("cache_read_input_tokens"));
    out.prompt = number(usage.find("input_tokens")) + out.cached;
    out.output = number(usage.find("output_tokens"));
  } else {
    out.prompt = number(usage.find("input_tokens"));
    out.cached = number(usage.find("input_tokens_details")->find("cached_tokens"));
    out.output = number(usage.find("output_tokens"));
  }
  EXPECT_EQ(out.cached % 128, 0);
  const std::string& note = answer.headers.at("x-hadal-cache");
  out.same = std::stoll(note.substr(note.find("same=") + 5));
  EXPECT_EQ(std::stoll(note.substr(note.find("hit=") + 4)), out.cached) << note;
  return out;
}

// An agent of one wire format: what it sends, and how it takes an answer into its next request.
struct Agent {
  std::string path;
  json::Value body;
  json::Array turns;

  Agent(const std::string& with, const std::string& system, bool has_tools, const std::string& session) : path(with) {
    const json::Value schema = json::parse(R"({"type":"object","properties":{"path":{"type":"string"}}})").value();
    const json::Object function{{"name", "read"}, {"description", "Reads a file"}, {"parameters", schema}};
    body = json::Object{{"model", "m"}, {"user", "someone"}};
    if (path == "/chat/completions") {
      turns.push_back(json::Object{{"role", "system"}, {"content", system}});
      if (has_tools) body.set("tools", json::Array{json::Object{{"type", "function"}, {"function", function}}});
    } else if (path == "/messages") {
      body = json::Object{
          {"model", "m"},
          {"max_tokens", 4000},
          {"system", system},
          {"thinking", json::Object{{"type", "enabled"}, {"budget_tokens", 2000}}},
          {"metadata",
           json::Object{{"user_id", "user_ab12_account__session_1b4e28ba-2fa1-11d2-883f-0016d3cca42" + session}}}};
      if (has_tools)
        body.set("tools", json::Array{json::Object{
                              {"name", "read"}, {"description", "Reads a file"}, {"input_schema", schema}}});
    } else {
      body.set("instructions", system);
      body.set("reasoning", json::Object{{"effort", "high"}});
      if (has_tools) {
        json::Value tool = function;
        tool.set("type", "function");
        body.set("tools", json::Array{tool});
      }
    }
  }

  // As a client's recorded request has it.
  Agent(const std::string& with, json::Value recorded) : path(with), body(std::move(recorded)) {
    body.set("stream", false);
    turns = body.find(path == "/responses" ? "input" : "messages")->as_array();
  }

  void say(const std::string& text) { turns.push_back(json::Object{{"role", "user"}, {"content", text}}); }

  // true: it wants its tool.
  bool take(const Answered& answered, int n) {
    const std::string result = "line " + std::to_string(n) + " of the file, and some words more to make it longer";
    bool calls = false;
    if (path == "/chat/completions") {
      const json::Value& message = *answered.body.find("choices")->as_array()[0].find("message");
      turns.push_back(message);
      if (const json::Value* all = message.find("tool_calls"); all && all->is_array())
        for (const json::Value& call : all->as_array()) {
          turns.push_back(json::Object{{"role", "tool"}, {"tool_call_id", *call.find("id")}, {"content", result}});
          calls = true;
        }
    } else if (path == "/messages") {
      turns.push_back(json::Object{{"role", "assistant"}, {"content", *answered.body.find("content")}});
      json::Array results;
      for (const json::Value& block : answered.body.find("content")->as_array())
        if (block.find("type")->as_string() == "tool_use")
          results.push_back(
              json::Object{{"type", "tool_result"}, {"tool_use_id", *block.find("id")}, {"content", result}});
      calls = !results.empty();
      if (calls) turns.push_back(json::Object{{"role", "user"}, {"content", std::move(results)}});
    } else {
      for (const json::Value& item : answered.body.find("output")->as_array()) {
        turns.push_back(item);
        if (item.find("type")->as_string() != "function_call") continue;
        calls = true;
        turns.push_back(
            json::Object{{"type", "function_call_output"}, {"call_id", *item.find("call_id")}, {"output", result}});
      }
    }
    return calls;
  }

  Answered send(const Served& served) {
    body.set(path == "/responses" ? "input" : "messages", turns);
    return ask(served, path, body);
  }
};

// A system prompt of 20,000 tokens and thirty turns that append, a side request now and then, a second session that
// shares the system prompt, a restart in the middle. With tools reasoning stays in the conversation, without it goes.
TEST(Cache, AgentsGetBackWhatTheySentBefore) {
  std::string system = "You are an agent.";
  for (int i = 0; system.size() < 20000; ++i) system += " Rule " + std::to_string(i) + ": be kind to files.";
  for (const char* path : {"/chat/completions", "/messages", "/responses"})
    for (const bool has_tools : {true, false}) {
      SCOPED_TRACE(::testing::Message() << path << (has_tools ? " with" : " without") << " tools");
      testing::ScriptedDecoder decoder(testing::tokenizer());
      std::string name = path;
      std::replace(name.begin(), name.end(), '/', '-');
      const std::string directory = testing::temp_dir("serve-agents" + name) + (has_tools ? "/tools" : "/plain");
      auto served = std::make_unique<Served>(decoder, directory);
      Agent agent(path, system, has_tools, "1");
      int64_t reusable = 0, cached = 0, n_requests = 0, from_restart = -1, before = 0;
      const auto account = [&](const Answered& answered, int64_t own_before) {
        const int64_t shared = std::max(answered.same, own_before);
        reusable += std::min(shared, answered.prompt - 1) / 128 * 128;
        cached += answered.cached;
        ++n_requests;
      };
      for (int turn = 0; turn < 30; ++turn) {
        served->store->flush();  // no real model outruns the disk, this one does
        if (turn == 15) {
          served.reset();
          served = std::make_unique<Served>(decoder, directory);
        }
        if (turn % 7 == 3) {  // a title, say
          Agent side(path, "Write a title.", false, "1");
          side.say("SAY Title " + std::to_string(turn));
          account(side.send(*served), 0);
        }
        if (turn == 10) {
          Agent second(path, system, has_tools, "2");
          second.say("SAY hello");
          const Answered answered = second.send(*served);
          account(answered, 0);
          EXPECT_GE(answered.cached, 20000 / 128 * 128 - 128) << "the system prompt was there";
        }
        agent.say(has_tools ? "CALL read {\"path\": \"file " + std::to_string(turn) + "\"}"
                            : "SAY the answer number " + std::to_string(turn) + " is longer than the question was");
        for (bool goes_on = true; goes_on;) {
          const Answered answered = agent.send(*served);
          account(answered, before);
          // After a restart nothing else is there to compare it with.
          if (turn == 15 && from_restart < 0) from_restart = answered.cached;
          before = has_tools ? answered.prompt + answered.output : answered.prompt - 3;  // without the header
          goes_on = agent.take(answered, turn);
        }
      }
      EXPECT_GT(n_requests, has_tools ? 60 : 30);
      EXPECT_GE(from_restart, 20000) << "from disk";
      EXPECT_GE(static_cast<double>(cached), 0.95 * static_cast<double>(reusable)) << cached << " of " << reusable;
      fmt::print("{} {} tools: {} of {} reusable tokens were hits, {} requests\n", path, has_tools ? "with" : "without",
                 cached, reusable, n_requests);
    }
}

// What Claude Code and Codex really send, thirty turns on, each with a call of the first of their tools that takes a
// text.
TEST(Cache, RecordedAgentsGetBackWhatTheySentBefore) {
  HADAL_NEEDS_SHARED("spec/client-requests.json");
  const std::string file = testing::shared_path("spec/client-requests.json");
  const json::Value recorded = json::parse(read_file(file).value()).value();
  int n_clients = 0;
  for (const json::Value& request : recorded.find("requests")->as_array()) {
    const std::string client = request.find("client")->as_string();
    const bool is_claude = client.starts_with("claude-code") && client.ends_with("first turn");
    if (!is_claude && !(client.starts_with("codex") && client.ends_with("first turn"))) continue;
    SCOPED_TRACE(client);
    ++n_clients;
    Agent agent(is_claude ? "/messages" : "/responses", *request.find("body"));
    std::string call;
    for (const json::Value& tool : agent.body.find("tools")->as_array()) {
      const json::Value* schema = tool.find(is_claude ? "input_schema" : "parameters");
      const json::Value* properties = schema ? schema->find("properties") : nullptr;
      if (!call.empty() || !properties || !tool.find("name")) continue;
      for (const auto& [name, property] : properties->as_object())
        if (call.empty() && property.find("type") && property.find("type")->is_string() &&
            property.find("type")->as_string() == "string")
          call = "CALL " + tool.find("name")->as_string() + " {\"" + name + "\": \"number ";
    }
    ASSERT_FALSE(call.empty());
    testing::ScriptedDecoder decoder(testing::tokenizer());
    const std::string directory = testing::temp_dir("serve-recorded") + "/" + std::to_string(n_clients);
    auto served = std::make_unique<Served>(decoder, directory);
    int64_t reusable = 0, cached = 0, before = 0, n_requests = 0;
    for (int turn = 0; turn < 30; ++turn) {
      served->store->flush();
      if (turn == 15) {
        served.reset();
        served = std::make_unique<Served>(decoder, directory);
      }
      agent.say(call + std::to_string(turn) + "\"}");
      for (bool goes_on = true; goes_on; ++n_requests) {
        const Answered answered = agent.send(*served);
        reusable += std::min(std::max(answered.same, before), answered.prompt - 1) / 128 * 128;
        cached += answered.cached;
        before = answered.prompt + answered.output;
        goes_on = agent.take(answered, turn);
      }
    }
    fmt::print("{}: {} of {} reusable tokens were hits, {} requests\n", client, cached, reusable, n_requests);
    EXPECT_GT(n_requests, 50);
    EXPECT_GE(static_cast<double>(cached), 0.95 * static_cast<double>(reusable));
  }
  EXPECT_EQ(n_clients, 2);
}

}  // namespace
}  // namespace hadal::serve
