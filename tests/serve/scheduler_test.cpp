// The scheduler: a simulator (fake decoder, virtual clock, seeded clients) with invariants after every step, and each
// policy alone. Every test that means an event to happen asserts the counter of it.

#include "serve/scheduler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <random>
#include <thread>

#include "tests/support/fake_decoder.h"

namespace hadal::serve {
namespace {

using testing::FakeDecoder;

struct Record : Sink {
  std::vector<TokenId> tokens;
  int64_t reused = -1, read_to = 0;
  int n_started = 0, n_done = 0;
  size_t enough = 0;  // tokens after which it wants no more; 0: all
  Status status;
  engine::Completion completion;
  std::vector<std::string>* order = nullptr;
  std::string name;

  void started(const Reuse& reuse) override {
    reused = reuse.tokens;
    ++n_started;
    if (order) order->push_back(name);
  }
  void read(int64_t prompt_done) override {
    EXPECT_GE(prompt_done, read_to);
    read_to = prompt_done;
  }
  bool token(const sample::Choice& choice) override {
    EXPECT_EQ(n_done, 0);
    tokens.push_back(choice.token);
    return tokens.size() != enough;
  }
  void done(const Status& with, engine::Completion what) override {
    ++n_done;
    status = with;
    completion = std::move(what);
  }
};

std::vector<TokenId> prompt_of(std::mt19937_64& random, int64_t n) {
  std::vector<TokenId> tokens(static_cast<size_t>(n));
  for (TokenId& token : tokens) token = static_cast<TokenId>(2 + random() % 62);
  return tokens;
}

Submission submission(std::vector<TokenId> prompt, int64_t max_tokens, const std::shared_ptr<Record>& record,
                      const std::string& key = "key", const std::string& user = "") {
  Submission s;
  s.request.prompt = std::move(prompt);
  s.request.sampling.temperature = 0;
  s.request.max_tokens = max_tokens;
  s.key = key;
  s.user = user;
  s.sink = record;
  return s;
}

TEST(Scheduler, SimulatedClientsGetTheirTokensAndLimitsHold) {
  Counters seen;
  int64_t refused = 0;
  int n_passed = 0;
  for (uint64_t seed = 1; seed <= 40; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937_64 random(seed);
    FakeDecoder decoder;
    const auto pick = [&](int64_t low, int64_t high) {
      return low + static_cast<int64_t>(random() % static_cast<uint64_t>(high - low + 1));
    };
    const int64_t one = decoder.new_sequence().capacity_bytes();
    const Limits limits{.max_running = static_cast<int>(pick(1, 6)),
                        .max_waiting = static_cast<int>(pick(2, 10)),
                        .max_per_key = static_cast<int>(pick(0, 1) * pick(2, 5)),
                        .kv_bytes = one * pick(3, 12),
                        .max_wait_s = static_cast<double>(pick(3, 60)),
                        .rows_per_step = pick(4, 80)};
    Scheduler scheduler(decoder, limits);
    struct Client {
      uint64_t id;
      std::shared_ptr<Record> record;
      std::vector<TokenId> expected;
      std::string key;
      bool cancelled = false;
    };
    std::vector<Client> clients;
    std::vector<std::vector<TokenId>> conversations;
    std::vector<std::string> order;                             // keys, as their requests start
    std::map<std::pair<std::string, std::string>, int> passed;  // how often the second started while the first waited
    double now = 0;
    int64_t largest_step = 0;
    for (int turn = 0; turn < 400 || scheduler.counters().running + scheduler.counters().waiting > 0; ++turn) {
      ASSERT_LT(turn, 20000) << "somebody never comes to an end";
      now += 0.1 * static_cast<double>(pick(0, 5));
      if (turn < 400 && pick(0, 3) == 0) {
        std::vector<TokenId> prompt;
        if (!conversations.empty() && pick(0, 1) == 0) {  // goes on
          prompt = conversations[static_cast<size_t>(pick(0, static_cast<int64_t>(conversations.size()) - 1))];
        }
        const auto more = prompt_of(random, pick(1, pick(0, 9) == 0 ? 300 : 40));
        prompt.insert(prompt.end(), more.begin(), more.end());
        if (prompt.size() > 1000) continue;
        const int64_t most = pick(1, 60);
        Client client{0, std::make_shared<Record>(), decoder.expected(prompt, most),
                      std::string(1, static_cast<char>('a' + pick(0, 3))), false};
        if (pick(0, 3) == 0) {  // a stop string, say: it has enough before the model has
          client.record->enough = static_cast<size_t>(pick(1, 30));
          if (client.expected.size() > client.record->enough) client.expected.resize(client.record->enough);
        }
        conversations.push_back(prompt);
        conversations.back().insert(conversations.back().end(), client.expected.begin(), client.expected.end());
        client.record->order = &order;
        client.record->name = client.key;
        // One key has a new user for each request, which gives it no more.
        const std::string user = client.key == "a" ? std::to_string(turn) : std::to_string(pick(0, 1));
        auto request = submission(prompt, most, client.record, client.key, user);
        if (pick(0, 1) == 0) request.header_at = pick(1, static_cast<int64_t>(prompt.size()));
        const auto ticket = scheduler.submit(std::move(request), now);
        if (ticket.refused) {
          ++refused;
        } else {
          client.id = ticket.id;
          clients.push_back(std::move(client));
        }
      }
      if (!clients.empty() && pick(0, 30) == 0) {
        Client& client = clients[static_cast<size_t>(pick(0, static_cast<int64_t>(clients.size()) - 1))];
        scheduler.cancel(client.id);
        if (client.record->n_done == 0) client.cancelled = true;
      }
      const auto waiting = [&](const std::string& key) {
        return std::count_if(clients.begin(), clients.end(), [&](const Client& c) {
          return c.key == key && c.record->n_started + c.record->n_done == 0;
        });
      };
      for (const char* key : {"a", "b", "c", "d"})
        ASSERT_LE(waiting(key), (3 * limits.max_waiting + 3) / 4) << "one key takes all places";
      const int64_t before = scheduler.counters().state_bytes, resumed = scheduler.counters().resumed;
      order.clear();
      scheduler.step(now);
      const Counters counters = scheduler.counters();
      // Nobody has two turns while another waits for one. (A turn may also be that of a suspended request.)
      for (const char* key : {"a", "b", "c", "d"}) {
        int64_t left = waiting(key) + std::count(order.begin(), order.end(), key);
        for (const std::string& other : order) {
          if (counters.resumed != resumed) break;
          if (other == key) --left;
          int& n = passed[{key, other}];
          if (other == key || left == 0) {
            for (const char* third : {"a", "b", "c", "d"}) passed[{key, third}] = 0;
          } else {
            ++n;
            n_passed = std::max(n_passed, n);
            ASSERT_LE(n, 1) << other << " before " << key;
          }
        }
        if (counters.resumed != resumed || left == 0)
          for (const char* third : {"a", "b", "c", "d"}) passed[{key, third}] = 0;
      }
      largest_step = std::max(largest_step, counters.state_bytes - before);
      ASSERT_LE(counters.running, limits.max_running);
      ASSERT_LE(counters.waiting, limits.max_waiting + limits.max_running);  // suspended ones wait too
      if (counters.running > 1) {
        ASSERT_LE(counters.state_bytes, limits.kv_bytes);
      }
      ASSERT_LE(counters.resting_bytes, std::max<int64_t>(0, limits.kv_bytes - counters.state_bytes));
      for (const Client& client : clients) ASSERT_LE(client.record->n_done, 1);
      for (const char key : {'a', 'b', 'c', 'd'}) {
        if (limits.max_per_key == 0) break;
        ASSERT_LE(std::count_if(clients.begin(), clients.end(),
                                [&](const Client& c) { return c.key[0] == key && c.record->n_done == 0; }),
                  limits.max_per_key);
      }
    }
    for (const Client& client : clients) {
      const Record& record = *client.record;
      ASSERT_EQ(record.n_done, 1);
      ASSERT_LE(record.n_started, 1);
      if (record.status.ok()) {
        ASSERT_EQ(record.tokens, client.expected);
        ASSERT_EQ(record.completion.tokens, client.expected);
      } else {  // a beginning of the right answer
        ASSERT_TRUE(record.status.error().code == Code::kBusy || client.cancelled) << record.status.error().message;
        ASSERT_LE(record.tokens.size(), client.expected.size());
        ASSERT_TRUE(std::equal(record.tokens.begin(), record.tokens.end(), client.expected.begin()));
      }
    }
    const Counters counters = scheduler.counters();
    EXPECT_EQ(counters.submitted, static_cast<int64_t>(clients.size()));
    EXPECT_EQ(counters.finished + counters.cancelled + counters.expired + counters.failed, counters.submitted);
    EXPECT_EQ(counters.state_bytes, 0);
    seen.suspended += counters.suspended;
    seen.resumed += counters.resumed;
    seen.evicted += counters.evicted;
    seen.expired += counters.expired;
    seen.cancelled += counters.cancelled;
    seen.reused_tokens += counters.reused_tokens;
  }
  EXPECT_GT(seen.suspended, 0);
  EXPECT_GT(seen.resumed, 0);
  EXPECT_GT(seen.evicted, 0);
  EXPECT_GT(seen.expired, 0);
  EXPECT_GT(seen.cancelled, 0);
  EXPECT_GT(seen.reused_tokens, 0);
  EXPECT_GT(refused, 0);
  EXPECT_EQ(n_passed, 1);
}

TEST(Scheduler, UsersTakeTurns) {
  std::mt19937_64 random(3);
  FakeDecoder decoder;
  Scheduler scheduler(decoder, {.max_running = 1});
  std::vector<std::string> order;
  std::vector<std::shared_ptr<Record>> records;
  const auto add = [&](const std::string& user) {
    records.push_back(std::make_shared<Record>());
    records.back()->order = &order;
    records.back()->name = user;
    EXPECT_FALSE(scheduler.submit(submission(prompt_of(random, 5), 3, records.back(), "key", user), 0).refused);
  };
  for (int i = 0; i < 5; ++i) add("many");
  add("one");
  add("other");
  while (scheduler.step(0)) {
  }
  EXPECT_EQ(order, (std::vector<std::string>{"many", "one", "other", "many", "many", "many", "many"}));
}

TEST(Scheduler, KeysTakeTurnsWhateverUsersTheyName) {
  std::mt19937_64 random(3);
  FakeDecoder decoder;
  Scheduler scheduler(decoder, {.max_running = 1});
  std::vector<std::string> order;
  const auto add = [&](const std::string& key, const std::string& user) {
    const auto record = std::make_shared<Record>();
    record->order = &order;
    record->name = key + user;
    EXPECT_FALSE(scheduler.submit(submission(prompt_of(random, 5), 3, record, key, user), 0).refused);
  };
  for (const char* user : {"1", "1", "2", "3", "4"}) add("a", user);
  for (const char* user : {"1", "1", "2"}) add("b", user);
  add("c", "1");
  while (scheduler.step(0)) {
  }
  EXPECT_EQ(order, (std::vector<std::string>{"a1", "b1", "c1", "a2", "b2", "a3", "b1", "a4", "a1"}));
}

TEST(Scheduler, OneKeyLeavesPlacesToOthers) {
  std::mt19937_64 random(3);
  FakeDecoder decoder;
  Scheduler scheduler(decoder, {.max_running = 1, .max_waiting = 8});
  const auto submit = [&](const std::string& key, const std::string& user) {
    return !scheduler.submit(submission(prompt_of(random, 5), 3, std::make_shared<Record>(), key, user), 0).refused;
  };
  int of_a = 0, of_b = 0, of_all = 0;
  for (int i = 0; i < 20; ++i) of_a += submit("a", std::to_string(i));
  EXPECT_EQ(of_a, 6);
  for (int i = 0; i < 20; ++i) of_b += submit("b", std::to_string(i));
  EXPECT_EQ(of_b, 2);
  scheduler.step(0);  // one of a's runs
  EXPECT_TRUE(submit("a", "20"));
  while (scheduler.step(0)) {
  }
  for (int i = 0; i < 20; ++i) of_all += submit("", std::to_string(i));  // without keys there is one for all
  EXPECT_EQ(of_all, 8);
  while (scheduler.step(0)) {
  }
  for (int i = 0; i < 6; ++i) EXPECT_TRUE(submit("a", "")) << "places come back";
}

TEST(Scheduler, OtherThreadsSeeTheLastStep) {
  FakeDecoder decoder;
  Scheduler scheduler(decoder, {.max_running = 1});
  const auto first = std::make_shared<Record>(), second = std::make_shared<Record>();
  scheduler.submit(submission({5, 6}, 20, first), 0);
  scheduler.submit(submission({7, 8, 9}, 20, second), 0);
  EXPECT_EQ(scheduler.seen().waiting, 2);
  EXPECT_EQ(scheduler.seen().running, 0);
  scheduler.step(0);
  EXPECT_EQ(scheduler.seen().waiting, 1);
  EXPECT_EQ(scheduler.seen().running, 1);
  std::atomic<bool> over{false};
  std::thread other([&] {
    for (int64_t last = 0; !over;) {
      const Counters seen = scheduler.seen();
      EXPECT_GE(seen.tokens, last);
      EXPECT_LE(seen.running, 1);
      last = seen.tokens;
    }
  });
  while (scheduler.step(0)) {
  }
  over = true;
  other.join();
  EXPECT_EQ(scheduler.seen().running, 0);
  EXPECT_EQ(scheduler.seen().finished, 2);
  EXPECT_EQ(scheduler.seen().tokens, scheduler.counters().tokens);
}

TEST(Scheduler, ALongPromptDoesNotHoldUpAnAnswerOrAShortPrompt) {
  std::mt19937_64 random(4);
  FakeDecoder decoder;
  Scheduler scheduler(decoder, {.rows_per_step = 32});
  const auto stream = std::make_shared<Record>(), prompt = std::make_shared<Record>(),
             brief = std::make_shared<Record>();
  scheduler.submit(submission({5, 6}, 500, stream), 0);
  scheduler.step(0);
  scheduler.submit(submission(prompt_of(random, 2000), 5, prompt, "key", "long"), 0);
  scheduler.submit(submission(prompt_of(random, 12), 5, brief, "key", "short"), 0);
  const size_t before = stream->tokens.size();
  for (int i = 0; i < 3; ++i) scheduler.step(0);
  EXPECT_EQ(stream->tokens.size() + static_cast<size_t>(stream->n_done), before + 3);
  EXPECT_GE(brief->tokens.size() + static_cast<size_t>(brief->n_done), 1u);
  EXPECT_LT(prompt->read_to, 100);
  while (scheduler.step(0)) {
  }
  EXPECT_EQ(prompt->n_done, 1);
}

TEST(Scheduler, TheNextTurnGoesOnFromWhatRestsInMemoryOfTheSameUserOnly) {
  std::mt19937_64 random(5);
  FakeDecoder decoder;
  Scheduler scheduler(decoder, {});
  const auto turn = [&](const std::vector<TokenId>& prompt, const std::string& key, const std::string& user) {
    auto record = std::make_shared<Record>();
    scheduler.submit(submission(prompt, 8, record, key, user), 0);
    while (scheduler.step(0)) {
    }
    EXPECT_EQ(record->tokens, decoder.expected(prompt, 8));
    return record;
  };
  std::vector<TokenId> prompt = prompt_of(random, 50);
  const auto first = turn(prompt, "k", "u");
  EXPECT_EQ(first->reused, 0);
  std::vector<TokenId> next = prompt;
  next.insert(next.end(), first->tokens.begin(), first->tokens.end());
  next.push_back(7);
  EXPECT_EQ(turn(next, "k", "v")->reused, 0);
  EXPECT_EQ(turn(next, "l", "u")->reused, 0);
  EXPECT_GE(turn(next, "k", "u")->reused, static_cast<int64_t>(prompt.size()));
  EXPECT_EQ(turn(prompt_of(random, 60), "k", "u")->reused, 0);
}

TEST(Scheduler, CancellingGivesTheMemoryBackInOneStep) {
  FakeDecoder decoder;
  Scheduler scheduler(decoder, {.kv_bytes = 0});  // nothing rests
  const auto record = std::make_shared<Record>();
  std::mt19937_64 random(6);
  const auto ticket = scheduler.submit(submission(prompt_of(random, 900), 900, record), 0);
  for (int i = 0; i < 4; ++i) scheduler.step(0);
  EXPECT_GT(scheduler.counters().state_bytes, 0);
  scheduler.cancel(ticket.id);
  scheduler.cancel(ticket.id + 100);  // of nobody
  scheduler.step(0);
  EXPECT_EQ(record->n_done, 1);
  EXPECT_EQ(record->status.error().code, Code::kCancelled);
  EXPECT_EQ(scheduler.counters().state_bytes + scheduler.counters().resting_bytes, 0);
  EXPECT_FALSE(scheduler.step(0));
}

TEST(Scheduler, ASinkThatHasEnoughEndsTheCompletion) {
  FakeDecoder decoder;
  Scheduler scheduler(decoder, {});
  const auto record = std::make_shared<Record>();
  record->enough = 3;
  scheduler.submit(submission({3, 4, 5}, 50, record), 0);
  while (scheduler.step(0)) {
  }
  auto expected = decoder.expected({3, 4, 5}, 50);
  ASSERT_GT(expected.size(), 3u);
  expected.resize(3);
  EXPECT_EQ(record->tokens, expected);
  EXPECT_TRUE(record->status.ok());
  EXPECT_EQ(record->completion.finish, engine::Finish::kStop);
}

TEST(Scheduler, RefusesWhatItCannotHoldAndWhatIsInvalid) {
  std::mt19937_64 random(7);
  FakeDecoder decoder;
  Scheduler scheduler(decoder, {.max_running = 1, .max_waiting = 2, .max_per_key = 2});
  const auto submit = [&](const std::string& key, std::vector<TokenId> prompt) {
    auto record = std::make_shared<Record>();
    return std::pair(scheduler.submit(submission(std::move(prompt), 40, record, key), 0).refused, record);
  };
  const auto first = submit("a", prompt_of(random, 9));
  EXPECT_FALSE(first.first);
  EXPECT_FALSE(submit("a", prompt_of(random, 9)).first);
  EXPECT_EQ(submit("a", prompt_of(random, 9)).first, Refusal::kKeyLimit);
  EXPECT_EQ(submit("b", prompt_of(random, 9)).first, Refusal::kQueueFull);
  scheduler.step(0);  // one runs: a place in the queue is free
  const auto bad = submit("b", {2, 99});
  EXPECT_FALSE(bad.first);
  EXPECT_EQ(submit("c", prompt_of(random, 9)).first, Refusal::kQueueFull);
  while (scheduler.step(0)) {
  }
  EXPECT_EQ(bad.second->n_done, 1);
  EXPECT_EQ(bad.second->status.error().code, Code::kInvalid);
  EXPECT_FALSE(submit("a", prompt_of(random, 9)).first);  // places are given back
  const auto waits = submit("z", prompt_of(random, 9));
  scheduler.step(0);
  scheduler.step(601);
  EXPECT_EQ(waits.second->n_done, 1);
  EXPECT_EQ(waits.second->status.error().code, Code::kBusy);
  EXPECT_EQ(scheduler.counters().expired, 1);
}

TEST(Scheduler, AFailedStepFailsWhatRanAndNothingElse) {
  std::mt19937_64 random(8);
  FakeDecoder decoder;
  Scheduler scheduler(decoder, {.max_running = 2});
  std::vector<std::shared_ptr<Record>> records;
  for (int i = 0; i < 3; ++i) {
    records.push_back(std::make_shared<Record>());
    scheduler.submit(submission({3, TokenId(4 + i)}, 30, records.back()), 0);
  }
  scheduler.step(0);
  decoder.fail_after = 0;
  scheduler.step(0);
  decoder.fail_after = -1;
  while (scheduler.step(0)) {
  }
  EXPECT_EQ(records[0]->status.error().code, Code::kCorrupt);
  EXPECT_EQ(records[1]->status.error().code, Code::kCorrupt);
  EXPECT_TRUE(records[2]->status.ok());
  EXPECT_EQ(records[2]->tokens, decoder.expected({3, 6}, 30));
}

TEST(Scheduler, DrainingEndsWhatRunsAndRefusesTheRest) {
  std::mt19937_64 random(9);
  FakeDecoder decoder;
  Scheduler scheduler(decoder, {.max_running = 1});
  const auto runs = std::make_shared<Record>(), waits = std::make_shared<Record>();
  scheduler.submit(submission(prompt_of(random, 30), 3000, runs), 0);
  scheduler.submit(submission(prompt_of(random, 30), 3000, waits), 0);
  scheduler.step(0);
  scheduler.drain(false);
  EXPECT_EQ(scheduler.submit(submission({3}, 3, waits), 0).refused, Refusal::kDraining);
  scheduler.step(0);
  EXPECT_EQ(runs->n_done, 0);
  scheduler.drain(true);
  while (scheduler.step(0)) {
  }
  EXPECT_EQ(runs->status.error().code, Code::kBusy);
  EXPECT_EQ(waits->status.error().code, Code::kBusy);
}

}  // namespace
}  // namespace hadal::serve
