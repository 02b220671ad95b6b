// The program's own verify against the golden files: micro from the repository, the others when
// they are there.

#include <gtest/gtest.h>

#include <cstdio>
#include <string>

#include "tests/support/shared.h"

namespace hadal {
namespace {

using testing::fixture;
using testing::shared_path;

struct Outcome {
  int status = -1;
  std::string output;
};

Outcome run(const std::string& arguments) {
  Outcome result;
  FILE* pipe = popen((std::string(HADAL_PROGRAM) + " " + arguments + " 2>&1").c_str(), "r");
  if (!pipe) return result;
  char buffer[4096];
  while (const size_t n = fread(buffer, 1, sizeof buffer, pipe)) result.output.append(buffer, n);
  const int status = pclose(pipe);
  result.status = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  return result;
}

void expect_ok(const std::string& arguments) {
  const Outcome result = run("verify " + arguments);
  EXPECT_EQ(result.status, 0) << arguments << "\n" << result.output;
  EXPECT_NE(result.output.find("\nverify: OK "), std::string::npos) << result.output;
}

TEST(Verify, MicroAgreesInBothNumericsForEveryChunkThreadsAndBatch) {
  const std::string micro =
      "-m " + fixture("micro") + " --golden " + fixture("micro/expected.safetensors");
  expect_ok(micro);
  expect_ok(micro + " --chunk 1 --threads 2 --batch 3");
  expect_ok(micro + " --chunk 7 --threads 5");
  expect_ok(micro + " --chunk 64 --batch 3 --threads 1");
  expect_ok(micro + " --isa reference --chunk 64");
}

TEST(Verify, EveryGoldenCheckpointAgrees) {
  HADAL_NEEDS_SHARED("golden/expected");
  int variant = 0;
  for (const char* name : {"flash-tiny", "pro-tiny", "traps", "base-tiny", "bf16-tiny", "sharded",
                           "legacy-names", "long"}) {
    static constexpr const char* kVariants[] = {"--chunk 64 --threads 2 --batch 3",
                                                "--chunk 7 --threads 1", "--chunk 1000 --threads 5",
                                                "--chunk 64 --threads 2 --batch 3"};
    expect_ok("-m " + shared_path("golden/model") + "/" + name + " --golden " +
              shared_path("golden/expected") + "/" + name + ".safetensors " +
              kVariants[variant++ % 4]);
  }
}

TEST(Verify, AWrongModelFails) {
  HADAL_NEEDS_SHARED("golden/expected");
  const Outcome result = run("verify -m " + fixture("micro") + " --golden " +
                             shared_path("golden/expected") + "/sharded.safetensors");
  EXPECT_EQ(result.status, 1);
  EXPECT_NE(result.output.find("verify: FAIL"), std::string::npos) << result.output;
}

}  // namespace
}  // namespace hadal
