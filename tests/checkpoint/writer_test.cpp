// Writing files and checkpoint directories: whole or not at all, pieces in order, shards and index.

#include "checkpoint/writer.h"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>

#include "base/file.h"
#include "base/output_file.h"
#include "checkpoint/safetensors.h"
#include "tests/support/shared.h"

namespace hadal::checkpoint {
namespace {

using testing::temp_dir;

TEST(OutputFile, IsThereWholeOrNotAtAll) {
  const std::string directory = temp_dir("output");
  {
    auto file = OutputFile::create(directory + "/a");
    ASSERT_TRUE(file.ok());
    ASSERT_TRUE(file.value().write("half", 4).ok());
  }
  EXPECT_TRUE(std::filesystem::is_empty(directory));
  ASSERT_TRUE(write_file(directory + "/a", "first").ok());
  ASSERT_TRUE(write_file(directory + "/a", "second").ok());
  EXPECT_EQ(read_file(directory + "/a").value(), "second");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(directory), {}), 1);
  const Status failed = write_file(directory + "/absent/a", "x");
  ASSERT_FALSE(failed.ok());
  EXPECT_NE(failed.error().message.find(directory + "/absent/a: cannot create: "), std::string::npos)
      << failed.error().message;
}

TEST(CheckpointWriter, AsksForRowsInOrderAndInBlocks) {
  const std::string directory = temp_dir("writer");
  auto writer = CheckpointWriter::create({.directory = directory}).value();
  // 5 MB rows: three to a piece of 16 MiB, but blocks of two.
  constexpr int64_t kRow = 5'000'000;
  std::vector<std::pair<int64_t, int64_t>> asked;
  const auto produce = [&](int64_t first, int64_t n, std::byte* rows) {
    asked.emplace_back(first, n);
    for (int64_t r = 0; r < n; ++r)
      std::memset(rows + r * kRow, static_cast<int>(first + r), static_cast<size_t>(kRow));
    return Status();
  };
  writer.add({"a", Dtype::kI8, {7, kRow}}, produce, 2);
  writer.add({"b", Dtype::kI8, {3}}, [&](int64_t first, int64_t n, std::byte* rows) {
    asked.emplace_back(first, n);
    std::memcpy(rows, "xyz", 3);
    return Status();
  });
  EXPECT_EQ(writer.total_bytes(), 7 * kRow + 3);
  EXPECT_EQ(writer.write_tensors().value(), 1);
  EXPECT_EQ(asked, (std::vector<std::pair<int64_t, int64_t>>{{0, 2}, {2, 2}, {4, 2}, {6, 1}, {0, 1}}));
  ASSERT_TRUE(writer.finish(json::Object{}).ok());
  const auto map = FileMap::open(directory + "/model.safetensors");
  const auto header = parse_header(map.value().bytes(), map.value().bytes().size(), "f");
  ASSERT_TRUE(header.ok()) << header.error().message;
  for (int64_t r = 0; r < 7; ++r)
    EXPECT_EQ(map.value().bytes()[header.value().tensors[0].begin + static_cast<uint64_t>(r * kRow)],
              static_cast<std::byte>(r));
  EXPECT_EQ(header.value().tensors[1].name, "b");
  EXPECT_EQ(header.value().tensors[0].begin % 8, 0u);
}

CheckpointWriter::Producer zeros(int64_t bytes) {
  return [bytes](int64_t, int64_t, std::byte* rows) {
    std::memset(rows, 0, static_cast<size_t>(bytes));
    return Status();
  };
}

TEST(CheckpointWriter, FillsShardsAndWritesTheIndexAndTheConfigLast) {
  const std::string directory = temp_dir("writer");
  auto writer = CheckpointWriter::create({.directory = directory, .shard_bytes = 100}).value();
  for (const auto& [name, size] : {std::pair{"a", 60}, {"b", 40}, {"c", 1}, {"d", 500}, {"e", 7}})
    writer.add({name, Dtype::kI8, {size}}, zeros(size));
  EXPECT_EQ(writer.write_tensors().value(), 4);
  EXPECT_FALSE(file_exists(directory + "/config.json"));
  ASSERT_TRUE(writer.finish(json::Object{{"x", 1}}).ok());
  const auto index = json::parse(read_file(directory + "/model.safetensors.index.json").value()).value();
  EXPECT_EQ(index.find("metadata")->find("total_size")->to_int64(), 608);
  for (const auto& [name, shard] : {std::pair{"a", 1}, {"b", 1}, {"c", 2}, {"d", 3}, {"e", 4}})
    EXPECT_EQ(index.find("weight_map")->find(name)->as_string(),
              "model-0000" + std::to_string(shard) + "-of-00004.safetensors");
  EXPECT_EQ(read_file(directory + "/config.json").value(), "{\n \"x\": 1\n}\n");
}

TEST(CheckpointWriter, RemovesWhatItWroteWhenAProducerFails) {
  const std::string directory = temp_dir("writer") + "/new";
  {
    auto writer = CheckpointWriter::create({.directory = directory, .shard_bytes = 10}).value();
    writer.add({"a", Dtype::kI8, {10}}, zeros(10));
    writer.add({"b", Dtype::kI8, {10}}, [](int64_t, int64_t, std::byte*) -> Status {
      return Error{Code::kInvalid, "b: no such thing"};
    });
    const auto written = writer.write_tensors();
    ASSERT_FALSE(written.ok());
    EXPECT_EQ(written.error().message, "b: no such thing");
    EXPECT_TRUE(file_exists(directory + "/model-00001-of-00002.safetensors"));
  }
  EXPECT_TRUE(std::filesystem::is_empty(directory));
}

TEST(CheckpointWriter, KnowsTheRoomOnTheDiskBeforeItBegins) {
  const std::string directory = temp_dir("writer");
  auto writer = CheckpointWriter::create({.directory = directory}).value();
  writer.add({"a", Dtype::kF32, {int64_t{1} << 31, int64_t{1} << 28}}, zeros(1));  // 2 EiB
  const auto written = writer.write_tensors();
  ASSERT_FALSE(written.ok());
  EXPECT_NE(written.error().message.find("expected room for 2305843009213693952 bytes"), std::string::npos)
      << written.error().message;
}

}  // namespace
}  // namespace hadal::checkpoint
