#include "checkpoint/synth.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <filesystem>

#include "base/file.h"
#include "checkpoint/config.h"
#include "checkpoint/embedded_configs.h"
#include "checkpoint/inventory.h"
#include "checkpoint/safetensors.h"
#include "tensor/formats.h"

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
    return static_cast<size_t>(row_strength + static_cast<int>(mix(stream ^ static_cast<uint64_t>(group * 7919 + 1)) % 9));
  };
  Normals normals(stream);
  switch (task.tensor.dtype) {
    case Dtype::kF8e4m3:
      for (int64_t i = 0; i < row_elements; i += 32) {
        const auto& codes = tables().e4m3[group_strength(i / 32)];
        for (int64_t k = i; k < std::min(i + 32, row_elements); ++k) bytes[k] = codes[static_cast<size_t>(normals.next_sum())];
      }
      return;
    case Dtype::kI8:
      for (int64_t i = 0; i < row_elements; i += 16) {
        const auto& codes = tables().e2m1[group_strength(i / 16)];
        for (int64_t k = i; k < std::min(i + 16, row_elements); ++k) {
          const unsigned low = codes[static_cast<size_t>(normals.next_sum())];
          bytes[k] = static_cast<uint8_t>(low | static_cast<unsigned>(codes[static_cast<size_t>(normals.next_sum())]) << 4);
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
      const double deviation = !matrix             ? shape.deviation
                               : shape.gain == 0   ? 1
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
    default: return;
  }
}

// ---- files

Error file_error(const std::string& path, const char* what) {
  return {Code::kIo, fmt::format("{}: {}: {}", path, what, std::strerror(errno))};
}

class OutputFile {
 public:
  static Result<OutputFile> create(const std::string& path) {
    OutputFile file;
    file.path_ = path;
    file.fd_ = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (file.fd_ < 0) return file_error(path, "cannot create");
    return file;
  }
  OutputFile(OutputFile&& other) noexcept : path_(std::move(other.path_)), fd_(std::exchange(other.fd_, -1)) {}
  OutputFile(const OutputFile&) = delete;
  ~OutputFile() {
    if (fd_ < 0) return;
    ::close(fd_);
    ::unlink(path_.c_str());  // never finished
  }
  Status write(const void* data, size_t n) {
    const char* p = static_cast<const char*>(data);
    while (n > 0) {
      const ssize_t written = ::write(fd_, p, n);
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) return file_error(path_, "cannot write");
      p += written;
      n -= static_cast<size_t>(written);
    }
    return {};
  }
  Status extend(int64_t size) {
    if (::ftruncate(fd_, size) != 0) return file_error(path_, "cannot extend");
    return {};
  }
  Status finish(const std::string& final_path) {
    const int fd = std::exchange(fd_, -1);
    if (::close(fd) != 0 || ::rename(path_.c_str(), final_path.c_str()) != 0) {
      const Error error = file_error(final_path, "cannot finish");
      ::unlink(path_.c_str());
      return error;
    }
    return {};
  }

 private:
  OutputFile() = default;
  std::string path_;
  int fd_ = -1;
};

Status write_text(const std::string& path, const std::string& text) {
  auto file = HADAL_TRY(OutputFile::create(path + ".part"));
  HADAL_TRY(file.write(text.data(), text.size()));
  return file.finish(path);
}

int64_t row_elements(const StoredTensor& tensor) { return tensor.shape.size() == 1 ? tensor.shape[0] : tensor.shape.back(); }
int64_t n_rows(const StoredTensor& tensor) { return tensor.shape.size() == 1 ? 1 : tensor.shape[0]; }

Status write_tensor(const Task& task, uint64_t seed, ThreadPool& pool, OutputFile& file, std::vector<std::byte>& buffer,
                    const std::function<void(int64_t)>& wrote) {
  const int64_t elements = row_elements(task.tensor), bytes = elements * dtype_size(task.tensor.dtype);
  const int64_t rows = n_rows(task.tensor), per_piece = std::max<int64_t>(1, (int64_t{16} << 20) / std::max<int64_t>(1, bytes));
  for (int64_t first = 0; first < rows; first += per_piece) {
    const int64_t n = std::min(per_piece, rows - first);
    buffer.resize(static_cast<size_t>(n * bytes));
    constexpr int64_t kRowsPerTask = 16;
    pool.run((n + kRowsPerTask - 1) / kRowsPerTask, [&](int64_t t, int) {
      for (int64_t i = t * kRowsPerTask; i < std::min(n, (t + 1) * kRowsPerTask); ++i)
        fill_row(task, seed, first + i, elements, buffer.data() + i * bytes);
    });
    HADAL_TRY(file.write(buffer.data(), buffer.size()));
    wrote(n * bytes);
  }
  return {};
}

std::string header_text(const std::vector<const Task*>& tasks) {
  json::Object header;
  header.emplace_back("__metadata__", json::Object{{"format", "pt"}});
  int64_t offset = 0;
  for (const Task* task : tasks) {
    json::Array shape;
    for (const int64_t extent : task->tensor.shape) shape.emplace_back(extent);
    const int64_t size = task->tensor.size_bytes();
    header.emplace_back(task->tensor.name, json::Object{{"dtype", dtype_name(task->tensor.dtype)},
                                                        {"shape", std::move(shape)},
                                                        {"data_offsets", json::Array{offset, offset + size}}});
    offset += size;
  }
  std::string text = json::dump(json::Value(std::move(header)), json::kCompact);
  text.append((8 - text.size() % 8) % 8, ' ');
  return text;
}

}  // namespace

json::Value synth_tokenizer() {
  // GPT-2's printable alphabet of the 256 bytes.
  std::array<std::string, 256> alphabet;
  int next = 256;
  for (int b = 0; b < 256; ++b) {
    const bool itself = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
    const int c = itself ? b : next++;
    alphabet[static_cast<size_t>(b)] = c < 0x80 ? std::string(1, static_cast<char>(c))
                                                : std::string{static_cast<char>(0xC0 | c >> 6), static_cast<char>(0x80 | (c & 63))};
  }
  static constexpr const char* kFirst[] = {"<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"};
  static constexpr const char* kSpecial[] = {
      "<｜User｜>", "<｜Assistant｜>", "<think>", "</think>", "｜DSML｜", "<｜latest_reminder｜>", "<｜action｜>",
      "<｜query｜>", "<｜authority｜>", "<｜domain｜>", "<｜title｜>", "<｜read_url｜>", "<｜extracted_url｜>",
      "<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>", "<｜search▁begin｜>", "<｜search▁end｜>"};
  json::Object vocab;
  json::Array added;
  int64_t id = 0;
  const auto add_token = [&](const char* content, bool special) {
    added.emplace_back(json::Object{{"id", id++}, {"content", content}, {"single_word", false}, {"lstrip", false},
                                    {"rstrip", false}, {"normalized", false}, {"special", special}});
  };
  for (const char* content : kFirst) add_token(content, true);
  for (const std::string& piece : alphabet) vocab.emplace_back(piece, json::Value(id++));
  for (const char* content : kSpecial) add_token(content, false);
  const auto split = [](const char* pattern) {
    return json::Object{{"type", "Split"}, {"pattern", json::Object{{"Regex", pattern}}}, {"behavior", "Isolated"}, {"invert", false}};
  };
  const json::Array splits = {
      split("\\p{N}{1,3}"), split("[一-龥぀-ゟ゠-ヿ]+"),
      split("[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| "
            "?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"),
      json::Object{{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", false}}};
  const json::Object byte_level{{"type", "ByteLevel"}, {"add_prefix_space", true}, {"trim_offsets", true}, {"use_regex", true}};
  return json::Object{
      {"version", "1.0"},
      {"added_tokens", std::move(added)},
      {"normalizer", json::Object{{"type", "Sequence"}, {"normalizers", json::Array{}}}},
      {"pre_tokenizer", json::Object{{"type", "Sequence"}, {"pretokenizers", splits}}},
      {"post_processor", byte_level},
      {"decoder", byte_level},
      {"model", json::Object{{"type", "BPE"}, {"vocab", std::move(vocab)}, {"merges", json::Array{}}}}};
}

Result<json::Value> load_config_json(const std::string& name_or_path) {
  for (int i = 0; i < kEmbeddedConfigCount; ++i)
    if (name_or_path == kEmbeddedConfigs[i].name) return json::parse(kEmbeddedConfigs[i].text);
  auto text = read_file(is_directory(name_or_path) ? name_or_path + "/config.json" : name_or_path, 1 << 20);
  if (!text.ok()) {
    std::string names;
    for (int i = 0; i < kEmbeddedConfigCount; ++i) names += fmt::format("{}{}", i ? ", " : "", kEmbeddedConfigs[i].name);
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
    return Error{Code::kUnsupported, fmt::format("{}: FP4 experts: expected hidden_size and moe_intermediate_size to be "
                                                 "multiples of 32, found {} and {}", options.config_name, config.dim,
                                                 config.moe_inter_dim)};

  std::vector<Task> tasks;
  int64_t total = 0;
  for (const ExpectedTensor& expected : expected_tensors(config, draft, n_draft))
    for (StoredTensor& stored : stored_as(expected, kind)) {
      const int64_t cols = expected.storage == Storage::kI64 ? config.n_routed_experts : expected.shape.back();
      total += stored.size_bytes();
      tasks.push_back({std::move(stored), expected.name, cols});
    }
  std::vector<std::vector<const Task*>> shards(1);
  int64_t filled = 0;
  for (const Task& task : tasks) {
    if (filled > 0 && filled + task.tensor.size_bytes() > options.shard_bytes) {
      shards.emplace_back();
      filled = 0;
    }
    shards.back().push_back(&task);
    filled += task.tensor.size_bytes();
  }

  std::error_code error;
  std::filesystem::create_directories(options.directory, error);
  if (error) return Error{Code::kIo, fmt::format("{}: cannot create: {}", options.directory, error.message())};
  const std::string base = options.directory + "/";
  for (const char* name : {"config.json", "model.safetensors", "model.safetensors.index.json"})
    if (file_exists(base + name))
      return Error{Code::kInvalid, fmt::format("{}: already holds {}; expected a new directory", options.directory, name)};

  std::vector<std::byte> buffer;
  json::Object weight_map;
  int64_t done = 0;
  for (size_t s = 0; s < shards.size(); ++s) {
    const std::string name = shards.size() == 1 ? "model.safetensors"
                                                : fmt::format("model-{:05}-of-{:05}.safetensors", s + 1, shards.size());
    auto file = HADAL_TRY(OutputFile::create(base + name + ".part"));
    const std::string header = header_text(shards[s]);
    const uint64_t length = header.size();
    HADAL_TRY(file.write(&length, 8));
    HADAL_TRY(file.write(header.data(), header.size()));
    int64_t size = 8 + static_cast<int64_t>(header.size());
    for (const Task* task : shards[s]) {
      size += task->tensor.size_bytes();
      weight_map.emplace_back(task->tensor.name, name);
      if (options.sparse) continue;
      HADAL_TRY(write_tensor(*task, options.seed, pool, file, buffer, [&](int64_t n) {
        done += n;
        if (options.progress) options.progress(done, total);
      }));
    }
    if (options.sparse) HADAL_TRY(file.extend(size));
    HADAL_TRY(file.finish(base + name));
  }
  const json::Style pretty{.ascii = false, .item = ",", .key = ": ", .indent = 1};
  if (shards.size() > 1) {
    const json::Value index = json::Object{{"metadata", json::Object{{"total_size", total}}}, {"weight_map", std::move(weight_map)}};
    HADAL_TRY(write_text(base + "model.safetensors.index.json", json::dump(index, pretty) + "\n"));
  }
  if (config.vocab_size >= kSynthVocab)
    HADAL_TRY(write_text(base + "tokenizer.json", json::dump(synth_tokenizer(), pretty) + "\n"));
  const json::Value generation = json::Object{{"bos_token_id", 0}, {"eos_token_id", 1}, {"do_sample", true},
                                              {"temperature", 1.0}, {"top_p", 1.0}, {"hadal_untrained", true}};
  HADAL_TRY(write_text(base + "generation_config.json", json::dump(generation, pretty) + "\n"));
  return write_text(base + "config.json", json::dump(config_json, pretty) + "\n");
}

}  // namespace hadal::checkpoint
