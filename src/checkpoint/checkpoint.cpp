#include "checkpoint/checkpoint.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <set>

#include "base/json.h"

namespace hadal::checkpoint {
namespace {

constexpr const char* kSingleFile = "model.safetensors";
constexpr const char* kIndexFile = "model.safetensors.index.json";

Error wrong_tensor(const FileMap& shard, const std::string& name, const std::string& expected,
                   const std::string& found) {
  return {Code::kCorrupt, fmt::format("{}: tensor {}: expected {}, found {}", shard.path(), name, expected, found)};
}

std::string describe(const Tensor& tensor) {
  return fmt::format("{} {}", dtype_name(tensor.dtype), shape_text(tensor.shape));
}

}  // namespace

std::string Files::incomplete() const {
  if (missing.empty()) return "";
  std::string names;
  constexpr size_t kShown = 3;
  for (size_t i = 0; i < std::min(missing.size(), kShown); ++i) names += (i ? ", " : "") + missing[i];
  if (missing.size() > kShown) names += fmt::format(" and {} more", missing.size() - kShown);
  return fmt::format("{} of {} shards, missing {}", shards.size() - missing.size(), shards.size(), names);
}

Result<Files> list_files(const std::string& directory) {
  Files files;
  const std::string index_path = directory + "/" + kIndexFile;
  if (!file_exists(index_path)) {
    files.shards = {kSingleFile};
    if (!file_exists(directory + "/" + kSingleFile))
      return Error{Code::kNotFound, fmt::format("{}: found neither {} nor {}", directory, kSingleFile, kIndexFile)};
    return files;
  }
  const std::string text = HADAL_TRY(read_file(index_path, uint64_t{1} << 28));
  auto parsed = json::parse(text, json::Duplicates::kReject);
  if (!parsed.ok()) return Error{Code::kCorrupt, index_path + ": " + parsed.error().message};
  const json::Value* map = parsed.value().find("weight_map");
  if (!map || !map->is_object() || map->as_object().empty())
    return Error{Code::kCorrupt, index_path + ": expected a weight_map of tensor names to files"};
  std::set<std::string> shards;
  for (const auto& [name, shard] : map->as_object()) {
    const bool plain = shard.is_string() && !shard.as_string().empty() && shard.as_string()[0] != '.' &&
                       shard.as_string().find('/') == std::string::npos &&
                       shard.as_string().find('\0') == std::string::npos;
    if (!plain)
      return Error{Code::kCorrupt, fmt::format("{}: tensor {}: expected a file name in this directory, found {}",
                                               index_path, name, json::dump(shard))};
    shards.insert(shard.as_string());
    files.weight_map.emplace(name, shard.as_string());
  }
  if (const json::Value* metadata = parsed.value().find("metadata"))
    if (const json::Value* size = metadata->find("total_size")) files.total_size = size->to_int64();
  files.shards.assign(shards.begin(), shards.end());
  for (const std::string& shard : files.shards)
    if (!file_exists(directory + "/" + shard)) files.missing.push_back(shard);
  return files;
}

namespace {

// Checks one inventory tensor against what the files hold; marks what was used.
class Checker {
 public:
  Checker(const std::unordered_map<std::string, Tensor>& tensors,
          const std::unordered_map<std::string, const FileMap*>& homes, const std::string& directory)
      : tensors_(tensors), homes_(homes), directory_(directory) {}

  Status check(const ExpectedTensor& expected) {
    const Tensor* tensor = HADAL_TRY(need(expected.name));
    const auto& shape = expected.shape;
    switch (expected.storage) {
      case Storage::kF32: return is(expected.name, *tensor, {Dtype::kF32}, shape);
      case Storage::kI64: return is(expected.name, *tensor, {Dtype::kI64}, shape);
      case Storage::kBf16: {
        HADAL_TRY(is(expected.name, *tensor, {Dtype::kBf16, Dtype::kF32}, shape));
        return no_scale(expected);
      }
      case Storage::kLinear:
      case Storage::kExpert: return check_linear(expected, *tensor);
    }
    return {};
  }

  int64_t n_used() const { return n_used_; }

 private:
  Result<const Tensor*> need(const std::string& name) {
    const auto it = tensors_.find(name);
    if (it == tensors_.end())
      return Error{Code::kCorrupt, fmt::format("{}: tensor {} is missing", directory_, name)};
    ++n_used_;
    return &it->second;
  }

  Status is(const std::string& name, const Tensor& tensor, std::initializer_list<Dtype> dtypes,
            const std::vector<int64_t>& shape) const {
    const bool dtype_fits = std::find(dtypes.begin(), dtypes.end(), tensor.dtype) != dtypes.end();
    if (dtype_fits && tensor.shape == shape) return {};
    std::string expected;
    for (const Dtype dtype : dtypes) expected += fmt::format("{}{}", expected.empty() ? "" : " or ", dtype_name(dtype));
    return wrong_tensor(*homes_.at(name), name, expected + " " + shape_text(shape), describe(tensor));
  }

  Status no_scale(const ExpectedTensor& expected) const {
    if (!expected.name.ends_with(".weight")) return {};
    const std::string scale = scale_name(expected.name);
    if (!tensors_.contains(scale)) return {};
    return wrong_tensor(*homes_.at(scale), scale, "no scale for an unquantised weight", "one");
  }

  Status check_linear(const ExpectedTensor& expected, const Tensor& tensor) {
    const int64_t rows = expected.shape[0], cols = expected.shape[1];
    const std::string scale = scale_name(expected.name);
    switch (tensor.dtype) {
      case Dtype::kBf16:
      case Dtype::kF32: {
        HADAL_TRY(is(expected.name, tensor, {Dtype::kBf16, Dtype::kF32}, expected.shape));
        return no_scale(expected);
      }
      case Dtype::kF8e4m3: {
        HADAL_TRY(is(expected.name, tensor, {Dtype::kF8e4m3}, expected.shape));
        const Tensor* scales = HADAL_TRY(need(scale));
        return is(scale, *scales, {Dtype::kF8e8m0, Dtype::kF32}, {(rows + 127) / 128, (cols + 127) / 128});
      }
      case Dtype::kI8:
        if (expected.storage == Storage::kExpert) {
          if (cols % 32 != 0)
            return Error{Code::kUnsupported, fmt::format("{}: tensor {}: expected FP4 rows of a multiple of 32, found {}",
                                                         homes_.at(expected.name)->path(), expected.name, cols)};
          HADAL_TRY(is(expected.name, tensor, {Dtype::kI8}, {rows, cols / 2}));
          const Tensor* scales = HADAL_TRY(need(scale));
          return is(scale, *scales, {Dtype::kF8e8m0}, {rows, cols / 32});
        }
        [[fallthrough]];
      default: break;
    }
    return wrong_tensor(*homes_.at(expected.name), expected.name,
                        expected.storage == Storage::kExpert ? "I8 (packed FP4), F8_E4M3, BF16 or F32"
                                                             : "F8_E4M3, BF16 or F32",
                        describe(tensor));
  }

  const std::unordered_map<std::string, Tensor>& tensors_;
  const std::unordered_map<std::string, const FileMap*>& homes_;
  const std::string& directory_;
  int64_t n_used_ = 0;
};

// Ids in hash tables index experts: checked here, once, so that routing can trust them.
Status check_hash_table(const std::string& name, const Tensor& table, int n_experts, const FileMap& shard) {
  for (int64_t i = 0; i < table.n_elements(); ++i) {
    int64_t id = 0;
    std::memcpy(&id, table.data + 8 * i, 8);
    if (id < 0 || id >= n_experts)
      return wrong_tensor(shard, name, fmt::format("expert ids from 0 to {}", n_experts - 1),
                          fmt::format("{} at element {}", id, i));
  }
  return {};
}

}  // namespace

Result<Checkpoint> Checkpoint::open(const std::string& directory) {
  if (!is_directory(directory))
    return Error{Code::kNotFound, directory + ": expected a checkpoint directory (config.json and safetensors)"};
  Checkpoint checkpoint;
  checkpoint.directory_ = directory;
  checkpoint.config_ = HADAL_TRY(read_config(directory));
  ModelConfig& config = checkpoint.config_;
  const Files files = HADAL_TRY(list_files(directory));
  if (!files.missing.empty())
    return Error{Code::kNotFound, fmt::format("{}: the download is not complete: {}", directory, files.incomplete())};

  std::unordered_map<std::string, const FileMap*> homes;  // tensor -> shard
  checkpoint.shards_.reserve(files.shards.size());
  int64_t total_bytes = 0;
  for (const std::string& name : files.shards) {
    checkpoint.shards_.push_back(HADAL_TRY(FileMap::open(directory + "/" + name)));
    const FileMap& shard = checkpoint.shards_.back();
    const Header header = HADAL_TRY(parse_header(shard.bytes(), shard.bytes().size(), shard.path()));
    for (const HeaderEntry& entry : header.tensors) {
      if (!files.weight_map.empty()) {
        const auto mapped = files.weight_map.find(entry.name);
        if (mapped == files.weight_map.end() || mapped->second != name)
          return wrong_tensor(shard, entry.name,
                              mapped == files.weight_map.end() ? "only tensors of the index" : "it in " + mapped->second,
                              "it here");
      }
      total_bytes += static_cast<int64_t>(entry.end - entry.begin);
      const auto release_name = canonical_name(entry.name);
      if (!release_name) continue;
      if (homes.contains(*release_name))
        return Error{Code::kCorrupt, fmt::format("{}: tensor {} appears twice (as {}, and in {})", shard.path(),
                                                 *release_name, entry.name, homes[*release_name]->path())};
      homes.emplace(*release_name, &shard);
      checkpoint.tensors_.emplace(*release_name,
                                  Tensor{entry.dtype, entry.shape, shard.bytes().data() + entry.begin});
    }
  }
  if (files.total_size && *files.total_size != total_bytes)
    return Error{Code::kCorrupt, fmt::format("{}/{}: total_size: expected {} bytes of tensors, found {} in the shards",
                                             directory, kIndexFile, *files.total_size, total_bytes)};

  const auto count_blocks = [&](const char* some_tensor) {
    int n = 0;
    while (checkpoint.tensors_.contains(fmt::format("mtp.{}.{}", n, some_tensor))) ++n;
    return n;
  };
  if (checkpoint.tensors_.contains("mtp.0.e_proj.weight")) {
    checkpoint.draft_ = Draft::kMtp;
    checkpoint.n_draft_blocks_ = count_blocks("e_proj.weight");
  } else if (checkpoint.tensors_.contains("mtp.0.main_proj.weight")) {
    checkpoint.draft_ = Draft::kDspark;
    checkpoint.n_draft_blocks_ = count_blocks("attn.wq_a.weight");
    if (config.dspark_markov_rank == 0)
      return Error{Code::kCorrupt, directory + "/config.json: dspark_markov_rank: expected it, since the checkpoint "
                                               "has DSpark stages (mtp.0.main_proj), found nothing"};
  }
  config.n_mtp_layers = checkpoint.draft_ == Draft::kMtp ? checkpoint.n_draft_blocks_ : 0;

  const auto expected = expected_tensors(config, checkpoint.draft_, checkpoint.n_draft_blocks_);
  Checker checker(checkpoint.tensors_, homes, directory);
  for (const ExpectedTensor& tensor : expected) {
    HADAL_TRY(checker.check(tensor));
    if (tensor.storage == Storage::kI64)
      HADAL_TRY(check_hash_table(tensor.name, checkpoint.tensors_.at(tensor.name), config.n_routed_experts,
                                 *homes.at(tensor.name)));
  }
  if (checker.n_used() != static_cast<int64_t>(checkpoint.tensors_.size())) {
    std::set<std::string> known;
    for (const ExpectedTensor& tensor : expected) {
      known.insert(tensor.name);
      if (tensor.storage == Storage::kLinear || tensor.storage == Storage::kExpert)
        known.insert(scale_name(tensor.name));
    }
    std::string unknown;
    for (const auto& [name, tensor] : checkpoint.tensors_)
      if (!known.contains(name) && (unknown.empty() || name < unknown)) unknown = name;
    if (!unknown.empty())
      return Error{Code::kUnsupported,
                   fmt::format("{}: tensor {}: expected only tensors of DeepSeek V4 as config.json describes it",
                               homes.at(unknown)->path(), unknown)};
  }
  const Dtype expert_dtype = checkpoint.tensors_.at("layers.0.ffn.experts.0.w1.weight").dtype;
  const bool is_fp4 = expert_dtype == Dtype::kI8;
  if ((config.expert_dtype == "fp4" && !is_fp4) || (config.expert_dtype == "fp8" && expert_dtype != Dtype::kF8e4m3))
    return Error{Code::kCorrupt, fmt::format("{}/config.json: expert_dtype: expected that of the tensors ({}), found {}",
                                             directory, dtype_name(expert_dtype), config.expert_dtype)};
  return checkpoint;
}

const Tensor* Checkpoint::find(std::string_view name) const {
  const auto it = tensors_.find(std::string(name));
  return it == tensors_.end() ? nullptr : &it->second;
}

const Tensor& Checkpoint::tensor(std::string_view name) const {
  const Tensor* tensor = find(name);
  HADAL_CHECK(tensor != nullptr);
  return *tensor;
}

Weight Checkpoint::weight(std::string_view name) const {
  const std::string base(name);
  const Tensor& stored = tensor(base + ".weight");
  Weight weight{.rows = stored.shape[0], .cols = stored.shape[1], .data = stored.data};
  switch (stored.dtype) {
    case Dtype::kF32: weight.format = WeightFormat::kF32; return weight;
    case Dtype::kBf16: weight.format = WeightFormat::kBf16; return weight;
    case Dtype::kI8:
      weight.format = WeightFormat::kFp4Block;
      weight.cols *= 2;
      break;
    default: weight.format = WeightFormat::kFp8Block;
  }
  const Tensor& scale = tensor(base + ".scale");
  weight.scale = scale.data;
  weight.scales_are_f32 = scale.dtype == Dtype::kF32;
  return weight;
}

Status Checkpoint::unchanged() const {
  for (const FileMap& shard : shards_) HADAL_TRY(shard.unchanged());
  return {};
}

}  // namespace hadal::checkpoint
