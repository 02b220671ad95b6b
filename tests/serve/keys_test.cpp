#include "serve/keys.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <thread>

#include "base/file.h"
#include "tests/support/shared.h"

namespace hadal::serve {
namespace {

using testing::temp_dir;

Key key_named(const std::string& name, const std::string& secret = "") {
  Key key;
  key.name = name;
  key.hash = key_hash(secret.empty() ? name : secret);
  return key;
}
std::string hash(char digit) { return std::string(64, digit); }

TEST(Keys, AreWrittenAsHashesThatOnlyTheOwnerReads) {
  const std::string path = temp_dir("keys") + "/keys.jsonl";
  const std::string secret = new_key();
  EXPECT_EQ(secret.size(), 67u);
  EXPECT_TRUE(secret.starts_with("sk-"));
  EXPECT_NE(secret, new_key());
  Key key = key_named("alice", secret);
  key.concurrent = 2;
  key.requests_per_minute = 30;
  key.tokens_per_minute = 100000;
  key.granted = kUsd * 5 / 2;
  key.created = "2026-11-28";
  ASSERT_TRUE(add_key(path, key).ok());
  ASSERT_TRUE(add_key(path, key_named("bob")).ok());
  struct stat s {};
  ASSERT_EQ(::stat(path.c_str(), &s), 0);
  EXPECT_EQ(s.st_mode & 0777, 0600u);
  const std::string text = read_file(path).value();
  EXPECT_EQ(text.find(secret.substr(3)), std::string::npos);
  EXPECT_EQ(text.substr(0, text.find('\n')), R"({"name": "alice", "sha256": ")" + key_hash(secret) +
                                                 R"(", "created": "2026-11-28", "concurrent": 2, )"
                                                 R"("requests_per_minute": 30, "tokens_per_minute": 100000, )"
                                                 R"("granted_usd": 2.50})");
  const auto keys = read_keys(path).value();
  ASSERT_EQ(keys.size(), 2u);
  EXPECT_EQ(keys[0].granted, key.granted);
  EXPECT_EQ(keys[0].tokens_per_minute, 100000);
  EXPECT_EQ(keys[1].granted, std::nullopt);
  EXPECT_EQ(find_key(keys, secret), &keys[0]);
  EXPECT_EQ(find_key(keys, "bob"), &keys[1]);
  for (const std::string& other : {std::string(), secret + "0", secret.substr(1), key_hash(secret)})
    EXPECT_EQ(find_key(keys, other), nullptr);
  EXPECT_EQ(key_hash("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST(Keys, EditsKeepOtherLines) {
  const std::string path = temp_dir("keys") + "/keys.jsonl";
  std::ofstream(path) << "# ours\n\n{\"name\": \"a\", \"sha256\": \"" << hash('a')
                      << "\"}\r\n{\"name\": \"b\", \"sha256\": \"" << hash('b') << "\"}";  // and no end of line
  ASSERT_TRUE(add_key(path, key_named("c")).ok());
  const std::string three = read_file(path).value();
  EXPECT_TRUE(three.starts_with("# ours\n\n{\"name\": \"a\""));
  EXPECT_EQ(read_keys(path).value().size(), 3u);
  EXPECT_EQ(add_key(path, key_named("b")).error().message, path + ": expected a new name, found b in it");
  EXPECT_EQ(remove_key(path, "d").error().message, path + ": no key is named d");
  EXPECT_EQ(read_file(path).value(), three);
  ASSERT_TRUE(remove_key(path, "a").ok());
  ASSERT_TRUE(remove_key(path, "c").ok());
  EXPECT_EQ(read_file(path).value(), "# ours\n\n{\"name\": \"b\", \"sha256\": \"" + hash('b') + "\"}\n");
  EXPECT_FALSE(remove_key(path + "2", "b").ok());
  EXPECT_FALSE(file_exists(path + "2"));
  EXPECT_FALSE(add_key("/nonexistent/keys", key_named("a")).ok());
}

TEST(Keys, EditsAtOnceLoseNothing) {
  const std::string path = temp_dir("keys") + "/keys.jsonl";
  std::vector<std::thread> threads;
  for (int i = 0; i < 16; ++i)
    threads.emplace_back([&, i] { EXPECT_TRUE(add_key(path, key_named("k" + std::to_string(i))).ok()); });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(read_keys(path).value().size(), 16u);
}

TEST(Keys, EditsKeepLinksModesAndOwners) {
  const std::string directory = temp_dir("keys"), path = directory + "/real/keys.jsonl", link = directory + "/link";
  std::filesystem::create_directory(directory + "/real");
  std::filesystem::create_symlink("real/first", link);  // a link to a link to what is not there yet
  std::filesystem::create_symlink(path, directory + "/real/first");
  ASSERT_TRUE(add_key(link, key_named("a")).ok());
  EXPECT_TRUE(std::filesystem::is_symlink(link));
  EXPECT_EQ(read_keys(path).value().size(), 1u);
  ASSERT_EQ(::chmod(path.c_str(), 0640), 0);
  const bool is_root = ::geteuid() == 0;
  const uid_t owner = is_root ? 65534 : ::geteuid();
  if (is_root) {
    ASSERT_EQ(::chown(path.c_str(), owner, 65534), 0);
  }
  ASSERT_TRUE(add_key(link, key_named("b")).ok());
  ASSERT_TRUE(remove_key(path, "a").ok());
  EXPECT_TRUE(std::filesystem::is_symlink(link));
  EXPECT_EQ(read_keys(link).value().size(), 1u);
  struct stat s {};
  ASSERT_EQ(::stat(path.c_str(), &s), 0);
  EXPECT_EQ(s.st_mode & 07777, 0640u);
  EXPECT_EQ(s.st_uid, owner);
  std::filesystem::create_symlink("loop", directory + "/loop");
  EXPECT_TRUE(add_key(directory + "/loop", key_named("a")).error().message.starts_with(directory + "/loop: "));
}

// A signal ends the wait for the lock: that is no lock.
TEST(Keys, NobodyEditsWithoutTheLock) {
  const std::string directory = temp_dir("keys"), path = directory + "/keys.jsonl";
  const int other = ::open(directory.c_str(), O_RDONLY | O_DIRECTORY);
  ASSERT_EQ(::flock(other, LOCK_EX), 0);
  struct sigaction before {
  }, quiet{};
  quiet.sa_handler = [](int) {};  // and no SA_RESTART
  ::sigaction(SIGUSR1, &quiet, &before);
  std::atomic<bool> over{false};
  std::thread editor([&] {
    EXPECT_TRUE(add_key(path, key_named("a")).ok());
    over = true;
  });
  for (int i = 0; i < 20; ++i) {
    ::usleep(10000);
    ::pthread_kill(editor.native_handle(), SIGUSR1);
  }
  ::usleep(50000);
  EXPECT_FALSE(over);
  EXPECT_FALSE(file_exists(path));
  ::close(other);
  editor.join();
  ::sigaction(SIGUSR1, &before, nullptr);
  EXPECT_EQ(read_keys(path).value().size(), 1u);
}

TEST(Keys, GrantsAreExact) {
  for (const auto& [text, expected] :
       std::vector<std::pair<std::string, std::string>>{{"0", "0.00"},
                                                        {"0.000001", "0.000001"},
                                                        {"1e-6", "0.000001"},
                                                        {"0.1", "0.10"},
                                                        {"2.300001", "2.300001"},
                                                        {"123456.789012", "123456.789012"},
                                                        {"1000000", "1000000.00"}}) {
    const auto keys =
        parse_keys(R"({"name": "a", "sha256": ")" + hash('a') + R"(", "granted_usd": )" + text + "}", "f");
    ASSERT_TRUE(keys.ok()) << keys.error().message;
    EXPECT_EQ(usd_text(*keys.value()[0].granted), expected);
  }
}

TEST(Keys, WrongFilesSayWhere) {
  const std::string good = R"({"name": "a", "sha256": ")" + hash('a') + "\"";
  for (const auto& [text, expected] : std::vector<std::pair<std::string, std::string>>{
           {"x", "f: line 1: "},
           {"\n# c\n[]", "f: line 3: expected an object, found array"},
           {"{}", "f: line 1: name: expected one"},
           {R"({"name": "a"})", "f: line 1: sha256: expected one"},
           {R"({"name": "a b", "sha256": ")" + hash('a') + "\"}", "f: line 1: name: expected 1 to 64 letters"},
           {R"({"name": "a", "sha256": ")" + hash('A') + "\"}", "f: line 1: sha256: expected 64 hex digits"},
           {R"({"name": "a", "sha256": "sk-1"})", "f: line 1: sha256: expected 64 hex digits"},
           {good + R"(, "concurent": 3})", "f: line 1: concurent: expected one of name, "},
           {good + R"(, "concurrent": 0})", "f: line 1: concurrent: expected a number from 1"},
           {good + R"(, "concurrent": 1.5})", "f: line 1: concurrent: expected a number from 1"},
           {good + R"(, "granted_usd": -1})", "f: line 1: granted_usd: expected USD"},
           {good + R"(, "granted_usd": 1e-9})", "f: line 1: granted_usd: expected USD"},
           {good + R"(, "granted_usd": 0.0000015})", "at most six decimals"},
           {good + R"(, "granted_usd": 999999.0000001})", "at most six decimals"},
           {good + R"(, "granted_usd": 1000000.1})", "f: line 1: granted_usd: expected USD"},
           {good + R"(, "granted_usd": NaN})", "f: line 1: granted_usd: expected USD"},
           {good + R"(, "granted_usd": "5"})", "f: line 1: granted_usd: expected USD"},
           {good + R"(, "name": "b"})", "f: line 1: "},
           {good + "}\n" + good + "}", "f: line 2: expected a new name and key, found those of a"}}) {
    const auto parsed = parse_keys(text, "f");
    ASSERT_FALSE(parsed.ok()) << text;
    EXPECT_NE((parsed.error().message + "\n").find(expected), std::string::npos) << parsed.error().message;
  }
}

}  // namespace
}  // namespace hadal::serve
