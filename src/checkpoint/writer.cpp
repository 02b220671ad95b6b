#include "checkpoint/writer.h"

#include <fmt/format.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "base/file.h"
#include "base/output_file.h"
#include "checkpoint/safetensors.h"

namespace hadal::checkpoint {
namespace {

constexpr json::Style kPretty{.ascii = false, .item = ",", .key = ": ", .indent = 1};

int64_t rows_of(const StoredTensor& tensor) { return tensor.shape.size() == 2 ? tensor.shape[0] : 1; }

// Any file of a checkpoint: mixing two would open as neither.
bool belongs_to_a_checkpoint(const std::string& name) {
  return name.ends_with(".safetensors") || name == "config.json" || name == "model.safetensors.index.json" ||
         name == "tokenizer.json" || name == "generation_config.json";
}

}  // namespace

Result<CheckpointWriter> CheckpointWriter::create(WriterOptions options) {
  std::error_code error;
  std::filesystem::create_directories(options.directory, error);
  if (!error && !is_directory(options.directory)) error = std::make_error_code(std::errc::not_a_directory);
  std::vector<std::string> names;
  if (!error)
    for (std::filesystem::directory_iterator it(options.directory, error), end; !error && it != end;
         it.increment(error))
      names.push_back(it->path().filename().string());
  if (error) return Error{Code::kIo, fmt::format("{}: cannot create: {}", options.directory, error.message())};
  std::sort(names.begin(), names.end());
  for (const std::string& name : names)
    if (belongs_to_a_checkpoint(name))
      return Error{Code::kInvalid,
                   fmt::format("{}: already holds {}; expected a new directory", options.directory, name)};
  CheckpointWriter writer;
  writer.options_ = std::move(options);
  return writer;
}

CheckpointWriter::~CheckpointWriter() {
  for (const std::string& file : written_) ::unlink(file.c_str());
}

void CheckpointWriter::add(StoredTensor tensor, Producer producer, int64_t row_multiple) {
  total_bytes_ += tensor.size_bytes();
  entries_.push_back({std::move(tensor), std::move(producer), row_multiple});
}

Status CheckpointWriter::write_shard(const std::string& name, size_t begin, size_t end) {
  json::Object header;
  header.emplace_back("__metadata__", json::Object{{"format", "pt"}});
  int64_t offset = 0;
  for (size_t i = begin; i < end; ++i) {
    const StoredTensor& tensor = entries_[i].tensor;
    json::Array shape;
    for (const int64_t extent : tensor.shape) shape.emplace_back(extent);
    const int64_t size = tensor.size_bytes();
    header.emplace_back(tensor.name, json::Object{{"dtype", dtype_name(tensor.dtype)},
                                                  {"shape", std::move(shape)},
                                                  {"data_offsets", json::Array{offset, offset + size}}});
    offset += size;
  }
  std::string text = json::dump(json::Value(std::move(header)), json::kCompact);
  text.append((8 - text.size() % 8) % 8, ' ');
  const uint64_t length = text.size();

  auto file = HADAL_TRY(OutputFile::create(path(name)));
  HADAL_TRY(file.write(&length, 8));
  HADAL_TRY(file.write(text.data(), text.size()));
  if (options_.sparse) HADAL_TRY(file.extend(8 + static_cast<int64_t>(length) + offset));
  for (size_t i = begin; i < end && !options_.sparse; ++i) {
    const Entry& entry = entries_[i];
    const int64_t rows = rows_of(entry.tensor), row_bytes = entry.tensor.size_bytes() / std::max<int64_t>(1, rows);
    const int64_t blocks = kPieceBytes / std::max<int64_t>(1, row_bytes * entry.row_multiple);
    const int64_t per_piece = std::max<int64_t>(1, blocks) * entry.row_multiple;
    for (int64_t first = 0; first < rows; first += per_piece) {
      const int64_t n = std::min(per_piece, rows - first);
      buffer_.resize(static_cast<size_t>(n * row_bytes));
      HADAL_TRY(entry.producer(first, n, buffer_.data()));
      HADAL_TRY(file.write(buffer_.data(), buffer_.size()));
      done_bytes_ += n * row_bytes;
      if (options_.progress) options_.progress(done_bytes_, total_bytes_);
    }
  }
  HADAL_TRY(file.finish());
  written_.push_back(path(name));
  return {};
}

Result<int64_t> CheckpointWriter::write_tensors() {
  struct statvfs disk;
  if (!options_.sparse && ::statvfs(options_.directory.c_str(), &disk) == 0) {
    uint64_t available = 0;
    const bool countless = __builtin_mul_overflow(uint64_t{disk.f_bavail}, uint64_t{disk.f_frsize}, &available);
    if (!countless && available < static_cast<uint64_t>(total_bytes_))
      return Error{Code::kIo, fmt::format("{}: expected room for {} bytes of tensors, found {} on its disk",
                                          options_.directory, total_bytes_, available)};
  }
  std::vector<size_t> ends;
  int64_t filled = 0;
  for (size_t i = 0; i < entries_.size(); ++i) {
    const int64_t size = entries_[i].tensor.size_bytes();
    if (filled > 0 && filled + size > options_.shard_bytes) {
      ends.push_back(i);
      filled = 0;
    }
    filled += size;
  }
  ends.push_back(entries_.size());

  json::Object weight_map;
  for (size_t s = 0, begin = 0; s < ends.size(); begin = ends[s++]) {
    const std::string name =
        ends.size() == 1 ? "model.safetensors" : fmt::format("model-{:05}-of-{:05}.safetensors", s + 1, ends.size());
    HADAL_TRY(write_shard(name, begin, ends[s]));
    for (size_t i = begin; i < ends[s]; ++i) weight_map.emplace_back(entries_[i].tensor.name, name);
  }
  const int64_t n_shards = static_cast<int64_t>(ends.size());
  if (n_shards == 1) return n_shards;
  const json::Value index =
      json::Object{{"metadata", json::Object{{"total_size", total_bytes_}}}, {"weight_map", std::move(weight_map)}};
  HADAL_TRY(write_text("model.safetensors.index.json", json::dump(index, kPretty) + "\n"));
  return n_shards;
}

Status CheckpointWriter::write_text(const std::string& name, std::string_view text) {
  const std::string file = path(name);
  if (file_exists(file)) return Error{Code::kInvalid, file + ": expected a new file, found one"};
  if (const size_t slash = name.rfind('/'); slash != std::string::npos) {
    std::error_code error;
    std::filesystem::create_directories(path(name.substr(0, slash)), error);
    if (error) return Error{Code::kIo, fmt::format("{}: cannot create its directory: {}", file, error.message())};
  }
  HADAL_TRY(write_file(file, text));
  written_.push_back(file);
  return {};
}

Status CheckpointWriter::finish(const json::Value& config) {
  return finish_with_text(json::dump(config, kPretty) + "\n");
}

Status CheckpointWriter::finish_with_text(std::string_view config_text) {
  HADAL_TRY(write_text("config.json", config_text));
  written_.clear();
  return {};
}

}  // namespace hadal::checkpoint
