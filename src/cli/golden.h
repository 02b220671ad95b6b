// Golden files (format hadal-golden-1): a safetensors file of expected tensors of one checkpoint and prompt.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/json.h"
#include "base/result.h"
#include "base/types.h"
#include "tensor/tensor.h"

namespace hadal::cli {

class Golden {
 public:
  static Result<Golden> open(const std::string& path);

  bool has(const std::string& name) const { return tensors_.contains(name); }
  std::vector<std::string> names() const;
  const std::vector<int64_t>& shape(const std::string& name) const { return tensors_.at(name).shape; }
  std::vector<float> floats(const std::string& name) const;      // F32, BF16
  std::vector<int64_t> integers(const std::string& name) const;  // I64, I32
  std::vector<TokenId> tokens() const;
  // kCorrupt unless tensor `name` is there with this shape and kind. To be called before reading
  // it.
  Status expect(const std::string& name, bool is_integer, const std::vector<int64_t>& shape) const;
  // A number of a JSON object in the metadata, such as stat("faithful.f32_vs_f64", "median"); 0 if
  // absent.
  double stat(const std::string& key, const std::string& field) const;

 private:
  struct Entry {
    std::string dtype;
    std::vector<int64_t> shape;
    const std::byte* data = nullptr;
  };
  std::string path_;
  FileMap file_;
  std::map<std::string, Entry> tensors_;
  std::map<std::string, std::string> metadata_;
};

}  // namespace hadal::cli
