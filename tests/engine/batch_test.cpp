// Batches: whoever runs beside a completion must change nothing in it.

#include "engine/batch.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>

#include "engine/session.h"
#include "tests/support/model.h"
#include "tests/support/shared.h"

namespace hadal::engine {
namespace {

std::unique_ptr<Engine> open_micro() {
  auto engine = Engine::open({.model = testing::fixture("micro"), .threads = 2});
  EXPECT_TRUE(engine.ok()) << (engine.ok() ? "" : engine.error().message);
  return std::move(engine).value();
}

// Requests of different lengths, limits and sampling join over time, some are stopped: tokens equal
// those alone.
TEST(Batch, CompletionsEqualThoseAlone) {
  const auto engine = open_micro();
  for (const uint64_t seed : {11, 12, 13}) {
    SCOPED_TRACE(seed);
    std::mt19937_64 random(seed);
    struct Job {
      std::vector<TokenId> prompt, expected, got;
      sample::Options sampling;
      int64_t max_tokens = 0;
      bool done = false;
    };
    std::vector<Job> jobs(6);
    for (Job& job : jobs) {
      job.prompt = testing::random_tokens(random(), 1 + static_cast<int64_t>(random() % 90), 96);
      job.sampling = {.temperature = random() % 2 ? 1.0f : 0.0f, .repetition_penalty = 1.2f, .seed = random()};
      job.max_tokens = 1 + static_cast<int64_t>(random() % 30);
      Session alone(*engine);
      const auto completion = alone.generate(job.prompt, {.sampling = job.sampling, .max_tokens = job.max_tokens});
      ASSERT_TRUE(completion.ok()) << completion.error().message;
      job.expected = completion.value().tokens;
    }
    Batch batch(*engine, 1 + static_cast<int64_t>(random() % 40));
    std::map<int, size_t> job_of;
    std::vector<Event> events;
    size_t next = 0, most = 0;
    while (next < jobs.size() || !batch.empty()) {
      if (next < jobs.size() && (batch.empty() || random() % 3 == 0)) {
        const Job& job = jobs[next];
        const auto id =
            batch.add({.prompt = job.prompt, .start = {}, .sampling = job.sampling, .max_tokens = job.max_tokens});
        ASSERT_TRUE(id.ok());
        job_of[id.value()] = next++;
      }
      most = std::max(most, batch.size());
      ASSERT_TRUE(batch.step(events).ok());
      for (const Event& event : events) {
        Job& job = jobs[job_of.at(event.id)];
        EXPECT_FALSE(job.done);
        if (event.kind == Event::Kind::kToken) job.got.push_back(event.choice.token);
        if (event.kind == Event::Kind::kDone) {
          job.done = true;
          EXPECT_EQ(batch.take(event.id).completion.tokens, job.got);
        }
      }
    }
    EXPECT_GT(most, 1u);  // it did run side by side
    for (const Job& job : jobs) EXPECT_EQ(job.got, job.expected);
  }
}

TEST(Batch, ALongPromptDoesNotHoldUpARunningCompletion) {
  const auto engine = open_micro();
  Batch batch(*engine, 8);
  std::vector<Event> events;
  const int running = batch
                          .add({.prompt = testing::random_tokens(1, 8, 96),
                                .start = {},
                                .sampling = {.temperature = 1, .seed = 3},
                                .max_tokens = 40})
                          .value();
  ASSERT_TRUE(batch.step(events).ok());
  ASSERT_TRUE(std::any_of(events.begin(), events.end(), [](const Event& e) { return e.kind == Event::Kind::kToken; }));
  const int reading =
      batch.add({.prompt = testing::random_tokens(2, 60, 96), .start = {}, .sampling = {}, .max_tokens = 1}).value();
  for (int step = 0; step < 5; ++step) {
    ASSERT_TRUE(batch.step(events).ok());
    for (const Event& event : events)
      if (event.id == reading) {
        EXPECT_EQ(event.kind, Event::Kind::kRead);
        EXPECT_EQ(event.prompt_done, 7 * (step + 1));  // one of the eight rows is the other's token
      }
    const bool moved = std::any_of(events.begin(), events.end(), [&](const Event& e) { return e.id == running; });
    EXPECT_TRUE(moved);
    if (std::any_of(events.begin(), events.end(),
                    [&](const Event& e) { return e.id == running && e.kind == Event::Kind::kDone; }))
      break;
  }
}

TEST(Batch, PausesStartsStopsAndErrors) {
  const auto engine = open_micro();
  const auto prompt = testing::random_tokens(5, 50, 96);
  std::vector<Event> events;
  Batch batch(*engine);
  const int first =
      batch.add({.prompt = prompt, .start = {}, .sampling = {.temperature = 0}, .max_tokens = 6, .pauses = {21, 30}})
          .value();
  std::optional<Context> kept;
  std::vector<int64_t> read;
  while (!batch.empty()) {
    ASSERT_TRUE(batch.step(events).ok());
    for (const Event& event : events)
      if (event.kind == Event::Kind::kRead) read.push_back(event.prompt_done);
    if (!read.empty() && read.back() == 21) kept = Context{batch.context(first).state.fork(), batch.context(first).ids};
  }
  EXPECT_EQ(read, (std::vector<int64_t>{21, 30, 50}));
  Finished finished = batch.take(first);
  ASSERT_TRUE(kept);
  EXPECT_EQ(kept->state.length(), 21);
  const int again =
      batch.add({.prompt = prompt, .start = std::move(kept), .sampling = {.temperature = 0}, .max_tokens = 6}).value();
  while (!batch.empty()) ASSERT_TRUE(batch.step(events).ok());
  const Finished resumed = batch.take(again);
  EXPECT_EQ(resumed.completion.reused_tokens, 21);
  EXPECT_EQ(resumed.completion.tokens, finished.completion.tokens);

  const int stopped = batch.add({.prompt = prompt, .start = {}, .sampling = {}}).value();
  ASSERT_TRUE(batch.step(events).ok());
  batch.stop(stopped, Finish::kCancelled);
  ASSERT_TRUE(batch.step(events).ok());
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0].finish, Finish::kCancelled);
  EXPECT_TRUE(batch.empty());
  EXPECT_EQ(batch.take(stopped).context.ids.size(), static_cast<size_t>(prompt.size()));

  EXPECT_FALSE(batch.add({.prompt = {}, .start = {}, .sampling = {}}).ok());
  EXPECT_FALSE(batch.add({.prompt = {1, 96}, .start = {}, .sampling = {}}).ok());
  EXPECT_FALSE(batch.add({.prompt = prompt, .start = {}, .sampling = {.top_p = 0}}).ok());
  Finished other = batch.take([&] {
    const int id = batch.add({.prompt = {3, 4, 5}, .start = {}, .sampling = {}, .max_tokens = 1}).value();
    while (!batch.empty()) EXPECT_TRUE(batch.step(events).ok());
    return id;
  }());
  const auto wrong = batch.add({.prompt = {4, 4, 5, 6}, .start = std::move(other.context), .sampling = {}});
  ASSERT_FALSE(wrong.ok());
  EXPECT_NE(wrong.error().message.find("prefix"), std::string::npos);
}

}  // namespace
}  // namespace hadal::engine
