#include "checkpoint/synth.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "base/file.h"
#include "checkpoint/config.h"
#include "checkpoint/embedded_configs.h"
#include "checkpoint/inventory.h"
#include "checkpoint/writer.h"
#include "tensor/formats.h"
#include "text/tokenizer_json.h"

namespace hadal::checkpoint {
namespace {

// ---- random numbers: splitmix64 of (stream, index)

uint64_t mix(uint64_t x) {
  x += 0x9E3779B97F4A7C15u;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

uint64_t hash_name(uint64_t seed, std::string_view name) {
  uint64_t h = mix(seed);
  for (const char c : name) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001B3u;
  return mix(h);
}

constexpr int kSums = 4 * 255 + 1;  // the sum of four bytes is nearly normal
double normal_of_sum(int sum) { return (sum - 510) / 147.8; }

class Normals {
 public:
  explicit Normals(uint64_t stream) : stream_(stream) {}
  int next_sum() {
    if (left_ == 0) {
      bits_ = mix(stream_ + counter_++);
      left_ = 2;
    }
    const uint32_t word = static_cast<uint32_t>(bits_);
    bits_ >>= 32;
    --left_;
    const uint32_t pairs = (word & 0x00FF00FFu) + ((word >> 8) & 0x00FF00FFu);
    return static_cast<int>((pairs & 0xFFFF) + (pairs >> 16));
  }
  float next() { return static_cast<float>(normal_of_sum(next_sum())); }

 private:
  uint64_t stream_, counter_ = 0, bits_ = 0;
  int left_ = 0;
};

constexpr int kStrengths = 16;

// Strength s of 16: e^(0.55 z) at the quantiles of a normal.
double strength(int s) {
  static constexpr double kZ[kStrengths] = {-1.86, -1.32, -1.01, -0.78, -0.58, -0.40, -0.24, -0.08,
                                            0.08,  0.24,  0.40,  0.58,  0.78,  1.01,  1.32,  1.86};
  return std::exp(0.45 * kZ[s]);
}

// Codes by (strength, sum): kE4m3Unit and kE2m1Unit are the grid steps of one standard deviation.
constexpr double kE4m3Unit = 32, kE2m1Unit = 1.6;
struct CodeTables {
  std::array<std::array<uint8_t, kSums>, kStrengths> e4m3, e2m1;
  CodeTables() {
    for (int s = 0; s < kStrengths; ++s)
      for (int sum = 0; sum < kSums; ++sum) {
        const double z = normal_of_sum(sum) * strength(s);
        e4m3[static_cast<size_t>(s)][static_cast<size_t>(sum)] =
            round_e4m3(static_cast<float>(std::clamp(z * kE4m3Unit, -448.0, 448.0)));
        e2m1[static_cast<size_t>(s)][static_cast<size_t>(sum)] =
            round_e2m1(static_cast<float>(std::clamp(z * kE2m1Unit, -6.0, 6.0)));
      }
  }
};
const CodeTables& tables() {
  static const CodeTables kTables;
  return kTables;
}

// ---- what each tensor looks like

struct Shape {
  double gain = 1;                 // matrices: standard deviation gain / sqrt(in)
  double mean = 0, deviation = 1;  // vectors
};

Shape distribution(std::string_view name) {
  const auto has = [&](std::string_view part) { return name.find(part) != std::string_view::npos; };
  if (name == "embed.weight") return {.gain = 0};
  if (name == "head.weight") return {.gain = 2};
  if (has("wo_b.")) return {.gain = 0.45};
  if (has(".w2.")) return {.gain = 0.12};
  if (has("e_proj.") || has("h_proj.") || has("main_proj.")) return {.gain = 0.7};
  if (has("wgate.") || has("gate.weight")) return {.gain = 1.5};
  if (has("kv_norm.") || has("compressor.norm.")) return {.mean = 1.3, .deviation = 0.25};
  if (has("norm")) return {.mean = 1, .deviation = 0.2};
  if (has("attn_sink")) return {.mean = 0, .deviation = 1.5};
  if (has(".ape")) return {.mean = 0, .deviation = 0.7};
  if (has("gate.bias")) return {.mean = 0, .deviation = 0.3};
  if (name.ends_with("_base")) return {.mean = 0, .deviation = 0.8};
  if (name.ends_with("_scale")) return {.mean = 1, .deviation = 0.2};
  return {};
}

struct Task {  // one stored tensor
  StoredTensor tensor;
  std::string weight_name;  // for scales: of their weight
  int64_t cols = 1;         // in features of the weight
};

// Exponent of the scale of one block or group: the base that gives the wanted deviation, and -1, 0 or +1.
int scale_exponent_of(const Task& task, uint64_t stream, uint64_t index, double unit) {
  const double deviation = distribution(task.weight_name).gain / std::sqrt(static_cast<double>(task.cols));
  const int base = static_cast<int>(std::lround(std::log2(deviation / unit)));
  return base + static_cast<int>(mix(stream + index) % 3) - 1;
}

// Row `row` of a tensor into `out`.
void fill_row(const Task& task, uint64_t seed, int64_t row, int64_t row_elements, std::byte* out) {
  const uint64_t stream = mix(hash_name(seed, task.tensor.name) ^ mix(static_cast<uint64_t>(row)));
  const Shape shape = distribution(task.tensor.name);
  uint8_t* bytes = reinterpret_cast<uint8_t*>(out);
  const int row_strength = static_cast<int>(mix(stream) % 8);
  const auto group_strength = [&](int64_t group) {
    return static_cast<size_t>(row_strength +
                               static_cast<int>(mix(stream ^ static_cast<uint64_t>(group * 7919 + 1)) % 9));
  };
  Normals normals(stream);
  switch (task.tensor.dtype) {
    case Dtype::kF8e4m3:
      for (int64_t i = 0; i < row_elements; i += 32) {
        const auto& codes = tables().e4m3[group_strength(i / 32)];
        for (int64_t k = i; k < std::min(i + 32, row_elements); ++k)
          bytes[k] = codes[static_cast<size_t>(normals.next_sum())];
      }
      return;
    case Dtype::kI8:
      for (int64_t i = 0; i < row_elements; i += 16) {
        const auto& codes = tables().e2m1[group_strength(i / 16)];
        for (int64_t k = i; k < std::min(i + 16, row_elements); ++k) {
          const unsigned low = codes[static_cast<size_t>(normals.next_sum())];
          bytes[k] =
              static_cast<uint8_t>(low | static_cast<unsigned>(codes[static_cast<size_t>(normals.next_sum())]) << 4);
        }
      }
      return;
    case Dtype::kF8e8m0:
      for (int64_t i = 0; i < row_elements; ++i) {
        const bool fp4 = row_elements * 32 == task.cols;
        bytes[i] = static_cast<uint8_t>(
            scale_exponent_of(task, stream, static_cast<uint64_t>(i), fp4 ? kE2m1Unit : kE4m3Unit) + 127);
      }
      return;
    case Dtype::kI64: {  // a row of distinct experts; cols: their number
      std::vector<int64_t> chosen;
      for (uint64_t draw = 0; static_cast<int64_t>(chosen.size()) < row_elements; ++draw) {
        const int64_t id = static_cast<int64_t>(mix(stream + draw) % static_cast<uint64_t>(task.cols));
        if (std::find(chosen.begin(), chosen.end(), id) == chosen.end()) chosen.push_back(id);
      }
      std::memcpy(out, chosen.data(), static_cast<size_t>(8 * row_elements));
      return;
    }
    case Dtype::kBf16:
    case Dtype::kF32: {
      if (task.tensor.name != task.weight_name) {  // F32 scales of FP8 blocks: positive, rarely a power of two
        for (int64_t i = 0; i < row_elements; ++i) {
          const int exponent = scale_exponent_of(task, stream, static_cast<uint64_t>(i), kE4m3Unit);
          const double jitter = 0.75 + static_cast<double>(mix(~stream + static_cast<uint64_t>(i)) >> 40) * 0x1p-25;
          const float scale = static_cast<float>(std::ldexp(jitter, exponent));
          std::memcpy(out + 4 * i, &scale, 4);
        }
        return;
      }
      const bool matrix = task.tensor.shape.size() == 2 && !task.tensor.name.ends_with(".ape");
      const double deviation = !matrix           ? shape.deviation
                               : shape.gain == 0 ? 1
                                                 : shape.gain / std::sqrt(static_cast<double>(row_elements));
      for (int64_t i = 0; i < row_elements; ++i) {
        float value = static_cast<float>(matrix ? 0 : shape.mean) + static_cast<float>(deviation) * normals.next();
        if (task.tensor.name.ends_with("_scale")) value = std::fabs(value);
        if (task.tensor.dtype == Dtype::kF32) {
          std::memcpy(out + 4 * i, &value, 4);
        } else {
          const bf16 rounded = to_bf16(value);
          std::memcpy(out + 2 * i, &rounded, 2);
        }
      }
      return;
    }
    default:
      return;
  }
}

int64_t row_elements(const StoredTensor& tensor) {
  return tensor.shape.size() == 1 ? tensor.shape[0] : tensor.shape.back();
}

// Rows [first, first + n) of a tensor, for CheckpointWriter.
void fill_rows(const Task& task, uint64_t seed, int64_t first, int64_t n, ThreadPool& pool, std::byte* out) {
  const int64_t elements = row_elements(task.tensor), bytes = elements * dtype_size(task.tensor.dtype);
  constexpr int64_t kRowsPerTask = 16;
  pool.run((n + kRowsPerTask - 1) / kRowsPerTask, [&](int64_t t, int) {
    for (int64_t i = t * kRowsPerTask; i < std::min(n, (t + 1) * kRowsPerTask); ++i)
      fill_row(task, seed, first + i, elements, out + i * bytes);
  });
}

}  // namespace

json::Value synth_tokenizer() { return text::tokenizer_json({}, false); }

Result<json::Value> load_config_json(const std::string& name_or_path) {
  for (int i = 0; i < kEmbeddedConfigCount; ++i)
    if (name_or_path == kEmbeddedConfigs[i].name) return json::parse(kEmbeddedConfigs[i].text);
  auto text = read_file(is_directory(name_or_path) ? name_or_path + "/config.json" : name_or_path, 1 << 20);
  if (!text.ok()) {
    std::string names;
    for (int i = 0; i < kEmbeddedConfigCount; ++i)
      names += fmt::format("{}{}", i ? ", " : "", kEmbeddedConfigs[i].name);
    return Error{text.error().code, fmt::format("{} (known names: {})", text.error().message, names)};
  }
  auto parsed = json::parse(text.value(), json::Duplicates::kReject);
  if (!parsed.ok()) return Error{Code::kCorrupt, name_or_path + ": " + parsed.error().message};
  if (!parsed.value().is_object()) return Error{Code::kCorrupt, name_or_path + ": expected a JSON object"};
  return parsed;
}

Status synthesise(const json::Value& config_json, const SynthOptions& options, ThreadPool& pool) {
  const ModelConfig config = HADAL_TRY(parse_config(json::dump(config_json), options.config_name));
  const bool is_dspark = config.dspark_markov_rank > 0;
  const Draft draft = is_dspark ? Draft::kDspark : config.n_mtp_layers > 0 ? Draft::kMtp : Draft::kNone;
  const int n_draft = is_dspark ? 3 : config.n_mtp_layers;
  HADAL_TRY(check_draft_ratios(config, draft, n_draft, options.config_name));
  const ReleaseKind kind = release_kind(config);
  if (kind.experts == Dtype::kI8 && (config.dim % 32 != 0 || config.moe_inter_dim % 32 != 0))
    return Error{Code::kUnsupported,
                 fmt::format("{}: FP4 experts: expected hidden_size and moe_intermediate_size to be "
                             "multiples of 32, found {} and {}",
                             options.config_name, config.dim, config.moe_inter_dim)};

  auto writer = HADAL_TRY(CheckpointWriter::create({.directory = options.directory,
                                                    .shard_bytes = options.shard_bytes,
                                                    .sparse = options.sparse,
                                                    .progress = options.progress}));
  for (const ExpectedTensor& expected : expected_tensors(config, draft, n_draft))
    for (StoredTensor& stored : stored_as(expected, kind)) {
      const int64_t cols = expected.storage == Storage::kI64 ? config.n_routed_experts : expected.shape.back();
      Task task{stored, expected.name, cols};
      writer.add(std::move(stored),
                 [task = std::move(task), &options, &pool](int64_t first, int64_t n, std::byte* rows) {
                   fill_rows(task, options.seed, first, n, pool, rows);
                   return Status();
                 });
    }
  HADAL_TRY(writer.write_tensors());
  const json::Style pretty{.ascii = false, .item = ",", .key = ": ", .indent = 1};
  if (config.vocab_size >= kSynthVocab)
    HADAL_TRY(writer.write_text("tokenizer.json", json::dump(synth_tokenizer(), pretty) + "\n"));
  const json::Value generation = json::Object{{"bos_token_id", 0},  {"eos_token_id", 1}, {"do_sample", true},
                                              {"temperature", 1.0}, {"top_p", 1.0},      {"hadal_untrained", true}};
  HADAL_TRY(writer.write_text("generation_config.json", json::dump(generation, pretty) + "\n"));
  return writer.finish(config_json);
}

}  // namespace hadal::checkpoint
