// What the ledger holds outlives kills, full disks and damage next to it.

#include "serve/ledger.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>

#include "base/file.h"
#include "base/utc.h"
#include "tests/support/shared.h"

namespace hadal::serve {
namespace {

using By = LedgerFile::By;
using testing::temp_dir;

LedgerRow row(const std::string& key, PicoUsd cost, const std::string& day = "2026-09-10") {
  return {.time_ms = *parse_utc(day) * 1000,
          .key = key,
          .user = "u",
          .endpoint = "/chat/completions",
          .model = "m",
          .finish = "stop",
          .prompt_tokens = 100,
          .hit_tokens = 20,
          .output_tokens = 7,
          .reasoning_tokens = 3,
          .cost = cost,
          .seconds = 0.5};
}
int64_t rows_in(const std::string& path) {
  int64_t n = 0;
  const auto file = LedgerFile::open_to_read(path);
  if (!file.ok()) return 0;
  const auto sums = file.value().sums(By::kKey);
  EXPECT_TRUE(sums.ok()) << sums.error().message;
  if (sums.ok())
    for (const auto& sum : sums.value()) n += sum.requests;
  return n;
}
template <class F>
bool eventually(F&& f) {
  for (int i = 0; i < 3000; ++i) {
    if (f()) return true;
    ::usleep(10000);
  }
  return false;
}

TEST(LedgerFile, AddsUp) {
  const std::string path = temp_dir("ledger") + "/l.sqlite";
  auto file = LedgerFile::open(path).value();
  ASSERT_TRUE(file.write({row("b", 5), row("a", 1), row("a", 2, "2026-09-11")}).ok());
  LedgerRow other = row("", 0, "2026-09-12");
  other.model = "it's; \"n\"";
  other.endpoint = "/messages";
  ASSERT_TRUE(file.write({other}).ok());
  const auto names = [&](By by, int64_t since = INT64_MIN, int64_t until = INT64_MAX) {
    std::string all;
    const auto sums = file.sums(by, since, until).value();
    for (const auto& sum : sums)
      all += sum.name + ":" + std::to_string(sum.requests) + ":" + std::to_string(sum.cost) + " ";
    return all;
  };
  EXPECT_EQ(names(By::kKey), ":1:0 a:2:3 b:1:5 ");
  EXPECT_EQ(names(By::kDay), "2026-09-10:2:6 2026-09-11:1:2 2026-09-12:1:0 ");
  EXPECT_EQ(names(By::kModel), "it's; \"n\":1:0 m:3:8 ");
  EXPECT_EQ(names(By::kEndpoint), "/chat/completions:3:8 /messages:1:0 ");
  const int64_t day = *parse_utc("2026-09-11") * 1000;
  EXPECT_EQ(names(By::kKey, day), ":1:0 a:1:2 ");
  EXPECT_EQ(names(By::kKey, INT64_MIN, day), "a:1:1 b:1:5 ");
  const auto a = file.sums(By::kKey).value()[1];
  EXPECT_EQ(a.prompt_tokens, 200);
  EXPECT_EQ(a.hit_tokens, 40);
  EXPECT_EQ(a.output_tokens, 14);
  EXPECT_EQ(a.reasoning_tokens, 6);
  struct stat s {};
  ASSERT_EQ(::stat(path.c_str(), &s), 0);
  EXPECT_EQ(s.st_mode & 0777, 0600u);
}

TEST(LedgerFile, TwoReadAndOneWritesAtOnce) {
  const std::string path = temp_dir("ledger") + "/l.sqlite";
  auto file = LedgerFile::open(path).value();
  ASSERT_TRUE(file.write({row("a", 1)}).ok());
  const auto one = LedgerFile::open_to_read(path).value(), two = LedgerFile::open_to_read(path).value();
  EXPECT_EQ(one.sums(By::kKey).value()[0].requests, 1);
  ASSERT_TRUE(file.write({row("a", 1)}).ok());
  EXPECT_EQ(one.sums(By::kKey).value()[0].requests, 2);
  EXPECT_EQ(two.sums(By::kKey).value()[0].requests, 2);
  auto second = LedgerFile::open(path).value();  // another server
  ASSERT_TRUE(second.write({row("a", 1)}).ok());
  ASSERT_TRUE(file.write({row("a", 1)}).ok());
  EXPECT_EQ(two.sums(By::kKey).value()[0].requests, 4);
}

TEST(LedgerFile, RefusesWhatIsNone) {
  const std::string directory = temp_dir("ledger"), path = directory + "/l.sqlite";
  const auto errors = [](const std::string& file) {
    return std::pair{LedgerFile::open(file).error().message, LedgerFile::open_to_read(file).error().message};
  };
  std::ofstream(path) << std::string(5000, 'x');
  EXPECT_EQ(errors(path), (std::pair{path + ": expected a ledger: file is not a database",
                                     path + ": expected a ledger: file is not a database"}));
  EXPECT_EQ(read_file(path).value(), std::string(5000, 'x'));
  const std::string other = directory + "/other.sqlite";
  {
    LedgerFile::open(other).value();
    std::fstream file(other, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(68);  // the application's id
    file.write("none", 4);
  }
  const std::string expected = other + ": expected a ledger, found another SQLite database";
  EXPECT_EQ(errors(other), (std::pair{expected, expected}));
  EXPECT_EQ(LedgerFile::open_to_read(directory + "/missing").error().message, directory + "/missing: no such file");
  EXPECT_FALSE(file_exists(directory + "/missing"));
  EXPECT_EQ(LedgerFile::open("/nonexistent/l").error().message,
            "/nonexistent/l: cannot open: No such file or directory");
  EXPECT_EQ(LedgerFile::open(directory).error().message, directory + ": cannot open: Is a directory");
}

TEST(LedgerFile, RefusesWhatNamesNoFile) {
  for (const char* none : {"", ":memory:"}) {
    EXPECT_EQ(LedgerFile::open(none).error().message,
              "the ledger: expected a file, found \"" + std::string(none) + "\"");
    EXPECT_FALSE(LedgerFile::open_to_read(none).ok());
    EXPECT_FALSE(file_exists(":memory:"));
  }
}

// Rows are never written to a file that has no name any more: they wait until it is back.
TEST(Ledger, WaitsForAFileThatWasMovedAway) {
  const std::string path = temp_dir("ledger") + "/l.sqlite";
  ::testing::internal::CaptureStderr();
  {
    Ledger ledger(LedgerFile::open(path).value());
    ledger.append(row("a", 1));
    ASSERT_TRUE(eventually([&] { return ledger.seen().written == 1; }));
    std::filesystem::rename(path, path + ".old");
    for (int i = 0; i < 5; ++i) ledger.append(row("a", 1));
    EXPECT_TRUE(eventually([&] { return ledger.seen().failures >= 2; }));
    EXPECT_EQ(ledger.seen().written, 1);
    EXPECT_FALSE(file_exists(path));
    std::filesystem::rename(path + ".old", path);
    EXPECT_TRUE(eventually([&] { return ledger.seen().written == 6; }));
    std::filesystem::rename(path, path + ".old");
    ledger.append(row("a", 1));
    EXPECT_TRUE(eventually([&] { return ledger.seen().failures >= 3; }));
    EXPECT_EQ(rows_in(path + ".old"), 6);  // without the log beside it, which has its old name
    LedgerFile::open(path).value();        // another ledger is not this one
    ledger.append(row("a", 1));
    EXPECT_TRUE(eventually([&] { return ledger.seen().failures >= 5; }));
    EXPECT_EQ(ledger.seen().written, 6);
  }
  const std::string said = ::testing::internal::GetCapturedStderr();
  EXPECT_TRUE(said.starts_with("hadal: " + path + ": expected the file that was opened, found none; ")) << said;
  EXPECT_NE(said.find("hadal: the ledger lost 2 rows"), std::string::npos) << said;
  EXPECT_EQ(std::count(said.begin(), said.end(), '\n'), 3) << said;
  EXPECT_EQ(rows_in(path), 0);
  EXPECT_EQ(rows_in(path + ".old"), 6);
}

TEST(LedgerFile, LeavesNothingBehindWhenItWasMoved) {
  const std::string path = temp_dir("ledger") + "/l.sqlite";
  {
    auto file = LedgerFile::open(path).value();
    ASSERT_TRUE(file.write({row("a", 1)}).ok());
    std::filesystem::rename(path, path + ".old");
  }
  auto next = LedgerFile::open(path).value();
  EXPECT_EQ(next.write({row("b", 1)}).ok(), true);
  EXPECT_EQ(rows_in(path), 1);
  EXPECT_EQ(rows_in(path + ".old"), 1);
  std::filesystem::rename(path, path + ".gone");
  LedgerFile::open(path).value();
  EXPECT_EQ(next.write({row("b", 1)}).error().message, path + ": expected the file that was opened, found another");
}

TEST(Ledger, IsWhereItWasWhateverTheWorkingDirectory) {
  const std::string directory = temp_dir("ledger");
  const auto before = std::filesystem::current_path();
  std::filesystem::current_path(directory);
  {
    Ledger ledger(LedgerFile::open("l.sqlite").value());
    std::filesystem::current_path("/");
    ledger.append(row("a", 1));
    EXPECT_TRUE(eventually([&] { return ledger.seen().written == 1; }));
  }
  std::filesystem::current_path(before);
  EXPECT_EQ(rows_in(directory + "/l.sqlite"), 1);
}

TEST(LedgerFile, ADamagedPageIsAnErrorNotANumber) {
  const std::string path = temp_dir("ledger") + "/l.sqlite";
  {
    auto file = LedgerFile::open(path).value();
    for (int i = 0; i < 50; ++i) ASSERT_TRUE(file.write(std::vector<LedgerRow>(100, row("a", 1))).ok());
  }
  {
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(5 * 4096);
    file.write(std::string(8192, '\xFF').data(), 8192);
  }
  const auto file = LedgerFile::open_to_read(path);
  ASSERT_TRUE(file.ok()) << file.error().message;
  const auto sums = file.value().sums(By::kKey);
  ASSERT_FALSE(sums.ok());
  EXPECT_EQ(sums.error().code, Code::kCorrupt);
  EXPECT_TRUE(sums.error().message.starts_with(path + ": expected a ledger: ")) << sums.error().message;
}

TEST(LedgerFile, IsReadWhereNothingMayBeWritten) {
  const std::string directory = temp_dir("ledger"), path = directory + "/l.sqlite";
  ASSERT_TRUE(LedgerFile::open(path).value().write({row("a", 1)}).ok());
  ::chmod(path.c_str(), 0444);
  ::chmod(directory.c_str(), 0555);
  // As somebody without privileges: to root everything may be written.
  const pid_t child = ::fork();
  if (child == 0) {
    if (::geteuid() == 0 && (::setgid(65534) != 0 || ::setuid(65534) != 0)) ::_exit(77);
    if (::access(path.c_str(), R_OK) != 0) ::_exit(77);  // a folder above keeps others out
    const auto file = LedgerFile::open_to_read(path);
    const auto sums = file.ok() ? file.value().sums(By::kKey) : file.error();
    const bool cannot_write = !LedgerFile::open(path).ok() && !LedgerFile::open(directory + "/new").ok();
    ::_exit(sums.ok() && sums.value().at(0).requests == 1 && cannot_write ? 0 : 1);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  ::chmod(directory.c_str(), 0755);
  if (WEXITSTATUS(status) == 77) GTEST_SKIP() << "cannot become another user";
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

TEST(Ledger, AKillLosesNoRowThatWasSeen) {
  const std::string path = temp_dir("ledger") + "/l.sqlite";
  int64_t seen = 0;
  for (int round = 0; round < 5; ++round) {
    const pid_t child = ::fork();
    if (child == 0) {
      Ledger ledger(LedgerFile::open(path).value());
      for (;;) {
        for (int i = 0; i < 50; ++i) ledger.append(row("a", 3));
        ::usleep(100);
      }
    }
    ASSERT_TRUE(eventually([&] { return rows_in(path) > seen + 100; }));
    seen = rows_in(path);
    ::kill(child, SIGKILL);
    ::waitpid(child, nullptr, 0);
    const auto sums = LedgerFile::open(path).value().sums(By::kKey).value();
    EXPECT_GE(sums.at(0).requests, seen);
    EXPECT_EQ(sums[0].cost, 3 * sums[0].requests);  // whole rows only
    seen = sums[0].requests;
  }
}

TEST(Ledger, WritesWhatWaitsAtTheEnd) {
  const std::string path = temp_dir("ledger") + "/l.sqlite";
  {
    Ledger ledger(LedgerFile::open(path).value());
    for (int i = 0; i < 1000; ++i) ledger.append(row("a", 1));
  }
  EXPECT_EQ(rows_in(path), 1000);
}

// A limit on file sizes stands for a full disk. Rows wait for it to have room again; too many are lost and counted.
TEST(Ledger, AFullDiskHoldsNobodyUp) {
  const std::string path = temp_dir("ledger") + "/l.sqlite";
  Ledger ledger(LedgerFile::open(path).value());
  ledger.append(row("a", 1));
  ASSERT_TRUE(eventually([&] { return ledger.seen().written == 1; }));
  const auto before = ::signal(SIGXFSZ, SIG_IGN);
  rlimit limit{};
  ::getrlimit(RLIMIT_FSIZE, &limit);
  const rlimit small{16384, limit.rlim_max};
  ::setrlimit(RLIMIT_FSIZE, &small);
  ::testing::internal::CaptureStderr();
  for (int i = 0; i < 1000; ++i) ledger.append(row("a", 1));
  EXPECT_TRUE(eventually([&] { return ledger.seen().failures >= 2; }));
  for (size_t i = 0; i < Ledger::kMostWaiting; ++i) ledger.append(row("a", 1));
  EXPECT_GT(ledger.seen().lost, 0);
  ::setrlimit(RLIMIT_FSIZE, &limit);
  ::signal(SIGXFSZ, before);
  EXPECT_TRUE(eventually([&] { return ledger.seen().written + ledger.seen().lost == 1001 + 10'000; }));
  EXPECT_EQ(rows_in(path), ledger.seen().written);
  const std::string said = ::testing::internal::GetCapturedStderr();
  EXPECT_EQ(std::count(said.begin(), said.end(), '\n'), 1) << said;
  EXPECT_TRUE(said.starts_with("hadal: " + path + ": the ledger fails: ")) << said;
}

}  // namespace
}  // namespace hadal::serve
