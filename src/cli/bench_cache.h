// hadal bench --cache: the context cache against the formula, the disk and the model.
#pragma once

#include <string>

#include "base/result.h"

namespace hadal::cli {

struct BenchCacheOptions {
  std::string model, directory;  // directory: on the disk to be measured; its content is removed afterwards
  int threads = 0;
  int64_t prompt = 32768, tokens = 4096;
};
Result<int> bench_cache(const BenchCacheOptions& options);

}  // namespace hadal::cli
