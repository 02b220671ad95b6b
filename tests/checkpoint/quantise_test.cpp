// Quantising: the rule by exhaustion, blocks against the nearest code, release checkpoints
// unchanged, others coming back to the same values, and what is refused.

#include "checkpoint/quantise.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <random>

#include "base/file.h"
#include "checkpoint/codec.h"
#include "checkpoint/synth.h"
#include "checkpoint/writer.h"
#include "tests/support/model.h"
#include "tests/support/shared.h"

namespace hadal::checkpoint {
namespace {

using testing::fixture;
using testing::shared_path;
using testing::temp_dir;

Checkpoint open(const std::string& directory) {
  auto opened = Checkpoint::open(directory);
  EXPECT_TRUE(opened.ok()) << (opened.ok() ? "" : opened.error().message);
  return std::move(opened).value();
}

struct Outcome {
  std::string directory;
  QuantiseReport report;
};
Outcome quantised(const std::string& source, ExpertFormat experts = ExpertFormat::kFp4, int threads = 2,
                  int64_t shard_bytes = int64_t{1} << 30) {
  ThreadPool pool(threads);
  const std::string directory = temp_dir("quantised") + "/out";
  const auto report =
      quantise(open(source), {.directory = directory, .experts = experts, .shard_bytes = shard_bytes}, pool);
  EXPECT_TRUE(report.ok()) << (report.ok() ? "" : report.error().message);
  return {directory, report.ok() ? report.value() : QuantiseReport()};
}
std::string refusal(const std::string& source, const std::string& directory) {
  ThreadPool pool(1);
  const auto report = quantise(open(source), {.directory = directory}, pool);
  EXPECT_FALSE(report.ok());
  return report.ok() ? "" : report.error().message;
}

std::string content(const Tensor& tensor) {
  return {reinterpret_cast<const char*>(tensor.data), static_cast<size_t>(tensor.size_bytes())};
}
bool is_linear(const ExpectedTensor& tensor) {
  return tensor.storage == Storage::kLinear || tensor.storage == Storage::kExpert;
}
std::vector<ExpectedTensor> inventory(const Checkpoint& c) {
  return expected_tensors(c.config(), c.draft(), c.n_draft_blocks());
}
std::string base_name(const ExpectedTensor& tensor) { return tensor.name.substr(0, tensor.name.size() - 7); }

std::vector<float> values_of(const Checkpoint& c, const ExpectedTensor& tensor) {
  const Weight weight = c.weight(base_name(tensor));
  std::vector<float> values(static_cast<size_t>(weight.rows * weight.cols));
  for (int64_t r = 0; r < weight.rows; ++r) decode_row(weight, r, 0, weight.cols, values.data() + r * weight.cols);
  return values;
}

// The same model with plain linears; F32 also for what the release stores as BF16.
std::string dequantised(const Checkpoint& source, Dtype dtype) {
  const std::string directory = temp_dir("plain") + "/model";
  auto writer = CheckpointWriter::create({.directory = directory}).value();
  const auto expected = inventory(source);
  const auto store = [dtype](const float* values, size_t n, std::byte* out) {
    for (size_t i = 0; i < n; ++i) {
      const bf16 rounded = to_bf16(values[i]);
      if (dtype == Dtype::kBf16) std::memcpy(out + 2 * i, &rounded, 2);
      if (dtype == Dtype::kF32) std::memcpy(out + 4 * i, values + i, 4);
    }
  };
  for (const ExpectedTensor& tensor : expected) {
    const Tensor& stored = source.tensor(tensor.name);
    const bool widens = tensor.storage == Storage::kBf16 && dtype == Dtype::kF32;
    const Dtype to = is_linear(tensor) || widens ? dtype : stored.dtype;
    writer.add({tensor.name, to, tensor.shape}, [&, widens](int64_t first, int64_t n, std::byte* out) {
      const int64_t row = tensor.shape.size() == 2 ? tensor.shape[1] : tensor.n_elements();
      if (is_linear(tensor)) {
        const auto values = values_of(source, tensor);
        store(values.data() + first * row, static_cast<size_t>(n * row), out);
      } else if (widens) {
        std::vector<float> values(static_cast<size_t>(n * row));
        decode_row({.format = stored.dtype == Dtype::kBf16 ? WeightFormat::kBf16 : WeightFormat::kF32,
                    .rows = 1,
                    .cols = n * row,
                    .data = stored.data + first * row * dtype_size(stored.dtype)},
                   0, 0, n * row, values.data());
        store(values.data(), values.size(), out);
      } else {
        const int64_t bytes = row * dtype_size(stored.dtype);
        std::memcpy(out, stored.data + first * bytes, static_cast<size_t>(n * bytes));
      }
      return Status();
    });
  }
  EXPECT_TRUE(writer.write_tensors().ok());
  json::Value config = json::parse(read_file(source.directory() + "/config.json").value()).value();
  config.set("expert_dtype", json::Value());
  config.set("quantization_config", json::Value());
  EXPECT_TRUE(writer.finish(config).ok());
  return directory;
}

// A synthetic BF16 model whose widths are multiples of 32 and of no larger block.
std::string odd_model() {
  json::Value config = load_config_json("nano").value();
  config.set("expert_dtype", "bf16");
  config.set("quantization_config", json::Value());
  config.set("hidden_size", 160);
  config.set("moe_intermediate_size", 96);
  config.set("q_lora_rank", 130);
  config.set("n_routed_experts", 3);
  const std::string directory = temp_dir("odd") + "/model";
  ThreadPool pool(2);
  const Status status = synthesise(config, {.directory = directory, .seed = 5}, pool);
  EXPECT_TRUE(status.ok()) << (status.ok() ? "" : status.error().message);
  return directory;
}

// ---- blocks

TEST(Codec, TheScaleIsTheLeastPowerOfTwoThatHoldsTheBlock) {
  for (const int e : {-100, 0, 7, 100})
    for (uint32_t m = 0; m < (1u << 23); ++m) {
      const float amax = float_from_bits(static_cast<uint32_t>(e + 127) << 23 | m);
      // 448 = 1.75 x 2^8, 6 = 1.5 x 2^2, and 1.m of amax decides
      const int fp8 = e - 8 + (m > (3u << 21) ? 1 : 0), fp4 = e - 2 + (m > (1u << 22) ? 1 : 0);
      if (fp8_scale_exponent(amax) != fp8 || fp4_scale_exponent(amax) != fp4)
        FAIL() << amax << ": " << fp8_scale_exponent(amax) << " " << fp4_scale_exponent(amax);
    }
  for (const float tiny : {0.0f, 1e-45f, 1e-40f, 0x1p-126f}) {
    EXPECT_EQ(fp8_scale_exponent(tiny), -126);
    EXPECT_EQ(fp4_scale_exponent(tiny), -126);
  }
  EXPECT_EQ(fp8_scale_exponent(std::numeric_limits<float>::max()), 120);
  EXPECT_EQ(fp4_scale_exponent(std::numeric_limits<float>::max()), 126);
}

// Nearest code by search, ties to the even one.
template <class Value>
int nearest(double x, int n_codes, const Value& value) {
  int best = 0;
  for (int code = 1; code < n_codes; ++code) {
    const double a = std::fabs(std::fabs(x) - value(code)), b = std::fabs(std::fabs(x) - value(best));
    if (a < b || (a == b && code % 2 == 0)) best = code;
  }
  return best;
}

TEST(Codec, BlocksHoldTheNearestCodes) {
  for (uint64_t seed = 0; seed < 300; ++seed) {
    std::mt19937_64 random(seed);
    const int64_t rows = 1 + static_cast<int64_t>(random() % 5), cols = 1 + static_cast<int64_t>(random() % 40),
                  stride = 48;
    const int base = static_cast<int>(random() % 4) == 0 ? -140 : static_cast<int>(random() % 240) - 126;
    std::vector<float> values(static_cast<size_t>(rows * stride));
    for (float& x : values) {
      x = static_cast<float>(std::ldexp(static_cast<double>(static_cast<int64_t>(random() >> 40) - (1 << 23)) * 0x1p-23,
                                        base + static_cast<int>(random() % 14)));
      if (random() % 8 == 0) x = static_cast<float>(std::ldexp(static_cast<double>(random() % 30), base));  // ties
    }
    std::vector<uint8_t> codes(static_cast<size_t>(rows * cols));
    BlockError error;
    const int exponent = encode_fp8(values.data(), rows, cols, stride, codes.data(), cols, &error).bits - 127;
    double squared = 0, worst = 0;
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < cols; ++c) {
        const double x = values[static_cast<size_t>(r * stride + c)], scaled = std::ldexp(x, -exponent);
        const uint8_t code = codes[static_cast<size_t>(r * cols + c)];
        ASSERT_EQ(code & 0x7F, nearest(scaled, 127, [](int k) { return to_f32(f8e4m3{static_cast<uint8_t>(k)}); }))
            << seed << ": " << x;
        ASSERT_EQ(code >> 7, std::signbit(x));
        const double e = x - std::ldexp(static_cast<double>(to_f32(f8e4m3{code})), exponent);
        squared += e * e;
        worst = std::max(worst, std::fabs(e));
      }
    EXPECT_EQ(error.n_saturated, 0);
    EXPECT_NEAR(error.squared_error, squared, 1e-6 * squared);
    EXPECT_NEAR(error.max_error, worst, 1e-6 * worst);

    uint8_t packed[16];
    BlockError small;
    const int e4 = encode_fp4(values.data(), 32, packed, &small).bits - 127;
    for (int i = 0; i < 32; ++i) {
      const unsigned code = (packed[i / 2] >> (i % 2 * 4)) & 15u;
      const double scaled = std::ldexp(static_cast<double>(values[static_cast<size_t>(i)]), -e4);
      ASSERT_EQ(static_cast<int>(code & 7),
                nearest(scaled, 8, [](int k) { return e2m1_to_f32(static_cast<unsigned>(k)); }))
          << seed;
    }
    EXPECT_EQ(small.n_saturated, 0);
  }
}

TEST(Codec, ZeroBlocksAreZeros) {
  const std::vector<float> zeros(128 * 128, 0.0f);
  std::vector<uint8_t> codes(128 * 128, 9);
  EXPECT_EQ(encode_fp8(zeros.data(), 128, 128, 128, codes.data(), 128).bits, 1);
  EXPECT_EQ(codes, std::vector<uint8_t>(128 * 128, 0));
  EXPECT_EQ(encode_fp4(zeros.data(), 32, codes.data()).bits, 1);
}

// Every code under every scale comes back to its value, whatever else is in the block.
TEST(Codec, DecodedBlocksEncodeToTheSameValues) {
  for (uint64_t seed = 0; seed < 400; ++seed) {
    std::mt19937_64 random(seed);
    const int exponent = static_cast<int>(random() % 120) - 60;
    const int most = 1 + static_cast<int>(random() % 126), most4 = 1 + static_cast<int>(random() % 7);
    float values[128], values4[32];
    uint8_t codes[128], packed[16];
    for (float& x : values)
      x = std::ldexp(
          to_f32(f8e4m3{static_cast<uint8_t>(random() % static_cast<uint64_t>(most + 1) | (random() % 2) << 7)}),
          exponent);
    for (float& x : values4)
      x = std::ldexp(
          e2m1_to_f32(static_cast<unsigned>(random() % static_cast<uint64_t>(most4 + 1) | (random() % 2) << 3)),
          exponent);
    const float scale = to_f32(encode_fp8(values, 1, 128, 128, codes, 128));
    const float scale4 = to_f32(encode_fp4(values4, 32, packed));
    for (int i = 0; i < 128; ++i) ASSERT_EQ(to_f32(f8e4m3{codes[i]}) * scale, values[i]) << seed;
    for (int i = 0; i < 32; ++i)
      ASSERT_EQ(e2m1_to_f32((packed[i / 2] >> (i % 2 * 4)) & 15u) * scale4, values4[i]) << seed;
  }
}

// ---- checkpoints

TEST(Quantise, AReleaseCheckpointKeepsEveryByte) {
  const Outcome once = quantised(fixture("micro"));
  const Checkpoint before = open(fixture("micro")), after = open(once.directory);
  ASSERT_EQ(before.tensors().size(), after.tensors().size());
  for (const auto& [name, tensor] : before.tensors()) {
    EXPECT_EQ(tensor.dtype, after.tensor(name).dtype) << name;
    EXPECT_EQ(tensor.shape, after.tensor(name).shape) << name;
    EXPECT_TRUE(content(tensor) == content(after.tensor(name))) << name;
  }
  const GroupReport total = once.report.total();
  EXPECT_EQ(total.n_converted, 0);
  EXPECT_EQ(total.bytes_before, total.bytes_after);
  EXPECT_GT(total.n_tiles, 0);
  EXPECT_EQ(total.n_inexact_tiles, 0);
  EXPECT_EQ(read_file(once.directory + "/config.json").value(), read_file(fixture("micro/config.json")).value());
  const Outcome twice = quantised(once.directory, ExpertFormat::kFp4, 1);
  for (const auto& entry : std::filesystem::directory_iterator(once.directory)) {
    const std::string name = entry.path().filename().string();
    EXPECT_TRUE(read_file(entry.path().string()).value() == read_file(twice.directory + "/" + name).value()) << name;
  }
}

TEST(Quantise, ADequantisedReleaseComesBackToItsValues) {
  const Checkpoint release = open(fixture("micro"));
  for (const Dtype dtype : {Dtype::kBf16, Dtype::kF32}) {
    const Outcome outcome = quantised(dequantised(release, dtype));
    const Checkpoint back = open(outcome.directory);
    for (const ExpectedTensor& tensor : inventory(release)) {
      EXPECT_EQ(back.tensor(tensor.name).dtype, release.tensor(tensor.name).dtype) << tensor.name;
      if (is_linear(tensor)) {
        EXPECT_TRUE(values_of(back, tensor) == values_of(release, tensor)) << tensor.name;
      } else {
        EXPECT_TRUE(content(back.tensor(tensor.name)) == content(release.tensor(tensor.name))) << tensor.name;
      }
    }
    const GroupReport total = outcome.report.total();
    EXPECT_EQ(total.squared_error, 0);
    EXPECT_EQ(total.n_saturated, 0);
    EXPECT_GT(total.n_values, 0);
    EXPECT_EQ(back.config().expert_dtype, "fp4");
    EXPECT_TRUE(back.config().has_quantization);
  }
}

TEST(Quantise, ExpertsBecomeFp8ExactlyUnlessTheirScalesAreTooFarApart) {
  const Checkpoint release = open(fixture("micro"));
  const Outcome outcome = quantised(fixture("micro"), ExpertFormat::kFp8);
  const Checkpoint fp8 = open(outcome.directory);
  EXPECT_EQ(fp8.config().expert_dtype, "fp8");
  for (const ExpectedTensor& tensor : inventory(release))
    if (is_linear(tensor)) {
      EXPECT_TRUE(values_of(fp8, tensor) == values_of(release, tensor)) << tensor.name;
    }
  EXPECT_EQ(outcome.report.total().squared_error, 0);
  EXPECT_EQ(outcome.report.total().n_inexact_tiles, 0);

  // One group 2^20 above the least of its tile.
  const std::string directory = temp_dir("spread");
  std::filesystem::copy(fixture("micro"), directory, std::filesystem::copy_options::recursive);
  const std::string name = "layers.1.ffn.experts.2.w1";
  const Tensor& scale = release.tensor(name + ".scale");
  const std::byte* codes = release.tensor(name + ".weight").data;
  const std::string scales = content(scale);
  const int least = static_cast<unsigned char>(*std::min_element(scales.begin(), scales.end()));
  EXPECT_TRUE(std::any_of(codes, codes + 16, [](std::byte b) { return b != std::byte{}; }));
  std::fstream file(directory + "/model.safetensors", std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(scale.data - release.shards()[0].bytes().data());
  file.put(static_cast<char>(least + 20));
  file.close();
  EXPECT_EQ(quantised(directory, ExpertFormat::kFp8).report[Group::kRoutedExperts].n_inexact_tiles, 1);
  EXPECT_EQ(quantised(directory, ExpertFormat::kFp4).report[Group::kRoutedExperts].n_inexact_tiles, 1);
  EXPECT_GT(quantised(directory, ExpertFormat::kFp8).report[Group::kRoutedExperts].max_error, 0);
}

TEST(Quantise, SizesThatAreNoMultiplesOfBlocks) {
  const std::string odd = odd_model();
  const Checkpoint source = open(odd);
  std::string first;
  for (const ExpertFormat experts : {ExpertFormat::kFp4, ExpertFormat::kFp8}) {
    const Outcome one = quantised(odd, experts, 1), three = quantised(odd, experts, 3);
    EXPECT_TRUE(read_file(one.directory + "/model.safetensors").value() ==
                read_file(three.directory + "/model.safetensors").value());
    EXPECT_EQ(one.report.total().squared_error, three.report.total().squared_error);
    const Checkpoint result = open(one.directory);
    for (int g = 0; g < kGroupCount; ++g) {
      const GroupReport& group = one.report.groups[static_cast<size_t>(g)];
      EXPECT_EQ(group.n_saturated, 0);
      // Half a step of the highest binade over the least block maximum there: 16 / 256, and 1 / 5.
      const bool fp4 = experts == ExpertFormat::kFp4 &&
                       (g == static_cast<int>(Group::kRoutedExperts) || g == static_cast<int>(Group::kDraft));
      EXPECT_LE(group.max_error, fp4 ? 0.2 : 0.0625) << g;
      EXPECT_EQ(group.relative_rms() > 0, group.n_converted > 0) << g;
    }
    // The report's error is that of the stored tensors.
    double squared_error = 0, squared = 0;
    for (const ExpectedTensor& tensor : inventory(source)) {
      if (!is_linear(tensor) || tensor.group != Group::kRoutedExperts) continue;
      const auto a = values_of(source, tensor), b = values_of(result, tensor);
      for (size_t i = 0; i < a.size(); ++i) {
        squared_error += static_cast<double>(a[i] - b[i]) * (a[i] - b[i]);
        squared += static_cast<double>(a[i]) * a[i];
      }
    }
    EXPECT_NEAR(one.report[Group::kRoutedExperts].relative_rms(), std::sqrt(squared_error / squared), 1e-6);
  }
  const Outcome many = quantised(odd, ExpertFormat::kFp4, 2, 300'000);
  EXPECT_GT(many.report.n_shards, 3);
  const Checkpoint sharded = open(many.directory), whole = open(quantised(odd).directory);
  for (const auto& [name, tensor] : whole.tensors())
    EXPECT_TRUE(content(tensor) == content(sharded.tensor(name))) << name;
  EXPECT_TRUE(file_exists(many.directory + "/tokenizer.json"));
  EXPECT_TRUE(file_exists(many.directory + "/generation_config.json"));
}

TEST(Quantise, RefusesValuesThatAreNoNumbersByPlace) {
  const struct {
    const char* tensor;
    int64_t element;
    std::string value;
    Dtype source;
    const char* says;
  } cases[] = {
      {"layers.1.attn.wkv.weight", 3 * 64 + 5, std::string("\xC0\x7F", 2), Dtype::kBf16,
       "tensor layers.1.attn.wkv.weight: expected finite values, found nan at [3, 5]"},
      {"layers.0.ffn.experts.1.w2.weight", 0, std::string("\x80\xFF", 2), Dtype::kBf16,
       "w2.weight: expected finite values, found -inf at [0, 0]"},
      {"norm.weight", 7, std::string("\x80\x7F", 2), Dtype::kBf16,
       "tensor norm.weight: expected finite values, found inf at [7]"},
      {"layers.0.attn.attn_sink", 1, std::string("\0\0\x80\x7F", 4), Dtype::kBf16,
       "attn_sink: expected finite values, found inf at [1]"},
      {"norm.weight", 2, std::string("\xFF\xFF\x7F\x7F", 4), Dtype::kF32,
       "tensor norm.weight: expected finite values within BF16, found 3.4028235e+38 at [2]"},
      {"layers.2.attn.wq_a.weight", 64, std::string("\0\0\xC0\x7F", 4), Dtype::kF32,
       "wq_a.weight: expected finite values, found nan at [1, 0]"},
      {"layers.1.attn.wkv.weight", 66, std::string("\x7F", 1), Dtype::kF8e4m3,
       "wkv.weight: expected finite values, found nan at [1, 2]"},
      {"layers.1.attn.wkv.scale", 0, std::string("\xFF", 1), Dtype::kF8e4m3,
       "wkv.scale: expected finite values, found nan at [0, 0]"},
  };
  const Checkpoint release = open(fixture("micro"));
  for (const auto& c : cases) {
    SCOPED_TRACE(c.says);
    std::string directory;
    if (c.source == Dtype::kF8e4m3) {
      directory = temp_dir("bad");
      std::filesystem::copy(fixture("micro"), directory, std::filesystem::copy_options::recursive);
    } else {
      directory = dequantised(release, c.source);
    }
    {
      const Checkpoint model = open(directory);
      std::fstream file(directory + "/model.safetensors", std::ios::in | std::ios::out | std::ios::binary);
      file.seekp(model.tensor(c.tensor).data - model.shards()[0].bytes().data() +
                 c.element * static_cast<int64_t>(c.value.size()));
      file.write(c.value.data(), static_cast<std::streamsize>(c.value.size()));
    }
    const std::string output = temp_dir("refused") + "/out";
    const std::string error = refusal(directory, output);
    EXPECT_NE(error.find(c.says), std::string::npos) << error;
    EXPECT_NE(error.find(directory + "/model.safetensors: "), std::string::npos) << error;
    EXPECT_TRUE(std::filesystem::is_empty(output));  // nothing stays
  }
}

TEST(Quantise, RefusesToMixCheckpoints) {
  for (const char* name : {"config.json", "model-00003-of-00007.safetensors", "tokenizer.json"}) {
    const std::string output = temp_dir("taken");
    std::ofstream(output + "/" + name) << "{}";
    EXPECT_EQ(refusal(fixture("micro"), output), output + ": already holds " + name + "; expected a new directory");
  }
  const std::string file = temp_dir("file") + "/f";
  std::ofstream(file) << "x";
  EXPECT_NE(refusal(fixture("micro"), file).find(file + ": cannot create"), std::string::npos);
}

// The engine reads what was written: its logits equal those of the values spelled out, and lie near
// the source's.
void expect_close(const std::string& source, ExpertFormat experts, double most) {
  const Outcome outcome = quantised(source, experts);
  const std::string plain = dequantised(open(outcome.directory), Dtype::kF32);
  std::vector<float> logits[3];
  const std::string directories[3] = {source, outcome.directory, plain};
  for (int i = 0; i < 3; ++i) {
    const auto model = testing::TestModel::open(directories[i], Numerics::kExact);
    ASSERT_TRUE(model);
    const auto tokens = testing::random_tokens(3, 60, model->checkpoint.config().vocab_size);
    kv::SequenceState state = model->transformer->new_sequence();
    logits[i] = model->logits(state, tokens, {60});
  }
  double error = 0, squared = 0, stored_error = 0;
  for (size_t i = 0; i < logits[0].size(); ++i) {
    error += std::pow(logits[1][i] - logits[0][i], 2);
    stored_error += std::pow(logits[1][i] - logits[2][i], 2);
    squared += std::pow(logits[0][i], 2);
  }
  EXPECT_LT(std::sqrt(stored_error / squared), 1e-5);
  EXPECT_LT(std::sqrt(error / squared), most);
  EXPECT_GT(error, 0);
}

TEST(Quantise, LogitsStayWithinTheNoiseOfTheFormats) {
  HADAL_NEEDS_SHARED("golden/model");
  expect_close(shared_path("golden/model/bf16-tiny"), ExpertFormat::kFp4, 0.3);
  expect_close(shared_path("golden/model/bf16-tiny"), ExpertFormat::kFp8, 0.1);
  expect_close(shared_path("golden/model/base-tiny"), ExpertFormat::kFp4, 0.3);
  expect_close(shared_path("golden/model/base-tiny"), ExpertFormat::kFp8, 0.1);
}

TEST(Quantise, ReleaseGoldensAreUnchanged) {
  HADAL_NEEDS_SHARED("golden/model");
  for (const char* name : {"flash-tiny", "pro-tiny", "traps", "sharded", "legacy-names"}) {
    const std::string source = shared_path(std::string("golden/model/") + name);
    const Outcome outcome = quantised(source);
    const Checkpoint before = open(source), after = open(outcome.directory);
    EXPECT_EQ(outcome.report.total().n_converted, 0) << name;
    ASSERT_EQ(before.tensors().size(), after.tensors().size()) << name;
    for (const auto& [tensor_name, tensor] : before.tensors())
      EXPECT_TRUE(content(tensor) == content(after.tensor(tensor_name))) << name << " " << tensor_name;
  }
}

}  // namespace
}  // namespace hadal::checkpoint
