// Opening: every golden checkpoint, and tables of what must be refused, with the words of the refusal.

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <functional>

#include "checkpoint/checkpoint.h"
#include "checkpoint/plan.h"
#include "checkpoint/summary.h"
#include "checkpoint/synth.h"
#include "kv/sequence_state.h"
#include "tests/support/shared.h"

namespace hadal::checkpoint {
namespace {

using testing::fixture;
using testing::shared_path;
using testing::temp_dir;

std::string u64(uint64_t n) { return std::string(reinterpret_cast<const char*>(&n), 8); }
void write_file(const std::string& path, const std::string& content) {
  std::ofstream(path, std::ios::binary) << content;
}

std::string error_of(const std::string& header, int64_t data_bytes = 16) {
  const std::string file = u64(header.size()) + header + std::string(static_cast<size_t>(data_bytes), '\0');
  const auto result = parse_header(std::as_bytes(std::span(file)), file.size(), "f.safetensors");
  return result.ok() ? "" : result.error().message;
}

TEST(Safetensors, RefusesBrokenHeaders) {
  const struct {
    std::string header;
    const char* says;
  } cases[] = {
      {"{", "header: JSON"},
      {"[]", "expected an object"},
      {R"({"a":{"dtype":"Q7","shape":[1],"data_offsets":[0,1]}})", "found unknown dtype \"Q7\""},
      {R"({"a":{"dtype":"BF16","shape":[3],"data_offsets":[0,4]}})",
       "tensor a: expected 6 bytes for BF16 [3], found data_offsets of 4"},
      {R"({"a":{"dtype":"F32","shape":[8],"data_offsets":[0,32]}})", "expected its data to end by byte"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})",
       "tensor b overlaps tensor a"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}})",
       "the key appears twice"},
      {R"({"a":{"dtype":"F32","shape":[4294967296,4294967296,4],"data_offsets":[0,0]}})", "its size overflows"},
      {R"({"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})", "non-negative"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}})", "ascending"},
      {R"({"a":{"dtype":"F32","shape":[1]}})", "data_offsets"},
      {R"({"a":7})", "expected dtype, shape and two data_offsets, found 7"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[-4,0]}})", "ascending data_offsets from 0, found [-4, 0]"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0.0,4.0]}})",
       "ascending data_offsets from 0, found [0.0, 4.0]"},
      {R"({"a":{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}})", "non-negative integers, found [1.0]"},
      {R"({"a":{"dtype":"F32","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,4]}})", "at most 8 dimensions, found 9"},
      {R"({"":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", "printable ASCII characters, found \"\""},
      {R"({"a\nb":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", "printable ASCII characters, found \"a\\nb\""},
      {R"({"\u001b[31m":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", "found \"\\u001b[31m\""},
      {"{\"" + std::string(5000, 'x') + R"(":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", "xxx..."},
  };
  for (const auto& c : cases) {
    const std::string error = error_of(c.header);
    EXPECT_NE(error.find("f.safetensors: "), std::string::npos) << c.header << ": " << error;
    EXPECT_NE(error.find(c.says), std::string::npos) << c.header << ": " << error;
    EXPECT_EQ(error.find('\n'), std::string::npos);
  }
  for (const std::string& bytes : {std::string("abc"), u64(100) + "{}", u64(~0ull) + "{}", u64(200u << 20) + "{}"}) {
    EXPECT_FALSE(parse_header(std::as_bytes(std::span(bytes)), bytes.size(), "f").ok());
  }
}

TEST(Config, RefusesByName) {
  const json::Value good = json::parse(read_file(fixture("micro/config.json")).value()).value();
  ASSERT_TRUE(parse_config(json::dump(good), "c").ok());
  const struct {
    const char* key;
    json::Value value;
  } cases[] = {{"model_type", "deepseek_v41"},
               {"architectures", json::Array{"DeepseekV41ForCausalLM"}},
               {"scoring_func", "softmax"},
               {"topk_method", "greedy"},
               {"norm_topk_prob", false},
               {"n_shared_experts", 2},
               {"num_key_value_heads", 2},
               {"scoring_func", json::Value()},
               {"topk_method", json::Value()},
               {"norm_topk_prob", json::Value()},
               {"n_shared_experts", json::Value()},
               {"num_key_value_heads", json::Value()},
               {"attention_bias", json::Value(true)},
               {"tie_word_embeddings", json::Value(true)},
               {"hidden_size", 64.0},
               {"num_hidden_layers", 3.0},
               {"index_topk", 0},
               {"hc_eps", json::Value::number("NaN", false)},
               {"rope_theta", json::Value::number("Infinity", false)},
               {"rope_scaling", json::Object{{"factor", 16}, {"original_max_position_embeddings", 65536}}},
               {"hidden_act", "g\ne\x1b[31mlu"},
               {"hidden_act", "\xE2\x80\xAEulis"},
               {"hidden_size", 0},
               {"hidden_size", "64"},
               {"hidden_size", 64.5},
               {"num_hidden_layers", 1000000},
               {"compress_ratios", json::Array{0}},
               {"compress_ratios", json::Array{0, 4, -1, 0}},
               {"index_head_dim", 48},
               {"qk_rope_head_dim", 15},
               {"hc_mult", 17},
               {"num_experts_per_tok", 5},
               {"expert_dtype", "int4"},
               {"rms_norm_eps", -1.0},
               {"max_position_embeddings", json::Value()},
               {"hc_eps", json::Value()},
               {"swiglu_limit", json::Value()},
               {"rope_scaling", json::Object{{"type", "linear"}}}};
  for (const auto& c : cases) {
    json::Value bad = good;
    bad.set(c.key, c.value);
    const auto result = parse_config(json::dump(bad), "c.json");
    ASSERT_FALSE(result.ok()) << c.key << " = " << json::dump(c.value);
    EXPECT_NE(result.error().message.find("c.json: "), std::string::npos) << result.error().message;
    EXPECT_NE(result.error().message.find(c.key), std::string::npos) << result.error().message;
    for (const char byte : result.error().message) EXPECT_TRUE(byte >= ' ' && byte < 0x7F) << result.error().message;
  }
  // What is listed from a config alone is bounded.
  json::Value huge = good;
  huge.set("num_hidden_layers", 1000);
  huge.set("compress_ratios", json::Array(1000, json::Value(0)));
  huge.set("n_routed_experts", 16384);
  const auto refused = parse_config(json::dump(huge), "c.json");
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().message,
            "c.json: n_routed_experts: expected at most 262144 experts in 1000 layers, found 16384");
  EXPECT_FALSE(parse_config("{\"hidden_size\": 1, \"hidden_size\": 2}", "c").ok());
}

TEST(Checkpoint, OpensEveryGolden) {
  HADAL_NEEDS_SHARED("golden/model");
  for (const auto& entry : std::filesystem::directory_iterator(shared_path("golden/model"))) {
    const auto opened = Checkpoint::open(entry.path().string());
    ASSERT_TRUE(opened.ok()) << opened.error().message;
    EXPECT_EQ(opened.value().draft(), Draft::kMtp);
    EXPECT_TRUE(opened.value().unchanged().ok());
  }
}

// micro with one header edit of the same length, so that data stay where they are.
std::string edited_micro(const std::string& from, const std::string& to) {
  const std::string directory = temp_dir("edited");
  std::filesystem::copy_file(fixture("micro/config.json"), directory + "/config.json");
  std::string bytes = read_file(fixture("micro/model.safetensors")).value();
  const size_t at = bytes.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  EXPECT_EQ(from.size(), to.size());
  bytes.replace(at, from.size(), to);
  write_file(directory + "/model.safetensors", bytes);
  return directory;
}

TEST(Checkpoint, RefusesWrongTensorsByName) {
  const struct {
    const char *from, *to, *says;
  } cases[] = {
      {"\"norm.weight\"", "\"nurm.weight\"",
       "model.safetensors: tensor norm.weight is missing: expected one of shape [64], found nothing"},
      {"\"layers.0.attn.attn_sink\":{\"dtype\":\"F32\"", "\"layers.0.attn.attn_sink\":{\"dtype\":\"I32\"",
       "tensor layers.0.attn.attn_sink: expected F32 [2], found I32 [2]"},
      {"\"mtp.0.e_proj.weight\"", "\"mtp.0.e_pruj.weight\"",
       "expected mtp.0.e_proj.weight (MTP block) or mtp.0.main_proj.weight (DSpark stages) beside it, found neither"},
      {"\"mtp.0.h_proj.weight\"", "\"mtp.0.h_pruj.weight\"", "tensor mtp.0.h_proj.weight is missing"},
      {"\"mtp.0.norm.weight\"", "\"mtp.1.nurm.weight\"", "tensor mtp.0.norm.weight is missing"},
      {"\"mtp.0.h_proj.weight\"", "\"mtp.1.h_proj.weight\"", "tensor mtp.0.h_proj.weight is missing"},
  };
  for (const auto& c : cases) {
    const auto opened = Checkpoint::open(edited_micro(c.from, c.to));
    ASSERT_FALSE(opened.ok());
    EXPECT_NE(opened.error().message.find(c.says), std::string::npos) << opened.error().message;
  }
  const std::string directory = temp_dir("truncated");
  std::filesystem::copy_file(fixture("micro/config.json"), directory + "/config.json");
  const std::string bytes = read_file(fixture("micro/model.safetensors")).value();
  for (size_t n = 0; n < bytes.size(); n += 9973) {
    write_file(directory + "/model.safetensors", bytes.substr(0, n));
    EXPECT_FALSE(Checkpoint::open(directory).ok()) << n;
  }
  EXPECT_FALSE(Checkpoint::open(directory + "/absent").ok());
}

// micro with some keys of its config changed.
std::string micro_with(const std::vector<std::pair<const char*, json::Value>>& changes) {
  const std::string directory = temp_dir("config");
  std::filesystem::copy_file(fixture("micro/model.safetensors"), directory + "/model.safetensors");
  json::Value config = json::parse(read_file(fixture("micro/config.json")).value()).value();
  for (const auto& [key, value] : changes) config.set(key, value);
  write_file(directory + "/config.json", json::dump(config));
  return directory;
}

// Formats and draft are what the tensors are, whatever the config says of them.
TEST(Checkpoint, TensorsOverruleTheConfig) {
  for (const char* dtype : {"fp4", "fp8", "bf16"}) {
    const auto opened = Checkpoint::open(micro_with({{"expert_dtype", dtype}}));
    ASSERT_TRUE(opened.ok()) << opened.error().message;
    EXPECT_EQ(opened.value().weight("layers.0.ffn.experts.0.w1").format, WeightFormat::kFp4Block);
  }
  for (const json::Value& n : {json::Value(), json::Value(0), json::Value(3)}) {
    const auto opened = Checkpoint::open(micro_with({{"num_nextn_predict_layers", n}}));
    ASSERT_TRUE(opened.ok()) << opened.error().message;
    EXPECT_EQ(opened.value().draft(), Draft::kMtp);
    EXPECT_EQ(opened.value().config().n_mtp_layers, 1);
  }
  const auto dspark =
      Checkpoint::open(micro_with({{"dspark_markov_rank", 4}, {"dspark_target_layer_ids", json::Array{0}}}));
  ASSERT_TRUE(dspark.ok()) << dspark.error().message;
  EXPECT_EQ(dspark.value().draft(), Draft::kMtp);
}

TEST(Checkpoint, RefusesRatiosThatTheDraftDoesNotHave) {
  const json::Value good = json::parse(read_file(fixture("micro/config.json")).value()).value();
  json::Array ratios = good.find("compress_ratios")->as_array();
  const int64_t n_layers = good.find("num_hidden_layers")->to_int64().value();
  ratios.resize(static_cast<size_t>(n_layers) + 1);
  ratios.back() = 4;
  auto opened = Checkpoint::open(micro_with({{"compress_ratios", ratios}}));
  ASSERT_FALSE(opened.ok());
  EXPECT_NE(opened.error().message.find("compress_ratios: expected 0 at index 3 (draft block 0), found 4"),
            std::string::npos)
      << opened.error().message;
  ratios.pop_back();
  opened = Checkpoint::open(micro_with({{"compress_ratios", ratios}}));
  ASSERT_FALSE(opened.ok());
  EXPECT_NE(opened.error().message.find("found nothing"), std::string::npos) << opened.error().message;
}

// A sharded checkpoint of `nano` as holes, its index edited.
std::string with_index(const std::function<void(json::Value&)>& edit) {
  const std::string directory = temp_dir("index");
  ThreadPool pool(1);
  const Status status = synthesise(load_config_json("nano").value(),
                                   {.directory = directory, .sparse = true, .shard_bytes = 2 << 20}, pool);
  EXPECT_TRUE(status.ok());
  const std::string path = directory + "/model.safetensors.index.json";
  json::Value index = json::parse(read_file(path).value()).value();
  edit(index);
  write_file(path, json::dump(index));
  return directory;
}

TEST(Checkpoint, RefusesAnIndexThatTheShardsContradict) {
  ASSERT_TRUE(Checkpoint::open(with_index([](json::Value&) {})).ok());
  const auto map = [](json::Value& index) -> json::Value& { return *index.find("weight_map"); };
  const struct {
    std::function<void(json::Value&)> edit;
    const char* says;
  } cases[] = {
      {[&](json::Value& i) { map(i).set("ghost.weight", map(i).as_object()[0].second); },
       "tensor ghost.weight: expected it here, as the index says, found nothing"},
      {[&](json::Value& i) { map(i).as_object().erase(map(i).as_object().begin()); },
       "expected only tensors of the index"},
      {[&](json::Value& i) { map(i).set("embed.weight", map(i).as_object().back().second); },
       "tensor embed.weight: expected it in model-"},
      {[&](json::Value& i) { map(i).set("embed.weight", "../model-00001-of-00002.safetensors"); },
       "expected a file name in this directory, found \"../model"},
      {[&](json::Value& i) { map(i).set("embed.weight", "a\nb"); }, "found \"a\\nb\""},
      {[&](json::Value& i) { map(i).set("a\nb", "model.safetensors"); }, "printable ASCII characters, found \"a\\nb\""},
      {[&](json::Value& i) { map(i).set("embed.weight", 5); }, "found 5"},
      {[&](json::Value& i) { i.find("metadata")->set("total_size", "5"); },
       "total_size: expected a number of bytes, found \"5\""},
      {[&](json::Value& i) { i.find("metadata")->set("total_size", 5); }, "total_size: expected 5 bytes of tensors"},
      {[&](json::Value& i) { map(i).set("embed.weight", "other.safetensors"); }, "shards, missing other.safetensors"},
      {[&](json::Value& i) { i.set("weight_map", json::Object{}); }, "expected a weight_map"},
      {[&](json::Value& i) { map(i).set("ghost.weight", std::string(300, 'x')); }, "File name too long"},
  };
  for (const auto& c : cases) {
    const auto opened = Checkpoint::open(with_index(c.edit));
    ASSERT_FALSE(opened.ok()) << c.says;
    EXPECT_NE(opened.error().message.find(c.says), std::string::npos) << opened.error().message;
    EXPECT_EQ(opened.error().message.find('\n'), std::string::npos);
  }
  // Shards whose index has not come yet, and a directory where a file should be.
  const std::string directory = with_index([](json::Value&) {});
  std::filesystem::remove(directory + "/model.safetensors.index.json");
  EXPECT_NE(Checkpoint::open(directory).error().message.find("other shards: \"model-00001-of-"), std::string::npos);
  std::filesystem::create_directory(directory + "/model.safetensors");
  EXPECT_NE(Checkpoint::open(directory).error().message.find("model.safetensors: expected a regular file"),
            std::string::npos);
  std::filesystem::remove(directory + "/model.safetensors");
  std::filesystem::create_symlink("model.safetensors", directory + "/model.safetensors");
  EXPECT_NE(Checkpoint::open(directory).error().message.find("Too many levels of symbolic links"), std::string::npos);
}

TEST(Checkpoint, DescribesAPartialDownload) {
  HADAL_NEEDS_SHARED("golden/model/sharded");
  const std::string directory = temp_dir("partial");
  std::filesystem::copy(shared_path("golden/model/sharded"), directory, std::filesystem::copy_options::recursive);
  std::filesystem::remove(directory + "/model-00002-of-00003.safetensors");
  const auto opened = Checkpoint::open(directory);
  ASSERT_FALSE(opened.ok());
  EXPECT_NE(opened.error().message.find("2 of 3 shards, missing model-00002-of-00003.safetensors"), std::string::npos)
      << opened.error().message;
}

TEST(Checkpoint, AShardTruncatedUnderTheMapIsOneLineAndStatus1) {
  const std::string directory = temp_dir("sigbus");
  std::filesystem::copy(fixture("micro"), directory, std::filesystem::copy_options::recursive);
  int pipe_ends[2];
  ASSERT_EQ(pipe(pipe_ends), 0);
  const pid_t child = fork();
  if (child == 0) {
    dup2(pipe_ends[1], 2);
    install_map_guard();
    const auto opened = Checkpoint::open(directory);
    if (!opened.ok() || truncate((directory + "/model.safetensors").c_str(), 4096) != 0) _exit(7);
    if (opened.value().unchanged().ok()) _exit(8);
    volatile std::byte sum{};
    for (const std::byte b : opened.value().shards()[0].bytes()) sum = static_cast<std::byte>(sum | b);
    _exit(9);
  }
  close(pipe_ends[1]);
  std::string said(4096, '\0');
  said.resize(static_cast<size_t>(std::max<ssize_t>(0, read(pipe_ends[0], said.data(), said.size()))));
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 1);
  EXPECT_NE(said.find("model.safetensors"), std::string::npos) << said;
  EXPECT_EQ(std::count(said.begin(), said.end(), '\n'), 1) << said;
}

// The figures of the architecture report (A.2, A.8) from our own configs.
TEST(Summary, HasThePublishedFigures) {
  struct Expected {
    const char* name;
    int64_t parameters, active, tensors, bytes, read, expert, at_1m;
    double per_token;
  };
  for (const Expected& e :
       {Expected{"flash", 284334567511, 13270101591, 69187, 159609485896, 11217580396, 13369344, 3684958208, 3514.25},
        Expected{"pro", 1572999528803, 48852402019, 145116, 864704792696, 39666618460, 35094528, 5275844608, 5031.4375},
        Expected{"flash-0731", 284334567511, 13270101591, 72317, 166878536440, 11217580396, 13369344, 3684958208,
                 3514.25},
        Expected{"pro-0813", 1572999528803, 48852402019, 149782, 892727580904, 39666618460, 35094528, 5275844608,
                 5031.4375}}) {
    SCOPED_TRACE(e.name);
    const auto config = parse_config(json::dump(load_config_json(e.name).value()), e.name);
    ASSERT_TRUE(config.ok()) << config.error().message;
    const Summary summary = summarise(config.value());
    EXPECT_EQ(summary.parameters, e.parameters);
    EXPECT_EQ(summary.active_parameters, e.active);
    EXPECT_EQ(summary.n_tensors, e.tensors);
    EXPECT_EQ(summary.total_bytes, e.bytes);
    EXPECT_EQ(summary.bytes_per_token, e.read);
    EXPECT_EQ(summary.expert_bytes, e.expert);
    const kv::Layout layout = kv::Layout::from(config.value(), summary.draft, Numerics::kFaithful);
    EXPECT_EQ(layout.entry_bytes_at(1048576), e.at_1m);
    EXPECT_EQ(static_cast<double>(layout.entry_bytes_at(1048576)) / 1048576, e.per_token);
    EXPECT_EQ(layout.kv_row_bytes(), 584);
    EXPECT_EQ(layout.index_row_bytes(), 68);
  }
}

TEST(Synth, SparseFlashHasEveryTensorAndOpens) {
  ThreadPool pool(1);
  for (const auto& [name, draft, tensors] :
       {std::tuple{"flash", Draft::kMtp, 69187}, {"flash-0731", Draft::kDspark, 72317}}) {
    const std::string directory = temp_dir("sparse");
    const Status status = synthesise(load_config_json(name).value(), {.directory = directory, .sparse = true}, pool);
    ASSERT_TRUE(status.ok()) << status.error().message;
    const std::clock_t begin = std::clock();
    const auto opened = Checkpoint::open(directory);
    ASSERT_TRUE(opened.ok()) << opened.error().message;
#ifndef HADAL_DEBUG
    EXPECT_LT(std::clock() - begin, 2 * CLOCKS_PER_SEC);  // processor time: other work on the machine does not count
#else
    (void)begin;
#endif
    EXPECT_EQ(opened.value().tensors().size(), static_cast<size_t>(tensors));
    EXPECT_EQ(opened.value().draft(), draft);
    EXPECT_FALSE(synthesise(load_config_json(name).value(), {.directory = directory, .sparse = true}, pool)
                     .ok());  // not over another
  }
}

// Base: F32 scales, positive, in the range that gives the weights their deviation, mostly no powers of two.
TEST(Synth, WritesEveryReleaseKind) {
  ThreadPool pool(1);
  json::Value config = load_config_json("nano").value();
  config.set("expert_dtype", "fp8");
  const std::string base = temp_dir("base");
  ASSERT_TRUE(synthesise(config, {.directory = base}, pool).ok());
  const auto opened = Checkpoint::open(base);
  ASSERT_TRUE(opened.ok()) << opened.error().message;
  EXPECT_EQ(summarise(opened.value()).total_bytes,
            summarise(opened.value().config()).total_bytes);  // inspect of both agrees
  int n_powers = 0, n = 0;
  for (const char* name : {"layers.0.attn.wq_b.scale", "layers.1.ffn.experts.3.w2.scale"}) {
    const Tensor& scales = opened.value().tensor(name);
    ASSERT_EQ(scales.dtype, Dtype::kF32);
    for (int64_t i = 0; i < scales.n_elements(); ++i, ++n) {
      float scale = 0;
      std::memcpy(&scale, scales.data + 4 * i, 4);
      EXPECT_GT(scale, 1e-6f) << name;
      EXPECT_LT(scale, 0.02f) << name;
      int exponent = 0;
      n_powers += std::frexp(scale, &exponent) == 0.5f;
    }
  }
  EXPECT_LT(n_powers, n);

  config.set("expert_dtype", json::Value());
  config.set("quantization_config", json::Value());
  const std::string bf16 = temp_dir("bf16");
  ASSERT_TRUE(synthesise(config, {.directory = bf16, .sparse = true}, pool).ok());
  const auto plain = Checkpoint::open(bf16);
  ASSERT_TRUE(plain.ok()) << plain.error().message;
  EXPECT_EQ(plain.value().weight("layers.0.attn.wq_a").format, WeightFormat::kBf16);
  EXPECT_EQ(plain.value().weight("layers.0.ffn.experts.0.w1").format, WeightFormat::kBf16);
  const Summary summary = summarise(plain.value().config());
  EXPECT_EQ(summary.total_bytes, summarise(plain.value()).total_bytes);
  EXPECT_EQ(summary.assumed, "no quantization_config: BF16 weights assumed");
}

TEST(Synth, TheSeedAloneDecidesTheBytes) {
  const json::Value config = load_config_json("nano").value();
  std::string files[3];
  for (int i = 0; i < 3; ++i) {
    const std::string directory = temp_dir("synth");
    ThreadPool pool(1 + i);
    ASSERT_TRUE(synthesise(config, {.directory = directory, .seed = i == 2 ? 8u : 7u}, pool).ok());
    files[i] = read_file(directory + "/model.safetensors").value();
  }
  EXPECT_EQ(files[0], files[1]);
  EXPECT_NE(files[0], files[2]);
}

TEST(Plan, EveryControlGroupAboveBinds) {
  const std::string root = temp_dir("groups");
  const auto put = [&](const std::string& path, const std::string& text) {
    std::filesystem::create_directories((root + path).substr(0, (root + path).rfind('/')));
    write_file(root + path, text);
  };
  put("/proc/meminfo", "MemTotal: 9000 kB\nMemAvailable:    8000 kB\n");
  EXPECT_EQ(available_memory(root), 8000 * 1024);
  put("/proc/self/cgroup", "0::/user.slice/run.scope\n");
  put("/sys/fs/cgroup/user.slice/memory.max", "7000000\n");
  put("/sys/fs/cgroup/user.slice/memory.current", "1000\n");
  EXPECT_EQ(available_memory(root), 6999000);
  // The use of the group itself, less what is page cache.
  put("/sys/fs/cgroup/user.slice/run.scope/memory.max", "5000000\n");
  put("/sys/fs/cgroup/user.slice/run.scope/memory.current", "3000000\n");
  EXPECT_EQ(available_memory(root), 2000000);
  put("/sys/fs/cgroup/user.slice/run.scope/memory.stat", "anon 1\ninactive_file 400000\nactive_file 600000\n");
  EXPECT_EQ(available_memory(root), 3000000);
  put("/sys/fs/cgroup/user.slice/run.scope/memory.max", "max\n");
  EXPECT_EQ(available_memory(root), 6999000);
  // Version 1; the path is the host's, the root of the mount the container's.
  put("/proc/self/cgroup", "5:cpu:/\n4:memory:/docker/abc\n0::/\n");
  put("/sys/fs/cgroup/memory/memory.limit_in_bytes", "4000000\n");
  put("/sys/fs/cgroup/memory/memory.usage_in_bytes", "2000000\n");
  put("/sys/fs/cgroup/memory/memory.stat", "total_inactive_file 500000\n");
  EXPECT_EQ(available_memory(root), 2500000);
}

TEST(Plan, SaysWhatWillHappen) {
  Summary summary;
  summary.total_bytes = 100;
  summary.bytes_per_token = int64_t{2} << 30;
  EXPECT_EQ(make_plan(summary, 10, 200).verdict, Plan::Verdict::kFits);
  const Plan pages = make_plan(summary, 10, 60);
  EXPECT_EQ(pages.verdict, Plan::Verdict::kPages);
  EXPECT_NE(pages.sentence.find("will page: about 1.1 s per token"), std::string::npos) << pages.sentence;
  EXPECT_EQ(make_plan(summary, 10, 9).verdict, Plan::Verdict::kRefuse);
}

}  // namespace
}  // namespace hadal::checkpoint
