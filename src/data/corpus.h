// English text: a file of JSON lines {"source", "text"}, made by tools/corpus.sh and kept outside
// the repository.
//
// One passage in a hundred is held out for measuring (Split::kDev), by a hash of its text.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "data/rng.h"
#include "data/task.h"

namespace hadal::data {

class Corpus {
 public:
  static Result<Corpus> load(const std::string& path);

  // A passage of a source drawn by its share, and of it a stretch of at most `bytes` bytes that
  // begins at a line.
  std::string_view sample(Rng& rng, Split split, size_t bytes) const;
  uint64_t bytes() const { return bytes_; }
  size_t passages() const;

 private:
  struct Source {
    std::string name;
    uint64_t share = 0;
    std::vector<std::string> passages[2];  // train, dev
  };
  std::vector<Source> sources_;
  uint64_t bytes_ = 0;
};

}  // namespace hadal::data
