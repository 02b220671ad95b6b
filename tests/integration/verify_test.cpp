// The program's own verify against the golden files: micro from the repository, the others when
// they are there.

#include <gtest/gtest.h>

#include <cstdio>
#include <cstring>
#include <functional>
#include <string>

#include "tests/support/patch.h"
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
  const std::string micro = "-m " + fixture("micro") + " --golden " + fixture("micro/expected.safetensors");
  expect_ok(micro);
  expect_ok(micro + " --chunk 1 --threads 2 --batch 3");
  expect_ok(micro + " --chunk 7 --threads 5");
  expect_ok(micro + " --chunk 64 --batch 3 --threads 1");
  expect_ok(micro + " --isa reference --chunk 64");
}

TEST(Verify, EveryGoldenCheckpointAgrees) {
  HADAL_NEEDS_SHARED("golden/expected");
  int variant = 0;
  for (const char* name :
       {"flash-tiny", "pro-tiny", "traps", "base-tiny", "bf16-tiny", "sharded", "legacy-names", "long"}) {
    static constexpr const char* kVariants[] = {"--chunk 64 --threads 2 --batch 3", "--chunk 7 --threads 1",
                                                "--chunk 1000 --threads 5", "--chunk 64 --threads 2 --batch 3"};
    expect_ok("-m " + shared_path("golden/model") + "/" + name + " --golden " + shared_path("golden/expected") + "/" +
              name + ".safetensors " + kVariants[variant++ % 4]);
  }
}

void expect_failure(const std::string& model, const std::string& golden, const std::string& more,
                    const std::string& says = "") {
  const Outcome result = run("verify -m " + model + " --golden " + golden + more);
  EXPECT_EQ(result.status, 1) << result.output;
  EXPECT_NE(result.output.find("verify: FAIL"), std::string::npos) << result.output;
  EXPECT_NE(result.output.find(says), std::string::npos) << says << "\n" << result.output;
}

void fill(std::span<char> bytes, float value) {
  for (size_t i = 0; i < bytes.size(); i += 4) std::memcpy(bytes.data() + i, &value, 4);
}

// The mistakes of the goldens' own table that a changed config or weight can imitate.
TEST(Verify, EveryMistakeOfTheForwardPassFails) {
  const struct {
    const char *from, *to;
  } configs[] = {{"\"sliding_window\": 32", "\"sliding_window\": 31"},
                 {"\"sliding_window\": 32", "\"sliding_window\": 33"},
                 {"\"hc_sinkhorn_iters\": 20", "\"hc_sinkhorn_iters\": 19"},
                 {"\"hc_sinkhorn_iters\": 20", "\"hc_sinkhorn_iters\": 1"},
                 {"\"original_max_position_embeddings\": 65536", "\"original_max_position_embeddings\": 0"},
                 {"\"compress_rope_theta\": 160000", "\"compress_rope_theta\": 10000"},
                 {"\"routed_scaling_factor\": 1.5", "\"routed_scaling_factor\": 1.0"},
                 {"\"swiglu_limit\": 10.0", "\"swiglu_limit\": 0.0"},
                 {"\"index_topk\": 16", "\"index_topk\": 15"}};
  const std::string golden = fixture("micro/expected.safetensors");
  for (const auto& config : configs) {
    SCOPED_TRACE(config.to);
    const std::string model = testing::copy_of(fixture("micro"));
    testing::patch_text(model + "/config.json", config.from, config.to);
    expect_failure(model, golden, " --numerics exact", "checks: exact.logits");
  }
  const std::pair<const char*, std::function<void(std::span<char>)>> weights[] = {
      {"layers.0.attn.attn_sink", [](std::span<char> b) { fill(b, -1e30f); }},
      {"layers.1.attn.compressor.ape", [](std::span<char> b) { fill(b, 0); }},
      {"layers.1.ffn.gate.bias", [](std::span<char> b) { fill(b, 0); }},
      {"layers.1.ffn.experts.0.w1.weight",
       [](std::span<char> b) {
         for (char& c : b) c = static_cast<char>(static_cast<uint8_t>(c) << 4 | static_cast<uint8_t>(c) >> 4);
       }},
      // One word's logit is not a number, the others are right.
      {"head.weight", [](std::span<char> b) { b[5120] = '\xFF', b[5121] = '\x7F'; }},
      {"mtp.0.norm.weight", [](std::span<char> b) { b[0] = '\xFF', b[1] = '\x7F'; }},
  };
  for (const auto& [tensor, change] : weights) {
    SCOPED_TRACE(tensor);
    const std::string model = testing::copy_of(fixture("micro"));
    testing::patch_tensor(model + "/model.safetensors", tensor, change);
    expect_failure(model, golden, " --numerics exact",
                   tensor[0] == 'm' ? "checks: exact.mtp_logits" : "checks: exact.logits, exact.mtp_logits");
  }
}

TEST(Verify, AChangedGoldenFails) {
  const std::pair<const char*, const char*> cases[] = {{"exact.logits", "exact.logits"},
                                                       {"exact.mtp_logits", "exact.mtp_logits"},
                                                       {"exact.greedy", "exact.greedy"},
                                                       {"faithful.decode_logits", "faithful.decode_logits"},
                                                       {"tap.layers.1.attn_out", "layers.1.attn_out"},
                                                       {"tap.layers.1.entries", "layers.1.entries"},
                                                       {"tap.layers.1.index_sel", "layers.1.index_sel"},
                                                       {"tap.layers.2.ffn_out", "layers.2.ffn_out"},
                                                       {"tap.layers.2.route_sel", "layers.2.route_sel"},
                                                       {"tap.layers.2.route_w", "layers.2.route_w"},
                                                       {"rows", "expected positions"},
                                                       {"faithful.decode_start", "faithful.decode_start"}};
  for (const auto& [tensor, says] : cases) {
    SCOPED_TRACE(tensor);
    const std::string copy = testing::copy_of(fixture("micro"));
    testing::patch_tensor(copy + "/expected.safetensors", tensor, [](std::span<char> bytes) {
      // The exponents of float32, of every other BF16, and integers by millions.
      for (size_t i = 3; i < bytes.size(); i += 4) bytes[i] = static_cast<char>(bytes[i] ^ 0x03);
    });
    expect_failure(fixture("micro"), copy + "/expected.safetensors", "", says);
  }
  const std::string copy = testing::copy_of(fixture("micro"));
  testing::patch_text(copy + "/expected.safetensors", "faithful.decode_start", "faithful.decode_stArt");
  expect_failure(fixture("micro"), copy + "/expected.safetensors", "", "tensor faithful.decode_start is missing");
}

TEST(Verify, AWrongModelFails) {
  HADAL_NEEDS_SHARED("golden/expected");
  const Outcome result =
      run("verify -m " + fixture("micro") + " --golden " + shared_path("golden/expected") + "/sharded.safetensors");
  EXPECT_EQ(result.status, 1);
  EXPECT_NE(result.output.find("verify: FAIL"), std::string::npos) << result.output;
}

}  // namespace
}  // namespace hadal
