#include "checkpoint/checkpoint.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <map>
#include <set>

#include "base/json.h"

namespace hadal::checkpoint {
namespace {

constexpr const char* kSingleFile = "model.safetensors";
constexpr const char* kIndexFile = "model.safetensors.index.json";
constexpr int kMaxDraftBlocks = 16;

Error wrong_tensor(const FileMap& shard, const std::string& name, const std::string& expected,
                   const std::string& found) {
  return {Code::kCorrupt, fmt::format("{}: tensor {}: expected {}, found {}", shard.path(), name, expected, found)};
}

std::string describe(const Tensor& tensor) {
  return fmt::format("{} {}", dtype_name(tensor.dtype), shape_text(tensor.shape));
}

// Whether there is something at `path`; what cannot be told (a loop of links, a name too long) opening will tell.
bool present(const std::string& path) {
  struct stat info;
  return ::stat(path.c_str(), &info) == 0 || (errno != ENOENT && errno != ENOTDIR);
}

// " (but 31 files model-00001-of-00046.safetensors, ...)", or "".
std::string shards_without_index(const std::string& directory) {
  std::set<std::string> names;
  std::error_code error;
  std::filesystem::directory_iterator entry(directory, error);
  for (; !error && entry != std::filesystem::directory_iterator(); entry.increment(error))
    if (entry->path().extension() == ".safetensors") names.insert(entry->path().filename().string());
  if (names.empty()) return "";
  return fmt::format(" (but {} other shard{}: {}{})", names.size(), names.size() == 1 ? "" : "s", shown(*names.begin()),
                     names.size() > 1 ? ", ..." : "");
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
  if (!present(index_path)) {
    files.shards = {kSingleFile};
    if (present(directory + "/" + kSingleFile)) return files;
    return Error{Code::kNotFound, fmt::format("{}: found neither {} nor {}{}", directory, kSingleFile, kIndexFile,
                                              shards_without_index(directory))};
  }
  const std::string text = HADAL_TRY(read_file(index_path, uint64_t{1} << 28));
  auto parsed = json::parse(text, json::Duplicates::kReject);
  if (!parsed.ok()) return Error{Code::kCorrupt, index_path + ": " + parsed.error().message};
  const json::Value* map = parsed.value().find("weight_map");
  if (!map || !map->is_object() || map->as_object().empty())
    return Error{Code::kCorrupt, index_path + ": expected a weight_map of tensor names to files"};
  std::map<std::string_view, int> shards;
  for (const auto& [name, shard] : map->as_object()) {
    if (!is_tensor_name(name))
      return Error{Code::kCorrupt,
                   fmt::format("{}: weight_map: expected tensor names of printable ASCII characters, found {}",
                               index_path, shown(name))};
    const bool plain = shard.is_string() && is_tensor_name(shard.as_string()) && shard.as_string()[0] != '.' &&
                       shard.as_string().find('/') == std::string::npos;
    if (!plain)
      return Error{Code::kCorrupt, fmt::format("{}: tensor {}: expected a file name in this directory, found {}",
                                               index_path, name, shown(shard))};
    shards.emplace(shard.as_string(), 0);
  }
  for (auto& [shard, number] : shards) {
    number = static_cast<int>(files.shards.size());
    files.shards.emplace_back(shard);
    if (!present(directory + "/" + files.shards.back())) files.missing.emplace_back(shard);
  }
  files.weight_map.reserve(map->as_object().size());
  for (const auto& [name, shard] : map->as_object()) files.weight_map.emplace(name, shards.at(shard.as_string()));
  const json::Value* metadata = parsed.value().find("metadata");
  if (const json::Value* size = metadata ? metadata->find("total_size") : nullptr) {
    files.total_size = size->to_int64();
    if (!files.total_size)
      return Error{Code::kCorrupt,
                   fmt::format("{}: total_size: expected a number of bytes, found {}", index_path, shown(*size))};
  }
  return files;
}

namespace {

// The shard that holds a tensor: searched only for errors.
const FileMap& home(const std::vector<FileMap>& shards, const Tensor& tensor) {
  for (const FileMap& shard : shards)
    if (tensor.data >= shard.bytes().data() && tensor.data < shard.bytes().data() + shard.bytes().size()) return shard;
  return shards.back();  // without bytes, at the end of its file
}

// Checks one inventory tensor against what the files hold; marks what was used.
class Checker {
 public:
  // list: the file that lists the tensors (the index, or the only shard), for errors.
  Checker(const std::unordered_map<std::string, Tensor>& tensors, const std::vector<FileMap>& shards,
          const std::string& list)
      : tensors_(tensors), shards_(shards), list_(list) {}

  Status check(const ExpectedTensor& expected) {
    const Tensor* tensor = HADAL_TRY(need(expected.name, expected.shape));
    const auto& shape = expected.shape;
    switch (expected.storage) {
      case Storage::kF32:
        return is(expected.name, *tensor, {Dtype::kF32}, shape);
      case Storage::kI64:
        return is(expected.name, *tensor, {Dtype::kI64}, shape);
      case Storage::kBf16: {
        HADAL_TRY(is(expected.name, *tensor, {Dtype::kBf16, Dtype::kF32}, shape));
        return no_scale(expected);
      }
      case Storage::kLinear:
      case Storage::kExpert:
        return check_linear(expected, *tensor);
    }
    return {};
  }

  int64_t n_used() const { return n_used_; }

 private:
  Result<const Tensor*> need(const std::string& name, const std::vector<int64_t>& shape) {
    const auto it = tensors_.find(name);
    if (it == tensors_.end())
      return Error{Code::kCorrupt, fmt::format("{}: tensor {} is missing: expected one of shape {}, found nothing",
                                               list_, name, shape_text(shape))};
    ++n_used_;
    return &it->second;
  }

  Status is(const std::string& name, const Tensor& tensor, std::initializer_list<Dtype> dtypes,
            const std::vector<int64_t>& shape) const {
    const bool dtype_fits = std::find(dtypes.begin(), dtypes.end(), tensor.dtype) != dtypes.end();
    if (dtype_fits && tensor.shape == shape) return {};
    std::string expected;
    for (const Dtype dtype : dtypes) expected += fmt::format("{}{}", expected.empty() ? "" : " or ", dtype_name(dtype));
    return wrong_tensor(home(shards_, tensor), name, expected + " " + shape_text(shape), describe(tensor));
  }

  Status no_scale(const ExpectedTensor& expected) const {
    if (!expected.name.ends_with(".weight")) return {};
    const std::string scale = scale_name(expected.name);
    const auto found = tensors_.find(scale);
    if (found == tensors_.end()) return {};
    return wrong_tensor(home(shards_, found->second), scale, "no scale for an unquantised weight",
                        describe(found->second));
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
        const std::vector<int64_t> blocks = {(rows + 127) / 128, (cols + 127) / 128};
        const Tensor* scales = HADAL_TRY(need(scale, blocks));
        return is(scale, *scales, {Dtype::kF8e8m0, Dtype::kF32}, blocks);
      }
      case Dtype::kI8:
        if (expected.storage == Storage::kExpert) {
          if (cols % 32 != 0)
            return Error{Code::kUnsupported,
                         fmt::format("{}: tensor {}: expected FP4 rows of a multiple of 32, found {}",
                                     home(shards_, tensor).path(), expected.name, cols)};
          HADAL_TRY(is(expected.name, tensor, {Dtype::kI8}, {rows, cols / 2}));
          const std::vector<int64_t> groups = {rows, cols / 32};
          const Tensor* scales = HADAL_TRY(need(scale, groups));
          return is(scale, *scales, {Dtype::kF8e8m0}, groups);
        }
        [[fallthrough]];
      default:
        break;
    }
    return wrong_tensor(
        home(shards_, tensor), expected.name,
        expected.storage == Storage::kExpert ? "I8 (packed FP4), F8_E4M3, BF16 or F32" : "F8_E4M3, BF16 or F32",
        describe(tensor));
  }

  const std::unordered_map<std::string, Tensor>& tensors_;
  const std::vector<FileMap>& shards_;
  const std::string& list_;
  int64_t n_used_ = 0;
};

// The first tensor of the index that its shard does not hold.
Error listed_but_absent(const Files& files, const std::vector<FileMap>& shards) {
  std::map<std::string_view, int> absent;
  for (const auto& [name, shard] : files.weight_map) absent.emplace(name, shard);
  for (const FileMap& shard : shards)
    if (const auto header = parse_header(shard.bytes(), shard.bytes().size(), shard.path()); header.ok())
      for (const HeaderEntry& entry : header.value().tensors) absent.erase(entry.name);
  if (absent.empty()) return {Code::kCorrupt, "the shards changed while they were opened"};
  const auto& [name, shard] = *absent.begin();
  return wrong_tensor(shards[static_cast<size_t>(shard)], std::string(name), "it here, as the index says", "nothing");
}

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
  ModelConfig config = HADAL_TRY(read_config(directory));
  return open(directory, std::move(config), HADAL_TRY(list_files(directory)));
}

Result<Checkpoint> Checkpoint::open(const std::string& directory, ModelConfig model_config, const Files& files) {
  if (!files.missing.empty())
    return Error{Code::kNotFound, fmt::format("{}: the download is not complete: {}", directory, files.incomplete())};
  Checkpoint checkpoint;
  checkpoint.directory_ = directory;
  checkpoint.config_ = std::move(model_config);
  ModelConfig& config = checkpoint.config_;

  const bool has_index = !files.weight_map.empty();
  const std::string list = directory + "/" + (has_index ? kIndexFile : kSingleFile);
  checkpoint.shards_.reserve(files.shards.size());
  checkpoint.tensors_.reserve(files.weight_map.size());
  int64_t total_bytes = 0;
  size_t n_listed = 0;
  for (size_t s = 0; s < files.shards.size(); ++s) {
    checkpoint.shards_.push_back(HADAL_TRY(FileMap::open(directory + "/" + files.shards[s])));
    const FileMap& shard = checkpoint.shards_.back();
    Header header = HADAL_TRY(parse_header(shard.bytes(), shard.bytes().size(), shard.path()));
    for (HeaderEntry& entry : header.tensors) {
      if (has_index) {
        const auto mapped = files.weight_map.find(entry.name);
        if (mapped == files.weight_map.end())
          return wrong_tensor(shard, entry.name, "only tensors of the index", "it here");
        if (mapped->second != static_cast<int>(s))
          return wrong_tensor(shard, entry.name, "it in " + files.shards[static_cast<size_t>(mapped->second)],
                              "it here");
        ++n_listed;
      }
      total_bytes += static_cast<int64_t>(entry.end - entry.begin);
      auto release_name = canonical_name(entry.name);
      if (!release_name) continue;
      const auto [place, is_new] = checkpoint.tensors_.try_emplace(std::move(*release_name));
      if (!is_new)
        return Error{Code::kCorrupt,
                     fmt::format("{}: tensor {} appears twice (as {}, and in {})", shard.path(), place->first,
                                 entry.name, home(checkpoint.shards_, place->second).path())};
      place->second = Tensor{entry.dtype, std::move(entry.shape), shard.bytes().data() + entry.begin};
    }
  }
  if (n_listed != files.weight_map.size()) return listed_but_absent(files, checkpoint.shards_);
  if (files.total_size && *files.total_size != total_bytes)
    return Error{Code::kCorrupt, fmt::format("{}: total_size: expected {} bytes of tensors, found {} in the shards",
                                             list, *files.total_size, total_bytes)};

  // Tensors decide the kind of draft and, one by one, the formats of weights; what config.json says of these is only
  // used where there are no tensors.
  int n_blocks = 0;  // one more than the highest s of mtp.s.*: a gap is then a missing tensor
  for (const auto& [name, tensor] : checkpoint.tensors_) {
    int block = 0;
    if (name.starts_with("mtp.") &&
        std::from_chars(name.data() + 4, name.data() + name.size(), block).ec == std::errc() && block < kMaxDraftBlocks)
      n_blocks = std::max(n_blocks, block + 1);
  }
  if (checkpoint.tensors_.contains("mtp.0.e_proj.weight")) {
    checkpoint.draft_ = Draft::kMtp;
  } else if (checkpoint.tensors_.contains("mtp.0.main_proj.weight")) {
    checkpoint.draft_ = Draft::kDspark;
    if (config.dspark_markov_rank == 0)
      return Error{Code::kCorrupt, directory +
                                       "/config.json: dspark_markov_rank: expected it, since the checkpoint "
                                       "has DSpark stages (mtp.0.main_proj), found nothing"};
  }
  if (checkpoint.draft_ != Draft::kNone) checkpoint.n_draft_blocks_ = n_blocks;
  config.n_mtp_layers = checkpoint.draft_ == Draft::kMtp ? checkpoint.n_draft_blocks_ : 0;

  const auto expected = expected_tensors(config, checkpoint.draft_, checkpoint.n_draft_blocks_);
  Checker checker(checkpoint.tensors_, checkpoint.shards_, list);
  for (const ExpectedTensor& tensor : expected) {
    HADAL_TRY(checker.check(tensor));
    if (tensor.storage != Storage::kI64) continue;
    const Tensor& table = checkpoint.tensors_.at(tensor.name);
    HADAL_TRY(check_hash_table(tensor.name, table, config.n_routed_experts, home(checkpoint.shards_, table)));
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
    const std::string& shard = home(checkpoint.shards_, checkpoint.tensors_.at(unknown)).path();
    if (checkpoint.draft_ == Draft::kNone && unknown.starts_with("mtp."))
      return Error{Code::kCorrupt,
                   fmt::format("{}: tensor {}: expected mtp.0.e_proj.weight (MTP block) or mtp.0.main_proj.weight "
                               "(DSpark stages) beside it, found neither",
                               shard, unknown)};
    return Error{Code::kUnsupported,
                 fmt::format("{}: tensor {}: expected only tensors of DeepSeek V4 as config.json describes it, "
                             "found one more",
                             shard, unknown)};
  }
  HADAL_TRY(check_draft_ratios(config, checkpoint.draft_, checkpoint.n_draft_blocks_, directory + "/config.json"));
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
    case Dtype::kF32:
      weight.format = WeightFormat::kF32;
      return weight;
    case Dtype::kBf16:
      weight.format = WeightFormat::kBf16;
      return weight;
    case Dtype::kI8:
      weight.format = WeightFormat::kFp4Block;
      weight.cols *= 2;
      break;
    default:
      weight.format = WeightFormat::kFp8Block;
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
