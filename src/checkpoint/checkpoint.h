// A checkpoint as DeepSeek publishes it: a directory with config.json and model.safetensors or shards with an
// index. Files are mapped read-only; nothing is copied or converted. open() checks everything: headers against
// file sizes, every tensor's name, dtype and shape against the inventory, that none is missing or twice.
// After a successful open, weight() and tensor() of an inventory name cannot fail.
//
// Accepts the releases' names and the old aliases (self_attn, mlp, ...). Errors are one line: file, tensor,
// expected, found. Const methods: any thread. Views live as long as the Checkpoint.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/file.h"
#include "base/result.h"
#include "checkpoint/config.h"
#include "checkpoint/inventory.h"
#include "checkpoint/safetensors.h"
#include "tensor/tensor.h"

namespace hadal::checkpoint {

// The files of a checkpoint directory and which of them are there.
struct Files {
  std::vector<std::string> shards;   // names in the directory, sorted
  std::vector<std::string> missing;  // of these
  std::unordered_map<std::string, int>
      weight_map;                     // tensor name in the file -> its place in shards; empty without index
  std::optional<int64_t> total_size;  // the index's, in bytes of tensors
  std::string incomplete() const;     // "31 of 46 shards, missing ...", or ""
};
Result<Files> list_files(const std::string& directory);

class Checkpoint {
 public:
  static Result<Checkpoint> open(const std::string& directory);
  // The same from what read_config() and list_files() found there.
  static Result<Checkpoint> open(const std::string& directory, ModelConfig config, const Files& files);

  const std::string& directory() const { return directory_; }
  const ModelConfig& config() const { return config_; }
  Draft draft() const { return draft_; }

  const Tensor* find(std::string_view name) const;    // release spelling; nullptr if absent
  const Tensor& tensor(std::string_view name) const;  // must be in the inventory
  Weight weight(std::string_view name) const;         // `name`.weight with its `name`.scale, if it has one

  int n_draft_blocks() const { return n_draft_blocks_; }
  const std::unordered_map<std::string, Tensor>& tensors() const { return tensors_; }
  const std::vector<FileMap>& shards() const { return shards_; }
  Status unchanged() const;  // no shard was replaced or truncated since open

 private:
  std::string directory_;
  ModelConfig config_;
  Draft draft_ = Draft::kNone;
  int n_draft_blocks_ = 0;
  std::vector<FileMap> shards_;
  std::unordered_map<std::string, Tensor> tensors_;  // by release name; views into shards_
};

}  // namespace hadal::checkpoint
