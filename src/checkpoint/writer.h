// Writes a checkpoint directory: tensors in the order they are added, in shards of safetensors,
// with an index if there is more than one. What synth, quantise and a trainer's export share.
//
//   auto writer = HADAL_TRY(CheckpointWriter::create({.directory = out}));
//   writer.add({"embed.weight", Dtype::kBf16, {vocab, dim}}, [&](int64_t first, int64_t n,
//   std::byte* rows) { ... }); HADAL_TRY(writer.write_tensors());
//   HADAL_TRY(writer.write_text("tokenizer.json", text));
//   HADAL_TRY(writer.finish(config));     // config.json: a directory without it is not a
//   checkpoint
//
// Memory: one piece of rows (kPieceBytes), whatever the size of the model. Every file has a
// temporary name until it is whole (base/output_file.h); a writer destroyed before finish() removes
// the files it wrote. A directory that already holds part of a checkpoint is refused, and so is a
// disk with too little room. Errors name the file.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "checkpoint/inventory.h"

namespace hadal::checkpoint {

struct WriterOptions {
  std::string directory;                                      // created if need be
  int64_t shard_bytes = int64_t{4} << 30;                     // a larger tensor gets a shard of its own
  bool sparse = false;                                        // holes instead of values: producers are not called
  std::function<void(int64_t done, int64_t total)> progress;  // bytes of tensors
};

class CheckpointWriter {
 public:
  static constexpr int64_t kPieceBytes = int64_t{16} << 20;

  // Rows [first, first + n) of a tensor, row-major, into `rows`. Rows run over the first dimension
  // of a matrix; anything else is one row. Called with ascending pieces, tensor after tensor in the
  // order of add().
  using Producer = std::function<Status(int64_t first, int64_t n, std::byte* rows)>;

  static Result<CheckpointWriter> create(WriterOptions options);
  CheckpointWriter(CheckpointWriter&&) noexcept = default;
  ~CheckpointWriter();

  // `row_multiple`: pieces begin at multiples of it (the height of a quantisation block).
  void add(StoredTensor tensor, Producer producer, int64_t row_multiple = 1);
  int64_t total_bytes() const { return total_bytes_; }  // of the tensors added
  int64_t n_tensors() const { return static_cast<int64_t>(entries_.size()); }

  Result<int64_t> write_tensors();  // once, after the last add(); number of shards
  Status write_text(const std::string& name,
                    std::string_view text);               // a further file, e.g. tokenizer.json
  Status finish(const json::Value& config);               // config.json, last
  Status finish_with_text(std::string_view config_text);  // the same, byte for byte

 private:
  struct Entry {
    StoredTensor tensor;
    Producer producer;
    int64_t row_multiple;
  };
  CheckpointWriter() = default;
  Status write_shard(const std::string& name, size_t begin, size_t end);
  std::string path(const std::string& name) const { return options_.directory + "/" + name; }

  WriterOptions options_;
  std::vector<Entry> entries_;
  std::vector<std::string> written_;  // paths, to be removed unless finish() is reached
  std::vector<std::byte> buffer_;
  int64_t total_bytes_ = 0, done_bytes_ = 0;
};

}  // namespace hadal::checkpoint
