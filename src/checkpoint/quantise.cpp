#include "checkpoint/quantise.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <memory>
#include <vector>

#include "base/file.h"
#include "base/json.h"
#include "checkpoint/codec.h"
#include "checkpoint/writer.h"

namespace hadal::checkpoint {
namespace {

constexpr int kExactSpread = 14;  // FP4 to FP8 is exact up to scales 2^14 apart: 6 x 2^6 <= 448, 0.5 x 2^-8 = 2^-9

// A place that holds no number: -1 if there is none.
struct BadValue {
  int64_t row = -1, column = 0;
  float value = 0;
};

// What one tile or row contributed; added up in order, so that sums do not depend on threads.
struct Part {
  BlockError error;
  double max_error = 0;  // relative to its block
  int64_t n_tiles = 0, n_inexact = 0;
  BadValue bad;

  void take(const BlockError& block) {
    error.squared_error += block.squared_error;
    error.squared += block.squared;
    error.n_saturated += block.n_saturated;
    if (block.amax > 0) max_error = std::max(max_error, block.max_error / block.amax);
  }
};

// The nonzero FP4 groups of a tile: whether their scales lie within 2^14 of each other.
struct Spread {
  int least = 255, most = 0;
  void add(const uint8_t* packed, int64_t n_bytes, uint8_t scale) {
    uint8_t any = 0;
    for (int64_t i = 0; i < n_bytes; ++i) any = static_cast<uint8_t>(any | (packed[i] & 0x77));
    if (!any) return;
    least = std::min<int>(least, scale);
    most = std::max<int>(most, scale);
  }
  bool exact() const { return most - least <= kExactSpread; }
};

bool is_power_of_two(float scale) {  // one that E8M0 has, and is not tiny
  const uint32_t bits = bits_of(scale);
  return (bits & 0x807FFFFFu) == 0 && bits >= (1u << 23) && bits < (255u << 23);
}

const uint8_t* bytes(const std::byte* p) { return reinterpret_cast<const uint8_t*>(p); }
uint8_t* bytes(std::byte* p) { return reinterpret_cast<uint8_t*>(p); }

class Quantiser {
 public:
  Quantiser(const Checkpoint& source, ThreadPool& pool, QuantiseReport& report)
      : source_(source), pool_(pool), report_(report) {}

  // Adds the stored tensors of one inventory tensor to the writer.
  void add(const ExpectedTensor& expected, const ReleaseKind& kind, CheckpointWriter& writer) {
    const std::vector<StoredTensor> stored = stored_as(expected, kind);
    const Tensor& tensor = source_.tensor(expected.name);
    const Tensor* scale = stored.size() == 2 ? source_.find(scale_name(expected.name)) : nullptr;
    GroupReport& group = report_.groups[static_cast<size_t>(expected.group)];
    ++group.n_tensors;
    group.bytes_before += tensor.size_bytes() + (scale ? scale->size_bytes() : 0);
    for (const StoredTensor& part : stored) group.bytes_after += part.size_bytes();

    if (stored.size() == 1) {
      const bool same = tensor.dtype == stored[0].dtype;
      if (!same) convert(group, expected);
      writer.add(stored[0], [this, &expected, &tensor, &group, same](int64_t first, int64_t n, std::byte* out) {
        return same ? copy(expected.name, tensor, first, n, out) : round_rows(expected, tensor, group, first, n, out);
      });
      return;
    }
    if (tensor.dtype == stored[0].dtype && scale && scale->dtype == stored[1].dtype) {
      writer.add(
          stored[0],
          [this, &expected, &tensor, &group, fp4 = tensor.dtype == Dtype::kI8](int64_t first, int64_t n,
                                                                               std::byte* out) -> Status {
            HADAL_TRY(copy(expected.name, tensor, first, n, out));
            if (fp4) count_tiles(expected, group, first, n, out);
            return {};
          },
          kFp8Block);
      writer.add(stored[1], [this, name = stored[1].name, scale](int64_t first, int64_t n, std::byte* out) {
        return copy(name, *scale, first, n, out);
      });
      return;
    }
    convert(group, expected);
    // The weight's producer finds the scales; the scale's producer comes next and hands them out.
    auto scales = std::make_shared<std::vector<uint8_t>>();
    const bool to_fp4 = stored[0].dtype == Dtype::kI8;
    const size_t n_scales = static_cast<size_t>(stored[1].size_bytes());
    writer.add(
        stored[0],
        [this, &expected, &group, scales, n_scales, to_fp4](int64_t first, int64_t n, std::byte* out) {
          scales->resize(n_scales);
          return quantise_rows(expected, group, to_fp4, first, n, out, scales->data());
        },
        kFp8Block);
    writer.add(stored[1], [scales, cols = stored[1].shape[1]](int64_t first, int64_t n, std::byte* out) {
      std::memcpy(out, scales->data() + first * cols, static_cast<size_t>(n * cols));
      if ((first + n) * cols == static_cast<int64_t>(scales->size())) *scales = {};
      return Status();
    });
  }

 private:
  static void convert(GroupReport& group, const ExpectedTensor& expected) {
    ++group.n_converted;
    group.n_values += expected.n_elements();
  }

  const FileMap& home(const std::byte* data) const {
    for (const FileMap& shard : source_.shards())
      if (data >= shard.bytes().data() && data < shard.bytes().data() + shard.bytes().size()) return shard;
    HADAL_CHECK(false);
    return source_.shards().front();
  }

  // Reads [data, data + size) in one large step, and drops the pages when `use` is done with them.
  template <class Use>
  auto with_pages(const std::byte* data, int64_t size, const Use& use) const {
    const FileMap& shard = home(data);
    const uint64_t begin = static_cast<uint64_t>(data - shard.bytes().data());
    shard.populate(begin, static_cast<uint64_t>(size));
    auto result = use();
    shard.release(begin, static_cast<uint64_t>(size));
    return result;
  }

  Error not_a_number(const std::string& name, const Tensor& tensor, const BadValue& bad, const char* expected) const {
    const std::string place =
        tensor.shape.size() == 2 ? fmt::format("[{}, {}]", bad.row, bad.column) : fmt::format("[{}]", bad.column);
    return {Code::kInvalid, fmt::format("{}: tensor {}: expected {}, found {} at {}", home(tensor.data).path(), name,
                                        expected, bad.value, place)};
  }

  static bool is_matrix(const Tensor& tensor) { return tensor.shape.size() == 2; }
  static int64_t columns(const Tensor& tensor) { return is_matrix(tensor) ? tensor.shape[1] : tensor.n_elements(); }

  // The first value of a row that is no number; codes of E8M0 and E4M3 included.
  static BadValue find_bad(const Tensor& tensor, int64_t row, const std::byte* data) {
    const int64_t n = columns(tensor);
    const auto bad = [&](int64_t i, float value) { return BadValue{row, i, value}; };
    for (int64_t i = 0; i < n; ++i) switch (tensor.dtype) {
        case Dtype::kBf16: {
          bf16 value;
          std::memcpy(&value, data + 2 * i, 2);
          if ((value.bits & 0x7F80) == 0x7F80) return bad(i, to_f32(value));
          break;
        }
        case Dtype::kF32: {
          float value;
          std::memcpy(&value, data + 4 * i, 4);
          if ((bits_of(value) & 0x7F800000u) == 0x7F800000u) return bad(i, value);
          break;
        }
        case Dtype::kF8e4m3:
          if ((bytes(data)[i] & 0x7F) == 0x7F) return bad(i, NAN);
          break;
        case Dtype::kF8e8m0:
          if (bytes(data)[i] == 255) return bad(i, NAN);
          break;
        default:
          return {};
      }
    return {};
  }

  Status copy(const std::string& name, const Tensor& tensor, int64_t first, int64_t n, std::byte* out) const {
    const int64_t row_bytes = columns(tensor) * dtype_size(tensor.dtype);
    const std::byte* from = tensor.data + first * row_bytes;
    if (n * row_bytes == 0) return {};
    return with_pages(from, n * row_bytes, [&]() -> Status {
      std::memcpy(out, from, static_cast<size_t>(n * row_bytes));
      std::vector<BadValue> bad(static_cast<size_t>(n));
      pool_.run(
          n, [&](int64_t r, int) { bad[static_cast<size_t>(r)] = find_bad(tensor, first + r, out + r * row_bytes); });
      for (const BadValue& value : bad)
        if (value.row >= 0) return not_a_number(name, tensor, value, "finite values");
      return {};
    });
  }

  // F32 to BF16.
  Status round_rows(const ExpectedTensor& expected, const Tensor& tensor, GroupReport& group, int64_t first, int64_t n,
                    std::byte* out) const {
    const int64_t cols = columns(tensor);
    const std::byte* from = tensor.data + first * cols * 4;
    return with_pages(from, n * cols * 4, [&]() -> Status {
      std::vector<Part> parts(static_cast<size_t>(n));
      pool_.run(n, [&](int64_t r, int) {
        Part& part = parts[static_cast<size_t>(r)];
        BlockError error;
        for (int64_t i = 0; i < cols; ++i) {
          float x;
          std::memcpy(&x, from + 4 * (r * cols + i), 4);
          const bf16 rounded = to_bf16(x);
          std::memcpy(out + 2 * (r * cols + i), &rounded, 2);
          if ((rounded.bits & 0x7F80) == 0x7F80 || (bits_of(x) & 0x7F800000u) == 0x7F800000u) {
            part.bad = {first + r, i, x};
            return;
          }
          const double e = std::fabs(static_cast<double>(x) - static_cast<double>(to_f32(rounded)));
          error.squared_error += e * e;
          error.squared += static_cast<double>(x) * x;
          error.max_error = std::max(error.max_error, e);
          error.amax = std::max(error.amax, std::fabs(static_cast<double>(x)));
        }
        part.take(error);
      });
      return settle(expected.name, tensor, parts, group, "finite values within BF16");
    });
  }

  Status settle(const std::string& name, const Tensor& tensor, const std::vector<Part>& parts, GroupReport& group,
                const char* expected) const {
    for (const Part& part : parts) {
      if (part.bad.row >= 0) return not_a_number(name, tensor, part.bad, expected);
      group.squared_error += part.error.squared_error;
      group.squared += part.error.squared;
      group.max_error = std::max(group.max_error, part.max_error);
      group.n_saturated += part.error.n_saturated;
      group.n_tiles += part.n_tiles;
      group.n_inexact_tiles += part.n_inexact;
    }
    return {};
  }

  // FP4 that is copied: only whether it could become FP8.
  void count_tiles(const ExpectedTensor& expected, GroupReport& group, int64_t first, int64_t n,
                   const std::byte* out) const {
    const int64_t cols = expected.shape[1], groups = cols / kFp4Group;
    const std::byte* scales = source_.tensor(scale_name(expected.name)).data;
    for (int64_t r = 0; r < n; r += kFp8Block)
      for (int64_t c = 0; c < cols; c += kFp8Block) {
        Spread spread;
        for (int64_t i = r; i < std::min(n, r + kFp8Block); ++i)
          for (int64_t k = c; k < std::min(cols, c + kFp8Block); k += kFp4Group)
            spread.add(bytes(out) + (i * cols + k) / 2, kFp4Group / 2,
                       static_cast<uint8_t>(scales[(first + i) * groups + k / kFp4Group]));
        ++group.n_tiles;
        group.n_inexact_tiles += !spread.exact();
      }
  }

  // Rows [first, first + n) of a linear, first a multiple of 128; scales: all of the tensor.
  Status quantise_rows(const ExpectedTensor& expected, GroupReport& group, bool to_fp4, int64_t first, int64_t n,
                       std::byte* out, uint8_t* scales) const {
    const std::string base = expected.name.substr(0, expected.name.size() - std::strlen(".weight"));
    const Weight weight = source_.weight(base);
    const int64_t tile_cols = (weight.cols + kFp8Block - 1) / kFp8Block;
    const int64_t tile_rows = (n + kFp8Block - 1) / kFp8Block;
    return with_pages(weight.data + first * weight.row_bytes(), n * weight.row_bytes(), [&]() -> Status {
      std::vector<Part> parts(static_cast<size_t>(tile_rows * tile_cols));
      pool_.run(tile_rows * tile_cols, [&](int64_t t, int) {
        const int64_t row = t / tile_cols * kFp8Block, column = t % tile_cols * kFp8Block;
        const Tile tile{first + row, std::min(kFp8Block, n - row), column, std::min(kFp8Block, weight.cols - column)};
        std::byte* to = out + (to_fp4 ? (row * weight.cols + column) / 2 : row * weight.cols + column);
        quantise_tile(weight, tile, to_fp4, bytes(to), scales, parts[static_cast<size_t>(t)]);
      });
      return settle(expected.name, source_.tensor(expected.name), parts, group, "finite values");
    });
  }

  struct Tile {
    int64_t row, rows, column, columns;
  };

  static void quantise_tile(const Weight& weight, const Tile& tile, bool to_fp4, uint8_t* codes, uint8_t* scales,
                            Part& part) {
    float values[kFp8Block * kFp8Block];
    for (int64_t r = 0; r < tile.rows; ++r) {
      float* row = values + r * kFp8Block;
      decode_row(weight, tile.row + r, tile.column, tile.columns, row);
      for (int64_t i = 0; i < tile.columns; ++i)
        if ((bits_of(row[i]) & 0x7F800000u) == 0x7F800000u) {
          part.bad = {tile.row + r, tile.column + i, row[i]};
          return;
        }
    }
    Spread spread;
    if (weight.format == WeightFormat::kFp4Block) {
      const int64_t groups = weight.cols / kFp4Group;
      for (int64_t r = tile.row; r < tile.row + tile.rows; ++r)
        for (int64_t c = tile.column; c < tile.column + tile.columns; c += kFp4Group)
          spread.add(bytes(weight.data) + (r * weight.cols + c) / 2, kFp4Group / 2,
                     static_cast<uint8_t>(weight.scale[r * groups + c / kFp4Group]));
    }
    if (to_fp4) {
      const int64_t groups = weight.cols / kFp4Group;
      for (int64_t r = 0; r < tile.rows; ++r)
        for (int64_t c = 0; c < tile.columns; c += kFp4Group) {
          BlockError error;
          uint8_t* packed = codes + (r * weight.cols + c) / 2;
          uint8_t& scale = scales[(tile.row + r) * groups + (tile.column + c) / kFp4Group];
          scale = encode_fp4(values + r * kFp8Block + c, kFp4Group, packed, &error).bits;
          part.take(error);
          spread.add(packed, kFp4Group / 2, scale);
        }
    } else {
      uint8_t& scale =
          scales[tile.row / kFp8Block * ((weight.cols + kFp8Block - 1) / kFp8Block) + tile.column / kFp8Block];
      BlockError error;
      scale = encode_fp8(values, tile.rows, tile.columns, kFp8Block, codes, weight.cols, &error).bits;
      part.take(error);
      if (weight.format == WeightFormat::kFp8Block) keep_codes(weight, tile, codes, scale);
    }
    if (to_fp4 || weight.format == WeightFormat::kFp4Block) {
      part.n_tiles = 1;
      part.n_inexact = !spread.exact();
    }
  }

  // An FP8 block under a power of two is in the format already, whichever of its scales it uses.
  static void keep_codes(const Weight& weight, const Tile& tile, uint8_t* codes, uint8_t& scale) {
    const int64_t block = tile.row / kFp8Block * ((weight.cols + kFp8Block - 1) / kFp8Block) + tile.column / kFp8Block;
    float value;
    std::memcpy(&value, weight.scale + 4 * block, 4);
    if (!weight.scales_are_f32 || !is_power_of_two(value)) return;
    scale = static_cast<uint8_t>(bits_of(value) >> 23);
    for (int64_t r = 0; r < tile.rows; ++r)
      std::memcpy(codes + r * weight.cols, weight.data + (tile.row + r) * weight.cols + tile.column,
                  static_cast<size_t>(tile.columns));
  }

  const Checkpoint& source_;
  ThreadPool& pool_;
  QuantiseReport& report_;
};

// config.json of the result: the source's, with what it says about formats made true.
Result<std::string> config_text(const std::string& directory, ExpertFormat experts) {
  const std::string text = HADAL_TRY(read_file(directory + "/config.json", 1 << 20));
  json::Value config = HADAL_TRY(json::parse(text));
  const json::Value before = config;
  config.set("expert_dtype", experts == ExpertFormat::kFp4 ? "fp4" : "fp8");
  if (config.find("torch_dtype") && !config.find("torch_dtype")->is_null()) config.set("torch_dtype", "bfloat16");
  const json::Value* old = config.find("quantization_config");
  json::Value quantization = old && old->is_object() ? *old : json::Value(json::Object{});
  quantization.set("activation_scheme", "dynamic");
  quantization.set("fmt", "e4m3");
  quantization.set("quant_method", "fp8");
  quantization.set("scale_fmt", "ue8m0");
  quantization.set("weight_block_size", json::Array{128, 128});
  config.set("quantization_config", std::move(quantization));
  if (config == before) return text;
  return json::dump(config, {.ascii = false, .item = ",", .key = ": ", .indent = 1}) + "\n";
}

// What else makes a checkpoint: tokenizer, generation defaults, the prompt encoding's description,
// the licence.
Status copy_companions(const std::string& directory, CheckpointWriter& writer) {
  std::vector<std::string> names = {"LICENSE", "generation_config.json", "tokenizer.json", "tokenizer_config.json"};
  std::error_code error;
  for (std::filesystem::directory_iterator it(directory + "/encoding", error), end; !error && it != end;
       it.increment(error))
    names.push_back("encoding/" + it->path().filename().string());
  std::sort(names.begin(), names.end());
  for (const std::string& name : names) {
    if (!file_exists(directory + "/" + name)) continue;
    const std::string text = HADAL_TRY(read_file(directory + "/" + name, uint64_t{1} << 28));
    HADAL_TRY(writer.write_text(name, text));
  }
  return {};
}

}  // namespace

double GroupReport::relative_rms() const { return squared > 0 ? std::sqrt(squared_error / squared) : 0; }

void GroupReport::add(const GroupReport& other) {
  n_tensors += other.n_tensors;
  n_converted += other.n_converted;
  bytes_before += other.bytes_before;
  bytes_after += other.bytes_after;
  squared_error += other.squared_error;
  squared += other.squared;
  max_error = std::max(max_error, other.max_error);
  n_values += other.n_values;
  n_saturated += other.n_saturated;
  n_tiles += other.n_tiles;
  n_inexact_tiles += other.n_inexact_tiles;
}

GroupReport QuantiseReport::total() const {
  GroupReport sum;
  for (const GroupReport& group : groups) sum.add(group);
  return sum;
}

Result<QuantiseReport> quantise(const Checkpoint& source, const QuantiseOptions& options, ThreadPool& pool) {
  const ModelConfig& config = source.config();
  ReleaseKind kind;
  kind.experts = options.experts == ExpertFormat::kFp4 ? Dtype::kI8 : Dtype::kF8e4m3;
  if (options.experts == ExpertFormat::kFp4 && (config.dim % kFp4Group != 0 || config.moe_inter_dim % kFp4Group != 0))
    return Error{Code::kUnsupported,
                 fmt::format("{}/config.json: FP4 experts: expected hidden_size and moe_intermediate_size to be "
                             "multiples of 32, found {} and {}",
                             source.directory(), config.dim, config.moe_inter_dim)};
  const std::string new_config = HADAL_TRY(config_text(source.directory(), options.experts));
  auto writer = HADAL_TRY(CheckpointWriter::create(
      {.directory = options.directory, .shard_bytes = options.shard_bytes, .progress = options.progress}));
  QuantiseReport report;
  Quantiser quantiser(source, pool, report);
  const auto expected = expected_tensors(config, source.draft(), source.n_draft_blocks());
  for (const ExpectedTensor& tensor : expected) quantiser.add(tensor, kind, writer);
  report.n_shards = HADAL_TRY(writer.write_tensors());
  HADAL_TRY(source.unchanged());
  HADAL_TRY(copy_companions(source.directory(), writer));
  HADAL_TRY(writer.finish_with_text(new_config));
  return report;
}

}  // namespace hadal::checkpoint
